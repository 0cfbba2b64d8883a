// SPDX-License-Identifier: Apache-2.0
// Ten thousand threads at once, and as many one after the other, each with blocks of its own and of
// another thread.
#include "fronts/reports/ways.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { AT_ONCE = 10000, CHURN = 20000 };

static size_t resident_kib(void) {
    char line[256];
    size_t kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "VmRSS:", 6) == 0) {
            kib = strtoul(line + 6, NULL, 10);
        }
    }
    fclose(file);
    return kib;
}

static pthread_attr_t small_stacks(void) {
    pthread_attr_t attr;
    CHECK(pthread_attr_init(&attr) == 0);
    CHECK(pthread_attr_setstacksize(&attr, PTHREAD_STACK_MIN + 16384) == 0);
    return attr;
}

static _Atomic(void *) handed;

// Some blocks, one of which the next thread frees.
static void *work(void *arg) {
    void *blocks[8];
    for (size_t i = 0; i < 8; i++) {
        blocks[i] = malloc(16 << i);
        CHECK(blocks[i] != NULL);
        memset(blocks[i], (int)i, 16 << i);
    }
    for (size_t i = 0; i < 7; i++) {
        CHECK(((char *)blocks[i])[(16 << i) - 1] == (char)i);
        free(blocks[i]);
    }
    free(atomic_exchange(&handed, blocks[7]));
    return arg;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t go = PTHREAD_COND_INITIALIZER;
static int waiting, started;

static void *work_together(void *arg) {
    void *kept = strdup("kept by a thread that waits");
    work(NULL);
    pthread_mutex_lock(&lock);
    waiting++;
    pthread_cond_broadcast(&go);
    while (waiting < started || started == 0) {
        pthread_cond_wait(&go, &lock);
    }
    pthread_mutex_unlock(&lock);
    work(NULL);
    free(kept);
    return arg;
}

static void at_once(void) {
    static pthread_t threads[AT_ONCE];
    pthread_attr_t attr = small_stacks();
    int count = 0;
    while (count < AT_ONCE && pthread_create(&threads[count], &attr, work_together, NULL) == 0) {
        count++;
    }
    // A machine may not have that many to give (RLIMIT_NPROC, pids.max); it is to have many.
    CHECK(count > 1000);
    pthread_mutex_lock(&lock);
    started = count;
    pthread_cond_broadcast(&go);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < count; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    free(atomic_exchange(&handed, NULL));
}

static void churn(void) {
    pthread_attr_t attr = small_stacks();
    size_t settled = 0;
    for (int i = 0; i < CHURN; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, &attr, work, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        if (i == CHURN / 10) {
            settled = resident_kib();
        }
    }
    CHECK(resident_kib() < settled + 2048); // Threads that are gone have left nothing behind.
}

// Detached threads end while others start.
static _Atomic(int) alive;

static void *work_detached(void *arg) {
    work(arg);
    atomic_fetch_sub(&alive, 1);
    return arg;
}

static void detached(void) {
    pthread_attr_t attr = small_stacks();
    CHECK(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0);
    for (int i = 0; i < CHURN; i++) {
        pthread_t thread;
        while (atomic_load(&alive) > 500) {
            usleep(100);
        }
        atomic_fetch_add(&alive, 1);
        int wrong = pthread_create(&thread, &attr, work_detached, NULL);
        CHECK(wrong == 0 || wrong == EAGAIN);
        if (wrong != 0) {
            atomic_fetch_sub(&alive, 1);
            usleep(1000);
        }
    }
    while (atomic_load(&alive) > 0) {
        usleep(1000);
    }
}

int main(int argc, char **argv) {
    static const struct way ways[] = {
        {"at_once", at_once}, {"churn", churn}, {"detached", detached}, {NULL, NULL}};
    return run_way(ways, argc, argv);
}
