// SPDX-License-Identifier: Apache-2.0
// private_heap: heaps all of whose blocks can be freed at once. mimalloc calls them heaps, jemalloc
// calls them arenas.
//
// The blocks of a private heap live in runs of slabs that no other heap shares: chunks of one slab
// with blocks of one bin, or a run for one larger block. The first bytes of a run describe it, so
// no block starts where a large block would. free() looks for a private heap's block last: ordinary
// blocks pay nothing. A private heap is slower than the thread's cache, as every call takes an
// atomic step or two. Its empty chunks stay with it until it is deleted, destroyed or reset.
//
// Any thread may allocate from a heap, and free a block of it, at any time. The caller of delete,
// destroy or reset must be the heap's only user; only during delete another thread may free a
// block. No locks; nothing here touches errno.
#ifndef HAKMEM_BOXES_PRIVATE_HEAP_PRIVATE_HEAP_H
#define HAKMEM_BOXES_PRIVATE_HEAP_PRIVATE_HEAP_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"
#include "boxes/page_arena/page_arena.h"

HAK_C_BEGIN

struct private_heap;

// Returns a new heap, or NULL if there is no memory.
struct private_heap *private_heap_new(void);

// Returns a block of `size` bytes at a multiple of `align`, a power of two; all of it is zero if
// `zero` is set. Returns NULL if there is no memory, or if no heap can have such a block.
void *private_heap_alloc(struct private_heap *heap, size_t size, size_t align, bool zero);

// As private_heap_alloc(), but the byte at `offset` is at a multiple of `align`. The block has a
// run of slabs to itself.
void *private_heap_alloc_at(struct private_heap *heap, size_t size, size_t align, size_t offset,
                            bool zero);

// Returns the least usable bytes of a block that private_heap_alloc() would return, 0 if no block
// can have that size or alignment.
size_t private_heap_good_size(size_t size, size_t align);

// Ends a heap. Its live blocks stay; each is freed as any other block.
void private_heap_delete(struct private_heap *heap);

// Ends a heap, and frees its blocks.
void private_heap_destroy(struct private_heap *heap);

// Frees all blocks of a heap.
void private_heap_reset(struct private_heap *heap);

// Frees the block that starts at `ptr`. Returns false if no live block of a private heap starts
// there.
bool private_heap_free(const struct page_arena_window *window, void *ptr);

// Classifies a pointer, which may be any pointer. Sets *usable to the usable bytes if a live block
// starts there.
enum private_heap_look {
    PRIVATE_HEAP_NONE, // in no private heap
    PRIVATE_HEAP_LIVE, // the start of a live block
    PRIVATE_HEAP_FREE, // the start of a small block that is free
    PRIVATE_HEAP_INTERIOR,
};
enum private_heap_look private_heap_look(const struct page_arena_window *window, const void *ptr,
                                         size_t *usable);

// Returns the heap of the block at `ptr`; NULL if no private heap has it, or its heap was deleted.
struct private_heap *private_heap_of(const struct page_arena_window *window, const void *ptr);

// Calls `visit` for each live block until it returns false, then returns false. The heap must be at
// rest.
typedef bool (*private_heap_visitor)(void *block, size_t usable, void *arg);
bool private_heap_visit(struct private_heap *heap, private_heap_visitor visit, void *arg);

// Return the usable bytes of live blocks, and the bytes that the heap holds for them.
struct private_heap_stats {
    size_t live, held;
};
struct private_heap_stats private_heap_get_stats(struct private_heap *heap);

// Returns the usable bytes of live blocks of all private heaps.
size_t private_heap_live(void);

// For readers outside of the process, see layout.h.
extern const struct hak_layout private_heap_layout;
HAK_C_END

#endif
