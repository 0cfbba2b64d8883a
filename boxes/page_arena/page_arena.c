// SPDX-License-Identifier: Apache-2.0
#include "boxes/page_arena/page_arena_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/dirty_ceiling/dirty_ceiling.h"
#include "boxes/run_cache/run_cache.h"

// Properties of a claim.
struct wish {
    bool huge;    // advise huge pages
    bool again;   // advise them to SuperSlabs that were filled before
    bool bare;    // without rights, if the process is tight
    bool counted; // the slabs of the claim are counted as held already
};

// For a tight process that was refused memory: gives back the pages of free slabs, and with the
// pages their rights, which the kernel counts as data. Returns true if there were such slabs.
static bool give_rights_back(void) {
    size_t cursor = 0;
    size_t given = 0;
    do {
        given += page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX).slabs;
    } while (cursor != 0);
    return given != 0;
}

static bool give_rights(void *at, size_t bytes) {
    return os_commit_alone(at, bytes) == OS_OK ||
           (give_rights_back() && os_commit_alone(at, bytes) == OS_OK);
}

// Returns true if held slabs can be used at once: their SuperSlabs are mapped, have rights, and
// have metadata marked as in use. Returns false for runs that cross groups, and in a tight process.
static bool is_ready(const struct page_arena_window *window, size_t from, size_t slabs) {
    size_t first = from % ARENA_GROUP_SLABS;
    if (page_arena_is_tight() || slabs > ARENA_GROUP_SLABS - first) {
        return false;
    }
    struct page_arena_group *group = &window->groups[from / ARENA_GROUP_SLABS];
    uint64_t ready = atomic_load_explicit(&group->committed, memory_order_relaxed) &
                     atomic_load_explicit(&group->meta_used, memory_order_relaxed) &
                     ~atomic_load_explicit(&group->lost, memory_order_relaxed);
    uint64_t mask = superslab_mask(first, slabs);
    return (ready & mask) == mask;
}

// Marks the metadata of the first and of the last slab: a run is looked up by its first slab, and
// may be cut in two.
HAK_INLINE void use_meta(const struct page_arena_window *window, size_t from, size_t slabs) {
    arena_use_meta(window, from);
    size_t last = from + slabs - 1;
    if (last / ARENA_SUPERSLAB_SLABS != from / ARENA_SUPERSLAB_SLABS) {
        arena_use_meta(window, last);
    }
}

static HAK_NOINLINE enum os_result make_ready(const struct page_arena_window *window, size_t from,
                                              size_t slabs, const struct wish *wish) {
    enum os_result result = arena_commit(window, from, slabs, wish->huge);
    if (result != OS_OK) {
        return result;
    }
    if (page_arena_is_tight() && !wish->bare &&
        !give_rights(page_arena_address(window, from), slabs << ARENA_SLAB_SHIFT)) {
        return OS_NO_MEMORY;
    }
    use_meta(window, from, slabs);
    return OS_OK;
}

// Undoes a claim that ended in `result`: releases its slabs, except those that are gone for good.
static HAK_COLD void undo_claim(const struct page_arena_window *window, size_t from, size_t slabs,
                                enum os_result result) {
    if (result == OS_TAKEN) {
        arena_put_mapped(window, from, slabs);
    } else {
        arena_put_avail(window, from, slabs, true);
    }
}

// Ends a claim: counts and commits its slabs, and sets *zero to true if all of them are clean. If
// the result is not OS_OK, the slabs are released; after OS_TAKEN the claim may be tried again.
static HAK_NOINLINE enum os_result finish_claim(const struct page_arena_window *window, size_t from,
                                                size_t slabs, const struct wish *wish, bool *zero) {
    if (wish->again) {
        arena_make_huge_again(window, from, slabs);
    }
    size_t end = hak_round_up(from + slabs, ARENA_GROUP_SLABS);
    if (atomic_load(&arena_state.top) < end) {
        load_max(&arena_state.top, end);
    }
    if (HAK_UNLIKELY(!is_ready(window, from, slabs))) {
        enum os_result result = make_ready(window, from, slabs, wish);
        if (result != OS_OK) {
            undo_claim(window, from, slabs, result);
            return result;
        }
    }
    size_t dirty = arena_count_dirty(window, from, slabs);
    size_t held = wish->counted ? 0 : slabs;
    if (dirty + held > 0) {
        count_slabs((ptrdiff_t)held, -(ptrdiff_t)dirty);
    }
    dirty_ceiling_count_claimed(slabs, dirty);
    *zero = dirty == 0;
    return OS_OK;
}

// Under HAKMEM_LIMIT, counts slabs that are about to be claimed, and makes room for them by taking
// the pages of free slabs. Returns false if that is not enough. Without a limit the end of the
// claim counts the slabs.
static bool take_quota(size_t slabs, struct wish *wish) {
    size_t limit = limit_slabs();
    wish->counted = limit != 0;
    if (HAK_LIKELY(limit == 0)) {
        return true;
    }
    // One atomic step checks and adds, so that a request which fits is not refused because of one
    // which does not.
    uint64_t counts = atomic_load(&arena_state.counts);
    size_t held;
    do {
        held = (uint32_t)counts;
        if (held > limit || slabs > limit - held) {
            return false;
        }
    } while (!atomic_compare_exchange_weak(&arena_state.counts, &counts, counts + slabs));
    held += slabs;
    size_t cursor = 0;
    while (held + page_arena_dirty() > limit) {
        size_t over = held + page_arena_dirty() - limit;
        if (page_arena_purge(&cursor, 0, over, SIZE_MAX).failed || cursor == 0) {
            break; // other threads purge, or have claimed the free slabs
        }
    }
    return true;
}

static void give_quota(size_t slabs, const struct wish *wish) {
    if (wish->counted) {
        count_slabs(-(ptrdiff_t)slabs, 0);
    }
}

// Claims the lowest run that fits, of existing slabs or of new ones. Returns ARENA_NONE if the
// kernel refuses new ones. The caller finishes the claim.
static HAK_NOINLINE size_t claim(const struct page_arena_window *window, size_t slabs, size_t align,
                                 bool huge) {
    if (align > window->slabs << ARENA_SLAB_SHIFT) {
        return ARENA_NONE;
    }
    bool looked_aside = false;
    bool looked_everywhere = false;
    for (;;) {
        size_t from = ARENA_NONE;
        if (counted_dirty() >= slabs) {
            from = arena_find_run(window, slabs, align, true);
        }
        if (from == ARENA_NONE) {
            // Slabs with pages come before slabs without. Tried only once, because other threads
            // may set slabs aside all the time.
            if (!looked_aside) {
                looked_aside = true;
                if (arena_release_aside(false)) {
                    continue;
                }
            }
            from = arena_find_run(window, slabs, align, false);
        }
        if (from != ARENA_NONE) {
            return from;
        }
        if (!looked_everywhere) {
            looked_everywhere = true;
            if (arena_release_aside(true)) {
                continue;
            }
        }
        if (arena_grow(window, slabs, align, huge) == OS_NO_MEMORY &&
            !(page_arena_is_tight() && give_rights_back())) {
            return ARENA_NONE;
        }
    }
}

static size_t claim_and_finish(const struct page_arena_window *window, size_t slabs, size_t align,
                               const struct wish *wish, bool *zero) {
    for (;;) {
        size_t from = claim(window, slabs, align, wish->huge);
        enum os_result result =
            from == ARENA_NONE ? OS_NO_MEMORY : finish_claim(window, from, slabs, wish, zero);
        if (result != OS_TAKEN) {
            return result == OS_OK ? from : ARENA_NONE;
        }
    }
}

static size_t claim_held(size_t slabs, size_t align, struct wish wish, bool *zero) {
    struct page_arena_window window = page_arena_get_window();
    if (slabs > window.slabs || !take_quota(slabs, &wish)) {
        return ARENA_NONE;
    }
    size_t from = claim_and_finish(&window, slabs, hak_max(align, ARENA_SLAB), &wish, zero);
    if (from == ARENA_NONE) {
        give_quota(slabs, &wish);
    }
    return from;
}

size_t page_arena_claim(size_t slabs, size_t align, bool *zero) {
    return claim_held(slabs, align, (struct wish){0}, zero);
}

void page_arena_mark_dense(bool dense) {
    if (atomic_load_explicit(&arena_state.dense, memory_order_relaxed) != dense) {
        atomic_store_explicit(&arena_state.dense, dense, memory_order_relaxed);
    }
}

bool page_arena_is_dense(void) {
    return atomic_load_explicit(&arena_state.dense, memory_order_relaxed);
}

void page_arena_count_sparse(ptrdiff_t slabs) {
    atomic_fetch_add_explicit(&arena_state.sparse, (size_t)slabs, memory_order_relaxed);
}

size_t page_arena_sparse(void) {
    return atomic_load_explicit(&arena_state.sparse, memory_order_relaxed);
}

static bool wants_huge(void) {
    return page_arena_is_dense() && may_be_huge();
}

static bool is_again(void) {
    return PAGE_ARENA_HUGE_AGAIN != 0 && may_be_huge();
}

size_t page_arena_claim_filled(size_t slabs, size_t align, bool *zero) {
    struct wish wish = {.huge = wants_huge(), .again = is_again()};
    return claim_held(slabs, align, wish, zero);
}

size_t page_arena_claim_again(size_t slabs, size_t align, bool *zero) {
    return claim_held(slabs, align, (struct wish){.again = is_again()}, zero);
}

size_t page_arena_claim_bare(bool *zero) {
    return claim_held(1, ARENA_SLAB, (struct wish){.bare = true}, zero);
}

bool page_arena_give_rights(size_t slab, unsigned page, unsigned pages) {
    struct page_arena_window window = page_arena_get_window();
    return give_rights((char *)page_arena_address(&window, slab) + ((size_t)page << HAK_PAGE_SHIFT),
                       (size_t)pages << HAK_PAGE_SHIFT);
}

size_t page_arena_reuse(size_t slabs) {
    static_assert(RUN_CACHE_NONE == ARENA_NONE, "no run is no slab");
    size_t from = run_cache_take(slabs);
    if (from != ARENA_NONE) { // The run may be a part of the one that was set aside.
        struct page_arena_window room;
        use_meta(page_arena_the_window(&room), from, slabs);
    }
    return from;
}

// Returns how many slabs a thread may have set aside. Few, if it is the only thread that sets slabs
// aside: then the bits of free slabs are in its processor's cache, and searching them is as quick.
// If there are several such threads, all together have one part in ASIDE_SHARE of what is held.
static size_t aside_most(void) {
    enum { ASIDE_ALONE = 64, ASIDE_LEAST = 8, ASIDE_ALL = 40, ASIDE_SHARE = 4 };
    unsigned lines = run_cache_lines();
    if (lines == 1) {
        return hak_min(ASIDE_ALONE, RUN_CACHE_MOST);
    }
    size_t share = hak_max(ASIDE_ALL, counted_held() / ASIDE_SHARE) / lines;
    return hak_min(hak_max(share, ASIDE_LEAST), RUN_CACHE_MOST);
}

void page_arena_set_aside(size_t from, size_t slabs, unsigned slot) {
    // Under a limit, slabs set aside would be missing elsewhere.
    if (limit_slabs() != 0) {
        page_arena_release(from, slabs, true);
        return;
    }
    size_t most = aside_most();
    struct run_cache_run run = run_cache_put(slot, from, slabs, most);
    // Bounded, because other threads may fill the line as quickly as this one empties it.
    for (unsigned i = 0; run.slabs != 0; i++) {
        page_arena_release(run.from, run.slabs, true);
        run = i < RUN_CACHE_WAYS ? run_cache_evict(slot, most) : (struct run_cache_run){0};
    }
}

bool page_arena_claim_at(size_t from, size_t slabs, bool *zero) {
    struct page_arena_window window = page_arena_get_window();
    if (from > page_arena_high() || slabs > window.slabs - from) {
        return false;
    }
    struct wish wish = {.huge = wants_huge()};
    if (!take_quota(slabs, &wish)) {
        return false;
    }
    if ((try_claim(&window, from, slabs) ||
         (arena_release_aside(false) && try_claim(&window, from, slabs)) ||
         (arena_grow_at(&window, from, slabs, wish.huge) && try_claim(&window, from, slabs))) &&
        finish_claim(&window, from, slabs, &wish, zero) == OS_OK) {
        return true;
    }
    give_quota(slabs, &wish);
    return false;
}

// Gives back the pages of up to `most` free slabs. Slabs that have been free for a while come
// first: in a fragmented heap, slabs just freed at the top may be all that large claims can use.
// The highest slabs, which a claim would take last, come second.
static size_t give_back(size_t most) {
    enum { WHILE_MS = 50, LOOKS = 32 * ARENA_PURGE_CALL };
    size_t word = hak_max(atomic_load_explicit(&arena_state.given_word, memory_order_relaxed), 1);
    size_t got = page_arena_purge(&word, WHILE_MS, most, LOOKS).slabs;
    atomic_store_explicit(&arena_state.given_word, word, memory_order_relaxed);
    return got == most ? got : got + page_arena_purge_highest(most - got);
}

size_t page_arena_limit(void) {
    return atomic_load_explicit(&arena_state.limit, memory_order_relaxed) >> ARENA_SLAB_SHIFT;
}

// Returns how many free slabs with pages go back because of a limit on address space or data,
// although the program, if it works in phases, would use them again. They and the held slabs may
// take an eighth of the limit. The slabs that stay in any case are a share of a small limit, too: a
// thread's stack may need the rest.
static size_t over_limit(size_t dirty, size_t held) {
    enum { LEAST_SHARE = 32, STEP_SHARE = 64 };
    size_t limit = page_arena_limit(), share = limit / 8;
    size_t step = hak_min(limit / STEP_SHARE + 1, DIRTY_CEILING_STEP);
    size_t kept = hak_min(limit / LEAST_SHARE, DIRTY_CEILING_LEAST);
    kept = hak_max(kept, held / DIRTY_CEILING_SHARE);
    if (HAK_LIKELY(limit == 0) || held + dirty < share + step || dirty < kept + step) {
        return 0;
    }
    return hak_min(hak_min(dirty - kept, held + dirty - share), DIRTY_CEILING_MOST);
}

// Called after `freed` slabs with pages have become free. Gives the pages of those above the
// ceiling back to the kernel.
static void keep_ceiling(size_t freed, uint32_t now) {
    int64_t decay = settings_get(SETTING_DECAY_MS);
    if (decay < 0 || settings_get(SETTING_BACKGROUND) != 0) {
        return;
    }
    size_t dirty = counted_dirty();
    size_t held = counted_held();
    if (HAK_HARDENED) { // There, empty slabs that stay with their bin are held without a page.
        held -= hak_min(held, page_arena_sparse());
    }
    size_t surplus =
        dirty_ceiling_surplus(dirty, held, freed, now, (uint32_t)hak_max((size_t)decay, 1));
    surplus = hak_max(surplus, over_limit(dirty, held));
    if (HAK_UNLIKELY(surplus != 0)) {
        dirty_ceiling_count_given(dirty, surplus, give_back(surplus));
    }
}

void page_arena_release(size_t from, size_t slabs, bool dirty) {
    uint32_t now;
    size_t added = arena_release(from, slabs, dirty, &now);
    if (added > 0) {
        keep_ceiling(added, now);
    }
}

bool page_arena_clean(size_t from, size_t slabs) {
    struct page_arena_window window = page_arena_get_window();
    return arena_purge_held(&window, from, slabs);
}

void page_arena_discard(size_t from, size_t slabs) {
    struct page_arena_window window = page_arena_get_window();
    page_arena_release(from, slabs, !arena_purge_for_good(&window, from, slabs));
}

// Slabs that are set aside count as held in arena_state.counts.
size_t page_arena_dirty(void) {
    return counted_dirty() + run_cache_slabs();
}

size_t page_arena_held(void) {
    size_t held = counted_held();
    return held - hak_min(held, run_cache_slabs());
}

size_t page_arena_claimed(void) {
    return counted_held();
}

size_t page_arena_high(void) {
    return atomic_load_explicit(&arena_state.high, memory_order_acquire);
}

size_t page_arena_growths(void) {
    return atomic_load_explicit(&arena_state.growths, memory_order_acquire);
}

size_t page_arena_top(void) {
    return atomic_load_explicit(&arena_state.top, memory_order_acquire);
}

size_t page_arena_walk(struct page_arena_window *window) {
    size_t top = page_arena_top();
    *window = page_arena_get_window();
    return top;
}

char *page_arena_readable(size_t *length) {
    struct page_arena_window window = page_arena_get_window();
    *length = 0;
    if (window.base == NULL || page_arena_is_tight()) {
        return NULL;
    }
    size_t first = arena_first_superslab(&window) * ARENA_SUPERSLAB_SLABS;
    size_t end =
        hak_max(first, atomic_load_explicit(&arena_state.readable_end, memory_order_relaxed));
    while (page_arena_reaches(end)) {
        struct page_arena_group *group = &window.groups[end / ARENA_GROUP_SLABS];
        uint64_t bits = atomic_load(&group->mapped[end % ARENA_GROUP_SLABS / 64]) >> end % 64;
        size_t ones = bits == ~UINT64_C(0) ? 64 : (size_t)__builtin_ctzll(~bits);
        end += ones;
        if (ones == 0 || end % 64 != 0) {
            break;
        }
    }
    load_max(&arena_state.readable_end, end);
    *length = (end - first) << ARENA_SLAB_SHIFT;
    return page_arena_address(&window, first);
}

void page_arena_get_stats(struct page_arena_stats *stats) {
    size_t high = page_arena_high(); // read before the window, as in page_arena_walk()
    struct page_arena_window window = page_arena_get_window();
    *stats = (struct page_arena_stats){
        .reserved_bytes = atomic_load(&arena_state.reserved),
        .held_slabs = page_arena_held(),
        .peak_slabs = __atomic_load_n(&arena_state.peak, __ATOMIC_RELAXED),
        .dirty_slabs = page_arena_dirty(),
        .aside_slabs = run_cache_slabs(),
        .purged_slabs = atomic_load(&arena_state.purged_slabs),
        .moved_slabs = atomic_load(&arena_state.moved_slabs),
        .moved_runs = moved_runs_count(),
        .refilled_superslabs = atomic_load(&arena_state.refilled),
    };
    size_t groups = (high + ARENA_GROUP_SLABS - 1) / ARENA_GROUP_SLABS;
    for (size_t g = 0; g < groups; g++) {
        if (is_group_open(g)) {
            for (size_t i = 0; i < ARENA_GROUP_SUPERSLABS; i++) {
                bool committed = atomic_bitmap_test(&window.groups[g].committed, i);
                size_t mapped = mapped_in(&window, g * ARENA_GROUP_SUPERSLABS + i);
                mapped -= atomic_bitmap_count_run(window.groups[g].gone, i * ARENA_SUPERSLAB_SLABS,
                                                  ARENA_SUPERSLAB_SLABS);
                stats->committed_bytes += committed ? mapped << ARENA_SLAB_SHIFT : 0;
            }
        }
    }
}

HAK_LAYOUT(page_arena_layout,
           HAK_ROWS(HAK_VARIABLE("window.base", page_arena_known.window.base),
                    HAK_VARIABLE("window.slabs", page_arena_known.window.slabs),
                    HAK_VARIABLE("window.groups", page_arena_known.window.groups),
                    HAK_VARIABLE("window.meta", page_arena_known.window.meta),
                    HAK_VARIABLE("arena.open", arena_control.open),
                    HAK_VARIABLE("arena.top", arena_state.top),
                    HAK_VARIABLE("arena.reserved", arena_state.reserved),
                    HAK_VARIABLE("arena.counts", arena_state.counts),
                    HAK_VARIABLE("arena.peak", arena_state.peak),
                    HAK_VARIABLE("arena.purged_slabs", arena_state.purged_slabs),
                    HAK_VARIABLE("arena.moved_slabs", arena_state.moved_slabs)),
           HAK_ROWS(HAK_NUMBER("arena.piece_slabs", PIECE_SLABS), HAK_NUMBER("page", HAK_PAGE),
                    HAK_NUMBER("slab_bytes", ARENA_SLAB),
                    HAK_NUMBER("superslab_slabs", ARENA_SUPERSLAB_SLABS),
                    HAK_NUMBER("superslab_meta", ARENA_SUPERSLAB_META),
                    HAK_NUMBER("group_slabs", ARENA_GROUP_SLABS),
                    HAK_NUMBER("group", sizeof(struct page_arena_group)),
                    HAK_FIELD("group.avail", struct page_arena_group, avail),
                    HAK_FIELD("group.dirty", struct page_arena_group, dirty),
                    HAK_FIELD("group.committed", struct page_arena_group, committed),
                    HAK_FIELD("group.meta_used", struct page_arena_group, meta_used),
                    HAK_FIELD("group.mapped", struct page_arena_group, mapped),
                    HAK_FIELD("group.gone", struct page_arena_group, gone)));
