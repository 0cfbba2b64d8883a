// SPDX-License-Identifier: Apache-2.0
// Programs for guard_test. Each commits one kind of misuse over and over, without harm if the block
// has no guard, until it is stopped. First it prints the lines in which it allocates, frees and
// misuses.
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KNOWN \
    __attribute__((noipa, optimize("O2", "omit-frame-pointer", "no-optimize-sibling-calls")))

static volatile char sink;
static size_t size = 48;

KNOWN static char *allocate(void) {
    char *block = malloc(size);
    *(volatile char *)block = 1;
    return block;
}
enum { ALLOCATES = __LINE__ - 4 };

KNOWN static void release(char *block) {
    free(block);
    sink = 1;
}
enum { FREES = __LINE__ - 3 };

KNOWN static void read_at(volatile char *at) {
    sink = *at;
}
enum { READS = __LINE__ - 2 };

KNOWN static void write_at(volatile char *at) {
    *at = 0;
}
enum { WRITES = __LINE__ - 2 };

static void on_segv(int signal) {
    (void)signal;
    _exit(42);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    long times = argc > 2 ? atol(argv[2]) : 1;
    if (argc > 3) {
        size = (size_t)atol(argv[3]);
    }
    if (strncmp(mode, "own-", 4) == 0) {
        signal(SIGSEGV, on_segv);
        mode += 4;
    }
    printf("%d %d %d %d\n", ALLOCATES, FREES, READS, WRITES);
    fflush(stdout);
    // The memory before the first block of a slab may not be readable, so these blocks take the
    // first places.
    for (int i = 0; i < 64; i++) {
        allocate();
    }
    for (long i = 0; i < times; i++) {
        char *block = allocate();
        if (strcmp(mode, "overflow-1") == 0) {
            write_at(block + size);
        } else if (strcmp(mode, "overflow-8") == 0) {
            read_at(block + size + 7);
        } else if (strcmp(mode, "overflow-100") == 0) {
            read_at(block + size + 99);
        } else if (strcmp(mode, "underflow") == 0) {
            read_at(block - 1);
        }
        release(block);
        if (strcmp(mode, "after-free") == 0) {
            write_at(block);
        } else if (strcmp(mode, "after-free-read") == 0) {
            read_at(block + 20);
        } else if (strcmp(mode, "twice") == 0) {
            release(block);
        } else if (strcmp(mode, "keep") == 0) {
            char *volatile kept = malloc(1000);
            memset(kept, 1, malloc_usable_size(kept));
            kept = realloc(kept, 2000);
            kept[1999] = kept[999];
        }
    }
    if (strcmp(mode, "fault") == 0) { // a fault that has nothing to do with guards
        write_at((char *)(size_t)times);
    }
    return 0;
}
