// SPDX-License-Identifier: Apache-2.0
// pthread_cancel() at each of the allocator's calls: none is a cancellation point, and a thread
// that is cancelled elsewhere leaves the heap as it was.
#include "fronts/reports/ways.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

static void call_malloc(void) {
    free(malloc(100));
}
static void call_large(void) {
    free(malloc(3 << 20));
}
static void call_calloc(void) {
    free(calloc(1000, 100));
}
static void call_realloc(void) {
    void *block = realloc(malloc(10), 100000);
    free(realloc(block, 10));
}
static void call_aligned(void) {
    void *block;
    CHECK(posix_memalign(&block, 4096, 10000) == 0);
    free(block);
    free(aligned_alloc(64, 64));
    free(memalign(64, 100));
    free(valloc(100));
    free(pvalloc(100));
}
static void call_many(void) {
    void *blocks[3000];
    for (size_t i = 0; i < 3000; i++) {
        blocks[i] = malloc(i % 500);
    }
    for (size_t i = 0; i < 3000; i++) {
        free(blocks[i]);
    }
}
static void call_usable(void) {
    void *block = malloc(10);
    CHECK(malloc_usable_size(block) >= 10);
    free(block);
}
static void call_trim(void) {
    malloc_trim(0);
}
static void call_info(void) {
    (void)mallinfo2();
}

static void (*const calls[])(void) = {call_malloc,  call_large,   call_calloc,
                                      call_realloc, call_aligned, call_many,
                                      call_usable,  call_trim,    call_info};
enum { CALLS = sizeof calls / sizeof *calls };

static void nothing_left(void) {
    for (size_t i = 0; i < CALLS; i++) {
        calls[i]();
    }
}

// The cancellation is pending when the call is made.
static _Atomic(int) behind;

static void *pending(void *arg) {
    size_t which = (size_t)arg;
    CHECK(pthread_cancel(pthread_self()) == 0); // deferred, as is the default
    calls[which]();
    atomic_store(&behind, 1);
    pthread_testcancel();
    return NULL;
}

static void deferred(void) {
    for (size_t i = 0; i < CALLS; i++) {
        pthread_t thread;
        void *result;
        atomic_store(&behind, 0);
        CHECK(pthread_create(&thread, NULL, pending, (void *)i) == 0);
        CHECK(pthread_join(thread, &result) == 0);
        CHECK(atomic_load(&behind) == 1 && result == PTHREAD_CANCELED);
    }
    nothing_left();
}

// Threads that do nothing else are cancelled at some time, between two calls of theirs.
static void *forever(void *arg) {
    size_t which = (size_t)arg;
    for (;;) {
        calls[which]();
        pthread_testcancel();
    }
    return NULL;
}

static void midway(void) {
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < CALLS; i++) {
            pthread_t thread;
            void *result;
            CHECK(pthread_create(&thread, NULL, forever, (void *)i) == 0);
            struct timespec pause = {0, 1000 * (round * 7 % 300)};
            nanosleep(&pause, NULL);
            CHECK(pthread_cancel(thread) == 0);
            CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
        }
    }
    nothing_left();
}

// Cleanup handlers that free what their thread has allocated.
static void cleanup(void *block) {
    free(block);
    nothing_left();
}

static void *wait_with_block(void *arg) {
    void *block = malloc(500);
    pthread_cleanup_push(cleanup, block);
    sleep(1000);
    pthread_cleanup_pop(1);
    return arg;
}

static void handlers(void) {
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, NULL, wait_with_block, NULL) == 0);
        CHECK(pthread_cancel(thread) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    }
    nothing_left();
}

// Asynchronous cancellation is allowed for threads that compute only. Calls with cancellation
// disabled in between are fine.
static void *asynchronous(void *arg) {
    CHECK(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL) == 0);
    for (;;) {
        int old;
        CHECK(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old) == 0);
        call_many();
        CHECK(pthread_setcancelstate(old, NULL) == 0);
    }
    return arg;
}

static void disabled(void) {
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, asynchronous, NULL) == 0);
        struct timespec pause = {0, 300000};
        nanosleep(&pause, NULL);
        CHECK(pthread_cancel(thread) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    nothing_left();
}

int main(int argc, char **argv) {
    static const struct way ways[] = {{"deferred", deferred},
                                      {"midway", midway},
                                      {"handlers", handlers},
                                      {"disabled", disabled},
                                      {NULL, NULL}};
    return run_way(ways, argc, argv);
}
