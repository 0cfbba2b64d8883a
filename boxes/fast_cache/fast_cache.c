#include "boxes/fast_cache/fast_cache.h"

#include "boxes/diagnostics/diagnostics.h"

static unsigned narrow_slots(unsigned bin) {
    if (bin == 0) {
        return 0;
    }
    size_t fit = FAST_CACHE_NARROW_BYTES / size_class_bins[bin].size;
    return (unsigned)hak_max(1, hak_min(fit, FAST_CACHE_NARROW));
}

// Slot 0 of the narrow stacks of bins below `bin`, and behind them of the wide ones.
static unsigned narrow_bottom(unsigned bin) {
    return bin * (FAST_CACHE_NARROW + 1);
}

static unsigned wide_bottom(unsigned bin) {
    unsigned bottom = narrow_bottom(SIZE_CLASS_BINS);
    for (unsigned b = 1; b < bin; b++) {
        bottom += size_class_bins[b].slots + 1u;
    }
    return bottom;
}

static void place(struct fast_bin *bins, uint16_t *bottoms, void **slots, unsigned bin,
                  unsigned bottom, unsigned size) {
    HAK_POKE(&bottoms[bin], (uint16_t)bottom);
    HAK_POKE(&bins[bin].top, &slots[bottom]);
    bins[bin].limit = &slots[bottom + size];
}

void fast_cache_init(struct fast_bin *bins, uint16_t *bottoms, void **slots, bool zeroed) {
    static_assert(SIZE_CLASS_BINS * (FAST_CACHE_NARROW + 1) < FAST_CACHE_SLOTS, "room for all");
    for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
        place(bins, bottoms, slots, bin, narrow_bottom(bin), narrow_slots(bin));
        if (!zeroed) { // fresh pages already hold NULL: a touch would make them cost memory
            slots[bottoms[bin]] = NULL;
        }
    }
    if (wide_bottom(SIZE_CLASS_BINS) > FAST_CACHE_SLOTS) {
        diag_broken(__func__, "more slots than FAST_CACHE_SLOTS");
    }
}

bool fast_cache_widen(struct fast_bin *bins, uint16_t *bottoms, void **slots, unsigned bin) {
    unsigned bottom = bottoms[bin];
    unsigned wide = size_class_bins[bin].slots;
    if (bottom != narrow_bottom(bin) || wide <= narrow_slots(bin)) {
        return false;
    }
    unsigned held = (unsigned)(bins[bin].top - &slots[bottom]);
    unsigned to = wide_bottom(bin);
    slots[to] = NULL;
    for (unsigned i = 1; i <= held; i++) {
        slots[to + i] = slots[bottom + i];
    }
    place(bins, bottoms, slots, bin, to, wide);
    HAK_POKE(&bins[bin].top, &slots[to + held]);
    return true;
}

void fast_cache_narrow(struct fast_bin *bins, uint16_t *bottoms, void **slots, unsigned bin) {
    DIAG_ASSERT(bins[bin].top == &slots[bottoms[bin]]);
    slots[narrow_bottom(bin)] = NULL;
    place(bins, bottoms, slots, bin, narrow_bottom(bin), narrow_slots(bin));
}

void fast_cache_fill(struct fast_bin *bin, void *const *blocks, unsigned count) {
    void **top = bin->top;
    DIAG_ASSERT(count <= (unsigned)(bin->limit - top));
    for (unsigned i = count; i-- > 0;) {
        *++top = blocks[i];
    }
    HAK_POKE(&bin->top, top);
}

unsigned fast_cache_held(const struct fast_bin *bins, const uint16_t *bottoms, void *const *slots,
                         unsigned bin) {
    // The two may be of different times: of a narrow stack and of a wide one.
    void *const *top = HAK_PEEK(&bins[bin].top);
    size_t held = (size_t)(top - &slots[HAK_PEEK(&bottoms[bin])]);
    return held <= hak_max(size_class_bins[bin].slots, FAST_CACHE_NARROW) ? (unsigned)held : 0;
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
    HAK_POKE(&bin->top, bin->top - count);
}
