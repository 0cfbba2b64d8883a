// SPDX-License-Identifier: Apache-2.0
// Kinds of misuse, each with blocks of several sizes, in several states of the heap, on the first
// thread and on another one. Each case runs in a child of its own and is a line of the output:
//
//     KIND SIZE STATE THREAD OUTCOME
//
// OUTCOME is "stopped" (by abort()), "crashed" (by another signal), "silent" (the program goes on,
// and the blocks that it allocates next are sound), "damaged" (malloc returns a block twice, or one
// that is not aligned), or "none" if there is no such case for a size.
//
// Built without an allocator. The C++ library has the operators.
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wuse-after-free"
#pragma GCC diagnostic ignored "-Wfree-nonheap-object"

// C++'s operators new, delete, delete of a size, delete[], and delete of an alignment.
void *_Znwm(size_t size);
void _ZdlPv(void *ptr);
void _ZdlPvm(void *ptr, size_t size);
void _ZdaPv(void *ptr);
void _ZdlPvSt11align_val_t(void *ptr, size_t align);

enum {
    LARGE = 32768, // larger blocks have pages of their own
    SOUND = 0,     // exit status: the blocks allocated after the misuse are sound
    DAMAGED = 1,
    NO_CASE = 8, // there is no such misuse with blocks of that size
    FAILED = 9,
};

// Returns the same pointer, of which the compiler knows nothing.
static char *hide(const void *ptr) {
    void *volatile hidden = (void *)ptr;
    return hidden;
}

static char *get(size_t size) {
    char *block = hide(malloc(size));
    if (block == NULL) {
        _exit(FAILED);
    }
    return block;
}

static void *free_it(void *ptr) {
    free(ptr);
    return NULL;
}

static void in_thread(void *(*call)(void *), void *arg) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, call, arg) != 0 || pthread_join(thread, NULL) != 0) {
        _exit(FAILED);
    }
}

static void free_with_between(size_t size, size_t between) {
    enum { MOST = 2000 };
    static void *others[MOST];
    for (size_t i = 0; i < between; i++) {
        others[i] = get(size);
    }
    char *p = get(size);
    free(p);
    for (size_t i = 0; i < between; i++) {
        free(others[i]);
    }
    free(hide(p));
}

// --- Freed twice

static void twice(size_t size) {
    char *p = get(size);
    free(p);
    free(hide(p));
}
static void twice_by_delete(size_t size) {
    char *p = hide(_Znwm(size));
    _ZdlPv(p);
    _ZdlPv(hide(p));
}
static void twice_by_sized_delete(size_t size) {
    char *p = hide(_Znwm(size));
    _ZdlPvm(p, size);
    _ZdlPvm(hide(p), size);
}
static void twice_mixed(size_t size) {
    char *p = hide(_Znwm(size));
    free(p);
    _ZdlPvm(hide(p), size);
}
static void twice_one_between(size_t size) {
    free_with_between(size, 1);
}
static void twice_twenty_between(size_t size) {
    free_with_between(size, 20);
}
static void twice_many_between(size_t size) {
    free_with_between(size, size > 4096 ? 200 : 2000);
}
static void twice_other_sizes_between(size_t size) {
    char *q = get(size * 2 + 40);
    char *p = get(size);
    free(p);
    free(q);
    free(get(size * 3 + 100));
    free(hide(p));
}
static void twice_reused(size_t size) {
    char *p = get(size);
    free(p);
    char *same = get(size);
    memset(same, 1, size);
    free(same);
    free(hide(p));
}
static void twice_trimmed(size_t size) {
    char *keep = get(size);
    char *p = get(size);
    free(p);
    malloc_trim(0);
    free(hide(p));
    free(keep);
}
static void twice_two_threads(size_t size) {
    char *p = get(size);
    in_thread(free_it, p);
    free(hide(p));
}
static void twice_after_fork(size_t size) {
    char *p = get(size);
    free(p);
    pid_t pid = fork();
    if (pid == 0) {
        free(hide(p));
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) {
        abort();
    }
}
static void freed_after_realloc_moved(size_t size) {
    char *p = get(size);
    char *keep = get(size);
    char *q = hide(realloc(p, size * 8));
    if (q == p) { // The block has grown at its place.
        _exit(NO_CASE);
    }
    free(p);
    free(keep);
}
static void freed_after_realloc_to_nothing(size_t size) {
    char *p = get(size);
    if (realloc(p, 0) == NULL) {
        free(hide(p));
    }
}
static void realloc_of_freed(size_t size) {
    char *p = get(size);
    free(p);
    (void)!hide(realloc(hide(p), size * 3));
}
static void realloc_of_freed_same_size(size_t size) {
    char *p = get(size);
    free(p);
    free(hide(realloc(hide(p), size)));
}

static char *get_aligned(size_t align, size_t size) {
    char *block = hide(aligned_alloc(align, size));
    if (block == NULL) {
        _exit(FAILED);
    }
    return block;
}
static void twice_aligned(size_t size) {
    char *p = get_aligned(64, size);
    free(p);
    free(hide(p));
}
static void twice_aligned_to_pages(size_t size) {
    char *p = get_aligned(4096, size);
    free(p);
    free(hide(p));
}
static void twice_by_realloc_to_nothing(size_t size) {
    char *p = get(size);
    free(p);
    (void)!hide(realloc(hide(p), 0));
}
static void *get_it(void *size) {
    return get((size_t)size);
}
static void twice_of_dead_thread(size_t size) {
    pthread_t thread;
    void *p;
    if (pthread_create(&thread, NULL, get_it, (void *)size) != 0 || pthread_join(thread, &p) != 0) {
        _exit(FAILED);
    }
    free(p);
    free(hide(p));
}
static void twice_of_calloc_written(size_t size) {
    char *p = hide(calloc(1, size));
    free(p);
    memset(p, 0x33, size < 64 ? size : 64);
    free(hide(p));
}
static void twice_all_of_many(size_t size) {
    enum { BLOCKS = 50 };
    char *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = get(size);
    }
    for (size_t i = 0; i < 2 * BLOCKS; i++) {
        free(hide(blocks[i % BLOCKS]));
    }
}
static void realloc_of_freed_smaller(size_t size) {
    char *p = get(size);
    free(p);
    free(hide(realloc(hide(p), size / 2 + 1)));
}

// --- A free of a pointer that is not the start of a block

static void unaligned(size_t size) {
    free(get(size) + 1);
}
static void unaligned_by_8(size_t size) {
    free(get(size) + 8);
}
static void unaligned_sized_delete(size_t size) {
    _ZdlPvm(hide(_Znwm(size)) + 8, size);
}
static void unaligned_realloc(size_t size) {
    (void)!hide(realloc(get(size) + 8, size * 2));
}
static void interior_by_16(size_t size) {
    if (size <= 16) {
        _exit(NO_CASE);
    }
    char *p = get(size);
    memset(p, 0, size);
    free(p + 16);
}
static void interior_middle(size_t size) {
    if (size < 64) {
        _exit(NO_CASE);
    }
    char *p = get(size);
    memset(p, 'x', size);
    free(p + size / 2 / 16 * 16);
}
static void interior_page(size_t size) {
    if (size < 8192) {
        _exit(NO_CASE);
    }
    char *p = get(size);
    memset(p, 0, size);
    free((char *)(((uintptr_t)p | 4095) + 1));
}
static void interior_of_aligned(size_t size) {
    if (size < 128) {
        _exit(NO_CASE);
    }
    free(get_aligned(4096, size) + 64);
}
static void interior_realloc_by_16(size_t size) {
    if (size <= 16) {
        _exit(NO_CASE);
    }
    (void)!hide(realloc(get(size) + 16, size * 2));
}
static void below_a_block(size_t size) {
    free(get(size) - 16);
}
static void cookie_below(size_t size) { // delete of a pointer from new[], which has a count below
    char *p = hide(_Znwm(size + 8));
    *(size_t *)p = 1;
    _ZdlPv(p + 8);
}
static void cookie_above(size_t size) { // delete[] of a pointer from new
    _ZdaPv(hide(_Znwm(size)) - 8);
}

// --- Memory of others

static char a_static[4096 * 4] __attribute__((aligned(4096)));

static void of_stack(size_t size) {
    char block[256] __attribute__((aligned(16)));
    (void)size;
    free(hide(block));
}
static void of_static(size_t size) {
    free(hide(a_static + size % 64 * 16));
}
static void of_static_page(size_t size) {
    (void)size;
    free(hide(a_static + 4096));
}
static void of_mmap(size_t size) {
    free(mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}
static void of_mmap_inside(size_t size) {
    char *p = mmap(NULL, size + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    free(p + 4096);
}
static void of_code(size_t size) {
    (void)size;
    free((void *)(uintptr_t)&of_code);
}
static void of_stack_by_sized_delete(size_t size) {
    char block[256] __attribute__((aligned(16)));
    _ZdlPvm(hide(block), size);
}
static void of_literal(size_t size) {
    (void)size;
    free((void *)((uintptr_t) "a literal, long enough to be aligned" & ~(uintptr_t)15));
}
static void of_environment(size_t size) {
    extern char **environ;
    (void)size;
    free(hide((void *)(((uintptr_t)environ[0] + 15) & ~(uintptr_t)15)));
}
static void of_thread_local(size_t size) {
    static __thread char block[64] __attribute__((aligned(16)));
    (void)size;
    free(hide(block));
}
static void of_no_rights(size_t size) {
    free(mmap(NULL, size + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}
static void not_canonical(size_t size) {
    free((void *)(UINT64_C(0x4141414141414000) + size / 16 * 16));
}
static void realloc_of_stack(size_t size) {
    char block[256] __attribute__((aligned(16)));
    (void)!hide(realloc(hide(block), size));
}
static void realloc_of_mmap(size_t size) {
    char *p = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)!hide(realloc(p + 64, size));
}
static void wild(size_t size) {
    free((void *)(0x123450 + size * 16));
}

// --- Writes beyond a block

static void over(size_t size, size_t bytes) {
    char *p = get(size);
    char *q = get(size);
    char *r = get(size);
    memset(p + malloc_usable_size(p), 'A', bytes);
    memset(q + malloc_usable_size(q), 'A', bytes);
    free(q);
    free(r);
    free(p);
}
static void over_by_1(size_t size) {
    over(size, 1);
}
static void over_by_8(size_t size) {
    over(size, 8);
}
static void over_by_16(size_t size) {
    over(size, 16);
}
static void over_by_64(size_t size) {
    over(size, 64);
}
static void over_aligned_by_8(size_t size) {
    char *p = get_aligned(64, size);
    char *q = get_aligned(64, size);
    char *r = get_aligned(64, size);
    memset(p + malloc_usable_size(p), 'A', 8);
    memset(q + malloc_usable_size(q), 'A', 8);
    free(q);
    free(r);
    free(p);
}
static void over_grown_by_8(size_t size) {
    char *p = hide(realloc(get(size / 2 + 1), size));
    char *q = get(size);
    char *r = get(size);
    memset(p + malloc_usable_size(p), 'A', 8);
    free(q);
    free(p);
    free(r);
}
static void over_then_realloc(size_t size) {
    char *p = get(size);
    char *q = get(size);
    char *r = get(size);
    memset(p + malloc_usable_size(p), 'A', 16);
    free(q);
    free(hide(realloc(p, size * 2)));
    free(r);
}
static void over_freed_by_thread(size_t size) {
    char *p = get(size);
    char *q = get(size);
    char *r = get(size);
    memset(p + malloc_usable_size(p), 'A', 16);
    in_thread(free_it, q);
    in_thread(free_it, r);
    in_thread(free_it, p);
}
static void under(size_t size, size_t bytes) {
    char *p = get(size);
    char *q = get(size);
    char *r = get(size);
    memset(q - bytes, 'A', bytes);
    free(q);
    free(p);
    free(r);
}
static void under_by_1(size_t size) {
    under(size, 1);
}
static void under_by_8(size_t size) {
    under(size, 8);
}
static void under_by_16(size_t size) {
    under(size, 16);
}
// Allocates and frees until freed blocks of that size come back.
static void reuse(size_t size) {
    void *blocks[200];
    size_t count = size > LARGE ? 40 : 200;
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < count; i++) {
            blocks[i] = get(size);
        }
        for (size_t i = 0; i < count; i++) {
            free(blocks[i]);
        }
    }
}
static void write_to_freed(size_t size) {
    char *p = get(size);
    char *q = get(size);
    free(q);
    free(p);
    memset(p, 'A', 16);
    reuse(size);
}
static void write_after_realloc_moved(size_t size) {
    char *p = get(size);
    char *keep = get(size);
    char *q = hide(realloc(p, size * 8 + 70000));
    if (q == p) {
        _exit(NO_CASE);
    }
    memset(p, 'A', 16);
    reuse(size);
    free(keep);
    free(q);
}
static void write_to_freed_and_twice(size_t size) {
    char *p = get(size);
    free(p);
    p[0] = 'A';
    free(hide(p));
}

// --- Wrong sizes and alignments

static void sized_delete_small(size_t size) {
    _ZdlPvm(hide(_Znwm(size)), size / 2);
}
static void sized_delete_large(size_t size) {
    _ZdlPvm(hide(_Znwm(size)), size * 2);
}
static void aligned_delete_of_plain(size_t size) {
    char *p = hide(_Znwm(size));
    _ZdlPvSt11align_val_t((uintptr_t)p % 4096 != 0 ? p : hide(_Znwm(size)), 4096);
}

#define KIND(name) \
    { #name, name }
static const struct {
    const char *name;
    void (*misuse)(size_t size);
} kinds[] = {
    KIND(twice),
    KIND(twice_by_delete),
    KIND(twice_by_sized_delete),
    KIND(twice_mixed),
    KIND(twice_one_between),
    KIND(twice_twenty_between),
    KIND(twice_many_between),
    KIND(twice_other_sizes_between),
    KIND(twice_reused),
    KIND(twice_trimmed),
    KIND(twice_two_threads),
    KIND(twice_after_fork),
    KIND(freed_after_realloc_moved),
    KIND(freed_after_realloc_to_nothing),
    KIND(realloc_of_freed),
    KIND(realloc_of_freed_same_size),
    KIND(twice_aligned),
    KIND(twice_aligned_to_pages),
    KIND(twice_by_realloc_to_nothing),
    KIND(twice_of_dead_thread),
    KIND(twice_of_calloc_written),
    KIND(twice_all_of_many),
    KIND(realloc_of_freed_smaller),
    KIND(unaligned),
    KIND(unaligned_by_8),
    KIND(unaligned_sized_delete),
    KIND(unaligned_realloc),
    KIND(interior_by_16),
    KIND(interior_middle),
    KIND(interior_page),
    KIND(interior_of_aligned),
    KIND(interior_realloc_by_16),
    KIND(below_a_block),
    KIND(cookie_below),
    KIND(cookie_above),
    KIND(of_stack),
    KIND(of_static),
    KIND(of_static_page),
    KIND(of_mmap),
    KIND(of_mmap_inside),
    KIND(of_code),
    KIND(of_stack_by_sized_delete),
    KIND(of_literal),
    KIND(of_environment),
    KIND(of_thread_local),
    KIND(of_no_rights),
    KIND(not_canonical),
    KIND(realloc_of_stack),
    KIND(realloc_of_mmap),
    KIND(wild),
    KIND(over_by_1),
    KIND(over_by_8),
    KIND(over_by_16),
    KIND(over_by_64),
    KIND(over_aligned_by_8),
    KIND(over_grown_by_8),
    KIND(over_then_realloc),
    KIND(over_freed_by_thread),
    KIND(under_by_1),
    KIND(under_by_8),
    KIND(under_by_16),
    KIND(write_to_freed),
    KIND(write_after_realloc_moved),
    KIND(write_to_freed_and_twice),
    KIND(sized_delete_small),
    KIND(sized_delete_large),
    KIND(aligned_delete_of_plain),
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static const size_t sizes[] = {8, 128, 1000, 4000, 20000, 1 << 20};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

// Allocates and frees blocks before the misuse, so that caches are in use.
static void warm(size_t size) {
    enum { ROUNDS = 3, BLOCKS = 70 };
    void *blocks[BLOCKS];
    size_t count = size > LARGE ? 3 : BLOCKS;
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < count; i++) {
            blocks[i] = get(size);
        }
        for (size_t i = 0; i < count; i++) {
            free(blocks[i]);
        }
    }
}

struct one {
    size_t kind;
    size_t size;
};

static int compare(const void *a, const void *b) {
    uintptr_t x = *(const uintptr_t *)a;
    uintptr_t y = *(const uintptr_t *)b;
    return x < y ? -1 : x > y;
}

// Allocates after the misuse. Exits with 1 if two blocks share bytes, or if one is not aligned.
static void go_on(size_t size) {
    enum { BLOCKS = 24 };
    uintptr_t blocks[BLOCKS];
    size_t count = size > LARGE ? 6 : BLOCKS;
    for (size_t i = 0; i < count; i++) {
        blocks[i] = (uintptr_t)get(size);
        if (blocks[i] % 16 != 0) {
            _exit(DAMAGED);
        }
    }
    qsort(blocks, count, sizeof blocks[0], compare);
    for (size_t i = 1; i < count; i++) {
        if (blocks[i] - blocks[i - 1] < size) {
            _exit(DAMAGED);
        }
    }
}

static void *run(void *arg) {
    const struct one *one = arg;
    warm(one->size);
    kinds[one->kind].misuse(one->size);
    go_on(one->size);
    _exit(SOUND);
}

static const char *outcome_of(const struct one *one, int in_another_thread) {
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20);
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        if (in_another_thread) {
            in_thread(run, (void *)(uintptr_t)one);
        }
        run((void *)(uintptr_t)one);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        exit(2);
    }
    if (WIFSIGNALED(status)) {
        return WTERMSIG(status) == SIGABRT ? "stopped" : "crashed";
    }
    switch (WEXITSTATUS(status)) {
    case SOUND:
        return "silent";
    case DAMAGED:
        return "damaged";
    case NO_CASE:
        return "none";
    default:
        return "failed";
    }
}

static void enter_state(const char *state) {
    enum { BLOCKS = 100000, SIZE = 100 };
    if (strcmp(state, "fresh") == 0) {
        return;
    }
    static void *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = memset(get(SIZE), 1, SIZE);
    }
    if (strcmp(state, "large") == 0) {
        return; // 10 MB of live blocks
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        free(blocks[i]);
    }
    malloc_trim(0);
}

int main(void) {
    static const char *const states[] = {"fresh", "large", "trimmed"};
    if (freopen("/dev/null", "w", stderr) == NULL) {
        return 2;
    }
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    for (size_t state = 0; state < sizeof states / sizeof states[0]; state++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            enter_state(states[state]);
            for (size_t kind = 0; kind < KINDS; kind++) {
                for (size_t size = 0; size < SIZES; size++) {
                    // Another thread is tried only where its heap differs most from the first's.
                    int threads = strcmp(states[state], "large") == 0 ? 2 : 1;
                    for (int thread = 0; thread < threads; thread++) {
                        const struct one one = {kind, sizes[size]};
                        printf("%s %zu %s %s %s\n", kinds[kind].name, sizes[size], states[state],
                               thread != 0 ? "another" : "first", outcome_of(&one, thread));
                    }
                }
            }
            fflush(stdout);
            _exit(0);
        }
        int status;
        if (waitpid(pid, &status, 0) != pid || status != 0) {
            return 1;
        }
    }
    return 0;
}
