// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/atomics.h"

#include "boxes/far_block/far_block.c"

#include "boxes/far_block/far_block_model.h"

volatile void *model_table(size_t *each) {
    *each = sizeof table[0];
    return &table;
}

volatile size_t *model_used(void) {
    return (volatile size_t *)&used;
}
