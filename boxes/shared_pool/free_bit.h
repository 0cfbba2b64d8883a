// SPDX-License-Identifier: Apache-2.0
// shared_pool, a look at one block's bit: for callers that know the block's slab and the block's
// number in the slab.
#ifndef HAKMEM_BOXES_SHARED_POOL_FREE_BIT_H
#define HAKMEM_BOXES_SHARED_POOL_FREE_BIT_H

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/base/base.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/superslab/superslab.h"

HAK_C_BEGIN

// As shared_pool_is_free(), for block number `block` of a slab in use for `bin`. To be called when
// page_arena_is_known().
HAK_INLINE bool shared_pool_bit_is_set(unsigned bin, size_t slab, size_t block) {
    return atomic_bitmap_test(superslab_bits(&page_arena_known.window, slab, bin), block);
}
HAK_C_END

#endif
