// SPDX-License-Identifier: Apache-2.0
// tiny_front_classic: the traditional path. FastCache -> SLL -> Magazine -> SharedPool.
//
// A miss takes blocks from the thread's linked list; an empty list is filled from the magazine, an
// empty magazine from the pool. An overflow goes the same way back. The two layers of a heap live
// in a slab of their own, made at the heap's first miss.
#ifndef HAKMEM_FRONTS_TINY_FRONT_CLASSIC_TINY_FRONT_CLASSIC_H
#define HAKMEM_FRONTS_TINY_FRONT_CLASSIC_TINY_FRONT_CLASSIC_H

#include "fronts/tiny_front/tiny_front.h"

extern const struct tiny_front tiny_front_classic;

#endif
