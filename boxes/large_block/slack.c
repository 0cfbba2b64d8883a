// SPDX-License-Identifier: Apache-2.0
// Slack: pages behind the ends of blocks. A block seldom fills its last slab.
//
// The pages behind a block's end have no memory if its run is fresh. They may have memory if the
// run was in use before, or if the block has shrunk. Those that may are counted, and given back
// once there are too many in the whole process: a program with a few large blocks makes no system
// call for that, and a program with many holds little more than its blocks need.
//
// Threads count in cache lines of their own, and move a line's count to the sum when it reaches
// SLACK_STEP pages. So the sum is off by less than SLACK_STEP pages for each line, and may be
// negative.
#include "boxes/large_block/large_block_internal.h"

#include "backends/os.h"
#include "boxes/settings/settings.h"

// Build setting: slack is at most one part in so many of the memory that is held; pages that would
// make it more are given back. 0: never.
#ifndef HAK_LARGE_SLACK_SHARE
#    define HAK_LARGE_SLACK_SHARE 24
#endif

enum { SLACK_LINES = 16, SLACK_STEP = 64 };

static struct {
    _Atomic(uint64_t) pages; // an int64_t
    _Atomic(bool) refused;   // the kernel did not take pages back, of locked memory perhaps
    struct {
        alignas(HAK_CACHE_LINE) _Atomic(uint64_t) pages; // likewise, not in the sum yet
    } lines[SLACK_LINES];
} slack;

// Returns true if `pages` more pages of slack would be too many.
static bool is_much_slack(size_t pages) {
    enum { LEAST = 256 }; // pages that may always be there
    int64_t sum = (int64_t)atomic_load_explicit(&slack.pages, memory_order_relaxed);
    size_t all = (size_t)(sum > 0 ? sum : 0) + pages;
    return HAK_LARGE_SLACK_SHARE != 0 && all > LEAST && settings_get(SETTING_DECAY_MS) >= 0 &&
           !atomic_load_explicit(&slack.refused, memory_order_relaxed) &&
           all * HAK_LARGE_SLACK_SHARE > page_arena_claimed() * (ARENA_SLAB / HAK_PAGE);
}

void large_count_slack(size_t before, size_t pages) {
    _Atomic(uint64_t) *own = &slack.lines[hak_thread_mark() / 2 % SLACK_LINES].pages;
    hak_step_add(own, (uint64_t)pages - before);
    int64_t sum = (int64_t)atomic_load_explicit(own, memory_order_relaxed);
    if (sum >= SLACK_STEP || sum <= -SLACK_STEP) {
        hak_step_add(&slack.pages, atomic_exchange_explicit(own, 0, memory_order_relaxed));
    }
}

void large_settle_slack(const struct page_arena_window *window, size_t slab, enum tail tail) {
    enum { LITTLE = 16 }; // less than one part in so many of a block is not worth a count
    struct slab *meta = superslab_slab(window, slab);
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed) -
                 atomic_load_explicit(&meta->room, memory_order_relaxed);
    size_t used = hak_round_up(taken(atomic_load_explicit(&meta->size, memory_order_relaxed)) +
                                   atomic_load_explicit(&meta->colour, memory_order_relaxed),
                               HAK_PAGE);
    size_t pages =
        tail == TAIL_CLEAN ? 0 : hak_min(((run << ARENA_SLAB_SHIFT) - used) / HAK_PAGE, UINT8_MAX);
    if (pages * HAK_PAGE < used / LITTLE) {
        pages = 0;
    }
    if (tail == TAIL_UNUSED && pages * HAK_PAGE >= os_least_purge() && is_much_slack(pages)) {
        char *from = (char *)page_arena_address(window, slab) + used;
        if (os_purge(from, pages * HAK_PAGE) == OS_OK) {
            pages = 0;
        } else {
            atomic_store_explicit(&slack.refused, true, memory_order_relaxed);
        }
    }
    set_slack(meta, pages);
}
