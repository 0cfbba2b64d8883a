// SPDX-License-Identifier: Apache-2.0
// memory SCENARIO: what an allocator holds, and for how long. Prints "KEY VALUE" lines, and lines
// "rss SECONDS KIB" where a scenario is watched over time.
//
//   peak       4 threads fill 1.7 GiB, free 95 % at random, are nearly idle, free the rest
//   queue      a thread allocates, another frees, with a bounded queue between them
//   sequence   many short threads, one after the other
//   idle       many threads at once that have used 256 sizes and then wait
//   latency    each single malloc and free is timed while heaps grow, shrink and are purged
//   fork       a tree of children of a process whose 16 threads are busy
//   limit      allocates to the limit of the process, frees, and does so again
#include "benchmarks/workers/histogram.h"
#include "benchmarks/workers/worker.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t threads = 4, megabytes = 1740, seconds = 60, count = 100000, seed = 42;
static uint64_t settle_ms = 2000;

// The number after `key` in a file of /proc/self, without stdio, which would allocate.
static uint64_t proc_kib(const char *file, const char *key) {
    static char buffer[8192];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    close(fd);
    if (length <= 0) {
        worker_die("cannot read /proc/self");
    }
    buffer[length] = '\0';
    const char *at = strstr(buffer, key);
    return at == NULL ? 0 : strtoull(at + strlen(key), NULL, 10);
}

// smaps_rollup counts pages; the counters of statm lag behind by some for each processor.
static uint64_t rss_kib(void) {
    return proc_kib("/proc/self/smaps_rollup", "\nRss:");
}

static double watch_begin;

static uint64_t watch(void) {
    uint64_t kib = rss_kib();
    printf("rss %.3f %lu\n", (worker_now_ns() - watch_begin) / 1e9, (unsigned long)kib);
    return kib;
}

// The stages of `peak`, which the main thread steps through and the others follow.
struct peak_thread {
    void **blocks;
    size_t *sizes;
    uint64_t capacity, live_bytes;
    uint64_t seed;
};

enum stage { FILL, THIN, QUIET, CLEAR, QUIET_AGAIN, END };
static pthread_barrier_t stage_begins, stage_ends;
static atomic_bool quiet_over;

// A few mallocs now and then, as an idle server has them.
static void be_quiet(uint64_t *state) {
    while (!atomic_load(&quiet_over)) {
        void *few[8];
        for (int i = 0; i < 8; i++) {
            few[i] = worker_check(malloc(worker_mixed_size(worker_random(state))));
            *(char *)few[i] = 1;
        }
        for (int i = 0; i < 8; i++) {
            free(few[i]);
        }
        worker_sleep_ms(50);
    }
}

static void *peak_thread(void *arg) {
    struct peak_thread *thread = arg;
    uint64_t state = worker_random_seed(thread->seed);
    uint64_t share = (megabytes << 20) / threads;
    for (int stage = FILL; stage != END; stage++) {
        pthread_barrier_wait(&stage_begins);
        switch (stage) {
        case FILL:
            for (uint64_t i = 0; i < thread->capacity && thread->live_bytes < share; i++) {
                size_t size = worker_mixed_size(worker_random(&state));
                thread->blocks[i] = worker_check(malloc(size));
                memset(thread->blocks[i], 1, size);
                thread->sizes[i] = size;
                thread->live_bytes += size;
            }
            break;
        case THIN:
            for (uint64_t i = 0; i < thread->capacity; i++) {
                if (thread->blocks[i] != NULL && worker_below(worker_random(&state), 100) < 95) {
                    free(thread->blocks[i]);
                    thread->blocks[i] = NULL;
                    thread->live_bytes -= thread->sizes[i];
                }
            }
            break;
        case CLEAR:
            for (uint64_t i = 0; i < thread->capacity; i++) {
                free(thread->blocks[i]);
            }
            thread->live_bytes = 0;
            break;
        default:
            be_quiet(&state);
            break;
        }
        pthread_barrier_wait(&stage_ends);
    }
    return NULL;
}

static uint64_t live_kib(const struct peak_thread *all) {
    uint64_t bytes = 0;
    for (uint64_t t = 0; t < threads; t++) {
        bytes += all[t].live_bytes;
    }
    return bytes >> 10;
}

static void peak(void) {
    enum { MOST = 64 };
    static struct peak_thread all[MOST];
    pthread_t ids[MOST];
    for (uint64_t t = 0; t < threads; t++) {
        // Sizes are about 1 KiB on average. Touched now, so as not to count as growth later.
        uint64_t capacity = (megabytes << 20) / threads / 700;
        all[t] = (struct peak_thread){.capacity = capacity, .seed = seed + t};
        all[t].blocks = worker_map(capacity * sizeof(void *));
        all[t].sizes = worker_map(capacity * sizeof(size_t));
        for (uint64_t i = 0; i < capacity; i += 512) {
            *(void *volatile *)&all[t].blocks[i] = NULL;
            *(volatile size_t *)&all[t].sizes[i] = 0;
        }
    }
    pthread_barrier_init(&stage_begins, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&stage_ends, NULL, (unsigned)threads + 1);
    for (uint64_t t = 0; t < threads; t++) {
        worker_start(&ids[t], peak_thread, &all[t]);
    }
    worker_sleep_ms(100);
    uint64_t start = rss_kib();
    watch_begin = worker_now_ns();
    printf("start_kib %lu\n", (unsigned long)start);
    for (int stage = FILL; stage != END; stage++) {
        bool quiet = stage == QUIET || stage == QUIET_AGAIN;
        atomic_store(&quiet_over, false);
        pthread_barrier_wait(&stage_begins);
        for (uint64_t ms = 0; quiet && ms < settle_ms; ms += 100) {
            worker_sleep_ms(100);
            watch();
        }
        // What is there 2 s after the stage before, while the threads are still at it.
        uint64_t kib = quiet ? rss_kib() : 0;
        atomic_store(&quiet_over, true);
        pthread_barrier_wait(&stage_ends);
        kib = quiet ? kib : watch();
        static const char *const names[] = {"full", "thinned", "quiet", "cleared", "end"};
        printf("%s_kib %lu\n", names[stage], (unsigned long)(kib - start));
        if (stage == FILL || stage == THIN) {
            printf("%s_live_kib %lu\n", names[stage], (unsigned long)live_kib(all));
        }
    }
    for (uint64_t t = 0; t < threads; t++) {
        pthread_join(ids[t], NULL);
    }
}

// The queue between producer and consumer; its blocks are all that is live.
enum { RING = 1 << 14 };
static void *_Atomic ring[RING];
static atomic_bool stop;
static atomic_ulong produced_bytes, live_bytes, most_live;
static size_t ring_sizes[RING];

static void *produce(void *arg) {
    (void)arg;
    uint64_t state = worker_random_seed(seed);
    for (uint64_t i = 0; !atomic_load_explicit(&stop, memory_order_relaxed); i++) {
        size_t size = worker_mixed_size(worker_random(&state));
        char *block = worker_check(malloc(size));
        memset(block, 1, size);
        while (atomic_load_explicit(&ring[i % RING], memory_order_acquire) != NULL) {
            if (atomic_load_explicit(&stop, memory_order_relaxed)) {
                free(block);
                return NULL;
            }
            sched_yield();
        }
        ring_sizes[i % RING] = size;
        unsigned long live = atomic_fetch_add(&live_bytes, size) + size;
        if (live > atomic_load_explicit(&most_live, memory_order_relaxed)) {
            atomic_store(&most_live, live);
        }
        atomic_fetch_add_explicit(&produced_bytes, size, memory_order_relaxed);
        atomic_store_explicit(&ring[i % RING], block, memory_order_release);
    }
    return NULL;
}

static void *consume(void *arg) {
    (void)arg;
    // Half a ring behind, so that blocks live for a while.
    for (uint64_t i = 0; !atomic_load_explicit(&stop, memory_order_relaxed);) {
        if (atomic_load_explicit(&ring[(i + RING / 2) % RING], memory_order_acquire) == NULL) {
            sched_yield();
            continue;
        }
        void *block = atomic_load_explicit(&ring[i % RING], memory_order_acquire);
        if (block != NULL) {
            atomic_fetch_sub(&live_bytes, ring_sizes[i % RING]);
            atomic_store_explicit(&ring[i % RING], NULL, memory_order_release);
            free(block);
        }
        i++;
    }
    return NULL;
}

static void queue(void) {
    pthread_t producer, consumer;
    memset(ring_sizes, 0, sizeof ring_sizes);
    for (int i = 0; i < RING; i++) {
        atomic_store(&ring[i], NULL);
    }
    uint64_t start = rss_kib();
    watch_begin = worker_now_ns();
    worker_start(&producer, produce, NULL);
    worker_start(&consumer, consume, NULL);
    uint64_t most = 0, early = 0, last = 0;
    uint64_t steps = seconds * 10;
    for (uint64_t i = 1; i <= steps; i++) {
        worker_sleep_ms(100);
        last = watch() - start;
        most = last > most ? last : most;
        if (i <= steps / 10) {
            early = last > early ? last : early;
        }
    }
    atomic_store(&stop, true);
    pthread_join(producer, NULL);
    pthread_join(consumer, NULL);
    printf("early_kib %lu\nlast_kib %lu\nmost_kib %lu\nmost_live_kib %lu\nproduced_mib %lu\n",
           (unsigned long)early, (unsigned long)last, (unsigned long)most,
           atomic_load(&most_live) >> 10, atomic_load(&produced_bytes) >> 20);
}

// A short thread: some blocks of its own, and some that it leaves to the main thread to free.
enum { LEFT = 16 };

static void *short_thread(void *arg) {
    void **left = arg;
    uint64_t state = worker_random_seed((uintptr_t)left[0]);
    for (int i = 0; i < 64; i++) {
        void *block = worker_check(malloc(16 + worker_below(worker_random(&state), 2000)));
        *(char *)block = 1;
        if (i < LEFT) {
            left[i] = block;
        } else {
            free(block);
        }
    }
    return NULL;
}

static void sequence(void) {
    uint64_t start = rss_kib();
    uint64_t early = 0;
    watch_begin = worker_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        void *left[LEFT] = {(void *)(uintptr_t)(seed + i)};
        pthread_t thread;
        worker_start(&thread, short_thread, left);
        pthread_join(thread, NULL);
        for (int k = 0; k < LEFT; k++) {
            free(left[k]);
        }
        if (i == count / 100) {
            early = rss_kib();
        }
        if (i % (count / 100 + 1) == 0) {
            watch();
        }
    }
    uint64_t end = rss_kib();
    printf("grown_kib %ld\ngrown_after_first_hundredth_kib %ld\n", (long)(end - start),
           (long)(end - early));
}

static void *idle_thread(void *arg) {
    (void)arg;
    // Twice at the barriers: the stack and the thread itself are there before anything is counted.
    char stack[4096];
    worker_use(stack);
    pthread_barrier_wait(&stage_begins);
    pthread_barrier_wait(&stage_begins);
    for (size_t i = 1; i <= 256; i++) {
        // 16 B to 2 KiB in steps of 16, then to 32 KiB in steps of 240.
        size_t size = i <= 128 ? 16 * i : 2048 + 240 * (i - 128);
        char *block = worker_check(malloc(size));
        block[0] = block[size - 1] = 1;
        worker_use(block);
        free(block);
    }
    pthread_barrier_wait(&stage_ends);
    pthread_barrier_wait(&stage_ends);
    return NULL;
}

static void idle(void) {
    pthread_t *ids = worker_map(count * sizeof *ids);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 << 10);
    pthread_barrier_init(&stage_begins, NULL, (unsigned)count + 1);
    pthread_barrier_init(&stage_ends, NULL, (unsigned)count + 1);
    for (uint64_t i = 0; i < count; i++) {
        if (pthread_create(&ids[i], &small, idle_thread, NULL) != 0) {
            worker_die("cannot start a thread");
        }
    }
    pthread_barrier_wait(&stage_begins);
    worker_sleep_ms(200);
    double before = (double)rss_kib();
    pthread_barrier_wait(&stage_begins);
    pthread_barrier_wait(&stage_ends);
    double touched = (double)rss_kib();
    worker_sleep_ms(settle_ms);
    double later = (double)rss_kib();
    printf("thread_kib %.2f\nthread_later_kib %.2f\n", (touched - before) / (double)count,
           (later - before) / (double)count);
    pthread_barrier_wait(&stage_ends);
    for (uint64_t i = 0; i < count; i++) {
        pthread_join(ids[i], NULL);
    }
}

static void print_histogram(const char *name, const struct histogram *histogram) {
    static const double quantiles[] = {0.5, 0.99, 0.9999};
    static const char *const names[] = {"p50", "p99", "p99.99"};
    uint64_t seen = 0;
    uint64_t bucket = 0;
    for (int q = 0; q < 3; q++) {
        double rank = quantiles[q] * (double)histogram->total;
        while (bucket < HISTOGRAM_BUCKETS && (double)(seen + histogram->buckets[bucket]) < rank) {
            seen += histogram->buckets[bucket++];
        }
        printf("%s_%s_ns %lu\n", name, names[q], (unsigned long)histogram_ns(bucket));
    }
    printf("%s_max_ns %.0f\n", name, histogram->most);
}

// The thread's own time has only what the call itself did, in the program and in the kernel: what
// else the machine does is not in it. The other clock has the waiting too.
static struct histogram malloc_wall, malloc_cpu, free_wall, free_cpu;

static void *timed_malloc(size_t size) {
    double cpu = worker_cpu_ns();
    double wall = worker_now_ns();
    void *block = malloc(size);
    histogram_record(&malloc_wall, (uint64_t)(worker_now_ns() - wall));
    histogram_record(&malloc_cpu, (uint64_t)(worker_cpu_ns() - cpu));
    return worker_check(block);
}

static void timed_free(void *block) {
    double cpu = worker_cpu_ns();
    double wall = worker_now_ns();
    free(block);
    histogram_record(&free_wall, (uint64_t)(worker_now_ns() - wall));
    histogram_record(&free_cpu, (uint64_t)(worker_cpu_ns() - cpu));
}

static void latency(void) {
    uint64_t capacity = (megabytes << 20) / 512;
    void **blocks = worker_map(capacity * sizeof *blocks);
    uint64_t state = worker_random_seed(seed);
    double end = worker_now_ns() + (double)seconds * 1e9;
    while (worker_now_ns() < end) {
        uint64_t bytes = 0;
        uint64_t n = 0;
        while (n < capacity && bytes < megabytes << 20) {
            size_t size = worker_mixed_size(worker_random(&state));
            char *block = timed_malloc(size);
            for (size_t k = 0; k < size; k += 4096) {
                block[k] = 1;
            }
            blocks[n++] = block;
            bytes += size;
        }
        for (uint64_t i = n; i > 0; i--) {
            uint64_t at = worker_below(worker_random(&state), i);
            void *block = blocks[at];
            blocks[at] = blocks[i - 1];
            timed_free(block);
        }
        // Free pages come of age, and whoever allocates next may have to give them back.
        worker_sleep_ms(600);
        for (int i = 0; i < 20000; i++) {
            char *block = timed_malloc(worker_mixed_size(worker_random(&state)));
            *(volatile char *)block = 1;
            timed_free(block);
        }
    }
    print_histogram("malloc", &malloc_wall);
    print_histogram("malloc_cpu", &malloc_cpu);
    print_histogram("free", &free_wall);
    print_histogram("free_cpu", &free_cpu);
    printf("operations %lu\n", (unsigned long)(malloc_wall.total + free_wall.total));
}

static void *busy_thread(void *arg) {
    uint64_t state = worker_random_seed(seed + (uintptr_t)arg);
    void *blocks[64] = {NULL};
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        uint64_t random = worker_random(&state);
        void **slot = &blocks[worker_below(random, 64)];
        free(*slot);
        *slot = worker_check(malloc(worker_mixed_size(worker_random(&state))));
        *(char *)*slot = 1;
    }
    for (int i = 0; i < 64; i++) {
        free(blocks[i]);
    }
    return NULL;
}

// In a forked child: allocates and frees, and on the upper levels forks two more. Never returns.
static void be_child(int depth) __attribute__((noreturn));
static void be_child(int depth) {
    uint64_t state = worker_random_seed((uint64_t)getpid());
    for (int i = 0; i < 1000; i++) {
        size_t size = worker_mixed_size(worker_random(&state));
        char *block = malloc(size);
        if (block == NULL) {
            _exit(1);
        }
        memset(block, 1, size);
        free(block);
    }
    pid_t children[2];
    for (int i = 0; depth > 0 && i < 2; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            be_child(depth - 1);
        }
    }
    for (int i = 0; depth > 0 && i < 2; i++) {
        int status = 1;
        if (children[i] < 0 || waitpid(children[i], &status, 0) < 0 || status != 0) {
            _exit(2);
        }
    }
    _exit(0);
}

static void forks(void) {
    // A tree of 7 processes each: the child, its two, and theirs.
    enum { BUSY = 16, TREE = 7, DEPTH = 2 };
    pthread_t ids[BUSY];
    for (uintptr_t t = 0; t < BUSY; t++) {
        worker_start(&ids[t], busy_thread, (void *)t);
    }
    uint64_t done = 0, failed = 0, hung = 0;
    double begin = worker_now_ns();
    while ((done + failed + hung) * TREE < count) {
        pid_t child = fork();
        if (child < 0) {
            worker_die("cannot fork");
        }
        if (child == 0) {
            setpgid(0, 0);
            be_child(DEPTH);
        }
        int status = 0;
        pid_t ended = 0;
        for (int ms = 0; ended == 0 && ms < 20000; ms++) {
            worker_sleep_ms(1);
            ended = waitpid(child, &status, WNOHANG);
        }
        if (ended == 0) {
            kill(-child, SIGKILL);
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            hung++;
        } else if (status != 0) {
            failed++;
        } else {
            done++;
        }
    }
    double took = (worker_now_ns() - begin) / 1e9;
    atomic_store(&stop, true);
    for (int t = 0; t < BUSY; t++) {
        pthread_join(ids[t], NULL);
    }
    printf("children %lu\ntrees_failed %lu\ntrees_hung %lu\nseconds %.2f\n",
           (unsigned long)(done * TREE), (unsigned long)failed, (unsigned long)hung, took);
}

// Allocates until there is no more, or 2 GiB; returns the bytes, and their blocks in a list.
static uint64_t fill(void **list, uint64_t *state) {
    uint64_t bytes = 0;
    *list = NULL;
    while (bytes < (uint64_t)2 << 30) {
        size_t size = worker_mixed_size(worker_random(state));
        void **block = malloc(size);
        if (block == NULL) {
            if (errno != ENOMEM) {
                worker_die("NULL without ENOMEM");
            }
            break;
        }
        *block = *list;
        *list = block;
        bytes += size;
    }
    return bytes;
}

static void release(void *list) {
    while (list != NULL) {
        void *next = *(void **)list;
        free(list);
        list = next;
    }
}

static void limit(void) {
    uint64_t state = worker_random_seed(seed);
    uint64_t got[2];
    for (int i = 0; i < 2; i++) {
        void *list;
        got[i] = fill(&list, &state);
        release(list);
    }
    // And it goes on: a large block from what the small ones have left.
    void *large = malloc(16u << 20);
    printf("first_mib %lu\nsecond_mib %lu\nlarge_afterwards %d\n", (unsigned long)(got[0] >> 20),
           (unsigned long)(got[1] >> 20), large != NULL);
    free(large);
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"threads", 1, 64, &threads},
        {"megabytes", 1, 1u << 20, &megabytes},
        {"seconds", 1, 86400, &seconds},
        {"count", 1, 1u << 24, &count},
        {"settle-ms", 100, 100000, &settle_ms},
        {"seed", 0, UINT64_MAX, &seed},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, " SCENARIO", 1);
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {
        {"peak", peak},       {"queue", queue}, {"sequence", sequence}, {"idle", idle},
        {"latency", latency}, {"fork", forks},  {"limit", limit},
    };
    // The lines are printed as they come; their buffer is not to be the allocator's.
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strcmp(argv[optind], scenarios[i].name) == 0) {
            scenarios[i].run();
            worker_report_allocator();
            return 0;
        }
    }
    worker_die("no such scenario");
}
