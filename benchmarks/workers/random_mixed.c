// The loop of random_mixed, on whatever malloc the process has. Plain C and few system calls, so
// that what is measured is the allocator: the driver (random_mixed.cc) starts it once an allocator.
//
// One iteration picks a random slot; a full slot is freed, an empty one gets a block, whose first
// byte is written. The floor is the same loop with no allocator: an empty slot gets the address of
// one static buffer instead.
#include "benchmarks/workers/worker.h"
#include "boxes/statistics/statistics.h"

struct options {
    uint64_t iterations, size, seed;
    uint64_t slots, min_size, max_size, threads, warmup, repeat;
};

struct run {
    const struct options *options;
    uint64_t seed;
    int floor;
    double ns;     // of the iterations after the warm-up
    double cpu_ns; // of them, of the thread's own time
    uint64_t live_blocks;
    pthread_barrier_t *barrier;
};

static char floor_block[64];

// Both loops are this one, compiled twice, so that they differ in nothing but the calls.
static inline __attribute__((always_inline)) void loop(void **slots, uint64_t slot_count,
                                                       uint64_t iterations, uint64_t min_size,
                                                       uint64_t span, uint64_t *state,
                                                       int is_floor) {
    for (uint64_t i = 0; i < iterations; i++) {
        uint64_t random = worker_random(state);
        void **slot = &slots[worker_below(random, slot_count)];
        if (*slot != NULL) {
            if (!is_floor) {
                free(*slot);
            }
            *slot = NULL;
        } else {
            size_t size = min_size + worker_below(random >> 32, span);
            char *block = is_floor ? floor_block : malloc(size);
            worker_check(block);
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
    void (*body)(void **, const struct options *, uint64_t, uint64_t *) =
        run->floor ? loop_floor : loop_malloc;
    body(slots, o, o->warmup, &state);
    if (run->barrier != NULL) {
        pthread_barrier_wait(run->barrier);
    }
    double begin = worker_now_ns();
    double cpu_begin = worker_cpu_ns();
    body(slots, o, o->iterations, &state);
    run->cpu_ns = worker_cpu_ns() - cpu_begin;
    run->ns = worker_now_ns() - begin;
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
    munmap(slots, bytes);
    return NULL;
}

// Nanoseconds an iteration.
struct figures {
    double wall, cpu;
};

// The mean over the threads, each of which does all iterations.
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
    struct figures sum = {0, 0};
    uint64_t live_blocks = 0;
    for (uint64_t t = 0; t < o->threads; t++) {
        sum.wall += runs[t].ns;
        sum.cpu += runs[t].cpu_ns;
        live_blocks += runs[t].live_blocks;
    }
    if (!is_floor) {
        at_end.live_blocks = live_blocks;
    }
    double count = (double)o->threads * (double)(o->iterations == 0 ? 1 : o->iterations);
    return (struct figures){sum.wall / count, sum.cpu / count};
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
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, " ITERATIONS SIZE SEED", 3);
    bool ok = worker_parse(argv[optind], 0, UINT64_MAX, &o.iterations) &&
              worker_parse(argv[optind + 1], 1, UINT64_C(1) << 31, &o.size) &&
              worker_parse(argv[optind + 2], 0, UINT64_MAX, &o.seed);
    o.max_size = o.max_size != 0 ? o.max_size : o.size;
    o.min_size = o.min_size != 0 ? o.min_size : o.size / 2 + 1;
    if (!ok || o.min_size > o.max_size) {
        fprintf(stderr, "usage: %s ITERATIONS SIZE SEED, with sizes above 0 and not above 2^31\n",
                program_invocation_short_name);
        return 2;
    }
    struct figures best = {0, 0};
    double floor_ns = 0;
    for (uint64_t i = 0; i < o.repeat; i++) {
        struct figures once = measure(&o, 0);
        double once_floor = measure(&o, 1).wall;
        best.wall = i == 0 || once.wall < best.wall ? once.wall : best.wall;
        best.cpu = i == 0 || once.cpu < best.cpu ? once.cpu : best.cpu;
        floor_ns = i == 0 || once_floor < floor_ns ? once_floor : floor_ns;
    }
    worker_report_allocator();
    printf("ns %.4f\ncpu_ns %.4f\nfloor_ns %.4f\nsuperslabs %ld\nrefills %ld\nlive_blocks %lu\n",
           best.wall, best.cpu, floor_ns, at_end.superslabs, at_end.refills,
           (unsigned long)at_end.live_blocks);
    return 0;
}
