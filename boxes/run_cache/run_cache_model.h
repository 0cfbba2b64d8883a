// SPDX-License-Identifier: Apache-2.0
// The cache's own source, compiled for the model checker. See run_cache_model_test.cc.
#ifndef HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_MODEL_H
#define HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_MODEL_H

#include "boxes/base/base.h"
#include "boxes/run_cache/run_cache.h"

HAK_C_BEGIN

// All lines; the line that the model's threads share; the number of that line's first place.
volatile void *model_lines(size_t *bytes);
volatile uint64_t *model_own_line(void);
unsigned model_own_place(void);

// Returns the run that a word other than 0 stands for.
struct run_cache_run model_run(uint64_t word);

// A bit for each line, set once a run was put into the line.
volatile uint64_t *model_used(void);
HAK_C_END

#endif
