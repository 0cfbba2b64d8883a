// SPDX-License-Identifier: Apache-2.0
#include "boxes/size_class/size_class.h"

#include <string.h>

// A cache holds up to 384 blocks and about 64 KiB of a bin, but never fewer than 4 blocks: room for
// programs that allocate and free in phases, which would go to the pool otherwise.
#define SLOTS(size)                          \
    ((size) <= 128          ? 384            \
     : (size) <= 256        ? 256            \
     : (size) <= 512        ? 128            \
     : 65536 / (size) >= 64 ? 64             \
     : 65536 / (size) >= 4  ? 65536 / (size) \
                            : 4)

#define BIN(bytes)                                                                           \
    {                                                                                        \
        .size = (bytes), .reciprocal = (uint32_t)((0x100000000u + (bytes)-1) / (bytes)),     \
        .blocks = SIZE_CLASS_SLAB / (bytes), .words = (SIZE_CLASS_SLAB / (bytes) + 63) / 64, \
        .slots = SLOTS(bytes), .batch = SLOTS(bytes) > 128 ? 64 : SLOTS(bytes) / 2           \
    }

// The bins of a doubling from 1024 B on. The first is an eighth above the power of two: what
// programs ask for is often a power of two and a header.
#if SIZE_CLASS_FINE
#    define DOUBLING(from)                                                                     \
        BIN((from) / 8 * 9), BIN((from) / 8 * 10), BIN((from) / 8 * 11), BIN((from) / 8 * 12), \
            BIN((from) / 8 * 13), BIN((from) / 8 * 14), BIN((from) / 8 * 15), BIN((from)*2)
#else
#    define DOUBLING(from) \
        BIN((from) / 16 * 18), BIN((from) / 16 * 22), BIN((from) / 16 * 27), BIN((from)*2)
#endif

#define BIN4(from, step)                                                      \
    BIN((from) + (step)), BIN((from) + 2 * (step)), BIN((from) + 3 * (step)), \
        BIN((from) + 4 * (step))

const struct size_class_bin size_class_bins[SIZE_CLASS_BINS] = {
    {0},
#if HAK_HEADER
    BIN(16),   BIN(32),   BIN(64),   BIN(128),  BIN(256),   BIN(512),
    BIN(1024), BIN(2048), BIN(4096), BIN(8192), BIN(16384), BIN(32768),
#else
    BIN4(0, 16),   BIN4(64, 16),   BIN4(128, 32),  BIN4(256, 32),  BIN4(384, 32),  BIN4(512, 64),
    BIN4(768, 64), DOUBLING(1024), DOUBLING(2048), DOUBLING(4096), DOUBLING(8192), DOUBLING(16384),
#endif
};

unsigned size_class_aligned_bin(size_t size, size_t align) {
    if (size > SIZE_CLASS_TINY_MAX || align > SIZE_CLASS_TINY_MAX + SIZE_CLASS_HEADER) {
        return 0;
    }
    size_t want = hak_round_up(hak_max(size, 1) + SIZE_CLASS_HEADER, align) - SIZE_CLASS_HEADER;
    if (want > SIZE_CLASS_TINY_MAX) {
        return 0;
    }
    unsigned bin = size_class_bin_of(want);
    while (bin < SIZE_CLASS_BINS && size_class_bins[bin].size % align != 0) {
        bin++;
    }
    return bin < SIZE_CLASS_BINS ? bin : 0;
}

// Fills a table of `entries` entries, one for each `step` bytes of a request, with the places of
// bins 1 and up, each as far as its blocks reach.
static void fill(uint8_t *table, size_t entries, size_t step) {
    table[0] = 0;
    size_t at = 1;
    for (unsigned bin = 1; at < entries; bin++) {
        size_t end = hak_min((size_class_bins[bin].size - SIZE_CLASS_HEADER) / step + 1, entries);
        memset(table + at, (int)size_class_alloc_place(bin), end - at);
        at = end;
    }
}

void size_class_fill_table(uint8_t *table) {
    fill(table, SIZE_CLASS_TABLE, SIZE_CLASS_STEP);
}

void size_class_fill_sizes(uint8_t *sizes) {
    fill(sizes, SIZE_CLASS_SIZES, 1);
}

HAK_LAYOUT(size_class_layout, HAK_ROWS(HAK_VARIABLE("bins", size_class_bins)),
           HAK_ROWS(HAK_NUMBER("bin", sizeof(struct size_class_bin)),
                    HAK_FIELD("bin.size", struct size_class_bin, size),
                    HAK_FIELD("bin.blocks", struct size_class_bin, blocks),
                    HAK_FIELD("bin.words", struct size_class_bin, words),
                    HAK_NUMBER("block_header", SIZE_CLASS_HEADER)));
