// SPDX-License-Identifier: Apache-2.0
#include "fronts/tiny_front_example/tiny_front_example.h"

// Returns how many blocks of `bin` a page holds, 1 at least, and at most half of what the cache
// holds, so that a spill leaves room for frees and blocks for mallocs.
static unsigned page_of(unsigned bin) {
    size_t blocks = hak_max(HAK_PAGE / size_class_bins[bin].size, 1);
    return (unsigned)hak_min(blocks, size_class_bins[bin].slots / 2u);
}

static unsigned refill(struct thread_heap *heap, unsigned bin) {
    return tiny_front_refill_direct(heap, bin, page_of(bin));
}

static void spill(struct thread_heap *heap, unsigned bin) {
    tiny_front_spill_direct(heap, bin, page_of(bin));
}

const struct tiny_front tiny_front_example = {"example", refill, spill, NULL, NULL, NULL};
