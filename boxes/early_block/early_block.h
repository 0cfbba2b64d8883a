// SPDX-License-Identifier: Apache-2.0
// early_block: blocks for calls that come before the library can run.
//
// The dynamic linker relocates a program's libraries one after the other, and calls the IFUNC
// resolvers of those that come first while this library is not relocated yet: its global offset
// table is zero, so that no function of libc can be called and no thread-local variable is where it
// should be. A resolver that allocates is served from here. Blocks lie one behind the other, come
// zeroed, and their bytes are never handed out again; later calls free and resize them as they do
// any other block.
//
// Nothing here calls libc, goes through the global offset table or reads a thread-local variable.
#ifndef HAKMEM_BOXES_EARLY_BLOCK_EARLY_BLOCK_H
#define HAKMEM_BOXES_EARLY_BLOCK_EARLY_BLOCK_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

// Returns a block of at least `size` bytes, all zero, at a multiple of `align` (a power of two;
// HAK_MIN_ALIGN is the least). Returns NULL if the kernel refuses memory. Not thread-safe: the
// process has one thread that early.
void *early_block_alloc(size_t size, size_t align);

// Resizes the block that starts at `ptr` to `size` bytes (1 or more), at its place or at another.
// Returns NULL, and leaves the block as it was, if there is no memory. Does not set errno. Not
// thread-safe.
void *early_block_resize(void *ptr, size_t size);

// Returns the usable bytes of the live block that starts at `ptr`, a multiple of HAK_MIN_ALIGN; 0
// if there is none. Thread-safe.
size_t early_block_usable(const void *ptr);

// Frees the live block that starts at `ptr`. Returns false if there is none. Thread-safe.
bool early_block_free(void *ptr);

// Returns true if `ptr` lies in memory that blocks of this box were cut from. Thread-safe.
bool early_block_owns(const void *ptr);

// For readers outside of the process, see layout.h.
extern const struct hak_layout early_block_layout;
HAK_C_END

#endif
