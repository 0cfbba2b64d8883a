// SPDX-License-Identifier: Apache-2.0
// Measures how much stack each entry point takes, and tries whether that fits on small stacks. Runs
// with a flavour preloaded; without one it measures libc's own malloc.
//
//   measure     prints a line for each call, "NAME BYTES": the most stack that any of many calls
//               took, found by painting the stack below the call. The heap goes through all states
//               that a call can find: empty, growing, full caches, other sizes, idle memory.
//   thread OP   call OP on a thread of 16 KiB, of which 4 KiB are taken
//   signal OP   call OP in a handler on a signal stack of 4 KiB, with an unmapped page below it
//   start KIB LIBRARY
//               start again with LIBRARY preloaded ("": none) and a first stack of KIB
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { DEEPEST = 12 << 10, STACK = 256 << 10, PAINT = 0x5a, PAGE = 4096 };

static FILE *null;
static void *blocks[40000];
static long count;

static void op_malloc(long n) {
    blocks[count++] = malloc((size_t)n);
}
static void op_free(long i) {
    free(blocks[i]);
}
static void op_realloc(long n) {
    blocks[0] = realloc(blocks[0], (size_t)n);
}
static void op_calloc(long n) {
    blocks[count++] = calloc(1, (size_t)n);
}
static void op_memalign(long n) {
    if (posix_memalign(&blocks[count++], 64, (size_t)n) != 0) {
        abort();
    }
}
static void op_usable(long i) {
    malloc_usable_size(blocks[i]);
}
static void op_trim(long pad) {
    malloc_trim((size_t)pad);
}
static void op_mallinfo(long n) {
    (void)n;
    volatile struct mallinfo2 info = mallinfo2();
    (void)info;
}
static void op_stats(long n) {
    (void)n;
    malloc_stats();
}
static void op_info(long n) {
    (void)n;
    malloc_info(0, null);
}

static __attribute__((noinline)) size_t depth_of(void (*op)(long), long argument) {
    char *sp;
    __asm__ volatile("mov %%rsp, %0" : "=r"(sp) : : "memory");
    volatile char *low = sp - DEEPEST;
    for (volatile char *p = low; p < sp; p++) {
        *p = PAINT;
    }
    op(argument);
    volatile char *p = low;
    while (p < sp && *p == PAINT) {
        p++;
    }
    return (size_t)((volatile char *)sp - p);
}

static struct {
    const char *name;
    size_t most;
} results[16];
static int names;

static void measure(const char *name, void (*op)(long), long argument) {
    int i = 0;
    while (i < names && strcmp(results[i].name, name) != 0) {
        i++;
    }
    names += i == names;
    results[i].name = name;
    size_t depth = depth_of(op, argument);
    results[i].most = depth > results[i].most ? depth : results[i].most;
}

static void pause_ms(long ms) {
    nanosleep(&(struct timespec){0, ms * 1000000}, NULL);
}

static void free_all(void) {
    for (long i = 0; i < count; i++) {
        long j = (long)((unsigned long)i * 7919 % (unsigned long)count);
        measure("free", op_free, j);
        blocks[j] = NULL;
    }
    count = 0;
}

static void *measure_all(void *arg) {
    measure("malloc", op_malloc, 100); // the thread's first call
    for (long i = 0; i < 6000; i++) {
        measure("malloc", op_malloc, 1 + i * 7 % 1000);
    }
    for (long i = 0; i < 3000; i++) {
        measure("malloc", op_malloc, 1000 + i * 97 % 31700);
    }
    for (long i = 0; i < 300; i++) {
        measure("malloc", op_malloc, 33000 + i * 9973 % 3000000);
    }
    free_all();
    for (long i = 0; i < 200; i++) { // once more, with pages and caches as the first time left them
        measure("malloc", op_malloc, 1 + i * 997 % 90000);
    }
    free_all();
    for (int times = 0; times < 4; times++) { // phases: caches become as deep as they get
        for (long i = 0; i < 3000; i++) {
            op_malloc(200);
        }
        for (long i = 0; i < 3000; i++) {
            measure("free", op_free, i);
        }
        count = 0;
    }
    for (long i = 0; i < 60; i++) { // with caches and memory that have been idle for long
        pause_ms(3);
        measure("malloc", op_malloc, 50 + i * 300);
        measure("malloc", op_malloc, 50000);
        measure("free", op_free, count - 1);
        count--;
    }
    free_all();
    count = 1;
    for (long i = 1; i < 2000; i++) {
        measure("realloc", op_realloc, i * 2377 % 200000 + 1);
    }
    for (long i = 1; i < 40; i++) {
        measure("realloc", op_realloc, i * 2377777 % 150000000 + 1);
    }
    for (long i = 1; i < 2000; i++) {
        measure("calloc", op_calloc, i * 2377 % 100000 + 1);
    }
    free_all();
    for (long i = 1; i < 2000; i++) {
        measure("posix_memalign", op_memalign, i * 2377 % 100000 + 1);
    }
    measure("malloc_usable_size", op_usable, 5);
    free_all();
    measure("malloc_trim", op_trim, 100000);
    measure("malloc_trim", op_trim, 0);
    measure("mallinfo2", op_mallinfo, 0);
    measure("malloc_stats", op_stats, 0);
    measure("malloc_info", op_info, 0);
    return arg;
}

// Measures the stack that a thread's destructors take at its end, below its own function.
static char *end_sp;
static void *fill_caches(void *arg) {
    for (long i = 0; i < 3000; i++) {
        blocks[i] = malloc((size_t)(1 + i * 7 % 3000));
    }
    for (long i = 0; i < 3000; i++) {
        free(blocks[i]);
    }
    char *sp;
    __asm__ volatile("mov %%rsp, %0" : "=r"(sp) : : "memory");
    for (volatile char *p = sp - DEEPEST; p < (volatile char *)sp; p++) {
        *p = PAINT;
    }
    end_sp = sp;
    return arg;
}

static void run(void *(*function)(void *), void *stack) {
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setstack(&attr, stack, STACK);
    if (pthread_create(&thread, &attr, function, NULL) != 0 || pthread_join(thread, NULL) != 0) {
        abort();
    }
}

static int measure_and_report(void) {
    void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    run(measure_all, stack);
    run(fill_caches, stack);
    const char *p = end_sp - DEEPEST;
    while (p < end_sp && *p == PAINT) {
        p++;
    }
    for (int i = 0; i < names; i++) {
        printf("%s %zu\n", results[i].name, results[i].most);
    }
    printf("thread_exit %zu\n", (size_t)(end_sp - p));
    return 0;
}

static const char *chosen;
static void call_chosen(void) {
    void *p = NULL;
    if (strcmp(chosen, "malloc") == 0) {
        for (size_t i = 0; i < 300; i++) {
            p = malloc(i * 200);
        }
    } else if (strcmp(chosen, "free") == 0) {
        for (long i = 0; i < count; i++) {
            free(blocks[i]);
        }
    } else if (strcmp(chosen, "realloc") == 0) {
        for (size_t i = 0; i < 300; i++) {
            p = realloc(p, i * 997 % 90000 + 1);
        }
    } else if (strcmp(chosen, "calloc") == 0) {
        for (size_t i = 0; i < 300; i++) {
            free(calloc(i, 300));
        }
    } else if (strcmp(chosen, "posix_memalign") == 0) {
        for (size_t i = 0; i < 300; i++) {
            if (posix_memalign(&p, (size_t)64 << i % 8, i * 100) == 0) {
                free(p);
            }
        }
    } else if (strcmp(chosen, "malloc_trim") == 0) {
        malloc_trim(0);
    } else if (strcmp(chosen, "mallinfo2") == 0) {
        op_mallinfo(0);
    } else if (strcmp(chosen, "malloc_stats") == 0) {
        op_stats(0);
    } else if (strcmp(chosen, "malloc_info") == 0) {
        op_info(0);
    } else {
        abort();
    }
}

static void *on_small_thread(void *arg) {
    volatile char taken[PAGE];
    memset((char *)taken, 1, sizeof taken);
    call_chosen();
    return taken[3] == 1 ? arg : NULL;
}

static int on_thread(void) {
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 16384);
    return pthread_create(&thread, &attr, on_small_thread, NULL) != 0 ||
           pthread_join(thread, NULL) != 0;
}

static void on_signal(int number) {
    (void)number;
    call_chosen();
}

static int in_handler(void) {
    // 4 KiB, or more if the processor has more registers to save, so that as much is left.
    enum { HANDLERS = PAGE - 3376 };
    size_t frame = getauxval(AT_MINSIGSTKSZ);
    size_t size = frame + HANDLERS > PAGE ? frame + HANDLERS : PAGE;
    char *map = mmap(NULL, 32 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *stack = map + PAGE;
    mprotect(stack, 31 * PAGE, PROT_READ | PROT_WRITE);
    stack_t alternative = {.ss_sp = stack, .ss_size = size};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    return sigaltstack(&alternative, NULL) != 0 || sigaction(SIGUSR1, &action, NULL) != 0 ||
           raise(SIGUSR1) != 0;
}

// Starts the program again without randomisation: otherwise the kernel would choose another place
// in its page for the stack's start each time.
static int start(const char *kib, const char *library) {
    char preload[4096];
    snprintf(preload, sizeof preload, "LD_PRELOAD=%s", library);
    char *const variables[] = {preload, NULL};
    struct rlimit limit = {(rlim_t)atol(kib) << 10, RLIM_INFINITY};
    if (personality(ADDR_NO_RANDOMIZE) == -1 || setrlimit(RLIMIT_STACK, &limit) != 0) {
        return 2;
    }
    execle("/proc/self/exe", "small_stack_program", "started", (char *)NULL, variables);
    return 2;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "started") == 0) {
        blocks[0] = malloc(100);
        free(blocks[0]);
        return 0;
    }
    if (argc == 4) {
        return start(argv[2], argv[3]);
    }
    null = fopen("/dev/null", "w");
    if (argc < 2 || null == NULL || freopen("/dev/null", "w", stderr) == NULL) {
        return 2;
    }
    if (strcmp(argv[1], "measure") == 0) {
        return measure_and_report();
    }
    chosen = argv[2];
    while (count < 3000 && strcmp(chosen, "free") == 0) {
        op_malloc(1 + count * 31 % 50000);
    }
    return strcmp(argv[1], "thread") == 0 ? on_thread() : in_handler();
}
