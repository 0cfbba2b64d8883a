// SPDX-License-Identifier: Apache-2.0
// A small C program under limits on data or locked memory. limits_program_test.cc sets the limits
// that have to be there from the start, and describes each mode.
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77 };

static void set_limit(int resource, size_t bytes) {
    struct rlimit limit;
    getrlimit(resource, &limit);
    limit.rlim_cur = bytes;
    setrlimit(resource, &limit);
}

// A field of /proc/self/status in bytes. Allocates nothing.
static size_t status_bytes(const char *name) {
    char text[4096];
    int fd = open("/proc/self/status", O_RDONLY);
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    text[size < 0 ? 0 : size] = '\0';
    const char *at = strstr(text, name);
    return at == NULL ? 0 : strtoul(at + strlen(name), NULL, 10) << 10;
}

// A small program: some blocks of many sizes, a few of hundreds of KiB, and one that grows. Returns
// 0 if all of it works.
static int work(void) {
    enum { SIZES = 30, EACH = 8 };
    char *blocks[SIZES][EACH];
    for (int pass = 0; pass < 3; pass++) {
        for (int i = 0; i < SIZES; i++) {
            size_t size = (size_t)16 << i / 3 | (size_t)i * 8;
            for (int n = 0; n < EACH && (n == 0 || size <= 512); n++) {
                if ((blocks[i][n] = malloc(size)) == NULL) {
                    printf("pass %d: no block %d of %zu B\n", pass, n, size);
                    return 1;
                }
                memset(blocks[i][n], i + n, size);
            }
        }
        char *grown = NULL;
        for (size_t size = 100; size < 200000; size = size * 3 / 2) {
            char *more = realloc(grown, size);
            if (more == NULL) {
                printf("pass %d: it cannot grow to %zu B\n", pass, size);
                return 2;
            }
            grown = more;
            memset(grown, 1, size);
        }
        free(grown);
        for (int i = 0; i < SIZES; i++) {
            size_t size = (size_t)16 << i / 3 | (size_t)i * 8;
            for (int n = 0; n < EACH && (n == 0 || size <= 512); n++) {
                if (blocks[i][n][0] != i + n || blocks[i][n][size - 1] != i + n) {
                    printf("pass %d: a block of %zu B is not what it was\n", pass, size);
                    return 3;
                }
                free(blocks[i][n]);
            }
        }
    }
    return 0;
}

struct link {
    struct link *next;
};

// Allocates until there is no memory, and touches all blocks. Returns their number.
static size_t exhaust(struct link **blocks, size_t size) {
    size_t count = 0;
    struct link *block;
    errno = 0;
    while ((block = malloc(size)) != NULL) {
        memset(block, 1, size);
        block->next = *blocks;
        *blocks = block;
        count++;
    }
    return errno == ENOMEM ? count : 0;
}

static void free_all(struct link **blocks) {
    while (*blocks != NULL) {
        struct link *block = *blocks;
        *blocks = block->next;
        free(block);
    }
}

// Sets a limit on locked memory, and drops the capability to exceed it, as for an ordinary user.
static int lock_limit(size_t bytes) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    set_limit(RLIMIT_MEMLOCK, bytes);
    return syscall(SYS_capset, &header, none) == 0 ? 0 : SKIPPED;
}

static int locked(int flags, size_t limit) {
    if (lock_limit(limit) != 0) {
        return SKIPPED;
    }
    if ((flags & MCL_CURRENT) != 0) {
        free(malloc(10));
    }
    if (mlockall(flags) != 0) {
        perror("mlockall");
        return 1;
    }
    for (int i = 0; i < 1000; i++) {
        char *block = malloc(1000);
        if (block == NULL) {
            printf("no block %d\n", i);
            return 2;
        }
        memset(block, 1, 1000);
    }
    struct link *blocks = NULL;
    size_t first = exhaust(&blocks, 3000);
    free_all(&blocks);
    size_t again = exhaust(&blocks, 3000);
    free_all(&blocks);
    if (first == 0 || again < first / 10 * 9) {
        printf("%zu blocks, then %zu\n", first, again);
        return 3;
    }
    return 0;
}

// With all memory locked, little is locked, and with little work.
static int little_locked(void) {
    if (mlockall(MCL_FUTURE) != 0) {
        return SKIPPED;
    }
    size_t all = status_bytes("VmLck:");
    size_t resident = status_bytes("VmRSS:");
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    char *volatile block = malloc(100);
    getrusage(RUSAGE_SELF, &after);
    block[0] = 1;
    all = status_bytes("VmLck:") - all;
    resident = status_bytes("VmRSS:") - resident;
    long faults = after.ru_minflt - before.ru_minflt;
    printf("%zu KiB locked, %zu KiB resident, %ld faults\n", all >> 10, resident >> 10, faults);
    return all <= 800 << 10 && resident <= 500 << 10 && faults <= 150 ? 0 : 1;
}

// A limit changes: the memory that the process has can be used all the time, and more as soon as
// that is allowed.
static int changed(int resource, const char *line) {
    enum { SIZE = 3000, MIB = 1 << 20 };
    struct link *blocks = NULL;
    free(malloc(SIZE));
    size_t used = status_bytes(line);
    set_limit(resource, used + 20 * MIB);
    size_t first = exhaust(&blocks, SIZE);
    set_limit(resource, used + 40 * MIB);
    size_t second = exhaust(&blocks, SIZE);
    if (first * SIZE < 14 * MIB || second * SIZE < 14 * MIB) {
        printf("%zu and %zu more blocks\n", first, second);
        return 1;
    }
    set_limit(resource, 4096);
    free_all(&blocks);
    size_t third = exhaust(&blocks, SIZE);
    free_all(&blocks);
    if (third < (first + second) / 10 * 9 || malloc(100 * MIB) != NULL || errno != ENOMEM) {
        printf("%zu blocks, then %zu\n", first + second, third);
        return 2;
    }
    set_limit(resource, used + 60 * MIB);
    size_t fourth = exhaust(&blocks, SIZE);
    free_all(&blocks);
    if (fourth < third + 10 * MIB / SIZE) {
        printf("%zu blocks, then %zu\n", third, fourth);
        return 3;
    }
    return 0;
}

static pthread_barrier_t limited;

static void *exhaust_again_and_again(void *failed) {
    struct link *blocks = NULL;
    pthread_barrier_wait(&limited);
    for (int i = 0; i < 20; i++) {
        size_t count = exhaust(&blocks, (size_t)100 << i % 12);
        free_all(&blocks);
        *(int *)failed += count == 0 && errno != ENOMEM;
    }
    return NULL;
}

// Threads compete for all memory that there is.
static int threads(int resource, const char *line) {
    enum { THREADS = 16 };
    pthread_t thread[THREADS];
    int failed[THREADS] = {0};
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 << 10);
    pthread_barrier_init(&limited, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        if (pthread_create(&thread[i], &small, exhaust_again_and_again, &failed[i]) != 0) {
            return SKIPPED;
        }
    }
    set_limit(resource, status_bytes(line) + ((size_t)16 << 20));
    pthread_barrier_wait(&limited);
    int bad = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        bad += failed[i];
    }
    if (bad != 0) {
        printf("%d calls failed without ENOMEM\n", bad);
        return 1;
    }
    malloc_trim(0);
    return work();
}

static void *wait_for_all(void *unused) {
    pthread_barrier_wait(&limited);
    return unused;
}

// After a peak at the limit there is room for mappings that do not come from malloc: the program's
// own, and threads' stacks. Then the heap can use the room again.
static int peak(int resource, size_t size) {
    enum { THREADS = 8, MIB = 1 << 20, LIMIT = 256 * MIB };
    pthread_t thread[THREADS];
    struct link *blocks = NULL;
    set_limit(resource, LIMIT);
    for (int round = 0; round < 2; round++) {
        size_t count = exhaust(&blocks, size);
        free_all(&blocks);
        if (count < LIMIT / size * 3 / 4) {
            printf("%d: %zu blocks of %zu B\n", round, count, size);
            return 1;
        }
        pthread_barrier_init(&limited, NULL, THREADS + 1);
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 8 * MIB);
        for (int i = 0; i < THREADS; i++) {
            if (pthread_create(&thread[i], &attributes, wait_for_all, NULL) != 0) {
                printf("%d: %d threads after blocks of %zu B\n", round, i, size);
                return 2;
            }
        }
        void *map =
            mmap(NULL, LIMIT / 5, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED) {
            printf("%d: no mapping after blocks of %zu B\n", round, size);
            return 3;
        }
        munmap(map, LIMIT / 5);
        pthread_barrier_wait(&limited);
        for (int i = 0; i < THREADS; i++) {
            pthread_join(thread[i], NULL);
        }
    }
    return 0;
}

// After a peak has been freed there is room for as many threads with stacks of 1 MiB as without the
// peak: free memory that stays with the heap is a small share of a small limit.
static int stacks(int resource, size_t limit, int wanted) {
    enum { MOST = 64, MIB = 1 << 20 };
    pthread_t thread[MOST];
    struct link *blocks = NULL;
    set_limit(resource, limit);
    for (size_t bytes = 0; bytes < limit / 16 * 7; bytes += 3000) {
        struct link *block = malloc(3000);
        if (block == NULL) {
            printf("no block after %zu B\n", bytes);
            return 1;
        }
        memset(block, 1, 3000);
        block->next = blocks;
        blocks = block;
    }
    free_all(&blocks);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, MIB);
    pthread_barrier_init(&limited, NULL, (unsigned)wanted + 1);
    for (int i = 0; i < wanted; i++) {
        if (pthread_create(&thread[i], &attributes, wait_for_all, NULL) != 0) {
            printf("%d threads of %d\n", i, wanted);
            return 2;
        }
    }
    pthread_barrier_wait(&limited);
    for (int i = 0; i < wanted; i++) {
        pthread_join(thread[i], NULL);
    }
    return 0;
}

static int forked(void) {
    int status = work();
    pid_t child = fork();
    if (child == 0) {
        _exit(work());
    }
    int ended = 1;
    waitpid(child, &ended, 0);
    return status != 0 ? status : ended;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "work") == 0) {
        return work();
    }
    if (strcmp(mode, "fork") == 0) {
        return forked();
    }
    if (strcmp(mode, "future") == 0) {
        return locked(MCL_FUTURE, strtoul(argv[2], NULL, 10));
    }
    if (strcmp(mode, "current") == 0) {
        return locked(MCL_FUTURE | MCL_CURRENT, strtoul(argv[2], NULL, 10));
    }
    if (strcmp(mode, "little") == 0) {
        return little_locked();
    }
    if (strcmp(mode, "changed-data") == 0) {
        return changed(RLIMIT_DATA, "VmData:");
    }
    if (strcmp(mode, "changed-addresses") == 0) {
        return changed(RLIMIT_AS, "VmSize:");
    }
    if (strcmp(mode, "threads-data") == 0) {
        return threads(RLIMIT_DATA, "VmData:");
    }
    if (strcmp(mode, "peak-data") == 0) {
        return peak(RLIMIT_DATA, strtoul(argv[2], NULL, 10));
    }
    if (strcmp(mode, "peak-addresses") == 0) {
        return peak(RLIMIT_AS, strtoul(argv[2], NULL, 10));
    }
    if (strcmp(mode, "stacks-data") == 0) {
        return stacks(RLIMIT_DATA, strtoul(argv[2], NULL, 10), atoi(argv[3]));
    }
    if (strcmp(mode, "stacks-addresses") == 0) {
        return stacks(RLIMIT_AS, strtoul(argv[2], NULL, 10), atoi(argv[3]));
    }
    if (strcmp(mode, "threads-addresses") == 0) {
        return threads(RLIMIT_AS, "VmSize:");
    }
    return 2;
}
