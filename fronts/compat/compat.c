// SPDX-License-Identifier: Apache-2.0
#include "fronts/compat/compat.h"

#include "boxes/base/atomic.h"
#include "boxes/statistics/statistics.h"
#include "fronts/libc/extension.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum { SLAB = SIZE_CLASS_SLAB };

bool compat_is_served(void) {
    enum { UNKNOWN, NO, YES };
    static _Atomic(int) known = UNKNOWN;
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (HAK_UNLIKELY(answer == UNKNOWN)) {
        void *block = malloc(1);
        if (block == NULL) {
            return false;
        }
        answer = hak_usable(block) != 0 ? YES : NO;
        free(block);
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == YES;
}

// Programs go through the usable sizes of large blocks, of which other allocators have few.
static __attribute__((constructor(102))) void start(void) {
    hak_page_sizes();
}

void *compat_alloc(size_t size, size_t align, bool zero) {
    size = hak_max(size, 1);
    if (align <= HAK_MIN_ALIGN) {
        return zero ? calloc(1, size) : malloc(size);
    }
    if (!zero) {
        return memalign(align, size);
    }
    if (compat_is_served()) {
        return hak_aligned_zalloc(align, size);
    }
    void *block = memalign(align, size);
    return block == NULL ? NULL : memset(block, 0, size);
}

size_t compat_good_size(size_t size, size_t align) {
    size = hak_max(size, 1);
    if (compat_is_served()) {
        return hak_good_size(size, align);
    }
    void *block = compat_alloc(size, align, false);
    size_t usable = malloc_usable_size(block);
    free(block);
    return usable;
}

struct compat_totals compat_totals_of(const struct hak_stats *stats) {
    size_t tiny = stats->tiny_slabs * SLAB;
    tiny -= hak_min(tiny, stats->clean);
    size_t rest = stats->large_slabs * SLAB + stats->far;
    // Counts the pages that large blocks lie in, but not the rest of their runs.
    size_t large = hak_round_up(stats->large_live, HAK_PAGE) + stats->large_blocks * HAK_PAGE;
    large = hak_min(large, rest);
    size_t private = stats->private_slabs * SLAB;
    struct compat_totals totals = {
        .allocated = stats->tiny_live + stats->large_live + stats->private_live,
        .active = tiny + large + private,
        .dirty = stats->dirty,
        .metadata = stats->metadata,
        .resident = tiny + rest + private + stats->dirty + stats->metadata,
        .mapped = stats->committed + stats->far,
        .retained = stats->reserved - stats->committed,
    };
    return totals;
}
