// SPDX-License-Identifier: Apache-2.0
// search: claims the lowest run that fits, and passes groups and regions whose runs are too short.
#include "boxes/page_arena/page_arena_internal.h"

// Returns the first word with a free slab in [word, end), or `end`.
static size_t first_word(const struct page_arena_window *window, size_t word, size_t end) {
    while (word < end) {
        size_t group = word / 32;
        if (word % (ARENA_REGION_SLABS / 64) == 0 && region_longest(window, group, false) == 0) {
            word += ARENA_REGION_SLABS / 64;
        } else if (word % 32 == 0 && group_runs(window, group, false).longest == 0) {
            word += 32;
        } else if (is_group_open(group) && atomic_load(avail_word(window, word)) != 0) {
            return word;
        } else {
            word++;
        }
    }
    return end;
}

// Returns the index of the word at which searches may start, or `words` if no slab is free. Raises
// `lowest` to it.
static size_t raise_lowest(const struct page_arena_window *window, size_t words) {
    size_t lowest = atomic_load(&arena_state.lowest);
    if (lowest >= words ||
        (is_group_open(lowest / 32) && atomic_load(avail_word(window, lowest)) != 0)) {
        return hak_min(lowest, words);
    }
    size_t word = first_word(window, lowest, words);
    size_t was = lowest;
    if (word > was && atomic_compare_exchange_strong(&arena_state.lowest, &lowest, word)) {
        // A release below may have looked at the old value before it was raised.
        size_t missed = first_word(window, was, word);
        if (missed < word) {
            lower(&arena_state.lowest, missed);
        }
    }
    return word;
}

// The run that a search looks for.
struct search {
    const struct page_arena_window *window;
    size_t slabs;
    size_t step;   // the start is aligned to so many slabs
    size_t origin; // slabs from address 0 to the window, modulo `step`
    bool dirty;    // of dirty slabs only
};

static size_t align_up(const struct search *search, size_t slab) {
    return hak_round_up(slab + search->origin, search->step) - search->origin;
}

HAK_INLINE uint64_t search_word(const struct search *search, size_t word) {
    struct page_arena_group *group = &search->window->groups[word / 32];
    uint64_t bits = atomic_load_explicit(&group->avail[word % 32], memory_order_relaxed);
    if (search->dirty && bits != 0) {
        bits &= atomic_load_explicit(&group->dirty[word % 32], memory_order_relaxed);
    }
    return bits;
}

// Returns a word whose bit i is set if the `count` (1..64) bits of `bits` from i on are set.
static uint64_t starts_of_runs(uint64_t bits, size_t count) {
    for (size_t have = 1; bits != 0 && have < count;) {
        size_t more = hak_min(have, count - have);
        bits &= bits >> more;
        have += more;
    }
    return bits;
}

// Returns the start of the lowest run in [from, end) of search->slabs slabs, aligned or not;
// ARENA_NONE if there is none.
static size_t find_within(const struct search *search, size_t from, size_t end) {
    const struct search wanted = *search; // in registers
    size_t carry = 0;                     // free slabs right before word `w`
    uint64_t mask = ~UINT64_C(0) << from % 64;
    for (size_t w = from / 64; w < end / 64; w++, mask = ~UINT64_C(0)) {
        uint64_t bits = search_word(&wanted, w) & mask;
        if (bits == 0) {
            carry = 0;
            continue;
        }
        size_t head = bits == ~UINT64_C(0) ? 64 : (size_t)__builtin_ctzll(~bits);
        if (carry + head >= wanted.slabs) {
            return w * 64 - carry;
        }
        if (head == 64) {
            carry += 64;
            continue;
        }
        uint64_t starts = wanted.slabs > 64 ? 0 : starts_of_runs(bits, wanted.slabs);
        if (starts != 0) {
            return w * 64 + (size_t)__builtin_ctzll(starts);
        }
        carry = (size_t)__builtin_clzll(~bits);
    }
    return ARENA_NONE;
}

// Claims the lowest run in [from, end). If another thread is faster, goes on behind that run.
static size_t claim_in_order(const struct search *search, size_t from, size_t end) {
    while (from < end && (from = find_within(search, from, end)) != ARENA_NONE) {
        if (arena_claim_avail(search->window, from, search->slabs)) {
            return from;
        }
        from += search->slabs;
    }
    return ARENA_NONE;
}

// As above, for a thread that has just lost a run to another one. If all such threads tried the
// lowest run that is left, all but one would lose again, and so on. So a thread skips some runs:
// how many depends on the thread, and grows with its losses. The skipped runs are tried last.
static HAK_NOINLINE size_t claim_apart(const struct search *search, size_t from, size_t end) {
    enum { LOSSES_MOST = 6 };
    size_t passed = ARENA_NONE; // the lowest run that was skipped
    for (unsigned losses = 1; from < end; losses += losses < LOSSES_MOST) {
        size_t at = find_within(search, from, end);
        uint64_t hash = hak_hash((uint64_t)hak_thread_mark() << 8 | losses) >> 32;
        uint64_t left = at == ARENA_NONE ? 0 : hash & ((UINT64_C(1) << losses) - 1);
        for (; left != 0; left--) {
            size_t next = find_within(search, at + search->slabs, end);
            if (next == ARENA_NONE) {
                break;
            }
            passed = hak_min(passed, at);
            at = next;
        }
        if (at == ARENA_NONE) {
            break;
        }
        if (arena_claim_avail(search->window, at, search->slabs)) {
            return at;
        }
        from = at + search->slabs;
    }
    return passed == ARENA_NONE ? ARENA_NONE : claim_in_order(search, passed, end);
}

static HAK_NOINLINE size_t claim_anywhere_within(const struct search *search, size_t from,
                                                 size_t end) {
    from = find_within(search, from, end);
    if (from == ARENA_NONE || HAK_LIKELY(arena_claim_avail(search->window, from, search->slabs))) {
        return from;
    }
    return claim_apart(search, from + search->slabs, end);
}

// Returns the first free slab in [at, end), or `end`.
static size_t next_free(const struct search *search, size_t at, size_t end) {
    while (at < end) {
        uint64_t bits = search_word(search, at / 64) >> at % 64;
        if (bits != 0) {
            return at + (size_t)__builtin_ctzll(bits);
        }
        at = (at / 64 + 1) * 64;
    }
    return end;
}

// Returns how many slabs from `at` on are free, up to `end` and up to search->slabs.
static size_t free_from(const struct search *search, size_t at, size_t end) {
    size_t count = 0;
    while (count < search->slabs && at + count < end) {
        size_t bit = (at + count) % 64;
        uint64_t held = ~search_word(search, (at + count) / 64) >> bit;
        if (held != 0) {
            count += (size_t)__builtin_ctzll(held);
            break;
        }
        count += 64 - bit;
    }
    return hak_min(count, search->slabs);
}

static HAK_NOINLINE size_t claim_aligned_within(const struct search *search, size_t from,
                                                size_t end) {
    size_t at = align_up(search, next_free(search, from, end));
    while (at < end) {
        size_t count = free_from(search, at, end);
        if (count == search->slabs && arena_claim_avail(search->window, at, count)) {
            return at;
        }
        // The run is too short, or another thread was faster: the search goes on behind it.
        at = align_up(search, next_free(search, at + count, end));
    }
    return ARENA_NONE;
}

// Claims the lowest run in [from, end). Returns ARENA_NONE if there is none.
static size_t claim_within(const struct search *search, size_t from, size_t end) {
    return HAK_LIKELY(search->step == 1) ? claim_anywhere_within(search, from, end)
                                         : claim_aligned_within(search, from, end);
}

// Surveys the groups before `group` over which, by their summaries, a run of `carry` slabs extends.
// Returns the true length of the run that ends right before `group`.
static size_t survey_carry(const struct search *search, size_t group, size_t carry) {
    size_t counted = 0;
    for (size_t g = group; counted < carry && g-- > 0;) {
        struct runs runs = arena_survey(search->window, g, search->dirty);
        counted += runs.last;
        if (runs.last < ARENA_GROUP_SLABS) {
            break;
        }
    }
    return counted;
}

// Claims the lowest run whose last slab is in the group. Returns ARENA_NONE if there is none.
// *carry is an upper bound of the free run that ends right before the group. The call sets it to
// that of the run that ends at the group's end.
static size_t claim_in_group(const struct search *search, size_t group, size_t least,
                             size_t *carry) {
    struct runs runs = group_runs(search->window, group, search->dirty);
    size_t cross = hak_min(*carry, search->slabs - 1);
    bool crossing = cross + runs.first >= search->slabs;
    size_t first = group * ARENA_GROUP_SLABS;
    if (crossing || runs.longest >= search->slabs) {
        size_t start = hak_max(crossing ? first - cross : first, least);
        size_t end = first + ARENA_GROUP_SLABS;
        if (align_up(search, start) + search->slabs <= end) {
            size_t from = claim_within(search, start, end);
            if (from != ARENA_NONE) {
                return from;
            }
            // The summary promised too much, unless only the alignment is in the way.
            if (search->step == 1 || runs.longest == ARENA_GROUP_SLABS) {
                *carry = crossing ? survey_carry(search, group, *carry) : *carry;
                runs = arena_survey(search->window, group, search->dirty);
            }
        }
    }
    *carry = carry_over(*carry, runs);
    return ARENA_NONE;
}

static HAK_NOINLINE size_t claim_in_only_group(const struct search *search, size_t least) {
    struct runs runs = group_runs(search->window, 0, search->dirty);
    size_t from = ARENA_NONE;
    if (runs.longest >= search->slabs && least < ARENA_GROUP_SLABS) {
        from = claim_within(search, least, ARENA_GROUP_SLABS);
        if (from == ARENA_NONE && (search->step == 1 || runs.longest == ARENA_GROUP_SLABS)) {
            arena_survey(search->window, 0, search->dirty);
        } else if (from == 0 && search->slabs == ARENA_GROUP_SLABS) {
            arena_hold_group(search->window, 0);
        }
    }
    return from;
}

// As carry_over(), for the region that ends at group `region_end`. Goes group by group: the
// region's bound does not say where its longest run is, and groups at its end may not be mapped.
static size_t carry_over_region(const struct page_arena_window *window, size_t region_end,
                                bool dirty, size_t carry) {
    size_t at_end = 0;
    for (size_t i = 1; i <= ARENA_REGION_GROUPS; i++) {
        struct runs runs = group_runs(window, region_end - i, dirty);
        at_end += runs.last;
        if (runs.first != ARENA_GROUP_SLABS) {
            return at_end;
        }
    }
    return carry + at_end;
}

// Claims the lowest run. Passes regions and groups that have no run of that length.
static HAK_NOINLINE size_t claim_in_groups(const struct search *search, size_t least,
                                           size_t groups) {
    const struct page_arena_window *window = search->window;
    size_t slabs = search->slabs;
    bool dirty = search->dirty;
    size_t carry = 0;
    for (size_t group = least / ARENA_GROUP_SLABS; group < groups;) {
        size_t next = (group / ARENA_REGION_GROUPS + 1) * ARENA_REGION_GROUPS;
        size_t longest = region_longest(window, group, dirty);
        if (carry + longest < slabs) {
            carry = carry_over_region(window, next, dirty, carry);
            group = next;
            continue;
        }
        size_t in_region = group;
        for (; group < next && group < groups; group++) {
            size_t from = claim_in_group(search, group, least, &carry);
            if (from != ARENA_NONE) {
                size_t whole = hak_round_up(from, ARENA_GROUP_SLABS) / ARENA_GROUP_SLABS;
                for (; (whole + 1) * ARENA_GROUP_SLABS <= from + slabs; whole++) {
                    arena_hold_group(window, whole);
                }
                return from;
            }
        }
        if (longest == ARENA_REGION_SLABS || (search->step == 1 && longest >= slabs)) {
            arena_survey_region(window, in_region, dirty);
        }
    }
    return ARENA_NONE;
}

size_t arena_find_run(const struct page_arena_window *window, size_t slabs, size_t align,
                      bool dirty) {
    size_t step = align >> ARENA_SLAB_SHIFT;
    size_t origin = ((uintptr_t)window->base >> ARENA_SLAB_SHIFT) & (step - 1);
    const struct search search = {window, slabs, step, origin, dirty};
    size_t high = page_arena_high();
    size_t least = raise_lowest(window, high / 64) * 64;
    size_t groups = (high + ARENA_GROUP_SLABS - 1) / ARENA_GROUP_SLABS;
    // A heap of up to 128 MiB has no group to pass.
    return groups == 1 ? claim_in_only_group(&search, least)
                       : claim_in_groups(&search, least, groups);
}
