// SPDX-License-Identifier: Apache-2.0
// The loop of random_mixed, on whatever malloc the process has. Plain C and few system calls, so
// that what is measured is the allocator: the driver (random_mixed.cc) starts it once an allocator.
//
// One iteration picks a random slot; a full slot is freed, an empty one gets a block, whose first
// byte is written. The floor is the same loop with no allocator: an empty slot gets the address of
// one static buffer instead. That floor misses the cache by its slots alone; with --floor-size an
// empty slot gets a block of that size from a mapping, or the one that was last given back, so that
// blocks are touched as often and as far apart as an allocator's.
//
// With --steady the iterations are repeated, on the same slots, until the figure is steady: five
// rounds in a row of which none took more CPU time than the least of them by more than the given
// percentage; the figure is the least of these. The first round warms up and is not among them.
// After 200 ms no further round begins; if none was steady by then, the least of all but the first
// counts.
#include "benchmarks/workers/worker.h"
#include "boxes/statistics/statistics.h"

struct options {
    uint64_t iterations, size, seed;
    uint64_t slots, min_size, max_size, threads, warmup, repeat, floor_size, steady;
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
    double begin, end; // of the last round, on the clock
    double cpu_ns;     // of it, of the thread's own time
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

// What is in use when the iterations are done for the first time and their blocks are still live.
static struct {
    long superslabs; // -1: whoever serves malloc has none to report
    long refills;    // batches taken from the pool since the process began; -1 likewise
    uint64_t live_blocks;
    unsigned rounds; // of the last measurement
    bool steady;
} at_end = {-1, -1, 0, 0, false};

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

// Nanoseconds an iteration: the mean over the threads, each of which does all iterations. Elapsed
// is from the first one's begin to the last one's end, over the iterations of all.
struct figures {
    double wall, cpu, elapsed;
};

static struct figures least(struct figures a, struct figures b) {
    return (struct figures){a.wall < b.wall ? a.wall : b.wall, a.cpu < b.cpu ? a.cpu : b.cpu,
                            a.elapsed < b.elapsed ? a.elapsed : b.elapsed};
}

enum { WINDOW = 5, LONGEST_MS = 200 };

// What the rounds of all threads have said so far. Written by the first thread alone, while the
// others wait for it.
static struct {
    struct run runs[256];
    struct figures window[WINDOW]; // the last rounds, at their number modulo WINDOW
    struct figures best;           // of all rounds but the first, if there are others
    unsigned count;
    double spent_ns;
    bool done, steady;
} rounds;

static struct figures figures_of_round(const struct options *o) {
    struct figures sum = {0, 0, 0};
    double begin = rounds.runs[0].begin, end = rounds.runs[0].end;
    for (uint64_t t = 0; t < o->threads; t++) {
        const struct run *run = &rounds.runs[t];
        begin = run->begin < begin ? run->begin : begin;
        end = run->end > end ? run->end : end;
        sum.wall += run->end - run->begin;
        sum.cpu += run->cpu_ns;
    }
    rounds.spent_ns += end - begin;
    double count = (double)o->threads * (double)(o->iterations == 0 ? 1 : o->iterations);
    return (struct figures){sum.wall / count, sum.cpu / count, (end - begin) / count};
}

static struct figures least_of_window(void) {
    struct figures best = rounds.window[0];
    for (unsigned i = 1; i < WINDOW; i++) {
        best = least(best, rounds.window[i]);
    }
    return best;
}

static void finish_round(const struct options *o) {
    struct figures round = figures_of_round(o);
    rounds.best = rounds.count <= 1 ? round : least(rounds.best, round);
    rounds.window[rounds.count % WINDOW] = round;
    rounds.count++;
    double most = 0;
    for (unsigned i = 0; i < WINDOW; i++) {
        most = rounds.window[i].cpu > most ? rounds.window[i].cpu : most;
    }
    rounds.steady = o->steady != 0 && rounds.count > WINDOW &&
                    most <= least_of_window().cpu * (1 + (double)o->steady / 100);
    rounds.done = o->steady == 0 || rounds.steady || rounds.spent_ns > LONGEST_MS * 1e6;
}

static void wait_for_all(const struct run *run) {
    if (run->barrier != NULL) {
        pthread_barrier_wait(run->barrier);
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
    const bool first = run == &rounds.runs[0];
    for (bool again = false; !again || !rounds.done; again = true) {
        wait_for_all(run);
        run->begin = worker_now_ns();
        double cpu_begin = worker_cpu_ns();
        body(slots, run, o->iterations, &state);
        run->cpu_ns = worker_cpu_ns() - cpu_begin;
        run->end = worker_now_ns();
        // What is in use does not depend on how many rounds there will be.
        for (uint64_t i = 0; i < o->slots && !run->floor && !again; i++) {
            run->live_blocks += slots[i] != NULL;
        }
        wait_for_all(run);
        if (first && !run->floor && !again) {
            take_stats();
        }
        if (first) {
            finish_round(o);
        }
        wait_for_all(run);
    }
    for (uint64_t i = 0; i < o->slots && !run->floor; i++) {
        free(slots[i]);
    }
    if (list_map != NULL) {
        munmap(list_map, list_bytes);
    }
    munmap(slots, bytes);
    return NULL;
}

static struct figures measure(const struct options *o, int is_floor) {
    static pthread_t threads[256];
    pthread_barrier_t barrier;
    rounds.count = 0;
    rounds.spent_ns = 0;
    rounds.done = false;
    if (o->threads == 1) {
        rounds.runs[0] = (struct run){.options = o, .seed = o->seed, .floor = is_floor};
        thread_main(&rounds.runs[0]);
    } else {
        pthread_barrier_init(&barrier, NULL, (unsigned)o->threads);
        for (uint64_t t = 0; t < o->threads; t++) {
            rounds.runs[t] = (struct run){
                .options = o, .seed = o->seed + t, .floor = is_floor, .barrier = &barrier};
            worker_start(&threads[t], thread_main, &rounds.runs[t]);
        }
        for (uint64_t t = 0; t < o->threads; t++) {
            pthread_join(threads[t], NULL);
        }
        pthread_barrier_destroy(&barrier);
    }
    if (!is_floor) {
        at_end.live_blocks = 0;
        for (uint64_t t = 0; t < o->threads; t++) {
            at_end.live_blocks += rounds.runs[t].live_blocks;
        }
        at_end.rounds = rounds.count;
        at_end.steady = rounds.steady;
    }
    return rounds.steady ? least_of_window() : rounds.best;
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
        {"steady", 0, 100, &o.steady},
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
    printf("rounds %u\nsteady %d\n", at_end.rounds, at_end.steady);
    return 0;
}
