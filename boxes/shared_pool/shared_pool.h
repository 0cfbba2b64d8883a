// SPDX-License-Identifier: Apache-2.0
// shared_pool: process-wide owner of the slabs that hold tiny blocks; hands out batches of free
// blocks and takes them back.
//
// A slab's life (every arrow is one atomic step; every state is one that others can go on from):
//
//        page_arena_claim_filled                all blocks taken, bit `listed` cleared
//     free ------------> owned --format--> listed <----------------------------> unlisted (full)
//      ^                                     |       a block comes back: listed
//      |  page_arena_release                 | every bit set: someone takes them all
//      +-------------- owned <---------------+
//
// No thread owns a slab while it is in use: taking bits out of its bitmap is all there is to it, so
// nothing is lost when a thread dies, and a forked child finds nothing half done. A taker that was
// too slow may take bits of a slab that serves another bin by now; it sees that after the taking,
// when the bits it holds keep the slab from changing again, and puts them back.
//
// Threads: all functions are lock-free and may be called by any thread at any time.
#ifndef HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_H
#define HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { SHARED_POOL_BATCH_MOST = 256 };

// Where a caller found blocks last: looked at first the next time. ARENA_NONE at the start.
typedef size_t shared_pool_hint;

// Takes up to `want` (1..SHARED_POOL_BATCH_MOST) free blocks of `bin` into blocks[], lowest address
// first within a slab. Where blocks are smaller than a cache line and 32 or fewer neighbours come
// at once, those that share a line do not follow each other. Returns how many: 0 only if the kernel
// refuses memory, and fewer than there are if the 64 neighbours that the next would come from have
// more than fit.
unsigned shared_pool_take(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint);

// Gives `count` blocks of `bin` back. Aborts with a line on stderr on a block that is already free
// and on a pointer that is not the start of a block of that bin.
void shared_pool_put(unsigned bin, void *const *blocks, unsigned count);

// A walk that gives back the pages, of slabs in use, on which no block is live. Zero at first, but
// for `all`.
struct shared_pool_walk {
    size_t cursor; // where the next step begins; 0 at the end of the walk
    size_t pages;  // given back so far
    bool all;      // slabs whose blocks moved since the last walk are not only marked
    bool refused;  // the kernel would not take pages
};

// One step of a walk. Stops when it has given back about `budget` pages, looked at `look` slabs or
// groups of SuperSlabs, met a refusal, or reached the end. (Which slabs' blocks have moved is a
// hint: of the slabs of a batch that was put back only one counts.)
void shared_pool_purge(struct shared_pool_walk *walk, size_t look, size_t budget);

// Gives slabs that have only a part of their pages (see page_arena_is_tight()) back to the arena if
// no block of them is out: others go back by themselves.
void shared_pool_give_short(void);

// What the pool holds, in bytes: slabs in use, and of them the pages that have no memory.
struct shared_pool_totals {
    size_t slabs;
    size_t clean;
};
struct shared_pool_totals shared_pool_get_totals(void);

// Slabs put to use so far. A count that may wrap.
size_t shared_pool_grown(void);

// Aborts like shared_pool_put() on blocks that it would not take; changes nothing.
void shared_pool_check(unsigned bin, void *const *blocks, unsigned count);

// The start of the block that `ptr`, an address within a slab in use for `bin`, belongs to; NULL if
// it lies behind the last block.
void *shared_pool_block_start(unsigned bin, const void *ptr);

// True if the block at `ptr` is marked free in its slab's bitmap (not: in some thread's cache).
bool shared_pool_is_free(unsigned bin, const void *ptr);
HAK_C_END

#endif
