// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/atomics.h"

#include "tools/model_checker/toy.h"

static _Atomic(uint16_t) counter;
static _Atomic(bool) lock;

void toy_reset(void) {
    __atomic_store_n((uint16_t *)&counter, 0, __ATOMIC_RELAXED);
    __atomic_store_n((bool *)&lock, false, __ATOMIC_RELAXED);
}
volatile void *toy_counter(void) {
    return &counter;
}
volatile void *toy_lock(void) {
    return &lock;
}
unsigned toy_count(void) {
    return __atomic_load_n((uint16_t *)&counter, __ATOMIC_RELAXED);
}

void toy_add(void) {
    atomic_fetch_add(&counter, 1);
}

void toy_add_badly(void) {
    uint16_t seen = atomic_load(&counter);
    atomic_store(&counter, seen + 1);
}

bool toy_add_locked(void) {
    enum { TRIES = 2 };
    for (unsigned i = 0; i < TRIES; i++) {
        bool taken = false;
        if (atomic_compare_exchange_strong(&lock, &taken, true)) {
            toy_add_badly();
            atomic_store(&lock, false);
            return true;
        }
    }
    return false;
}

void toy_unlock(void) {
    atomic_store(&lock, false);
}
