// SPDX-License-Identifier: Apache-2.0
// purge: gives the pages of free slabs, and the metadata of free SuperSlabs, back to the kernel.
#include "boxes/page_arena/page_arena_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"

// A purge reads the clock once, so a release may be newer than that reading, by less than this.
enum { CLOCK_SLACK_MS = 1 << 24 };

static bool is_old(_Atomic uint32_t *freed_at, uint32_t now, uint32_t age_ms) {
    uint32_t age = now - atomic_load_explicit(freed_at, memory_order_relaxed);
    return age_ms == 0 || (age + CLOCK_SLACK_MS >= age_ms + CLOCK_SLACK_MS);
}

// Gives back the pages of those slabs among `bits` of one word (4 MiB) that are still free and
// dirty, until done->slabs is `budget`. Starts at the highest slab if `down`, else at the lowest.
static void purge_bits(const struct page_arena_window *window, size_t word, uint64_t bits,
                       size_t budget, bool down, struct page_arena_purged *done) {
    while (bits != 0 && done->slabs < budget && !done->failed) {
        size_t most = budget - done->slabs;
        unsigned from;
        unsigned count;
        if (down) {
            unsigned end = 64 - (unsigned)__builtin_clzll(bits);
            uint64_t above = ~(bits << (64 - end)); // the first zero below `end`
            count = above == 0 ? 64 : (unsigned)__builtin_clzll(above);
            count = (unsigned)hak_min(count, most);
            from = end - count;
        } else {
            from = (unsigned)__builtin_ctzll(bits);
            uint64_t rest = bits >> from;
            count = rest == ~UINT64_C(0) ? 64 : (unsigned)__builtin_ctzll(~rest);
            count = (unsigned)hak_min(count, most);
        }
        bits &= ~atomic_bitmap_mask(from, count);
        if (!atomic_bitmap_claim_run(avail_word(window, word), from, count)) {
            continue; // in use again
        }
        // Another thread may have purged a slab since `bits` was read: count what is dirty now.
        size_t dirty = atomic_bitmap_count_run(dirty_word(window, word), from, count);
        if (dirty > 0) {
            done->looks += ARENA_PURGE_CALL;
            if (arena_purge_for_good(window, word * 64 + from, count)) {
                count_slabs(0, -(ptrdiff_t)dirty);
                done->slabs += count;
            } else {
                done->failed = true;
            }
        }
        arena_put_avail(window, word * 64 + from, count, done->failed);
    }
}

static uint64_t free_dirty(const struct page_arena_window *window, size_t word) {
    uint64_t bits = atomic_load_explicit(avail_word(window, word), memory_order_relaxed);
    return bits == 0 ? 0
                     : bits & atomic_load_explicit(dirty_word(window, word), memory_order_relaxed);
}

static HAK_NOINLINE void purge_word(const struct page_arena_window *window, size_t word,
                                    uint32_t now, uint32_t age_ms, size_t budget,
                                    struct page_arena_purged *done) {
    uint64_t bits = free_dirty(window, word);
    for (unsigned half = 0; half < 2 && bits != 0; half++) {
        if (!is_old(&window->groups[word / 32].freed_at[word % 32 * 2 + half], now, age_ms)) {
            bits &= half == 0 ? ~UINT64_C(0) << 32 : UINT64_C(0xffffffff);
        }
    }
    done->looks++;
    purge_bits(window, word, bits, budget, false, done);
}

// Gives back what a SuperSlab costs the process: its addresses if there is a limit on them, its
// rights if the kernel charges for them. The caller holds all its slabs, which are clean. Returns
// false if the kernel refuses. (Not inlined, for the same reason as arena_purge_held().)
static HAK_NOINLINE bool give_up_slabs(const struct page_arena_window *window, size_t first) {
    struct page_arena_group *group = &window->groups[first / ARENA_GROUP_SLABS];
    uint64_t bit = superslab_mask(first % ARENA_GROUP_SLABS, 1);
    bool unmapped = arena_unmap(window, first, ARENA_SUPERSLAB_SLABS);
    if (!unmapped && (atomic_load_explicit(&group->lost, memory_order_relaxed) & bit) != 0 &&
        arena_map_lost(window, first, ARENA_SUPERSLAB_SLABS) != OS_OK) {
        return false;
    }
    // Rights are taken only if several threads can get them back later at the same time.
    if (!unmapped && is_charged() && os_commits() &&
        (atomic_load_explicit(&group->committed, memory_order_relaxed) & bit) != 0) {
        enum os_result result = os_decommit(page_arena_address(window, first), ARENA_SUPERSLAB);
        if (result == OS_NO_MEMORY) {
            return false;
        }
        if (result == OS_LOST) {
            arena_mark_lost(window, first, ARENA_SUPERSLAB_SLABS);
        }
        atomic_fetch_and(&group->huge, ~bit);
        atomic_fetch_and(&group->committed, ~bit);
    }
    atomic_fetch_and(&group->meta_used, ~bit);
    return true;
}

// As above, but first gives back the pages of the SuperSlab's metadata. Other threads may read the
// metadata meanwhile, so it has to stay mapped.
static bool purge_superslab(const struct page_arena_window *window, size_t first) {
    char *meta = window->meta + first / ARENA_SUPERSLAB_SLABS * ARENA_SUPERSLAB_META;
    return (!os_purges_in_place() || os_purge(meta, ARENA_SUPERSLAB_META) == OS_OK) &&
           give_up_slabs(window, first);
}

// As above, for those SuperSlabs of a word that have neither a slab in use nor a dirty slab.
static HAK_NOINLINE void purge_meta(const struct page_arena_window *window, size_t word,
                                    struct page_arena_purged *done) {
    struct page_arena_group *group = &window->groups[word / 32];
    for (unsigned half = 0; half < 2 && !done->failed; half++) {
        uint64_t bit = UINT64_C(1) << (word % 32 * 2 + half);
        if ((atomic_load_explicit(&group->meta_used, memory_order_relaxed) & bit) == 0) {
            continue;
        }
        uint64_t slabs = UINT64_C(0xffffffff) << (half * 32);
        uint64_t seen = atomic_load_explicit(avail_word(window, word), memory_order_relaxed);
        if ((~seen & slabs) != 0 || (free_dirty(window, word) & slabs) != 0) {
            continue;
        }
        size_t first = word * 64 + half * 32;
        if (arena_claim_avail(window, first, ARENA_SUPERSLAB_SLABS)) {
            // The SuperSlab may have been in use since the look.
            bool clean = arena_count_dirty(window, first, ARENA_SUPERSLAB_SLABS) == 0;
            if (clean) {
                done->looks += ARENA_PURGE_CALL;
                done->failed = !purge_superslab(window, first);
            }
            arena_put_avail(window, first, ARENA_SUPERSLAB_SLABS, !clean);
        }
    }
}

// Returns true if a group has something to give back: free dirty slabs, or metadata of free
// SuperSlabs. Lowers the summaries to the true values.
static HAK_NOINLINE bool group_has_idle(const struct page_arena_window *window, size_t group,
                                        struct page_arena_purged *done) {
    struct page_arena_region *region = &window->regions[group / ARENA_REGION_GROUPS];
    uint64_t bit = UINT64_C(1) << group % ARENA_REGION_GROUPS;
    if (group_runs(window, group, true).longest > 0) {
        done->looks += ARENA_GROUP_SLABS / 64;
        if (arena_survey(window, group, true).longest > 0) {
            return true;
        }
    }
    if ((atomic_load(&region->meta) & bit) == 0) {
        return false;
    }
    if (atomic_load(&window->groups[group].meta_used) == 0) {
        atomic_fetch_and(&region->meta, ~bit);
        if (atomic_load(&window->groups[group].meta_used) != 0) {
            atomic_bitmap_put(&region->meta, bit); // used again before it was cleared
        }
        return false;
    }
    if (group_runs(window, group, false).longest < ARENA_SUPERSLAB_SLABS) {
        return false;
    }
    done->looks += ARENA_GROUP_SLABS / 64;
    return arena_survey(window, group, false).longest >= ARENA_SUPERSLAB_SLABS;
}

static HAK_NOINLINE bool region_has_idle(const struct page_arena_window *window, size_t group,
                                         struct page_arena_purged *done) {
    if (region_longest(window, group, true) > 0) {
        done->looks += ARENA_REGION_GROUPS;
        if (arena_survey_region(window, group, true) > 0) {
            return true;
        }
    }
    return atomic_load(&window->regions[group / ARENA_REGION_GROUPS].meta) != 0;
}

// Returns true if no slab of a group is held or dirty, and no metadata of the group is in use.
// Slabs that are not mapped are neither.
static bool is_unused(const struct page_arena_window *window, size_t group) {
    if (!is_group_open(group)) {
        return true;
    }
    if (atomic_load(&window->groups[group].meta_used) != 0) {
        return false;
    }
    for (size_t word = group * 32; word < (group + 1) * 32; word++) {
        uint64_t bits = atomic_load(avail_word(window, word));
        if ((atomic_load(&window->groups[group].mapped[word % 32]) & ~bits) != 0) {
            return false;
        }
        if ((bits & atomic_load(dirty_word(window, word))) != 0) {
            return false;
        }
    }
    return true;
}

// Brings `top` down past groups that are not used.
static HAK_NOINLINE void lower_top(const struct page_arena_window *window, size_t looks,
                                   struct page_arena_purged *done) {
    size_t top = atomic_load(&arena_state.top);
    while (top > 0 && done->looks < looks) {
        size_t group = top / ARENA_GROUP_SLABS - 1;
        done->looks += ARENA_GROUP_SLABS / 64;
        size_t below = group * ARENA_GROUP_SLABS;
        if (!is_unused(window, group) ||
            !atomic_compare_exchange_strong(&arena_state.top, &top, below)) {
            return;
        }
        // A claim in the group may have looked at `top` before it was lowered.
        if (!is_unused(window, group)) {
            load_max(&arena_state.top, top);
            return;
        }
        top = below;
    }
}

// A cursor from here on, beyond any window, stands for a note of a moved run at which to go on.
static const size_t settling = SIZE_MAX / 2;

struct page_arena_purged page_arena_purge(size_t *cursor, uint32_t age_ms, size_t budget,
                                          size_t looks) {
    enum { GROUP_WORDS = ARENA_GROUP_SLABS / 64, REGION_WORDS = ARENA_REGION_SLABS / 64 };
    struct page_arena_window window;
    struct page_arena_purged done = {0};
    uint32_t now = now_ms();
    size_t word = *cursor;
    if (word == 0) {
        arena_release_aside(true);
        arena_look_at_limits();
    }
    size_t words = page_arena_walk(&window) / 64;
    while (word < words && done.slabs < budget && done.looks < looks && !done.failed) {
        done.looks++;
        if (word % REGION_WORDS == 0 && !region_has_idle(&window, word / GROUP_WORDS, &done)) {
            word += REGION_WORDS;
        } else if (word % GROUP_WORDS == 0 && !group_has_idle(&window, word / GROUP_WORDS, &done)) {
            word += GROUP_WORDS;
        } else if (!is_group_open(word / GROUP_WORDS)) { // the cursor may be anywhere
            word = (word / GROUP_WORDS + 1) * GROUP_WORDS;
        } else {
            purge_word(&window, word, now, age_ms, budget, &done);
            if (done.slabs == budget) {
                break; // there may be more in this word
            }
            if (!done.failed) {
                purge_meta(&window, word, &done);
            }
            word++;
        }
    }
    if (word >= words) {
        size_t note = word < settling ? 0 : word - settling;
        bool more = words > 0 && !done.failed && arena_settle(&window, &note, looks, &done);
        word = more ? settling + note : 0;
        if (!more && words > 0) {
            lower_top(&window, looks, &done);
        }
    }
    *cursor = word;
    atomic_fetch_add_explicit(&arena_state.purged_slabs, done.slabs, memory_order_relaxed);
    return done;
}

// Not inlined, so that their locals are not on the stack during a purge.
static HAK_NOINLINE void lower_runs(const struct page_arena_window *window, size_t group) {
    arena_survey(window, group, true);
}

static HAK_NOINLINE void lower_region(const struct page_arena_window *window, size_t group) {
    arena_survey_region(window, group, true);
}

size_t page_arena_purge_highest(size_t most) {
    enum { LOOKS = 4096, GROUP_WORDS = ARENA_GROUP_SLABS / 64 };
    if (!page_arena_is_known()) {
        return 0;
    }
    // No copy of the window, because a free on a signal's stack, which is small, may come here.
    const struct page_arena_window *window = &page_arena_known.window;
    struct page_arena_purged done = {0};
    size_t group = page_arena_top() / ARENA_GROUP_SLABS;
    while (group > 0 && done.slabs < most && done.looks < most + LOOKS && !done.failed) {
        done.looks++;
        if (group % ARENA_REGION_GROUPS == 0 && region_longest(window, group - 1, true) == 0) {
            group -= ARENA_REGION_GROUPS;
            continue;
        }
        group--;
        if (group_runs(window, group, true).longest > 0) {
            for (size_t word = (group + 1) * GROUP_WORDS; word-- > group * GROUP_WORDS;) {
                done.looks++;
                purge_bits(window, word, free_dirty(window, word), most, true, &done);
                if (done.slabs == most || done.failed) {
                    break;
                }
            }
            if (done.slabs < most && !done.failed) {
                done.looks += GROUP_WORDS;
                lower_runs(window, group);
            }
        }
        if (group % ARENA_REGION_GROUPS == 0 && done.slabs < most && !done.failed) {
            done.looks += ARENA_REGION_GROUPS;
            lower_region(window, group);
        }
    }
    atomic_fetch_add_explicit(&arena_state.purged_slabs, done.slabs, memory_order_relaxed);
    return done.slabs;
}
