// SPDX-License-Identifier: Apache-2.0
// large_block_internal: what the files of large blocks share.
//
//   large_block.c   claims, colours, and the begin and the end of a block
//   slack.c         the pages behind the ends of blocks
//   resize.c        blocks that are resized at their place, or moved
//   retired.c       freed blocks that wait before they are used again, in the hardened flavour
#ifndef HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_INTERNAL_H
#define HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_INTERNAL_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/hardening/hardening.h"
#include "boxes/large_block/large_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/superslab/superslab.h"

// Returns the slabs that `size` bytes take up.
HAK_INLINE size_t slabs_for(size_t size) {
    return (size + ARENA_SLAB - 1) >> ARENA_SLAB_SHIFT;
}

// Bytes behind a block that are not its user's: in the hardened flavour they tell of writes there.
enum { TAIL = HAK_HARDENED ? 16 : 0 };

// Returns what a block of `size` bytes takes up.
HAK_INLINE size_t taken(size_t size) {
    return superslab_usable(size) + TAIL;
}

// --- Of all files: see large_block.c

// Live blocks in the arena's window, an int64_t: about as many while there are more threads than
// one, and below 0 at times.
extern _Atomic(uint64_t) large_live;

// count_live() of a process with several threads.
void large_count_live(uint64_t more);

// Counts blocks that have begun, or (negative) ended.
HAK_INLINE void count_live(uint64_t more) {
    if (hak_alone()) {
        hak_step_add(&large_live, more);
    } else {
        large_count_live(more);
    }
}

// True unless the kernel would refuse `size` bytes more.
bool large_is_granted(size_t size);

// Allocates a block in the arena's window, or returns NULL. *is_zero: its pages were zero before
// they were claimed.
void *large_alloc_near(size_t asked, size_t align, enum large_block_use use, bool *is_zero);

// Makes a block of a claimed run.
char *large_begin(const struct page_arena_window *window, size_t slab, size_t run, size_t colour,
                  size_t asked);

// Gives the room of a block back, which has no memory. Returns the slabs of the run that are left.
HAK_INLINE size_t drop_room(struct slab *meta, size_t slab) {
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed);
    size_t room = atomic_load_explicit(&meta->room, memory_order_relaxed);
    if (HAK_UNLIKELY(room != 0)) {
        run -= room;
        atomic_store_explicit(&meta->room, 0, memory_order_relaxed);
        atomic_store_explicit(&meta->run, run, memory_order_relaxed);
        page_arena_release(slab + run, room, false);
    }
    return run;
}

// --- Slack: see slack.c

// What is known of the pages behind a block whose size or run has changed.
enum tail {
    TAIL_CLEAN,  // they have no memory
    TAIL_WANTED, // the block grows, and will use them
    TAIL_UNUSED, // neither
};

// To be called by a block's holder whenever its size or its run has changed.
void large_settle_slack(const struct page_arena_window *window, size_t slab, enum tail tail);

// Counts the slack of a block that had `before` pages of it and has `pages` now.
void large_count_slack(size_t before, size_t pages);

// Sets how many pages behind a block may have memory.
HAK_INLINE void set_slack(struct slab *meta, size_t pages) {
    size_t before = atomic_load_explicit(&meta->slack, memory_order_relaxed);
    if (before != pages) {
        atomic_store_explicit(&meta->slack, (uint8_t)pages, memory_order_relaxed);
        large_count_slack(before, pages);
    }
}

// To be called by the thread that ends a block, before its run is given back.
HAK_INLINE void count_ended(struct slab *meta) {
    set_slack(meta, 0);
    count_live((uint64_t)-1);
}

// --- Tails, and what was freed, in the hardened flavour: see retired.c

// Writes the tail of a block of `size` bytes.
HAK_INLINE void write_tail(char *block, size_t size) {
#if HAK_HARDENED
    hardening_unaligned *tail = hardening_behind(block, size);
    tail[0] = tail[1] = hardening_hash(block);
#else
    (void)block, (void)size;
#endif
}

// Stops the program if the tail of a block is not as it was written.
HAK_INLINE void check_tail(const char *call, const char *block, size_t size) {
#if HAK_HARDENED
    const hardening_unaligned *tail = hardening_behind(block, size);
    uint64_t hash = hardening_hash(block);
    if (HAK_UNLIKELY(((tail[0] ^ hash) | (tail[1] ^ hash)) != 0) &&
        hardening_has(HARDENING_CANARY)) {
        diag_misuse(call, block, "heap corruption: written past the end of the block");
    }
#else
    (void)call, (void)block, (void)size;
#endif
}

// Returns true if the run of a block that was freed is not to be used again at once.
#if HAK_HARDENED
bool large_retire(char *block, size_t size, size_t slab, size_t run);
#else
HAK_INLINE bool large_retire(char *block, size_t size, size_t slab, size_t run) {
    (void)block, (void)size, (void)slab, (void)run;
    return false;
}
#endif

#endif
