// The pool's own source, compiled with every atomic operation as a call: what the model checker
// runs. See shared_pool_model_test.cc.
#ifndef HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_MODEL_H
#define HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_MODEL_H

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

// One atomic operation; returns the value before it.
uint64_t model_atomic(enum model_op op, const volatile void *at, size_t size, uint64_t a,
                      uint64_t b);

// True for the counters of the pool that only its statistics read.
bool model_is_counter(const volatile void *at);
HAK_C_END

#endif
