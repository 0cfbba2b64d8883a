// SPDX-License-Identifier: Apache-2.0
// base: C11 atomics under the same names in C and in C++ (whose own <stdatomic.h> is C++23), so
// that a test or the C++ front can include a box's header. In headers the type is spelled
// _Atomic(T).
#ifndef HAKMEM_BOXES_BASE_ATOMIC_H
#define HAKMEM_BOXES_BASE_ATOMIC_H

#include "boxes/base/base.h"

#include "boxes/cpu/cpu.h"

#ifdef __cplusplus
#    include <atomic>
#    define _Atomic(T) std::atomic<T>
using std::atomic_compare_exchange_strong;
using std::atomic_compare_exchange_weak;
using std::atomic_exchange;
using std::atomic_fetch_add;
using std::atomic_fetch_and;
using std::atomic_fetch_or;
using std::atomic_fetch_sub;
using std::atomic_load;
using std::atomic_load_explicit;
using std::atomic_signal_fence;
using std::atomic_store;
using std::atomic_store_explicit;
using std::memory_order_acquire;
using std::memory_order_relaxed;
using std::memory_order_release;
using std::memory_order_seq_cst;
#else
#    include <stdatomic.h>
#endif

// See CPU_TOTAL_ORDER. The hit path has no atomic loads and stores of this kind.
#if !CPU_TOTAL_ORDER
#    define memory_order_relaxed memory_order_seq_cst
#    define memory_order_acquire memory_order_seq_cst
#    define memory_order_release memory_order_seq_cst
#endif

// For a plain number or pointer that one thread writes and all may read at any time, as a hint: the
// writer writes with HAK_POKE and reads as it likes, other threads read with HAK_PEEK. Both are
// plain moves, and order nothing.
#define HAK_PEEK(at)        __atomic_load_n((at), __ATOMIC_RELAXED)
#define HAK_POKE(at, value) __atomic_store_n((at), (value), __ATOMIC_RELAXED)
#define HAK_COUNT(at, more) HAK_POKE((at), *(at) + (more)) // by the one writer: no atomic addition

// Build setting: 0 makes every step atomic, also while the process has one thread only.
#ifndef HAK_ALONE
#    if defined(__SANITIZE_THREAD__) || !CPU_PLAIN_STEPS
#        define HAK_ALONE 0
#    else
#        define HAK_ALONE 1
#    endif
#endif

HAK_C_BEGIN
// glibc's, from 2.32 on: true as long as no other thread was started.
extern char __libc_single_threaded __attribute__((weak));
HAK_C_END

// Returns true if no other thread can be in the process's memory now.
HAK_INLINE bool hak_alone(void) {
    return HAK_ALONE != 0 && &__libc_single_threaded != NULL && __libc_single_threaded != 0;
}

#endif
