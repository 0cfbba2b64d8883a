// SPDX-License-Identifier: Apache-2.0
// A program for record_test, whose allocations are known by their sizes.
//
//     record_program calls    each call, in known numbers, on four threads that free each other's
//     record_program fork     a child that allocates, and one that does not
//     record_program kill     ends by SIGKILL, when it has allocated so much
//     record_program bulk     24 MiB live, of which 16 MiB stay
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 500 };

static void *shared[THREADS][ROUNDS];
static pthread_barrier_t barrier;

static void *call_all(void *number) {
    size_t nth = (size_t)number;
    for (size_t i = 0; i < ROUNDS; i++) {
        shared[nth][i] = malloc(10001 + nth * 16);
        void *zero = calloc(3, 10101 + nth * 16);
        void *grown = realloc(malloc(10201 + nth * 16), 40201 + nth * 16);
        void *aligned = aligned_alloc(256, 10496);
        void *paged = valloc(10301);
        void *large = malloc(300001);
        free(zero);
        free(grown);
        free(aligned);
        free(paged);
        free(large);
    }
    pthread_barrier_wait(&barrier);
    for (size_t i = 0; i < ROUNDS; i++) {
        free(shared[(nth + 1) % THREADS][i]);
    }
    return NULL;
}

static void run_calls(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, call_all, (void *)i);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void keep(size_t size, size_t times) {
    for (size_t i = 0; i < times; i++) {
        char *volatile block = malloc(size);
        memset(block, 1, size);
    }
}

static void run_fork(void) {
    keep(5001, 7);
    void *volatile before = malloc(5101);
    if (fork() == 0) {
        free(before);
        keep(5201, 9);
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    if (fork() == 0) {
        _exit(0);
    }
    wait(NULL);
    keep(5301, 11);
    free(before);
}

static void run_bulk(void) {
    enum { BLOCKS = 1024, SIZE = 16 << 10 };
    static void *some[BLOCKS / 2];
    for (size_t i = 0; i < BLOCKS / 2; i++) {
        some[i] = malloc(SIZE);
        memset(some[i], 1, SIZE);
    }
    keep(SIZE, BLOCKS);
    for (size_t i = 0; i < BLOCKS / 2; i++) {
        free(some[i]);
    }
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "calls") == 0) {
        run_calls();
    } else if (strcmp(mode, "fork") == 0) {
        run_fork();
    } else if (strcmp(mode, "kill") == 0) {
        keep(6001, 30000);
        raise(SIGKILL);
    } else if (strcmp(mode, "bulk") == 0) {
        run_bulk();
    } else {
        return 2;
    }
    return 0;
}
