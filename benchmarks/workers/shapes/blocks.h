// SPDX-License-Identifier: Apache-2.0
// blocks: what the shapes worker keeps its books in, beside the allocator that is measured: sets of
// live blocks, and the stacks of its threads.
//
// All of it comes from one reservation whose pages are touched by the worker and counted, so that a
// figure can leave out exactly what is the worker's own: its memory, its page faults and its time.
#ifndef HAKMEM_BENCHMARKS_WORKERS_SHAPES_BLOCKS_H
#define HAKMEM_BENCHMARKS_WORKERS_SHAPES_BLOCKS_H

#include "benchmarks/workers/worker.h"

enum { LANES_MOST = 1025, STACK_BYTES = 64 << 10 };

// A live block, or a chain of them that is freed as one: each block of a chain starts with the
// address of the next.
struct block {
    void *at;
    uint64_t bytes : 63; // that the program uses of it
    uint64_t chain : 1;
};

struct set {
    struct block *blocks;
    uint64_t count, bytes;
    uint64_t room, capacity; // blocks that fit on touched pages, and at all
};

// What one thread works with. Lane 0 is the main thread's.
struct lane {
    uint64_t number, random;
    struct set heap; // of the steps that fill and free
    struct set kept; // what outlives a phase
};

// Call once, before anything is allocated.
void blocks_reserve(void);

// Empties a lane's sets without freeing what is in them. `number` is below LANES_MOST.
void lane_reset(struct lane *lane, uint64_t number, uint64_t seed);

// STACK_BYTES for the thread of a lane, always the same ones for the same number.
void *blocks_stack(uint64_t number);

void set_add(struct set *set, void *at, uint64_t bytes, bool chain);

// Takes the block at `index` out and puts the last one in its place.
struct block set_take(struct set *set, uint64_t index);

// Frees a block that is in no set.
void block_free(struct block block);

// Moves all blocks of one set into another.
void set_move(struct set *from, struct set *to);

// Frees all, in the order in which they were added.
void set_free(struct set *set);

// What the worker itself has used so far. Any thread may have used it; read while all are at rest.
uint64_t own_bytes(void), own_faults(void);
double own_cpu_ns(void);

// Adds what the worker used in another way.
void own_add(uint64_t faults, double cpu_ns);

#endif
