// SPDX-License-Identifier: Apache-2.0
// One call of the allocator between two breakpoints, for hit_path_test to step through. Built
// without an allocator, which is preloaded.
//
// hit_path_calls NAME SIZE [STATE]: brings the heap into a state ("holes", "peak" or "trimmed"),
// then makes the call NAME a few times, so that it is a hit, and then once between the breakpoints.
// hit_path_calls maps: prints the mappings of the process.
//
// The calls "frees_up", "frees_down" and "frees_mixed" are 1024 frees each: in the order of the
// blocks' addresses, against that order, and in no order. They are hits, with some misses among
// them.
#include <dlfcn.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BREAKPOINT() __asm__ volatile("int3" ::: "memory")

// Before and behind the call, the same code runs with and without stops.
#define STEP(call)        \
    do {                  \
        if (stop) {       \
            BREAKPOINT(); \
        }                 \
        call;             \
        if (stop) {       \
            BREAKPOINT(); \
        }                 \
    } while (0)

typedef void *alloc_fn(size_t);
typedef void free_fn(void *);
typedef void sized_free_fn(void *, size_t);

static alloc_fn *find_alloc(const char *name) {
    alloc_fn *fn;
    *(void **)&fn = dlsym(RTLD_DEFAULT, name);
    return fn;
}

static uint64_t next_random(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return *random >> 33;
}

static void swap(void **one, void **other) {
    void *kept = *one;
    *one = *other;
    *other = kept;
}

static void free_all(void **blocks, size_t count) {
    for (size_t i = 0; i < count; i++) {
        free(blocks[i]);
    }
}

static int by_address(const void *one, const void *other) {
    uintptr_t a = (uintptr_t) * (void *const *)one;
    uintptr_t b = (uintptr_t) * (void *const *)other;
    return (a > b) - (a < b);
}

static void run_frees(const char *order, size_t size, int stop) {
    enum { BLOCKS = 1024 };
    static void *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(size);
    }
    qsort(blocks, BLOCKS, sizeof *blocks, by_address);
    uint64_t random = 42;
    for (size_t i = BLOCKS; i-- > 1 && strcmp(order, "up") != 0;) {
        size_t other = strcmp(order, "down") == 0 ? BLOCKS - 1 - i : next_random(&random) % (i + 1);
        if (other < i) {
            swap(&blocks[i], &blocks[other]);
        }
    }
    STEP(free_all(blocks, BLOCKS));
}

static void run(const char *name, size_t size, int stop) {
    void *volatile p = NULL;
    if (strcmp(name, "malloc") == 0) {
        STEP(p = malloc(size));
        free(p);
    } else if (strcmp(name, "free") == 0) {
        p = malloc(size);
        STEP(free(p));
    } else if (strcmp(name, "calloc") == 0) {
        STEP(p = calloc(1, size));
        free(p);
    } else if (strcmp(name, "realloc") == 0) {
        p = malloc(size);
        STEP(p = realloc(p, size));
        free(p);
    } else if (strcmp(name, "aligned_alloc") == 0) {
        STEP(p = aligned_alloc(64, size));
        free(p);
    } else if (strcmp(name, "malloc_usable_size") == 0) {
        size_t volatile n;
        p = malloc(size);
        STEP(n = malloc_usable_size(p));
        free(p);
        (void)n;
    } else if (strcmp(name, "operator_new") == 0) {
        alloc_fn *fn = find_alloc("_Znwm");
        STEP(p = fn(size));
        free(p);
    } else if (strcmp(name, "operator_delete") == 0) {
        free_fn *fn;
        *(void **)&fn = dlsym(RTLD_DEFAULT, "_ZdlPv");
        p = malloc(size);
        STEP(fn(p));
    } else if (strcmp(name, "operator_delete_sized") == 0) {
        sized_free_fn *fn;
        *(void **)&fn = dlsym(RTLD_DEFAULT, "_ZdlPvm");
        p = malloc(size);
        STEP(fn(p, size));
    } else if (strncmp(name, "frees_", strlen("frees_")) == 0) {
        run_frees(name + strlen("frees_"), size, stop);
    } else {
        exit(2);
    }
}

// 200 MiB of blocks, of which all but every `keep`th are freed in random order (0: all are).
static void make_heap(size_t keep) {
    enum { SIZE = 64 };
    size_t count = ((size_t)200 << 20) / SIZE;
    void **blocks = malloc(count * sizeof *blocks);
    for (size_t i = 0; i < count; i++) {
        blocks[i] = malloc(SIZE);
        if (blocks[i] == NULL) {
            exit(3);
        }
        memset(blocks[i], 1, SIZE);
    }
    uint64_t random = 42;
    for (size_t i = count; i-- > 1;) {
        swap(&blocks[i], &blocks[next_random(&random) % (i + 1)]);
    }
    for (size_t i = 0; i < count; i++) {
        if (keep == 0 || i % keep != 0) {
            free(blocks[i]);
        }
    }
    free(blocks);
}

// Brings the heap into a state in which there is, or seems to be, much memory to give back. That is
// done when a cache misses and the coarse clock has moved.
static void enter_state(const char *state) {
    if (strcmp(state, "holes") == 0) {
        make_heap(3);
    } else {
        make_heap(0);
    }
    if (strcmp(state, "trimmed") == 0) {
        malloc_trim(0);
    }
    for (int i = 0; i < 50; i++) {
        usleep(1000);
        void *some[600];
        for (size_t j = 0; j < sizeof some / sizeof *some; j++) {
            some[j] = malloc(64);
        }
        for (size_t j = 0; j < sizeof some / sizeof *some; j++) {
            free(some[j]);
        }
    }
}

static int print_maps(void) {
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    if (maps == NULL) {
        return 1;
    }
    while (fgets(line, sizeof line, maps) != NULL) {
        fputs(line, stdout);
    }
    return fclose(maps);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "maps") == 0) {
        return print_maps();
    }
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: hit_path_calls NAME SIZE [STATE] | hit_path_calls maps\n");
        return 2;
    }
    if (argc == 4) {
        enter_state(argv[3]);
    }
    size_t size = strtoul(argv[2], NULL, 10);
    for (int i = 0; i < 3; i++) {
        run(argv[1], size, 0);
    }
    run(argv[1], size, 1);
    return 0;
}
