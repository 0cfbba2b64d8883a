// SPDX-License-Identifier: Apache-2.0
// front_gate_classifier: what kind of block is a pointer?
//
// Any bit pattern gets an answer; memory that is not the allocator's own metadata is never read.
// Thread-safe. The hit path of free is front_gate.h.
#ifndef HAKMEM_BOXES_FRONT_GATE_CLASSIFIER_FRONT_GATE_CLASSIFIER_H
#define HAKMEM_BOXES_FRONT_GATE_CLASSIFIER_FRONT_GATE_CLASSIFIER_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum classified_kind {
    CLASSIFIED_FOREIGN,       // not in the heap, or in a part of it that holds no block
    CLASSIFIED_TINY,          // start of a tiny block that is live or in a thread's cache
    CLASSIFIED_TINY_FREE,     // start of a tiny block that is free
    CLASSIFIED_TINY_DAMAGED,  // start of one whose end was overwritten; in the hardened flavour
    CLASSIFIED_TINY_INTERIOR, // within a slab of tiny blocks, but not the start of one
    CLASSIFIED_LARGE,         // start of a live large block
    CLASSIFIED_LARGE_INTERIOR,
    CLASSIFIED_EARLY,        // start of a live block of early_block
    CLASSIFIED_PRIVATE,      // start of a live block of a private heap
    CLASSIFIED_PRIVATE_FREE, // start of a free one
    CLASSIFIED_PRIVATE_INTERIOR,
    CLASSIFIED_SAMPLED,      // start of a live small block that is sampled
    CLASSIFIED_SAMPLED_FREE, // start of a free one
    CLASSIFIED_SAMPLED_INTERIOR,
    CLASSIFIED_GUARDED,      // start of a live block that stands against a guard page
    CLASSIFIED_GUARDED_FREE, // start of one that was freed
    CLASSIFIED_GUARDED_INTERIOR,
    CLASSIFIED_FREE_PAGES, // in the heap, and no block is there (any more)
    CLASSIFIED_INTERNAL,   // the allocator's own
};

struct classified {
    enum classified_kind kind;
    unsigned bin; // of a tiny block
    size_t slab;  // slab index, for all but FOREIGN; beyond the window for a block far from it
    size_t
        usable; // bytes of the block for TINY, LARGE, PRIVATE, SAMPLED, GUARDED and EARLY, else 0
};

struct classified classify_ptr(const void *ptr);

// In words, for the line that reports a misuse of a pointer that starts no live block.
const char *classified_fault(enum classified_kind kind);
HAK_C_END

#endif
