// SPDX-License-Identifier: Apache-2.0
// figures: statistics as they were at the last write to "epoch".
#ifndef HAKMEM_FRONTS_COMPAT_JEMALLOC_FIGURES_H
#define HAKMEM_FRONTS_COMPAT_JEMALLOC_FIGURES_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/statistics/statistics.h"

HAK_C_BEGIN

enum figure {
    ALLOCATED,
    ACTIVE,
    METADATA,
    RESIDENT,
    MAPPED,
    RETAINED,
    DIRTY,
    SMALL,
    LARGE,
    CACHED,
    HEAPS_BYTES,
    FILLS,
    FLUSHES,
    PURGES,
    PURGED,
    THREADS,
    FIGURES
};

// By bin, from 1 on.
struct figures_bin {
    _Atomic(size_t) live, slabs;
};
extern struct figures_bin figures_bins[HAK_STATS_BINS];

// The number of refreshes; 0: no figure is known yet.
extern _Atomic(uint64_t) figures_epoch;

// Takes all figures anew. If two threads do so at a time, figures of both may be mixed.
void figures_refresh(void);

// Returns a figure as of the last refresh; refreshes first if there was none.
size_t figures_get(enum figure which);
HAK_C_END

#endif
