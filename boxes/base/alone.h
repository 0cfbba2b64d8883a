// SPDX-License-Identifier: Apache-2.0
// base: single steps on words that threads share, which need not be atomic while the process has
// one thread. Each is one instruction also then, so that a signal handler comes before it or behind
// it. Where there are threads they are sequentially consistent.
//
// Build setting HAK_ALONE (atomic.h): with 0 they are always atomic.
#ifndef HAKMEM_BOXES_BASE_ALONE_H
#define HAKMEM_BOXES_BASE_ALONE_H

#include "boxes/base/atomic.h"

HAK_C_BEGIN

// Stores `to` if the word is `from`. True if it did.
HAK_INLINE bool hak_step_swap(_Atomic(uint64_t) *word, uint64_t from, uint64_t to) {
    if (hak_alone()) {
        bool done;
        __asm__ volatile("cmpxchgq %3, %1"
                         : "=@ccz"(done), "+m"(*word), "+a"(from)
                         : "r"(to)
                         : "memory");
        return done;
    }
    return atomic_compare_exchange_strong(word, &from, to);
}

// The same for a byte.
HAK_INLINE bool hak_step_swap_byte(_Atomic(uint8_t) *byte, uint8_t from, uint8_t to) {
    if (hak_alone()) {
        bool done;
        __asm__ volatile("cmpxchgb %3, %1"
                         : "=@ccz"(done), "+m"(*byte), "+a"(from)
                         : "q"(to)
                         : "memory");
        return done;
    }
    return atomic_compare_exchange_strong(byte, &from, to);
}

HAK_INLINE void hak_step_set(_Atomic(uint64_t) *word, uint64_t bits) {
    if (hak_alone()) {
        __asm__ volatile("orq %1, %0" : "+m"(*word) : "r"(bits) : "cc", "memory");
        return;
    }
    atomic_fetch_or(word, bits);
}

HAK_INLINE void hak_step_add(_Atomic(uint64_t) *word, uint64_t more) {
    if (hak_alone()) {
        __asm__ volatile("addq %1, %0" : "+m"(*word) : "r"(more) : "cc", "memory");
        return;
    }
    atomic_fetch_add(word, more);
}
HAK_C_END

#endif
