// SPDX-License-Identifier: Apache-2.0
// guards: pages without access rights behind large blocks, in the hardened flavour. A read or a
// write that runs past the block's last page ends the process.
//
//     |<- colour ->|<- the user's bytes ->|<- tail ->| to the page |<- guard ->|<- room ->|
//     |<------------------------- slabs of the run ------------------------->|
//
// A guard is one or two mappings. It costs a system call, and another one when it is removed. So
// only long blocks have a guard: HAKMEM_GUARD_PAGES blocks at a time, and fewer where the kernel
// grants a process few mappings. A long block that is freed loses its rights as a whole while it
// waits, and the guard ends with that wait, without a call of its own.
//
// The metadata has the number of pages in a guard, counted down from the end of the slabs that the
// block uses. So if the kernel refuses to change a guard, it may stay as it is, whatever size the
// block has by then.
#include "boxes/large_block/large_block_internal.h"

#if HAK_HARDENED
#    include "backends/os.h"
#    include "boxes/settings/settings.h"

// All guards together, at two mappings each, take at most one in so many of the process's mappings.
enum { MAPPINGS_SHARE = 128 };

// After a refusal so many blocks get no guard: there may be few mappings left, and the program may
// need them.
enum { PAUSE = 64 };

static _Atomic(size_t) guards;
static _Atomic(uint32_t) pause;

static size_t most_guards(void) {
    return hak_min((size_t)settings_get(SETTING_GUARD_PAGES),
                   os_most_mappings() / (2 * MAPPINGS_SHARE));
}

size_t large_guard_bytes(size_t size) {
    int64_t least = settings_get(SETTING_GUARD_LARGE);
    return least != 0 && size >= (size_t)least && settings_get(SETTING_LIMIT) == 0 &&
                   !page_arena_is_tight() &&
                   atomic_load_explicit(&guards, memory_order_relaxed) < most_guards()
               ? HAK_PAGE
               : 0;
}

static size_t pages_of(struct slab *meta) {
    return atomic_load_explicit(&meta->flags, memory_order_relaxed) & SLAB_GUARD;
}

static void set_pages(struct slab *meta, size_t pages) {
    unsigned others = atomic_load_explicit(&meta->flags, memory_order_relaxed) & ~SLAB_GUARD;
    size_t before = pages_of(meta);
    atomic_store_explicit(&meta->flags, (uint8_t)(others | pages), memory_order_relaxed);
    if ((before == 0) != (pages == 0)) {
        size_t one = pages == 0 ? SIZE_MAX : 1;
        atomic_fetch_add_explicit(&guards, one, memory_order_relaxed);
    }
}

// Returns how many pages fit between the first `bytes` bytes of a run and the end of the slabs that
// the block has.
static size_t pages_behind(struct slab *meta, size_t bytes) {
    size_t used = hak_round_up(bytes, HAK_PAGE);
    size_t have = used_slabs(meta) << ARENA_SLAB_SHIFT;
    return used >= have ? 0 : hak_min((have - used) / HAK_PAGE, (size_t)SLAB_GUARD);
}

static char *end_of(const struct page_arena_window *window, size_t slab) {
    return (char *)page_arena_address(window, slab) +
           (used_slabs(superslab_slab(window, slab)) << ARENA_SLAB_SHIFT);
}

static bool is_paused(void) {
    uint32_t left = atomic_load_explicit(&pause, memory_order_relaxed);
    if (HAK_LIKELY(left == 0)) {
        return false;
    }
    atomic_store_explicit(&pause, left - 1, memory_order_relaxed);
    return true;
}

void large_set_guard(const struct page_arena_window *window, size_t slab) {
    struct slab *meta = superslab_slab(window, slab);
    size_t size = atomic_load_explicit(&meta->size, memory_order_relaxed);
    size_t has = pages_of(meta);
    size_t pages =
        pages_behind(meta, taken(size) + atomic_load_explicit(&meta->colour, memory_order_relaxed));
    if (pages <= has || (has == 0 && (large_guard_bytes(size) == 0 || is_paused()))) {
        return;
    }
    char *from = end_of(window, slab) - pages * HAK_PAGE;
    size_t bytes = (pages - has) * HAK_PAGE;
    if (os_hide(from, bytes) != OS_OK) {
        atomic_store_explicit(&pause, PAUSE, memory_order_relaxed);
        if (os_commit_alone(from, bytes) == OS_OK) { // The refusal may have come halfway.
            return;
        }
    }
    set_pages(meta, pages);
}

bool large_drop_guard(const struct page_arena_window *window, size_t slab) {
    return large_shrink_guard(window, slab, SIZE_MAX - HAK_PAGE);
}

bool large_shrink_guard(const struct page_arena_window *window, size_t slab, size_t bytes) {
    struct slab *meta = superslab_slab(window, slab);
    size_t has = pages_of(meta);
    size_t pages = has == 0 ? 0 : pages_behind(meta, bytes);
    if (pages >= has) {
        return true;
    }
    if (os_commit_alone(end_of(window, slab) - has * HAK_PAGE, (has - pages) * HAK_PAGE) != OS_OK) {
        return false;
    }
    set_pages(meta, pages);
    return true;
}

void large_forget_guard(struct slab *meta) {
    set_pages(meta, 0);
}
#endif
