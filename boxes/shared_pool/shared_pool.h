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
// No thread owns a slab while it is in use. A thread only takes bits out of the bitmap, so nothing
// is lost when a thread dies, and a forked child finds nothing half done. A thread that is slow may
// take bits of a slab that serves another bin by now. It checks the bin after taking them, when the
// bits that it holds keep the slab from changing again, and puts the bits back.
//
// Threads: all functions are lock-free and may be called by any thread at any time.
#ifndef HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_H
#define HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { SHARED_POOL_BATCH_MOST = 256 };

// Build settings: SuperSlabs that a group of threads has for itself at most (0: there are no
// homes), and the processors that the process has at least where there are homes.
#ifndef SHARED_POOL_HOMES
#    define SHARED_POOL_HOMES 7
#endif
#ifndef SHARED_POOL_HOMES_CORES
#    define SHARED_POOL_HOMES_CORES 4
#endif

// What a thread knows of others. Once it has met several of them again and again in its searches it
// joins a group of few threads. They take fresh slabs from SuperSlabs of their own, their homes,
// and blocks first from those there, so that they write other lines than threads of other groups
// do. All zero at the start. Only the thread may pass it on.
struct shared_pool_company {
    uint8_t met;    // searches in which several other threads were met
    uint8_t group;  // the thread's, once it has met many
    uint8_t passed; // searches that have left slabs of others alone
};

// Makes all homes everybody's, and gives slabs back that were held for them and not in use. Threads
// that want slabs make new ones.
void shared_pool_leave_homes(void);

// The slab in which a caller found blocks last, which the next call tries first. ARENA_NONE at the
// start.
typedef size_t shared_pool_hint;

// Takes up to `want` (1..SHARED_POOL_BATCH_MOST) free blocks of `bin` into blocks[], lowest address
// first within a slab. Where blocks are smaller than a cache line and 32 or fewer neighbours come
// at once, those that share a line do not follow each other. Returns the number taken; 0 means out
// of memory. May stop short of `want` rather than split a word of 64 blocks.
unsigned shared_pool_take(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint);

// The same for a thread that may have homes.
unsigned shared_pool_take_home(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint,
                               struct shared_pool_company *company);

// Gives `count` blocks of `bin` back. Aborts with a line on stderr on a block that is already free
// and on a pointer that is not the start of a block of that bin.
void shared_pool_put(unsigned bin, void *const *blocks, unsigned count);

// A walk that gives back those pages of slabs in use that have no live block. All zero at first,
// but for `all`.
struct shared_pool_walk {
    size_t cursor; // where the next step begins; 0 at the end of the walk
    size_t pages;  // given back so far
    bool all;      // give back pages also in slabs whose blocks have moved since the last walk
    bool apart;    // pass homes by
    bool refused;  // the kernel would not take pages
};

// One step of a walk. Stops when it has given back about `budget` pages, looked at `look` slabs or
// groups of SuperSlabs, met a refusal, or reached the end. (Which slabs' blocks have moved is a
// hint: of the slabs of a batch that was put back only one counts.)
void shared_pool_purge(struct shared_pool_walk *walk, size_t look, size_t budget);

// Gives short slabs, which have only a part of their pages (see page_arena_is_tight()), back to the
// arena if no block of them is live. Other slabs go back when their last block is freed.
void shared_pool_give_short(void);

// Gives all slabs without a live block back to the arena, also those that are to stay their bin's
// (HAKMEM_SEPARATE): for when there is no other memory. Nothing where none stays.
void shared_pool_give_kept(void);

// The bytes that the pool holds: slabs in use, and of them the pages that have no memory.
struct shared_pool_totals {
    size_t slabs;
    size_t clean;
};
struct shared_pool_totals shared_pool_get_totals(void);

// The same in two loads, or three. A few hundred slabs off once threads have homes.
struct shared_pool_totals shared_pool_guess_totals(void);

// True once a thread has a home.
bool shared_pool_has_homes(void);

// *grown: slabs put to use so far, a count that may wrap. Once threads have homes the count is a
// little behind, and is only there for a thread that has moved it since its last call: false for
// others.
bool shared_pool_grown(size_t *grown);

// Aborts as shared_pool_put() would on the same blocks. Changes nothing.
void shared_pool_check(unsigned bin, void *const *blocks, unsigned count);

// Returns the start of the block that `ptr` points into, or NULL if `ptr` lies behind the last
// block. `ptr` is an address in a slab in use for `bin`.
void *shared_pool_block_start(unsigned bin, const void *ptr);

// Returns false for the start of a block of `bin`, whose slab that is, on pages that the slab does
// not have (yet): it cannot be read.
bool shared_pool_has(unsigned bin, const void *ptr);

// Returns true if the block at `ptr` is marked free in its slab's bitmap (not: in some thread's
// cache).
bool shared_pool_is_free(unsigned bin, const void *ptr);
HAK_C_END

#endif
