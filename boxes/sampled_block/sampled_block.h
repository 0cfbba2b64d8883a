// SPDX-License-Identifier: Apache-2.0
// sampled_block: the memory of small blocks that are sampled.
//
// Sampled blocks have a range of addresses of their own, outside of the heap's window. So no free
// of such a block is a hit, and one comparison tells whether a pointer is into the range. The range
// is reserved with the first block. A block has the bin that it would have in the heap. A chunk is
// 64 KiB of blocks of one bin; its free blocks are the set bits of a bitmap outside of the chunk. A
// chunk keeps its bin and its pages for good.
//
// Thread-safe and lock-free. A thread that takes a block has the chunk for itself meanwhile; a
// child that is forked in between loses that chunk. Any thread may free at any time. Nothing here
// touches errno.
#ifndef HAKMEM_BOXES_SAMPLED_BLOCK_SAMPLED_BLOCK_H
#define HAKMEM_BOXES_SAMPLED_BLOCK_SAMPLED_BLOCK_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

// Returns a block of at least `size` bytes at a multiple of `align`, a power of two. Returns NULL
// if no bin has such blocks, if there is no memory, or if the range (16 GiB, or less if a limit on
// address space asks for that) is full. Also returns NULL while another thread reserves the range.
void *sampled_block_alloc(size_t size, size_t align);

enum sampled_block_look {
    SAMPLED_BLOCK_NONE,     // not in this box's range
    SAMPLED_BLOCK_LIVE,     // the start of a live block
    SAMPLED_BLOCK_FREE,     // the start of a free block, or where no block has been
    SAMPLED_BLOCK_INTERIOR, // inside a block
};

// Returns what a pointer points to. Sets *usable to the usable bytes if that is the start of a live
// block. Sets *start to the start of the block, live or not, if the pointer is in a block.
enum sampled_block_look sampled_block_look(const void *ptr, size_t *usable, void **start);

// Frees the block that starts at `ptr`. Returns false if no live block starts there.
bool sampled_block_free(void *ptr);

// Sets *live to the bytes of live blocks, and *held to the bytes of the chunks in use.
void sampled_block_count(size_t *live, size_t *held);

// Returns where the range starts. Chunks are in use from there on.
uintptr_t sampled_block_range(void);

// Returns true if a pointer is into this box's range.
HAK_INLINE bool sampled_block_owns(const void *ptr) {
    extern uintptr_t sampled_block_base;
    extern size_t sampled_block_bytes;
    return (uintptr_t)ptr - HAK_PEEK(&sampled_block_base) < HAK_PEEK(&sampled_block_bytes);
}

// For readers outside of the process, see layout.h.
extern const struct hak_layout sampled_block_layout;
HAK_C_END

#endif
