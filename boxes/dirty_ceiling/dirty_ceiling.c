// SPDX-License-Identifier: Apache-2.0
#include "boxes/dirty_ceiling/dirty_ceiling.h"

#include <stdatomic.h>

// Read and written without read-modify-writes, except for the period. If two threads count at the
// same time, one count may be lost; the figures are guesses.
static struct {
    alignas(HAK_CACHE_LINE) _Atomic(size_t) drawn; // the present draw; see the header
    _Atomic(size_t) most;                          // the largest draw in this period
    _Atomic(size_t) most_before;                   // the largest draw in the period before
    _Atomic(size_t) given;                         // slabs given back and not yet claimed again
    _Atomic(size_t) may;    // slabs that frees may still give back: twice those freed
    _Atomic(size_t) misses; // times in a row that next to nothing was given back
    // Number of this period. If the length of a period changes, the numbers jump once, which does
    // no harm.
    _Atomic(uint32_t) period;
} state;

static size_t load(_Atomic(size_t) *at) {
    return atomic_load_explicit(at, memory_order_relaxed);
}

static void store(_Atomic(size_t) *at, size_t value) {
    atomic_store_explicit(at, value, memory_order_relaxed);
}

// Begins a new period if it is time. One thread wins the exchange, and moves the counts.
static void begin_period(uint32_t number) {
    uint32_t seen = atomic_load_explicit(&state.period, memory_order_relaxed);
    if (seen == number || !atomic_compare_exchange_strong(&state.period, &seen, number)) {
        return;
    }
    bool next = number - seen == 1;
    store(&state.most_before, next ? load(&state.most) : 0);
    store(&state.most, 0);
    if (!next) {
        store(&state.drawn, 0);
        store(&state.given, 0);
    }
}

static void draw(size_t slabs) {
    size_t drawn = load(&state.drawn) + slabs;
    store(&state.drawn, drawn);
    if (drawn > load(&state.most)) {
        store(&state.most, drawn);
    }
}

size_t dirty_ceiling_surplus(size_t dirty, size_t held, size_t freed, uint32_t now_ms,
                             uint32_t period_ms) {
    size_t drawn = load(&state.drawn);
    if (drawn != 0) {
        store(&state.drawn, drawn - hak_min(drawn, freed));
    }
    size_t ceiling = hak_max(hak_min(DIRTY_CEILING_SMALL, held / 4), held / DIRTY_CEILING_SHARE);
    ceiling = hak_max(DIRTY_CEILING_LEAST, ceiling);
    if (HAK_LIKELY(dirty < DIRTY_CEILING_STEP || dirty - DIRTY_CEILING_STEP < ceiling)) {
        return 0;
    }
    begin_period(now_ms / period_ms);
    // A quarter more, because phases differ in size.
    size_t drawn_most = hak_max(load(&state.most), load(&state.most_before));
    ceiling = hak_max(ceiling, drawn_most + drawn_most / 4);
    if (dirty - DIRTY_CEILING_STEP < ceiling) {
        return 0;
    }
    // A call may free many slabs, one by one, so the amounts that they may give back are added up.
    size_t may = hak_min(load(&state.may) + 2 * freed, DIRTY_CEILING_MOST);
    size_t give = may < DIRTY_CEILING_STEP ? 0 : hak_min(dirty - ceiling, may);
    store(&state.may, may - give);
    return give;
}

void dirty_ceiling_count_given(size_t dirty, size_t surplus, size_t given) {
    enum { LITTLE = 8 }; // less than one part in so many of the surplus is a miss
    store(&state.given, load(&state.given) + given);
    size_t misses = load(&state.misses);
    if (HAK_LIKELY(given >= surplus / LITTLE)) {
        if (misses != 0) {
            store(&state.misses, 0);
        }
        return;
    }
    // A single miss means little: another thread may be giving back the slabs that this one was
    // looking for.
    store(&state.misses, misses + 1);
    if (misses + 1 >= DIRTY_CEILING_MISSES) {
        store(&state.misses, 0);
        store(&state.most, hak_max(load(&state.most), dirty));
    }
}

void dirty_ceiling_count_claimed(size_t slabs, size_t dirty) {
    size_t again = dirty;
    size_t given = load(&state.given);
    if (HAK_UNLIKELY(given != 0 && slabs != dirty)) {
        size_t some = hak_min(given, slabs - dirty);
        store(&state.given, given - some);
        again += some;
    }
    if (again != 0) {
        draw(again);
    }
}
