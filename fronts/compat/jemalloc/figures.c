// SPDX-License-Identifier: Apache-2.0
#include "fronts/compat/jemalloc/figures.h"

#include "boxes/size_class/size_class.h"
#include "fronts/compat/compat.h"

static _Atomic(size_t) figures[FIGURES];
struct figures_bin figures_bins[HAK_STATS_BINS];
_Atomic(uint64_t) figures_epoch;

void figures_refresh(void) {
    struct hak_stats s;
    hak_stats(&s);
    struct compat_totals t = compat_totals_of(&s);
    const size_t fresh[FIGURES] = {
        [ALLOCATED] = t.allocated,
        [ACTIVE] = t.active,
        [METADATA] = t.metadata,
        [RESIDENT] = t.resident,
        [MAPPED] = t.mapped,
        [RETAINED] = t.retained,
        [DIRTY] = t.dirty,
        [SMALL] = s.tiny_live,
        [LARGE] = s.large_live,
        [CACHED] = s.tiny_cached,
        [HEAPS_BYTES] = s.heap_slabs * SIZE_CLASS_SLAB,
        [FILLS] = s.refills,
        [FLUSHES] = s.spills,
        [PURGES] = s.purges,
        [PURGED] = s.returned / HAK_PAGE,
        [THREADS] = s.heaps - s.free_heaps,
    };
    for (unsigned i = 0; i < FIGURES; i++) {
        atomic_store_explicit(&figures[i], fresh[i], memory_order_relaxed);
    }
    for (unsigned bin = 1; bin < HAK_STATS_BINS; bin++) {
        atomic_store_explicit(&figures_bins[bin].live, s.bins[bin].live, memory_order_relaxed);
        atomic_store_explicit(&figures_bins[bin].slabs, s.bins[bin].slabs, memory_order_relaxed);
    }
    atomic_fetch_add(&figures_epoch, 1);
}

size_t figures_get(enum figure which) {
    if (atomic_load(&figures_epoch) == 0) {
        figures_refresh();
    }
    return atomic_load_explicit(&figures[which], memory_order_relaxed);
}
