// SPDX-License-Identifier: Apache-2.0
// growth: heaps that grow and shrink, large blocks among small ones, and blocks handed over between
// threads, in the manner of mimalloc's stress test.
//
// In each round new threads run. A thread allocates until it has had its share of blocks, of which
// it keeps some, frees some, and swaps some with a table that all threads share; at its end it
// frees what it has. One block in a hundred has up to 1 MiB, one in ten up to 16 KiB, the others up
// to 256 bytes; each is filled, and checked when it is freed.
#include "benchmarks/workers/worker.h"

#include <stdatomic.h>

enum { TRANSFERS = 1000 };

static uint64_t threads = 4, rounds = 25, load = 8000, seed = 42;
static uint64_t *_Atomic transfers[TRANSFERS];

static uint64_t *new_block(uint64_t *state) {
    uint64_t random = worker_random(state);
    uint64_t kind = worker_below(random, 100);
    uint64_t most = kind == 0 ? 1 << 20 : kind <= 10 ? 16 << 10 : 256;
    uint64_t words = 2 + worker_below(random >> 32, most) / 8;
    uint64_t *block = worker_check(malloc(words * 8));
    block[0] = words;
    for (uint64_t i = 1; i < words; i++) {
        block[i] = words ^ i;
    }
    return block;
}

static void free_block(uint64_t *block) {
    if (block != NULL) {
        for (uint64_t i = 1; i < block[0]; i++) {
            if (block[i] != (block[0] ^ i)) {
                worker_die("a block has changed");
            }
        }
        free(block);
    }
}

static void *run(void *arg) {
    uint64_t state = *(uint64_t *)arg;
    uint64_t **kept = NULL;
    uint64_t count = 0;
    uint64_t room = 0;
    for (uint64_t i = 0; i < load; i++) {
        uint64_t random = worker_random(&state);
        if (count == room) {
            room = room == 0 ? 64 : 2 * room;
            kept = worker_check(realloc(kept, room * sizeof *kept));
        }
        if (worker_below(random, 4) != 0) {
            kept[count++] = new_block(&state);
        } else if (count > 0) {
            uint64_t at = worker_below(random >> 32, count);
            free_block(kept[at]);
            kept[at] = kept[--count];
        }
        if (count > 0 && i % 4 == 0) {
            uint64_t at = worker_below(random >> 16, count);
            kept[at] = atomic_exchange(&transfers[worker_below(random >> 8, TRANSFERS)], kept[at]);
            if (kept[at] == NULL) {
                kept[at] = kept[--count];
            }
        }
    }
    while (count > 0) {
        free_block(kept[--count]);
    }
    free(kept);
    return NULL;
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"threads", 1, 256, &threads},
        {"rounds", 1, 1u << 30, &rounds},
        {"load", 1, 1u << 30, &load},
        {"seed", 0, UINT64_MAX, &seed},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, "", 0);
    pthread_t ids[256];
    uint64_t seeds[256];
    for (uint64_t round = 0; round < rounds; round++) {
        for (uint64_t t = 0; t < threads; t++) {
            seeds[t] = worker_random_seed(seed + round * threads + t);
            worker_start(&ids[t], run, &seeds[t]);
        }
        for (uint64_t t = 0; t < threads; t++) {
            pthread_join(ids[t], NULL);
        }
        // Some of what was handed over outlives several rounds.
        for (int i = 0; i < TRANSFERS && round % 5 == 4; i++) {
            free_block(atomic_exchange(&transfers[i], NULL));
        }
    }
    for (int i = 0; i < TRANSFERS; i++) {
        free_block(atomic_exchange(&transfers[i], NULL));
    }
    worker_report_allocator();
    return 0;
}
