// SPDX-License-Identifier: Apache-2.0
// mimalloc's options, statistics and calls about the process.
#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/settings/settings.h"
#include "boxes/statistics/statistics.h"
#include "fronts/compat/mimalloc/heaps.h"
#include "fronts/libc/extension.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

typedef struct mi_heap mi_heap_t;
typedef int mi_arena_id_t;
typedef void output_function(const char *text, void *arg);
typedef void deferred_function(bool force, unsigned long long beat, void *arg);

COMPAT_EXPORT int mi_version(void) {
    return 209;
}

// ---- Options. Two have a counterpart. The others keep what they are set to, and hakmem does what
// it does without them.

enum {
    OPTION_SHOW_STATS = 1,
    OPTION_DECOMMIT_DELAY = 15,
    OPTIONS = 26,
};

static _Atomic(long) options[OPTIONS];
static _Atomic(bool) is_set[OPTIONS];

static bool is_option(int option) {
    return option >= 0 && option < OPTIONS;
}

COMPAT_EXPORT long mi_option_get(int option) {
    if (!is_option(option)) {
        return 0;
    }
    if (option == OPTION_DECOMMIT_DELAY) {
        return (long)hak_decay_ms();
    }
    if (option == OPTION_SHOW_STATS && !atomic_load(&is_set[option])) {
        return (long)settings_get(SETTING_STATS);
    }
    return atomic_load(&options[option]);
}

COMPAT_EXPORT void mi_option_set(int option, long value) {
    if (!is_option(option)) {
        return;
    }
    if (option == OPTION_DECOMMIT_DELAY) {
        hak_set_decay_ms(value);
        return;
    }
    atomic_store(&options[option], value);
    atomic_store(&is_set[option], true);
}

// Unless the user or the program has set it.
COMPAT_EXPORT void mi_option_set_default(int option, long value) {
    if (is_option(option) && option != OPTION_DECOMMIT_DELAY && !atomic_load(&is_set[option])) {
        atomic_store(&options[option], value);
    }
}

COMPAT_EXPORT long mi_option_get_clamp(int option, long least, long most) {
    long value = mi_option_get(option);
    return value < least ? least : value > most ? most : value;
}

COMPAT_EXPORT bool mi_option_is_enabled(int option) {
    return mi_option_get(option) != 0;
}

COMPAT_EXPORT void mi_option_set_enabled(int option, bool enable) {
    mi_option_set(option, enable);
}

COMPAT_EXPORT void mi_option_set_enabled_default(int option, bool enable) {
    mi_option_set_default(option, enable);
}

COMPAT_EXPORT void mi_option_enable(int option) {
    mi_option_set(option, 1);
}

COMPAT_EXPORT void mi_option_disable(int option) {
    mi_option_set(option, 0);
}

// ---- Statistics.

static output_function *_Atomic output;
static void *_Atomic output_arg;

COMPAT_EXPORT void mi_register_output(output_function *function, void *arg) {
    atomic_store(&output_arg, arg);
    atomic_store(&output, function);
}

static void write_stderr(const char *text, void *arg) {
    (void)arg;
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
}

static __attribute__((format(printf, 3, 4))) void print(output_function *function, void *arg,
                                                        const char *format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    function(text, arg);
}

COMPAT_EXPORT void mi_stats_print_out(output_function *function, void *arg) {
    if (function == NULL) {
        function = atomic_load(&output);
        arg = atomic_load(&output_arg);
    }
    if (function == NULL) {
        function = write_stderr;
    }
    struct hak_stats s;
    hak_stats(&s);
    struct compat_totals t = compat_totals_of(&s);
    print(function, arg, "heap stats:       bytes (%s)\n", hak_flavour());
    print(function, arg, "  reserved: %14zu\n", t.mapped + t.retained);
    print(function, arg, " committed: %14zu\n", t.mapped);
    print(function, arg, "    memory: %14zu at most\n", t.resident);
    print(function, arg, "     reset: %14llu in %llu purges\n", (unsigned long long)s.returned,
          (unsigned long long)s.purges);
    print(function, arg, " allocated: %14zu, of them small %zu, in heaps %zu\n", t.allocated,
          s.tiny_live, s.private_live);
    print(function, arg, "     large: %14zu in %zu blocks\n", s.large_live, s.large_blocks);
    print(function, arg, "   threads: %14zu\n", s.heaps - s.free_heaps);
    for (unsigned bin = 1; bin < HAK_STATS_BINS; bin++) {
        if (s.bins[bin].slabs != 0) {
            print(function, arg, "  bin %5zu: %14zu live %10zu cached %10zu free\n",
                  s.bins[bin].size, s.bins[bin].live, s.bins[bin].cached, s.bins[bin].free_);
        }
    }
}

COMPAT_EXPORT void mi_stats_print(void *ignored) {
    (void)ignored;
    mi_stats_print_out(NULL, NULL);
}

// Statistics are of all threads.
COMPAT_EXPORT void mi_thread_stats_print_out(output_function *function, void *arg) {
    mi_stats_print_out(function, arg);
}

// The numbers are those of now, gathered at each call.
COMPAT_EXPORT void mi_stats_reset(void) {}

COMPAT_EXPORT void mi_stats_merge(void) {}

// ---- The process and its threads.

static deferred_function *_Atomic deferred;
static void *_Atomic deferred_arg;

// The function is called by mi_collect().
COMPAT_EXPORT void mi_register_deferred_free(deferred_function *function, void *arg) {
    atomic_store(&deferred_arg, arg);
    atomic_store(&deferred, function);
}

COMPAT_EXPORT void mi_collect(bool force) {
    static _Atomic(unsigned long long) beats;
    deferred_function *function = atomic_load(&deferred);
    if (function != NULL) {
        function(force, atomic_fetch_add(&beats, 1) + 1, atomic_load(&deferred_arg));
    }
    if (force) {
        hak_flush_thread();
        hak_purge();
    } else {
        hak_decay();
    }
}

COMPAT_EXPORT void mi_heap_collect(mi_heap_t *heap, bool force) {
    (void)heap;
    mi_collect(force);
}

COMPAT_EXPORT void mi_process_init(void) {}

COMPAT_EXPORT void mi_thread_init(void) {}

COMPAT_EXPORT void mi_thread_done(void) {
    heaps_end_thread();
    hak_flush_thread();
}

static size_t ms_of(const struct timeval *time) {
    return (size_t)time->tv_sec * 1000 + (size_t)time->tv_usec / 1000;
}

static size_t now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (size_t)time.tv_sec * 1000 + (size_t)time.tv_nsec / 1000000;
}

static size_t started_ms;

static __attribute__((constructor)) void start(void) {
    started_ms = now_ms();
}

static void set(size_t *at, size_t value) {
    if (at != NULL) {
        *at = value;
    }
}

static size_t resident_bytes(void) {
    size_t pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file != NULL) {
        if (fscanf(file, "%*s %zu", &pages) != 1) {
            pages = 0;
        }
        fclose(file);
    }
    return pages * HAK_PAGE;
}

// The most that was ever committed is not known; the current amount is reported.
COMPAT_EXPORT void mi_process_info(size_t *elapsed_ms, size_t *user_ms, size_t *system_ms,
                                   size_t *current_rss, size_t *peak_rss, size_t *current_commit,
                                   size_t *peak_commit, size_t *page_faults) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    struct hak_stats s;
    hak_stats(&s);
    struct compat_totals t = compat_totals_of(&s);
    set(elapsed_ms, now_ms() - started_ms);
    set(user_ms, ms_of(&usage.ru_utime));
    set(system_ms, ms_of(&usage.ru_stime));
    set(current_rss, resident_bytes());
    set(peak_rss, (size_t)usage.ru_maxrss * 1024);
    set(current_commit, t.mapped);
    set(peak_commit, t.mapped);
    set(page_faults, (size_t)usage.ru_majflt);
}

COMPAT_EXPORT bool mi_is_redirected(void) {
    return false; // Windows only
}

// ---- Memory of the program's own, and huge pages set aside, cannot be had.

COMPAT_EXPORT int mi_reserve_huge_os_pages_interleave(size_t pages, size_t nodes, size_t ms) {
    (void)pages, (void)nodes, (void)ms;
    return ENOMEM;
}

COMPAT_EXPORT int mi_reserve_huge_os_pages_at_ex(size_t pages, int node, size_t ms, bool exclusive,
                                                 mi_arena_id_t *arena) {
    (void)pages, (void)node, (void)ms, (void)exclusive;
    if (arena != NULL) {
        *arena = -1;
    }
    return ENOMEM;
}

COMPAT_EXPORT int mi_reserve_huge_os_pages_at(size_t pages, int node, size_t ms) {
    return mi_reserve_huge_os_pages_at_ex(pages, node, ms, false, NULL);
}

COMPAT_EXPORT int mi_reserve_huge_os_pages(size_t pages, double seconds, size_t *reserved) {
    (void)pages, (void)seconds;
    if (reserved != NULL) {
        *reserved = 0;
    }
    return ENOMEM;
}

COMPAT_EXPORT int mi_reserve_os_memory_ex(size_t size, bool commit, bool large, bool exclusive,
                                          mi_arena_id_t *arena) {
    (void)size, (void)commit, (void)large, (void)exclusive;
    if (arena != NULL) {
        *arena = -1;
    }
    return ENOMEM;
}

COMPAT_EXPORT int mi_reserve_os_memory(size_t size, bool commit, bool large) {
    return mi_reserve_os_memory_ex(size, commit, large, false, NULL);
}

COMPAT_EXPORT bool mi_manage_os_memory_ex(void *start_, size_t size, bool committed, bool large,
                                          bool zero, int node, bool exclusive,
                                          mi_arena_id_t *arena) {
    (void)start_, (void)size, (void)committed, (void)large, (void)zero, (void)node, (void)exclusive;
    if (arena != NULL) {
        *arena = -1;
    }
    return false;
}

COMPAT_EXPORT bool mi_manage_os_memory(void *start_, size_t size, bool committed, bool large,
                                       bool zero, int node) {
    return mi_manage_os_memory_ex(start_, size, committed, large, zero, node, false, NULL);
}

COMPAT_EXPORT void *mi_arena_area(mi_arena_id_t arena, size_t *size) {
    (void)arena;
    if (size != NULL) {
        *size = 0;
    }
    return NULL;
}

COMPAT_EXPORT void mi_debug_show_arenas(void) {}
