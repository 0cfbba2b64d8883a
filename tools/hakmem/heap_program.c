// SPDX-License-Identifier: Apache-2.0
// Makes blocks of all kinds, prints their states, and waits. The test compares this with what
// `hakmem` reads from outside.
//
// Lines: "block ADDRESS ASKED live|freed", and "stat NAME NUMBER" with the names of hak_stats();
// then "ready". Ends when its input does.
#include "boxes/statistics/statistics.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern __typeof(hak_stats) hak_stats __attribute__((weak));

enum { THREADS = 140, EACH = 12 };

static char out[1 << 20]; // stdout's buffer, so that printing allocates nothing
static pthread_barrier_t filled, done;
static void *of_threads[THREADS][EACH];

static void say(const void *block, size_t asked, const char *how) {
    printf("block %#zx %zu %s\n", (size_t)(uintptr_t)block, asked, how);
}

static size_t size_of(int i) {
    return (size_t)(i * 37 % 700 + 1);
}

static void *thread(void *arg) {
    void **blocks = arg;
    for (int i = 0; i < EACH; i++) {
        blocks[i] = malloc(size_of(i));
    }
    for (int i = 0; i < EACH; i += 3) {
        free(blocks[i]);
    }
    pthread_barrier_wait(&filled);
    pthread_barrier_wait(&done);
    return NULL;
}

static void *short_thread(void *arg) {
    free(malloc(100));
    return arg;
}

static void small_blocks(void) {
    enum { COUNT = 3000 };
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = malloc((size_t)(i * 7919 % 9000 + 1));
    }
    for (int i = 0; i < COUNT; i++) {
        if (i % 3 == 0 || (i >= 1000 && i < 2000)) {
            free(blocks[i]);
        }
    }
    for (int i = 0; i < COUNT; i += 7) {
        bool freed = i % 3 == 0 || (i >= 1000 && i < 2000);
        say(blocks[i], (size_t)(i * 7919 % 9000 + 1), freed ? "freed" : "live");
    }
}

static void large_blocks(void) {
    say(malloc(33000), 33000, "live");
    say(malloc(100000), 100000, "live");
    say(malloc(5000000), 5000000, "live");
    say(aligned_alloc(1 << 20, 300000), 300000, "live");
    void *short_lived = malloc(200000);
    free(short_lived); // its run is set aside then
    say(short_lived, 200000, "freed");
    char *grown = malloc(400000);
    for (size_t size = 500000; size < 4000000; size += 500000) {
        grown = realloc(grown, size);
        memset(grown, 1, size);
    }
    say(grown, 3500000 + 0, "live");
    free(malloc(3 << 20));
    void *far = malloc((size_t)17 << 30);
    if (far != NULL) {
        say(far, (size_t)17 << 30, "live");
    }
}

static void say_stats(void) {
    static struct hak_stats s;
    hak_stats(&s);
#define SAY(name) printf("stat " #name " %llu\n", (unsigned long long)s.name)
    SAY(superslabs), SAY(reserved), SAY(committed), SAY(tiny_live), SAY(tiny_cached);
    SAY(tiny_free), SAY(large_live), SAY(large_blocks), SAY(far), SAY(private_live), SAY(dirty);
    SAY(clean), SAY(metadata), SAY(tiny_slabs), SAY(large_slabs), SAY(private_slabs);
    SAY(heap_slabs), SAY(returned), SAY(purges), SAY(moved), SAY(refills), SAY(refilled_blocks);
    SAY(spills), SAY(spilled_blocks), SAY(heaps), SAY(free_heaps), SAY(large_pages), SAY(mapped);
    SAY(peak), SAY(mapped_blocks), SAY(large_slack), SAY(homes), SAY(spare_slabs);
    SAY(large_guards), SAY(large_quarantined);
    for (int b = 1; b < HAK_STATS_BINS; b++) {
        if (s.bins[b].size != 0) {
            printf("bin %zu %zu %zu %zu %zu\n", s.bins[b].size, s.bins[b].slabs, s.bins[b].live,
                   s.bins[b].cached, s.bins[b].free_);
        }
    }
}

int main(void) {
    setvbuf(stdout, out, _IOFBF, sizeof out);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 64 << 10);
    pthread_barrier_init(&filled, NULL, THREADS + 1);
    pthread_barrier_init(&done, NULL, THREADS + 1);
    static pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], &attr, thread, of_threads[i]) != 0) {
            return 1;
        }
    }
    pthread_barrier_wait(&filled);
    pthread_t ended;
    if (pthread_create(&ended, &attr, short_thread, NULL) != 0) {
        return 1;
    }
    pthread_join(ended, NULL);
    small_blocks();
    large_blocks();
    for (int i = 0; i < THREADS; i += 13) {
        for (int j = 0; j < EACH; j++) {
            say(of_threads[i][j], size_of(j), j % 3 == 0 ? "freed" : "live");
        }
    }
    say_stats();
    printf("ready\n");
    fflush(stdout);
    char end;
    while (read(STDIN_FILENO, &end, 1) > 0) {
    }
    pthread_barrier_wait(&done);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    return 0;
}
