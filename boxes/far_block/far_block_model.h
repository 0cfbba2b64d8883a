// SPDX-License-Identifier: Apache-2.0
// The box's own source, compiled for the model checker. See far_block_model_test.cc.
#ifndef HAKMEM_BOXES_FAR_BLOCK_FAR_BLOCK_MODEL_H
#define HAKMEM_BOXES_FAR_BLOCK_FAR_BLOCK_MODEL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// The table of FAR_BLOCK_MOST entries of `each` bytes: a block's start (0: free) and then its size.
volatile void *model_table(size_t *each);

// Entries from here on never held anything.
volatile size_t *model_used(void);
HAK_C_END

#endif
