// SPDX-License-Identifier: Apache-2.0
// front_gate_classifier, hit path: from a pointer to its size class ("bin"). Two strategies behind
// one interface.
//
// pagemap (the default): the page map (page_map.h) has one byte for each slab. One cache line of it
// covers 4 MiB; the block itself is not touched.
//
// header (HAK_HEADER=1): the byte below a block, which is the last byte of the block before it, is
// 0xA0 | bin. It is written when a block leaves the pool, and read when the block is freed. It is
// read only in the readable part of the heap, and never across a page boundary: the page map tells
// the bin of a block that starts a page. If the byte is no header, the pointer goes to the slow
// path, which knows from the registry whether there should have been one.
#ifndef HAKMEM_BOXES_FRONT_GATE_CLASSIFIER_FRONT_GATE_H
#define HAKMEM_BOXES_FRONT_GATE_CLASSIFIER_FRONT_GATE_H

#include "boxes/base/base.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/page_map/page_map.h"
#include "boxes/size_class/size_class.h"

HAK_C_BEGIN

// A copy of the facts about the window that the hit path of free needs. Without units (and length)
// the copy knows no pointer, whatever its other fields are. The copy may be older than the heap:
// pointers that it does not know yet take the slow path. A unit is 16 bytes; `units` counts those
// whose byte of the page map can be read.
struct front_gate {
#if HAK_HEADER
    size_t units;
    const uint8_t *map; // the page map, at the window's base
    uintptr_t readable; // start of the part of the heap that can be read
    size_t length;      // its bytes
#else
    size_t checked;     // as `units` while freed blocks are looked at, else 0
    const uint8_t *map; // the page map, at the window's base
    const char *lowest; // no block lies below
    size_t units;
#endif
};

enum {
    FRONT_GATE_MAGIC = 0xA0,
    FRONT_GATE_UNIT = 4,                                        // log2 of HAK_MIN_ALIGN
    FRONT_GATE_SLAB_UNITS = ARENA_SLAB_SHIFT - FRONT_GATE_UNIT, // log2 of units in a slab
};
static_assert(1 << FRONT_GATE_UNIT == HAK_MIN_ALIGN, "a unit is what every block is aligned to");

// `check`: freed blocks are read. With headers they always are, because the header is near by.
HAK_INLINE struct front_gate front_gate_of(const struct page_arena_window *window, bool check) {
    size_t units = page_arena_mapped() << FRONT_GATE_SLAB_UNITS;
    const uint8_t *map = page_map_bytes(window);
    size_t length;
    char *readable = page_arena_readable(&length);
#if HAK_HEADER
    (void)check;
    return (struct front_gate){units, map, (uintptr_t)readable, length};
#else
    return (struct front_gate){check ? units : 0, map, length != 0 ? readable : window->base,
                               units};
#endif
}

// Sets whether freed blocks are read from now on.
HAK_INLINE void front_gate_set_check(struct front_gate *gate, bool check) {
#if HAK_HEADER
    (void)gate, (void)check;
#else
    gate->checked = check ? gate->units : 0;
#endif
}

// Returns the number of units from an aligned address to ptr. A pointer below the address, and one
// that is not aligned as blocks are, gets more units than there are: the rotation moves the bits
// below a unit to the top.
HAK_INLINE size_t front_gate_units(const void *from, const void *ptr) {
    uintptr_t offset = (uintptr_t)ptr - (uintptr_t)from;
    return offset >> FRONT_GATE_UNIT | offset << (64 - FRONT_GATE_UNIT);
}
HAK_INLINE size_t front_gate_unit(const struct front_gate *gate, const void *ptr) {
    return front_gate_units(gate->map, ptr);
}
// Returns true while freed blocks are read.
HAK_INLINE bool front_gate_checks(const struct front_gate *gate) {
#if HAK_HEADER
    (void)gate;
    return true;
#else
    return gate->checked != 0;
#endif
}

HAK_INLINE unsigned front_gate_at(const struct front_gate *gate, size_t unit) {
    return gate->map[unit >> FRONT_GATE_SLAB_UNITS];
}

// Sets *place to the place of the tiny slab that ptr points into, by the page map; 0 for anything
// else in the window. Returns false for a pointer outside of the window, and for one that is not
// aligned as blocks are.
HAK_INLINE bool front_gate_find_registered(const struct front_gate *gate, const void *ptr,
                                           unsigned *place) {
    size_t unit = front_gate_unit(gate, ptr);
    if (HAK_UNLIKELY(unit >= gate->units)) {
        return false;
    }
    *place = front_gate_at(gate, unit);
    return true;
}

// As above, for the newest slabs too, and for pointers that are not aligned. Returns 0 for a
// pointer outside of the window. The window may have no slabs yet.
HAK_INLINE unsigned front_gate_search(const struct page_arena_window *window, const void *ptr) {
    size_t slab = page_arena_slab_of(window, ptr);
    return slab < window->slabs && page_arena_reaches(slab) ? page_map_get(window, slab) : 0;
}

// As front_gate_find_registered(), by the flavour's strategy.
HAK_INLINE bool front_gate_find(const struct front_gate *gate, const void *ptr, unsigned *place) {
#if HAK_HEADER
    if (HAK_UNLIKELY((uintptr_t)ptr - gate->readable >= gate->length ||
                     (uintptr_t)ptr % HAK_MIN_ALIGN != 0)) {
        return false;
    }
    if (HAK_UNLIKELY((uintptr_t)ptr % HAK_PAGE == 0)) {
        return front_gate_find_registered(gate, ptr, place);
    }
    unsigned bin = ((const uint8_t *)ptr)[-1] ^ (unsigned)FRONT_GATE_MAGIC;
    *place = bin < SIZE_CLASS_BINS ? size_class_alloc_place(bin) : 0;
    return true;
#else
    return front_gate_find_registered(gate, ptr, place);
#endif
}

// Both return 0 for a pointer outside of the window, and for one that is not aligned as blocks are.
HAK_INLINE unsigned front_gate_registry(const struct front_gate *gate, const void *ptr) {
    unsigned place;
    return front_gate_find_registered(gate, ptr, &place) ? place : 0;
}
HAK_INLINE unsigned front_gate_lookup(const struct front_gate *gate, const void *ptr) {
    unsigned place;
    return front_gate_find(gate, ptr, &place) ? place : 0;
}

// Makes blocks of `bin` that come from the pool known to front_gate_lookup().
HAK_INLINE void front_gate_mark(unsigned bin, void *const *blocks, unsigned count) {
#if HAK_HEADER
    for (unsigned i = 0; i < count; i++) {
        if ((uintptr_t)blocks[i] % HAK_PAGE != 0) {
            ((uint8_t *)blocks[i])[-1] = (uint8_t)(FRONT_GATE_MAGIC | bin);
        }
    }
#else
    (void)bin, (void)blocks, (void)count;
#endif
}

// Returns false if the header byte of a block of `bin` (as the registry has it) is not what it
// should be.
HAK_INLINE bool front_gate_intact(unsigned bin, const void *block) {
#if HAK_HEADER
    return (uintptr_t)block % HAK_PAGE == 0 ||
           ((const uint8_t *)block)[-1] == (FRONT_GATE_MAGIC | bin);
#else
    (void)bin, (void)block;
    return true;
#endif
}
HAK_C_END

#endif
