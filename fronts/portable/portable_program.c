// SPDX-License-Identifier: Apache-2.0
// portable_program FLAVOUR CASE...: what a program may expect of malloc and its kin, in C, so that
// it can be tried with a C library for which there is no C++. FLAVOUR is the one that is to serve
// it, "none" for libc's own malloc. Exits with 0 if all cases hold; else the first thing that does
// not is said on stderr.
#include "fronts/libc/glibc_malloc.h"
#include "fronts/reports/check.h"
#include "hakmem/hakmem.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <pthread.h>
#include <regex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

// A library that is preloaded is not there when the program is linked.
#pragma weak hak_flavour
#pragma weak hak_stats
#pragma weak mallinfo2
#pragma weak malloc_info
#pragma weak malloc_trim

// The same numbers in each run.
static uint32_t draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static bool holds(const unsigned char *block, size_t size, unsigned char with) {
    for (size_t i = 0; i < size; i++) {
        if (block[i] != with) {
            return false;
        }
    }
    return true;
}

static bool is_aligned(const void *block, size_t to) {
    return (uintptr_t)block % to == 0;
}

// --- One thread

static void sizes(void) {
    static const size_t most = 3 << 20;
    for (size_t size = 0; size < most; size += size / 7 + 1) {
        unsigned char *block = malloc(size);
        CHECK(block != NULL && is_aligned(block, 16) && malloc_usable_size(block) >= size);
        memset(block, 1, size);
        unsigned char *zero = calloc(size / 3 + 1, 3);
        CHECK(zero != NULL && zero != block && holds(zero, size / 3 * 3 + 3, 0));
        block = realloc(block, size + size / 2 + 1);
        CHECK(block != NULL && holds(block, size, 1));
        block = realloc(block, size / 2 + 1);
        CHECK(block != NULL && holds(block, size / 2, 1));
        free(block);
        block = reallocarray(zero, size / 3 + 1, 4);
        CHECK(block != NULL && holds(block, size / 3 * 3 + 3, 0));
        free(block);
    }
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    void *block = realloc(NULL, 100);
    CHECK(block != NULL);
    free(block);
}

static void alignments(void) {
    for (size_t align = sizeof(void *); align <= 1 << 21; align *= 2) {
        for (size_t size = 1; size < 100000; size = size * 5 + 3) {
            void *block = NULL;
            CHECK(posix_memalign(&block, align, size) == 0 && is_aligned(block, align));
            memset(block, 2, size);
            free(block);
            block = aligned_alloc(align, (size + align - 1) / align * align);
            CHECK(block != NULL && is_aligned(block, align));
            block = realloc(block, size + 1);
            CHECK(block != NULL);
            free(block);
            block = memalign(align, size);
            CHECK(block != NULL && is_aligned(block, align));
            free(block);
        }
    }
    void *page = valloc(10);
    CHECK(page != NULL && is_aligned(page, 4096));
    free(page);
    CHECK(posix_memalign(&page, 3, 8) == EINVAL);
    CHECK(posix_memalign(&page, 4, 8) == EINVAL);
}

static void errors(void) {
    volatile size_t huge = PTRDIFF_MAX;
    errno = 0;
    CHECK(malloc(huge + 1) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(calloc(huge, 4) == NULL && errno == ENOMEM);
    errno = 0;
    void *block = malloc(10);
    CHECK(realloc(block, huge + 1) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(reallocarray(block, huge, 4) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(aligned_alloc(64, huge + 1) == NULL && errno == ENOMEM);
    errno = 77;
    free(block);
    for (int i = 0; i < 1000; i++) {
        block = malloc((size_t)i * 100);
        CHECK(block != NULL);
        free(block);
    }
    CHECK(errno == 77);
}

enum { LIVE = 1000 };

// Blocks of all sizes come, change their size and go in no order, and keep what is in them.
static void mix(uint64_t seed, int steps) {
    struct {
        unsigned char *at;
        size_t size;
    } live[LIVE];
    memset(live, 0, sizeof live);
    for (int i = 0; i < steps; i++) {
        unsigned n = draw(&seed) % LIVE;
        size_t size = draw(&seed) % (1u << draw(&seed) % 18) + 1;
        unsigned char with = (unsigned char)(n + 1);
        if (live[n].at == NULL) {
            live[n].at = malloc(size);
            live[n].size = size;
            CHECK(live[n].at != NULL);
            memset(live[n].at, with, size);
            continue;
        }
        CHECK(live[n].at[0] == with && live[n].at[live[n].size - 1] == with);
        if (draw(&seed) % 4 == 0) {
            live[n].at = realloc(live[n].at, size);
            CHECK(live[n].at != NULL && live[n].at[0] == with);
            memset(live[n].at, with, size);
            live[n].size = size;
        } else {
            CHECK(holds(live[n].at, live[n].size, with));
            free(live[n].at);
            live[n].at = NULL;
        }
    }
    for (unsigned n = 0; n < LIVE; n++) {
        free(live[n].at);
    }
}

static void mixed(void) {
    mix(1, 30000);
}

// --- What libc allocates, and the program frees

static void services(void) {
    for (int i = 0; i < 50; i++) {
        char name[20], *text = NULL, *line = NULL;
        size_t room = 0;
        sprintf(name, "NAME_%d", i);
        CHECK(setenv(name, "value", 1) == 0 && setenv(name, "another value", 1) == 0);
        CHECK(asprintf(&text, "%s=%s", name, getenv(name)) > 0 && strlen(text) > 15);
        text = realloc(text, 1000);
        CHECK(text != NULL && strncmp(text, "NAME_", 5) == 0);
        free(text);
        text = strdup(name);
        CHECK(text != NULL && strcmp(text, name) == 0);
        free(text);
        FILE *file = fopen("/proc/self/status", "r");
        CHECK(file != NULL && getline(&line, &room, file) > 0 && strncmp(line, "Name:", 5) == 0);
        while (getline(&line, &room, file) > 0) {
        }
        free(line);
        fclose(file);
        file = open_memstream(&text, &room);
        CHECK(file != NULL && fprintf(file, "%1000d", i) == 1000 && fclose(file) == 0);
        CHECK(room == 1000);
        free(text);
        text = realpath("/proc/self/../self", NULL);
        CHECK(text != NULL && strncmp(text, "/proc/", 6) == 0);
        free(text);
        text = getcwd(NULL, 0);
        CHECK(text != NULL && text[0] == '/');
        free(text);
        regex_t pattern;
        CHECK(regcomp(&pattern, "^(a|b)*c+$", REG_EXTENDED) == 0);
        CHECK(regexec(&pattern, "ababccc", 0, NULL, 0) == 0);
        regfree(&pattern);
        glob_t found;
        CHECK(glob("/proc/self/*", 0, NULL, &found) == 0 && found.gl_pathc > 10);
        globfree(&found);
    }
}

#ifndef STATIC_PROGRAM // which has no libc to open
// The addresses that a foreign-function interface finds in libc itself.
static void looked_up(void) {
#    ifdef __GLIBC__
    void *libc = dlopen("libc.so.6", RTLD_NOW);
#    else
    void *libc = dlopen("libc.so", RTLD_NOW);
#    endif
    CHECK(libc != NULL);
    void (*found)(void *);
    *(void **)&found = dlsym(libc, "free");
    CHECK(found == free);
    found(strdup("some text"));
    dlclose(libc);
}
#endif

// --- Threads

static void *mix_thread(void *seed) {
    mix((uint64_t)(uintptr_t)seed, 3000);
    return NULL;
}

static void start_with_stack(pthread_t *thread, size_t stack, void *(*run)(void *), void *arg) {
    pthread_attr_t attr;
    CHECK(pthread_attr_init(&attr) == 0);
    if (stack != 0) {
        CHECK(pthread_attr_setstacksize(&attr, stack) == 0);
    }
    CHECK(pthread_create(thread, &attr, run, arg) == 0);
    pthread_attr_destroy(&attr);
}

// musl gives a thread 128 KiB unless it asks for something else.
static void threads(void) {
    static const size_t stacks[] = {0, 128 << 10, 80 << 10};
    for (int round = 0; round < 3; round++) {
        pthread_t thread[8];
        for (int i = 0; i < 8; i++) {
            start_with_stack(&thread[i], stacks[round], mix_thread,
                             (void *)(uintptr_t)(100 * round + i));
        }
        for (int i = 0; i < 8; i++) {
            CHECK(pthread_join(thread[i], NULL) == 0);
        }
    }
}

// One call that misses, of each kind, is all that such a thread has room for.
static void *small_thread(void *arg) {
    void *small = malloc(100);
    void *large = malloc(200000);
    CHECK(small != NULL && large != NULL);
    large = realloc(large, 400000);
    CHECK(large != NULL);
    free(small);
    free(large);
    small = aligned_alloc(4096, 8192);
    CHECK(small != NULL);
    free(small);
    return arg;
}

static void small_stacks(void) {
    pthread_t thread;
    for (int i = 0; i < 100; i++) {
        start_with_stack(&thread, (size_t)PTHREAD_STACK_MIN + 8192, small_thread, NULL);
        CHECK(pthread_join(thread, NULL) == 0);
    }
}

enum { HANDED = 20000 };
static _Atomic(void *) handed[64];

static void *give(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < HANDED; i++) {
        unsigned char *block = malloc(draw(&seed) % 2000 + 1);
        CHECK(block != NULL);
        *block = 9;
        unsigned char *old = atomic_exchange(&handed[draw(&seed) % 64], block);
        CHECK(old == NULL || *old == 9);
        free(old); // mostly another thread's
    }
    return NULL;
}

static void handed_over(void) {
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&thread[i], NULL, give, (void *)(uintptr_t)(i + 1)) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(thread[i], NULL) == 0);
    }
    for (int i = 0; i < 64; i++) {
        free(atomic_exchange(&handed[i], NULL));
    }
}

static void *short_thread(void *arg) {
    void *block[100];
    for (int i = 0; i < 100; i++) {
        block[i] = malloc(1000);
        CHECK(block[i] != NULL);
        memset(block[i], 1, 1000);
    }
    for (int i = 0; i < 100; i++) {
        free(block[i]);
    }
    return arg;
}

// What a thread leaves behind serves those that come later.
static void many_threads(void) {
    struct rusage before, after;
    pthread_t thread;
    for (int i = 0; i < 600; i++) {
        CHECK(pthread_create(&thread, NULL, short_thread, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        if (i == 200) {
            getrusage(RUSAGE_SELF, &before);
        }
    }
    getrusage(RUSAGE_SELF, &after);
    CHECK(after.ru_maxrss - before.ru_maxrss < 8 << 10);
}

// --- fork

static atomic_bool enough;

static void *busy_thread(void *seed) {
    for (uint64_t n = (uint64_t)(uintptr_t)seed; !atomic_load(&enough); n++) {
        mix(n, 300);
    }
    return NULL;
}

static void child(void) {
    pthread_t thread;
    mix(5, 2000);
    CHECK(pthread_create(&thread, NULL, mix_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    free(strdup("text"));
    exit(3);
}

static void forks(void) {
    pthread_t thread[2];
    atomic_store(&enough, false);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&thread[i], NULL, busy_thread, (void *)(uintptr_t)(i + 1)) == 0);
    }
    for (int i = 0; i < 10; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            child();
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 3);
    }
    atomic_store(&enough, true);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(thread[i], NULL) == 0);
    }
}

// --- Misuse

static void *volatile hidden; // from the compiler, which knows what a second free() is

static void free_twice(void) {
    void *block = hidden = malloc(100);
    free(block);
    free(hidden);
}

static void free_large_twice(void) {
    void *block = hidden = malloc(1 << 20);
    free(block);
    free(hidden);
}

static void free_inside(void) {
    hidden = (char *)malloc(100) + 16;
    free(hidden);
}

static void free_a_variable(void) {
    static char variable[64];
    hidden = variable;
    free(hidden);
}

static void resize_freed(void) {
    void *block = hidden = malloc(1000);
    free(block);
    hidden = realloc(hidden, 2000);
}

// Runs what is wrong in a child. It has to abort, having said one line that says `what`.
static void expect_stop(void (*wrong)(void), const char *what) {
    int ends[2], status;
    char said[500];
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        const struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        dup2(ends[1], 2);
        wrong();
        exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    ssize_t got;
    while ((got = read(ends[0], said + length, sizeof said - 1 - length)) > 0) {
        length += (size_t)got;
    }
    said[length] = '\0';
    close(ends[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strncmp(said, "hakmem: ", 8) == 0 && strchr(said, '\n') == said + length - 1);
    if (strstr(said, what) == NULL) {
        fprintf(stderr, "said: %s", said);
        exit(1);
    }
}

static void misuse(void) {
    expect_stop(free_twice, "freed");
    expect_stop(free_large_twice, "free");
    expect_stop(free_inside, "free(");
    expect_stop(free_a_variable, "free(");
    expect_stop(resize_freed, "(0x"); // by realloc(), or when the block goes back
}

// --- The rest of the interface

static void statistics(void) {
    struct hak_stats stats;
    void *block = malloc(5 << 20);
    CHECK(block != NULL && mallinfo2().hblkhd >= 5 << 20);
    hak_stats(&stats);
    CHECK(stats.large_live >= 5 << 20);
    free(block);
    CHECK(malloc_trim(0) >= 0 && mallinfo2().hblkhd < 5 << 20);
    char *text = NULL;
    size_t length;
    FILE *file = open_memstream(&text, &length);
    CHECK(malloc_info(0, file) == 0 && fclose(file) == 0 && strstr(text, "<malloc") != NULL);
    free(text);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"sizes", sizes},
    {"alignments", alignments},
    {"errors", errors},
    {"mixed", mixed},
    {"services", services},
    {"threads", threads},
    {"small_stacks", small_stacks},
    {"handed_over", handed_over},
    {"many_threads", many_threads},
    {"forks", forks},
    {"misuse", misuse},
    {"statistics", statistics},
#ifndef STATIC_PROGRAM
    {"looked_up", looked_up},
#endif
};

// Constructors use the allocator before main() does, and before the one of the library may have
// run.
static void *early;

__attribute__((constructor)) static void start(void) {
    early = malloc(100);
    free(strdup("early"));
}

static void at_exit(void) {
    CHECK(early != NULL);
    free(early);
    free(malloc(1000));
}

int main(int argc, char **argv) {
    CHECK(argc >= 3);
    CHECK(atexit(at_exit) == 0);
    CHECK(strcmp(hak_flavour == NULL ? "none" : hak_flavour(), argv[1]) == 0);
    for (int i = 2; i < argc; i++) {
        size_t n = 0;
        while (n < sizeof cases / sizeof *cases && strcmp(cases[n].name, argv[i]) != 0) {
            n++;
        }
        CHECK(n < sizeof cases / sizeof *cases);
        cases[n].run();
    }
    puts("ok");
    return 0;
}
