// SPDX-License-Identifier: Apache-2.0
// realloc_vector: vectors that grow by realloc, from nothing to many mebibytes.
//
// First a crowd of vectors that grow in turn, so that none has room behind it; then one after the
// other to its full size; by half their size at a time (as many C++ vectors and Python's lists and
// strings do, more or less) or by doubling.
#include "benchmarks/workers/worker.h"

static uint64_t passes = 6, most = 24u << 20;

struct vector {
    uint64_t *items;
    uint64_t count, room;
};

static void push(struct vector *vector, uint64_t item, bool doubling) {
    if (vector->count == vector->room) {
        vector->room += vector->room < 4 ? 4 : doubling ? vector->room : vector->room / 2;
        vector->items = worker_check(realloc(vector->items, vector->room * sizeof item));
    }
    vector->items[vector->count++] = item;
}

static void check_and_free(struct vector *vector) {
    for (uint64_t i = 0; i < vector->count; i++) {
        if (vector->items[i] != i) {
            worker_die("an item has changed");
        }
    }
    free(vector->items);
    *vector = (struct vector){NULL, 0, 0};
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"passes", 1, 1u << 30, &passes},
        {"most", 4096, 1u << 30, &most},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, "", 0);
    enum { CROWD = 64 };
    static struct vector crowd[CROWD];
    uint64_t items = most / sizeof(uint64_t);
    for (uint64_t pass = 0; pass < passes; pass++) {
        bool doubling = pass % 2 == 1;
        for (uint64_t i = 0; i < items / CROWD; i++) {
            for (int v = 0; v < CROWD; v++) {
                push(&crowd[v], i, doubling);
            }
        }
        for (int v = 0; v < CROWD; v++) {
            check_and_free(&crowd[v]);
        }
        struct vector one = {NULL, 0, 0};
        for (uint64_t i = 0; i < items; i++) {
            push(&one, i, doubling);
        }
        check_and_free(&one);
    }
    worker_report_allocator();
    return 0;
}
