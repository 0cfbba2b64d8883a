// SPDX-License-Identifier: Apache-2.0
// page_map: one byte for each slab of the window, by which a free finds the size class of a block.
//
// The byte is the place of the slab's bin (size_class_place()) while the slab has blocks of up to
// 32 KiB, and 0 for every other slab. The bytes are the first ones of the window; page_arena maps
// them before it maps the slabs that they stand for. shared_pool alone writes them: a slab's holder
// sets the byte before the first block is handed out, and clears it after the last one is back. So
// a thread that was given a block reads the block's byte without an atomic step.
#ifndef HAKMEM_BOXES_PAGE_MAP_PAGE_MAP_H
#define HAKMEM_BOXES_PAGE_MAP_PAGE_MAP_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/page_arena/page_arena.h"

HAK_C_BEGIN

// Returns the byte of slab 0. That of slab n is n bytes further; it can be read if
// page_arena_reaches(n).
HAK_INLINE const uint8_t *page_map_bytes(const struct page_arena_window *window) {
    return (const uint8_t *)window->base;
}

// Returns the byte of a slab that page_arena_reaches(). It may change at any time unless the caller
// holds a block of the slab, or the slab.
HAK_INLINE unsigned page_map_get(const struct page_arena_window *window, size_t slab) {
    return atomic_load_explicit((_Atomic(uint8_t) *)window->base + slab, memory_order_relaxed);
}

// Sets the byte of a slab that the caller holds.
HAK_INLINE void page_map_set(const struct page_arena_window *window, size_t slab, unsigned place) {
    atomic_store((_Atomic(uint8_t) *)window->base + slab, (uint8_t)place);
}
HAK_C_END

#endif
