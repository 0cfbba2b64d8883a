// SPDX-License-Identifier: Apache-2.0
// The library's start, its part in a forked child, and its end.
#include "fronts/descriptor/descriptor.h"
#include "fronts/libc/guard.h"
#include "fronts/libc/profile.h"
#include "fronts/libc/record.h"

#include "backends/os.h"
#include "boxes/decay/decay.h"
#include "boxes/hardening/hardening.h"
#include "boxes/settings/settings.h"
#include "boxes/statistics/statistics.h"
#include "boxes/thread_heap/thread_heap.h"
#include "fronts/tiny_front/tiny_front.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

static void after_fork(void) {
    os_forked();
    thread_heap_after_fork();
    decay_after_fork();
    profile_after_fork();
    record_after_fork();
    statistics_after_fork();
}

// Returns true in the library whose malloc serves the process. If two libraries of hakmem are in a
// process, the second one returns false.
static bool is_first(void) {
    void (*volatile first)(struct hak_stats *) = hak_stats;
    return first == statistics_own;
}

static __attribute__((constructor(101))) void start(void) {
    settings_load_once(environ);
    os_start((enum os_calls_allowed)settings_get(SETTING_SANDBOX));
    static const struct os_around around = {thread_heap_set_aside, thread_heap_take_back};
    os_around_calls(&around);
    if (settings_get(SETTING_STATS) != 0 || settings_get(SETTING_LEAKS) != 0) {
        os_keep_stderr();
    }
#if HAK_HARDENED
    hardening_start();
#endif
    tiny_front_start();
    statistics_start(program_invocation_short_name, tiny_front_flavour, HAKMEM_VERSION);
    pthread_atfork(NULL, NULL, after_fork);
    if (is_first()) {
        descriptor_serves();
        decay_start();
        profile_start();
        guard_start();
        record_start(tiny_front_flavour);
    }
}

static __attribute__((destructor(101))) void finish(void) {
    // The pool checks the blocks that are still cached: the last chance to report a double free.
    thread_heap_flush();
    if (is_first()) {
        profile_finish();
        statistics_finish();
    }
}
