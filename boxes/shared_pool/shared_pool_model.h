// SPDX-License-Identifier: Apache-2.0
// The pool's own source, compiled for the model checker, over a table of bins of its own. See
// shared_pool_model_test.cc.
#ifndef HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_MODEL_H
#define HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_MODEL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Bins, by the number of their blocks.
enum model_bin {
    MODEL_1 = 1,
    MODEL_2,
    MODEL_2_SMALLER, // two smaller blocks
    MODEL_3,
    MODEL_63,
    MODEL_64,
    MODEL_65,
    MODEL_128,
    MODEL_BINS,
};

// The counters of the pool that only its statistics read. Sets *bytes to their size, as below.
const volatile void *model_totals(size_t *bytes);

// The homes of groups, from the first place of group 0 on; the lines on which few threads count;
// and whether some thread has a home.
const volatile void *model_homes(size_t *bytes);
const volatile void *model_lines(size_t *bytes);
const volatile void *model_shared(void);

#if HAK_HARDENED
// The number of slabs that were given a guard, and of slabs without a live block.
const volatile void *model_guards(void);
const volatile void *model_empty_slabs(void);
#endif
HAK_C_END

#endif
