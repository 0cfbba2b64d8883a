// SPDX-License-Identifier: Apache-2.0
// front_gate_classifier: finds out what a pointer points to.
//
// Any bit pattern gets an answer; memory that is not the allocator's own metadata is never read.
// Thread-safe. The hit path of free is front_gate.h.
#ifndef HAKMEM_BOXES_FRONT_GATE_CLASSIFIER_FRONT_GATE_CLASSIFIER_H
#define HAKMEM_BOXES_FRONT_GATE_CLASSIFIER_FRONT_GATE_CLASSIFIER_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum front_gate_kind {
    FRONT_GATE_FOREIGN,       // not in the heap, or in a part of it that never had a block
    FRONT_GATE_TINY,          // start of a tiny block that is live or in a thread's cache
    FRONT_GATE_TINY_FREE,     // start of a tiny block that is free
    FRONT_GATE_TINY_DAMAGED,  // start of a tiny block whose end was overwritten; hardened flavour
    FRONT_GATE_TINY_INTERIOR, // within a slab of tiny blocks, but not the start of one
    FRONT_GATE_LARGE,         // start of a live large block
    FRONT_GATE_LARGE_INTERIOR,
    FRONT_GATE_EARLY,        // start of a live block of early_block
    FRONT_GATE_PRIVATE,      // start of a live block of a private heap
    FRONT_GATE_PRIVATE_FREE, // start of a free block of a private heap
    FRONT_GATE_PRIVATE_INTERIOR,
    FRONT_GATE_SAMPLED,      // start of a live small block that is sampled
    FRONT_GATE_SAMPLED_FREE, // start of a free block among the sampled ones
    FRONT_GATE_SAMPLED_INTERIOR,
    FRONT_GATE_GUARDED,      // start of a live block beside a guard page
    FRONT_GATE_GUARDED_FREE, // start of a freed block beside a guard page
    FRONT_GATE_GUARDED_INTERIOR,
    FRONT_GATE_FREE_PAGES, // in the heap, where no block is (any more)
    FRONT_GATE_INTERNAL,   // the allocator's own data
};

struct front_gate_block {
    enum front_gate_kind kind;
    unsigned bin; // of a tiny block
    size_t slab;  // slab index, for all but FOREIGN; beyond the window for a block far from it
    size_t
        usable; // bytes of the block for TINY, LARGE, PRIVATE, SAMPLED, GUARDED and EARLY, else 0
};

// Classifies any pointer.
struct front_gate_block front_gate_classify(const void *ptr);

// Returns the fault in words, for the line that reports a misuse of a pointer that starts no live
// block.
const char *front_gate_fault(enum front_gate_kind kind);
HAK_C_END

#endif
