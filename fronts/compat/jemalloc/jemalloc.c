// SPDX-License-Identifier: Apache-2.0
// The interface of jemalloc 5.3 beyond malloc's, as its manual page describes it: mallocx() and
// kin. mallctl() is in mallctl.c.
#include "boxes/base/base.h"
#include "boxes/size_class/size_class.h"
#include "fronts/compat/compat.h"
#include "fronts/compat/jemalloc/arenas.h"
#include "fronts/libc/extension.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

// The properties of a block, from the flags of a call. Bits 0 to 5 are the logarithm of the
// alignment, bit 6 asks for zeros, bits 8 to 19 name a thread cache, and the rest an arena. Each
// thread has one cache, whatever number the bits name: they are ignored.
struct wish {
    size_t align;
    bool zero;
    bool refused;          // the arena does not exist
    struct hak_heap *heap; // NULL: malloc's
};

static struct wish wish_of(int flags) {
    unsigned arena = (unsigned)flags >> 20; // 0: any
    struct wish wish = {(size_t)1 << (flags & 63), (flags & 64) != 0, false, NULL};
    if (HAK_UNLIKELY(arena > 1)) {
        wish.heap = arenas_heap(arena - 1);
        wish.refused = wish.heap == NULL;
    }
    return wish;
}

static size_t good_size(size_t size, struct wish wish) {
    if (wish.refused) {
        return 0;
    }
    return wish.heap != NULL ? hak_heap_good_size(size, wish.align)
                             : compat_good_size(size, wish.align);
}

// All of a zeroed block is zero: where it grows, its real size divides what is kept from what is
// zeroed.
static void *allocate(size_t size, struct wish wish) {
    if (wish.refused) {
        return NULL;
    }
    if (wish.zero) {
        size = good_size(size, wish);
        if (size == 0) {
            return NULL;
        }
    }
    return wish.heap != NULL ? hak_heap_alloc(wish.heap, size, wish.align, wish.zero)
                             : compat_alloc(size, wish.align, wish.zero);
}

COMPAT_EXPORT void *mallocx(size_t size, int flags) {
    if (HAK_LIKELY((flags & ~0xfff00) == 0 && size < SIZE_MAX / 2)) {
        int saved = errno;
        void *block = compat_alloc(size, 1, false);
        errno = saved;
        return block;
    }
    int saved = errno;
    void *block = allocate(size, wish_of(flags));
    errno = saved;
    return block;
}

COMPAT_EXPORT size_t nallocx(size_t size, int flags) {
    return good_size(size, wish_of(flags));
}

COMPAT_EXPORT size_t sallocx(const void *ptr, int flags) {
    (void)flags;
    return malloc_usable_size((void *)ptr);
}

COMPAT_EXPORT void dallocx(void *ptr, int flags) {
    (void)flags;
    free(ptr);
}

COMPAT_EXPORT void sdallocx(void *ptr, size_t size, int flags) {
    (void)size, (void)flags;
    free(ptr);
}

static bool is_aligned(const void *ptr, size_t align) {
    return (uintptr_t)ptr % align == 0;
}

static void zero_rest(void *block, size_t from, size_t to) {
    if (to > from) {
        memset((char *)block + from, 0, to - from);
    }
}

// Blocks from here on may grow at their place, and from the second size on realloc() moves their
// pages instead of what is in them. Below, a block's size is that of its bin.
enum { LARGE = SIZE_CLASS_SLAB / 2, MOVED = 1 << 20 };

// Returns the block at its place, or moved with its pages, if it satisfies the request then.
// Otherwise returns NULL, and sets *usable to its old size.
static void *resize(void *ptr, size_t size, struct wish wish, size_t want, size_t *usable) {
    if (!is_aligned(ptr, wish.align)) {
        return NULL;
    }
    if (*usable == want) {
        return ptr;
    }
    if (*usable <= LARGE || size <= LARGE || !compat_is_served() || wish.heap != NULL) {
        return NULL;
    }
    size_t now = hak_resize_here(ptr, size);
    if (now == want) {
        return ptr;
    }
    *usable = now;
    if (wish.align > HAK_MIN_ALIGN || now < MOVED || size < MOVED) {
        return NULL;
    }
    return realloc(ptr, size);
}

COMPAT_EXPORT void *rallocx(void *ptr, size_t size, int flags) {
    int saved = errno;
    struct wish wish = wish_of(flags);
    size_t want = good_size(size, wish);
    if (want == 0) {
        return NULL;
    }
    size_t had = malloc_usable_size(ptr);
    size_t usable = had;
    void *block = resize(ptr, size, wish, want, &usable);
    if (block == NULL) {
        wish.zero = false;
        block = allocate(size, wish);
        if (block != NULL) {
            memcpy(block, ptr, hak_min(hak_min(had, usable), want));
            free(ptr);
        }
    }
    errno = saved;
    if (block != NULL && (flags & 64) != 0) {
        zero_rest(block, had, malloc_usable_size(block));
    }
    return block;
}

COMPAT_EXPORT size_t xallocx(void *ptr, size_t size, size_t extra, int flags) {
    size_t usable = malloc_usable_size(ptr);
    struct wish wish = wish_of(flags);
    size_t most = size + hak_min(extra, SIZE_MAX - size);
    if (usable <= LARGE || most <= LARGE || !is_aligned(ptr, wish.align) || !compat_is_served()) {
        return usable;
    }
    size_t now = usable;
    if (usable < compat_good_size(size, wish.align) ||
        usable > compat_good_size(hak_min(most, (size_t)PTRDIFF_MAX / 2), wish.align)) {
        now = hak_resize_here(ptr, most);
        if (now < size) {
            now = hak_resize_here(ptr, size);
        }
    }
    if (wish.zero) {
        zero_rest(ptr, usable, now);
    }
    return now;
}
