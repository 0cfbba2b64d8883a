// SPDX-License-Identifier: Apache-2.0
// model_checker: what a source under the model checker calls in place of its atomic operations.
#ifndef HAKMEM_TOOLS_MODEL_CHECKER_STEP_H
#define HAKMEM_TOOLS_MODEL_CHECKER_STEP_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum model_op {
    MODEL_LOAD,
    MODEL_STORE,
    MODEL_EXCHANGE,
    MODEL_OR,
    MODEL_AND,
    MODEL_ADD,
    MODEL_SUB,
    MODEL_CAS, // stores `b` if the value is `a`
};

// One atomic operation on `size` (1, 2, 4 or 8) bytes at `at`; returns the value before it. Does
// not return where the thread is to stop before this step.
uint64_t model_step(enum model_op op, volatile void *at, size_t size, uint64_t a, uint64_t b);
HAK_C_END

#endif
