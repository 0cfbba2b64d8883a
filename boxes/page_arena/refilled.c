// SPDX-License-Identifier: Apache-2.0
// refilled: puts SuperSlabs that are filled again on huge pages.
//
// A program that frees much and allocates as much again, such as a large temporary or a burst of
// blocks, pays twice for each page: when the page goes back and when it is touched anew. The memory
// is not kept, because nobody knows when the program will want it. But one fault for 2 MiB costs a
// sixth of 512 faults. So if nearly all of a SuperSlab was in memory when its pages went back, the
// SuperSlab is advised huge pages when it is put to use again as a whole: the program has shown
// that it fills the SuperSlab.
#include "boxes/page_arena/page_arena_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"

static void put_rest(const struct page_arena_window *window, struct moved_run all, size_t from,
                     size_t end) {
    if (from != all.from) {
        arena_put_avail(window, all.from, from - all.from, false);
    }
    if (end != all.from + all.slabs) {
        arena_put_avail(window, end, all.from + all.slabs - end, false);
    }
}

// Claims the slabs of a SuperSlab except [from, end), which the caller holds. Returns false if one
// of them is in use.
static bool claim_rest(const struct page_arena_window *window, struct moved_run all, size_t from,
                       size_t end) {
    size_t below = from - all.from;
    size_t above = all.from + all.slabs - end;
    if (below != 0 && !arena_claim_avail(window, all.from, below)) {
        return false;
    }
    if (above != 0 && !arena_claim_avail(window, end, above)) {
        put_rest(window, all, from, all.from + all.slabs);
        return false;
    }
    return true;
}

// Maps a SuperSlab afresh, with the advice; the caller holds all its slabs. (If it were only
// advised, a table of small pages might keep a huge page out.) A SuperSlab whose neighbour is not
// advised may be a mapping of its own from then on, so the number of such SuperSlabs is bounded.
static void refresh_huge(const struct page_arena_window *window, struct moved_run all) {
    enum { SHARE = 1024 }; // of the mappings that the kernel grants
    size_t superslab = all.from / ARENA_SUPERSLAB_SLABS;
    size_t before = superslab - 1; // It may be in a piece that is not open.
    bool alone = !is_huge(window, superslab) &&
                 !(is_group_open(before / ARENA_GROUP_SUPERSLABS) && is_huge(window, before));
    if (alone && atomic_fetch_add_explicit(&arena_state.pieces, 1, memory_order_relaxed) >=
                     os_most_mappings() / SHARE) {
        return;
    }
    arena_mark_huge(window, all.from, all.slabs);
    if (arena_refresh(window, all.from, all.slabs) != OS_NO_MEMORY) {
        atomic_fetch_add_explicit(&arena_state.refilled, 1, memory_order_relaxed);
    }
}

// As above, without the advice.
static void refresh_small(const struct page_arena_window *window, struct moved_run all) {
    size_t superslab = all.from / ARENA_SUPERSLAB_SLABS;
    atomic_fetch_and(&window->groups[superslab / ARENA_GROUP_SUPERSLABS].huge,
                     ~(UINT64_C(1) << superslab % ARENA_GROUP_SUPERSLABS));
    if (arena_refresh(window, all.from, all.slabs) == OS_NO_MEMORY) {
        arena_mark_huge(window, all.from, all.slabs);
    }
}

static bool is_committed(const struct page_arena_window *window, size_t superslab) {
    return atomic_bitmap_test(&window->groups[superslab / ARENA_GROUP_SUPERSLABS].committed,
                              superslab % ARENA_GROUP_SUPERSLABS);
}

// Maps the SuperSlab of the held slabs [from, end) afresh, if its other slabs are free and none of
// its slabs has pages.
static HAK_NOINLINE void refresh_around(const struct page_arena_window *window, size_t from,
                                        size_t end, bool huge) {
    size_t superslab = from / ARENA_SUPERSLAB_SLABS;
    struct moved_run all = {superslab * ARENA_SUPERSLAB_SLABS, ARENA_SUPERSLAB_SLABS};
    if (!is_committed(window, superslab) || !os_purges_in_place() ||
        !claim_rest(window, all, from, end)) {
        return;
    }
    bool filled = arena_take_was_filled(window, superslab);
    // Where slabs are gone, another mapping may be by now, which must not be replaced.
    if (arena_count_dirty(window, all.from, all.slabs) == 0 &&
        !arena_any_gone(window, all.from, all.slabs)) {
        if (!huge) {
            refresh_small(window, all);
        } else if (filled) {
            refresh_huge(window, all);
        }
    }
    put_rest(window, all, from, end);
}

void arena_make_huge_again(const struct page_arena_window *window, size_t from, size_t slabs) {
    size_t end = from + slabs;
    for (size_t at = from, next; at < end; at = next) {
        next = hak_min(hak_round_up(at + 1, ARENA_SUPERSLAB_SLABS), end);
        if (HAK_UNLIKELY(arena_is_judged(window, at / ARENA_SUPERSLAB_SLABS))) {
            refresh_around(window, at, next, true);
        }
    }
}

bool page_arena_use_sparsely(size_t from, size_t slabs) {
    struct page_arena_window window = page_arena_get_window();
    size_t end = from + slabs;
    for (size_t at = from, next; at < end && may_be_huge(); at = next) {
        next = hak_min(hak_round_up(at + 1, ARENA_SUPERSLAB_SLABS), end);
        if (HAK_UNLIKELY(is_huge(&window, at / ARENA_SUPERSLAB_SLABS))) {
            refresh_around(&window, at, next, false);
        }
    }
    return arena_map_lost(&window, from, slabs) == OS_OK;
}
