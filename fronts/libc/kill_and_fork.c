// SPDX-License-Identifier: Apache-2.0
// kill_and_fork FLAVOUR forks|signals TIMES SEED: run by tools/kill_and_fork with a flavour
// preloaded.
//
// forks: a process of 16 threads that allocate, resize and free each other's blocks forks at random
// moments. One half of the children check that the blocks that were live at that moment have their
// contents, use blocks of all sizes, run threads and exit. The other half start 16 threads of their
// own, fork a child like those of the first half meanwhile, and are killed by SIGKILL at a random
// moment. Their children, which are orphans then, have to pass the same checks.
//
// signals: the same threads run under a storm of signals. Now and then the process forks. The child
// starts threads and a storm of its own, in which a handler ends the child by _exit(), or forks in
// its turn, in the middle of a call of the allocator.
//
// A process that finds a fault prints it in one line and ends with a status other than 0.
#include "fronts/libc/glibc_malloc.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#pragma weak malloc_trim // libc may not have it: then only the preloaded library does

enum {
    THREADS = 16,
    BOARD = 512,
    ALIVE = 4,       // children at a time
    BATCH = 1000,    // children of one process
    LIMIT_MS = 60000 // for steps that take a few ms
};

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void pause_us(unsigned us) {
    struct timespec rest = {0, (long)us * 1000};
    while (nanosleep(&rest, &rest) != 0) {
    }
}

static unsigned draw(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*seed >> 33);
}

// Prints one line on stderr, and ends the process. Allocates nothing.
static _Noreturn __attribute__((format(printf, 1, 2))) void fail(const char *format, ...) {
    char line[200];
    va_list args;
    va_start(args, format);
    int n = snprintf(line, sizeof line, "kill_and_fork: process %d: ", (int)getpid());
    n += vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
    va_end(args);
    line[n++] = '\n';
    if (write(2, line, (size_t)n) < 0) {
        _exit(4);
    }
    _exit(3);
}

// Set while a handler may end the process, or fork it: during a call of the allocator.
static __thread volatile sig_atomic_t in_call;
static __thread volatile sig_atomic_t has_heap; // the thread has allocated before
static __thread volatile sig_atomic_t forked_in_call;

// The calls change no errno, whatever interrupts them. Its value is one that no system call sets.
enum { ERRNO = 4711 };
#define CALL(expression)                                   \
    do {                                                   \
        errno = ERRNO;                                     \
        in_call = 1;                                       \
        expression;                                        \
        in_call = 0;                                       \
        if (errno != ERRNO) {                              \
            fail("errno is %d after " #expression, errno); \
        }                                                  \
    } while (0)

// --- Blocks

// The start of a block; the block's other bytes are `mark`.
struct block {
    size_t size;
    unsigned char mark;
};

static _Atomic(struct block *) board[BOARD];

static void fill(struct block *block, size_t size, unsigned mark) {
    if (block == NULL) {
        fail("no memory");
    }
    block->size = size;
    block->mark = (unsigned char)mark;
    memset(block + 1, block->mark, size - sizeof *block);
}

static void check(const struct block *block, size_t size) {
    const unsigned char *bytes = (const unsigned char *)(block + 1);
    size_t rest = size - sizeof *block;
    if (rest > 0 && (bytes[0] != block->mark || memcmp(bytes, bytes + 1, rest - 1) != 0)) {
        fail("a block of %zu bytes at %p has changed", block->size, (const void *)block);
    }
}

static size_t random_size(uint64_t *seed) {
    unsigned r = draw(seed);
    size_t most = r % 256 == 0 ? 300000 : r % 16 == 0 ? 9000 : 600;
    return sizeof(struct block) + r / 256 % most;
}

static struct block *allocate(size_t size, uint64_t *seed) {
    void *p = NULL;
    switch (draw(seed) % 8) {
    case 0:
        CALL(p = calloc(size, 1));
        if (p != NULL && (*(char *)p != 0 || memcmp(p, (char *)p + 1, size - 1) != 0)) {
            fail("calloc(%zu) is not zero", size);
        }
        break;
    case 1: {
        size_t align = (size_t)16 << draw(seed) % 13;
        CALL(p = memalign(align, size));
        if ((uintptr_t)p % align != 0) {
            fail("memalign(%zu) is at %p", align, p);
        }
        break;
    }
    default:
        CALL(p = malloc(size));
    }
    fill(p, size, draw(seed));
    return p;
}

static void release(struct block *block) {
    check(block, block->size);
    CALL(free(block));
}

// Allocates a block, exchanges it for one on the board, and resizes or frees that block, which
// another thread may have put there.
static void step(uint64_t *seed) {
    struct block *block = allocate(random_size(seed), seed);
    block = atomic_exchange(&board[draw(seed) % BOARD], block);
    if (block != NULL && draw(seed) % 4 == 0) {
        size_t size = random_size(seed);
        size_t kept = size < block->size ? size : block->size;
        check(block, block->size);
        CALL(block = realloc(block, size));
        if (block != NULL) {
            check(block, kept);
        }
        fill(block, size, draw(seed));
        block = atomic_exchange(&board[draw(seed) % BOARD], block);
    }
    if (block != NULL) {
        release(block);
    }
    if (draw(seed) % 4096 == 0) {
        CALL(malloc_trim(0));
    }
}

static void check_board(void) {
    for (int i = 0; i < BOARD; i++) {
        struct block *block = atomic_load(&board[i]);
        if (block != NULL) {
            check(block, block->size);
        }
    }
}

static void clear_board(void) {
    for (int i = 0; i < BOARD; i++) {
        struct block *block = atomic_exchange(&board[i], NULL);
        if (block != NULL) {
            release(block);
        }
    }
}

static atomic_bool stop;

static void *busy(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    for (unsigned i = 1; !stop; i++) {
        step(&seed);
        if (i % 128 == 0) {
            pause_us(2000); // so that the children get a turn
        }
    }
    return NULL;
}

static pthread_barrier_t all_started;

static void *some_steps(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    step(&seed);
    pthread_barrier_wait(&all_started); // By now each thread has a heap of its own.
    for (int i = 0; i < 30; i++) {
        step(&seed);
    }
    return NULL;
}

static void start(pthread_t *threads, int count, void *(*run)(void *), uint64_t *seed) {
    for (int i = 0; i < count; i++) {
        if (pthread_create(&threads[i], NULL, run, (void *)(uintptr_t)draw(seed)) != 0) {
            fail("no thread");
        }
    }
}

static void join(const pthread_t *threads, int count) {
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
    }
}

// The work of a child. It allocates blocks of all bins and some large ones, none of which may be a
// block that was live at the fork. It runs as many threads as the parent had, which adopt the heaps
// of the parent's threads. Then it frees all blocks. exit() makes the allocator check its caches
// once more.
static _Noreturn void use_all(uint64_t seed) {
    enum { MOST = 256 };
    static struct block *blocks[MOST];
    int count = 0;
    for (size_t size = sizeof(struct block); size < 40000; size += size / 12 + 1) {
        blocks[count++] = allocate(size, &seed);
    }
    blocks[count++] = allocate(100000, &seed);
    blocks[count++] = allocate(1000000, &seed);
    check_board();
    pthread_t threads[THREADS];
    pthread_barrier_init(&all_started, NULL, THREADS);
    start(threads, THREADS, some_steps, &seed);
    for (int i = 0; i < count; i++) {
        release(blocks[i]);
    }
    join(threads, THREADS);
    clear_board();
    if (draw(&seed) % 4 == 0) {
        exit(0);
    }
    malloc_trim(0);
    _exit(0);
}

// --- Children

enum kind { USES, IS_KILLED, ENDS_BY_SIGNAL };

struct child {
    pid_t pid; // 0: none
    enum kind kind;
    uint64_t end_us; // the time at which the child is to be killed, or is late
};

// The counts that the first process prints, written by the processes that see the events.
static struct counts {
    unsigned used, killed, orphans, ended;
    _Atomic unsigned forked_in_call, signals;
} * counts;

static bool ended_well(int status) {
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void judge(const struct child *child, int status) {
    if (child == NULL) {
        counts->orphans += ended_well(status);
    } else if (child->kind == USES) {
        counts->used += ended_well(status);
    } else if (child->kind == ENDS_BY_SIGNAL) {
        counts->ended += ended_well(status);
    } else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
        counts->killed++;
        return;
    }
    if (!ended_well(status)) {
        fail("a %s ended with status %#x",
             child == NULL              ? "grandchild"
             : child->kind == IS_KILLED ? "child to be killed"
                                        : "child",
             (unsigned)status);
    }
}

// Collects children that have ended. Returns false if there is no child left.
static bool collect(struct child *children) {
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0) {
            return pid == 0 || errno != ECHILD;
        }
        struct child *child = NULL;
        for (int i = 0; i < ALIVE; i++) {
            child = children[i].pid == pid ? &children[i] : child;
        }
        judge(child, status);
        if (child != NULL) {
            child->pid = 0;
        }
    }
}

static void kill_who_is_due(struct child *children) {
    for (int i = 0; i < ALIVE; i++) {
        if (children[i].pid == 0 || now_us() < children[i].end_us) {
            continue;
        }
        if (children[i].kind != IS_KILLED) {
            kill(children[i].pid, SIGABRT); // leaves a core, if the system keeps any
            fail("child %d hangs", (int)children[i].pid);
        }
        kill(children[i].pid, SIGKILL);
        children[i].end_us = UINT64_MAX;
    }
}

static _Noreturn void be_killed(uint64_t seed) {
    pthread_t threads[THREADS - 1];
    start(threads, THREADS - 1, busy, &seed);
    unsigned steps = draw(&seed) % 300;
    for (unsigned i = 0;; i++) {
        step(&seed);
        if (i == steps && fork() == 0) {
            use_all(seed);
        }
    }
}

static _Noreturn void end_by_signal(uint64_t seed);

// Runs `times` children while threads are busy.
static void run(bool signals, unsigned times, uint64_t seed) {
    struct child children[ALIVE] = {{0}};
    unsigned started = 0;
    while (started < times) {
        struct child *free_place = NULL;
        for (int i = 0; i < ALIVE; i++) {
            free_place = children[i].pid == 0 ? &children[i] : free_place;
        }
        if (free_place != NULL) {
            started++;
            uint64_t its_seed = seed + started;
            free_place->kind = signals ? ENDS_BY_SIGNAL : started % 2 == 0 ? USES : IS_KILLED;
            free_place->end_us =
                now_us() +
                (free_place->kind == IS_KILLED ? draw(&seed) % 6000 : (uint64_t)LIMIT_MS * 1000);
            free_place->pid = fork();
            if (free_place->pid == 0) {
                if (free_place->kind == USES) {
                    use_all(its_seed);
                } else if (free_place->kind == IS_KILLED) {
                    be_killed(its_seed);
                } else {
                    end_by_signal(its_seed);
                }
            }
            if (free_place->pid < 0) {
                fail("no fork");
            }
        }
        step(&seed);
        kill_who_is_due(children);
        collect(children);
        pause_us(draw(&seed) % 200);
    }
    uint64_t late = now_us() + (uint64_t)LIMIT_MS * 1000;
    while (collect(children)) {
        kill_who_is_due(children);
        if (now_us() > late) {
            fail("a grandchild hangs");
        }
        pause_us(500);
    }
}

// --- Signals

static atomic_int left; // signals in a call until the end; INT32_MAX: no end
static atomic_bool fork_at_end;

static void on_signal(int signal) {
    (void)signal;
    atomic_fetch_add_explicit(&counts->signals, 1, memory_order_relaxed);
    if (!in_call || left == INT32_MAX || atomic_fetch_sub(&left, 1) != 1) {
        return;
    }
    if (fork_at_end && has_heap) {
        // The child goes on with the interrupted call, alone.
        int saved = errno;
        left = INT32_MAX;
        if (fork() == 0) {
            forked_in_call = 1;
            errno = saved;
            return;
        }
    }
    _exit(0);
}

static void handle_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = 0};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
}

static void start_timer(void) {
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 200}, {0, 200}}, NULL);
}

static void *interrupted(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    while (!stop) {
        step(&seed);
        has_heap = 1;
        if (forked_in_call) {
            atomic_fetch_add(&counts->forked_in_call, 1);
            use_all(seed);
        }
    }
    return NULL;
}

static void send(const pthread_t *threads, int count, uint64_t *seed) {
    pthread_kill(threads[draw(seed) % (unsigned)count], SIGUSR1);
}

static _Noreturn void end_by_signal(uint64_t seed) {
    enum { WORKERS = 3 };
    pthread_t threads[WORKERS];
    fork_at_end = draw(&seed) % 4 == 0;
    left = 1 + (int)(draw(&seed) % 8);
    start(threads, WORKERS, interrupted, &seed);
    start_timer();
    for (;;) {
        send(threads, WORKERS, &seed);
        sched_yield();
    }
}

struct storm {
    pthread_t *threads;
    uint64_t seed;
};

static void *storm(void *arg) {
    struct storm *storm = arg;
    while (!stop) {
        send(storm->threads, THREADS, &storm->seed);
        pause_us(100);
    }
    return NULL;
}

// --- The process of many threads

static _Noreturn void batch(bool signals, unsigned times, uint64_t seed) {
    setpgid(0, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pthread_t threads[THREADS];
    pthread_t sender;
    struct storm wind = {threads, seed};
    left = INT32_MAX;
    handle_signals();
    start(threads, THREADS, busy, &seed);
    if (signals) {
        start_timer();
        pthread_create(&sender, NULL, storm, &wind);
    }
    run(signals, times, seed);
    stop = true;
    if (signals) {
        setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
        pthread_join(sender, NULL);
    }
    join(threads, THREADS);
    clear_board();
    exit(0);
}

static volatile pid_t running;

static void end_all(int signal) {
    kill(-running, SIGKILL);
    _exit(128 + signal);
}

// Waits for the process of many threads, and until no process of its group is left.
static int wait_for_batch(pid_t pid) {
    uint64_t late = now_us() + (uint64_t)(LIMIT_MS * 5) * 1000;
    siginfo_t info = {.si_pid = 0};
    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0 &&
           now_us() < late) {
        pause_us(5000);
    }
    kill(-pid, SIGKILL);
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 5 || (strcmp(argv[2], "forks") != 0 && strcmp(argv[2], "signals") != 0)) {
        fail("usage: kill_and_fork FLAVOUR forks|signals TIMES SEED");
    }
    const char *(*flavour)(void) = (const char *(*)(void))dlsym(RTLD_DEFAULT, "hak_flavour");
    if (flavour == NULL || strcmp(flavour(), argv[1]) != 0) {
        fail("%s is not preloaded", argv[1]);
    }
    bool signals = argv[2][0] == 's';
    unsigned times = (unsigned)strtoul(argv[3], NULL, 10);
    uint64_t seed = strtoull(argv[4], NULL, 10);
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t begin = now_us();
    signal(SIGINT, end_all);
    signal(SIGTERM, end_all);
    for (unsigned done = 0; done < times; done += BATCH) {
        pid_t pid = fork();
        if (pid == 0) {
            signal(SIGINT, SIG_DFL);
            signal(SIGTERM, SIG_DFL);
            batch(signals, times - done < BATCH ? times - done : BATCH, seed + done);
        }
        running = pid;
        int status = pid < 0 ? -1 : wait_for_batch(pid);
        if (!ended_well(status)) {
            fail("the process of %d threads ended with status %#x", THREADS, (unsigned)status);
        }
    }
    if (signals) {
        printf("%s: %u children ended by a handler in a call, %u of them forked there before; "
               "%u signals",
               argv[1], counts->ended, counts->forked_in_call, counts->signals);
    } else {
        printf("%s: %u forked children used the heap, %u were killed, %u of their children used "
               "the heap",
               argv[1], counts->used, counts->killed, counts->orphans);
    }
    printf("; none hung or failed; seed %llu, %.0f s\n", (unsigned long long)seed,
           (double)(now_us() - begin) / 1e6);
    return 0;
}
