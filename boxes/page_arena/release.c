// SPDX-License-Identifier: Apache-2.0
// release: makes slabs free, with pages or without.
#include "boxes/page_arena/page_arena_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/run_cache/run_cache.h"

size_t arena_release(size_t from, size_t slabs, bool dirty, uint32_t *now) {
    struct page_arena_window window = page_arena_get_window();
    dirty = dirty || HAK_UNLIKELY(page_arena_is_tight()); // so that a purge takes the rights
    if (dirty) {
        for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
            struct group_part part = group_part(&window, at, end);
            atomic_bitmap_ensure_run(part.group->dirty, part.first, part.count);
        }
    }
    size_t added = dirty ? slabs : arena_count_dirty(&window, from, slabs);
    if (added > 0) {
        *now = now_ms();
        for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
            struct group_part part = group_part(&window, at, end);
            size_t last = (part.first + part.count - 1) / ARENA_SUPERSLAB_SLABS;
            for (size_t s = part.first / ARENA_SUPERSLAB_SLABS; s <= last; s++) {
                atomic_store_explicit(&part.group->freed_at[s], *now, memory_order_relaxed);
            }
        }
    }
    // Under HAKMEM_LIMIT, a slab must not count as free before others can claim it.
    bool at_once = limit_slabs() == 0;
    if (at_once || added > 0) {
        count_slabs(at_once ? -(ptrdiff_t)slabs : 0, (ptrdiff_t)added);
    }
    arena_put_avail(&window, from, slabs, added > 0);
    if (!at_once) {
        count_slabs(-(ptrdiff_t)slabs, 0);
    }
    return added;
}

bool arena_release_aside(bool all) {
    unsigned cursor = 0;
    uint32_t now;
    bool any = false;
    for (;;) {
        struct run_cache_run run = all ? run_cache_take_any(&cursor) : run_cache_take_own(&cursor);
        if (run.slabs == 0) {
            return any;
        }
        arena_release(run.from, run.slabs, true, &now);
        any = true;
    }
}
