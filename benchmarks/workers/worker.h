// SPDX-License-Identifier: Apache-2.0
// What every worker shares. A worker is a program that does one workload with whatever malloc it
// has, and prints what it found as lines "KEY VALUE"; a driver starts it once an allocator.
//
// Header-only, for C and C++. Nothing here allocates while a workload is timed.
#ifndef HAKMEM_BENCHMARKS_WORKERS_WORKER_H
#define HAKMEM_BENCHMARKS_WORKERS_WORKER_H

#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static inline double worker_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

// Of the calling thread's own time on a processor: what others do on a busy machine is not in it.
static inline double worker_cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

// xorshift64*: a few cycles, no memory. The state is never 0.
static inline uint64_t worker_random_seed(uint64_t seed) {
    return seed * 0x9e3779b97f4a7c15u | 1;
}

static inline uint64_t worker_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1du;
}

// 0..n-1, n below 2^32, without a division: the high half of a product.
static inline uint64_t worker_below(uint64_t random, uint64_t n) {
    return ((random & 0xffffffff) * n) >> 32;
}

// 90 % 16-527 B, 9 % 512-8191 B, 1 % 8-72 KiB.
static inline size_t worker_mixed_size(uint64_t random) {
    uint64_t kind = worker_below(random, 100);
    random >>= 32;
    return kind < 90   ? 16 + worker_below(random, 512)
           : kind < 99 ? 512 + worker_below(random, 7680)
                       : 8192 + worker_below(random, 65536);
}

static inline void worker_sleep_ms(uint64_t ms) {
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

static inline void worker_die(const char *why) __attribute__((noreturn, cold));
static inline void worker_die(const char *why) {
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, why);
    exit(1);
}

static inline void *worker_check(void *block) {
    if (__builtin_expect(block == NULL, 0)) {
        worker_die("out of memory");
    }
    return block;
}

// Zeroed memory that is the benchmark's and not the allocator's work.
static inline void *worker_map(size_t bytes) {
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        worker_die("cannot map memory for the workload itself");
    }
    return map;
}

// Keeps the compiler from dropping a block, or the writes to it, that nobody reads.
static inline void worker_use(void *block) {
    __asm__ volatile("" : : "r"(block) : "memory");
}

static inline void worker_start(pthread_t *thread, void *(*body)(void *), void *arg) {
    if (pthread_create(thread, NULL, body, arg) != 0) {
        worker_die("cannot start a thread");
    }
}

// Decimal digits only, within the range.
static inline bool worker_parse(const char *text, uint64_t least, uint64_t most, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < least ||
        value > most) {
        return false;
    }
    *out = value;
    return true;
}

// An option --NAME of a worker that takes a number; the last row of a table has no name.
struct worker_option {
    const char *name;
    uint64_t least, most;
    uint64_t *value; // holds the default
};

// Takes the options from the arguments and returns how many positional ones are left, at
// argv[optind]; exits 2 with a usage line if anything is wrong.
static inline int worker_options(int argc, char **argv, const struct worker_option *table,
                                 const char *positional, int positional_count) {
    struct option longs[32];
    int count = 0;
    memset(longs, 0, sizeof longs);
    for (; table[count].name != NULL && count < 31; count++) {
        longs[count].name = table[count].name;
        longs[count].has_arg = required_argument;
        longs[count].val = 256 + count;
    }
    bool ok = true;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        ok = ok && c >= 256 &&
             worker_parse(optarg, table[c - 256].least, table[c - 256].most, table[c - 256].value);
    }
    if (!ok || argc - optind != positional_count) {
        fprintf(stderr, "usage: %s%s", program_invocation_short_name, positional);
        for (int i = 0; i < count; i++) {
            fprintf(stderr, " [--%s N]", table[i].name);
        }
        fputc('\n', stderr);
        exit(2);
    }
    return argc - optind;
}

// Who serves malloc: a driver refuses figures that another allocator than the one it asked for
// made.
static inline void worker_report_allocator(void) {
    Dl_info info;
    const char *file = "?";
    if (dladdr(dlsym(RTLD_DEFAULT, "malloc"), &info) != 0 && info.dli_fname != NULL) {
        file = info.dli_fname;
    }
    void *symbol = dlsym(RTLD_DEFAULT, "hak_flavour");
    const char *(*flavour)(void);
    memcpy(&flavour, &symbol, sizeof flavour);
    printf("malloc_from %s\nflavour %s\n", file, symbol != NULL ? flavour() : "-");
}

#endif
