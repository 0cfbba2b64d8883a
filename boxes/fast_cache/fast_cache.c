// SPDX-License-Identifier: Apache-2.0
#include "boxes/fast_cache/fast_cache.h"

#include "boxes/diagnostics/diagnostics.h"

#include <string.h>

static unsigned narrow_slots(unsigned bin) {
    if (bin == 0) {
        return 0;
    }
    size_t fit = FAST_CACHE_NARROW_BYTES / size_class_bins[bin].size;
    return (unsigned)hak_max((size_t)FAST_CACHE_NARROW_LEAST, hak_min(fit, FAST_CACHE_NARROW));
}

// The slots of all narrow stacks come first, by bin, and those of all wide stacks behind them.
// Returns where slot 0 of a bin's stack is.
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

// Returns the most blocks that a stack of a width holds.
static size_t room_of(unsigned bin, enum fast_cache_width width) {
    if (bin == 0) {
        return 0;
    }
    size_t size = size_class_bins[bin].size;
    size_t wide = size_class_bins[bin].slots;
    switch (width) {
    case FAST_CACHE_UNWIDENED:
        return narrow_slots(bin);
    case FAST_CACHE_MIDDLE:
        return hak_min(wide, FAST_CACHE_MIDDLE_BYTES / size);
    case FAST_CACHE_WIDE:
        return wide;
    default: {
        size_t small = hak_min(FAST_CACHE_SMALL_MOST, (size_t)FAST_CACHE_SMALL_BYTES / size);
        size_t most = hak_max(FAST_CACHE_DEEP_MOST, small);
        return hak_max(wide, hak_min(most, (size_t)FAST_CACHE_DEEP_BYTES / size));
    }
    }
}

bool fast_cache_can_be_deep(unsigned bin) {
    return room_of(bin, FAST_CACHE_DEEP) > room_of(bin, FAST_CACHE_WIDE);
}

static unsigned deep_bottom(unsigned bin) {
    unsigned bottom = 0;
    for (unsigned b = 1; b < bin; b++) {
        bottom += fast_cache_can_be_deep(b) ? (unsigned)room_of(b, FAST_CACHE_DEEP) + 1 : 0;
    }
    return bottom;
}

static void place(struct fast_bin *bin, void **bottom, size_t size) {
    HAK_POKE(&bin->top, bottom);
    bin->limit = bottom + size;
}

void fast_cache_init(struct fast_bin *bins, void **slots, bool zeroed) {
    static_assert(SIZE_CLASS_BINS * (FAST_CACHE_NARROW + 1) < FAST_CACHE_SLOTS, "room for all");
    for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
        place(&bins[bin], slots + narrow_bottom(bin), narrow_slots(bin));
        if (!zeroed) { // fresh pages already hold NULL: a touch would make them cost memory
            *bins[bin].top = NULL;
        }
    }
    if (wide_bottom(SIZE_CLASS_BINS) > FAST_CACHE_SLOTS ||
        deep_bottom(SIZE_CLASS_BINS) > FAST_CACHE_DEEP_SLOTS) {
        diag_broken(__func__, "more slots than there are");
    }
}

bool fast_cache_widen(struct fast_bin *bin, void ***bottom, void **slots, unsigned number,
                      enum fast_cache_width width) {
    void **from = *bottom;
    size_t held = (size_t)(bin->top - from);
    size_t room = room_of(number, width);
    if (room <= (size_t)(bin->limit - from)) {
        return false;
    }
    void **to = slots + (width == FAST_CACHE_DEEP ? deep_bottom(number) : wide_bottom(number));
    if (from != to) {
        to[0] = NULL;
        // A stack whose spill was left by longjmp() starts in the middle of its slots.
        memmove(to + 1, from + 1, held * sizeof *to);
    }
    HAK_POKE(bottom, to);
    place(bin, to, room);
    HAK_POKE(&bin->top, to + held);
    return true;
}

void fast_cache_narrow(struct fast_bin *bin, void ***bottom, void **slots, unsigned number) {
    DIAG_ASSERT(bin->top == *bottom);
    void **to = slots + narrow_bottom(number);
    *to = NULL;
    HAK_POKE(bottom, to);
    place(bin, to, narrow_slots(number));
}

void **fast_cache_room(struct fast_bin *bin, unsigned *most) {
    *most = (unsigned)hak_min(*most, (size_t)(bin->limit - bin->top));
    return bin->top + 1;
}

void fast_cache_fill(struct fast_bin *bin, unsigned count) {
    void **top = bin->top;
    DIAG_ASSERT(count <= (unsigned)(bin->limit - top));
    void **low = top + 1;
    void **high = top + count;
#pragma GCC unroll 4
    while (low < high) {
        void *block = *low;
        *low++ = *high;
        *high-- = block;
    }
    atomic_signal_fence(memory_order_seq_cst);
    HAK_POKE(&bin->top, top + count);
}

unsigned fast_cache_held(const struct fast_bin *bin, void **const *bottom, unsigned number) {
    // Another thread's two fields may be of different times, one of a narrow stack and one of a
    // wide one.
    uintptr_t bytes = (uintptr_t)HAK_PEEK(&bin->top) - (uintptr_t)HAK_PEEK(bottom);
    size_t held = bytes / sizeof(void *);
    size_t most = hak_max(room_of(number, FAST_CACHE_DEEP), FAST_CACHE_NARROW);
    return held <= most ? (unsigned)held : 0;
}

void **fast_cache_detach(struct fast_bin *bin, void ***bottom, unsigned count) {
    void **low = *bottom;
    void **high = low + count;
    DIAG_ASSERT(count > 0 && count <= (unsigned)(bin->top - low));
    (void)bin;
    // One store cuts the stack in two. The slot of the old NULL then takes the block whose slot
    // holds the new one.
    void *last = *high;
    *high = NULL;
    atomic_signal_fence(memory_order_seq_cst);
    HAK_POKE(bottom, high);
    *low = last;
    return low;
}

void fast_cache_settle(struct fast_bin *bin, void ***bottom, void **low) {
    void **high = *bottom;
    size_t held = (size_t)(bin->top - high);
    DIAG_ASSERT(low <= high);
    // The stack is empty while its blocks move: a thread that leaves here by longjmp(), and a
    // forked child, lose the blocks, but have none of them twice.
    *low = NULL;
    HAK_POKE(&bin->top, low);
    HAK_POKE(bottom, low);
    atomic_signal_fence(memory_order_seq_cst);
    memmove(low + 1, high + 1, held * sizeof *low);
    atomic_signal_fence(memory_order_seq_cst);
    HAK_POKE(&bin->top, low + held);
}
