// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/workers/shapes/blocks.h"

#include <stdatomic.h>

// Shares of the reservation: the main thread has most blocks, threads beyond the first have few.
enum { MAIN_MIB = 256, EARLY_MIB = 64, LATE_MIB = 1, EARLY_LANES = 32, STEP_BYTES = 64 << 10 };

static char *reserved;
static atomic_ulong touched_bytes, faults;
static _Atomic double cpu_ns;
static bool stack_touched[LANES_MOST];

uint64_t own_bytes(void) {
    return touched_bytes;
}

uint64_t own_faults(void) {
    return faults;
}

double own_cpu_ns(void) {
    return cpu_ns;
}

void own_add(uint64_t more_faults, double more_cpu_ns) {
    faults += more_faults;
    double before = cpu_ns;
    while (!atomic_compare_exchange_weak(&cpu_ns, &before, before + more_cpu_ns)) {
    }
}

// Makes pages of the reservation resident, which they stay.
static void touch(char *from, size_t bytes) {
    double begin = worker_cpu_ns();
    for (size_t at = 0; at < bytes; at += 4096) {
        *(volatile char *)(from + at) = 0;
    }
    touched_bytes += bytes;
    own_add(bytes / 4096, worker_cpu_ns() - begin);
}

static size_t set_bytes(uint64_t number) {
    return (size_t)(number == 0 ? MAIN_MIB : number <= EARLY_LANES ? EARLY_MIB : LATE_MIB) << 20;
}

// Where the two sets of a lane start; for LANES_MOST, where the stacks do.
static size_t sets_at(uint64_t number) {
    uint64_t early = number == 0 ? 0 : number - 1 < EARLY_LANES ? number - 1 : EARLY_LANES;
    uint64_t late = number > EARLY_LANES + 1 ? number - EARLY_LANES - 1 : 0;
    return 2 * ((number == 0 ? 0 : set_bytes(0)) + early * set_bytes(1) +
                late * set_bytes(EARLY_LANES + 1));
}

void blocks_reserve(void) {
    size_t bytes = sets_at(LANES_MOST) + (size_t)LANES_MOST * STACK_BYTES;
    reserved = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
        worker_die("cannot map memory for the workload itself");
    }
    // A huge page would make more resident than was touched. EINVAL: this kernel has none.
    (void)madvise(reserved, bytes, MADV_NOHUGEPAGE);
}

void *blocks_stack(uint64_t number) {
    char *stack = reserved + sets_at(LANES_MOST) + number * STACK_BYTES;
    if (!stack_touched[number]) {
        stack_touched[number] = true;
        touch(stack, STACK_BYTES);
    }
    return stack;
}

static void set_reset(struct set *set, char *at, size_t bytes) {
    set->room = set->blocks == NULL ? 0 : set->room;
    set->blocks = (struct block *)(void *)at;
    set->capacity = bytes / sizeof *set->blocks;
    set->count = set->bytes = 0;
}

void lane_reset(struct lane *lane, uint64_t number, uint64_t seed) {
    char *at = reserved + sets_at(number);
    lane->number = number;
    lane->random = worker_random_seed(seed + number);
    set_reset(&lane->heap, at, set_bytes(number));
    set_reset(&lane->kept, at + set_bytes(number), set_bytes(number));
}

void set_add(struct set *set, void *at, uint64_t bytes, bool chain) {
    if (set->count == set->room) {
        if (set->room == set->capacity) {
            worker_die("more blocks than the worker has room for");
        }
        touch((char *)(set->blocks + set->room), STEP_BYTES);
        set->room += STEP_BYTES / sizeof *set->blocks;
    }
    set->blocks[set->count++] = (struct block){.at = at, .bytes = bytes, .chain = chain};
    set->bytes += bytes;
}

struct block set_take(struct set *set, uint64_t index) {
    struct block block = set->blocks[index];
    set->blocks[index] = set->blocks[--set->count];
    set->bytes -= block.bytes;
    return block;
}

void block_free(struct block block) {
    void *next = NULL;
    for (void *at = block.at; at != NULL; at = next) {
        if (block.chain) {
            memcpy(&next, at, sizeof next);
        }
        free(at);
    }
}

void set_move(struct set *from, struct set *to) {
    for (uint64_t i = 0; i < from->count; i++) {
        set_add(to, from->blocks[i].at, from->blocks[i].bytes, from->blocks[i].chain);
    }
    from->count = from->bytes = 0;
}

void set_free(struct set *set) {
    for (uint64_t i = 0; i < set->count; i++) {
        block_free(set->blocks[i]);
    }
    set->count = set->bytes = 0;
}
