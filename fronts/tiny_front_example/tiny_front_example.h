// SPDX-License-Identifier: Apache-2.0
// tiny_front_example: how little a front is. It always asks the pool for one page's worth of
// blocks, and gives as many back. Linked by a flavour of the tests only; see fronts/README.md.
#ifndef HAKMEM_FRONTS_TINY_FRONT_EXAMPLE_TINY_FRONT_EXAMPLE_H
#define HAKMEM_FRONTS_TINY_FRONT_EXAMPLE_TINY_FRONT_EXAMPLE_H

#include "fronts/tiny_front/tiny_front.h"

HAK_C_BEGIN

extern const struct tiny_front tiny_front_example;
HAK_C_END

#endif
