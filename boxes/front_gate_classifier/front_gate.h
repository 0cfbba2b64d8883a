// front_gate_classifier, hit path: from a pointer to its bin, by the page map.
//
// The page map is one byte a slab at the start of the window: twice the bin of a slab of tiny
// blocks, 0 for everything else. One cache line of it covers 4 MiB; the block itself is not
// touched.
#ifndef HAKMEM_BOXES_FRONT_GATE_CLASSIFIER_FRONT_GATE_H
#define HAKMEM_BOXES_FRONT_GATE_CLASSIFIER_FRONT_GATE_H

#include "boxes/base/base.h"
#include "boxes/page_arena/page_arena.h"

HAK_C_BEGIN

// What the hit path of free needs to know of the window. All zero: no pointer is known.
struct front_gate {
    const uint8_t *map; // the page map, at the window's base
    size_t slabs;
};

HAK_INLINE struct front_gate front_gate_of(const struct page_arena_window *window) {
    return (struct front_gate){(const uint8_t *)window->base, window->slabs};
}

// Twice the bin of the tiny slab that ptr points into; 0 for any other bit pattern.
HAK_INLINE unsigned front_gate_lookup(const struct front_gate *gate, const void *ptr) {
    size_t slab = ((uintptr_t)ptr - (uintptr_t)gate->map) >> ARENA_SLAB_SHIFT;
    if (HAK_UNLIKELY(slab >= gate->slabs)) {
        return 0;
    }
    return gate->map[slab];
}
HAK_C_END

#endif
