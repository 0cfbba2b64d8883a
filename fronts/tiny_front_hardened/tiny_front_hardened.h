// SPDX-License-Identifier: Apache-2.0
// tiny_front_hardened: fills the cache from the pool. Blocks in quarantine, where free puts them
// (slow_free.c), go to the pool when the heap is flushed.
#ifndef HAKMEM_FRONTS_TINY_FRONT_HARDENED_TINY_FRONT_HARDENED_H
#define HAKMEM_FRONTS_TINY_FRONT_HARDENED_TINY_FRONT_HARDENED_H

#include "fronts/tiny_front/tiny_front.h"

HAK_C_BEGIN

extern const struct tiny_front tiny_front_hardened;
HAK_C_END

#endif
