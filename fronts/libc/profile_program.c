// SPDX-License-Identifier: Apache-2.0
// Programs for profile_test: the bytes that each function allocates are known.
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// The function of the flavour that serves the process; NULL without a flavour.
extern _Bool hak_profile_dump(const char *path) __attribute__((weak));

// Functions without a frame pointer, and without tail calls, so that each is on the stack.
#define KNOWN \
    __attribute__((noipa, optimize("O2", "omit-frame-pointer", "no-optimize-sibling-calls")))

static void *volatile sink;
static void *kept[200000];
static size_t kept_count;

static void keep(void *block) {
    kept[kept_count++] = block;
}

KNOWN static void many_small(void) {
    for (int i = 0; i < 1000; i++) {
        keep(malloc(24));
    }
}

KNOWN static void half_freed(void) {
    for (int i = 0; i < 500; i++) {
        void *block = malloc(100);
        if (i % 2 == 0) {
            free(block);
        } else {
            keep(block);
        }
    }
}

KNOWN static void some_large(void) {
    for (int i = 0; i < 3; i++) {
        keep(malloc(1 << 20));
    }
    free(kept[--kept_count]);
}

KNOWN static void zeroed(void) {
    for (int i = 1; i <= 100; i++) {
        unsigned char *block = calloc(i, 7);
        for (int j = 0; j < i * 7; j++) {
            if (block[j] != 0) {
                abort();
            }
        }
        keep(block);
    }
}

KNOWN static void aligned(void) {
    for (size_t align = 32; align <= 65536; align *= 2) {
        void *block = NULL;
        if (posix_memalign(&block, align, 3000) != 0 || (uintptr_t)block % align != 0) {
            abort();
        }
        keep(block);
    }
}

// Resizes a block to all kinds of blocks, up and down, and checks its contents.
KNOWN static void resized(void) {
    unsigned char *block = malloc(10);
    memset(block, 0x5a, 10);
    static const size_t sizes[] = {20,     100,    1000, 5000,  40000, 2000000,
                                   600000, 100000, 9000, 33000, 70,    50};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        block = realloc(block, sizes[i]);
        for (int j = 0; j < 10; j++) {
            if (block[j] != 0x5a) {
                abort();
            }
        }
    }
    keep(block);
}

KNOWN static void *in_thread(void *unused) {
    (void)unused;
    for (int i = 0; i < 200; i++) {
        keep(malloc(333));
    }
    return NULL;
}

KNOWN static void known(void) {
    many_small();
    half_freed();
    some_large();
    zeroed();
    aligned();
    resized();
    pthread_t thread;
    pthread_create(&thread, NULL, in_thread, NULL);
    pthread_join(thread, NULL);
}

// Allocates blocks of a few sizes, of which some stay, and prints the true sums.
KNOWN static void churn(size_t size, long times, long stays) {
    for (long i = 0; i < times; i++) {
        void *block = malloc(size);
        if (i < stays) {
            keep(block);
        } else {
            sink = block;
            free(sink);
        }
    }
}

KNOWN static void sizes_16(long times) {
    churn(16, times, 100000);
}
KNOWN static void sizes_200(long times) {
    churn(200, times, 50000);
}
KNOWN static void sizes_6000(long times) {
    churn(6000, times / 20, 5000);
}
KNOWN static void sizes_50000(long times) {
    churn(50000, times / 100, 1000);
}

KNOWN static void estimate(long times) {
    sizes_16(times);
    sizes_200(times);
    sizes_6000(times);
    sizes_50000(times);
}

static void forks(void) {
    many_small();
    if (fork() == 0) {
        half_freed();
        exit(0);
    }
    wait(NULL);
}

// Sampled blocks with threads that hand blocks to each other, and with forks of these.
static void *_Atomic places[256];

static void *hand_over(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed;
    for (int i = 0; i < 30000; i++) {
        state = state * 1103515245 + 12345;
        size_t size = (size_t)1 << (state >> 16) % 13;
        unsigned char *block = malloc(size);
        memset(block, 1, size);
        unsigned char *other = places[(state >> 20) % 256];
        if (__atomic_compare_exchange_n((void **)&places[(state >> 20) % 256], (void **)&other,
                                        block, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            block = other;
        }
        free(block);
        if (i % 10000 == 0 && fork() == 0) {
            for (int j = 0; j < 100; j++) {
                free(malloc(50));
            }
            _exit(0);
        }
    }
    return NULL;
}

static void threads(void) {
    pthread_t all[4];
    for (uintptr_t i = 0; i < 4; i++) {
        pthread_create(&all[i], NULL, hand_over, (void *)i);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(all[i], NULL);
    }
    int status;
    while (wait(&status) > 0) {
        if (status != 0) {
            exit(1);
        }
    }
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "known") == 0) {
        known();
    } else if (strcmp(mode, "estimate") == 0) {
        estimate(atol(argv[2]));
    } else if (strcmp(mode, "fork") == 0) {
        forks();
    } else if (strcmp(mode, "threads") == 0) {
        threads();
    } else if (strcmp(mode, "signal") == 0) {
        many_small();
        raise(atoi(argv[2]));
        half_freed();
        _exit(0);
    } else if (strcmp(mode, "dump") == 0) {
        many_small();
        printf("%d\n", hak_profile_dump != NULL && hak_profile_dump(argv[2]));
        fflush(stdout);
        half_freed();
        _exit(0);
    } else if (strcmp(mode, "mallinfo") == 0) {
        size_t before = mallinfo2().uordblks;
        many_small();
        size_t between = mallinfo2().uordblks;
        for (int i = 0; i < 1000; i++) {
            free(kept[i]);
        }
        size_t after = mallinfo2().uordblks;
        printf("%zu %zu\n", between - before, after - before);
    } else if (strcmp(mode, "every") == 0) {
        for (int i = 0; i < 10; i++) {
            keep(malloc(1 << 20));
        }
        _exit(0);
    } else if (strcmp(mode, "twice") == 0) {
        void *volatile block = malloc(100);
        free(block);
        free(block);
    } else if (strcmp(mode, "interior") == 0) {
        char *volatile block = malloc(100);
        free(block + 16);
    } else if (strcmp(mode, "usable") == 0) {
        void *volatile block = malloc(100);
        size_t usable = malloc_usable_size(block);
        if (usable < 100) {
            return 1;
        }
        memset(block, 1, usable);
        free(block);
        malloc_usable_size(block);
    }
    return 0;
}
