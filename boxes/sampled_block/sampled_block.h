// SPDX-License-Identifier: Apache-2.0
// sampled_block: where small blocks that are sampled live.
//
// Their addresses are a range of their own, outside of the heap's window: no free hits such a
// block, sized or not, and whoever asks finds it by one comparison. Nothing is reserved before the
// first one. A block has the bin that it would have in the heap; 64 KiB of one bin are a chunk, and
// which of its blocks are free are bits beside it. What has had a bin keeps it, and its pages.
//
// Thread-safe and lock-free: a thread that takes a block has the chunk for itself meanwhile (what a
// child that is forked there loses is one chunk), and any thread frees at any time. Nothing here
// touches errno.
#ifndef HAKMEM_BOXES_SAMPLED_BLOCK_SAMPLED_BLOCK_H
#define HAKMEM_BOXES_SAMPLED_BLOCK_SAMPLED_BLOCK_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

// A block of at least `size` bytes at a multiple of `align`, a power of two. NULL if it is no size
// for a bin, or there is no memory or no room left (16 GiB, or what the address limit allows).
void *sampled_block_alloc(size_t size, size_t align);

enum sampled_block_look {
    SAMPLED_BLOCK_NONE, // nothing of this box
    SAMPLED_BLOCK_LIVE, // the start of a live block
    SAMPLED_BLOCK_FREE, // the start of a free one, or where none has been
    SAMPLED_BLOCK_INTERIOR,
};

// Says what a pointer is. *usable is set to the bytes of a live block, *start to the start of the
// block that an interior pointer points into, live or not.
enum sampled_block_look sampled_block_look(const void *ptr, size_t *usable, void **start);

// Frees the block at ptr. False if no live block starts there.
bool sampled_block_free(void *ptr);

// Bytes of live blocks, and bytes that chunks take.
void sampled_block_count(size_t *live, size_t *held);

// Returns where the range starts. Chunks are in use from there on.
uintptr_t sampled_block_range(void);

// True if a pointer is into this box's range.
HAK_INLINE bool sampled_block_owns(const void *ptr) {
    extern uintptr_t sampled_block_base;
    extern size_t sampled_block_bytes;
    return (uintptr_t)ptr - HAK_PEEK(&sampled_block_base) < HAK_PEEK(&sampled_block_bytes);
}

// For readers outside of the process, see layout.h.
extern const struct hak_layout sampled_block_layout;
HAK_C_END

#endif
