// SPDX-License-Identifier: Apache-2.0
// large_block_internal: what the files of large blocks share.
//
//   large_block.c   claims, colours, and the begin and the end of a block
//   slack.c         the pages behind the ends of blocks
//   resize.c        blocks that are resized at their place, or moved
//   guards.c        pages behind blocks that nobody may touch, in the hardened flavour
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

// Bytes behind a block that its user did not ask for; in the hardened flavour they reveal writes
// past the end.
enum { TAIL = HAK_HARDENED ? 16 : 0 };

// Returns the bytes that a block of `size` bytes takes up.
HAK_INLINE size_t taken(size_t size) {
    return superslab_usable(size) + TAIL;
}

// --- Of all files: see large_block.c

// Returns true unless the kernel would refuse `size` bytes more.
bool large_is_granted(size_t size);

// Allocates a block in the arena's window, or returns NULL. Sets *is_zero if its pages were zero
// before they were claimed.
void *large_alloc_near(size_t asked, size_t align, enum large_block_use use, bool *is_zero);

// Gives a block's room, which has no memory, back. Returns how many slabs of the run are left.
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

// The pages behind a block whose size or run has changed:
enum tail {
    TAIL_CLEAN,  // they have no memory
    TAIL_WANTED, // the block grows, and will use them
    TAIL_UNUSED, // neither
};

// Returns about how many live blocks the arena's window has.
size_t large_live(void);

// To be called once when a block begins, after its size and its run are known, and once when it
// ends, before its run is given back. `slot` is the calling thread's.
void large_count_begun(const struct page_arena_window *window, size_t slab, struct slab *meta,
                       unsigned slot, enum tail tail);
void large_count_ended(struct slab *meta, unsigned slot);

// To be called by a block's holder whenever its size or its run has changed.
void large_settle_slack(const struct page_arena_window *window, size_t slab, enum tail tail);

// --- resize.c, zero.c

// How much of a block the kernel is asked about at a time (os_touched()), so that the answer fits
// on a signal's stack.
enum { PART_SLABS = 16, PART_PAGES = PART_SLABS * (ARENA_SLAB / HAK_PAGE) };

// --- zero.c

// Makes a block of a claimed run zero; *is_zero says whether the run is zero already, and later
// whether all of it is. Returns false if the run cannot be used; it is released then.
bool large_make_zero(char *block, size_t size, size_t slab, size_t run, bool *is_zero);

// --- Tails, guards, and what was freed, in the hardened flavour: see retired.c and guards.c

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

// Returns the metadata of the block that starts at ptr, in a slab whose group can be read; NULL if
// there is none.
HAK_INLINE struct slab *find_reached(const struct page_arena_window *window, const void *ptr,
                                     size_t slab) {
    if (HAK_UNLIKELY(!superslab_known_reached(window, slab))) {
        return NULL;
    }
    struct slab *meta = superslab_slab(window, slab);
    return atomic_load_explicit(&meta->kind, memory_order_acquire) == SLAB_LARGE &&
                   superslab_large_start(window, slab) == ptr
               ? meta
               : NULL;
}

// Guards: pages behind a block, up to the end of the slabs that the block has, which nobody may
// touch; see guards.c. large_guard_bytes() returns what a run for a block of `size` bytes should
// have beyond that. large_set_guard() guards a block, or lengthens its guard after the block has
// shrunk, where it can. large_drop_guard() takes a guard away: to be called before slabs of the run
// are used otherwise. large_shrink_guard() makes way for a block that takes up the first `bytes`
// bytes of its run. Both return false if the kernel does not give the rights back; the guard is as
// it was then. large_forget_guard() is for a run all of which has lost its rights.
#if HAK_HARDENED
size_t large_guard_bytes(size_t size);
void large_set_guard(const struct page_arena_window *window, size_t slab);
bool large_drop_guard(const struct page_arena_window *window, size_t slab);
bool large_shrink_guard(const struct page_arena_window *window, size_t slab, size_t bytes);
void large_forget_guard(struct slab *meta);
#else
HAK_INLINE size_t large_guard_bytes(size_t size) {
    (void)size;
    return 0;
}
HAK_INLINE void large_set_guard(const struct page_arena_window *window, size_t slab) {
    (void)window, (void)slab;
}
HAK_INLINE bool large_drop_guard(const struct page_arena_window *window, size_t slab) {
    (void)window, (void)slab;
    return true;
}
HAK_INLINE bool large_shrink_guard(const struct page_arena_window *window, size_t slab,
                                   size_t bytes) {
    (void)window, (void)slab, (void)bytes;
    return true;
}
#endif

// Makes a block of a claimed run, for the threads with that slot. `grown`: realloc made it. The
// caller counts the block.
HAK_INLINE char *large_begin(const struct page_arena_window *window, size_t slab, struct slab *meta,
                             size_t run, size_t room, size_t colour, size_t asked, unsigned slot,
                             bool grown) {
    atomic_store_explicit(&meta->owner, (uint8_t)slot, memory_order_relaxed);
    atomic_store_explicit(&meta->colour, (uint16_t)colour, memory_order_relaxed);
    atomic_store_explicit(&meta->run, run, memory_order_relaxed);
    atomic_store_explicit(&meta->room, (uint32_t)room, memory_order_relaxed);
    atomic_store_explicit(&meta->flags, grown ? SLAB_GROWN : 0, memory_order_relaxed);
    atomic_store_explicit(&meta->size, asked, memory_order_relaxed);
    char *block = (char *)page_arena_address(window, slab) + colour;
    write_tail(block, asked);
    atomic_store_explicit(&meta->kind, SLAB_LARGE, memory_order_release);
    return block;
}

// large_retire() returns true if the run of a block that was freed is not to be used again at once.
// large_retire_moved() is for a run without pages, whose block was moved.
#if HAK_HARDENED
bool large_retire(char *block, size_t size, size_t slab, size_t run);
bool large_retire_moved(size_t slab, size_t run);
#else
HAK_INLINE bool large_retire_moved(size_t slab, size_t run) {
    (void)slab, (void)run;
    return false;
}
HAK_INLINE bool large_retire(char *block, size_t size, size_t slab, size_t run) {
    (void)block, (void)size, (void)slab, (void)run;
    return false;
}
#endif

#endif
