// large_block: blocks above 32 KiB, and blocks aligned to more than 32 KiB, as runs of slabs.
//
// Freed runs are set aside in the page arena, or stay there as dirty runs, which the next claim
// prefers; very large ones give their pages back at once. Lock-free, thread-safe. Aborts with one
// line on misuse.
#ifndef HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_H
#define HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_H

#include "boxes/base/base.h"
#include "boxes/page_arena/page_arena.h"

HAK_C_BEGIN

// Blocks from here on (bytes) give their pages back as soon as they are freed.
#define LARGE_BLOCK_EAGER ((size_t)64 << 20)

// Blocks from here on (bytes) are moved by the page table instead of copied.
#define LARGE_BLOCK_MOVE ((size_t)1 << 20)

// A block of at least `size` bytes (> 0) at a multiple of `align` (a power of two; 64 is the least,
// and up to 64 the block may start at any cache line of its first page), all zero if `zero`. NULL
// if size or align is beyond what can be or the kernel refuses.
void *large_block_alloc(size_t size, size_t align, bool zero);

// Of the following the caller knows the window and the slab of it that `ptr` is an address in.

// Frees the block that starts at `ptr`. False if no large block starts there (any more).
bool large_block_free(const struct page_arena_window *window, void *ptr, size_t slab);

// Usable bytes of the large block at ptr, 0 if there is none.
size_t large_block_usable(const struct page_arena_window *window, const void *ptr, size_t slab);

// Resizes the block, at its place or by moving its pages; NULL if neither can be done, and the
// block is as it was. ptr must start a live large block; size > 0.
void *large_block_resize(const struct page_arena_window *window, void *ptr, size_t slab,
                         size_t size);
HAK_C_END

#endif
