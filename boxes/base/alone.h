// SPDX-License-Identifier: Apache-2.0
// base: single steps on words that threads share. While the process has one thread, a step is one
// instruction that is not atomic: a signal handler runs before or after it. In a process with more
// threads, steps are sequentially consistent.
//
// Build setting HAK_ALONE (atomic.h): with 0 they are always atomic.
#ifndef HAKMEM_BOXES_BASE_ALONE_H
#define HAKMEM_BOXES_BASE_ALONE_H

#include "boxes/base/atomic.h"
#include "boxes/cpu/cpu.h"

HAK_C_BEGIN

// Stores `to` if the word is `from`. Returns true if it was.
HAK_INLINE bool hak_step_swap(_Atomic(uint64_t) *word, uint64_t from, uint64_t to) {
#if CPU_PLAIN_STEPS
    if (hak_alone()) {
        return cpu_plain_swap(word, from, to);
    }
#endif
    return atomic_compare_exchange_strong(word, &from, to);
}

// As above, for a byte.
HAK_INLINE bool hak_step_swap_byte(_Atomic(uint8_t) *byte, uint8_t from, uint8_t to) {
#if CPU_PLAIN_STEPS
    if (hak_alone()) {
        return cpu_plain_swap_byte(byte, from, to);
    }
#endif
    return atomic_compare_exchange_strong(byte, &from, to);
}

HAK_INLINE void hak_step_set(_Atomic(uint64_t) *word, uint64_t bits) {
#if CPU_PLAIN_STEPS
    if (hak_alone()) {
        cpu_plain_or(word, bits);
        return;
    }
#endif
    atomic_fetch_or(word, bits);
}

HAK_INLINE void hak_step_add(_Atomic(uint64_t) *word, uint64_t more) {
#if CPU_PLAIN_STEPS
    if (hak_alone()) {
        cpu_plain_add(word, more);
        return;
    }
#endif
    atomic_fetch_add(word, more);
}
HAK_C_END

#endif
