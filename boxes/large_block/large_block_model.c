// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/atomics.h"

#include "boxes/large_block/large_block_model.h"

#define HAK_LARGE_WAITING MODEL_PLACES

#include "boxes/large_block/retired.c"

struct model_queue model_get_queue(void) {
    return (struct model_queue){
        .next = (volatile uint32_t *)&waiting.next,
        .old = (volatile uint32_t *)&waiting.old,
        .dirty = (volatile size_t *)waiting.dirty,
        .places = (volatile uint64_t *)waiting.runs,
    };
}

bool model_retire(char *block, size_t size, size_t slab, size_t run) {
    return large_retire(block, size, slab, run);
}

bool model_retire_moved(size_t slab, size_t run) {
    return large_retire_moved(slab, run);
}
