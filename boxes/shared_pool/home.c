// SPDX-License-Identifier: Apache-2.0
// home: SuperSlabs that few threads have for themselves.
//
// A thread that meets others in its searches joins a group. It claims a whole SuperSlab as a home
// of its group, and the group's threads take their slabs from there. Slabs of a home that are not
// in use yet are spare. No summary leads to a home, so other threads' searches do not look at its
// lines. Other threads put blocks back there as anywhere. A home belongs to a group and not to one
// thread, because free blocks that only one thread finds cost memory.
//
// A home becomes common again when the decay finds that it has not been used for a while, when
// memory is short or is to be given back, and when its group has more homes than it may have. Its
// spare slabs go back to the arena then. The thread that clears a bit of `spare` has the slab.
// Groups do not end: threads that come later join them.
#include "boxes/shared_pool/shared_pool_internal.h"

#include "backends/os.h"
#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/settings/settings.h"

// Build setting: the threads in a group, if there is one thread for each processor.
#ifndef SHARED_POOL_GROUP_THREADS
#    define SHARED_POOL_GROUP_THREADS 4
#endif

enum { HOMES = SHARED_POOL_HOMES == 0 ? 1 : SHARED_POOL_HOMES }; // places for homes in a group

// A line for each group.
static struct {
    alignas(HAK_CACHE_LINE) _Atomic(size_t) at[HOMES]; // first slabs of homes, plus 1; 0: none
    _Atomic(uint32_t) next;                            // the place that the next home gets
} groups[POOL_GROUPS];

// Threads that have joined a group so far.
static _Atomic(uint32_t) joined;

void pool_meet(struct shared_pool_company *company) {
    enum { THREADS_EACH = SHARED_POOL_GROUP_THREADS };
    static _Atomic(uint32_t) known; // groups, plus 1
    uint32_t most = atomic_load_explicit(&known, memory_order_relaxed);
    if (HAK_UNLIKELY(most == 0)) {
        unsigned cores = os_processors();
        most = cores < SHARED_POOL_HOMES_CORES
                   ? 1
                   : (uint32_t)hak_min(hak_max(cores / THREADS_EACH, 2), POOL_GROUPS) + 1;
        atomic_store_explicit(&known, most, memory_order_relaxed);
    }
    if (most > 1 && ++company->met == POOL_MET_MANY) {
        company->group =
            (uint8_t)(atomic_fetch_add_explicit(&joined, 1, memory_order_relaxed) % (most - 1));
    }
}

static uint32_t owner_of(unsigned group) {
    return group + 1;
}

// Frees the place of a home that is no longer the group's. Returns ARENA_NONE.
static HAK_NOINLINE HAK_COLD size_t forget(_Atomic(size_t) *at, size_t noted) {
    atomic_compare_exchange_strong(at, &noted, 0);
    return ARENA_NONE;
}

// Returns the first slab of the home at that place. Returns ARENA_NONE if there is no home, or if
// it is no longer the group's.
static size_t home_at(const struct page_arena_window *window, unsigned group, unsigned place) {
    _Atomic(size_t) *at = &groups[group].at[place];
    size_t noted = atomic_load(at);
    if (noted != 0 && atomic_load(&superslab_at(window, noted - 1)->owner) != owner_of(group)) {
        return forget(at, noted);
    }
    return noted - 1;
}

static void use_home(struct superslab *superslab) {
    if (atomic_load_explicit(&superslab->idle, memory_order_relaxed) != 0) {
        atomic_store_explicit(&superslab->idle, 0, memory_order_relaxed);
    }
}

size_t pool_find_home(const struct page_arena_window *window, unsigned bin, unsigned group) {
    size_t found = ARENA_NONE;
    for (unsigned i = 0; i < HOMES; i++) {
        size_t first = home_at(window, group, i);
        if (first == ARENA_NONE) {
            continue;
        }
        struct superslab *superslab = superslab_at(window, first);
        uint32_t listed = atomic_load_explicit(&superslab->listed[bin], memory_order_relaxed);
        for (; listed != 0; listed &= listed - 1) {
            size_t at = (size_t)__builtin_ctz(listed);
            found = found == ARENA_NONE ? first + at : found;
            if (pool_other_taker(superslab, at) == 0) {
                use_home(superslab);
                return first + at;
            }
        }
    }
    if (found != ARENA_NONE) {
        use_home(superslab_at(window, found));
    }
    return found;
}

bool pool_has_spare(const struct page_arena_window *window, unsigned group) {
    for (unsigned i = 0; i < HOMES; i++) {
        size_t first = home_at(window, group, i);
        if (first != ARENA_NONE &&
            atomic_load_explicit(&superslab_at(window, first)->spare, memory_order_relaxed) != 0) {
            return true;
        }
    }
    return false;
}

// Returns the dirty slabs of a SuperSlab, as bits. Exact for slabs that the caller holds.
static uint32_t dirty_of(const struct page_arena_window *window, size_t first) {
    atomic_bitmap_word *dirty = window->groups[first / ARENA_GROUP_SLABS].dirty;
    size_t at = first % ARENA_GROUP_SLABS;
    return (uint32_t)(atomic_load_explicit(&dirty[at / 64], memory_order_relaxed) >> at % 64);
}

// Takes a spare slab of a SuperSlab: the lowest one that has pages, or else the lowest. Returns
// ARENA_NONE if there is none.
static size_t take_spare(const struct page_arena_window *window, size_t first, bool *zero) {
    _Atomic(uint32_t) *spare = &superslab_at(window, first)->spare;
    for (uint32_t bits; (bits = atomic_load(spare)) != 0;) {
        uint32_t dirty = bits & dirty_of(window, first);
        uint32_t chosen = dirty != 0 ? dirty : bits;
        chosen &= -chosen;
        if ((atomic_fetch_and(spare, ~chosen) & chosen) != 0) {
            *zero = dirty == 0;
            return first + (unsigned)__builtin_ctz(chosen);
        }
    }
    return ARENA_NONE;
}

static void give_spare(const struct page_arena_window *window, size_t first) {
    _Atomic(uint32_t) *spare = &superslab_at(window, first)->spare;
    uint64_t bits = atomic_load(spare) == 0 ? 0 : atomic_exchange(spare, 0);
    while (bits != 0) {
        unsigned from = (unsigned)__builtin_ctzll(bits);
        unsigned count = (unsigned)__builtin_ctzll(~(bits >> from));
        page_arena_release(first + from, count, false);
        bits &= ~(((UINT64_C(1) << count) - 1) << from);
    }
}

void pool_give_slab(const struct page_arena_window *window, size_t slab) {
    enum { KEPT_MOST = 2 }; // spare slabs with pages
    if (!is_home(window, slab)) {
        page_arena_release(slab, 1, true);
        return;
    }
    size_t first = slab / ARENA_SUPERSLAB_SLABS * ARENA_SUPERSLAB_SLABS;
    struct superslab *superslab = superslab_at(window, first);
    uint32_t spare = atomic_load_explicit(&superslab->spare, memory_order_relaxed);
    if (__builtin_popcount(spare & dirty_of(window, first)) >= KEPT_MOST) {
        page_arena_release(slab, 1, true);
        return;
    }
    atomic_bitmap_ensure_run(window->groups[slab / ARENA_GROUP_SLABS].dirty,
                             slab % ARENA_GROUP_SLABS, 1);
    atomic_fetch_or(&superslab->spare, UINT32_C(1) << slab % ARENA_SUPERSLAB_SLABS);
    if (atomic_load(&superslab->owner) == 0) {
        give_spare(window, first); // the thread that has left the home may have looked before
    }
}

// Makes a home common, if it still is the owner's.
static void leave(const struct page_arena_window *window, size_t first, uint32_t owner) {
    struct superslab *superslab = superslab_at(window, first);
    if (!atomic_compare_exchange_strong(&superslab->owner, &owner, 0)) {
        return;
    }
    // Threads with homes take from common slabs only if no other thread takes from them.
    for (unsigned i = 0; i < ARENA_SUPERSLAB_SLABS; i++) {
        atomic_store_explicit(&superslab->taker[i], 0, memory_order_relaxed);
    }
    give_spare(window, first);
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        if (atomic_load(&superslab->listed[bin]) != 0) {
            pool_summarize(window, first, bin);
        }
    }
}

void pool_visit_home(const struct page_arena_window *window, size_t first, bool all) {
    enum { IDLE_MOST = 4 };
    struct superslab *superslab = superslab_at(window, first);
    uint32_t owner = atomic_load_explicit(&superslab->owner, memory_order_relaxed);
    if (SHARED_POOL_HOMES == 0 || HAK_LIKELY(owner == 0)) {
        return;
    }
    uint32_t idle = atomic_load_explicit(&superslab->idle, memory_order_relaxed);
    if (idle == IDLE_MOST) {
        leave(window, first, owner);
        return;
    }
    atomic_store_explicit(&superslab->idle, idle + 1, memory_order_relaxed);
    if (all) {
        give_spare(window, first);
    }
}

void shared_pool_leave_homes(void) {
    if (!shared_pool_has_homes()) {
        return;
    }
    struct page_arena_window window;
    size_t high = page_arena_walk(&window);
    for (size_t first = 0; first < high; first += ARENA_SUPERSLAB_SLABS) {
        if (superslab_known(&window, first) && is_home(&window, first)) {
            leave(&window, first, atomic_load(&superslab_at(&window, first)->owner));
        }
    }
}

// Claims a SuperSlab. Returns ARENA_NONE while more than a few free slabs have pages, because a
// home would leave these unused. Also returns ARENA_NONE under HAKMEM_LIMIT and in a tight process,
// where the slabs of a home would be missing elsewhere.
static size_t claim_superslab(bool huge) {
    enum { DIRTY_LEAST = ARENA_SUPERSLAB_SLABS, DIRTY_SHARE = 128 }; // of what is claimed
    if (settings_get(SETTING_LIMIT) != 0 || page_arena_is_tight() ||
        page_arena_dirty() > hak_max(DIRTY_LEAST, page_arena_claimed() / DIRTY_SHARE)) {
        return ARENA_NONE;
    }
    bool zero;
    if (!huge) {
        return page_arena_claim(ARENA_SUPERSLAB_SLABS, ARENA_SUPERSLAB, &zero);
    }
    pool_mark_dense();
    return page_arena_claim_filled(ARENA_SUPERSLAB_SLABS, ARENA_SUPERSLAB, &zero);
}

// A group's first homes are not on huge pages: they may never be full.
static size_t make_home(const struct page_arena_window *window, unsigned group, bool huge) {
    unsigned place = atomic_load_explicit(&groups[group].next, memory_order_relaxed) % HOMES;
    size_t first = claim_superslab(huge && home_at(window, group, place) != ARENA_NONE);
    if (first == ARENA_NONE) {
        return ARENA_NONE;
    }
    struct superslab *superslab = superslab_at(window, first);
    atomic_store_explicit(&superslab->idle, 0, memory_order_relaxed);
    atomic_store(&superslab->spare, UINT32_MAX);
    atomic_store(&superslab->owner, owner_of(group));
    pool_share_totals();
    atomic_fetch_add_explicit(&groups[group].next, 1, memory_order_relaxed);
    size_t old = atomic_exchange(&groups[group].at[place], first + 1);
    if (old != 0) {
        leave(window, old - 1, owner_of(group));
    }
    return first;
}

size_t pool_claim_home(unsigned group, bool huge, bool *zero) {
    const struct page_arena_window window = page_arena_get_window();
    size_t slab = ARENA_NONE;
    for (unsigned i = 0; i < HOMES && slab == ARENA_NONE; i++) {
        size_t first = home_at(&window, group, i);
        slab = first == ARENA_NONE ? ARENA_NONE : take_spare(&window, first, zero);
    }
    if (slab == ARENA_NONE) {
        size_t first = make_home(&window, group, huge);
        slab = first == ARENA_NONE ? ARENA_NONE : take_spare(&window, first, zero);
    }
    if (slab != ARENA_NONE) {
        use_home(superslab_at(&window, slab));
    }
    return slab;
}
