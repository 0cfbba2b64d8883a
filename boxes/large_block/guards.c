// SPDX-License-Identifier: Apache-2.0
// Pages that nobody may touch, behind large blocks, in the hardened flavour: a read or a write that
// runs on behind the block's last page ends the process.
//
//     |<- colour ->|<- the user's bytes ->|<- tail ->| to the page |<- guard ->|<- room ->|
//     |<------------------------- slabs of the run ------------------------->|
//
// A guard is one or two mappings and costs a system call, and so does its end. So only long blocks
// have one, HAKMEM_GUARD_PAGES of them at a time. A long block that is freed loses its rights as a
// whole while it waits, and the guard ends with that wait, without a call of its own.
#include "boxes/large_block/large_block_internal.h"

#if HAK_HARDENED
#    include "backends/os.h"
#    include "boxes/settings/settings.h"

static _Atomic(size_t) guards;

size_t large_guard_bytes(size_t size) {
    int64_t least = settings_get(SETTING_GUARD_LARGE);
    return least != 0 && size >= (size_t)least && settings_get(SETTING_LIMIT) == 0 &&
                   !page_arena_is_tight() &&
                   atomic_load_explicit(&guards, memory_order_relaxed) <
                       (size_t)settings_get(SETTING_GUARD_PAGES)
               ? HAK_PAGE
               : 0;
}

// Returns where the guard of a block of `size` bytes starts, counted from the start of its run.
static size_t start_of_guard(struct slab *meta, size_t size) {
    return hak_round_up(taken(size) + atomic_load_explicit(&meta->colour, memory_order_relaxed),
                        HAK_PAGE);
}

static size_t end_of_guard(struct slab *meta) {
    return (atomic_load_explicit(&meta->run, memory_order_relaxed) -
            atomic_load_explicit(&meta->room, memory_order_relaxed))
           << ARENA_SLAB_SHIFT;
}

static size_t size_of(struct slab *meta) {
    return atomic_load_explicit(&meta->size, memory_order_relaxed);
}

static bool is_guarded(struct slab *meta) {
    return atomic_load_explicit(&meta->guarded, memory_order_relaxed) != 0;
}

void large_set_guard(const struct page_arena_window *window, size_t slab) {
    struct slab *meta = superslab_slab(window, slab);
    size_t from = start_of_guard(meta, size_of(meta));
    size_t end = end_of_guard(meta);
    if (is_guarded(meta) || from >= end || large_guard_bytes(size_of(meta)) == 0 ||
        os_hide((char *)page_arena_address(window, slab) + from, end - from) != OS_OK) {
        return;
    }
    atomic_fetch_add_explicit(&guards, 1, memory_order_relaxed);
    atomic_store_explicit(&meta->guarded, 1, memory_order_relaxed);
}

void large_forget_guard(struct slab *meta) {
    if (is_guarded(meta)) {
        atomic_store_explicit(&meta->guarded, 0, memory_order_relaxed);
        atomic_fetch_sub_explicit(&guards, 1, memory_order_relaxed);
    }
}

bool large_drop_guard(const struct page_arena_window *window, size_t slab) {
    struct slab *meta = superslab_slab(window, slab);
    size_t from = start_of_guard(meta, size_of(meta));
    if (is_guarded(meta) && os_commit_alone((char *)page_arena_address(window, slab) + from,
                                            end_of_guard(meta) - from) != OS_OK) {
        return false;
    }
    large_forget_guard(meta);
    return true;
}

bool large_shift_guard(const struct page_arena_window *window, size_t slab, size_t size,
                       bool stays) {
    struct slab *meta = superslab_slab(window, slab);
    if (!is_guarded(meta)) {
        return true;
    }
    size_t was = start_of_guard(meta, size_of(meta));
    size_t from = start_of_guard(meta, size);
    if (!stays || from >= end_of_guard(meta)) {
        return large_drop_guard(window, slab);
    }
    char *run = page_arena_address(window, slab);
    if (from > was) {
        return os_commit_alone(run + was, from - was) == OS_OK;
    }
    return from == was || os_hide(run + from, was - from) == OS_OK ||
           large_drop_guard(window, slab);
}
#endif
