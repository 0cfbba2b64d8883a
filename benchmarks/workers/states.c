// SPDX-License-Identifier: Apache-2.0
// states STEPS: the cost of malloc and free in one state of the heap. STEPS is a comma-separated
// list that makes the state and says where it is measured:
//
//   fill=MIN:MAX:MIB   allocates blocks of MIN to MAX bytes until there are MIB
//   mixed=MIB          allocates blocks of worker_mixed_size() until there are MIB
//   full=SIZE:MIB      allocates blocks of SIZE bytes until malloc fails; that it doesn't before
//                      there are MIB is an error
//   last=PERCENT       frees the PERCENT % of the blocks that were allocated last
//   keep=N             frees all but one of N blocks, chosen at random
//   page               frees all but one block on each page
//   free               frees all blocks
//   trim               calls malloc_trim(0)
//   gone=N             starts N threads, each of which allocates, frees and ends
//   crowd=N            starts N threads, each of which allocates, frees and waits for ever; fewer
//                      where the machine does not allow as many
//   big=GB             allocates and frees a block of GB * 10^9 bytes, or half of that and so on
//   lock               calls mlockall(); where that is not allowed, the state is skipped
//
//   fork               measures in a child that this process forks
//   thread             measures in a thread that starts now
//   destructor         measures in the last destructor that a thread runs
//   several=N          measures in N threads at a time
//
// Without --timed, prints the CPU time for a pair of malloc and free: `hit_ns` and, later in the
// same process, `hit_again_ns` for one block of 64 B; `miss_ns` for blocks that come and go by the
// thousand, more than a thread's cache keeps; `large_ns` for blocks of 40 KiB to 1 MiB. With
// --timed, every call is timed, those that make the state too, and the distributions of malloc,
// free and realloc are printed.
#include "benchmarks/workers/histogram.h"
#include "benchmarks/workers/worker.h"

#include <fcntl.h>
#include <malloc.h>
#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

static uint64_t percent = 100, window_ms = 200, settle_ms = 600, timed, seed = 42;

// What a thread uses to run and time calls.
enum call { MALLOC, FREE, REALLOC, CALLS };
enum { BATCH = 3000, LARGE_LIVE = 8, LARGE_SIZES = 256 };

struct lane {
    struct histogram calls[CALLS];
    uint64_t random;
    uint64_t call_end; // ticks at the end of the latest timed call; 0: not to be relied on
    uint64_t since;    // timed calls since `cpu_mark`
    double cpu_mark;   // the thread's CPU time, ns
    double hit_ns, hit_again_ns, miss_ns, large_ns;
    void *batch[BATCH];
    void *large[LARGE_LIVE];
};

static double ticks_per_ns;

static void calibrate(void) {
    double begin_ns = worker_now_ns();
    uint64_t begin = __rdtsc();
    while (worker_now_ns() - begin_ns < 5e6) {
    }
    uint64_t end = __rdtsc();
    ticks_per_ns = (double)(end - begin) / (worker_now_ns() - begin_ns);
}

static struct lane *new_lane(uint64_t number) {
    struct lane *lane = worker_map(sizeof *lane);
    lane->random = worker_random_seed(seed + number);
    return lane;
}

// The time of a call is the smaller of two figures. The counter of the processor costs little, but
// has in it what else the machine does. The thread's CPU time has not, but reading it takes longer
// than most calls: it is read only every few calls, and after a call that took long by the counter,
// to which it then charges those few calls as well. Long pauses between calls are not charged.
enum { CALLS_A_MARK = 8, PAUSE_NS = 2000, LONG_NS = 5000 };

static inline uint64_t call_begins(struct lane *lane) {
    uint64_t now = __rdtsc();
    if (++lane->since >= CALLS_A_MARK || (double)(now - lane->call_end) > PAUSE_NS * ticks_per_ns) {
        lane->since = 0;
        lane->cpu_mark = worker_cpu_ns();
        now = __rdtsc();
    }
    return now;
}

static inline void call_ends(struct lane *lane, enum call call, uint64_t begin) {
    uint64_t end = __rdtsc();
    double ns = (double)(end - begin) / ticks_per_ns;
    lane->call_end = end;
    if (ns > LONG_NS) {
        double cpu = worker_cpu_ns() - lane->cpu_mark;
        ns = cpu < ns ? cpu : ns;
        lane->call_end = 0;
    }
    histogram_record(&lane->calls[call], (uint64_t)ns);
}

static inline __attribute__((always_inline)) void *get(struct lane *lane, size_t size, bool time) {
    uint64_t begin = time ? call_begins(lane) : 0;
    void *block = malloc(size);
    if (time) {
        call_ends(lane, MALLOC, begin);
    }
    return block;
}

static inline __attribute__((always_inline)) void give(struct lane *lane, void *block, bool time) {
    uint64_t begin = time ? call_begins(lane) : 0;
    free(block);
    if (time) {
        call_ends(lane, FREE, begin);
    }
}

static void *resize(struct lane *lane, void *block, size_t size) {
    uint64_t begin = call_begins(lane);
    block = worker_check(realloc(block, size));
    call_ends(lane, REALLOC, begin);
    return block;
}

// The loops to be measured. Each runs for about `window` ns of CPU time and returns the time for a
// pair.

static inline __attribute__((always_inline)) double hits(struct lane *lane, double window,
                                                         bool time) {
    enum { PAIRS = 10000 };
    double begin = worker_cpu_ns();
    double end = begin;
    uint64_t pairs = 0;
    do {
        for (int i = 0; i < PAIRS; i++) {
            void *block = worker_check(get(lane, 64, time));
            worker_use(block);
            give(lane, block, time);
        }
        pairs += PAIRS;
        end = worker_cpu_ns();
    } while (end - begin < window);
    return (end - begin) / (double)pairs;
}

static inline __attribute__((always_inline)) double misses(struct lane *lane, double window,
                                                           bool time) {
    static const size_t sizes[] = {64, 200, 1000};
    double begin = worker_cpu_ns();
    double end = begin;
    uint64_t pairs = 0;
    do {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (int i = 0; i < BATCH; i++) {
                lane->batch[i] = worker_check(get(lane, sizes[s], time));
                *(volatile uint64_t *)lane->batch[i] = 1;
            }
            for (int i = 0; i < BATCH; i++) {
                give(lane, lane->batch[i], time);
            }
            pairs += BATCH;
        }
        end = worker_cpu_ns();
    } while (end - begin < window);
    return (end - begin) / (double)pairs;
}

// Sizes that are spread evenly over the doublings from 40 KiB to 1 MiB, in a random order.
static size_t large_size(uint64_t i) {
    static uint32_t sizes[LARGE_SIZES];
    if (sizes[0] == 0) {
        uint64_t state = worker_random_seed(seed);
        for (int k = LARGE_SIZES; k-- > 0;) {
            size_t least = 40960u << worker_below(worker_random(&state), 5);
            size_t size = least + worker_below(worker_random(&state), least);
            __atomic_store_n(&sizes[k], size < 1048576 ? (uint32_t)size : 1048576,
                             __ATOMIC_RELAXED);
        }
    }
    return sizes[i % LARGE_SIZES];
}

static inline __attribute__((always_inline)) double large(struct lane *lane, double window,
                                                          bool time) {
    enum { PAIRS = 64 };
    double begin = worker_cpu_ns();
    double end = begin;
    uint64_t pairs = 0;
    do {
        for (int i = 0; i < PAIRS; i++) {
            uint64_t random = worker_random(&lane->random);
            void **slot = &lane->large[worker_below(random, LARGE_LIVE)];
            if (*slot != NULL) {
                give(lane, *slot, time);
            }
            *slot = worker_check(get(lane, large_size(random >> 32), time));
            *(volatile char *)*slot = 1;
        }
        pairs += PAIRS;
        end = worker_cpu_ns();
    } while (end - begin < window);
    for (int i = 0; i < LARGE_LIVE; i++) {
        if (lane->large[i] != NULL) {
            give(lane, lane->large[i], time);
            lane->large[i] = NULL;
        }
    }
    return (end - begin) / (double)pairs;
}

// Vectors that grow by half up to 4 MiB, and shrink again.
static void resizes(struct lane *lane, double window) {
    enum { MOST = 4 << 20 };
    double begin = worker_cpu_ns();
    do {
        char *block = NULL;
        size_t size = 16;
        for (; size < MOST; size += size / 2) {
            block = resize(lane, block, size);
            *(volatile char *)block = 1;
        }
        for (size /= 2; size >= 16; size /= 2) {
            block = resize(lane, block, size);
        }
        give(lane, block, true);
    } while (worker_cpu_ns() - begin < window);
}

// The blocks that make the state.
static void **live;
static uint64_t live_count, live_capacity;
static struct lane *main_lane;

static void release(uint64_t from) {
    for (uint64_t i = from; i < live_count; i++) {
        timed ? give(main_lane, live[i], true) : free(live[i]);
    }
    live_count = from;
}

// Several lanes do the same thing at a time.
static pthread_barrier_t phase;

static void measure(struct lane *lane) {
    double window = (double)window_ms * 1e6;
    if (!timed) {
        lane->hit_ns = hits(lane, window, false);
        pthread_barrier_wait(&phase);
        lane->miss_ns = misses(lane, window, false);
        pthread_barrier_wait(&phase);
        lane->large_ns = large(lane, window, false);
        pthread_barrier_wait(&phase);
        lane->hit_again_ns = hits(lane, window, false);
        return;
    }
    // At once; when idle memory has come of age; and when all that was live has.
    for (int round = 0; round < 3; round++) {
        hits(lane, window / 4, true);
        misses(lane, window / 2, true);
        large(lane, window / 2, true);
        resizes(lane, window / 4);
        pthread_barrier_wait(&phase);
        if (round == 1 && lane == main_lane) {
            release(0);
        }
        if (round < 2) {
            worker_sleep_ms(settle_ms);
        }
    }
}

static void print_calls(struct lane *const *lanes, uint64_t count) {
    static const char *const names[] = {"malloc", "free", "realloc"};
    for (int call = 0; call < CALLS; call++) {
        double most = 0;
        printf("%s", names[call]);
        for (uint64_t bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
            uint64_t sum = 0;
            for (uint64_t i = 0; i < count; i++) {
                sum += lanes[i]->calls[call].buckets[bucket];
            }
            if (sum != 0) {
                printf(" %lu:%lu", (unsigned long)histogram_ns(bucket), (unsigned long)sum);
            }
        }
        for (uint64_t i = 0; i < count; i++) {
            most = lanes[i]->calls[call].most > most ? lanes[i]->calls[call].most : most;
        }
        printf("\n%s_max_ns %.0f\n", names[call], most);
    }
}

enum { LANES_MOST = 80, GONE_AT_A_TIME = 8 };
static struct lane *lanes[LANES_MOST];
static uint64_t lane_count, first_measured, measured = 1;

static struct lane *add_lane(void) {
    if (lane_count == LANES_MOST) {
        worker_die("too many threads to measure");
    }
    lanes[lane_count] = new_lane(lane_count);
    return lanes[lane_count++];
}

static void print_result(void) {
    if (timed) {
        print_calls(lanes, lane_count);
        return;
    }
    double hit = 0, again = 0, miss = 0, big = 0;
    for (uint64_t i = first_measured; i < first_measured + measured; i++) {
        double share = 1 / (double)measured;
        hit += lanes[i]->hit_ns * share;
        again += lanes[i]->hit_again_ns * share;
        miss += lanes[i]->miss_ns * share;
        big += lanes[i]->large_ns * share;
    }
    printf("hit_ns %.3f\nhit_again_ns %.3f\nmiss_ns %.3f\nlarge_ns %.3f\n", hit, again, miss, big);
}

// Places to measure in.

static void *measuring_thread(void *lane) {
    measure(lane);
    return NULL;
}

static void in_threads(uint64_t count) {
    enum { CORES_WORTH = 4 }; // windows of so many threads in the time of one
    pthread_t ids[LANES_MOST];
    pthread_barrier_init(&phase, NULL, (unsigned)count);
    if (count > CORES_WORTH) {
        window_ms = (window_ms * CORES_WORTH + count - 1) / count;
    }
    first_measured = lane_count;
    measured = count;
    for (uint64_t i = 0; i < count; i++) {
        struct lane *lane = add_lane();
        worker_start(&ids[i], measuring_thread, lane);
    }
    for (uint64_t i = 0; i < count; i++) {
        pthread_join(ids[i], NULL);
    }
}

static void in_main(uint64_t ignored) {
    (void)ignored;
    pthread_barrier_init(&phase, NULL, 1);
    measure(main_lane);
}

static void in_child(uint64_t ignored) {
    (void)ignored;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        in_main(0);
        print_result();
        fflush(stdout);
        _exit(0);
    }
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) {
        worker_die("the forked child failed");
    }
}

static pthread_key_t late_key;
static int destructor_runs;

// Destructors run in up to four rounds, for as long as any sets a value again. In the third, those
// of allocators, which set none, have run.
static void late_destructor(void *lane) {
    if (++destructor_runs < 3) {
        pthread_setspecific(late_key, lane);
    } else {
        measure(lane);
    }
}

static void *ending_thread(void *lane) {
    free(worker_check(malloc(64)));
    pthread_setspecific(late_key, lane);
    return NULL;
}

static void in_destructor(uint64_t ignored) {
    (void)ignored;
    pthread_t id;
    pthread_barrier_init(&phase, NULL, 1);
    if (pthread_key_create(&late_key, late_destructor) != 0) {
        worker_die("cannot create a key");
    }
    first_measured = lane_count;
    worker_start(&id, ending_thread, add_lane());
    pthread_join(id, NULL);
    if (destructor_runs != 3) {
        worker_die("the destructor did not run");
    }
}

static void (*place)(uint64_t) = in_main;
static uint64_t place_argument = 1;

// Steps.

static uint64_t share(uint64_t amount) {
    return amount * percent / 100 != 0 ? amount * percent / 100 : 1;
}

// Room for the blocks of one step; the pages of it that are not needed are never touched.
static void make_room(uint64_t mib, uint64_t least) {
    if (live != NULL) {
        worker_die("a state has one step that allocates");
    }
    live_capacity = (mib << 20) / least + 1;
    live = mmap(NULL, live_capacity * sizeof *live, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (live == MAP_FAILED) {
        worker_die("cannot map memory for the workload itself");
    }
}

static bool add_block(size_t size) {
    void *block = timed ? get(main_lane, size, true) : malloc(size);
    if (block != NULL) {
        *(volatile uint64_t *)block = live_count;
        live[live_count++] = block;
    }
    return block != NULL;
}

static void step_fill(const uint64_t *arguments) {
    uint64_t min = arguments[0], max = arguments[1], mib = share(arguments[2]);
    make_room(mib, min);
    for (uint64_t bytes = 0; bytes < mib << 20 && live_count < live_capacity;) {
        size_t size = min + worker_below(worker_random(&main_lane->random), max - min + 1);
        if (!add_block(size)) {
            worker_die("out of memory");
        }
        bytes += size;
    }
}

static void step_mixed(const uint64_t *arguments) {
    uint64_t mib = share(arguments[0]);
    make_room(mib, 16);
    for (uint64_t bytes = 0; bytes < mib << 20;) {
        size_t size = worker_mixed_size(worker_random(&main_lane->random));
        if (!add_block(size)) {
            worker_die("out of memory");
        }
        bytes += size;
    }
}

static void step_full(const uint64_t *arguments) {
    make_room(arguments[1], arguments[0]);
    while (add_block(arguments[0])) {
        if (live_count == live_capacity) {
            worker_die("there is no limit");
        }
    }
}

static void step_last(const uint64_t *arguments) {
    release(live_count - live_count * arguments[0] / 100);
}

static void keep_where(bool (*chosen)(void *block, uint64_t n), uint64_t n) {
    uint64_t kept = 0;
    for (uint64_t i = 0; i < live_count; i++) {
        if (chosen(live[i], n)) {
            live[kept++] = live[i];
        } else {
            timed ? give(main_lane, live[i], true) : free(live[i]);
        }
    }
    live_count = kept;
}

static bool at_random(void *block, uint64_t n) {
    (void)block;
    return worker_below(worker_random(&main_lane->random), n) == 0;
}

static void step_keep(const uint64_t *arguments) {
    keep_where(at_random, arguments[0]);
}

// The numbers of the pages that have a block already; open addressing.
static uint64_t *pages, page_places;

static bool first_on_page(void *block, uint64_t ignored) {
    (void)ignored;
    uint64_t page = (uint64_t)(uintptr_t)block >> 12;
    uint64_t at = page * 0x9e3779b97f4a7c15u >> 20;
    for (;; at++) {
        uint64_t *known = &pages[at & (page_places - 1)];
        if (*known == page) {
            return false;
        }
        if (*known == 0) {
            *known = page;
            return true;
        }
    }
}

static void step_page(const uint64_t *arguments) {
    (void)arguments;
    for (page_places = 1; page_places < 2 * live_count; page_places *= 2) {
    }
    pages = worker_map(page_places * sizeof *pages);
    keep_where(first_on_page, 0);
    munmap(pages, page_places * sizeof *pages);
}

static void step_free(const uint64_t *arguments) {
    (void)arguments;
    release(0);
}

static void step_trim(const uint64_t *arguments) {
    (void)arguments;
    malloc_trim(0);
}

// What a short thread of a program does.
static void use_a_little(struct lane *lane) {
    void *blocks[20];
    for (int i = 0; i < 20; i++) {
        size_t size = worker_mixed_size(worker_random(&lane->random));
        blocks[i] = worker_check(timed ? get(lane, size, true) : malloc(size));
        *(volatile char *)blocks[i] = 1;
    }
    for (int i = 0; i < 20; i++) {
        timed ? give(lane, blocks[i], true) : free(blocks[i]);
    }
}

static void *short_thread(void *arg) {
    struct lane *lane = arg;
    lane->call_end = 0;
    use_a_little(lane);
    return NULL;
}

enum { STACK = 65536 };

static void step_gone(const uint64_t *arguments) {
    struct lane *at_a_time[GONE_AT_A_TIME];
    pthread_t ids[GONE_AT_A_TIME];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK);
    for (int i = 0; i < GONE_AT_A_TIME; i++) {
        at_a_time[i] = add_lane();
    }
    for (uint64_t done = 0; done < share(arguments[0]); done += GONE_AT_A_TIME) {
        for (int i = 0; i < GONE_AT_A_TIME; i++) {
            if (pthread_create(&ids[i], &small, short_thread, at_a_time[i]) != 0) {
                worker_die("cannot start a thread");
            }
        }
        for (int i = 0; i < GONE_AT_A_TIME; i++) {
            pthread_join(ids[i], NULL);
        }
    }
}

static uint64_t number_in(const char *file, const char *after) {
    char buffer[512];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    close(fd);
    if (length <= 0) {
        worker_die("cannot read /proc");
    }
    buffer[length] = '\0';
    const char *at = strstr(buffer, after);
    return at == NULL ? 0 : strtoull(at + strlen(after), NULL, 10);
}

// As many as leave the rest of the machine some threads to start.
static uint64_t crowd_of(uint64_t wanted) {
    enum { SPARE = 2000 };
    uint64_t most = number_in("/proc/sys/kernel/pid_max", "");
    uint64_t threads_most = number_in("/proc/sys/kernel/threads-max", "");
    uint64_t used = number_in("/proc/loadavg", "/") + SPARE;
    most = most < threads_most ? most : threads_most;
    return most < used ? 0 : wanted < most - used ? wanted : most - used;
}

// Whether a third of the memory is left: some allocators take most of a MiB for each thread.
static bool memory_left(void) {
    return number_in("/proc/meminfo", "MemAvailable:") >
           number_in("/proc/meminfo", "MemTotal:") / 3;
}

static sem_t has_used, for_ever;

static void *waiting_thread(void *arg) {
    struct lane *lane = arg;
    lane->call_end = 0;
    use_a_little(lane);
    sem_post(&has_used);
    while (sem_wait(&for_ever) != 0) {
    }
    return NULL;
}

static void step_crowd(const uint64_t *arguments) {
    uint64_t count = crowd_of(share(arguments[0]));
    struct lane *lane = add_lane();
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    sem_init(&has_used, 0, 0);
    sem_init(&for_ever, 0, 0);
    // Stacks side by side in one mapping: vm.max_map_count allows about twice as many mappings as
    // there are threads.
    char *stacks = mmap(NULL, count * STACK + 1, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint64_t started = 0;
    pthread_t id;
    while (stacks != MAP_FAILED && started < count && (started % 256 != 0 || memory_left()) &&
           pthread_attr_setstack(&attributes, stacks + started * STACK, STACK) == 0 &&
           pthread_create(&id, &attributes, waiting_thread, lane) == 0) {
        while (sem_wait(&has_used) != 0) {
        }
        started++;
    }
    printf("threads %lu\n", (unsigned long)started);
}

static void step_big(const uint64_t *arguments) {
    for (uint64_t bytes = arguments[0] * 1000000000; bytes != 0; bytes /= 2) {
        void *block = malloc(bytes);
        worker_use(block);
        if (block != NULL) {
            printf("granted_gb %.0f\n", (double)bytes / 1e9);
            *(volatile char *)block = 1;
            free(block);
            return;
        }
    }
}

// With an ordinary user's limit mlockall() succeeds, and all that is mapped later is refused.
static void step_lock(const uint64_t *arguments) {
    (void)arguments;
    size_t wanted = (size_t)256 << 20;
    void *map = MAP_FAILED;
    if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) {
        map = mmap(NULL, wanted, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (map == MAP_FAILED) {
        printf("skip not allowed to lock memory: %s\n", strerror(errno));
        worker_report_allocator();
        exit(0);
    }
    munmap(map, wanted);
}

static const struct {
    const char *name;
    unsigned arguments;
    void (*step)(const uint64_t *arguments);
    void (*place)(uint64_t argument);
} steps[] = {
    {"fill", 3, step_fill, NULL},     {"mixed", 1, step_mixed, NULL},
    {"full", 2, step_full, NULL},     {"last", 1, step_last, NULL},
    {"keep", 1, step_keep, NULL},     {"page", 0, step_page, NULL},
    {"free", 0, step_free, NULL},     {"trim", 0, step_trim, NULL},
    {"gone", 1, step_gone, NULL},     {"crowd", 1, step_crowd, NULL},
    {"big", 1, step_big, NULL},       {"lock", 0, step_lock, NULL},
    {"fork", 0, NULL, in_child},      {"thread", 0, NULL, in_threads},
    {"several", 1, NULL, in_threads}, {"destructor", 0, NULL, in_destructor},
};

// NAME, or NAME=NUMBER:NUMBER...
static void take_step(char *text) {
    uint64_t arguments[3] = {1, 0, 0};
    unsigned count = 0;
    char *equals = strchr(text, '=');
    char *rest = equals == NULL ? NULL : equals + 1;
    if (equals != NULL) {
        *equals = '\0';
    }
    for (char *number; rest != NULL && (number = strsep(&rest, ":")) != NULL; count++) {
        if (count == 3 || !worker_parse(number, 1, 1u << 30, &arguments[count])) {
            worker_die("a step's argument is not a number");
        }
    }
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (strcmp(text, steps[i].name) == 0 && steps[i].arguments == count) {
            if (steps[i].step != NULL) {
                steps[i].step(arguments);
            } else {
                place = steps[i].place;
                place_argument = arguments[0];
            }
            return;
        }
    }
    worker_die("no such step");
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"percent", 1, 100, &percent},        {"window-ms", 1, 100000, &window_ms},
        {"settle-ms", 0, 100000, &settle_ms}, {"timed", 0, 1, &timed},
        {"seed", 0, UINT64_MAX, &seed},       {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, " STEPS", 1);
    static char buffer[1 << 20];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    calibrate();
    large_size(0);
    main_lane = add_lane();
    char *rest = argv[optind];
    for (char *step; (step = strsep(&rest, ",")) != NULL;) {
        if (*step != '\0') {
            take_step(step);
        }
    }
    place(place_argument);
    if (place != in_child) {
        print_result();
    }
    printf("live_blocks %lu\n", (unsigned long)live_count);
    worker_report_allocator();
    return 0;
}
