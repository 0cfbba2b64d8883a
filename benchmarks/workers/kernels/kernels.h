// SPDX-License-Identifier: Apache-2.0
// What a kernel is: one way of calling malloc, again and again.
#ifndef HAKMEM_BENCHMARKS_WORKERS_KERNELS_KERNELS_H
#define HAKMEM_BENCHMARKS_WORKERS_KERNELS_KERNELS_H

#include "benchmarks/workers/worker.h"

struct Run {
    uint64_t count;  // how many operations are asked for
    uint64_t random; // for worker_random()
    double begin_ns; // by cpu_ns()
};

struct Kernel {
    const char *name, *title; // title: what one operation is
    uint64_t count;           // operations of a whole run
    // Does about `run.count` operations and returns how many it did.
    uint64_t (*function)(Run &run);
};

// The tables of the files here; the last row of each has no name.
extern const Kernel kCallKernels[], kBlockKernels[], kThreadKernels[], kContainerKernels[];

// CPU time of the process, its threads and the children that it waited for.
double cpu_ns();

// To be called by a kernel after what it prepares: that is not timed.
inline void starts_now(Run &run) {
    run.begin_ns = cpu_ns();
}

// 0..n-1
inline uint64_t below(Run &run, uint64_t n) {
    return worker_below(worker_random(&run.random), n);
}

// Writes to the first byte, as the least that a program does to a block.
inline void *touch(void *block) {
    *static_cast<volatile char *>(worker_check(block)) = 1;
    return block;
}

inline void *fill(void *block, size_t size) {
    return memset(worker_check(block), 1, size);
}

// Frees the block of a slot chosen at random and allocates another one, `run.count` times. The
// blocks in the slots stay live.
template <size_t kSlots, class Allocate> uint64_t replace(Run &run, Allocate allocate) {
    static void *slots[kSlots];
    for (uint64_t i = 0; i < run.count; i++) {
        void **slot = &slots[below(run, kSlots)];
        free(*slot);
        *slot = allocate(run);
    }
    return run.count;
}

#endif
