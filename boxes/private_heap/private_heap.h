// SPDX-License-Identifier: Apache-2.0
// private_heap: heaps whose blocks can all be freed at once: what mimalloc calls a heap and
// jemalloc an arena of the program's own.
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

// The usable bytes that private_heap_alloc() is sure to give, 0 if size or align is beyond what can
// be.
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

// Says what a pointer, any pointer, is to private heaps. *usable is set to the bytes of a live
// block.
enum private_heap_look {
    PRIVATE_HEAP_NONE, // nothing of theirs
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

// Usable bytes of live blocks, and bytes that the heap holds for them.
struct private_heap_stats {
    size_t live, held;
};
struct private_heap_stats private_heap_get_stats(struct private_heap *heap);

// Usable bytes of live blocks of all private heaps.
size_t private_heap_live(void);

// For readers outside of the process, see layout.h.
extern const struct hak_layout private_heap_layout;
HAK_C_END

#endif
