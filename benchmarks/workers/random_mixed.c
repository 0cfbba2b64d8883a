// SPDX-License-Identifier: Apache-2.0
// The loop of random_mixed, on whatever malloc the process has. Plain C and few system calls, so
// that what is measured is the allocator: the driver (random_mixed.cc) starts it once an allocator.
//
// One iteration picks a random slot; a full slot is freed, an empty one gets a block, whose first
// byte is written. The floor is the same loop with no allocator: an empty slot gets the address of
// one static buffer instead. That floor misses the cache by its slots alone; with --floor-size an
// empty slot gets a block of that size from a mapping, or the one that was last given back, so that
// blocks are touched as often and as far apart as an allocator's.
#include "benchmarks/workers/worker.h"
#include "boxes/statistics/statistics.h"

struct options {
    uint64_t iterations, size, seed;
    uint64_t slots, min_size, max_size, threads, warmup, repeat, floor_size;
};

// The blocks of a floor with --floor-size: the least that can be done to hand out distinct ones.
struct list {
    char *fresh; // never handed out yet
    char *freed; // given back, the last one first, each with the next one's address in it
};

struct run {
    const struct options *options;
    uint64_t seed;
    int floor;
    double begin, end; // of the iterations after the warm-up, on the clock
    double cpu_ns;     // of them, of the thread's own time
    uint64_t live_blocks;
    pthread_barrier_t *barrier;
    struct list list;
};

enum source { kMalloc, kOneBuffer, kList };

static char floor_block[64];

// All loops are this one, compiled for each source, so that they differ in nothing but the calls.
static inline __attribute__((always_inline)) void loop(void **slots, const struct options *o,
                                                       uint64_t iterations, uint64_t *state,
                                                       enum source source, struct list *list) {
    const uint64_t slot_count = o->slots, min_size = o->min_size;
    const uint64_t span = o->max_size - o->min_size + 1;
    const size_t floor_size = o->floor_size;
    for (uint64_t i = 0; i < iterations; i++) {
        uint64_t random = worker_random(state);
        void **slot = &slots[worker_below(random, slot_count)];
        if (*slot != NULL) {
            if (source == kMalloc) {
                free(*slot);
            } else if (source == kList) {
                *(char **)*slot = list->freed;
                list->freed = *slot;
            }
            *slot = NULL;
        } else {
            size_t size = min_size + worker_below(random >> 32, span);
            char *block = source == kMalloc ? malloc(size) : floor_block;
            if (source == kList) {
                block = list->freed;
                if (block != NULL) {
                    list->freed = *(char **)block;
                } else {
                    block = list->fresh;
                    list->fresh += floor_size;
                }
            }
            worker_check(block);
            __asm__ volatile("" : "+r"(block), "+r"(size));
            *(volatile char *)block = (char)size;
            *slot = block;
        }
    }
}

static __attribute__((noinline)) void loop_malloc(void **slots, struct run *run, uint64_t n,
                                                  uint64_t *state) {
    loop(slots, run->options, n, state, kMalloc, NULL);
}

static __attribute__((noinline)) void loop_one_buffer(void **slots, struct run *run, uint64_t n,
                                                      uint64_t *state) {
    loop(slots, run->options, n, state, kOneBuffer, NULL);
}

static __attribute__((noinline)) void loop_list(void **slots, struct run *run, uint64_t n,
                                                uint64_t *state) {
    struct list list = run->list; // in registers
    loop(slots, run->options, n, state, kList, &list);
    run->list = list;
}

// What is in use when the iterations are done and their blocks are still live.
static struct {
    long superslabs; // -1: whoever serves malloc has none to report
    long refills;    // batches taken from the pool since the process began; -1 likewise
    uint64_t live_blocks;
} at_end = {-1, -1, 0};

static void take_stats(void) {
    static struct hak_stats stats;
    void *symbol = dlsym(RTLD_DEFAULT, "hak_stats");
    if (symbol != NULL) {
        void (*stats_of)(struct hak_stats *);
        memcpy(&stats_of, &symbol, sizeof stats_of);
        stats_of(&stats);
        at_end.superslabs = (long)stats.superslabs;
        at_end.refills = (long)stats.refills;
    }
}

static void *thread_main(void *arg) {
    struct run *run = arg;
    const struct options *o = run->options;
    size_t bytes = o->slots * sizeof(void *);
    void **slots = worker_map(bytes);
    uint64_t state = worker_random_seed(run->seed);
    void (*body)(void **, struct run *, uint64_t, uint64_t *) = loop_malloc;
    if (run->floor) {
        body = o->floor_size == 0 ? loop_one_buffer : loop_list;
    }
    size_t list_bytes = run->floor ? o->slots * o->floor_size : 0;
    char *list_map = list_bytes != 0 ? worker_map(list_bytes) : NULL;
    run->list = (struct list){list_map, NULL};
    body(slots, run, o->warmup, &state);
    if (run->barrier != NULL) {
        pthread_barrier_wait(run->barrier);
    }
    run->begin = worker_now_ns();
    double cpu_begin = worker_cpu_ns();
    body(slots, run, o->iterations, &state);
    run->cpu_ns = worker_cpu_ns() - cpu_begin;
    run->end = worker_now_ns();
    if (!run->floor) {
        for (uint64_t i = 0; i < o->slots; i++) {
            run->live_blocks += slots[i] != NULL;
        }
        if (run->barrier != NULL) {
            pthread_barrier_wait(run->barrier);
        }
        if (run->seed == o->seed) {
            take_stats();
        }
        if (run->barrier != NULL) {
            pthread_barrier_wait(run->barrier);
        }
        for (uint64_t i = 0; i < o->slots; i++) {
            free(slots[i]);
        }
    }
    if (list_map != NULL) {
        munmap(list_map, list_bytes);
    }
    munmap(slots, bytes);
    return NULL;
}

// Nanoseconds an iteration: the mean over the threads, each of which does all iterations. Elapsed
// is from the first one's begin to the last one's end, over the iterations of all.
struct figures {
    double wall, cpu, elapsed;
};

static struct figures least(struct figures a, struct figures b) {
    return (struct figures){a.wall < b.wall ? a.wall : b.wall, a.cpu < b.cpu ? a.cpu : b.cpu,
                            a.elapsed < b.elapsed ? a.elapsed : b.elapsed};
}

static struct figures measure(const struct options *o, int is_floor) {
    static struct run runs[256];
    static pthread_t threads[256];
    pthread_barrier_t barrier;
    if (o->threads == 1) {
        runs[0] = (struct run){.options = o, .seed = o->seed, .floor = is_floor};
        thread_main(&runs[0]);
    } else {
        pthread_barrier_init(&barrier, NULL, (unsigned)o->threads);
        for (uint64_t t = 0; t < o->threads; t++) {
            runs[t] = (struct run){
                .options = o, .seed = o->seed + t, .floor = is_floor, .barrier = &barrier};
            worker_start(&threads[t], thread_main, &runs[t]);
        }
        for (uint64_t t = 0; t < o->threads; t++) {
            pthread_join(threads[t], NULL);
        }
        pthread_barrier_destroy(&barrier);
    }
    struct figures sum = {0, 0, 0};
    double begin = runs[0].begin, end = runs[0].end;
    uint64_t live_blocks = 0;
    for (uint64_t t = 0; t < o->threads; t++) {
        begin = runs[t].begin < begin ? runs[t].begin : begin;
        end = runs[t].end > end ? runs[t].end : end;
        sum.wall += runs[t].end - runs[t].begin;
        sum.cpu += runs[t].cpu_ns;
        live_blocks += runs[t].live_blocks;
    }
    if (!is_floor) {
        at_end.live_blocks = live_blocks;
    }
    double count = (double)o->threads * (double)(o->iterations == 0 ? 1 : o->iterations);
    return (struct figures){sum.wall / count, sum.cpu / count, (end - begin) / count};
}

int main(int argc, char **argv) {
    struct options o = {.slots = 256, .threads = 1, .repeat = 1};
    const struct worker_option table[] = {
        {"slots", 1, UINT64_C(1) << 31, &o.slots},
        {"min-size", 1, UINT64_C(1) << 31, &o.min_size},
        {"max-size", 1, UINT64_C(1) << 31, &o.max_size},
        {"threads", 1, 256, &o.threads},
        {"warmup", 0, UINT64_MAX, &o.warmup},
        {"repeat", 1, 1000, &o.repeat},
        {"floor-size", 0, UINT64_C(1) << 31, &o.floor_size},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, " ITERATIONS SIZE SEED", 3);
    bool ok = worker_parse(argv[optind], 0, UINT64_MAX, &o.iterations) &&
              worker_parse(argv[optind + 1], 1, UINT64_C(1) << 31, &o.size) &&
              worker_parse(argv[optind + 2], 0, UINT64_MAX, &o.seed);
    o.max_size = o.max_size != 0 ? o.max_size : o.size;
    o.min_size = o.min_size != 0 ? o.min_size : o.size / 2 + 1;
    // A block of the list holds an address.
    ok = ok && o.floor_size % sizeof(char *) == 0;
    if (!ok || o.min_size > o.max_size) {
        fprintf(stderr,
                "usage: %s ITERATIONS SIZE SEED, with sizes above 0 and not above 2^31, "
                "the floor's a multiple of 8\n",
                program_invocation_short_name);
        return 2;
    }
    struct figures best = measure(&o, 0);
    struct figures best_floor = measure(&o, 1);
    for (uint64_t i = 1; i < o.repeat; i++) {
        best = least(best, measure(&o, 0));
        best_floor = least(best_floor, measure(&o, 1));
    }
    worker_report_allocator();
    printf("ns %.4f\ncpu_ns %.4f\nelapsed_ns %.4f\n", best.wall, best.cpu, best.elapsed);
    printf("floor_ns %.4f\nfloor_cpu_ns %.4f\nfloor_elapsed_ns %.4f\n", best_floor.wall,
           best_floor.cpu, best_floor.elapsed);
    printf("superslabs %ld\nrefills %ld\nlive_blocks %lu\n", at_end.superslabs, at_end.refills,
           (unsigned long)at_end.live_blocks);
    return 0;
}
