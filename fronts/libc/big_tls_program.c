// SPDX-License-Identifier: Apache-2.0
// A program with KIB KiB of thread-local data. Prints how many threads it has after the thread that
// it started has ended, and whether idle memory goes back while the program does nothing.
#include "fronts/libc/glibc_malloc.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#pragma weak mallinfo2 // libc may not have it: then only the preloaded library does

static __thread char big[KIB << 10] = {1};

static void *nothing(void *arg) {
    big[3] = 1;
    return arg;
}

static int threads(void) {
    char line[256];
    int count = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
        sscanf(line, "Threads: %d", &count);
    }
    fclose(status);
    return count;
}

int main(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, nothing, NULL) == 0) {
        pthread_join(thread, NULL);
    }
    void *block = malloc(20 << 20);
    memset(block, 1, 20 << 20);
    free(block);
    size_t idle = mallinfo2().keepcost;
    for (int i = 0; i < 2000 && idle != 0; i++) {
        nanosleep(&(struct timespec){0, 10000000}, NULL);
        idle = mallinfo2().keepcost;
    }
    printf("threads: %d, idle: %zu\n", threads(), idle);
    return 0;
}
