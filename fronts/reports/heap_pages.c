// SPDX-License-Identifier: Apache-2.0
// What a program does with the pages of its own blocks: advice about forks and core files, access
// rights, locks, faults that it handles itself; and what it leaves undone when it frees them.
#include "fronts/reports/ways.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, BLOCK = 16 * PAGE };

static void churn(void) {
    for (int round = 0; round < 3; round++) {
        void *blocks[200];
        for (size_t i = 0; i < 200; i++) {
            size_t size = i * 150 + 1;
            blocks[i] = i % 3 == 0 ? calloc(1, size) : malloc(size);
            CHECK(blocks[i] != NULL);
            memset(blocks[i], (int)i, size);
        }
        for (size_t i = 0; i < 200; i++) {
            free(blocks[i]);
        }
        malloc_trim(0);
    }
}

static char *pages(void) {
    char *block = aligned_alloc(PAGE, BLOCK);
    CHECK(block != NULL);
    memset(block, 7, BLOCK);
    return block;
}

// What a child does with the heap; the block's own pages are looked at by `look`.
static void in_child(char *block, void (*look)(char *)) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        look(block);
        churn();
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void look_at_seven(char *block) {
    CHECK(block[0] == 7 && block[BLOCK - 1] == 7);
    free(block);
}

static void look_at_zero(char *block) {
    CHECK(block[0] == 0 && block[BLOCK - 1] == 0);
    free(block);
}

static void not_look(char *block) {
    (void)block; // The pages are not there.
}

static void dontfork(void) {
    for (int i = 0; i < 5; i++) {
        char *block = pages();
        CHECK(madvise(block, BLOCK, MADV_DONTFORK) == 0);
        in_child(block, not_look);
        CHECK(block[5] == 7);
        CHECK(madvise(block, BLOCK, MADV_DOFORK) == 0);
        in_child(block, look_at_seven);
        free(block);
        churn();
    }
}

static void wipeonfork(void) {
    for (int i = 0; i < 5; i++) {
        char *block = pages();
        CHECK(madvise(block, BLOCK, MADV_WIPEONFORK) == 0);
        in_child(block, look_at_zero);
        CHECK(block[5] == 7);
        CHECK(madvise(block, BLOCK, MADV_KEEPONFORK) == 0);
        in_child(block, look_at_seven);
        free(block);
        churn();
    }
}

static void protected_pages(void) {
    for (int i = 0; i < 5; i++) {
        char *block = pages();
        CHECK(mprotect(block, BLOCK, PROT_NONE) == 0);
        churn(); // The neighbours are in use.
        CHECK(malloc_usable_size(block) >= BLOCK);
        CHECK(mprotect(block, BLOCK, PROT_READ) == 0);
        CHECK(block[0] == 7);
        CHECK(mprotect(block, BLOCK, PROT_READ | PROT_WRITE) == 0);
        block = realloc(block, BLOCK * 3);
        CHECK(block != NULL && block[BLOCK - 1] == 7);
        free(block);
        churn();
    }
}

// A guard page between the parts of a block, put back before it is freed.
static void guard_page(void) {
    char *blocks[20];
    for (size_t i = 0; i < 20; i++) {
        blocks[i] = pages();
        CHECK(mprotect(blocks[i] + 5 * PAGE, PAGE, PROT_NONE) == 0);
    }
    churn();
    for (size_t i = 0; i < 20; i++) {
        CHECK(mprotect(blocks[i] + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
        CHECK(blocks[i][5 * PAGE] == 7);
        free(blocks[i]);
    }
    churn();
}

static void advised(void) {
    static const int advices[] = {MADV_DONTDUMP,    MADV_DODUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
                                  MADV_SEQUENTIAL,  MADV_RANDOM, MADV_WILLNEED, MADV_MERGEABLE,
                                  MADV_UNMERGEABLE, MADV_NORMAL, MADV_COLD,     MADV_PAGEOUT};
    for (size_t i = 0; i < sizeof advices / sizeof *advices; i++) {
        char *block = pages();
        (void)madvise(block, BLOCK, advices[i]); // as far as the kernel knows it
        CHECK(block[0] == 7 && block[BLOCK - 1] == 7);
        free(block);
        churn();
    }
    char *block = pages();
    CHECK(madvise(block, BLOCK, MADV_DONTNEED) == 0);
    CHECK(block[0] == 0 && block[BLOCK - 1] == 0);
    free(block);
    block = pages();
    CHECK(madvise(block, BLOCK, MADV_FREE) == 0);
    free(block);
    churn();
}

static void locked(void) {
    char *block = pages();
    if (mlock(block, BLOCK) == 0) {
        free(block); // still locked
        churn();
        block = calloc(1, BLOCK);
        CHECK(block[0] == 0 && block[BLOCK - 1] == 0);
    }
    free(block);
    (void)munlockall();
    churn();
}

// Pages of a block replaced by others: a file's, and shared ones.
static void mapped_over(void) {
    char *block = pages();
    CHECK(mmap(block + PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
               MAP_FIXED | MAP_SHARED | MAP_ANONYMOUS, -1, 0) == block + PAGE);
    CHECK(block[PAGE] == 0 && block[0] == 7);
    in_child(block, not_look);
    // Put back as it was, as a library that shares its buffers does.
    CHECK(mmap(block + PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
               MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == block + PAGE);
    free(block);
    churn();
}

// Faults in the block's pages handled by a thread of the program, which allocates meanwhile.
static void *serve(void *arg) {
    int fd = *(int *)arg;
    char *page = aligned_alloc(PAGE, PAGE);
    memset(page, 9, PAGE);
    for (int served = 0; served < 4;) {
        struct uffd_msg message;
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        if (poll(&poll_fd, 1, -1) != 1 || read(fd, &message, sizeof message) != sizeof message ||
            message.event != UFFD_EVENT_PAGEFAULT) {
            continue;
        }
        churn();
        struct uffdio_copy copy = {.dst = message.arg.pagefault.address & -(uint64_t)PAGE,
                                   .src = (uintptr_t)page,
                                   .len = PAGE};
        CHECK(ioctl(fd, UFFDIO_COPY, &copy) == 0);
        served++;
    }
    free(page);
    return NULL;
}

static void userfault(void) {
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (fd < 0) {
        return; // not for this user, or not in this kernel
    }
    struct uffdio_api api = {.api = UFFD_API};
    CHECK(ioctl(fd, UFFDIO_API, &api) == 0);
    char *block = pages();
    CHECK(madvise(block, BLOCK, MADV_DONTNEED) == 0);
    struct uffdio_register range = {.range = {(uintptr_t)block, 4 * PAGE},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    CHECK(ioctl(fd, UFFDIO_REGISTER, &range) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, serve, &fd) == 0);
    for (size_t i = 0; i < 4; i++) {
        CHECK(block[i * PAGE + 10] == 9);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(ioctl(fd, UFFDIO_UNREGISTER, &range.range) == 0);
    free(block);
    churn();
    close(fd);
}

int main(int argc, char **argv) {
    static const struct way ways[] = {{"dontfork", dontfork},
                                      {"wipeonfork", wipeonfork},
                                      {"protected_pages", protected_pages},
                                      {"guard_page", guard_page},
                                      {"advised", advised},
                                      {"locked", locked},
                                      {"mapped_over", mapped_over},
                                      {"userfault", userfault},
                                      {NULL, NULL}};
    return run_way(ways, argc, argv);
}
