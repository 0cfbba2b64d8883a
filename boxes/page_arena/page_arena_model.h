// SPDX-License-Identifier: Apache-2.0
// The arena's own source, compiled for the model checker. See page_arena_model_test.cc.
#ifndef HAKMEM_BOXES_PAGE_ARENA_PAGE_ARENA_MODEL_H
#define HAKMEM_BOXES_PAGE_ARENA_PAGE_ARENA_MODEL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// The arena's variables that take part.
struct model_arena {
    volatile size_t *top, *lowest;
    volatile uint64_t *counts; // slabs in use below, free dirty ones above
};

enum { MODEL_GROUPS = 2 };

// Starts anew: a window of MODEL_GROUPS groups at `base` (which is zero), the first `groups` of
// them in use, nothing free. Words of 64 slabs are mapped as the bits of `mapped` have it.
// charged: rights that are not needed are given back.
struct model_arena model_start(char *base, uint64_t mapped, bool charged, size_t groups);

// Calls `ignore(at, bytes, value)` for each variable that does not take part.
void model_ignored(void (*ignore)(volatile void *at, size_t bytes, uint64_t value));

// As after slabs were mapped.
void model_make_free(size_t from, size_t slabs);

// The bounds that the summaries have of the longest run of a group, of the runs at its start and
// its end, and of the longest run of the region.
struct model_bounds {
    size_t longest, first, last, region;
};
struct model_bounds model_bounds_of(size_t group, bool dirty);
HAK_C_END

#endif
