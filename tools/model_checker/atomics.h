// SPDX-License-Identifier: Apache-2.0
// model_checker: C11 atomics whose every operation is a step of the model. A source that is to be
// checked is included, as text, behind this header; the headers that it includes must come behind
// it as well, as their inline functions are part of what is checked.
//
// The orders are ignored: every step is sequentially consistent. So is every read-modify-write of
// x86-64, and those are what the boxes rely on.
#ifndef HAKMEM_TOOLS_MODEL_CHECKER_ATOMICS_H
#define HAKMEM_TOOLS_MODEL_CHECKER_ATOMICS_H

// The model's threads are unknown to the C library: it would say that there is only one.
#define HAK_ALONE 0
#undef HAK_DEBUG
#define HAK_DEBUG 1 // the boxes' own assertions are checked, too

#include "boxes/base/atomic.h"
#include "tools/model_checker/step.h"

#undef atomic_load
#undef atomic_load_explicit
#undef atomic_store
#undef atomic_store_explicit
#undef atomic_exchange
#undef atomic_exchange_explicit
#undef atomic_fetch_or
#undef atomic_fetch_or_explicit
#undef atomic_fetch_and
#undef atomic_fetch_and_explicit
#undef atomic_fetch_add
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub
#undef atomic_fetch_sub_explicit
#undef atomic_compare_exchange_strong
#undef atomic_compare_exchange_strong_explicit
#undef atomic_compare_exchange_weak
#undef atomic_compare_exchange_weak_explicit
#undef HAK_PEEK
#undef HAK_POKE

// The type of what `p` points at, without its qualifiers.
#define MODEL_TYPE(p) __typeof__((void)0, *(p))
#define MODEL_STEP(op, p, a, b) \
    model_step(op, (volatile void *)(p), sizeof *(p), (uint64_t)(a), (uint64_t)(b))
#define MODEL_VALUE(op, p, a) __extension__({ (MODEL_TYPE(p)) MODEL_STEP(op, p, a, 0); })

#define atomic_load(p)                         MODEL_VALUE(MODEL_LOAD, p, 0)
#define atomic_load_explicit(p, order)         MODEL_VALUE(MODEL_LOAD, p, 0)
#define atomic_store(p, v)                     ((void)MODEL_STEP(MODEL_STORE, p, v, 0))
#define atomic_store_explicit(p, v, order)     ((void)MODEL_STEP(MODEL_STORE, p, v, 0))
#define atomic_exchange(p, v)                  MODEL_VALUE(MODEL_EXCHANGE, p, v)
#define atomic_exchange_explicit(p, v, order)  MODEL_VALUE(MODEL_EXCHANGE, p, v)
#define atomic_fetch_or(p, v)                  MODEL_VALUE(MODEL_OR, p, v)
#define atomic_fetch_or_explicit(p, v, order)  MODEL_VALUE(MODEL_OR, p, v)
#define atomic_fetch_and(p, v)                 MODEL_VALUE(MODEL_AND, p, v)
#define atomic_fetch_and_explicit(p, v, order) MODEL_VALUE(MODEL_AND, p, v)
#define atomic_fetch_add(p, v)                 MODEL_VALUE(MODEL_ADD, p, v)
#define atomic_fetch_add_explicit(p, v, order) MODEL_VALUE(MODEL_ADD, p, v)
#define atomic_fetch_sub(p, v)                 MODEL_VALUE(MODEL_SUB, p, v)
#define atomic_fetch_sub_explicit(p, v, order) MODEL_VALUE(MODEL_SUB, p, v)
#define atomic_compare_exchange_strong(p, expected, desired)                     \
    __extension__({                                                              \
        MODEL_TYPE(p)                                                            \
        before_ = (MODEL_TYPE(p))MODEL_STEP(MODEL_CAS, p, *(expected), desired); \
        bool done_ = before_ == *(expected);                                     \
        *(expected) = before_;                                                   \
        done_;                                                                   \
    })
// A weak one that fails for no reason does what its loop does on the next turn: nothing is missed.
#define atomic_compare_exchange_weak(p, expected, desired) \
    atomic_compare_exchange_strong(p, expected, desired)
#define atomic_compare_exchange_strong_explicit(p, expected, desired, order, failure) \
    atomic_compare_exchange_strong(p, expected, desired)
#define atomic_compare_exchange_weak_explicit(p, expected, desired, order, failure) \
    atomic_compare_exchange_strong(p, expected, desired)

#define HAK_PEEK(at)        MODEL_VALUE(MODEL_LOAD, at, 0)
#define HAK_POKE(at, value) ((void)MODEL_STEP(MODEL_STORE, at, value, 0))

#endif
