// SPDX-License-Identifier: Apache-2.0
// large_block: blocks above 32 KiB, and blocks aligned to more than 32 KiB, as runs of slabs.
//
// If the run of a freed block is short, it is set aside for the thread that allocated the block.
// Otherwise it stays in the page arena as a dirty run, which the next claim prefers. Very large
// blocks give their pages back when they are freed. The largest blocks, and those of GiBs that the
// arena's window has no room for, are mappings of their own (far_block). Lock-free, thread-safe.
// Nothing here touches errno.
#ifndef HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_H
#define HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"
#include "boxes/page_arena/page_arena.h"

HAK_C_BEGIN

// Blocks whose run is this long (bytes) give their pages back as soon as they are freed.
#define LARGE_BLOCK_EAGER ((size_t)64 << 20)

// Blocks of so many bytes are mappings of their own (far_block), except under HAKMEM_LIMIT.
#define LARGE_BLOCK_FAR ((size_t)16 << 30)

// Build setting: blocks whose run is this long (bytes) are moved by the page table instead of
// copied.
#ifndef LARGE_BLOCK_MOVE
#    define LARGE_BLOCK_MOVE ((size_t)512 << 10)
#endif

// Before a block of so many bytes is served, the kernel is asked whether its overcommit policy
// grants it.
#define LARGE_BLOCK_ASKED ((size_t)1 << 30)

enum large_block_use {
    LARGE_BLOCK_ANY,
    LARGE_BLOCK_ZERO, // all of it must be zero
    // The block replaces one that realloc could not resize. Sizes of such blocks are often powers
    // of two, which fill their slabs. With one slab more the block can start at any of several
    // cache lines.
    LARGE_BLOCK_GROWN,
};

// Returns a block of at least `size` bytes (> 0) at a multiple of `align` (a power of two; less
// than 64 counts as 64, and up to 64 the block may start at any cache line of its first page).
// Returns NULL if no heap can have such a block, or if the kernel or HAKMEM_LIMIT refuses the
// memory.
void *large_block_alloc(size_t size, size_t align, enum large_block_use use);

// From now on the usable bytes of each block are its size rounded up to a page instead of a cache
// line, as programs written for jemalloc expect.
void large_block_round_to_pages(void);

// Returns the usable bytes of a block of `size` bytes. `size` is at most PTRDIFF_MAX.
size_t large_block_good_size(size_t size);

// In the calls below `slab` is page_arena_slab_of(window, ptr). large_block_free() and
// large_block_usable() accept any pointer: `slab` may be outside of the window.

// Frees the block that starts at `ptr`. Returns false if no live large block starts there.
bool large_block_free(const struct page_arena_window *window, void *ptr, size_t slab);

// As above, for a slab that page_arena_reaches().
bool large_block_free_reached(void *ptr, size_t slab);

// Gives the waiting runs of freed blocks back to the arena. (Runs wait in the hardened flavour
// only; see retired.c.)
void large_block_flush(void);

// Gives back the pages of waiting runs: of all of them, or of those that waited at the previous
// call already. The runs go on waiting.
void large_block_age(bool all);

// Returns the bytes of the waiting runs that may have memory.
size_t large_block_quarantined(void);

// Returns the usable bytes of the live large block that starts at `ptr`, 0 if there is none.
size_t large_block_usable(const struct page_arena_window *window, const void *ptr, size_t slab);

// Resizes the live large block that starts at `ptr`, in a slab that page_arena_reaches(), to `size`
// bytes (> 0) if it takes up the same pages then. Otherwise returns false, and changes nothing.
bool large_block_stays(void *ptr, size_t slab, size_t size);

// Resizes the live large block that starts at `ptr` to `size` bytes (> 0), at its place, by moving
// its pages, or by a copy that leaves out pages of zeros. Returns NULL, and leaves the block as it
// was, if none of these can be done.
void *large_block_resize(const struct page_arena_window *window, void *ptr, size_t slab,
                         size_t size);

// As large_block_resize(), but at the block's place only. Returns false if that cannot be done.
bool large_block_resize_here(const struct page_arena_window *window, void *ptr, size_t slab,
                             size_t size);

// For readers outside of the process; see layout.h.
extern const struct hak_layout large_block_layout;
HAK_C_END

#endif
