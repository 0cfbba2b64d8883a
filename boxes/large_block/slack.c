// SPDX-License-Identifier: Apache-2.0
// slack: counts the pages behind the ends of blocks, and gives them back. A block seldom fills its
// last slab.
//
// The pages behind a block's end have no memory if its run is fresh. They may have memory if the
// run was in use before, or if the block has shrunk. Pages that may have memory are counted. Once
// the process has too many of them, they are given back. So a program with a few large blocks makes
// no system call for its slack, and a program with many holds little more than its blocks need.
//
// Threads count slack and live blocks in cache lines of their own. A line's counts are moved to the
// sum when they reach LINE_PAGES pages or LINE_BLOCKS blocks. So the sum is off by less than that
// for each line, and may be negative.
#include "boxes/large_block/large_block_internal.h"

#include "backends/os.h"
#include "boxes/base/alone.h"
#include "boxes/settings/settings.h"

// Build setting: slack is at most one part in so many of the memory that is held; pages that would
// make it more are given back. 0: never.
#ifndef HAK_LARGE_SLACK_SHARE
#    define HAK_LARGE_SLACK_SHARE 24
#endif

// Build setting: the number of blocks in a millisecond whose slack may be given back. After a rest
// of REST_MS up to GIVEN_BURST blocks may follow each other. If more blocks come, the slack of one
// in TRIES is given back. Giving a block's slack back takes some microseconds, and as much again if
// the next block there is longer: about as long as filling the block. SIZE_MAX: no such bound.
#ifndef HAK_LARGE_SLACK_GIVEN_PER_MS
#    define HAK_LARGE_SLACK_GIVEN_PER_MS 4
#endif

enum { LINE_PAGES = 128, LINE_BLOCKS = 16, GIVEN_BURST = 512, REST_MS = 128, TRIES = 32 };

// Each count has live blocks in its upper half and pages of slack in its lower half, both signed.
static struct {
    _Atomic(uint64_t) all;
    _Atomic(bool) refused; // the kernel did not take pages back, of locked memory perhaps
    // How often slack may be given back until the clock is read, and when it was read last.
    _Atomic(int32_t) given_left;
    _Atomic(uint32_t) given_ms;
    struct {
        alignas(HAK_CACHE_LINE) _Atomic(uint64_t) own; // not in `all` yet
    } lines[HAK_THREAD_SLOTS];
} counts;

static int32_t pages_of(uint64_t count) {
    return (int32_t)(uint32_t)count;
}

static int32_t blocks_of(uint64_t count) {
    return (int32_t)((count - (uint64_t)(int64_t)pages_of(count)) >> 32);
}

// Adds to the counts of the threads with that slot.
HAK_INLINE void count(unsigned slot, uint64_t more) {
    _Atomic(uint64_t) *own = &counts.lines[slot].own;
    hak_step_add(own, more);
    uint64_t sum = atomic_load_explicit(own, memory_order_relaxed);
    // A half is within its range if, with its bound added, it is neither below 0 nor at twice its
    // bound.
    uint64_t pages = (uint64_t)(int64_t)pages_of(sum) + LINE_PAGES;
    uint64_t blocks = (sum >> 32) + LINE_BLOCKS; // or one less
    if (HAK_UNLIKELY(pages >= 2 * LINE_PAGES || (uint32_t)blocks >= 2 * LINE_BLOCKS)) {
        hak_step_add(&counts.all, atomic_exchange_explicit(own, 0, memory_order_relaxed));
    }
}

size_t large_live(void) {
    int32_t blocks = blocks_of(atomic_load_explicit(&counts.all, memory_order_relaxed));
    return blocks < 0 ? 0 : (size_t)blocks;
}

// Returns true if `pages` more pages of slack would be too many.
static bool is_much_slack(size_t pages) {
    enum { LEAST = 256 }; // pages that may always be there
    int32_t sum = pages_of(atomic_load_explicit(&counts.all, memory_order_relaxed));
    size_t all = (size_t)(sum > 0 ? sum : 0) + pages;
    return HAK_LARGE_SLACK_SHARE != 0 && all > LEAST && settings_get(SETTING_DECAY_MS) >= 0 &&
           !atomic_load_explicit(&counts.refused, memory_order_relaxed) &&
           all * HAK_LARGE_SLACK_SHARE > page_arena_claimed() * (ARENA_SLAB / HAK_PAGE);
}

// Reads the clock. Returns how often slack may be given back until it is read again, 1 at least.
static HAK_NOINLINE int32_t look_at_clock(void) {
    uint32_t now = (uint32_t)os_now_ms();
    size_t since = now - atomic_load_explicit(&counts.given_ms, memory_order_relaxed);
    atomic_store_explicit(&counts.given_ms, now, memory_order_relaxed);
    size_t more = hak_min(since, GIVEN_BURST) * HAK_LARGE_SLACK_GIVEN_PER_MS;
    // After a pause of a few ms there is no burst: another process may have had the processor.
    return (int32_t)hak_min(more + 1, (size_t)(since >= REST_MS ? GIVEN_BURST : TRIES));
}

// Counts a call that gives slack back. Returns false if there were too many such calls of late.
// Reading the clock takes longer than all else here, so of the callers that come too early only one
// in TRIES reads it. If several threads count at the same time, a count may be lost.
static bool may_give_back(void) {
    if (HAK_LARGE_SLACK_GIVEN_PER_MS == SIZE_MAX) {
        return true;
    }
    int32_t left = atomic_load_explicit(&counts.given_left, memory_order_relaxed) - 1;
    if (HAK_UNLIKELY(left <= -TRIES)) {
        left = look_at_clock() - 1;
    }
    atomic_store_explicit(&counts.given_left, left, memory_order_relaxed);
    return left >= 0;
}

// Gives pages back. Returns true if the kernel took them.
static HAK_NOINLINE bool give_back(char *from, size_t pages) {
    if (pages * HAK_PAGE < os_least_purge() || !may_give_back()) {
        return false;
    }
    if (os_purge(from, pages * HAK_PAGE) != OS_OK) {
        atomic_store_explicit(&counts.refused, true, memory_order_relaxed);
        return false;
    }
    return true;
}

// Returns the pages behind the end of a block that may have memory now.
HAK_INLINE size_t slack_of(const struct page_arena_window *window, size_t slab, struct slab *meta,
                           enum tail tail) {
    enum { LITTLE = 16 }; // slack below one part in so many of a block is not counted
    size_t used = hak_round_up(taken(atomic_load_explicit(&meta->size, memory_order_relaxed)) +
                                   atomic_load_explicit(&meta->colour, memory_order_relaxed),
                               HAK_PAGE);
    size_t pages =
        hak_min(((used_slabs(meta) << ARENA_SLAB_SHIFT) - used) >> HAK_PAGE_SHIFT, UINT8_MAX);
    if (tail == TAIL_CLEAN || pages << HAK_PAGE_SHIFT < used / LITTLE) {
        return 0;
    }
    bool much = tail == TAIL_UNUSED && HAK_UNLIKELY(is_much_slack(pages));
    return much && give_back((char *)page_arena_address(window, slab) + used, pages) ? 0 : pages;
}

void large_count_begun(const struct page_arena_window *window, size_t slab, struct slab *meta,
                       unsigned slot, enum tail tail) {
    size_t pages = slack_of(window, slab, meta, tail);
    atomic_store_explicit(&meta->slack, (uint8_t)pages, memory_order_relaxed);
    count(slot, (UINT64_C(1) << 32) + pages);
}

void large_settle_slack(const struct page_arena_window *window, size_t slab, enum tail tail) {
    struct slab *meta = superslab_slab(window, slab);
    size_t before = atomic_load_explicit(&meta->slack, memory_order_relaxed);
    size_t pages = slack_of(window, slab, meta, tail);
    if (pages != before) {
        atomic_store_explicit(&meta->slack, (uint8_t)pages, memory_order_relaxed);
        count(hak_thread_slot(), pages - before);
    }
}

void large_count_ended(struct slab *meta, unsigned slot) {
    uint64_t pages = atomic_load_explicit(&meta->slack, memory_order_relaxed);
    count(slot, 0 - (UINT64_C(1) << 32) - pages);
}
