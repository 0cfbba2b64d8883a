// SPDX-License-Identifier: Apache-2.0
// window: finds the window's place, and maps the control area at its start as the heap grows.
#include "boxes/page_arena/page_arena_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"

#define WINDOW_LEAST ((size_t)ARENA_REGION_SLABS << ARENA_SLAB_SHIFT)

struct arena_state arena_state = {.step = STEP_MOST};
struct page_arena_known page_arena_known;
struct arena_control arena_control;

// The whole configuration in one word, so that one compare-and-swap publishes it: the base (2 MiB
// aligned), log2 of the window's slabs in bits 0..7, and ALL_REGIONS if all regions have rights.
static _Atomic uintptr_t config;
enum { ALL_REGIONS = 1 << 8 };

// A process that may have less data than this is tight.
static const size_t data_tight = (size_t)16 << 20;

static size_t window_slabs(uintptr_t word) {
    return (size_t)1 << (word & 0xff);
}

// The window starts with the page map, the groups and the regions, in this order.
static size_t groups_offset(size_t slabs) {
    return hak_round_up(slabs, HAK_PAGE);
}

static size_t regions_offset(size_t slabs) {
    size_t groups = slabs / ARENA_GROUP_SLABS;
    return groups_offset(slabs) + hak_round_up(groups * sizeof(struct page_arena_group), HAK_PAGE);
}

static size_t regions_size(size_t slabs) {
    size_t regions = (slabs + ARENA_REGION_SLABS - 1) / ARENA_REGION_SLABS;
    return hak_round_up(regions * sizeof(struct page_arena_region), HAK_PAGE);
}

static struct page_arena_window window_of(uintptr_t word) {
    struct page_arena_window window = {0};
    if (word != 0) {
        size_t slabs = window_slabs(word);
        window.base = (char *)(word & ~(uintptr_t)(ARENA_SUPERSLAB - 1));
        window.slabs = slabs;
        window.groups = (struct page_arena_group *)(window.base + groups_offset(slabs));
        window.regions = (struct page_arena_region *)(window.base + regions_offset(slabs));
        window.meta = window.base + (slabs << ARENA_SLAB_SHIFT);
    }
    return window;
}

struct page_arena_window page_arena_work_out_window(void) {
    return window_of(atomic_load_explicit(&config, memory_order_acquire));
}

const struct page_arena_window *page_arena_write_window(struct page_arena_window *room) {
    *room = page_arena_work_out_window();
    return room;
}

size_t arena_first_superslab(const struct page_arena_window *window) {
    size_t control = regions_offset(window->slabs) + regions_size(window->slabs);
    return hak_round_up(control, ARENA_SUPERSLAB) / ARENA_SUPERSLAB;
}

// Takes a place for a window by reserving its regions, and gives the first region rights. If the
// kernel can give rights only by a new mapping, all regions get them now, and *all is set to true:
// no thread uses the regions yet, whereas later only one thread at a time could add some.
static enum os_result take_place(uintptr_t at, size_t slabs, bool *all) {
    char *regions = (char *)at + regions_offset(slabs);
    enum os_result result = os_reserve(regions, regions_size(slabs), NULL);
    if (result == OS_OK) {
        size_t first = hak_round_up(sizeof(struct page_arena_region), HAK_PAGE);
        result = os_commit_alone(regions, first);
        *all = result == OS_OK && !os_commits();
        if (*all) {
            result = os_commit_alone(regions, regions_size(slabs));
        }
        if (result != OS_OK) {
            os_release(regions, regions_size(slabs));
        }
    }
    return result;
}

static void leave_place(uintptr_t at, size_t slabs) {
    os_release((char *)at + regions_offset(slabs), regions_size(slabs));
}

// Finds a place for a window of *slabs slabs, or of fewer if no place of that size is free. Sets
// *slabs to the window's size, and *all as take_place() does. Returns 0 if the kernel has no memory
// at all.
static uintptr_t place_window(size_t *slabs, bool *all) {
    enum { PLACES = 16 };
    uint64_t seed = os_random();
    enum os_result result = OS_TAKEN;
    for (int i = 0; i < PLACES && result == OS_TAKEN; i++) {
        size_t bytes = *slabs << ARENA_SLAB_SHIFT;
        size_t whole = bytes + bytes / ARENA_SUPERSLAB * ARENA_SUPERSLAB_META;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uintptr_t at = ZONE_START + (seed >> 16) % ((ZONE_SIZE - whole) >> ARENA_SUPERSLAB_SHIFT) *
                                        ARENA_SUPERSLAB;
        result = take_place(at, *slabs, all);
        if (result == OS_OK) {
            return at;
        }
    }
    // Either there is no memory, or the kernel does not have such addresses. A range that the
    // kernel chooses tells which, and where there is a place.
    void *range;
    if (os_reserve(NULL, regions_size(*slabs), &range) != OS_OK) {
        return 0;
    }
    os_release(range, regions_size(*slabs));
    for (; *slabs << ARENA_SLAB_SHIFT >= WINDOW_LEAST; *slabs /= 2) {
        size_t bytes = *slabs << ARENA_SLAB_SHIFT;
        size_t whole = bytes + bytes / ARENA_SUPERSLAB * ARENA_SUPERSLAB_META;
        // The kernel maps from the top down where this is, and the window is not mapped. So as many
        // addresses are left free above it, in which mappings of others find room.
        size_t enough = 2 * whole + ARENA_SUPERSLAB;
        if (os_reserve(NULL, enough, &range) == OS_OK) {
            os_release(range, enough);
            uintptr_t at = hak_round_up((uintptr_t)range, ARENA_SUPERSLAB);
            if (take_place(at, *slabs, all) == OS_OK) {
                return at;
            }
        }
    }
    return 0;
}

bool page_arena_is_tight(void) {
    return atomic_load_explicit(&arena_state.tight, memory_order_relaxed);
}

// Gives the regions up to `region` rights by `call`, which also gives them to regions behind that
// start on the same page.
static enum os_result add_regions(const struct page_arena_window *window, size_t region,
                                  enum os_result (*call)(void *, size_t)) {
    size_t have = 1 + atomic_load(&arena_control.more_regions);
    char *from = (char *)hak_round_up((uintptr_t)&window->regions[have], HAK_PAGE);
    char *end = (char *)hak_round_up((uintptr_t)&window->regions[region + 1], HAK_PAGE);
    enum os_result result = from < end ? call(from, (size_t)(end - from)) : OS_OK;
    if (result == OS_OK) {
        load_max(&arena_control.more_regions, region);
    }
    return result;
}

static bool has_rights(size_t region) {
    return region <= atomic_load(&arena_control.more_regions) ||
           (atomic_load_explicit(&config, memory_order_relaxed) & ALL_REGIONS) != 0;
}

// As add_regions(), if giving rights empties pages that have rights already: in a sandbox that
// refuses mprotect() and that the backend was not told of. So one thread at a time does it, after a
// look whether another thread has done it. Returns OS_NO_MEMORY, without waiting, while another
// thread is in this function.
static enum os_result add_alone(const struct page_arena_window *window, size_t region) {
    if (atomic_exchange(&arena_control.adding, true)) {
        return OS_NO_MEMORY;
    }
    enum os_result result =
        has_rights(region) ? OS_OK : add_regions(window, region, os_commit_alone);
    atomic_store(&arena_control.adding, false);
    return result;
}

// Gives all regions rights before the process enters a sandbox, while that does not yet disturb
// other threads that use regions. A tight process has no room for all regions, and needs but one.
static void give_all_regions(void) {
    struct page_arena_window window = page_arena_get_window();
    if (window.base == NULL || page_arena_is_tight()) {
        return;
    }
    size_t last = (window.slabs - 1) / ARENA_REGION_SLABS;
    if (add_regions(&window, last, os_commit) == OS_TAKEN) {
        add_alone(&window, last);
    }
}

bool page_arena_find_place(void) {
    if (atomic_load_explicit(&config, memory_order_acquire) != 0) {
        return true;
    }
    os_before_sandbox(give_all_regions);
    // Four times the machine's memory, and at least 1 TiB of addresses, of which few are mapped.
    size_t bytes = WINDOW_USUAL;
    size_t memory = os_physical_memory();
    while (bytes < WINDOW_MOST && bytes / 4 < memory) {
        bytes *= 2;
    }
    size_t slabs = bytes >> ARENA_SLAB_SHIFT;
    bool all = false; // all regions have rights
    uintptr_t at = place_window(&slabs, &all);
    if (at == 0) {
        return false;
    }
    bool tight = os_data_limit() < data_tight;
    atomic_store_explicit(&arena_state.tight, tight, memory_order_relaxed);
    char policy;
    if (!tight && os_read_file("/proc/sys/vm/overcommit_memory", &policy, 1) == 1 &&
        policy == '2') {
        atomic_store_explicit(&arena_state.charged, true, memory_order_relaxed);
    }
    uintptr_t word = at | hak_log2(slabs) | (all ? ALL_REGIONS : 0);
    uintptr_t none = 0;
    if (!atomic_compare_exchange_strong(&config, &none, word)) {
        leave_place(at, slabs);
        return true;
    }
    page_arena_known.window = window_of(word);
    __atomic_store_n(&page_arena_known.ready, true, __ATOMIC_RELEASE);
    if (!all && !os_commits()) { // The process has entered a sandbox since it took the place.
        give_all_regions();
    }
    return true;
}

bool page_arena_reaches(size_t slab) {
    // Only pieces of the window are open.
    return slab / PIECE_SLABS < PIECES_MOST && is_open(slab / PIECE_SLABS);
}

size_t page_arena_mapped(void) {
    size_t pieces = atomic_load_explicit(&arena_control.pieces, memory_order_relaxed);
    size_t seen = pieces;
    while (pieces < PIECES_MOST && is_open(pieces)) {
        pieces++;
    }
    if (pieces != seen) {
        load_max(&arena_control.pieces, pieces);
    }
    return pieces * PIECE_SLABS;
}

static enum os_result open_regions(const struct page_arena_window *window, size_t region) {
    if (has_rights(region)) {
        return OS_OK;
    }
    enum os_result result = add_regions(window, region, os_commit);
    return result == OS_TAKEN ? add_alone(window, region) : result;
}

static enum os_result map_piece(const struct page_arena_window *window, size_t piece) {
    char *map = window->base + piece * HAK_PAGE;
    enum os_result result = open_regions(window, piece / (ARENA_REGION_GROUPS / PIECE_GROUPS));
    if (result == OS_OK) {
        result = os_map(map, HAK_PAGE, NULL);
    }
    if (result == OS_OK) {
        result = os_map(&window->groups[piece * PIECE_GROUPS], PIECE_GROUPS * HAK_PAGE, NULL);
        if (result != OS_OK) {
            os_release(map, HAK_PAGE);
        }
    }
    return result;
}

enum os_result arena_open_piece(const struct page_arena_window *window, size_t piece) {
    if (is_open(piece)) {
        return OS_OK;
    }
    uint64_t bit = UINT64_C(1) << piece % 64;
    if ((atomic_bitmap_put(&arena_control.begun[piece / 64], bit) & bit) != 0) {
        return OS_TAKEN;
    }
    enum os_result result = map_piece(window, piece);
    if (result == OS_OK) {
        atomic_bitmap_put(&arena_control.open[piece / 64], bit);
    } else if (result == OS_NO_MEMORY) {
        atomic_fetch_and(&arena_control.begun[piece / 64], ~bit);
    }
    return result;
}
