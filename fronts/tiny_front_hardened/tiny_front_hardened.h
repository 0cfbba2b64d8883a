// SPDX-License-Identifier: Apache-2.0
// tiny_front_hardened: the cache is filled from the pool, and what waits in the quarantine, which
// free fills (slow_free.c), goes to the pool when the heap is flushed.
#ifndef HAKMEM_FRONTS_TINY_FRONT_HARDENED_TINY_FRONT_HARDENED_H
#define HAKMEM_FRONTS_TINY_FRONT_HARDENED_TINY_FRONT_HARDENED_H

#include "fronts/tiny_front/tiny_front.h"

HAK_C_BEGIN

extern const struct tiny_front tiny_front_hardened;
HAK_C_END

#endif
