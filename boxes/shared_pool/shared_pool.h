// SPDX-License-Identifier: Apache-2.0
// shared_pool: process-wide owner of the slabs that hold tiny blocks; hands out batches of free
// blocks and takes them back.
//
// A slab's life (every arrow is one atomic step, and other threads can go on from every state):
//
//        page_arena_claim_filled                all blocks taken, bit `listed` cleared
//     free ------------> owned --format--> listed <----------------------------> unlisted (full)
//      ^                                     |       a block comes back: listed
//      |  page_arena_release                 | every bit set: a thread takes them all
//      +-------------- owned <---------------+
//
// No thread owns a slab while it is in use. A thread only takes bits out of the bitmap, so nothing
// is lost when a thread dies, and a forked child finds nothing half done. A slow thread may take
// bits of a slab that serves another bin by now. So it checks the bin after it has taken the bits:
// while it holds them, the slab cannot change again. If the bin is another one, it puts the bits
// back.
//
// Threads: all functions are lock-free and may be called by any thread at any time.
#ifndef HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_H
#define HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { SHARED_POOL_BATCH_MOST = 256 };

// Build settings: the most SuperSlabs that a group of threads has for itself (0: there are no
// homes), and the least number of processors of a process that has homes.
#ifndef SHARED_POOL_HOMES
#    define SHARED_POOL_HOMES 7
#endif
#ifndef SHARED_POOL_HOMES_CORES
#    define SHARED_POOL_HOMES_CORES 4
#endif

// What a thread knows of other threads. A thread that meets several other threads in its searches
// again and again joins a group of few threads. The group has SuperSlabs of its own, its homes: its
// threads take fresh slabs from them, and search them for blocks first. So threads of two groups
// seldom write the same cache lines. All fields are 0 at the start. Only the thread itself may pass
// this struct to a call.
struct shared_pool_company {
    uint8_t met;    // searches that met several other threads
    uint8_t group;  // the thread's group, once it has joined one
    uint8_t passed; // searches that found only slabs that other threads take from
    uint8_t grew;   // slabs without pages put to use, up to 255; the caller resets it
};

// Makes all homes common: slabs that all threads search. Gives back the slabs that were held for
// homes and are not in use. Threads that want slabs make new homes.
void shared_pool_leave_homes(void);

// The slab in which a caller found blocks last, which the next call tries first. ARENA_NONE at the
// start.
typedef size_t shared_pool_hint;

// Takes up to `want` (1..SHARED_POOL_BATCH_MOST) free blocks of `bin` into blocks[], lowest address
// first within a slab. (If the blocks are smaller than a cache line, and 32 or fewer of a word of
// 64 blocks are taken at once, blocks that share a line do not follow each other.) Returns the
// number taken; 0 means out of memory. May stop short of `want` rather than split a word.
unsigned shared_pool_take(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint);

// As above, for a thread that may have homes.
unsigned shared_pool_take_home(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint,
                               struct shared_pool_company *company);

// Gives `count` blocks of `bin` back. Aborts with a line on stderr if a block is free already, or
// if a pointer is not the start of a block of that bin.
void shared_pool_put(unsigned bin, void *const *blocks, unsigned count);

// A walk that gives back those pages of slabs in use that have no live block. All fields are 0 at
// first, except for `all` and `apart`.
struct shared_pool_walk {
    size_t cursor; // where the next step begins; 0 at the start and at the end of the walk
    size_t pages;  // pages given back so far
    bool all;      // also look at slabs whose blocks have moved since the last walk
    bool apart;    // skip homes
    bool refused;  // the kernel would not take pages
};

// Takes one step of a walk. The step ends when it has given back about `budget` pages, when it has
// looked at `look` slabs (or SuperSlabs or groups without any), when the kernel refuses, or at the
// end of the heap. (Whether a slab's blocks have moved is a hint: of the slabs to which one batch
// is put back, only one is marked.)
void shared_pool_purge(struct shared_pool_walk *walk, size_t look, size_t budget);

// Gives short slabs, which have only a part of their pages (see page_arena_is_tight()), back to the
// arena if no block of them is live. Other slabs go back when their last block is freed.
void shared_pool_give_short(void);

// To be called when there is no other memory. If slabs are to serve one bin for good
// (HAKMEM_SEPARATE), gives all slabs without a live block back to the arena in spite of that.
// Otherwise does nothing.
void shared_pool_give_kept(void);

// The bytes that the pool holds.
struct shared_pool_totals {
    size_t slabs; // slabs in use
    size_t clean; // pages of these that have no memory
};
struct shared_pool_totals shared_pool_get_totals(void);

// As shared_pool_get_totals(), in two loads. Once threads have homes, the result may be a few
// hundred slabs off.
struct shared_pool_totals shared_pool_guess_totals(void);

// Returns true once a thread has a home.
bool shared_pool_has_homes(void);

// Sets *grown to the number of slabs without pages put to use so far, which may wrap. Once threads
// have homes, the number is a little behind. Then the call returns false, and leaves *grown alone,
// unless a thread that counts on the caller's line (see totals.c) has added to the number since the
// last call.
bool shared_pool_grown(size_t *grown);

// Aborts as shared_pool_put() would on the same blocks. Changes nothing.
void shared_pool_check(unsigned bin, void *const *blocks, unsigned count);

// Returns the start of the block that `ptr` points into, or NULL if `ptr` lies behind the last
// block. `ptr` is an address in a slab in use for `bin`.
void *shared_pool_block_start(unsigned bin, const void *ptr);

// Returns true if the slab has the pages of the block at `ptr`, so that the block can be read.
// `ptr` is the start of a block in a slab in use for `bin`.
bool shared_pool_has(unsigned bin, const void *ptr);

// Returns true if the block at `ptr` is free in its slab's bitmap; a block in a thread's cache is
// not. `ptr` is the start of a block in a slab in use for `bin`.
bool shared_pool_is_free(unsigned bin, const void *ptr);
HAK_C_END

#endif
