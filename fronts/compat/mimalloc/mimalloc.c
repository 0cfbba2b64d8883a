// SPDX-License-Identifier: Apache-2.0
// The mi_ names of mimalloc 2.0 for malloc and kin. A call of a heap takes the heap that its block
// is to be of; the same without "heap_" uses the thread's default.
#include "boxes/base/base.h"
#include "fronts/compat/mimalloc/heaps.h"
#include "fronts/libc/extension.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

typedef struct mi_heap mi_heap_t;

// ---- Of a heap.

COMPAT_EXPORT void *mi_heap_malloc(mi_heap_t *heap, size_t size) {
    return heaps_alloc(heap, size, false);
}

COMPAT_EXPORT void *mi_heap_zalloc(mi_heap_t *heap, size_t size) {
    return heaps_alloc(heap, size, true);
}

COMPAT_EXPORT void *mi_heap_malloc_small(mi_heap_t *heap, size_t size) {
    return heaps_alloc(heap, size, false);
}

COMPAT_EXPORT void *mi_heap_calloc(mi_heap_t *heap, size_t count, size_t size) {
    size_t total;
    return heaps_product(count, size, &total) ? heaps_alloc(heap, total, true) : NULL;
}

COMPAT_EXPORT void *mi_heap_mallocn(mi_heap_t *heap, size_t count, size_t size) {
    size_t total;
    return heaps_product(count, size, &total) ? heaps_alloc(heap, total, false) : NULL;
}

COMPAT_EXPORT void *mi_heap_realloc(mi_heap_t *heap, void *ptr, size_t size) {
    return heaps_realloc(heap, ptr, size, false);
}

COMPAT_EXPORT void *mi_heap_reallocn(mi_heap_t *heap, void *ptr, size_t count, size_t size) {
    size_t total;
    return heaps_product(count, size, &total) ? heaps_realloc(heap, ptr, total, false) : NULL;
}

COMPAT_EXPORT void *mi_heap_reallocf(mi_heap_t *heap, void *ptr, size_t size) {
    void *block = heaps_realloc(heap, ptr, size, false);
    if (block == NULL) {
        free(ptr);
    }
    return block;
}

COMPAT_EXPORT void *mi_heap_rezalloc(mi_heap_t *heap, void *ptr, size_t size) {
    return heaps_realloc(heap, ptr, size, true);
}

COMPAT_EXPORT void *mi_heap_recalloc(mi_heap_t *heap, void *ptr, size_t count, size_t size) {
    size_t total;
    return heaps_product(count, size, &total) ? heaps_realloc(heap, ptr, total, true) : NULL;
}

COMPAT_EXPORT void *mi_heap_malloc_aligned(mi_heap_t *heap, size_t size, size_t align) {
    return heaps_alloc_at(heap, size, align, 0, false);
}

COMPAT_EXPORT void *mi_heap_zalloc_aligned(mi_heap_t *heap, size_t size, size_t align) {
    return heaps_alloc_at(heap, size, align, 0, true);
}

COMPAT_EXPORT void *mi_heap_calloc_aligned(mi_heap_t *heap, size_t count, size_t size,
                                           size_t align) {
    size_t total;
    return heaps_product(count, size, &total) ? heaps_alloc_at(heap, total, align, 0, true) : NULL;
}

COMPAT_EXPORT void *mi_heap_realloc_aligned(mi_heap_t *heap, void *ptr, size_t size, size_t align) {
    return heaps_realloc_at(heap, ptr, size, align, 0, false);
}

COMPAT_EXPORT void *mi_heap_rezalloc_aligned(mi_heap_t *heap, void *ptr, size_t size,
                                             size_t align) {
    return heaps_realloc_at(heap, ptr, size, align, 0, true);
}

COMPAT_EXPORT void *mi_heap_recalloc_aligned(mi_heap_t *heap, void *ptr, size_t count, size_t size,
                                             size_t align) {
    size_t total;
    return heaps_product(count, size, &total) ? heaps_realloc_at(heap, ptr, total, align, 0, true)
                                              : NULL;
}

COMPAT_EXPORT void *mi_heap_malloc_aligned_at(mi_heap_t *heap, size_t size, size_t align,
                                              size_t offset) {
    return heaps_alloc_at(heap, size, align, offset, false);
}

COMPAT_EXPORT void *mi_heap_zalloc_aligned_at(mi_heap_t *heap, size_t size, size_t align,
                                              size_t offset) {
    return heaps_alloc_at(heap, size, align, offset, true);
}

COMPAT_EXPORT void *mi_heap_calloc_aligned_at(mi_heap_t *heap, size_t count, size_t size,
                                              size_t align, size_t offset) {
    size_t total;
    return heaps_product(count, size, &total) ? heaps_alloc_at(heap, total, align, offset, true)
                                              : NULL;
}

COMPAT_EXPORT void *mi_heap_realloc_aligned_at(mi_heap_t *heap, void *ptr, size_t size,
                                               size_t align, size_t offset) {
    return heaps_realloc_at(heap, ptr, size, align, offset, false);
}

COMPAT_EXPORT void *mi_heap_rezalloc_aligned_at(mi_heap_t *heap, void *ptr, size_t size,
                                                size_t align, size_t offset) {
    return heaps_realloc_at(heap, ptr, size, align, offset, true);
}

COMPAT_EXPORT void *mi_heap_recalloc_aligned_at(mi_heap_t *heap, void *ptr, size_t count,
                                                size_t size, size_t align, size_t offset) {
    size_t total;
    return heaps_product(count, size, &total)
               ? heaps_realloc_at(heap, ptr, total, align, offset, true)
               : NULL;
}

COMPAT_EXPORT char *mi_heap_strdup(mi_heap_t *heap, const char *text) {
    if (text == NULL) {
        return NULL;
    }
    size_t size = strlen(text) + 1;
    char *copy = heaps_alloc(heap, size, false);
    return copy == NULL ? NULL : memcpy(copy, text, size);
}

COMPAT_EXPORT char *mi_heap_strndup(mi_heap_t *heap, const char *text, size_t most) {
    if (text == NULL) {
        return NULL;
    }
    size_t length = strnlen(text, most);
    char *copy = heaps_alloc(heap, length + 1, false);
    if (copy != NULL) {
        memcpy(copy, text, length);
        copy[length] = 0;
    }
    return copy;
}

COMPAT_EXPORT char *mi_heap_realpath(mi_heap_t *heap, const char *name, char *resolved) {
    if (resolved != NULL) {
        return realpath(name, resolved);
    }
    char path[PATH_MAX];
    return realpath(name, path) == NULL ? NULL : mi_heap_strdup(heap, path);
}

// ---- Of the thread's default heap.

COMPAT_EXPORT void *mi_malloc(size_t size) {
    return mi_heap_malloc(heaps_default, size);
}

COMPAT_EXPORT void *mi_zalloc(size_t size) {
    return mi_heap_zalloc(heaps_default, size);
}

COMPAT_EXPORT void *mi_malloc_small(size_t size) {
    return mi_heap_malloc_small(heaps_default, size);
}

COMPAT_EXPORT void *mi_calloc(size_t count, size_t size) {
    return mi_heap_calloc(heaps_default, count, size);
}

COMPAT_EXPORT void *mi_mallocn(size_t count, size_t size) {
    return mi_heap_mallocn(heaps_default, count, size);
}

COMPAT_EXPORT void *mi_realloc(void *ptr, size_t size) {
    return mi_heap_realloc(heaps_default, ptr, size);
}

COMPAT_EXPORT void *mi_reallocn(void *ptr, size_t count, size_t size) {
    return mi_heap_reallocn(heaps_default, ptr, count, size);
}

COMPAT_EXPORT void *mi_reallocf(void *ptr, size_t size) {
    return mi_heap_reallocf(heaps_default, ptr, size);
}

COMPAT_EXPORT void *mi_rezalloc(void *ptr, size_t size) {
    return mi_heap_rezalloc(heaps_default, ptr, size);
}

COMPAT_EXPORT void *mi_recalloc(void *ptr, size_t count, size_t size) {
    return mi_heap_recalloc(heaps_default, ptr, count, size);
}

COMPAT_EXPORT void *mi_malloc_aligned(size_t size, size_t align) {
    return mi_heap_malloc_aligned(heaps_default, size, align);
}

COMPAT_EXPORT void *mi_zalloc_aligned(size_t size, size_t align) {
    return mi_heap_zalloc_aligned(heaps_default, size, align);
}

COMPAT_EXPORT void *mi_calloc_aligned(size_t count, size_t size, size_t align) {
    return mi_heap_calloc_aligned(heaps_default, count, size, align);
}

COMPAT_EXPORT void *mi_realloc_aligned(void *ptr, size_t size, size_t align) {
    return mi_heap_realloc_aligned(heaps_default, ptr, size, align);
}

COMPAT_EXPORT void *mi_rezalloc_aligned(void *ptr, size_t size, size_t align) {
    return mi_heap_rezalloc_aligned(heaps_default, ptr, size, align);
}

COMPAT_EXPORT void *mi_recalloc_aligned(void *ptr, size_t count, size_t size, size_t align) {
    return mi_heap_recalloc_aligned(heaps_default, ptr, count, size, align);
}

COMPAT_EXPORT void *mi_malloc_aligned_at(size_t size, size_t align, size_t offset) {
    return mi_heap_malloc_aligned_at(heaps_default, size, align, offset);
}

COMPAT_EXPORT void *mi_zalloc_aligned_at(size_t size, size_t align, size_t offset) {
    return mi_heap_zalloc_aligned_at(heaps_default, size, align, offset);
}

COMPAT_EXPORT void *mi_calloc_aligned_at(size_t count, size_t size, size_t align, size_t offset) {
    return mi_heap_calloc_aligned_at(heaps_default, count, size, align, offset);
}

COMPAT_EXPORT void *mi_realloc_aligned_at(void *ptr, size_t size, size_t align, size_t offset) {
    return mi_heap_realloc_aligned_at(heaps_default, ptr, size, align, offset);
}

COMPAT_EXPORT void *mi_rezalloc_aligned_at(void *ptr, size_t size, size_t align, size_t offset) {
    return mi_heap_rezalloc_aligned_at(heaps_default, ptr, size, align, offset);
}

COMPAT_EXPORT void *mi_recalloc_aligned_at(void *ptr, size_t count, size_t size, size_t align,
                                           size_t offset) {
    return mi_heap_recalloc_aligned_at(heaps_default, ptr, count, size, align, offset);
}

COMPAT_EXPORT char *mi_strdup(const char *text) {
    return mi_heap_strdup(heaps_default, text);
}

COMPAT_EXPORT char *mi_strndup(const char *text, size_t most) {
    return mi_heap_strndup(heaps_default, text, most);
}

COMPAT_EXPORT char *mi_realpath(const char *name, char *resolved) {
    return mi_heap_realpath(heaps_default, name, resolved);
}

COMPAT_EXPORT void *mi_zalloc_small(size_t size) {
    return heaps_alloc(heaps_default, size, true);
}

// ---- Of any heap.

COMPAT_EXPORT void mi_free(void *ptr) {
    free(ptr);
}

COMPAT_EXPORT void mi_free_size(void *ptr, size_t size) {
    (void)size;
    free(ptr);
}

COMPAT_EXPORT void mi_free_size_aligned(void *ptr, size_t size, size_t align) {
    (void)size, (void)align;
    free(ptr);
}

COMPAT_EXPORT void mi_free_aligned(void *ptr, size_t align) {
    (void)align;
    free(ptr);
}

COMPAT_EXPORT size_t mi_usable_size(const void *ptr) {
    return malloc_usable_size((void *)ptr);
}

COMPAT_EXPORT size_t mi_good_size(size_t size) {
    return hak_max(compat_good_size(size, 1), size);
}

// Returns the block at its place, if it can have that size there.
COMPAT_EXPORT void *mi_expand(void *ptr, size_t size) {
    if (ptr == NULL) {
        return NULL;
    }
    size_t usable = malloc_usable_size(ptr);
    if (size > usable && compat_is_served()) {
        usable = hak_resize_here(ptr, size);
    }
    return size <= usable ? ptr : NULL;
}

COMPAT_EXPORT bool mi_is_in_heap_region(const void *ptr) {
    return hak_in_heap(ptr);
}

// ---- The names of others for the same.

COMPAT_EXPORT void mi_cfree(void *ptr) {
    if (hak_usable(ptr) != 0) {
        free(ptr);
    }
}

COMPAT_EXPORT void *mi__expand(void *ptr, size_t size) {
    void *block = mi_expand(ptr, size);
    if (block == NULL) {
        errno = ENOMEM;
    }
    return block;
}

COMPAT_EXPORT size_t mi_malloc_size(const void *ptr) {
    return mi_usable_size(ptr);
}

COMPAT_EXPORT size_t mi_malloc_usable_size(const void *ptr) {
    return mi_usable_size(ptr);
}

COMPAT_EXPORT size_t mi_malloc_good_size(size_t size) {
    return mi_good_size(size);
}

COMPAT_EXPORT int mi_posix_memalign(void **ptr, size_t align, size_t size) {
    if (ptr == NULL || !hak_is_pow2(align) || align % sizeof(void *) != 0) {
        return EINVAL;
    }
    int saved = errno;
    void *block = mi_malloc_aligned(size, align);
    if (block == NULL) {
        return ENOMEM;
    }
    errno = saved;
    *ptr = block;
    return 0;
}

COMPAT_EXPORT void *mi_memalign(size_t align, size_t size) {
    return mi_malloc_aligned(size, align);
}

COMPAT_EXPORT void *mi_aligned_alloc(size_t align, size_t size) {
    return mi_malloc_aligned(size, align);
}

COMPAT_EXPORT void *mi_valloc(size_t size) {
    return mi_malloc_aligned(size, HAK_PAGE);
}

COMPAT_EXPORT void *mi_pvalloc(size_t size) {
    if (size > SIZE_MAX - HAK_PAGE) {
        return heaps_fail(ENOMEM);
    }
    return mi_malloc_aligned(hak_round_up(size, HAK_PAGE), HAK_PAGE);
}

COMPAT_EXPORT void *mi_reallocarray(void *ptr, size_t count, size_t size) {
    void *block = mi_reallocn(ptr, count, size);
    if (block == NULL) {
        errno = ENOMEM;
    }
    return block;
}

// NetBSD's: `ptr` is the address of the pointer. 0, or what errno would be.
COMPAT_EXPORT int mi_reallocarr(void *ptr, size_t count, size_t size) {
    void **at = ptr;
    int saved = errno;
    if (at == NULL) {
        return EINVAL;
    }
    void *block = mi_reallocarray(*at, count, size);
    if (block == NULL) {
        return errno;
    }
    errno = saved;
    *at = block;
    return 0;
}

COMPAT_EXPORT void *mi_aligned_recalloc(void *ptr, size_t count, size_t size, size_t align) {
    return mi_recalloc_aligned(ptr, count, size, align);
}

COMPAT_EXPORT void *mi_aligned_offset_recalloc(void *ptr, size_t count, size_t size, size_t align,
                                               size_t offset) {
    return mi_recalloc_aligned_at(ptr, count, size, align, offset);
}

COMPAT_EXPORT unsigned short *mi_wcsdup(const unsigned short *text) {
    if (text == NULL) {
        return NULL;
    }
    size_t length = 0;
    while (text[length] != 0) {
        length++;
    }
    size_t size = (length + 1) * sizeof *text;
    unsigned short *copy = mi_malloc(size);
    return copy == NULL ? NULL : memcpy(copy, text, size);
}

COMPAT_EXPORT unsigned char *mi_mbsdup(const unsigned char *text) {
    return (unsigned char *)mi_strdup((const char *)text);
}

// Returns a copy of an environment variable, NULL if there is none.
COMPAT_EXPORT int mi_dupenv_s(char **copy, size_t *size, const char *name) {
    if (copy == NULL || name == NULL) {
        return EINVAL;
    }
    *copy = NULL;
    if (size != NULL) {
        *size = 0;
    }
    const char *value = getenv(name);
    if (value == NULL) {
        return 0;
    }
    *copy = mi_strdup(value);
    if (*copy == NULL) {
        return ENOMEM;
    }
    if (size != NULL) {
        *size = strlen(value);
    }
    return 0;
}

// Windows only.
COMPAT_EXPORT int mi_wdupenv_s(unsigned short **copy, size_t *size, const unsigned short *name) {
    if (copy == NULL || name == NULL) {
        return EINVAL;
    }
    if (size != NULL) {
        *size = 0;
    }
    *copy = NULL;
    return EINVAL;
}

// ---- What the library exports beyond mi_ and glibc's names.

COMPAT_EXPORT size_t malloc_size(const void *ptr) {
    return mi_usable_size(ptr);
}

COMPAT_EXPORT size_t malloc_good_size(size_t size) {
    return mi_good_size(size);
}

COMPAT_EXPORT void vfree(void *ptr) {
    free(ptr);
}

COMPAT_EXPORT void *reallocf(void *ptr, size_t size) {
    return mi_reallocf(ptr, size);
}

COMPAT_EXPORT int reallocarr(void *ptr, size_t count, size_t size) {
    return mi_reallocarr(ptr, count, size);
}

COMPAT_EXPORT void *_aligned_malloc(size_t align, size_t size) {
    return mi_aligned_alloc(align, size);
}
