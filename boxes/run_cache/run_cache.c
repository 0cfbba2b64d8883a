// SPDX-License-Identifier: Apache-2.0
#include "boxes/run_cache/run_cache.h"

#include "boxes/base/alone.h"

// A run is one word, so that one atomic step moves it: the length is in the upper bits, the number
// of the first slab below it. So the greater of two words is the longer run. The upper bits of the
// sum of a line's words are the sum of the lengths, because FROM_BITS leaves room for the sum of
// the lower parts. The lowest WAY_BITS bits are 0; functions that search a line keep the number of
// a place there.
enum { WAY_BITS = 3, FROM_BITS = 46, LENGTH_SHIFT = 52, LENGTH_BITS = 8 };

static_assert(1 << WAY_BITS == RUN_CACHE_WAYS, "a place fits");
static_assert(2 * WAY_BITS + FROM_BITS <= LENGTH_SHIFT, "a sum of first slabs fits");
static_assert(LENGTH_SHIFT + LENGTH_BITS + WAY_BITS <= 64, "a sum of lengths fits");
static_assert(RUN_CACHE_MOST < 1 << LENGTH_BITS, "a length fits");
static_assert(RUN_CACHE_LINES == 64, "a bit each");
static_assert((int)RUN_CACHE_LINES == (int)HAK_THREAD_SLOTS, "a line each");

typedef _Atomic(uint64_t) way_word;

static struct { alignas(HAK_CACHE_LINE) way_word ways[RUN_CACHE_WAYS]; } lines[RUN_CACHE_LINES];

// A bit for each line, set once a run was put into the line.
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

static way_word *own_line(void) {
    return lines[hak_thread_slot()].ways;
}

static uint64_t look(way_word *ways, size_t way) {
    return atomic_load_explicit(&ways[way], memory_order_relaxed);
}

// The functions that search a line do not branch on its contents, because the processor could not
// predict such branches.

// Finds the shortest run of a line that has at least `slabs` slabs. Returns its word with the
// number of its place in the lowest bits. If there is no such run, the length of the result is less
// than `slabs`.
static uint64_t find(way_word *ways, size_t slabs) {
    // If a run is too short, the difference is below 0, that is, as an unsigned number, above all
    // others.
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

// Takes the first `slabs` slabs of the run that find() has found. Returns RUN_CACHE_NONE if another
// thread has changed the place meanwhile.
HAK_INLINE size_t take_found(way_word *ways, size_t slabs, uint64_t found) {
    uint64_t way = found % RUN_CACHE_WAYS;
    uint64_t word = found - way;
    struct run_cache_run run = run_of(word);
    uint64_t rest = run.slabs == slabs ? 0 : word_of(run.from + slabs, run.slabs - slabs);
    // The step orders the caller's use of the slabs behind all that was done before their put.
    return hak_step_swap(&ways[way], word, rest) ? run.from : RUN_CACHE_NONE;
}

// Tries again after a step has failed. If a step fails, another thread's step has succeeded.
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

// Returns an empty place of a line if there is one, otherwise the place of the shortest run.
static HAK_NOINLINE size_t shortest_in(way_word *ways) {
    uint64_t least = UINT64_MAX;
#pragma GCC unroll 8
    for (size_t way = 0; way < RUN_CACHE_WAYS; way++) {
        least = hak_min(least, look(ways, way) | way);
    }
    return least % RUN_CACHE_WAYS;
}

// What look_at() finds in a line before a run is put there.
struct line_look {
    size_t slabs;            // sum over all runs
    unsigned before, behind; // a bit for each place whose run seems to be in front of, behind it
    unsigned empty;          // a bit for each place that seems to be empty
};

// Two words in one vector register. seem_equal() compares the halves of each word: the lower half
// of a result is all ones if the lower halves are equal.
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
    pair empty = {0};
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
        empty |= seem_equal(words, (pair){0}) & bits;
    }
    return (struct line_look){length_of(sum[0] + sum[1]), (unsigned)(before[0] | before[1]),
                              (unsigned)(behind[0] | behind[1]), (unsigned)(empty[0] | empty[1])};
}

// Takes the run at the lowest of `places`, if it is adjacent to *run, and adds it to *run. Sets
// *empty to the place that has become empty.
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

// Returns the place for a run; `empty` has a bit for each place that seems to be empty.
static size_t empty_or_shortest(way_word *ways, unsigned empty) {
    if (HAK_LIKELY(empty != 0)) {
        size_t way = (size_t)__builtin_ctz(empty);
        if (HAK_LIKELY(look(ways, way) == 0)) {
            return way;
        }
    }
    return shortest_in(ways);
}

struct run_cache_run run_cache_put(unsigned line, size_t from, size_t slabs, size_t most) {
    struct run_cache_run run = {from, slabs};
    if (slabs > hak_min(most, RUN_CACHE_MOST)) {
        return run;
    }
    way_word *ways = lines[line].ways;
    if (HAK_UNLIKELY((atomic_load_explicit(&used, memory_order_relaxed) >> line & 1) == 0)) {
        atomic_fetch_or(&used, UINT64_C(1) << line);
    }
    struct line_look seen = look_at(ways, run);
    size_t way = RUN_CACHE_WAYS;
    if (RUN_CACHE_SPLIT != 0) {
        join(ways, seen.before, &run, &way);
        join(ways, seen.behind, &run, &way);
    }
    if (way == RUN_CACHE_WAYS) {
        way = empty_or_shortest(ways, seen.empty);
    }
    uint64_t word = word_of(run.from, run.slabs);
    if (look(ways, way) == 0 && hak_step_swap(&ways[way], 0, word)) {
        return seen.slabs + slabs > most ? run_cache_evict(line, most) : none;
    }
    // The shortest run has to go, so that the line keeps the most slabs. That may be the new run.
    if (run_of(look(ways, way)).slabs >= run.slabs) {
        return run;
    }
    return run_of(atomic_exchange_explicit(&ways[way], word, memory_order_acq_rel));
}

struct run_cache_run run_cache_evict(unsigned line, size_t most) {
    way_word *ways = lines[line].ways;
    if (slabs_in(ways) <= most) {
        return none;
    }
    // The longest run is of the most use to other threads.
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

// Visits each place once: other threads may fill a place again at any time.
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
