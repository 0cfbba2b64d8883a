// SPDX-License-Identifier: Apache-2.0
#include "fronts/libc/profile.h"

#include "fronts/libc/leaks.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/heap_profile/heap_profile.h"
#include "boxes/profile_file/profile_file.h"
#include "boxes/sampler/sampler.h"
#include "boxes/settings/settings.h"
#include "boxes/thread_heap/thread_heap.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))

static _Atomic(bool) child;       // forked from a process that had started the profile
static _Atomic(uint64_t) written; // profiles written so far
static _Atomic(uint64_t) next_at; // bytes allocated when the next profile is due; 0: never
static _Atomic(uint64_t) next_ms; // clock at which the next profile is due; 0: never

static bool has_file(void) {
    return settings_text(SETTING_TEXT_PROFILE)[0] != '\0';
}

static bool is_on(void) {
    return has_file() || settings_get(SETTING_LEAKS) != 0;
}

static bool write_named(void) {
    char path[PROFILE_PATH_MOST];
    uint64_t nth = atomic_fetch_add(&written, 1) + 1;
    return profile_file_name(settings_text(SETTING_TEXT_PROFILE), nth, atomic_load(&child), path) &&
           profile_file_write(path);
}

EXPORT bool hak_profile_dump(const char *path) {
    if (!is_on() || (path == NULL && !has_file())) {
        return false;
    }
    return path == NULL ? write_named() : profile_file_write(path);
}

static void on_signal(int signal) {
    (void)signal;
    int saved = errno;
    write_named();
    errno = saved;
}

// Returns true if a profile is due. If several threads ask at the same time, returns true to one of
// them.
static bool is_due(_Atomic(uint64_t) *next, uint64_t now, uint64_t step) {
    uint64_t at = atomic_load_explicit(next, memory_order_relaxed);
    return HAK_UNLIKELY(at != 0 && now >= at) &&
           atomic_compare_exchange_strong(next, &at, now + step);
}

void profile_tick(void) {
    if (is_due(&next_at, heap_profile_allocated(), (uint64_t)settings_get(SETTING_PROFILE_EVERY)) ||
        (atomic_load_explicit(&next_ms, memory_order_relaxed) != 0 &&
         is_due(&next_ms, os_now_ms(), (uint64_t)settings_get(SETTING_PROFILE_SECONDS) * 1000))) {
        write_named();
    }
}

void profile_start(void) {
    if (!is_on()) {
        return;
    }
    sampler_start((uint64_t)settings_get(SETTING_PROFILE_RATE));
    thread_heap_close_sizes();
    if (!has_file()) {
        return;
    }
    atomic_store(&next_at, (uint64_t)settings_get(SETTING_PROFILE_EVERY));
    int64_t seconds = settings_get(SETTING_PROFILE_SECONDS);
    if (seconds != 0) {
        atomic_store(&next_ms, os_now_ms() + (uint64_t)seconds * 1000);
    }
    int number = (int)settings_get(SETTING_PROFILE_SIGNAL);
    if (number != 0) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
        sigfillset(&action.sa_mask);
        if (sigaction(number, &action, NULL) != 0) {
            diag_warn_setting("HAKMEM_PROFILE_SIGNAL", "", "no signal that can be caught");
        }
    }
}

void profile_after_fork(void) {
    atomic_store(&child, true);
    profile_file_after_fork();
}

void profile_finish(void) {
    if (has_file() && !write_named()) {
        diag_warn_setting("HAKMEM_PROFILE", settings_text(SETTING_TEXT_PROFILE),
                          "the profile could not be written");
    }
    if (settings_get(SETTING_LEAKS) != 0) {
        leaks_report();
    }
}
