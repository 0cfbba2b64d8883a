// SPDX-License-Identifier: Apache-2.0
// Processes that have given up something the kernel lets others do: the time-stamp counter, all
// system calls but four, privileges, writable code, changes to some mappings, the dynamic linker.
#include "fronts/reports/ways.h"

#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, MIB = 1 << 20 };

// Blocks of all sizes, a heap of some 5 MiB.
static void use_heap(void) {
    enum { BLOCKS = 600 };
    unsigned char *blocks[BLOCKS];
    size_t sizes[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        sizes[i] = i * i % 9001 + (i % 50 == 0 ? 200000 : 1);
        blocks[i] = malloc(sizes[i]);
        CHECK(blocks[i] != NULL);
        memset(blocks[i], (int)i, sizes[i]);
    }
    for (size_t i = 0; i < BLOCKS; i += 3) {
        blocks[i] = realloc(blocks[i], sizes[i] * 2);
        CHECK(blocks[i] != NULL && blocks[i][sizes[i] - 1] == (unsigned char)i);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        free(blocks[i]);
    }
}

static void *in_thread(void *arg) {
    use_heap();
    return arg;
}

static void all(void) {
    pthread_t thread;
    use_heap();
    CHECK(pthread_create(&thread, NULL, in_thread, NULL) == 0);
    use_heap();
    CHECK(pthread_join(thread, NULL) == 0);
    malloc_trim(0);
    use_heap();
}

// The instruction that reads the counter is a fault: the kernel's fast clocks read it.
static void no_counter(void) {
#ifdef PR_TSC_SIGSEGV
    if (prctl(PR_SET_TSC, PR_TSC_SIGSEGV) != 0) {
        return; // not this processor
    }
#endif
    all();
}

static long coarse_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void stop_strictly(int status) {
    for (;;) {
        syscall(SYS_exit, status);
    }
}

// seccomp's strict mode: nothing but read(), write(), the end of the thread and of a handler; no
// counter either. No page can be given back, of a peak as well, and the heap that there is serves
// on, for longer than idle memory stays.
static void serve_strictly(void **blocks, size_t count, size_t size) {
    enum { FEW = 1000, MS = 700 };
    for (size_t i = 0; i < count; i++) {
        free(blocks[i]);
    }
    for (long start = coarse_ms(); coarse_ms() - start < MS;) {
        for (size_t i = 0; i < FEW; i++) {
            blocks[i] = malloc(size);
            if (blocks[i] == NULL) {
                stop_strictly(1);
            }
            memset(blocks[i], (int)i, size);
        }
        for (size_t i = 0; i < FEW; i++) {
            free(blocks[i]);
        }
    }
}

static void strict(void) {
    enum { BLOCKS = 60000, SIZE = 300 };
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(SIZE);
        CHECK(blocks[i] != NULL);
    }
    void *last = malloc(SIZE); // libc's malloc gives memory back that is behind all blocks
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_SECCOMP, 1); // strict
        serve_strictly(blocks, BLOCKS, SIZE);
        stop_strictly(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    free(last);
}

// A heap of many slabs comes and goes.
static void many_slabs(void) {
    enum { BLOCKS = 200000 };
    static void *blocks[BLOCKS];
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < BLOCKS; i++) {
            blocks[i] = malloc(i % 10 * 60 + round);
            CHECK(blocks[i] != NULL);
        }
        for (size_t i = 0; i < BLOCKS; i++) {
            free(blocks[(i * 7919) % BLOCKS]);
        }
        malloc_trim(0);
    }
}

// What a service does before its work, often with a sandbox to come.
static void no_new_privileges(void) {
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    many_slabs();
    pid_t pid = fork();
    if (pid == 0) {
        many_slabs();
        all();
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    all();
}

// No mapping may be written and executed, then or later (Linux 6.3).
static void no_writable_code(void) {
    enum { SET_MDWE = 65, REFUSE_EXEC_GAIN = 1 };
    prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0);
    all();
}

// Pages of blocks whose mapping cannot be changed, nor emptied if it is read-only, any more
// (mseal, Linux 6.10); the blocks are freed, and their memory serves on.
static void seal(char *block, size_t size) {
    enum { SYS_MSEAL = 462 };
    char *first = (char *)(((uintptr_t)block + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    CHECK(syscall(SYS_MSEAL, first, size - PAGE - size % PAGE, 0) == 0 || errno == ENOSYS);
}

static void sealed(void) {
    char *large = malloc(6 * MIB);
    char *medium = malloc(100000);
    memset(large, 1, 6 * MIB);
    memset(medium, 1, 100000);
    seal(large, 6 * MIB);
    seal(medium, 100000);
    use_heap();
    large = realloc(large, 12 * MIB);
    CHECK(large != NULL && large[6 * MIB - 1] == 1);
    free(large);
    medium = realloc(medium, 300000);
    CHECK(medium != NULL && medium[99999] == 1);
    free(medium);
    malloc_trim(0);
    all();
    char *zero = calloc(1, 20 * MIB);
    CHECK(zero != NULL);
    for (size_t i = 0; i < 20 * MIB; i += 64) {
        CHECK(zero[i] == 0);
    }
    free(zero);
}

// A thread that holds the dynamic linker's lock waits for one that allocates for the first time.
static void *first_calls(void *arg) {
    use_heap();
    char *block = memalign(64, 1000);
    block = reallocarray(block, 10, 1000);
    CHECK(block != NULL && malloc_usable_size(block) >= 10000);
    free(block);
    malloc_trim(0);
    (void)mallinfo2();
    (void)mallopt(M_TRIM_THRESHOLD, MIB);
    char *text;
    size_t length;
    FILE *file = open_memstream(&text, &length);
    CHECK(malloc_info(0, file) == 0 && fclose(file) == 0 && length > 0);
    free(text);
    return arg;
}

static int wait_for_thread(struct dl_phdr_info *info, size_t size, void *done) {
    (void)info, (void)size;
    pthread_t thread;
    if (*(int *)done == 0) {
        CHECK(pthread_create(&thread, NULL, first_calls, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        *(int *)done = 1;
    }
    return 0;
}

static void linker_locked(void) {
    int done = 0;
    dl_iterate_phdr(wait_for_thread, &done);
    CHECK(done == 1);
}

int main(int argc, char **argv) {
    static const struct way ways[] = {{"no_counter", no_counter},
                                      {"strict", strict},
                                      {"no_new_privileges", no_new_privileges},
                                      {"no_writable_code", no_writable_code},
                                      {"sealed", sealed},
                                      {"linker_locked", linker_locked},
                                      {NULL, NULL}};
    return run_way(ways, argc, argv);
}
