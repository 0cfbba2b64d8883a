// SPDX-License-Identifier: Apache-2.0
// The C allocation interface: malloc, free and related functions, as ISO C, POSIX and glibc
// describe them.
#include "fronts/libc/calls.h"
#include "fronts/libc/glibc_malloc.h"
#include "fronts/libc/interposed.h"
#include "fronts/libc/libc.h"

#include "boxes/thread_heap/thread_heap.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

EXPORT HAK_HOT void *malloc(size_t size) {
    return get(size);
}
OWN(malloc) void *own_malloc(size_t size);

EXPORT HAK_HOT void free(void *ptr) {
    put(ptr);
}
OWN(free) void own_free(void *ptr);

// Frees a block by the process's free(), for functions that are derived from free().
static void put_derived(void *ptr) {
    if (HAK_UNLIKELY(interposed_calls() & INTERPOSED_FREE)) {
        process_free(ptr);
    } else {
        put(ptr);
    }
}

void cfree(void *ptr); // glibc's until 2.26

EXPORT void cfree(void *ptr) {
    put_derived(ptr);
}

// If another library's free() is in front, the size is not checked: that library's malloc() may
// have allocated the block.
static void check_size(const char *call, const void *ptr, size_t align, size_t size) {
    if (HAK_LIKELY((interposed_calls() & INTERPOSED_FREE) == 0)) {
        slow_check_size(call, ptr, align, size);
    }
}

// Only the hardened flavour checks the size. The others do not free by it either, because a block
// that realloc() has shrunk at its place has a larger bin than its size says.
EXPORT void free_sized(void *ptr, size_t size) {
    check_size("free_sized", ptr, 0, size);
    put_derived(ptr);
}

EXPORT void free_aligned_sized(void *ptr, size_t align, size_t size) {
    check_size("free_aligned_sized", ptr, align, size);
    put_derived(ptr);
}

// Clears the first and the last `bytes` bytes of a block, which may overlap.
HAK_INLINE void clear_ends(char *block, char *end, size_t bytes) {
    memset(block, 0, bytes);
    memset(end - bytes, 0, bytes);
}

// Clears a block. For a small block that takes a few stores instead of a call. Their number depends
// on the size in few steps, because the processor would mispredict a loop over random sizes. They
// may run on to the block's end.
HAK_INLINE void *clear(char *block, size_t size) {
    if (HAK_HEADER || size > 128) {
        return memset(block, 0, size);
    }
    char *end = block + hak_round_up(size, HAK_MIN_ALIGN);
    if (size > 64) {
        clear_ends(block, end, 64);
    } else if (size > 32) {
        clear_ends(block, end, 32);
    } else {
        clear_ends(block, end, 16);
    }
    return block;
}

EXPORT void *calloc(size_t count, size_t size) {
    size_t total;
    if (!product(count, size, &total)) {
        return NULL;
    }
    void *block = hit_alloc(total);
    if (HAK_UNLIKELY(block == NULL)) {
        return slow_zero_alloc(total);
    }
    return HAK_HARDENED ? block : clear(block, total); // In that flavour a hit is zero.
}

static void *get_aligned(size_t align, size_t size) {
    if (align <= HAK_MIN_ALIGN) {
        return get(size);
    }
    void *block = hit_aligned_alloc(align, size);
    return HAK_LIKELY(block != NULL) ? block : slow_aligned_alloc(align, size);
}

// As in glibc before 2.38: an alignment that is no power of two is rounded up to one.
static void *get_rounded(size_t align, size_t size) {
    if (HAK_UNLIKELY(!hak_is_pow2(align))) {
        if (align > SIZE_MAX / 2 + 1) {
            errno = EINVAL;
            return NULL;
        }
        align = align == 0 ? 1 : (size_t)1 << (64 - __builtin_clzll(align));
    }
    return get_aligned(align, size);
}

EXPORT void *memalign(size_t align, size_t size) {
    return get_rounded(align, size);
}

// Supports all alignments that memalign() does; C17 leaves that to the implementation.
EXPORT void *aligned_alloc(size_t align, size_t size) {
    return get_rounded(align, size);
}
OWN(aligned_alloc) void *own_aligned_alloc(size_t align, size_t size);

static HAK_NOINLINE int slow_posix_memalign(void **out, size_t align, size_t size) {
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        void *early = slow_aligned_alloc(align, size); // There is no errno yet.
        *out = early == NULL ? *out : early;
        return early == NULL ? ENOMEM : 0;
    }
    int saved = errno;
    void *block = get_aligned(align, size);
    if (block == NULL) {
        return ENOMEM; // errno is ENOMEM, too, as in glibc: some callers look at it.
    }
    errno = saved;
    *out = block;
    return 0;
}

EXPORT int posix_memalign(void **out, size_t align, size_t size) {
    if (!hak_is_pow2(align) || align % sizeof(void *) != 0) {
        return EINVAL;
    }
    void *block = align <= HAK_MIN_ALIGN ? hit_alloc(size) : hit_aligned_alloc(align, size);
    if (HAK_UNLIKELY(block == NULL)) {
        return slow_posix_memalign(out, align, size);
    }
    *out = block;
    return 0;
}

EXPORT void *valloc(size_t size) {
    return get_aligned(HAK_PAGE, size);
}

EXPORT void *pvalloc(size_t size) {
    if (size > SIZE_MAX - HAK_PAGE) {
        errno = ENOMEM;
        return NULL;
    }
    return get_aligned(HAK_PAGE, hak_round_up(hak_max(size, 1), HAK_PAGE));
}

#ifdef __GLIBC__
EXPORT LIBC_NAME(malloc) void *__libc_malloc(size_t size);
EXPORT LIBC_NAME(free) void __libc_free(void *ptr);
EXPORT LIBC_NAME(calloc) void *__libc_calloc(size_t count, size_t size);
EXPORT LIBC_NAME(memalign) void *__libc_memalign(size_t align, size_t size);
EXPORT LIBC_NAME(posix_memalign)
int __posix_memalign(void **out, size_t align, size_t size);
EXPORT LIBC_NAME(valloc) void *__libc_valloc(size_t size);
EXPORT LIBC_NAME(pvalloc) void *__libc_pvalloc(size_t size);
#endif
