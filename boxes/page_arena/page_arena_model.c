// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/atomics.h"

#include "boxes/atomic_bitmap/atomic_bitmap.c"

// The arena as one source.
#include "boxes/page_arena/emptied.c"
#include "boxes/page_arena/growth.c"
#include "boxes/page_arena/moved.c"
#include "boxes/page_arena/page_arena.c"
#include "boxes/page_arena/purge.c"
#include "boxes/page_arena/refilled.c"
#include "boxes/page_arena/release.c"
#include "boxes/page_arena/rights.c"
#include "boxes/page_arena/search.c"
#include "boxes/page_arena/slab_bits.c"
#include "boxes/page_arena/window.c"

#include "boxes/page_arena/page_arena_model.h"

static uintptr_t config_word;
static uint64_t mapped_words;
static bool charged_bit;
static size_t high;

static void set(volatile void *at, uint64_t value) {
    __atomic_store_n((volatile uint64_t *)at, value, __ATOMIC_RELAXED);
}

static uint64_t get(volatile void *at) {
    return __atomic_load_n((volatile uint64_t *)at, __ATOMIC_RELAXED);
}

struct model_arena model_start(char *base, uint64_t mapped, bool charged, size_t groups) {
    size_t slabs = MODEL_GROUPS * ARENA_GROUP_SLABS;
    config_word = (uintptr_t)base | hak_log2(slabs);
    mapped_words = mapped;
    charged_bit = charged;
    high = groups * ARENA_GROUP_SLABS;
    set(&config, config_word);
    set(&arena_state.high, high);
    set(&arena_state.top, 0);
    set(&arena_state.lowest, slabs / 64);
    set(&arena_state.counts, 0);
    return (struct model_arena){(volatile size_t *)&arena_state.top,
                                (volatile size_t *)&arena_state.lowest,
                                (volatile uint64_t *)&arena_state.counts};
}

void model_ignored(void (*ignore)(volatile void *at, size_t bytes, uint64_t value)) {
    struct page_arena_window window = {0};
    window.base = (char *)(config_word & ~(uintptr_t)(ARENA_SUPERSLAB - 1));
    window.slabs = MODEL_GROUPS * ARENA_GROUP_SLABS;
    ignore(&config, sizeof config, config_word);
    ignore(&arena_state.high, sizeof arena_state.high, high);
    page_arena_known.window = window_of(config_word);
    page_arena_known.ready = true;
    ignore(&arena_state.reserved, sizeof arena_state.reserved, 0);
    ignore(&arena_state.dense, sizeof arena_state.dense, 0);
    ignore(&arena_state.charged, sizeof arena_state.charged, charged_bit);
    ignore(&arena_state.tight, sizeof arena_state.tight, 0);
    ignore(&arena_state.limit, sizeof arena_state.limit, 0);
    ignore(&arena_state.limited, sizeof arena_state.limited, 0);
    ignore(&arena_state.purged_slabs, sizeof arena_state.purged_slabs, 0);
    ignore(&arena_state.moved_slabs, sizeof arena_state.moved_slabs, 0);
    static_assert((int)MODEL_GROUPS == (int)PIECE_GROUPS, "the window is one piece");
    window.groups = (struct page_arena_group *)(window.base + groups_offset(window.slabs));
    window.regions = (struct page_arena_region *)(window.base + regions_offset(window.slabs));
    for (size_t word = 0; word < MODEL_GROUPS * ARENA_GROUP_SLABS / 64; word++) {
        ignore(&window.groups[word / 32].mapped[word % 32], sizeof(atomic_bitmap_word),
               (mapped_words >> word & 1) != 0 ? ~UINT64_C(0) : 0);
    }
    ignore(arena_control.begun, sizeof arena_control.begun, 1);
    ignore(arena_control.open, sizeof arena_control.open, 1);
    ignore(&arena_control.more_regions, sizeof arena_control.more_regions, 1);
    ignore(&arena_control.pieces, sizeof arena_control.pieces, 1);
    ignore(&arena_state.step, sizeof arena_state.step, STEP_MOST);
    for (size_t group = 0; group < MODEL_GROUPS; group++) { // no room to grow
        ignore(&window.regions->taken[group], sizeof(atomic_bitmap_word), ~UINT64_C(0));
    }
}

void model_make_free(size_t from, size_t slabs) {
    struct page_arena_window window = page_arena_get_window();
    arena_put_avail(&window, from, slabs, false);
}

struct model_bounds model_bounds_of(size_t group, bool dirty) {
    uintptr_t base = config_word & ~(uintptr_t)(ARENA_SUPERSLAB - 1);
    struct page_arena_region *region =
        (struct page_arena_region *)(base + regions_offset(MODEL_GROUPS * ARENA_GROUP_SLABS));
    struct page_arena_runs *runs = dirty ? &region->dirty : &region->free;
    struct runs bounds = unpack(get(&runs->group[group]));
    return (struct model_bounds){bounds.longest, bounds.first, bounds.last,
                                 get(&runs->all) & fields_mask};
}
