// SPDX-License-Identifier: Apache-2.0
// The box's own source, compiled for the model checker. See medium_block_model_test.cc.
#ifndef HAKMEM_BOXES_MEDIUM_BLOCK_MEDIUM_BLOCK_MODEL_H
#define HAKMEM_BOXES_MEDIUM_BLOCK_MEDIUM_BLOCK_MODEL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Whether slots keep pages of freed blocks: build setting MEDIUM_BLOCK_KEPT.
extern bool model_keeps;

// How many chunks there are, about, and half of what there were.
volatile void *model_counted(void);
volatile void *model_mark(void);

// What the slot of the model's threads keeps, and what all slots do.
volatile uint64_t *model_kept(size_t *words);
volatile void *model_all_kept(size_t *bytes);

// The chunk that the slot of the model's threads remembers, and those of all slots.
volatile uint64_t *model_remembered(void);
volatile void *model_all_remembered(size_t *bytes);
HAK_C_END

#endif
