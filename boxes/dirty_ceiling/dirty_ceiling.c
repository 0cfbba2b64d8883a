#include "boxes/dirty_ceiling/dirty_ceiling.h"

#include <stdatomic.h>

static struct {
    // Slabs claimed again in this period and in the one before.
    alignas(HAK_CACHE_LINE) _Atomic(size_t) again;
    _Atomic(size_t) again_before;
    _Atomic(size_t) given; // given back, and not yet claimed again
    // Number of this period; the numbers of one length of period are not those of another, which
    // only matters while the length changes.
    _Atomic(uint32_t) period;
} state;

static size_t load(_Atomic(size_t) *at) {
    return atomic_load_explicit(at, memory_order_relaxed);
}

// Begins a new period if it is time. The one thread that does so moves the counts; what others
// count meanwhile may be lost.
static void begin_period(uint32_t number) {
    uint32_t seen = atomic_load_explicit(&state.period, memory_order_relaxed);
    if (seen == number || !atomic_compare_exchange_strong(&state.period, &seen, number)) {
        return;
    }
    size_t again = atomic_exchange_explicit(&state.again, 0, memory_order_relaxed);
    bool next = number - seen == 1;
    atomic_store_explicit(&state.again_before, next ? again : 0, memory_order_relaxed);
    if (!next) {
        atomic_store_explicit(&state.given, 0, memory_order_relaxed);
    }
}

size_t dirty_ceiling_surplus(size_t dirty, size_t held, size_t freed, uint32_t now_ms,
                             uint32_t period_ms) {
    size_t ceiling = hak_max(DIRTY_CEILING_LEAST, held / DIRTY_CEILING_SHARE);
    if (HAK_LIKELY(dirty < DIRTY_CEILING_STEP || dirty - DIRTY_CEILING_STEP < ceiling)) {
        return 0;
    }
    begin_period(now_ms / period_ms);
    ceiling = hak_max(ceiling, load(&state.again) + load(&state.again_before));
    if (dirty - DIRTY_CEILING_STEP < ceiling) {
        return 0;
    }
    size_t most = hak_min(hak_max(2 * freed, DIRTY_CEILING_STEP), DIRTY_CEILING_MOST);
    return hak_min(dirty - ceiling, most);
}

void dirty_ceiling_count_given(size_t surplus, size_t given) {
    atomic_fetch_add_explicit(&state.given, given, memory_order_relaxed);
    if (given < surplus) {
        atomic_fetch_add_explicit(&state.again, surplus - given, memory_order_relaxed);
    }
}

void dirty_ceiling_count_claimed(size_t slabs, size_t dirty) {
    size_t again = dirty;
    size_t given = load(&state.given);
    if (HAK_UNLIKELY(given != 0 && slabs != dirty)) {
        size_t some = hak_min(given, slabs - dirty);
        // Fails where another thread counts: then this claim is not counted.
        again += atomic_compare_exchange_strong(&state.given, &given, given - some) ? some : 0;
    }
    if (again != 0) {
        atomic_fetch_add_explicit(&state.again, again, memory_order_relaxed);
    }
}
