// SPDX-License-Identifier: Apache-2.0
// simple: a tight loop over one size at a time, in the manner of glibc's malloc-simple benchmark.
//
// For each of some sizes and counts: `count` mallocs, then the frees, half of them in the order of
// allocation and half against it.
#include "benchmarks/workers/worker.h"

static uint64_t operations = 1500000; // for each size and count

static void run(size_t size, size_t count, void **blocks) {
    for (uint64_t done = 0; done < operations; done += count) {
        for (size_t i = 0; i < count; i++) {
            blocks[i] = worker_check(malloc(size));
            worker_use(blocks[i]);
        }
        for (size_t i = 0; i < count / 2; i++) {
            free(blocks[i]);
        }
        for (size_t i = count; i-- > count / 2;) {
            free(blocks[i]);
        }
    }
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"operations", 1, UINT64_MAX, &operations},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, "", 0);
    static void *blocks[1600];
    static const size_t sizes[] = {8, 16, 32, 64, 128, 256, 512, 1024};
    static const size_t counts[] = {25, 100, 400, 1600};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            run(sizes[s], counts[c], blocks);
        }
    }
    worker_report_allocator();
    return 0;
}
