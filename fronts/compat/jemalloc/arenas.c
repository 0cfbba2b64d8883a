// SPDX-License-Identifier: Apache-2.0
#include "fronts/compat/jemalloc/arenas.h"

#include "boxes/base/atomic.h"
#include "fronts/compat/compat.h"
#include "fronts/libc/extension.h"

static _Atomic(struct hak_heap *) heaps[ARENAS_MOST]; // by number; [0] is unused
static _Atomic(unsigned) count = 1;

struct hak_heap *arenas_heap(size_t number) {
    return number > 0 && number < ARENAS_MOST ? atomic_load(&heaps[number]) : NULL;
}

unsigned arenas_count(void) {
    return atomic_load(&count);
}

unsigned arenas_create(void) {
    // Another malloc's free() would not know the blocks.
    struct hak_heap *heap = compat_is_served() ? hak_heap_new() : NULL;
    if (heap == NULL) {
        return 0;
    }
    for (unsigned number = 1; number < ARENAS_MOST; number++) {
        struct hak_heap *none = NULL;
        if (atomic_compare_exchange_strong(&heaps[number], &none, heap)) {
            unsigned seen = atomic_load(&count);
            while (seen <= number && !atomic_compare_exchange_weak(&count, &seen, number + 1)) {
            }
            return number;
        }
    }
    hak_heap_destroy(heap);
    return 0;
}

struct hak_heap *arenas_remove(size_t number) {
    return number > 0 && number < ARENAS_MOST ? atomic_exchange(&heaps[number], NULL) : NULL;
}

unsigned arenas_of(const void *ptr) {
    struct hak_heap *heap = hak_heap_of(ptr);
    for (unsigned number = 1; heap != NULL && number < arenas_count(); number++) {
        if (atomic_load(&heaps[number]) == heap) {
            return number;
        }
    }
    return 0;
}
