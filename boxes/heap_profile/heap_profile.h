// SPDX-License-Identifier: Apache-2.0
// heap_profile: sums of sampled allocations, by the calls that made them.
//
// Each call stack that made a sampled allocation is kept for good. It has two sums of weights
// (sampler.h): one of the samples that it allocated, and one of those that were freed. The
// difference is live. A table has the live samples by address.
//
// Thread-safe, lock-free and async-signal-safe: a child that is forked anywhere goes on with a
// whole profile. Memory comes from mappings. If a mapping is refused, or the stack of calls cannot
// be found, samples are added up without their stack, so that the sums stay true. Nothing here
// touches errno.
#ifndef HAKMEM_BOXES_HEAP_PROFILE_HEAP_PROFILE_H
#define HAKMEM_BOXES_HEAP_PROFILE_HEAP_PROFILE_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

// Sums of weights. `objects` is a fixed-point number with SAMPLER_FRACTION fraction bits; `bytes`
// are requested bytes.
struct heap_profile_sum {
    _Atomic(uint64_t) objects, bytes;
};

struct heap_profile_stack {
    struct heap_profile_stack *next; // of the same hash
    uint64_t hash;
    struct heap_profile_sum allocated, freed;
    unsigned depth;
    uintptr_t pcs[]; // return addresses, innermost first; none: not known
};

// Notes the allocation of `size` bytes at `ptr` by the calls that led to here. If `ptr` is NULL the
// block counts as allocated and freed.
void heap_profile_note(const void *ptr, size_t size);

// A live sample.
struct heap_profile_sample {
    const void *ptr;
    size_t size;
    struct heap_profile_stack *stack;
};

// Returns true if any sample was ever noted. Until then no heap_profile_take() can find one.
HAK_INLINE bool heap_profile_started(void) {
    extern bool heap_profile_any;
    return HAK_UNLIKELY(HAK_PEEK(&heap_profile_any));
}

// Takes the sample of a block out of the table, before the block is freed or moved. Returns false
// if the block is no sample. The caller has to drop the sample, which counts as freed, or put it
// back.
bool heap_profile_take(const void *ptr, struct heap_profile_sample *sample);
void heap_profile_drop(const struct heap_profile_sample *sample);
void heap_profile_put_back(const struct heap_profile_sample *sample);

// Returns the bytes that all samples so far stand for.
uint64_t heap_profile_allocated(void);

// Call `visit` for each stack, and for each live sample. A sample that comes or goes meanwhile may
// be left out.
typedef void heap_profile_stack_visitor(void *to, struct heap_profile_stack *stack);
void heap_profile_each_stack(heap_profile_stack_visitor *visit, void *to);
typedef void heap_profile_sample_visitor(void *to, const struct heap_profile_sample *sample);
void heap_profile_each_live(heap_profile_sample_visitor *visit, void *to);

// Returns true if an address is in the table of live samples.
bool heap_profile_owns(const void *at);

// Sets *objects to the weight of a sample, and *bytes to the bytes that it stands for.
void heap_profile_weigh(const struct heap_profile_sample *sample, uint64_t *objects,
                        uint64_t *bytes);

struct heap_profile_stats {
    uint64_t samples;   // samples noted so far
    uint64_t stackless; // those of them without a stack
    uint64_t untracked; // those of them that counted as freed at once, because the table was full
    uint64_t stacks;    // stacks kept
    size_t bytes;       // bytes mapped for the profile
};
void heap_profile_get_stats(struct heap_profile_stats *stats);

// For readers outside of the process, see layout.h.
extern const struct hak_layout heap_profile_layout;
HAK_C_END

#endif
