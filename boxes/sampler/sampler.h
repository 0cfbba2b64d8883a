// SPDX-License-Identifier: Apache-2.0
// sampler: decides which allocations are sampled, and how many allocations each of them stands for.
//
// The bytes that a thread allocates are points of a line, and samples are a Poisson process on it:
// the distance to the next sample is drawn from an exponential distribution whose mean is the rate.
// A block of s bytes is sampled with the probability p = 1 - exp(-s / rate), whatever was allocated
// before it, and stands for 1 / p blocks of its size. Sums of these weights are unbiased. A block
// of 0 bytes counts as one of 1 byte, and each size counts as the next odd one. At the rate 1 every
// block is sampled, with the weight 1.
//
// Each thread has a countdown of its own. While sampling is off, and in a new thread, the countdown
// only leads to a look at the rate from time to time. All arithmetic is on integers, because a
// program may trap floating point exceptions.
#ifndef HAKMEM_BOXES_SAMPLER_SAMPLER_H
#define HAKMEM_BOXES_SAMPLER_SAMPLER_H

#include "boxes/base/base.h"

HAK_C_BEGIN

#define SAMPLER_RATE_MOST (UINT64_C(1) << 40)

// Bits behind the point of a weight.
enum { SAMPLER_FRACTION = 16 };

// The number of bytes until the thread's next sample; negative: sampler_decides() is to be asked.
extern __thread int64_t sampler_left __attribute__((tls_model("initial-exec")));

// Starts sampling with a mean distance of `rate` bytes, 1 to SAMPLER_RATE_MOST; 0 stops it. Other
// threads take part from their next megabyte on.
void sampler_start(uint64_t rate);
uint64_t sampler_rate(void);

// Returns how many bytes a request counts as.
HAK_INLINE uint64_t sampler_bytes(size_t size) {
    return size | 1;
}

// Counts an allocation of `size` bytes, up to PTRDIFF_MAX. Returns true if sampler_decides() is to
// be asked at once.
HAK_INLINE bool sampler_counts(size_t size) {
    sampler_left -= (int64_t)sampler_bytes(size);
    return HAK_UNLIKELY(sampler_left < 0);
}

// Returns true if the allocation that sampler_counts() has counted last is sampled.
bool sampler_decides(size_t size);

// Returns the weight of a sampled block at a rate, with SAMPLER_FRACTION bits behind the point.
uint64_t sampler_weight(size_t size, uint64_t rate);

// Returns a sum of weights as a number of blocks, rounded to the nearest.
HAK_INLINE uint64_t sampler_whole(uint64_t weights) {
    return (weights + (1u << (SAMPLER_FRACTION - 1))) >> SAMPLER_FRACTION;
}

// For tests: makes the thread's random numbers follow from `seed`, which is not 0.
void sampler_seed(uint64_t seed);
HAK_C_END

#endif
