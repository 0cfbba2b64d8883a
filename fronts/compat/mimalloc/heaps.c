// SPDX-License-Identifier: Apache-2.0
#include "fronts/compat/mimalloc/heaps.h"

#include "boxes/base/atomic.h"
#include "fronts/libc/extension.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct mi_heap mi_heap_t;
typedef int mi_arena_id_t;

static struct mi_heap backing = {NULL, NULL, NULL};
__thread struct mi_heap *heaps_default = &backing;
static __thread struct mi_heap *made; // by this thread
static pthread_key_t end_key;
static pthread_once_t end_once = PTHREAD_ONCE_INIT;

static void (*_Atomic error_function)(int error, void *arg);
static void *_Atomic error_arg;

COMPAT_EXPORT void mi_register_error(void (*function)(int error, void *arg), void *arg) {
    atomic_store(&error_arg, arg);
    atomic_store(&error_function, function);
}

void *heaps_fail(int error) {
    errno = error;
    void (*function)(int, void *) = atomic_load(&error_function);
    if (function != NULL) {
        function(error, atomic_load(&error_arg));
    }
    return NULL;
}

bool heaps_product(size_t count, size_t size, size_t *total) {
    if (HAK_UNLIKELY(__builtin_mul_overflow(count, size, total))) {
        heaps_fail(EOVERFLOW);
        return false;
    }
    return true;
}

// ---- Blocks.

static void *checked(void *block) {
    return HAK_LIKELY(block != NULL) ? block : heaps_fail(ENOMEM);
}

// Returns the usable size that a zeroed block is asked for with: all of it is zero then, which is
// what mi_rezalloc() goes by.
static size_t whole_size(const struct mi_heap *heap, size_t size, size_t align) {
    size_t good =
        heap->heap == NULL ? compat_good_size(size, align) : hak_heap_good_size(size, align);
    return hak_max(good, size); // 0: the call fails by itself
}

void *heaps_alloc(struct mi_heap *heap, size_t size, bool zero) {
    if (zero) {
        size = whole_size(heap, size, 1);
    }
    return checked(heap->heap == NULL ? compat_alloc(size, 1, zero)
                                      : hak_heap_alloc(heap->heap, size, 1, zero));
}

// For blocks in which another byte than the first is aligned, whatever heap they belong to.
static struct hak_heap *shifted(void) {
    static _Atomic(struct hak_heap *) heap;
    struct hak_heap *known = atomic_load(&heap);
    if (known == NULL) {
        struct hak_heap *fresh = hak_heap_new();
        if (atomic_compare_exchange_strong(&heap, &known, fresh)) {
            return fresh;
        }
        hak_heap_destroy(fresh);
    }
    return known;
}

static void *alloc_shifted(struct mi_heap *heap, size_t size, size_t align, size_t offset,
                           bool zero) {
    struct hak_heap *from = heap->heap;
    if (!compat_is_served()) {
        return NULL; // free() would not know it
    }
    if (from == NULL) {
        from = shifted();
    }
    return from == NULL ? NULL : hak_heap_alloc_at(from, size, align, offset, zero);
}

void *heaps_alloc_at(struct mi_heap *heap, size_t size, size_t align, size_t offset, bool zero) {
    if (!hak_is_pow2(align)) {
        return heaps_fail(EINVAL);
    }
    if (offset % align != 0) {
        return checked(alloc_shifted(heap, size, align, offset, zero));
    }
    if (zero) {
        size = whole_size(heap, size, align);
    }
    return checked(heap->heap == NULL ? compat_alloc(size, align, zero)
                                      : hak_heap_alloc(heap->heap, size, align, zero));
}

static void zero_rest(void *block, size_t from) {
    size_t to = malloc_usable_size(block);
    if (to > from) {
        memset((char *)block + from, 0, to - from);
    }
}

static void *moved(void *fresh, void *ptr, size_t size, size_t had) {
    if (fresh != NULL && ptr != NULL) {
        memcpy(fresh, ptr, hak_min(size, had));
        free(ptr);
    }
    return fresh;
}

void *heaps_realloc(struct mi_heap *heap, void *ptr, size_t size, bool zero) {
    if (ptr == NULL) {
        return heaps_alloc(heap, size, zero);
    }
    size_t had = malloc_usable_size(ptr);
    void *block;
    if (heap->heap == NULL && size > 0) {
        block = checked(realloc(ptr, size));
    } else if (size <= had && size > had / 2) {
        return ptr;
    } else {
        block = moved(heaps_alloc(heap, size, false), ptr, size, had);
    }
    if (zero && block != NULL) {
        zero_rest(block, had);
    }
    return block;
}

void *heaps_realloc_at(struct mi_heap *heap, void *ptr, size_t size, size_t align, size_t offset,
                       bool zero) {
    if (!hak_is_pow2(align)) {
        return heaps_fail(EINVAL);
    }
    size_t had = malloc_usable_size(ptr);
    if (ptr != NULL && size <= had && size > had / 2 && ((uintptr_t)ptr + offset) % align == 0) {
        return ptr;
    }
    void *block = heaps_alloc_at(heap, size, align, offset, zero && ptr == NULL);
    moved(block, ptr, size, had);
    if (zero && block != NULL && ptr != NULL) {
        zero_rest(block, had);
    }
    return block;
}

// ---- Heaps.

static void unlink_heap(struct mi_heap *heap) {
    *heap->link = heap->next;
    if (heap->next != NULL) {
        heap->next->link = heap->link;
    }
    if (heaps_default == heap) {
        heaps_default = &backing;
    }
    free(heap);
}

COMPAT_EXPORT void mi_heap_delete(mi_heap_t *heap) {
    if (heap != NULL && heap->heap != NULL) {
        hak_heap_delete(heap->heap);
        unlink_heap(heap);
    }
}

COMPAT_EXPORT void mi_heap_destroy(mi_heap_t *heap) {
    if (heap != NULL && heap->heap != NULL) {
        hak_heap_destroy(heap->heap);
        unlink_heap(heap);
    }
}

void heaps_end_thread(void) {
    while (made != NULL) {
        mi_heap_delete(made);
    }
}

static void end_thread(void *unused) {
    (void)unused;
    heaps_end_thread();
}

static void make_key(void) {
    pthread_key_create(&end_key, end_thread);
}

COMPAT_EXPORT mi_heap_t *mi_heap_new(void) {
    if (!compat_is_served()) {
        return heaps_fail(ENOMEM); // free() would not know its blocks
    }
    struct mi_heap *heap = malloc(sizeof *heap);
    if (heap == NULL) {
        return heaps_fail(ENOMEM);
    }
    heap->heap = hak_heap_new();
    if (heap->heap == NULL) {
        free(heap);
        return heaps_fail(ENOMEM);
    }
    pthread_once(&end_once, make_key);
    pthread_setspecific(end_key, heap);
    heap->next = made;
    heap->link = &made;
    if (made != NULL) {
        made->link = &heap->next;
    }
    made = heap;
    return heap;
}

// There are no arenas to be had.
COMPAT_EXPORT mi_heap_t *mi_heap_new_in_arena(mi_arena_id_t arena) {
    (void)arena;
    return heaps_fail(ENOMEM);
}

COMPAT_EXPORT mi_heap_t *mi_heap_get_default(void) {
    return heaps_default;
}

COMPAT_EXPORT mi_heap_t *mi_heap_get_backing(void) {
    return &backing;
}

COMPAT_EXPORT mi_heap_t *mi_heap_set_default(mi_heap_t *heap) {
    struct mi_heap *before = heaps_default;
    if (heap != NULL) {
        heaps_default = heap;
    }
    return before;
}

COMPAT_EXPORT bool mi_heap_contains_block(mi_heap_t *heap, const void *ptr) {
    return heap != NULL && hak_usable(ptr) != 0 && hak_heap_of(ptr) == heap->heap;
}

COMPAT_EXPORT bool mi_heap_check_owned(mi_heap_t *heap, const void *ptr) {
    return mi_heap_contains_block(heap, ptr);
}

COMPAT_EXPORT bool mi_check_owned(const void *ptr) {
    return mi_heap_contains_block(heaps_default, ptr);
}

struct area {
    void *blocks;
    size_t reserved, committed, used, block_size, full_block_size;
};

typedef bool block_visitor(const mi_heap_t *heap, const struct area *area, void *block,
                           size_t block_size, void *arg);

struct visit {
    const mi_heap_t *heap;
    bool blocks;
    block_visitor *visitor;
    void *arg;
};

// Each block is an area of its own.
static bool visit_block(void *block, size_t usable, void *arg) {
    struct visit *visit = arg;
    struct area area = {block, usable, usable, 1, usable, usable};
    return visit->visitor(visit->heap, &area, NULL, usable, visit->arg) &&
           (!visit->blocks || visit->visitor(visit->heap, &area, block, usable, visit->arg));
}

// The blocks of malloc's heap, which all threads share, cannot be visited: false.
COMPAT_EXPORT bool mi_heap_visit_blocks(const mi_heap_t *heap, bool visit_blocks,
                                        block_visitor *visitor, void *arg) {
    struct visit visit = {heap, visit_blocks, visitor, arg};
    return heap != NULL && heap->heap != NULL && hak_heap_visit(heap->heap, visit_block, &visit);
}
