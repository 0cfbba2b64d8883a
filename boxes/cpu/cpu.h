// SPDX-License-Identifier: Apache-2.0
// cpu: what differs between kinds of processors.
//
// Each of x86_64.h and aarch64.h, and traced.h for the simulator of benchmarks/coherence, defines
// all of these:
//
//   CPU_PLAIN_STEPS  1 if a word of memory can be read, changed and written in one instruction that
//                    is not atomic for other processors, so that a process of one thread need not
//                    pay for one that is. Then, and only then, there are the cpu_plain_*() calls.
//   CPU_TOTAL_ORDER  1 if stores become visible in program order, and loads are made in it. If not,
//                    boxes/base/atomic.h makes every load and store of a shared word, also those
//                    that are marked relaxed, sequentially consistent: the boxes' handshakes are
//                    proven step by step (tools/model_checker), in one order for all threads.
//   cpu_store_fence()                 orders the stores before it before those behind it
//   CPU_STEP_UP(words, place, now)    moves the pointer words[place], which is `now`, to the next
//   CPU_STEP_DOWN(words, place, now)  word or to the one before
//   cpu_load_word(words, place)       words[place], by a load that the compiler does not take apart
//   CPU_RESULT(pointer)               a hint: the pointer is what the function returns
//   cpu_lesser_bytes(a, b)            the lesser of each two bytes, as unsigned numbers
//   cpu_copy(to, from, size)          memcpy() without a call, for what runs before libc does
//   cpu_here(&pc, &sp, &fp)           an address in the code, the stack's and the frame's pointer
//   CPU_FRAME_TABLES                  1 if stack_trace can read the tables of the unwinder
//   cpu_syscall(number, six numbers)  a system call; what the kernel returns, errors as -errno
//
// Thread-safe; nothing here calls anything or keeps state.
#ifndef HAKMEM_BOXES_CPU_CPU_H
#define HAKMEM_BOXES_CPU_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CPU_INLINE static inline __attribute__((always_inline))

// 16 bytes, and two words, in a vector register.
typedef uint8_t cpu_bytes __attribute__((vector_size(16)));
typedef uint64_t cpu_words __attribute__((vector_size(16)));

#if defined(CPU_TRACED) && CPU_TRACED
#    include "boxes/cpu/traced.h"
#elif defined(__x86_64__)
#    include "boxes/cpu/x86_64.h"
#elif defined(__aarch64__)
#    include "boxes/cpu/aarch64.h"
#else
#    error "hakmem runs on x86-64 and on 64-bit Arm"
#endif

#endif
