// SPDX-License-Identifier: Apache-2.0
// A library in front that makes up times, as libfaketime does, and allocates for that. malloc must
// not come here, or it would call itself.
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static __thread int inside __attribute__((tls_model("initial-exec")));

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (inside++ != 0) {
        static const char text[] = "clock_gettime() called by malloc\n";
        (void)!write(2, text, sizeof text - 1);
        _exit(3);
    }
    for (size_t i = 0; i < 100; i++) {
        void *volatile block = malloc(i * 500);
        free(block);
    }
    inside--;
    return (int)syscall(SYS_clock_gettime, clock, time);
}

// Asks for the time itself, so that the above is tried.
static __attribute__((constructor)) void start(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_REALTIME, &time);
}
