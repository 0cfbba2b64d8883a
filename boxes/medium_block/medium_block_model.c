// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/atomics.h"

#include "boxes/medium_block/medium_block_model.h"

bool model_keeps;
#define MEDIUM_BLOCK_KEPT model_keeps

// The box as one source, with the bitmaps that it works on.
#include "boxes/atomic_bitmap/atomic_bitmap.c"
#include "boxes/medium_block/chunk.c"
#include "boxes/medium_block/fit.c"
#include "boxes/medium_block/medium_block.c"
#include "boxes/medium_block/purge.c"

size_t superslab_grain = HAK_CACHE_LINE;

volatile void *model_counted(void) {
    return &chunk_counted;
}

volatile void *model_mark(void) {
    return &chunk_mark;
}

volatile uint64_t *model_kept(size_t *words) {
    *words = sizeof kept[0] / sizeof(uint64_t);
    return (volatile uint64_t *)(volatile void *)kept[hak_thread_slot()].places;
}

volatile void *model_all_kept(size_t *bytes) {
    *bytes = sizeof kept;
    return &kept;
}

volatile uint64_t *model_remembered(void) {
    return (volatile uint64_t *)&remembered[hak_thread_slot()].chunk;
}

volatile void *model_all_remembered(size_t *bytes) {
    *bytes = sizeof remembered;
    return &remembered;
}
