// SPDX-License-Identifier: Apache-2.0
#include "boxes/far_block/far_block.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"

// An entry of the table. A thread that has changed `start` from FREE or from a block's address to
// HELD owns the entry until it stores another value. The size is written by that thread alone,
// before the address is stored (release).
enum { FREE = 0, HELD = 1 };
static struct {
    _Atomic(uintptr_t) start;
    _Atomic(size_t) size; // bytes asked for
} table[FAR_BLOCK_MOST];

static _Atomic(size_t) used; // entries from here on never held anything

static size_t size_of(size_t i) {
    return atomic_load_explicit(&table[i].size, memory_order_relaxed);
}

static size_t mapped(size_t i) {
    return hak_round_up(size_of(i), HAK_PAGE);
}

static bool hold(size_t i, uintptr_t from) {
    return atomic_compare_exchange_strong(&table[i].start, &from, HELD);
}

static size_t hold_free(void) {
    for (size_t i = 0; i < FAR_BLOCK_MOST; i++) {
        if (atomic_load_explicit(&table[i].start, memory_order_relaxed) == FREE && hold(i, FREE)) {
            size_t seen = atomic_load(&used);
            while (seen <= i && !atomic_compare_exchange_weak(&used, &seen, i + 1)) {
            }
            return i;
        }
    }
    return FAR_BLOCK_MOST;
}

// Returns the entry of the block that starts at `ptr`, FAR_BLOCK_MOST if there is none.
static size_t find(const void *ptr) {
    size_t end = atomic_load_explicit(&used, memory_order_acquire);
    if ((uintptr_t)ptr % HAK_PAGE == 0 && ptr != NULL) {
        for (size_t i = 0; i < end; i++) {
            if (atomic_load_explicit(&table[i].start, memory_order_acquire) == (uintptr_t)ptr) {
                return i;
            }
        }
    }
    return FAR_BLOCK_MOST;
}

// Maps `size` bytes at a multiple of `align`.
static char *map(size_t size, size_t align) {
    size_t more = align > HAK_PAGE ? align : 0;
    void *at;
    if (size + more < size || os_map(NULL, size + more, &at) != OS_OK) {
        return NULL;
    }
    char *start = (char *)hak_round_up((uintptr_t)at, hak_max(align, HAK_PAGE));
    size_t before = (size_t)(start - (char *)at);
    if (before > 0) {
        os_release(at, before);
    }
    if (more > before) {
        os_release(start + size, more - before);
    }
    return start;
}

// Puts a block into an entry that the caller holds; a size of 0 leaves the entry free.
static void *put(size_t i, char *start, size_t size) {
    atomic_store_explicit(&table[i].size, size, memory_order_relaxed);
    atomic_store_explicit(&table[i].start, size == 0 ? FREE : (uintptr_t)start,
                          memory_order_release);
    return start;
}

void *far_block_alloc(size_t size, size_t align) {
    if (size < FAR_BLOCK_LEAST || size > (size_t)PTRDIFF_MAX || align > (size_t)PTRDIFF_MAX) {
        return NULL;
    }
    size_t i = hold_free();
    if (i == FAR_BLOCK_MOST) {
        return NULL;
    }
    char *start = map(hak_round_up(size, HAK_PAGE), align);
    return put(i, start, start == NULL ? 0 : size);
}

bool far_block_free(void *ptr) {
    size_t i = find(ptr);
    if (i == FAR_BLOCK_MOST || !hold(i, (uintptr_t)ptr)) {
        return false;
    }
    os_release(ptr, mapped(i));
    put(i, NULL, 0);
    return true;
}

size_t far_block_usable(const void *ptr) {
    size_t i = find(ptr);
    return i == FAR_BLOCK_MOST ? 0 : size_of(i);
}

struct far_block_stats far_block_get_stats(void) {
    struct far_block_stats stats = {0, 0};
    size_t end = atomic_load_explicit(&used, memory_order_acquire);
    for (size_t i = 0; i < end; i++) {
        if (atomic_load_explicit(&table[i].start, memory_order_acquire) > HELD) {
            stats.blocks++;
            stats.bytes += mapped(i);
        }
    }
    return stats;
}

void *far_block_resize(void *ptr, size_t size) {
    size_t i = find(ptr);
    if (size < FAR_BLOCK_LEAST || size > (size_t)PTRDIFF_MAX || i == FAR_BLOCK_MOST ||
        !hold(i, (uintptr_t)ptr)) {
        return NULL;
    }
    size_t was = mapped(i);
    size_t want = hak_round_up(size, HAK_PAGE);
    if (want <= was) {
        if (want < was) {
            os_release((char *)ptr + want, was - want);
        }
        return put(i, ptr, size);
    }
    // If the addresses behind the block are free, its pages need not move.
    if (os_map((char *)ptr + was, want - was, NULL) == OS_OK) {
        return put(i, ptr, size);
    }
    char *to = map(want, 1);
    enum os_result moved = to == NULL ? OS_NO_MEMORY : os_move(ptr, to, was);
    if (moved != OS_OK) {
        if (moved == OS_LOST) { // the first part is not ours any more
            os_release(to + was, want - was);
        } else if (to != NULL) {
            os_release(to, want);
        }
        put(i, ptr, size_of(i));
        return NULL;
    }
    os_release(ptr, was);
    return put(i, to, size);
}

HAK_LAYOUT(far_block_layout,
           HAK_ROWS(HAK_VARIABLE("far.table", table), HAK_VARIABLE("far.used", used)),
           HAK_ROWS(HAK_NUMBER("far", sizeof table[0]),
                    HAK_FIELD("far.start", __typeof__(table[0]), start),
                    HAK_FIELD("far.size", __typeof__(table[0]), size)));
