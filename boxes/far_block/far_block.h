// SPDX-License-Identifier: Apache-2.0
// far_block: the largest blocks, and blocks that the arena's window has no room for. Each is a
// mapping of its own.
//
// A claim in the arena takes time in proportion to a block's size; here it is one system call. A
// table lists the blocks. A look-up walks over the entries that were ever used, of which most
// processes have none.
//
// Thread-safe, lock-free. Nothing here touches errno.
#ifndef HAKMEM_BOXES_FAR_BLOCK_FAR_BLOCK_H
#define HAKMEM_BOXES_FAR_BLOCK_FAR_BLOCK_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

enum { FAR_BLOCK_MOST = 1024 }; // blocks at a time

// The least size, bytes: smaller ones would fill the table.
#define FAR_BLOCK_LEAST ((size_t)1 << 30)

// Returns a block of `size` bytes (FAR_BLOCK_LEAST or more), all zero, at a multiple of `align` (a
// power of two). Returns NULL if the kernel refuses the memory, the table is full, or no process
// can have such a block.
void *far_block_alloc(size_t size, size_t align);

// Frees the block that starts at `ptr`. Returns false if no block of this box starts there.
bool far_block_free(void *ptr);

// Returns the size that was asked for of the block that starts at `ptr`, 0 if none starts there.
size_t far_block_usable(const void *ptr);

// Blocks, and the bytes that are mapped for them; exact when no other thread is at it.
struct far_block_stats {
    size_t blocks, bytes;
};
struct far_block_stats far_block_get_stats(void);

// Resizes the block that starts at `ptr` to `size` bytes, at its place or by moving its pages; a
// moved block may lose its alignment. Returns NULL if neither can be done; the block is as it was
// then.
void *far_block_resize(void *ptr, size_t size);

// For readers outside of the process, see layout.h.
extern const struct hak_layout far_block_layout;
HAK_C_END

#endif
