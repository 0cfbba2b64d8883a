// SPDX-License-Identifier: Apache-2.0
// The program of sandbox_test: uses the heap in every way, under a seccomp filter.
//
//     sandbox_program WHEN WAY STATES NUMBER...
//
// WHEN   prctl, syscall: the program itself installs the filter by that function of libc, after it
//        has used the heap a little; exec: the parent has installed it
// WAY    the answer to the calls NUMBER...: kill, or the number of an errno; only: all other calls
//        are fatal. NUMBER:ARGUMENT:MASK:VALUE is a call whose argument, counted from 0, has that
//        value in the bits of the mask.
// STATES letters of the steps that follow:
//        h  the heap grows, is full of holes, rests, and grows again
//        l  blocks of MiBs grow and are freed; one of GiBs, for which the kernel is asked
//        b  blocks of 64 MiB grow: libc's malloc would call mremap() for them
//        f  a block far from the heap
//        t  threads allocate, free and end
//        c  a forked child does h and l
//        r  checks that memory of freed blocks has gone back to the kernel (reads /proc)
//
// Exits with 0 if all checks passed, else with the line of the check that failed; with 127 if the
// filter cannot be installed.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KIB = 1024, MIB = 1024 * KIB, UNFILTERED = 127 };

#define CHECK(ok)                      \
    do {                               \
        if (!(ok)) {                   \
            _exit(__LINE__ % 120 + 1); \
        }                              \
    } while (0)

// Installs the filter. Returns 0, or -1 on failure.
static int enter_sandbox(const char *when, const char *way, char **numbers) {
    struct sock_filter filter[256];
    unsigned n = 0;
    filter[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    int only = strcmp(way, "only") == 0;
    uint32_t answer = only                       ? SECCOMP_RET_ALLOW
                      : strcmp(way, "kill") == 0 ? SECCOMP_RET_KILL_PROCESS
                                                 : SECCOMP_RET_ERRNO | (uint32_t)atoi(way);
    for (; *numbers != NULL; numbers++) {
        char *at = *numbers;
        uint32_t word[4] = {0}; // NUMBER, and ARGUMENT, MASK and VALUE if they are given
        unsigned words = 0;
        for (; words < 4 && (words == 0 || *at == ':'); words++) {
            word[words] = (uint32_t)strtoul(words == 0 ? at : at + 1, &at, 0);
        }
        unsigned char otherwise = words == 4 ? 5 : 1;
        filter[n++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word[0], 0, otherwise);
        if (words == 4) {
            uint32_t argument = (uint32_t)offsetof(struct seccomp_data, args) + word[1] * 8;
            filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument);
            filter[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, word[2]);
            filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word[3], 0, 1);
        }
        filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, answer);
        if (words == 4) {
            filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                                       offsetof(struct seccomp_data, nr));
        }
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
                                               only ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ALLOW);
    struct sock_fprog program = {(unsigned short)n, filter};
    if (strcmp(when, "syscall") == 0 && geteuid() == 0) { // no other call is needed
        return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return -1;
    }
    return strcmp(when, "syscall") == 0
               ? (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)
               : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void rest(void) {
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

static void *filled(size_t size, unsigned char with) {
    void *block = malloc(size);
    CHECK(block != NULL);
    return memset(block, with, size);
}

static int is_filled(const unsigned char *block, size_t size, unsigned char with) {
    for (size_t i = 0; i < size; i += 512) {
        if (block[i] != with) {
            return 0;
        }
    }
    return block[size - 1] == with;
}

// Works a little; some calls are misses.
static void work(void) {
    void *some[400];
    for (int i = 0; i < 400; i++) {
        some[i] = filled((size_t)i * 7 + 1, 3);
    }
    for (int i = 0; i < 400; i++) {
        free(some[i]);
    }
}

// The heap grows to 40 MiB, dense at first; single pages of it become free, then all.
static void heap(void) {
    enum { BLOCKS = 40000 };
    static unsigned char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = filled(1000, (unsigned char)i);
    }
    for (int i = 0; i < BLOCKS; i++) {
        if (i % 9 != 0) {
            free(blocks[i]);
        }
    }
    for (int i = 0; i < 12; i++) {
        rest();
        work();
    }
    malloc_trim(0);
    for (int i = 0; i < BLOCKS; i += 9) {
        CHECK(is_filled(blocks[i], 1000, (unsigned char)i));
        free(blocks[i]);
    }
    unsigned char *zero = calloc(3, MIB);
    CHECK(zero != NULL && is_filled(zero, 3 * MIB, 0));
    free(zero);
    work();
    malloc_trim(0);
    (void)mallinfo2();
}

static void grow(size_t from, size_t to) {
    unsigned char *block = filled(from, 5);
    void *behind = filled(40000, 1); // in the way of a block that grows
    block = realloc(block, to);
    CHECK(block != NULL && is_filled(block, from, 5));
    memset(block, 6, to);
    unsigned char *other = filled(from, 7);
    free(block);
    CHECK(is_filled(other, from, 7));
    free(other);
    free(behind);
}

static void large(void) {
    for (int i = 0; i < 2; i++) {
        grow(300 * KIB, 20 * MIB);
        grow(2 * MIB, 9 * MIB);
        void *aligned;
        CHECK(posix_memalign(&aligned, 4 * MIB, 5 * MIB) == 0 &&
              (uintptr_t)aligned % (4 * MIB) == 0);
        free(aligned);
        free(filled(70 * MIB, 9));
        rest();
        work();
    }
    unsigned char *huge = malloc((size_t)2 << 30);
    CHECK(huge != NULL);
    huge[0] = huge[((size_t)2 << 30) - 1] = 1;
    free(huge);
    errno = 0;
    CHECK(malloc((size_t)1 << 46) == NULL && errno == ENOMEM);
}

static void far(void) {
    for (int i = 0; i < 2; i++) {
        char *block = malloc((size_t)17 << 30);
        if (block != NULL) { // The machine may not have so much memory.
            block[i] = 1;
            free(block);
        }
    }
}

static void *run(void *arg) {
    for (int i = 0; i < 5; i++) {
        work();
        free(filled(3 * MIB, 1));
    }
    return arg;
}

static void threads(void) {
    for (int round = 0; round < 3; round++) {
        pthread_t some[4];
        for (int i = 0; i < 4; i++) {
            CHECK(pthread_create(&some[i], NULL, run, NULL) == 0);
        }
        for (int i = 0; i < 4; i++) {
            pthread_join(some[i], NULL);
        }
        rest();
    }
}

static void child(void) {
    pid_t id = fork();
    CHECK(id >= 0);
    if (id == 0) {
        heap();
        large();
        _exit(0);
    }
    int status;
    CHECK(waitpid(id, &status, 0) == id);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 126);
    }
}

static size_t resident(void) {
    char text[128] = "";
    int fd = open("/proc/self/statm", O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    return strtoul(strchr(text, ' '), NULL, 10) * 4096;
}

static void resides(void) {
    malloc_trim(0);
    size_t before = resident();
    unsigned char *block = filled(100 * MIB, 1); // its memory goes back at once
    enum { SOME = 40 };
    void *some[SOME]; // their memory goes back after a while
    for (int i = 0; i < SOME; i++) {
        some[i] = filled(MIB, 1);
    }
    CHECK(resident() >= before + 130 * (size_t)MIB);
    free(block);
    for (int i = 0; i < SOME; i++) {
        free(some[i]);
    }
    // So many rests are enough on a busy machine, too, where steps are rare and short.
    enum { RESTS = 5000 };
    for (int i = 0; i < RESTS && resident() > before + 10 * MIB; i++) {
        rest();
        work();
    }
    CHECK(resident() <= before + 10 * MIB);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        return UNFILTERED;
    }
    free(filled(100, 1));
    if (strcmp(argv[1], "exec") != 0) {
        if (enter_sandbox(argv[1], argv[2], argv + 4) != 0) {
            return UNFILTERED;
        }
    } else if (strcmp(argv[2], "filtered") != 0) {
        if (enter_sandbox("prctl", argv[2], argv + 4) != 0) {
            return UNFILTERED;
        }
        execl("/proc/self/exe", argv[0], "exec", "filtered", argv[3], (char *)NULL);
        return UNFILTERED;
    }
    for (const char *at = argv[3]; *at != '\0'; at++) {
        switch (*at) {
        case 'h':
            heap();
            break;
        case 'l':
            large();
            break;
        case 'b':
            grow((size_t)64 * MIB, (size_t)130 * MIB);
            break;
        case 'f':
            far();
            break;
        case 't':
            threads();
            break;
        case 'c':
            child();
            break;
        case 'r':
            resides();
            break;
        default:
            return UNFILTERED;
        }
    }
    return 0;
}
