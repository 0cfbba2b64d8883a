// large_block: blocks above 32 KiB, and blocks aligned to more than 32 KiB, as runs of slabs.
//
// Freed runs stay as dirty runs of the page arena, which the next claim prefers; very large ones
// give their pages back at once. Lock-free, thread-safe. Aborts with one line on misuse.
#ifndef HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_H
#define HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Blocks from here on (bytes) give their pages back as soon as they are freed.
#define LARGE_BLOCK_EAGER ((size_t)64 << 20)

// Blocks from here on (bytes) are moved by the page table instead of copied.
#define LARGE_BLOCK_MOVE ((size_t)1 << 20)

// A block of at least `size` bytes (> 0) at a multiple of `align` (a power of two; 64 is the least,
// and up to 64 the block may start at any cache line of its first page), all zero if `zero`. NULL
// if size or align is beyond what can be or the kernel refuses.
void *large_block_alloc(size_t size, size_t align, bool zero);

// Frees the block that starts at `ptr`, an address in slab `slab`. False if no large block starts
// there (any more).
bool large_block_free(void *ptr, size_t slab);

// Usable bytes of the large block at ptr in slab `slab`, 0 if there is none.
size_t large_block_usable(const void *ptr, size_t slab);

// Resizes the block, at its place or by moving its pages; NULL if neither can be done, and the
// block is as it was. ptr must start a live large block; size > 0.
void *large_block_resize(void *ptr, size_t slab, size_t size);
HAK_C_END

#endif
