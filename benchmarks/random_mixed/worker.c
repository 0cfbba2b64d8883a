// The loop of random_mixed, on whatever malloc the process has. Plain C and few system calls, so
// that what is measured is the allocator: the driver (random_mixed.cc) starts it once an allocator.
//
// One iteration picks a random slot; a full slot is freed, an empty one gets a block, whose first
// byte is written. The floor is the same loop with no allocator: an empty slot gets the address of
// one static buffer instead.
#define _GNU_SOURCE
#include "boxes/statistics/statistics.h"

#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

struct options {
    uint64_t iterations, size, seed;
    uint64_t slots, min_size, max_size, threads, warmup, repeat;
    int json;
};

struct run {
    const struct options *options;
    uint64_t seed;
    int floor;
    double ns; // of the iterations after the warm-up
    pthread_barrier_t *barrier;
};

static const char usage[] =
    "usage: random_mixed_worker ITERATIONS SIZE SEED [--slots N] [--min-size B] [--max-size B]\n"
    "       [--threads N] [--warmup N] [--repeat N] [--json]\n";

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

// xorshift64*: a few cycles, no memory.
static inline uint64_t next_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1du;
}

static char floor_block[64];

// Both loops are this one, compiled twice, so that they differ in nothing but the calls.
static inline __attribute__((always_inline)) void loop(void **slots, uint64_t slot_count,
                                                       uint64_t iterations, uint64_t min_size,
                                                       uint64_t span, uint64_t *state,
                                                       int is_floor) {
    for (uint64_t i = 0; i < iterations; i++) {
        uint64_t random = next_random(state);
        // The high half of a product maps a random word to 0..n-1 without a division.
        void **slot = &slots[((random & 0xffffffff) * slot_count) >> 32];
        if (*slot != NULL) {
            if (!is_floor) {
                free(*slot);
            }
            *slot = NULL;
        } else {
            size_t size = min_size + (((random >> 32) * span) >> 32);
            char *block = is_floor ? floor_block : malloc(size);
            if (__builtin_expect(block == NULL, 0)) {
                fprintf(stderr, "random_mixed_worker: out of memory\n");
                exit(1);
            }
            __asm__ volatile("" : "+r"(block), "+r"(size));
            *(volatile char *)block = (char)size;
            *slot = block;
        }
    }
}

static __attribute__((noinline)) void loop_malloc(void **slots, const struct options *o, uint64_t n,
                                                  uint64_t *state) {
    loop(slots, o->slots, n, o->min_size, o->max_size - o->min_size + 1, state, 0);
}

static __attribute__((noinline)) void loop_floor(void **slots, const struct options *o, uint64_t n,
                                                 uint64_t *state) {
    loop(slots, o->slots, n, o->min_size, o->max_size - o->min_size + 1, state, 1);
}

static void *thread_main(void *arg) {
    struct run *run = arg;
    const struct options *o = run->options;
    size_t bytes = o->slots * sizeof(void *);
    // Not from malloc: the slots are the benchmark's, not the allocator's work.
    void **slots = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (slots == MAP_FAILED) {
        fprintf(stderr, "random_mixed_worker: no memory for %zu bytes of slots\n", bytes);
        exit(1);
    }
    uint64_t state = run->seed * 0x9e3779b97f4a7c15u | 1;
    void (*body)(void **, const struct options *, uint64_t, uint64_t *) =
        run->floor ? loop_floor : loop_malloc;
    body(slots, o, o->warmup, &state);
    if (run->barrier != NULL) {
        pthread_barrier_wait(run->barrier);
    }
    double begin = now_ns();
    body(slots, o, o->iterations, &state);
    run->ns = now_ns() - begin;
    for (uint64_t i = 0; i < o->slots && !run->floor; i++) {
        free(slots[i]);
    }
    munmap(slots, bytes);
    return NULL;
}

// Nanoseconds an operation: the mean over the threads, each of which does all iterations.
static double measure(const struct options *o, int is_floor) {
    if (o->threads == 1) {
        struct run run = {o, o->seed, is_floor, 0, NULL};
        thread_main(&run);
        return o->iterations == 0 ? 0 : run.ns / (double)o->iterations;
    }
    struct run runs[256];
    pthread_t threads[256];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, (unsigned)o->threads);
    for (uint64_t t = 0; t < o->threads; t++) {
        runs[t] = (struct run){o, o->seed + t, is_floor, 0, &barrier};
        if (pthread_create(&threads[t], NULL, thread_main, &runs[t]) != 0) {
            fprintf(stderr, "random_mixed_worker: cannot start thread %u\n", (unsigned)t);
            exit(1);
        }
    }
    double sum = 0;
    for (uint64_t t = 0; t < o->threads; t++) {
        pthread_join(threads[t], NULL);
        sum += runs[t].ns;
    }
    pthread_barrier_destroy(&barrier);
    return o->iterations == 0 ? 0 : sum / (double)o->threads / (double)o->iterations;
}

static int parse(const char *text, uint64_t least, uint64_t most, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < least ||
        value > most) {
        return 0;
    }
    *out = value;
    return 1;
}

int main(int argc, char **argv) {
    struct options o = {.slots = 256, .threads = 1, .repeat = 1};
    static const struct option longs[] = {
        {"slots", required_argument, NULL, 's'},    {"min-size", required_argument, NULL, 'm'},
        {"max-size", required_argument, NULL, 'M'}, {"threads", required_argument, NULL, 't'},
        {"warmup", required_argument, NULL, 'w'},   {"repeat", required_argument, NULL, 'r'},
        {"json", no_argument, NULL, 'j'},           {NULL, 0, NULL, 0},
    };
    int ok = 1;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 's':
            ok &= parse(optarg, 1, UINT64_C(1) << 31, &o.slots);
            break;
        case 'm':
            ok &= parse(optarg, 1, UINT64_C(1) << 31, &o.min_size);
            break;
        case 'M':
            ok &= parse(optarg, 1, UINT64_C(1) << 31, &o.max_size);
            break;
        case 't':
            ok &= parse(optarg, 1, 256, &o.threads);
            break;
        case 'w':
            ok &= parse(optarg, 0, UINT64_MAX, &o.warmup);
            break;
        case 'r':
            ok &= parse(optarg, 1, 1000, &o.repeat);
            break;
        case 'j':
            o.json = 1;
            break;
        default:
            ok = 0;
            break;
        }
    }
    ok = ok && argc - optind == 3 && parse(argv[optind], 0, UINT64_MAX, &o.iterations) &&
         parse(argv[optind + 1], 1, UINT64_C(1) << 31, &o.size) &&
         parse(argv[optind + 2], 0, UINT64_MAX, &o.seed);
    o.max_size = o.max_size != 0 ? o.max_size : o.size;
    o.min_size = o.min_size != 0 ? o.min_size : o.size / 2 + 1;
    if (o.min_size > o.max_size) {
        ok = 0;
    }
    if (!ok) {
        fputs(usage, stderr);
        return 2;
    }
    double ns = 0;
    double floor_ns = 0;
    for (uint64_t i = 0; i < o.repeat; i++) {
        double once = measure(&o, 0);
        double once_floor = measure(&o, 1);
        ns = i == 0 || once < ns ? once : ns;
        floor_ns = i == 0 || once_floor < floor_ns ? once_floor : floor_ns;
    }
    struct rusage usage_now; // before the walk below, which touches pages of its own
    getrusage(RUSAGE_SELF, &usage_now);
    // Present in hakmem only; whoever else serves malloc has no SuperSlabs to report.
    void (*stats_of)(struct hak_stats *) =
        (void (*)(struct hak_stats *))dlsym(RTLD_DEFAULT, "hak_stats");
    static struct hak_stats stats;
    if (stats_of != NULL) {
        stats_of(&stats);
    }
    printf(o.json
               ? "{\"ns\": %.4f, \"floor_ns\": %.4f, \"superslabs\": %ld, \"peak_rss_kib\": %ld, "
                 "\"faults\": %ld}\n"
               : "ns %.4f floor_ns %.4f superslabs %ld peak_rss_kib %ld faults %ld\n",
           ns, floor_ns, stats_of != NULL ? (long)stats.superslabs : -1L, usage_now.ru_maxrss,
           usage_now.ru_minflt);
    return 0;
}
