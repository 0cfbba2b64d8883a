// SPDX-License-Identifier: Apache-2.0
// large_block_internal: what the files of large blocks share.
//
//   large_block.c   claims a block's run, chooses the line that the block starts at, and frees it
//   slack.c         counts the pages behind the ends of blocks, and gives them back
//   resize.c        resizes a block at its place, moves its pages, or copies it
//   zero.c          makes a block for calloc zero
//   guards.c        hardened flavour: pages without access rights behind blocks
//   retired.c       hardened flavour: freed blocks that wait before they are used again
//
// Some words: a block's *run* is the slabs that are claimed for it. Its *colour* is the number of
// bytes between the start of the run and the block. Its *room* is the slabs at the end of the run
// that the block does not use yet, and which have no memory. Its *slack* is the pages behind its
// end that may have memory.
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

// --- large_block.c

// Returns true unless the kernel would refuse `size` bytes more.
bool large_is_granted(size_t size);

// Allocates a block in the arena's window, or returns NULL. Sets *is_zero if its pages were zero
// before they were claimed.
void *large_alloc_near(size_t asked, size_t align, enum large_block_use use, bool *is_zero);

// Returns how many slabs of its run a block uses: all but its room.
HAK_INLINE size_t used_slabs(struct slab *meta) {
    return atomic_load_explicit(&meta->run, memory_order_relaxed) -
           atomic_load_explicit(&meta->room, memory_order_relaxed);
}

// Gives a block's room back. Returns the number of slabs that are left in the run.
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

// --- slack.c

// What the pages behind a block are after its size or its run has changed. (They are not the TAIL
// bytes above.)
enum tail {
    TAIL_CLEAN,  // without memory
    TAIL_WANTED, // to be used soon: the block grows
    TAIL_UNUSED, // neither of these
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

// How much of a block one call of os_touched() asks the kernel about. The answer has to fit on a
// signal's stack.
enum { PART_SLABS = 16, PART_PAGES = PART_SLABS * (ARENA_SLAB / HAK_PAGE) };

// --- zero.c

// Makes a block in a claimed run zero. *is_zero says whether the whole run is zero, before the call
// and after it. Returns false, and releases the run, if the run cannot be used.
bool large_make_zero(char *block, size_t size, size_t slab, size_t run, bool *is_zero);

// --- guards.c and retired.c, and the tails of the hardened flavour

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

// A guard is the pages without access rights behind a block, up to the end of the slabs that the
// block uses; see guards.c. large_guard_bytes() returns the bytes that a run should have for the
// guard of a block of `size` bytes. large_set_guard() guards a block if it can, or lengthens its
// guard after the block has shrunk. large_drop_guard() removes a guard, and is to be called before
// slabs of the run are put to another use. large_shrink_guard() makes way for a block that takes up
// the first `bytes` bytes of its run. If the kernel does not give the access rights back,
// large_drop_guard() and large_shrink_guard() return false and leave the guard as it was.
// large_forget_guard() is for a run that has lost its access rights as a whole.
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

// Starts a block of `asked` bytes in a claimed run, for the threads with that slot. `grown`:
// realloc made the block. The caller counts the block.
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

// large_retire() returns true if it has taken the run of a freed block over, which then waits
// before it is used again. large_retire_moved() does the same for a run without pages, whose block
// was moved.
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
