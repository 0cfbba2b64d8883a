// SPDX-License-Identifier: Apache-2.0
// tiny_front_pool: the front of the classes that have no front of their own. As C23, with the
// refill always by demand.
#ifndef HAKMEM_FRONTS_TINY_FRONT_POOL_TINY_FRONT_POOL_H
#define HAKMEM_FRONTS_TINY_FRONT_POOL_TINY_FRONT_POOL_H

#include "fronts/tiny_front/tiny_front.h"

HAK_C_BEGIN

extern const struct tiny_front tiny_front_pool;
HAK_C_END

#endif
