// magazine: a bounded stack of free blocks of one bin, moved in batches.
//
// The traditional layer between a thread's lists and the pool: what the pool hands out and takes
// back at once. Not thread-safe: a magazine belongs to one thread. All zero is an empty magazine.
#ifndef HAKMEM_BOXES_MAGAZINE_MAGAZINE_H
#define HAKMEM_BOXES_MAGAZINE_MAGAZINE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { MAGAZINE_BLOCKS = 64 };

struct magazine {
    uint32_t count;
    void *blocks[MAGAZINE_BLOCKS];
};

// Takes blocks in as long as there is room; returns how many of the first ones went in.
unsigned magazine_load(struct magazine *magazine, void *const *blocks, unsigned count);

// Takes up to `most` blocks out, the last loaded first; returns how many.
unsigned magazine_unload(struct magazine *magazine, void **blocks, unsigned most);
HAK_C_END

#endif
