// SPDX-License-Identifier: Apache-2.0
// totals: counts of slabs and pages, over the whole pool.
#include "boxes/shared_pool/shared_pool_internal.h"

// Build setting: 1: in a dense heap slabs of all blocks are on huge pages; 0: only slabs of blocks
// of up to a page.
#ifndef SHARED_POOL_HUGE_MEDIUM
#    define SHARED_POOL_HUGE_MEDIUM 0
#endif

// On different cache lines, by how often they change. Each miss reads `grown`.
static struct {
    alignas(HAK_CACHE_LINE) _Atomic(size_t) slabs; // in use
    _Atomic(size_t) small;                         // of these, slabs of small blocks
    alignas(HAK_CACHE_LINE) _Atomic(size_t) clean; // pages without memory of slabs in use
    alignas(HAK_CACHE_LINE) _Atomic(size_t) grown; // slabs without pages put to use so far
    alignas(HAK_CACHE_LINE) _Atomic(bool) shared;  // some thread has a home
} totals;

// Once a thread has a home, each thread counts on a line that it shares with few others. A line's
// count is added to the total when the count has reached a bound, so the totals are a little
// behind.
enum count { SLABS, SMALL, CLEAN, GROWN, COUNTS };
enum { COUNT_LINES = SHARED_POOL_HOMES == 0 ? 1 : 64 };
static struct {
    alignas(HAK_CACHE_LINE) _Atomic(size_t) counts[COUNTS];
    _Atomic(bool) grown; // GROWN was added to its total since a thread asked
} lines[COUNT_LINES];

static _Atomic(size_t) *total_of(enum count what) {
    return what == SLABS   ? &totals.slabs
           : what == SMALL ? &totals.small
           : what == CLEAN ? &totals.clean
                           : &totals.grown;
}

// Returns a total, without what the lines have not added yet. Returns 0 if the total is below 0.
static size_t look(enum count what) {
    size_t total = atomic_load_explicit(total_of(what), memory_order_relaxed);
    return total > SIZE_MAX / 2 ? 0 : total;
}

static unsigned own_line(void) {
    return hak_thread_mark() / 2 % COUNT_LINES;
}

static HAK_NOINLINE void count_apart(enum count what, size_t more, size_t most) {
    unsigned line = own_line();
    _Atomic(size_t) *at = &lines[line].counts[what];
    size_t sum = atomic_fetch_add_explicit(at, more, memory_order_relaxed) + more;
    if (sum + most > 2 * most) { // below -most or above most
        sum = atomic_exchange_explicit(at, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(total_of(what), sum, memory_order_relaxed);
        if (what == GROWN) {
            atomic_store_explicit(&lines[line].grown, true, memory_order_relaxed);
        }
    }
}

bool shared_pool_has_homes(void) {
    return SHARED_POOL_HOMES != 0 && atomic_load_explicit(&totals.shared, memory_order_relaxed);
}

HAK_INLINE void add(enum count what, size_t more) {
    enum { SLABS_MOST = 8 };
    if (HAK_UNLIKELY(shared_pool_has_homes())) {
        count_apart(what, more, what == CLEAN ? (size_t)SLABS_MOST * SLAB_PAGES : SLABS_MOST);
        return;
    }
    atomic_fetch_add_explicit(total_of(what), more, memory_order_relaxed);
}

void pool_share_totals(void) {
    if (!shared_pool_has_homes()) {
        atomic_store_explicit(&totals.shared, true, memory_order_relaxed);
    }
}

bool shared_pool_grown(size_t *grown) {
    if (HAK_UNLIKELY(shared_pool_has_homes())) {
        _Atomic(bool) *own = &lines[own_line()].grown;
        if (HAK_LIKELY(!atomic_load_explicit(own, memory_order_relaxed))) {
            return false;
        }
        atomic_store_explicit(own, false, memory_order_relaxed);
    }
    *grown = atomic_load_explicit(&totals.grown, memory_order_relaxed);
    return true;
}

static struct shared_pool_totals in_bytes(size_t slabs, size_t clean) {
    return (struct shared_pool_totals){slabs << ARENA_SLAB_SHIFT, clean << HAK_PAGE_SHIFT};
}

struct shared_pool_totals shared_pool_guess_totals(void) {
    return in_bytes(look(SLABS), look(CLEAN));
}

// Returns the sum of a total and of the lines' counts that have not been added to it yet.
static size_t sum_of(enum count what) {
    size_t sum = atomic_load_explicit(total_of(what), memory_order_relaxed);
    for (unsigned i = 0; i < COUNT_LINES; i++) {
        sum += atomic_load_explicit(&lines[i].counts[what], memory_order_relaxed);
    }
    return sum;
}

struct shared_pool_totals shared_pool_get_totals(void) {
    return in_bytes(sum_of(SLABS), sum_of(CLEAN));
}

bool pool_is_small(unsigned bin) {
    return SHARED_POOL_HUGE_MEDIUM != 0 || size_class_bins[bin].size <= HAK_PAGE;
}

enum { DENSE_LEAST = 128 }; // least number of slabs of a dense heap

// Returns true if there are too few slabs of small blocks for a dense heap.
static bool is_small_heap(size_t small) {
    return small < DENSE_LEAST / 4 * 3;
}

static void count_slabs(unsigned bin, size_t more) {
    add(SLABS, more);
    if (pool_is_small(bin)) {
        add(SMALL, more);
    }
}

void pool_count_fresh(unsigned bin, bool zero) {
    count_slabs(bin, 1);
    if (zero) {
        add(GROWN, 1);
    }
}

void pool_count_gone(unsigned bin) {
    count_slabs(bin, (size_t)-1);
    // The next blocks may be large ones, which are not to be put on huge pages.
    if (is_small_heap(look(SMALL))) {
        page_arena_mark_dense(false);
    }
}

void pool_count_clean(uint16_t gained, uint16_t lost) {
    int change = __builtin_popcount(gained) - __builtin_popcount(lost);
    if (change != 0) {
        add(CLEAN, (size_t)(ptrdiff_t)change);
    }
}

// Returns true if the heap should be on huge pages. A heap much larger than the memory that the
// processor's TLB covers is faster on huge pages. If the heap consists of full slabs of small
// blocks, huge pages cost little memory. Larger blocks leave the ends of their slabs unused, and a
// huge page covers these too. Many mostly idle threads do not make a heap dense.
static bool is_dense(void) {
    size_t slabs = look(SMALL);
    if (is_small_heap(slabs)) {
        return false; // without a call of page_arena_held(), which takes tens of loads
    }
    size_t clean = look(CLEAN);
    size_t held = page_arena_held();
    return held >= DENSE_LEAST && slabs >= held / 4 * 3 && page_arena_sparse() <= held / 16 &&
           clean <= slabs * SLAB_PAGES / 4;
}

void pool_mark_dense(void) {
    page_arena_mark_dense(is_dense());
}
