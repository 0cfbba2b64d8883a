#include "boxes/shared_pool/shared_pool_model.h"

// Before any box's header: their inline functions are part of what is checked.
#include <stdatomic.h>

// The model's threads are none to the C library.
#define HAK_ALONE 0

#undef atomic_load
#undef atomic_load_explicit
#undef atomic_store
#undef atomic_store_explicit
#undef atomic_exchange
#undef atomic_fetch_or
#undef atomic_fetch_and
#undef atomic_fetch_add
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub_explicit
#undef atomic_compare_exchange_strong

// All orders are taken as sequentially consistent, which is what x86-64 makes of the read-modify-
// writes that order everything here.
#define OP(op, p, a, b)                        model_atomic(op, p, sizeof *(p), (uint64_t)(a), (uint64_t)(b))
#define atomic_load(p)                         OP(MODEL_LOAD, p, 0, 0)
#define atomic_load_explicit(p, order)         OP(MODEL_LOAD, p, 0, 0)
#define atomic_store(p, v)                     (void)OP(MODEL_STORE, p, v, 0)
#define atomic_store_explicit(p, v, order)     (void)OP(MODEL_STORE, p, v, 0)
#define atomic_exchange(p, v)                  OP(MODEL_EXCHANGE, p, v, 0)
#define atomic_fetch_or(p, v)                  OP(MODEL_OR, p, v, 0)
#define atomic_fetch_and(p, v)                 OP(MODEL_AND, p, v, 0)
#define atomic_fetch_add(p, v)                 OP(MODEL_ADD, p, v, 0)
#define atomic_fetch_add_explicit(p, v, order) OP(MODEL_ADD, p, v, 0)
#define atomic_fetch_sub_explicit(p, v, order) OP(MODEL_SUB, p, v, 0)
#define atomic_compare_exchange_strong(p, expected, desired)       \
    __extension__({                                                \
        uint64_t before_ = OP(MODEL_CAS, p, *(expected), desired); \
        bool done_ = before_ == *(expected);                       \
        *(expected) = before_;                                     \
        done_;                                                     \
    })

#undef HAKMEM_DEBUG
#define HAKMEM_DEBUG 1
#undef HAK_DEBUG
#define HAK_DEBUG 1

#include "boxes/shared_pool/shared_pool.c"

bool model_is_counter(const volatile void *at) {
    uintptr_t offset = (uintptr_t)at - (uintptr_t)&totals;
    return offset < sizeof totals;
}
