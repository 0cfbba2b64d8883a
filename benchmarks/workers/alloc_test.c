// SPDX-License-Identifier: Apache-2.0
// alloc_test: blocks with long-tailed sizes and lifetimes that are really used, after the idea of
// node.cpp's alloc-test.
//
// One step picks a slot, a few of them often and most of them seldom (a Pareto-like distribution);
// a full slot's block is read through and freed, an empty one gets a block that is filled. Sizes up
// to 8 KiB, each power of two half as often as the one below it from 64 B on.
#include "benchmarks/workers/worker.h"

static uint64_t threads = 1, steps = 15000000, slots = 1 << 15, seed = 42;

struct slot {
    unsigned char *block;
    size_t size;
};

static uint64_t sums[256];

static size_t pick_size(uint64_t random) {
    // The count of trailing ones has the geometric distribution.
    int doublings = __builtin_ctzll(~(random & 0xff));
    size_t most = (size_t)64 << (doublings > 7 ? 7 : doublings);
    return 1 + worker_below(random >> 8, most);
}

static uint64_t pick_slot(uint64_t random) {
    // The product of two uniform numbers is mostly small.
    uint64_t product = (random & 0xffffffff) * (random >> 32) >> 32;
    return worker_below(product, slots);
}

static void *run(void *arg) {
    uint64_t *sum = arg;
    uint64_t state = worker_random_seed(seed + (uint64_t)(sum - sums));
    struct slot *table = worker_map(slots * sizeof *table);
    for (uint64_t i = 0; i < steps; i++) {
        struct slot *slot = &table[pick_slot(worker_random(&state))];
        if (slot->block != NULL) {
            for (size_t k = 0; k < slot->size; k += 64) {
                *sum += slot->block[k];
            }
            free(slot->block);
            slot->block = NULL;
        } else {
            slot->size = pick_size(worker_random(&state));
            slot->block = worker_check(malloc(slot->size));
            memset(slot->block, (int)i, slot->size);
        }
    }
    for (uint64_t i = 0; i < slots; i++) {
        free(table[i].block);
    }
    return NULL;
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"threads", 1, 256, &threads},
        {"steps", 1, UINT64_MAX, &steps},
        {"slots", 1, 1u << 30, &slots},
        {"seed", 0, UINT64_MAX, &seed},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, "", 0);
    pthread_t ids[256];
    for (uint64_t t = 0; t < threads; t++) {
        worker_start(&ids[t], run, &sums[t]);
    }
    uint64_t sum = 0;
    for (uint64_t t = 0; t < threads; t++) {
        pthread_join(ids[t], NULL);
        sum += sums[t];
    }
    worker_report_allocator();
    printf("sum %lu\n", (unsigned long)sum);
    return 0;
}
