// SPDX-License-Identifier: Apache-2.0
// What programs do by mistake, or to see whether they may, and what libc's malloc lets pass or
// refuses: keys of thread-specific data that nobody has created, more memory than there can be.
#include "fronts/reports/ways.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

// A key that was never created reads as 0, and may be another's: the allocator's, if it is the
// first. Setting or deleting it loses no block, and ends nothing.
static pthread_key_t never_created;

static void *set_key(void *arg) {
    uintptr_t turn = (uintptr_t)arg;
    if (turn % 3 == 0) {
        free(malloc(100)); // before or after the thread's first block
    }
    pthread_setspecific(never_created, turn % 2 == 0 ? (void *)&never_created : (void *)turn);
    char *block = malloc(1000);
    CHECK(block != NULL);
    return memset(block, (int)turn, 1000);
}

static void in_threads(void) {
    for (uintptr_t turn = 1; turn <= 40; turn++) {
        pthread_t thread;
        void *block;
        CHECK(pthread_create(&thread, NULL, set_key, (void *)turn) == 0);
        CHECK(pthread_join(thread, &block) == 0);
        CHECK(((char *)block)[999] == (char)turn);
        free(block);
    }
}

static void foreign_keys(void) {
    in_threads();
    for (pthread_key_t key = 0; key < 4; key++) {
        pthread_key_delete(key);
    }
    in_threads();
    free(malloc(100000));
}

// Twice the machine's memory. The kernel's policy (vm.overcommit_memory) says what a mapping of
// that size gets, and malloc gets no other answer.
static void too_much(void) {
    struct sysinfo machine;
    CHECK(sysinfo(&machine) == 0);
    size_t size = ((size_t)machine.totalram + machine.totalswap) * machine.mem_unit * 2;
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int is_refused = map == MAP_FAILED;
    if (!is_refused) {
        munmap(map, size);
    }
    void *block = malloc(size);
    CHECK((block == NULL) == is_refused);
    free(block);
    block = calloc(size / 8, 8);
    CHECK((block == NULL) == is_refused);
    free(block);
    block = malloc(10);
    void *grown = realloc(block, size);
    CHECK((grown == NULL) == is_refused);
    free(grown == NULL ? block : grown);
    block = memalign(1 << 21, size);
    CHECK((block == NULL) == is_refused);
    free(block);
}

// Sizes and alignments at which sums and products overflow.
static void no_such_size(size_t size) {
    static volatile size_t far = (size_t)1 << 40; // compilers warn where they can tell
    errno = 0;
    CHECK(malloc(size) == NULL && errno == ENOMEM);
    CHECK(calloc(size, 1) == NULL && calloc(1, size) == NULL && calloc(size, size) == NULL);
    void *block = malloc(10);
    CHECK(realloc(block, size) == NULL && reallocarray(block, size, 3) == NULL);
    free(block);
    void *untouched = &block;
    CHECK(posix_memalign(&untouched, 64, size) == ENOMEM && untouched == &block);
    CHECK(memalign(64, size) == NULL && memalign(far, size) == NULL);
    CHECK(aligned_alloc(4096, size) == NULL && valloc(size) == NULL && pvalloc(size) == NULL);
}

static void sizes(void) {
    static volatile size_t most = SIZE_MAX;
    for (size_t below = 0; below < 3 * 4096; below += below < 64 ? 1 : 509) {
        no_such_size(most - below);
        no_such_size(most / 2 - below);
        no_such_size(most / 2 + 1 + below);
    }
    for (unsigned power = 48; power < 64; power++) {
        no_such_size(most >> (63 - power));
    }
}

int main(int argc, char **argv) {
    static const struct way ways[] = {
        {"foreign_keys", foreign_keys}, {"too_much", too_much}, {"sizes", sizes}, {NULL, NULL}};
    return run_way(ways, argc, argv);
}
