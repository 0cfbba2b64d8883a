// SPDX-License-Identifier: Apache-2.0
// cache_sharing: does the allocator put blocks of two threads into one cache line? After
// cache-thrash and cache-scratch of Berger et al., "Hoard" (ASPLOS 2000).
//
// thrash: each thread allocates a small block, writes to it many times, frees it, and so on; an
// allocator that serves two threads from one line is slow (active false sharing).
// scratch: the same, but each thread begins with freeing a block that the main thread allocated
// beside those of the others; an allocator that gives it back to that thread keeps two threads on
// one line (passive false sharing).
#include "benchmarks/workers/worker.h"

static uint64_t threads = 2, iterations = 1500, writes = 200000, size = 8;
static void *given[256];

static void *run(void *arg) {
    free(arg);
    for (uint64_t i = 0; i < iterations; i++) {
        volatile char *block = worker_check(malloc(size));
        for (uint64_t k = 0; k < writes; k++) {
            block[k % 8]++;
        }
        free((void *)block);
    }
    return NULL;
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"threads", 1, 256, &threads},
        {"iterations", 1, 1u << 30, &iterations},
        {"writes", 1, 1u << 30, &writes},
        {"size", 8, 1u << 20, &size},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, " thrash|scratch", 1);
    bool scratch = strcmp(argv[optind], "scratch") == 0;
    if (!scratch && strcmp(argv[optind], "thrash") != 0) {
        worker_die("either thrash or scratch");
    }
    pthread_t ids[256];
    for (uint64_t t = 0; t < threads; t++) {
        given[t] = scratch ? worker_check(malloc(size)) : NULL;
    }
    for (uint64_t t = 0; t < threads; t++) {
        worker_start(&ids[t], run, given[t]);
    }
    for (uint64_t t = 0; t < threads; t++) {
        pthread_join(ids[t], NULL);
    }
    worker_report_allocator();
    return 0;
}
