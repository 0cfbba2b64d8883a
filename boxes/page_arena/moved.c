// SPDX-License-Identifier: Apache-2.0
// moved: moves pages from one run to another by mremap(), and later merges the mappings that this
// leaves.
//
// The kernel remembers where moved pages came from, so a run that pages were moved to is a mapping
// of its own. If the run is mapped afresh, it merges with its neighbours. If only a part of it were
// mapped afresh, there would be more mappings than before. So the arena notes moved runs, and maps
// a noted run afresh as a whole, without its pages, when it is free: a purge does so, a holder that
// discards the run, and arena_settle(). So a heap has at most two more mappings for each run noted.
#include "boxes/page_arena/page_arena_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/diagnostics/diagnostics.h"

static const struct moved_run no_run = {0, 0};

static bool is_same(struct moved_run a, struct moved_run b) {
    return a.from == b.from && a.slabs == b.slabs;
}

static bool overlaps(struct moved_run a, struct moved_run b) {
    return a.from < b.from + b.slabs && b.from < a.from + a.slabs;
}

static bool is_within(struct moved_run inner, struct moved_run outer) {
    return inner.from >= outer.from && inner.from + inner.slabs <= outer.from + outer.slabs;
}

// How noted runs overlap held slabs: not at all, as whole runs only, or also as a part of a run.
enum noted { NOTED_NONE, NOTED_WHOLE, NOTED_PART };

static enum noted noted_in(struct moved_run held) {
    size_t end = moved_runs_count() == 0 ? 0 : moved_runs_end();
    enum noted noted = NOTED_NONE;
    for (size_t i = 0; i < end; i++) {
        struct moved_run run = moved_runs_at(i);
        if (run.slabs != 0 && overlaps(run, held)) {
            if (!is_within(run, held)) {
                return NOTED_PART;
            }
            noted = NOTED_WHOLE;
        }
    }
    return noted;
}

// Advises a run that was mapped afresh as its neighbours are advised: otherwise the kernel would
// not merge the mappings.
static void advise_again(const struct page_arena_window *window, struct moved_run run) {
    for (size_t at = run.from, next; at < run.from + run.slabs; at = next) {
        next = hak_min(hak_round_up(at + 1, ARENA_SUPERSLAB_SLABS), run.from + run.slabs);
        size_t superslab = at / ARENA_SUPERSLAB_SLABS;
        if (atomic_bitmap_test(&window->groups[superslab / ARENA_GROUP_SUPERSLABS].huge,
                               superslab % ARENA_GROUP_SUPERSLABS)) {
            os_huge_pages(page_arena_address(window, at), (next - at) << ARENA_SLAB_SHIFT, true);
        }
    }
}

static void forget_within(struct moved_run held) {
    size_t end = moved_runs_end();
    for (size_t i = 0; i < end; i++) {
        struct moved_run run = moved_runs_at(i);
        if (run.slabs != 0 && is_within(run, held)) {
            moved_runs_change(i, run, no_run);
        }
    }
}

// Maps held slabs afresh, and removes the notes of the runs in them.
static enum os_result refresh(const struct page_arena_window *window, struct moved_run held) {
    enum os_result result =
        os_refresh(page_arena_address(window, held.from), held.slabs << ARENA_SLAB_SHIFT);
    if (result == OS_LOST) {
        arena_mark_lost(window, held.from, held.slabs);
    } else if (result == OS_OK) {
        advise_again(window, held);
    }
    if (result != OS_NO_MEMORY) {
        forget_within(held);
    }
    return result;
}

enum os_result arena_refresh(const struct page_arena_window *window, size_t from, size_t slabs) {
    struct moved_run held = {from, slabs};
    return noted_in(held) == NOTED_PART ? OS_NO_MEMORY : refresh(window, held);
}

// Not inlined: arena_purge_for_good() ends in this call, and a signal's stack has to have room for
// the frames.
HAK_NOINLINE bool arena_purge_held(const struct page_arena_window *window, size_t from,
                                   size_t slabs) {
    if (os_purge(page_arena_address(window, from), slabs << ARENA_SLAB_SHIFT) != OS_OK) {
        return false;
    }
    arena_clear_dirty(window, from, slabs);
    return true;
}

// Returns true if unmapping a run of held slabs is worth while. Each run may cost a mapping, of
// which the kernel grants a process 65,530, so it is not worth while for short runs. Nor is it for
// a process that holds more than a limit that was lowered: the process would gain nothing.
static bool is_worth_unmapping(size_t slabs) {
    enum {
        UNMAP_RUNS = 4096, // a run of one part in so many of the limit is long enough
        REST = 8 << 20,    // bytes that a process has besides its heap
    };
    size_t limit = atomic_load_explicit(&arena_state.limit, memory_order_relaxed);
    return slabs << ARENA_SLAB_SHIFT >= limit / UNMAP_RUNS &&
           (counted_held() << ARENA_SLAB_SHIFT) + REST <= limit;
}

bool arena_unmap(const struct page_arena_window *window, size_t from, size_t slabs) {
    struct moved_run held = {from, slabs};
    if (HAK_LIKELY(atomic_load_explicit(&arena_state.limit, memory_order_relaxed) == 0)) {
        return false;
    }
    arena_look_at_limits(); // Limits may have changed, and os_unmap() costs much more than a look.
    if (!is_worth_unmapping(slabs) || noted_in(held) == NOTED_PART ||
        os_unmap(page_arena_address(window, from), slabs << ARENA_SLAB_SHIFT) != OS_OK) {
        return false;
    }
    arena_mark_lost(window, from, slabs);
    forget_within(held);
    return true;
}

bool arena_purge_for_good(const struct page_arena_window *window, size_t from, size_t slabs) {
    struct moved_run held = {from, slabs};
    bool tight = page_arena_is_tight();
    enum os_result result = OS_NO_MEMORY;
    if (arena_unmap(window, from, slabs)) {
        result = OS_OK;
    } else if (tight) {
        result = os_decommit(page_arena_address(window, from), slabs << ARENA_SLAB_SHIFT);
        if (result == OS_LOST) {
            arena_mark_lost(window, from, slabs);
        }
    } else if (noted_in(held) == NOTED_WHOLE) {
        result = refresh(window, held);
    }
    if (result == OS_NO_MEMORY) {
        // Counted here, and not in arena_purge_held(): a holder that keeps the slabs mostly does so
        // to copy or clear a sparsely used block, and the look would cost more than that.
        arena_note_emptied(window, from, slabs);
        return arena_purge_held(window, from, slabs);
    }
    arena_clear_dirty(window, from, slabs);
    return true;
}

// Maps the run of note `index` afresh, with all noted runs that overlap it, if all of these slabs
// are free and no more than `most` of them are dirty. Returns true if the run was mapped afresh.
// Adds the words that it read to *looks.
static bool settle_run(const struct page_arena_window *window, size_t index, size_t most,
                       size_t *looks) {
    struct moved_run run = moved_runs_at(index);
    size_t end = moved_runs_end();
    *looks += 1 + run.slabs / 64;
    if (run.slabs == 0 || !arena_all_avail(window, run.from, run.slabs) ||
        arena_count_dirty(window, run.from, run.slabs) > most) {
        return false;
    }
    *looks += end + ARENA_PURGE_CALL;
    for (size_t i = 0; i < end; i++) {
        struct moved_run other = moved_runs_at(i);
        if (other.slabs != 0 && overlaps(other, run) && !is_within(other, run)) {
            size_t last = hak_max(run.from + run.slabs, other.from + other.slabs);
            run.from = hak_min(run.from, other.from);
            run.slabs = last - run.from;
            i = (size_t)-1; // The wider run may overlap runs before this one: start again.
        }
    }
    if (!arena_all_avail(window, run.from, run.slabs) ||
        arena_count_dirty(window, run.from, run.slabs) > most ||
        !arena_claim_avail(window, run.from, run.slabs)) {
        return false;
    }
    size_t pages = arena_count_dirty(window, run.from, run.slabs);
    bool done =
        pages <= most && noted_in(run) == NOTED_WHOLE && refresh(window, run) != OS_NO_MEMORY;
    if (done && pages != 0) {
        arena_clear_dirty(window, run.from, run.slabs);
        count_slabs(0, -(ptrdiff_t)pages);
        atomic_fetch_add_explicit(&arena_state.purged_slabs, pages, memory_order_relaxed);
    }
    arena_put_avail(window, run.from, run.slabs, !done);
    return done;
}

// Makes room for a note by removing the note of a free run with no more than `most` dirty slabs.
// Looks at a few notes, from where the last call ended. Returns false if none could be removed.
static bool settle_one(const struct page_arena_window *window, size_t most) {
    enum { NOTES = 64 };
    size_t end = moved_runs_end();
    size_t at = atomic_load_explicit(&arena_state.settled, memory_order_relaxed);
    size_t looks = 0;
    bool done = false;
    for (size_t i = 0; i < hak_min(NOTES, end) && !done; i++, at++) {
        at = at < end ? at : 0;
        done = settle_run(window, at, most, &looks);
    }
    atomic_store_explicit(&arena_state.settled, at, memory_order_relaxed);
    return done;
}

bool arena_settle(const struct page_arena_window *window, size_t *note, size_t looks,
                  struct page_arena_purged *done) {
    size_t end = page_arena_is_tight() || moved_runs_count() == 0 ? 0 : moved_runs_end();
    for (; *note < end; ++*note) {
        if (done->looks >= looks) {
            return true;
        }
        settle_run(window, *note, 0, &done->looks);
    }
    return false;
}

// Updates the notes after pages were moved from `from` to `to`, which is noted already. Pages that
// were several mappings are several mappings at the new place too, so their notes move along. The
// old place, if it was noted, is mapped afresh, so that it merges with its neighbours.
static void note_move(const struct page_arena_window *window, struct moved_run from,
                      struct moved_run to) {
    bool noted = false;
    bool is_source = noted_in(from) == NOTED_WHOLE;
    size_t end = moved_runs_end();
    for (size_t i = 0; i < end; i++) {
        struct moved_run run = moved_runs_at(i);
        if (run.slabs == 0) {
            continue;
        }
        if (is_same(run, to) && !noted) {
            noted = true;
        } else if (is_within(run, to)) {
            moved_runs_change(i, run, no_run);
        } else if (is_source && is_within(run, from) && !is_same(run, from)) {
            moved_runs_change(i, run,
                              (struct moved_run){run.from - from.from + to.from, run.slabs});
        }
    }
    if (is_source) {
        refresh(window, from);
    }
}

static void forget(struct moved_run run) {
    size_t end = moved_runs_end();
    size_t i = 0;
    while (i < end && !(is_same(moved_runs_at(i), run) && moved_runs_change(i, run, no_run))) {
        i++;
    }
}

bool page_arena_move(size_t from, size_t to, size_t slabs) {
    struct page_arena_window window = page_arena_get_window();
    struct moved_run source = {from, slabs};
    struct moved_run run = {to, slabs};
    // Runs with up to `slabs` dirty slabs may lose their pages to make room for the note: without a
    // note the caller would have to copy as many pages.
    if (!moved_runs_add(run) && !(settle_one(&window, slabs) && moved_runs_add(run))) {
        return false;
    }
    // If the source contains only a part of a noted run, it is several mappings, which would move
    // along without a note.
    if (noted_in(source) == NOTED_PART) {
        forget(run);
        return false;
    }
    enum os_result result = os_move(page_arena_address(&window, from),
                                    page_arena_address(&window, to), slabs << ARENA_SLAB_SHIFT);
    if (result == OS_LOST) {
        diag_broken(__func__, "the kernel took a part of the heap and would not give it back");
    }
    if (result != OS_OK) {
        forget(run);
        return false;
    }
    arena_clear_dirty(&window, from, slabs);
    note_move(&window, source, run);
    atomic_fetch_add_explicit(&arena_state.moved_slabs, slabs, memory_order_relaxed);
    return true;
}
