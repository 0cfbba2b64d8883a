// SPDX-License-Identifier: Apache-2.0
// tiny_front_c23: the front of C2 (65..128 B) and C3 (129..256 B). FastCache <-> SharedPool in one
// step; the refill is HAKMEM_TINY_FRONT_C23_REFILL blocks, or by demand if that is 0.
#ifndef HAKMEM_FRONTS_TINY_FRONT_C23_TINY_FRONT_C23_H
#define HAKMEM_FRONTS_TINY_FRONT_C23_TINY_FRONT_C23_H

#include "fronts/tiny_front/tiny_front.h"

HAK_C_BEGIN

extern const struct tiny_front tiny_front_c23;
HAK_C_END

#endif
