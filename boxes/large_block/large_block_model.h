// SPDX-License-Identifier: Apache-2.0
// The queue of freed large blocks (retired.c), compiled for the model checker. See
// large_block_model_test.cc.
#ifndef HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_MODEL_H
#define HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_MODEL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// The queue: how many runs have begun to wait, now and at the last look at ages; the slabs that may
// have pages, with rights and without; the places of the queue.
enum { MODEL_PLACES = 2 };
struct model_queue {
    volatile uint32_t *next, *old;
    volatile size_t *dirty; // 2 of them
    volatile uint64_t *places;
};
struct model_queue model_get_queue(void);

// As large_retire() and large_retire_moved().
bool model_retire(char *block, size_t size, size_t slab, size_t run);
bool model_retire_moved(size_t slab, size_t run);
HAK_C_END

#endif
