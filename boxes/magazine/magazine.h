// SPDX-License-Identifier: Apache-2.0
// magazine: a bounded stack of free blocks of one size class ("bin"), moved in batches.
//
// The traditional layer between a thread's lists and the pool: a magazine is one batch, which the
// pool hands out or takes back. Not thread-safe: a magazine belongs to one thread. All zero is an
// empty magazine.
#ifndef HAKMEM_BOXES_MAGAZINE_MAGAZINE_H
#define HAKMEM_BOXES_MAGAZINE_MAGAZINE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { MAGAZINE_BLOCKS = 64 };

struct magazine {
    uint32_t count;
    void *blocks[MAGAZINE_BLOCKS];
};

// Returns where the next blocks go, at most *most of them. Sets *most to the number that there is
// room for.
void **magazine_room(struct magazine *magazine, unsigned *most);

// Takes in the first `count` blocks that have been written there.
void magazine_load(struct magazine *magazine, unsigned count);

// Takes out the blocks that were loaded last, at most *most of them, and sets *most to their
// number. Returns them in the order in which they were loaded. They stay in the returned places
// until the next load.
void *const *magazine_unload(struct magazine *magazine, unsigned *most);

// Returns true if the block is in the magazine.
bool magazine_holds(const struct magazine *magazine, const void *block);
HAK_C_END

#endif
