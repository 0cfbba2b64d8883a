// SPDX-License-Identifier: Apache-2.0
// moment: what the process holds and has used at one moment of a shape.
#ifndef HAKMEM_BENCHMARKS_WORKERS_SHAPES_MOMENT_H
#define HAKMEM_BENCHMARKS_WORKERS_SHAPES_MOMENT_H

#include <stdint.h>

// Call once, before anything is allocated. Faults and time until then do not count, nor do the
// resident pages of files, as of the program and its libraries.
void moment_start(void);

// Call in a child of fork(): from now on what counts is the memory that it does not share with its
// parent, which has `cpu_ns` and `faults` to be added to the child's own.
void moment_forked(double cpu_ns, uint64_t faults);

// CPU time and page faults since the start, without the worker's own.
double moment_cpu_ns(void);
uint64_t moment_faults(void);

// Prints "moment NAME HELD_KIB LIVE_KIB MAPPINGS FAULTS CPU_MS". HELD_KIB is resident memory
// without those pages; in a forked child it is memory that is not shared, and LIVE_KIB is 0. The
// worker's own memory, faults and time are left out, those of this call too.
void moment_print(const char *name, uint64_t live_bytes);

#endif
