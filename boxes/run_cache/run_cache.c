// SPDX-License-Identifier: Apache-2.0
#include "boxes/run_cache/run_cache.h"

#include "boxes/base/alone.h"

// A run in one word, so that it changes hands by one step: its length above its first slab. The
// greater of two words is the longer run; a sum of a line's words has the sum of the lengths above,
// as FROM_BITS leaves room for what the lower parts carry; and the lowest bits are 0, so that looks
// can keep a place of a line there.
enum { WAY_BITS = 3, FROM_BITS = 46, LENGTH_SHIFT = 52, LENGTH_BITS = 8 };

static_assert(1 << WAY_BITS == RUN_CACHE_WAYS, "a place fits");
static_assert(2 * WAY_BITS + FROM_BITS <= LENGTH_SHIFT, "a sum of first slabs fits");
static_assert(LENGTH_SHIFT + LENGTH_BITS + WAY_BITS <= 64, "a sum of lengths fits");
static_assert(RUN_CACHE_MOST < 1 << LENGTH_BITS, "a length fits");
static_assert(RUN_CACHE_LINES == 64, "a bit each");

typedef _Atomic(uint64_t) way_word;

static struct { alignas(HAK_CACHE_LINE) way_word ways[RUN_CACHE_WAYS]; } lines[RUN_CACHE_LINES];

// The lines that a run was ever put into, a bit each.
static _Atomic(uint64_t) used;

static size_t length_of(uint64_t word) {
    return word >> LENGTH_SHIFT;
}

static struct run_cache_run run_of(uint64_t word) {
    const uint64_t below = (UINT64_C(1) << LENGTH_SHIFT) - 1;
    return (struct run_cache_run){(word & below) >> WAY_BITS, length_of(word)};
}

static uint64_t word_of(size_t from, size_t slabs) {
    return (uint64_t)slabs << LENGTH_SHIFT | from << WAY_BITS;
}

static const struct run_cache_run none = {0, 0};

// Returns the line of the calling thread, and of few others: stacks, with the TLS at their upper
// end, are made one next to the other, a little more than a power of two apart, 8 MiB by default.
static unsigned own_index(void) {
    uintptr_t tls = (uintptr_t)__builtin_thread_pointer();
    return (unsigned)(tls >> 26 ^ tls >> 23 ^ tls >> 20 ^ tls >> 17) % RUN_CACHE_LINES;
}

static way_word *own_line(void) {
    return lines[own_index()].ways;
}

static uint64_t look(way_word *ways, size_t way) {
    return atomic_load_explicit(&ways[way], memory_order_relaxed);
}

// Looks at a line are without branches on what is there, which the processor could not foresee.

// Returns the shortest run of a line that has so many slabs: its word and its place, in one number.
// Less if there is none.
static uint64_t find(way_word *ways, size_t slabs) {
    // What is too short comes behind all others, as such a difference is below 0.
    const uint64_t wanted = word_of(0, slabs);
    uint64_t best = UINT64_MAX;
#pragma GCC unroll 8
    for (size_t way = 0; way < RUN_CACHE_WAYS; way++) {
        uint64_t word = look(ways, way) | way;
        bool fits = RUN_CACHE_SPLIT != 0 || length_of(word) == slabs;
        best = hak_min(best, fits ? word - wanted : UINT64_MAX);
    }
    return best + wanted;
}

// Takes a run, or its start, if it is still what find() has found.
HAK_INLINE size_t take_found(way_word *ways, size_t slabs, uint64_t found) {
    uint64_t way = found % RUN_CACHE_WAYS;
    uint64_t word = found - way;
    struct run_cache_run run = run_of(word);
    uint64_t rest = run.slabs == slabs ? 0 : word_of(run.from + slabs, run.slabs - slabs);
    // The slabs are used only after the step: what was done to them before the put is done.
    return hak_step_swap(&ways[way], word, rest) ? run.from : RUN_CACHE_NONE;
}

// A step that fails is another thread's that did not.
static HAK_NOINLINE size_t take_again(way_word *ways, size_t slabs) {
    size_t from = RUN_CACHE_NONE;
    for (unsigned tries = 1; tries < RUN_CACHE_WAYS && from == RUN_CACHE_NONE; tries++) {
        uint64_t found = find(ways, slabs);
        if (length_of(found) < slabs) {
            break;
        }
        from = take_found(ways, slabs, found);
    }
    return from;
}

size_t run_cache_take(size_t slabs) {
    if (slabs - 1 >= RUN_CACHE_MOST) {
        return RUN_CACHE_NONE;
    }
    way_word *ways = own_line();
    uint64_t found = find(ways, slabs);
    if (length_of(found) < slabs) {
        return RUN_CACHE_NONE;
    }
    size_t from = take_found(ways, slabs, found);
    return HAK_LIKELY(from != RUN_CACHE_NONE) ? from : take_again(ways, slabs);
}

static size_t slabs_in(way_word *ways) {
    uint64_t sum = 0;
#pragma GCC unroll 8
    for (size_t way = 0; way < RUN_CACHE_WAYS; way++) {
        sum += look(ways, way);
    }
    return length_of(sum);
}

// Returns the place of the shortest run of a line, of an empty one if there is one.
static size_t shortest_in(way_word *ways) {
    uint64_t least = UINT64_MAX;
#pragma GCC unroll 8
    for (size_t way = 0; way < RUN_CACHE_WAYS; way++) {
        least = hak_min(least, look(ways, way) | way);
    }
    return least % RUN_CACHE_WAYS;
}

// What a look at a line has found, before a run is put there.
struct line_look {
    size_t slabs;            // in all runs
    unsigned before, behind; // places of runs that seem to be next to it, a bit each
};

// Two numbers that are looked at in one step, and whether the lower halves of two are the same: the
// lower half of the answer is all ones then.
typedef uint64_t pair __attribute__((vector_size(16)));
typedef uint32_t pair_halves __attribute__((vector_size(16)));

HAK_INLINE pair pair_of(uint64_t both) {
    return (pair){both, both};
}

HAK_INLINE pair seem_equal(pair a, pair b) {
    return (pair)((pair_halves)a == (pair_halves)b);
}

static struct line_look look_at(way_word *ways, struct run_cache_run run) {
    pair sum = {0};
    pair before = {0};
    pair behind = {0};
    pair from = pair_of(word_of(run.from, 0));
    pair end = pair_of(word_of(run.from + run.slabs, 0));
#pragma GCC unroll 4
    for (size_t way = 0; way < RUN_CACHE_WAYS; way += 2) {
        pair words = {look(ways, way), look(ways, way + 1)};
        pair bits = {UINT64_C(1) << way, UINT64_C(2) << way};
        pair ends = words + (words >> (LENGTH_SHIFT - WAY_BITS));
        sum += words;
        before |= seem_equal(ends, from) & bits;
        behind |= seem_equal(words, end) & bits;
    }
    return (struct line_look){length_of(sum[0] + sum[1]), (unsigned)(before[0] | before[1]),
                              (unsigned)(behind[0] | behind[1])};
}

// Takes the run at one of the places, if it is adjacent to this one, and makes this one longer by
// it. The place is then empty.
static void join(way_word *ways, unsigned places, struct run_cache_run *run, size_t *empty) {
    if (HAK_LIKELY(places == 0)) {
        return;
    }
    size_t way = (size_t)__builtin_ctz(places);
    uint64_t word = look(ways, way);
    struct run_cache_run other = run_of(word);
    bool adjacent = other.from + other.slabs == run->from || other.from == run->from + run->slabs;
    if (other.slabs == 0 || !adjacent || other.slabs + run->slabs > RUN_CACHE_MOST ||
        !hak_step_swap(&ways[way], word, 0)) {
        return;
    }
    run->from = hak_min(run->from, other.from);
    run->slabs += other.slabs;
    *empty = way;
}

struct run_cache_run run_cache_put(size_t from, size_t slabs, size_t most) {
    struct run_cache_run run = {from, slabs};
    if (slabs > hak_min(most, RUN_CACHE_MOST)) {
        return run;
    }
    unsigned index = own_index();
    way_word *ways = lines[index].ways;
    if (HAK_UNLIKELY((atomic_load_explicit(&used, memory_order_relaxed) >> index & 1) == 0)) {
        atomic_fetch_or(&used, UINT64_C(1) << index);
    }
    struct line_look seen = look_at(ways, run);
    size_t way = RUN_CACHE_WAYS;
    if (RUN_CACHE_SPLIT != 0) {
        join(ways, seen.before, &run, &way);
        join(ways, seen.behind, &run, &way);
    }
    if (way == RUN_CACHE_WAYS) {
        way = shortest_in(ways);
    }
    uint64_t word = word_of(run.from, run.slabs);
    if (look(ways, way) == 0 && hak_step_swap(&ways[way], 0, word)) {
        return seen.slabs + slabs > most ? run_cache_evict(most) : none;
    }
    // The shortest must go, which may be this one: it is the least that others could use, too.
    if (run_of(look(ways, way)).slabs >= run.slabs) {
        return run;
    }
    return run_of(atomic_exchange_explicit(&ways[way], word, memory_order_acq_rel));
}

struct run_cache_run run_cache_evict(size_t most) {
    way_word *ways = own_line();
    if (slabs_in(ways) <= most) {
        return none;
    }
    // The longest is what the others can use most.
    uint64_t longest = 0;
    for (size_t way = 0; way < RUN_CACHE_WAYS; way++) {
        longest = hak_max(longest, look(ways, way) | way);
    }
    return run_of(
        atomic_exchange_explicit(&ways[longest % RUN_CACHE_WAYS], 0, memory_order_acquire));
}

unsigned run_cache_lines(void) {
    uint64_t bits = atomic_load_explicit(&used, memory_order_relaxed);
    bool several = (bits & (bits - 1)) != 0 && bits != 0;
    return several ? (unsigned)__builtin_popcountll(bits) : 1;
}

// Each place once: others may fill it again all the time.
static struct run_cache_run take_from(way_word *ways, unsigned *way) {
    while (*way < RUN_CACHE_WAYS) {
        way_word *at = &ways[(*way)++];
        if (atomic_load_explicit(at, memory_order_relaxed) != 0) {
            uint64_t word = atomic_exchange_explicit(at, 0, memory_order_acquire);
            if (word != 0) {
                return run_of(word);
            }
        }
    }
    return none;
}

struct run_cache_run run_cache_take_own(unsigned *cursor) {
    return take_from(own_line(), cursor);
}

struct run_cache_run run_cache_take_any(unsigned *cursor) {
    uint64_t lines_used = atomic_load(&used);
    while (*cursor < RUN_CACHE_LINES * RUN_CACHE_WAYS) {
        unsigned index = *cursor / RUN_CACHE_WAYS;
        unsigned way = *cursor % RUN_CACHE_WAYS;
        struct run_cache_run run = none;
        if ((lines_used >> index & 1) != 0) {
            run = take_from(lines[index].ways, &way);
            *cursor = index * RUN_CACHE_WAYS + way;
        } else {
            *cursor = (index + 1) * RUN_CACHE_WAYS;
        }
        if (run.slabs != 0) {
            return run;
        }
    }
    return none;
}

size_t run_cache_slabs(void) {
    size_t sum = 0;
    for (uint64_t left = atomic_load_explicit(&used, memory_order_relaxed); left != 0;
         left &= left - 1) {
        sum += slabs_in(lines[__builtin_ctzll(left)].ways);
    }
    return sum;
}

HAK_LAYOUT(run_cache_layout, HAK_ROWS(HAK_VARIABLE("aside.words", lines)),
           HAK_ROWS(HAK_NUMBER("aside.from_shift", WAY_BITS),
                    HAK_NUMBER("aside.length_shift", LENGTH_SHIFT)));
