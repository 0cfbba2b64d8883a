// SPDX-License-Identifier: Apache-2.0
// The cache's own source, compiled for the model checker. See run_cache_model_test.cc.
#ifndef HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_MODEL_H
#define HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_MODEL_H

#include "boxes/base/base.h"
#include "boxes/run_cache/run_cache.h"

HAK_C_BEGIN

// All lines, the one that the model's threads share, and the number of its first place.
volatile void *model_lines(size_t *bytes);
volatile uint64_t *model_own_line(void);
unsigned model_own_place(void);

// What a place that is not 0 has.
struct run_cache_run model_run(uint64_t word);

// The lines that are in use, a bit each.
volatile uint64_t *model_used(void);
HAK_C_END

#endif
