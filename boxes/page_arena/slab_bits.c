// SPDX-License-Identifier: Apache-2.0
// slab_bits: keeps the bits of free and dirty slabs, and the summaries of the runs that they form.
#include "boxes/page_arena/page_arena_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"

static const uint64_t survey_mark = UINT64_C(1) << FIELD_BITS;

static const uint64_t survey_tag = UINT64_C(2) << FIELD_BITS;

static uint64_t pack(struct runs runs) {
    return runs.longest | (uint64_t)runs.first << RUN_BITS | (uint64_t)runs.last << 2 * RUN_BITS;
}

static const uint64_t group_most = ARENA_GROUP_SLABS | (uint64_t)ARENA_GROUP_SLABS << RUN_BITS |
                                   (uint64_t)ARENA_GROUP_SLABS << 2 * RUN_BITS;

static const uint64_t region_most = ARENA_REGION_SLABS; // the longest run is all there is of it

static void raise(atomic_bitmap_word *summary, uint64_t most) {
    uint64_t seen = atomic_load(summary);
    while ((seen & (fields_mask | survey_mark)) != most &&
           !atomic_compare_exchange_weak(summary, &seen,
                                         (seen & ~(fields_mask | survey_mark)) | most)) {
    }
}

// To be called after slabs (`dirty`: dirty slabs) of the group have become available.
static void raise_runs(const struct page_arena_window *window, size_t group, bool dirty) {
    struct page_arena_runs *runs = runs_of(window, group, dirty);
    raise(&runs->group[group % ARENA_REGION_GROUPS], group_most);
    raise(&runs->all, region_most);
}

// Marks a summary. Returns its value with the mark, or 0, without a mark, if another thread changed
// it meanwhile.
static uint64_t begin_survey(atomic_bitmap_word *summary) {
    uint64_t seen = atomic_load(summary);
    uint64_t marked = ((seen | survey_mark) + survey_tag);
    return atomic_compare_exchange_strong(summary, &seen, marked) ? marked : 0;
}

static void end_survey(atomic_bitmap_word *summary, uint64_t marked, uint64_t fields) {
    if (marked != 0) {
        uint64_t tag = marked & ~(fields_mask | survey_mark);
        atomic_compare_exchange_strong(summary, &marked, tag | fields);
    }
}

static unsigned longest_ones(uint64_t bits) {
    unsigned n = 0;
    for (; bits != 0; bits &= bits >> 1) {
        n++;
    }
    return n;
}

struct runs arena_survey(const struct page_arena_window *window, size_t group, bool dirty) {
    atomic_bitmap_word *summary =
        &runs_of(window, group, dirty)->group[group % ARENA_REGION_GROUPS];
    uint64_t marked = begin_survey(summary);
    struct runs runs = {0, ARENA_GROUP_SLABS, 0};
    for (size_t i = 0; i < ARENA_GROUP_SLABS / 64; i++) {
        uint64_t bits = atomic_load(&window->groups[group].avail[i]);
        if (dirty && bits != 0) {
            bits &= atomic_load(&window->groups[group].dirty[i]);
        }
        if (bits == ~UINT64_C(0)) {
            runs.last += 64;
            continue;
        }
        size_t head = runs.last + (size_t)__builtin_ctzll(~bits);
        runs.first = runs.first == ARENA_GROUP_SLABS ? head : runs.first;
        runs.longest = hak_max(runs.longest, head);
        if ((size_t)__builtin_popcountll(bits) > runs.longest) {
            runs.longest = hak_max(runs.longest, longest_ones(bits));
        }
        runs.last = (size_t)__builtin_clzll(~bits);
    }
    runs.longest = hak_max(runs.longest, runs.last);
    end_survey(summary, marked, pack(runs));
    return runs;
}

size_t arena_survey_region(const struct page_arena_window *window, size_t group, bool dirty) {
    struct page_arena_runs *summary = runs_of(window, group, dirty);
    uint64_t marked = begin_survey(&summary->all);
    size_t longest = 0;
    size_t carry = 0;
    for (size_t i = 0; i < ARENA_REGION_GROUPS; i++) {
        struct runs runs = unpack(atomic_load(&summary->group[i]));
        longest = hak_max(longest, hak_max(runs.longest, carry + runs.first));
        carry = carry_over(carry, runs);
    }
    end_survey(&summary->all, marked, longest);
    return longest;
}

void arena_hold_group(const struct page_arena_window *window, size_t group) {
    for (int dirty = 0; dirty <= 1; dirty++) {
        atomic_bitmap_word *summary =
            &runs_of(window, group, dirty)->group[group % ARENA_REGION_GROUPS];
        end_survey(summary, begin_survey(summary), 0);
    }
}

void arena_put_avail(const struct page_arena_window *window, size_t from, size_t count,
                     bool dirty) {
    for (size_t at = from, end = from + count; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_put_run(part.group->avail, part.first, part.count);
        raise_runs(window, part.index, false);
        if (dirty) {
            raise_runs(window, part.index, true);
        }
    }
    lower(&arena_state.lowest, from / 64);
}

bool arena_claim_avail(const struct page_arena_window *window, size_t from, size_t count) {
    bool ok = true;
    size_t done = 0;
    for (size_t at = from, end = from + count; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        if (ok && atomic_bitmap_claim_run(part.group->avail, part.first, part.count)) {
            done += part.count;
        } else if (ok) {
            ok = false;
            if (part.first % 64 + part.count > 64) {
                // Some words may have been claimed and put back: a survey may have missed them, and
                // a search passed them.
                raise_runs(window, part.index, false);
                raise_runs(window, part.index, true);
                lower(&arena_state.lowest, from / 64);
            }
        }
    }
    if (!ok && done > 0) {
        arena_put_avail(window, from, done, true);
    }
    return ok;
}

bool arena_all_avail(const struct page_arena_window *window, size_t from, size_t count) {
    while (count > 0) {
        unsigned bit = (unsigned)(from % 64);
        unsigned here = (unsigned)hak_min(count, 64 - bit);
        uint64_t mask = atomic_bitmap_mask(bit, here);
        if (!is_open(from / PIECE_SLABS) ||
            (~atomic_load_explicit(avail_word(window, from / 64), memory_order_relaxed) & mask) !=
                0) {
            return false;
        }
        from += here;
        count -= here;
    }
    return true;
}

size_t arena_count_dirty(const struct page_arena_window *window, size_t from, size_t count) {
    uint64_t mask;
    if (HAK_LIKELY(atomic_bitmap_is_short(from, count, &mask))) {
        uint64_t bits =
            atomic_load_explicit(dirty_word(window, from / 64), memory_order_relaxed) & mask;
        // Mostly all of the slabs or none are dirty; then no count is needed.
        return bits == mask ? count : bits == 0 ? 0 : (size_t)__builtin_popcountll(bits);
    }
    size_t sum = 0;
    for (size_t at = from, end = from + count; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        sum += atomic_bitmap_count_run(part.group->dirty, part.first, part.count);
    }
    return sum;
}

void arena_clear_dirty(const struct page_arena_window *window, size_t from, size_t slabs) {
    for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_clear_run(part.group->dirty, part.first, part.count);
    }
}
