#include "boxes/fast_cache/fast_cache.h"

#include "boxes/diagnostics/diagnostics.h"

#include <string.h>

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

bool fast_cache_widen(struct fast_bin *bins, uint16_t *bottoms, void **slots, unsigned bin,
                      enum fast_cache_width width) {
    void **bottom = &slots[bottoms[bin]];
    size_t held = (size_t)(bins[bin].top - bottom);
    size_t most = size_class_bins[bin].slots;
    if (width == FAST_CACHE_MIDDLE) {
        most = hak_min(most, FAST_CACHE_MIDDLE_BYTES / hak_max(size_class_bins[bin].size, 1));
    }
    if (most <= (size_t)(bins[bin].limit - bottom)) {
        return false;
    }
    void **to = &slots[wide_bottom(bin)];
    if (bottom != to) {
        to[0] = NULL;
        memcpy(to + 1, bottom + 1, held * sizeof *to);
    }
    place(bins, bottoms, slots, bin, wide_bottom(bin), (unsigned)most);
    HAK_POKE(&bins[bin].top, to + held);
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
    for (void *const *from = blocks + count; from != blocks;) {
        *++top = *--from;
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
    memcpy(blocks, bottom + 1, count * sizeof *blocks);
    memmove(bottom + 1, bottom + 1 + count, (held - count) * sizeof *blocks);
    HAK_POKE(&bin->top, bin->top - count);
}
