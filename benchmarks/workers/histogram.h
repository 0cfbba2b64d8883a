// SPDX-License-Identifier: Apache-2.0
// Times in a histogram of 64 buckets for each doubling: a quantile is known to 1.6 %.
#ifndef HAKMEM_BENCHMARKS_WORKERS_HISTOGRAM_H
#define HAKMEM_BENCHMARKS_WORKERS_HISTOGRAM_H

#include <stdint.h>

enum { PER_DOUBLING = 64, HISTOGRAM_BUCKETS = 48 * PER_DOUBLING };

struct histogram {
    uint64_t buckets[HISTOGRAM_BUCKETS];
    uint64_t total;
    double most;
};

static inline void histogram_record(struct histogram *histogram, uint64_t ns) {
    uint64_t shift = ns < PER_DOUBLING ? 0 : 63 - (uint64_t)__builtin_clzll(ns) - 5;
    uint64_t bucket = shift * (PER_DOUBLING / 2) + (ns >> shift);
    histogram->buckets[bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1]++;
    histogram->total++;
    if ((double)ns > histogram->most) {
        histogram->most = (double)ns;
    }
}

static inline uint64_t histogram_ns(uint64_t bucket) {
    if (bucket < PER_DOUBLING) {
        return bucket;
    }
    uint64_t shift = bucket / (PER_DOUBLING / 2) - 1;
    return (bucket - shift * (PER_DOUBLING / 2)) << shift;
}

#endif
