// SPDX-License-Identifier: Apache-2.0
// probe: points that tracers can be attached to (USDT), of the provider "hakmem".
//
// A probe is a function that is a NOP, for slow paths only. The shared objects have a note of each
// probe (.note.stapsdt, as systemtap's sys/sdt.h makes them; notes.c): its name, its address, and
// where its arguments are there. bpftrace, perf, gdb and systemtap read the notes. Programs that
// the archive is linked into have the functions without notes: a note would keep each function
// linked, and not all linkers drop a note together with its function.
//
// Thread-safe and async-signal-safe.
#ifndef HAKMEM_BOXES_PROBE_PROBE_H
#define HAKMEM_BOXES_PROBE_PROBE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// A sampled allocation and its free; `bytes` is how many bytes the sample stands for. Both have the
// calls that allocated the block, as a profile has them: `depth` return addresses, the innermost
// first. A tracer itself would find few of them, because most code keeps no frame pointers.
void probe_sample(const void *block, size_t size, uint64_t bytes, const uintptr_t *calls,
                  size_t depth);
void probe_sample_free(const void *block, size_t size, uint64_t bytes, const uintptr_t *calls,
                       size_t depth);

// A slab is put to use for blocks of a size, and given back.
void probe_slab_claim(const void *slab, size_t block_size);
void probe_slab_release(const void *slab, size_t block_size);

// Memory went back to the kernel.
void probe_purge(size_t bytes);

// A thread's heap is made, adopted from a thread that has ended, and given up by a thread that
// ends.
void probe_heap_make(const void *heap, size_t number);
void probe_heap_adopt(const void *heap, size_t number);
void probe_heap_give(const void *heap, size_t number);

// Misuse is found: the texts are those of the line on stderr.
void probe_misuse(const char *call, const void *ptr, const char *fault);
HAK_C_END

#endif
