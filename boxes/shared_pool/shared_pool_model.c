// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/atomics.h"

// The pool as one source. (A mutant of the last file uses functions of the files above.)
#include "boxes/shared_pool/purge.c"
#include "boxes/shared_pool/put.c"
#include "boxes/shared_pool/shared_pool.c"
#include "boxes/shared_pool/short_slab.c"
#include "boxes/shared_pool/totals.c"

#include "boxes/shared_pool/home.c"

#include "boxes/shared_pool/shared_pool_model.h"

// Takes the place of the product's table. The bins have their bitmaps at the same place, and differ
// in everything else. Their numbers of blocks are the smallest ones, and those around the end of a
// word.
#define BIN(bytes, count)                                                                \
    {                                                                                    \
        .size = (bytes), .reciprocal = (uint32_t)((0x100000000u + (bytes)-1) / (bytes)), \
        .blocks = (count), .words = ((count) + 63) / 64, .slots = 4, .batch = 2          \
    }

const struct size_class_bin size_class_bins[SIZE_CLASS_BINS] = {
    [0] = BIN(65536, 1), // the bin of slabs that were never in use
    [MODEL_1] = BIN(65536, 1),  [MODEL_2] = BIN(32768, 2),   [MODEL_2_SMALLER] = BIN(27648, 2),
    [MODEL_3] = BIN(18432, 3),  [MODEL_63] = BIN(1040, 63),  [MODEL_64] = BIN(1024, 64),
    [MODEL_65] = BIN(1008, 65), [MODEL_128] = BIN(512, 128),
};

const volatile void *model_homes(size_t *bytes) {
    *bytes = sizeof groups;
    return &groups;
}

const volatile void *model_lines(size_t *bytes) {
    *bytes = sizeof lines;
    return &lines;
}

const volatile void *model_shared(void) {
    return &totals.shared;
}

const volatile void *model_totals(size_t *bytes) {
    *bytes = sizeof totals;
    return &totals;
}

#if HAK_HARDENED
const volatile void *model_guards(void) {
    return &guards;
}

const volatile void *model_empty_slabs(void) {
    return &pool_empty_slabs;
}
#endif
