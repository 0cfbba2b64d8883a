#include "boxes/fast_cache/fast_cache.h"

#include "boxes/diagnostics/diagnostics.h"

void fast_cache_init(struct fast_bin *bins, uint16_t *bottoms, void **slots, bool zeroed) {
    // Slot 0 of all is bin 0's: a NULL that is top and limit.
    unsigned next = 0;
    for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
        bottoms[bin] = (uint16_t)next;
        if (!zeroed) { // fresh pages already hold NULL: a touch would make them cost memory
            slots[next] = NULL;
        }
        bins[bin].top = &slots[next];
        bins[bin].limit = &slots[next + size_class_bins[bin].slots];
        next += size_class_bins[bin].slots + 1u;
    }
    if (next > FAST_CACHE_SLOTS) {
        diag_broken(__func__, "more slots than FAST_CACHE_SLOTS");
    }
}

void fast_cache_fill(struct fast_bin *bin, void *const *blocks, unsigned count) {
    void **top = bin->top;
    DIAG_ASSERT(count <= (unsigned)(bin->limit - top));
    for (unsigned i = count; i-- > 0;) {
        *++top = blocks[i];
    }
    bin->top = top;
}

void fast_cache_drain(struct fast_bin *bin, void **bottom, void **blocks, unsigned count) {
    unsigned held = (unsigned)(bin->top - bottom);
    DIAG_ASSERT(count <= held);
    for (unsigned i = 0; i < count; i++) {
        blocks[i] = bottom[1 + i];
    }
    for (unsigned i = 0; i < held - count; i++) {
        bottom[1 + i] = bottom[1 + i + count];
    }
    bin->top -= count;
}
