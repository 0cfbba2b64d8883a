// SPDX-License-Identifier: Apache-2.0
#include "boxes/run_cache/run_cache.h"

#include "boxes/base/alone.h"

// A run in one word, so that it changes hands by one step: its first slab above its length.
enum { LENGTH_BITS = 8 };

static_assert(RUN_CACHE_MOST < 1 << LENGTH_BITS, "a length fits");

static struct {
    alignas(HAK_CACHE_LINE) _Atomic(uint64_t) ways[RUN_CACHE_WAYS];
} lines[RUN_CACHE_LINES];

static_assert(sizeof(lines[0]) == HAK_CACHE_LINE, "a line is one");

static struct run_cache_run run_of(uint64_t word) {
    return (struct run_cache_run){word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)};
}

static _Atomic(uint64_t) *place(unsigned i) {
    return &lines[i / RUN_CACHE_WAYS].ways[i % RUN_CACHE_WAYS];
}

enum { PLACES = RUN_CACHE_LINES * RUN_CACHE_WAYS };

// The line of the calling thread, and of every eighth or so: stacks, with the TLS at their upper
// end, are made one next to the other, a little more than a power of two apart, 8 MiB by default.
static _Atomic(uint64_t) *own_line(void) {
    uintptr_t tls = (uintptr_t)__builtin_thread_pointer();
    return lines[(tls >> 26 ^ tls >> 23 ^ tls >> 20 ^ tls >> 17) % RUN_CACHE_LINES].ways;
}

// The places of a line whose run has so many slabs, a bit each; those without a run have 0. If the
// first one has not, all are looked at: which one it is, the processor could not foresee.
HAK_INLINE unsigned ways_with(_Atomic(uint64_t) *ways, size_t slabs) {
    if (run_of(atomic_load_explicit(&ways[0], memory_order_relaxed)).slabs == slabs) {
        return 1;
    }
    unsigned found = 0;
    for (unsigned way = 1; way < RUN_CACHE_WAYS; way++) {
        uint64_t word = atomic_load_explicit(&ways[way], memory_order_relaxed);
        found |= (unsigned)(run_of(word).slabs == slabs) << way;
    }
    return found;
}

size_t run_cache_take(size_t slabs) {
    if (slabs == 0 || slabs > RUN_CACHE_MOST) {
        return RUN_CACHE_NONE;
    }
    _Atomic(uint64_t) *ways = own_line();
    for (unsigned found = ways_with(ways, slabs); found != 0; found &= found - 1) {
        _Atomic(uint64_t) *way = &ways[__builtin_ctz(found)];
        uint64_t word = atomic_load_explicit(way, memory_order_relaxed);
        // The slabs are used only after the step: what was done to them before the put is done.
        if (run_of(word).slabs == slabs && hak_step_swap(way, word, 0)) {
            return run_of(word).from;
        }
    }
    return RUN_CACHE_NONE;
}

struct run_cache_run run_cache_put(size_t from, size_t slabs) {
    if (slabs > RUN_CACHE_MOST) {
        return (struct run_cache_run){from, slabs};
    }
    _Atomic(uint64_t) *ways = own_line();
    uint64_t word = (uint64_t)from << LENGTH_BITS | slabs;
    for (unsigned found = ways_with(ways, 0); found != 0; found &= found - 1) {
        if (hak_step_swap(&ways[__builtin_ctz(found)], 0, word)) {
            return (struct run_cache_run){0, 0};
        }
    }
    // Which one must go, a hash says: there is no counter of turns to keep.
    unsigned way = (unsigned)(hak_hash(from) >> 32) % RUN_CACHE_WAYS;
    return run_of(atomic_exchange_explicit(&ways[way], word, memory_order_acq_rel));
}

// Each place once: others may fill it again all the time.
static struct run_cache_run take_from(unsigned first, unsigned end, unsigned *cursor) {
    while (first + *cursor < end) {
        _Atomic(uint64_t) *way = place(first + (*cursor)++);
        if (atomic_load_explicit(way, memory_order_relaxed) != 0) {
            uint64_t word = atomic_exchange_explicit(way, 0, memory_order_acquire);
            if (word != 0) {
                return run_of(word);
            }
        }
    }
    return (struct run_cache_run){0, 0};
}

struct run_cache_run run_cache_take_own(unsigned *cursor) {
    unsigned first = (unsigned)(own_line() - lines[0].ways);
    return take_from(first, first + RUN_CACHE_WAYS, cursor);
}

struct run_cache_run run_cache_take_any(unsigned *cursor) {
    return take_from(0, PLACES, cursor);
}

size_t run_cache_slabs(void) {
    size_t sum = 0;
    for (unsigned i = 0; i < PLACES; i++) {
        sum += run_of(atomic_load_explicit(place(i), memory_order_relaxed)).slabs;
    }
    return sum;
}

HAK_LAYOUT(run_cache_layout, HAK_ROWS(HAK_VARIABLE("aside.words", lines)),
           HAK_ROWS(HAK_NUMBER("aside.length_bits", LENGTH_BITS)));
