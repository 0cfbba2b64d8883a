// SPDX-License-Identifier: Apache-2.0
// Sources for the model checker's own test: right ones, and ones with a fault that only some
// interleavings show.
#ifndef HAKMEM_TOOLS_MODEL_CHECKER_TOY_H
#define HAKMEM_TOOLS_MODEL_CHECKER_TOY_H

#include "boxes/base/base.h"

HAK_C_BEGIN

void toy_reset(void);
volatile void *toy_counter(void);
volatile void *toy_lock(void);
unsigned toy_count(void);

// Each adds one to the counter.
void toy_add(void);        // in one step
void toy_add_badly(void);  // by a load and a store
bool toy_add_locked(void); // the same under a lock; false, and nothing is added, if it stays taken

// What a handler of fork() could do for a child in which no thread holds the lock any more.
void toy_unlock(void);
HAK_C_END

#endif
