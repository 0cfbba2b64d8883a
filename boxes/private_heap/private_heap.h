// SPDX-License-Identifier: Apache-2.0
// private_heap: heaps whose blocks can all be freed at once: what mimalloc calls a heap and
// jemalloc an arena of the program's own.
//
// Their blocks live in runs of slabs that no other heap shares: chunks of one slab with blocks of
// one bin, or a run for one larger block. The first bytes of a run describe it, so no block starts
// where a large block would, and free() finds out what such a pointer is after it has looked for
// everything else: ordinary blocks pay nothing. Slower than the thread's cache, as every call is an
// atomic step or two, and empty chunks of blocks stay with the heap until it is deleted, destroyed
// or reset.
//
// Any thread may allocate from a heap, and free a block of it, at any time. delete, destroy and
// reset have the heap for themselves; a block may be freed by another thread during delete. No
// locks; nothing here touches errno.
#ifndef HAKMEM_BOXES_PRIVATE_HEAP_PRIVATE_HEAP_H
#define HAKMEM_BOXES_PRIVATE_HEAP_PRIVATE_HEAP_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"
#include "boxes/page_arena/page_arena.h"

HAK_C_BEGIN

struct private_heap;

// NULL if there is no memory.
struct private_heap *private_heap_new(void);

// A block of `size` bytes at a multiple of `align`, a power of two; `zero`: all of it is zero. NULL
// if there is no memory, or size or align is beyond what can be.
void *private_heap_alloc(struct private_heap *heap, size_t size, size_t align, bool zero);

// The same for a block whose byte at `offset` is at a multiple of `align`. The block has a run of
// slabs to itself.
void *private_heap_alloc_at(struct private_heap *heap, size_t size, size_t align, size_t offset,
                            bool zero);

// The usable bytes that private_heap_alloc() is sure to give, 0 if size or align is beyond what can
// be.
size_t private_heap_good_size(size_t size, size_t align);

// The heap is gone and its live blocks stay: each is freed as any other block.
void private_heap_delete(struct private_heap *heap);

// The heap is gone, and so are its blocks.
void private_heap_destroy(struct private_heap *heap);

// The heap's blocks are gone.
void private_heap_reset(struct private_heap *heap);

// Frees the block that starts at `ptr`. False if there is no live block of a private heap.
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

// The heap that the block at `ptr` is of, NULL if it is of none or its heap was deleted.
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
