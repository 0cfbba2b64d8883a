// SPDX-License-Identifier: Apache-2.0
// What runs while a process or a thread ends may allocate and free: functions of atexit(),
// destructors of libraries and of thread-specific data, at exit(), at the end of main(), at
// quick_exit() and while other threads go on.
#include "fronts/reports/ways.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static char *kept;      // by the program, freed in the last function that exit() calls
static char *of_thread; // allocated by a thread that is gone
static FILE *never_closed;

static void in_destructor(void) {
    char *text = strdup("a destructor's");
    kept = realloc(kept, 5000);
    CHECK(kept != NULL && strcmp(kept, "kept") == 0);
    free(text);
    free(kept);
    free(of_thread);
    void *large = malloc(10 << 20);
    CHECK(large != NULL);
    free(large);
}

static void further(void) {
    CHECK(malloc(100) != NULL); // never freed
    free(malloc(100));
}

static void in_atexit(void) {
    free(strdup("in atexit"));
    CHECK(atexit(further) == 0); // registered while exit() runs
    for (int i = 0; i < 100; i++) {
        free(malloc((size_t)i * 1000));
    }
}

// The first constructor's counterpart runs last of the program's.
static __attribute__((destructor(200))) void last(void) {
    if (kept != NULL) {
        in_destructor();
    }
}

static void *allocate(void *arg) {
    of_thread = strdup("a thread's");
    return arg;
}

static void prepare(void) {
    kept = strdup("kept");
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, allocate, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(atexit(in_atexit) == 0);
    never_closed = fopen("/dev/null", "w");
    CHECK(never_closed != NULL && fprintf(never_closed, "%1000d", 1) == 1000);
}

static void at_return(void) {
    prepare();
}

static void at_exit(void) {
    prepare();
    exit(0);
}

static void by_quick_exit(void) {
    prepare();
    quick_exit(0);
}

static void *busy(void *arg) {
    for (;;) {
        void *blocks[50];
        for (size_t i = 0; i < 50; i++) {
            blocks[i] = malloc(i * 50 + 1);
        }
        for (size_t i = 0; i < 50; i++) {
            free(blocks[i]);
        }
    }
    return arg;
}

// Threads go on while exit() runs, and until the process is gone.
static void among_threads(void) {
    prepare();
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, busy, NULL) == 0);
    }
    usleep(20000);
    exit(0);
}

static void *exit_here(void *arg) {
    free(arg);
    exit(0);
}

// exit() by another thread than the first one, which waits.
static void by_thread(void) {
    prepare();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, exit_here, strdup("argument")) == 0);
    pthread_join(thread, NULL);
    CHECK(!"joined");
}

static void *last_thread(void *arg) {
    usleep(10000);
    for (int i = 0; i < 1000; i++) {
        free(malloc((size_t)i));
    }
    free(arg);
    return NULL;
}

// The first thread ends before the others; the last one ends the process.
static void first_thread_gone(void) {
    prepare();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, last_thread, malloc(100)) == 0);
    pthread_exit(NULL);
}

// Destructors of thread-specific data that allocate, set their key again, and free what other
// threads allocated, in each of PTHREAD_DESTRUCTOR_ITERATIONS rounds.
static pthread_key_t keys[40];
static _Atomic(int) rounds;

static void destroy(void *value) {
    atomic_fetch_add(&rounds, 1);
    free(value);
    char *more = strdup("for the next round");
    CHECK(more != NULL);
    for (size_t i = 0; i < 40; i++) {
        if (pthread_getspecific(keys[i]) == NULL) {
            CHECK(pthread_setspecific(keys[i], more) == 0);
            return;
        }
    }
    free(more);
}

static void *with_keys(void *arg) {
    for (size_t i = 0; i < 40; i++) {
        CHECK(pthread_setspecific(keys[i], malloc(i * 100 + 1)) == 0);
    }
    return arg;
}

static void thread_data(void) {
    for (size_t i = 0; i < 40; i++) { // above the 32 keys that need no memory
        CHECK(pthread_key_create(&keys[i], destroy) == 0);
    }
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, with_keys, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    CHECK(atomic_load(&rounds) >= 50 * 40);
}

static void in_handler(int signal) {
    (void)signal;
    _exit(0);
}

// By a signal in the midst of it all; nothing of the above runs.
static void by_signal(void) {
    CHECK(signal(SIGALRM, in_handler) != SIG_ERR);
    alarm(1);
    busy(NULL);
}

int main(int argc, char **argv) {
    static const struct way ways[] = {{"at_return", at_return},
                                      {"at_exit", at_exit},
                                      {"by_quick_exit", by_quick_exit},
                                      {"among_threads", among_threads},
                                      {"by_thread", by_thread},
                                      {"first_thread_gone", first_thread_gone},
                                      {"thread_data", thread_data},
                                      {"by_signal", by_signal},
                                      {NULL, NULL}};
    return run_way(ways, argc, argv);
}
