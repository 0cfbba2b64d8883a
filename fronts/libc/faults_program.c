// SPDX-License-Identifier: Apache-2.0
// A program that uses all of the allocator while system calls fail on the script HAK_FAULTY. Checks
// that a call that fails returns NULL and ENOMEM, that a call fails only if a system call has
// failed in that very call, that a call that does not fail leaves errno alone, and that blocks keep
// their contents. Afterwards system calls no longer fail. Then the program checks that no call
// fails, that no memory is lost, and that all memory is given back.
//
//   faults_program alone|threads
//
// alone: one thread at a time, so that with HAK_FAULTY_CLOCK each run makes the same calls.
// Exits with 0 after a line "calls=N failures=N refused=N ..."; else with 1 after a line on stderr.
// Allocates nothing for itself.
#include "backends/faulty/faulty.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/size_class/size_class.h"
#include "boxes/statistics/statistics.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static void say(int fd, const char *text) {
    if (write(fd, text, strlen(text)) < 0) {
        _exit(3);
    }
}

static HAK_NORETURN void fault(const char *file, int line, const char *what) {
    char text[300];
    snprintf(text, sizeof text, "%s:%d: %s (errno %d, %llu failures, %llu here)\n", file, line,
             what, errno, (unsigned long long)faulty_failures(),
             (unsigned long long)faulty_failures_here());
    say(STDERR_FILENO, text);
    _exit(1);
}

#define CHECK(what)                           \
    do {                                      \
        if (!(what)) {                        \
            fault(__FILE__, __LINE__, #what); \
        }                                     \
    } while (0)

enum { ERRNO_BEFORE = 77 };

static _Atomic(uint64_t) refused; // calls of the allocator that returned NULL

static void *check_result(int line, const char *call, void *result, uint64_t failures) {
    if (result == NULL) {
        atomic_fetch_add(&refused, 1);
        if (errno != ENOMEM || faulty_failures_here() == failures) {
            fault(__FILE__, line, call);
        }
    } else if (errno != ERRNO_BEFORE || (uintptr_t)result % HAK_MIN_ALIGN != 0) {
        fault(__FILE__, line, call);
    }
    return result;
}

// Makes a call that returns a block, checks what it did, and yields its result.
#define CALL(call)                                         \
    ({                                                     \
        uint64_t failures_ = faulty_failures_here();       \
        errno = ERRNO_BEFORE;                              \
        void *result_ = (call);                            \
        check_result(__LINE__, #call, result_, failures_); \
    })

// --- Blocks that know their contents

struct block {
    unsigned char *p;
    size_t size;
    unsigned char mark;
};

// Returns the distance of the bytes of a block that are filled. Small blocks are filled whole,
// blocks of a few slabs in every page, and others in one or some pages of every slab: large blocks
// can only lose whole slabs.
static size_t stride(size_t size) {
    return size <= 4 * KIB ? 1 : size <= 128 * KIB ? 4 * KIB : size <= MIB ? 28 * KIB : 60 * KIB;
}

static void fill(const struct block *block) {
    for (size_t at = 0; at < block->size; at += stride(block->size)) {
        block->p[at] = block->mark;
    }
    block->p[block->size - 1] = block->mark;
}

// Checks the contents of the block in the first `size` bytes.
static bool good(const struct block *block, size_t size) {
    for (size_t at = 0; at < hak_min(size, block->size); at += stride(block->size)) {
        if (block->p[at] != block->mark) {
            return false;
        }
    }
    return size < block->size || block->p[block->size - 1] == block->mark;
}

static bool is_zero(const unsigned char *p, size_t size) {
    for (size_t at = 0; at < size; at += stride(size)) {
        if (p[at] != 0) {
            return false;
        }
    }
    return size == 0 || p[size - 1] == 0;
}

static void keep(struct block *block, void *p, size_t size, size_t i) {
    *block = (struct block){p, size, (unsigned char)(i * 7 + 1)};
    if (p != NULL) {
        CHECK(malloc_usable_size(p) >= size);
        fill(block);
    }
}

static void drop(struct block *block) {
    if (block->p != NULL) {
        CHECK(good(block, block->size));
        errno = ERRNO_BEFORE;
        free(block->p);
        CHECK(errno == ERRNO_BEFORE);
        block->p = NULL;
    }
}

static void resize(struct block *block, size_t size) {
    unsigned char *p = CALL(realloc(block->p, size));
    if (p == NULL) {
        CHECK(block->p == NULL || good(block, block->size));
        return;
    }
    struct block moved = {p, block->size, block->mark};
    CHECK(block->p == NULL || good(&moved, size));
    block->p = p;
    block->size = size;
    CHECK(malloc_usable_size(p) >= size);
    fill(block);
}

// --- The parts of the program. Each part frees all blocks that it allocates.

enum { BLOCKS = 400 };

struct room {
    struct block blocks[BLOCKS];
};

static void drop_all(struct room *room, size_t step) {
    for (size_t i = 0; i < BLOCKS; i += step) {
        drop(&room->blocks[i]);
    }
}

static void tiny(struct room *room) {
    // Several blocks of every bin; then holes, a trim, and the holes are filled again.
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = size_class_usable(1 + (unsigned)(i % (SIZE_CLASS_BINS - 1)));
        keep(&room->blocks[i], CALL(malloc(size)), size, i);
    }
    drop_all(room, 2);
    malloc_trim(0);
    for (size_t i = 0; i < BLOCKS; i += 2) {
        size_t size = 1 + i * 37 % 2000;
        unsigned char *p = CALL(calloc(1, size));
        CHECK(p == NULL || is_zero(p, size));
        keep(&room->blocks[i], p, size, i);
    }
    for (size_t i = 0; i < BLOCKS; i += 5) {
        resize(&room->blocks[i], 1 + i * 53 % 6000);
    }
    drop_all(room, 1);
}

static void large(struct room *room) {
    static const size_t sizes[] = {40 * KIB, 64 * KIB,    65 * KIB, 300 * KIB,
                                   MIB,      3 * MIB + 5, 33 * MIB};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    for (size_t i = 0; i < 3 * SIZES; i++) {
        keep(&room->blocks[i], CALL(malloc(sizes[i % SIZES])), sizes[i % SIZES], i);
    }
    drop_all(room, 2);
    for (size_t i = 0; i < 3 * SIZES; i += 2) {
        size_t size = sizes[i % SIZES] - 100;
        unsigned char *p = CALL(calloc(size / 4, 4));
        CHECK(p == NULL || is_zero(p, size / 4 * 4));
        keep(&room->blocks[i], p, size / 4 * 4, i);
    }
    drop_all(room, 3);
    malloc_trim(0);
    drop_all(room, 1);
}

static void aligned(struct room *room) {
    for (size_t i = 0; i < 60; i++) {
        size_t align = (size_t)32 << (i % 18); // up to 4 MiB
        size_t size = i % 3 == 0 ? 1 + i * 31 : i % 3 == 1 ? 50 * KIB + i : align;
        void *p = NULL;
        if (i % 2 == 0) {
            p = CALL(aligned_alloc(align, size));
        } else {
            uint64_t failures = faulty_failures_here();
            errno = ERRNO_BEFORE;
            int result = posix_memalign(&p, align, size);
            CHECK(result == (p == NULL ? ENOMEM : 0));
            check_result(__LINE__, "posix_memalign", p, failures);
        }
        CHECK((uintptr_t)p % align == 0);
        keep(&room->blocks[i], p, size, i);
    }
    keep(&room->blocks[60], CALL(valloc(100)), 100, 60);
    keep(&room->blocks[61], CALL(pvalloc(5000)), 8192, 61);
    keep(&room->blocks[62], CALL(reallocarray(NULL, 300, 300)), 90000, 62);
    drop_all(room, 1);
}

static void growth(struct room *room) {
    // Blocks that grow in turn are in each other's way: they grow in place, are copied, and moved.
    size_t size = 20;
    for (size_t round = 0; size < 2 * MIB; round++, size += size / 2 + 13) {
        for (size_t i = 0; i < 4; i++) {
            resize(&room->blocks[i], size + i);
        }
    }
    for (size_t i = 0; i < 4; i++) {
        resize(&room->blocks[i], 3 * MIB >> (4 * i));
    }
    // A block with room behind it, and the run that its pages leave behind when they move.
    resize(&room->blocks[4], 2 * MIB);
    keep(&room->blocks[5], CALL(malloc(100 * KIB)), 100 * KIB, 5);
    resize(&room->blocks[4], 9 * MIB);
    keep(&room->blocks[6], CALL(calloc(1, 2 * MIB)), 2 * MIB, 6);
    malloc_trim(0);
    errno = 0;
    CHECK(realloc(room->blocks[5].p, PTRDIFF_MAX) == NULL && errno == ENOMEM);
    CHECK(room->blocks[5].p == NULL || good(&room->blocks[5], 100 * KIB));
    if (room->blocks[6].p != NULL) {
        CHECK(good(&room->blocks[6], 2 * MIB));
        free_sized(room->blocks[6].p, 2 * MIB);
        room->blocks[6].p = NULL;
    }
    drop_all(room, 1);
}

static void churn(struct room *room) {
    // So many blocks of some bins that caches spill, and slabs come and go.
    static const struct {
        size_t size, blocks;
    } kinds[] = {{24, BLOCKS},   {100, BLOCKS}, {200, BLOCKS},
                 {1000, BLOCKS}, {9000, 40},    {30000, 20}};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (int round = 0; round < 3; round++) {
            for (size_t i = 0; i < kinds[k].blocks; i++) {
                keep(&room->blocks[i], CALL(malloc(kinds[k].size)), kinds[k].size, i);
            }
            drop_all(room, round == 1 ? 3 : 1);
            drop_all(room, 1);
        }
    }
}

static void all_parts(struct room *room) {
    tiny(room);
    large(room);
    aligned(room);
    growth(room);
    churn(room);
    malloc_trim(0);
}

// --- Threads
//
// The threads have stacks of this program: libc keeps its own stacks, and a block of the heap for
// each.

enum { THREADS = 3, STACK = 256 << 10 };

struct thread {
    pthread_t id;
    bool started;
    struct room room;
    char *stack;
};

static struct room main_room;
static struct thread threads[THREADS];

static void *short_life(void *arg) {
    struct thread *me = arg;
    tiny(&me->room);
    for (size_t i = 0; i < BLOCKS; i++) { // main() frees these blocks.
        size_t size = i % 40 == 0 ? 70 * KIB : 1 + i * 3;
        keep(&me->room.blocks[i], CALL(malloc(size)), size, i);
    }
    return NULL;
}

static void *long_life(void *arg) {
    struct thread *me = arg;
    all_parts(&me->room);
    return short_life(arg);
}

static void start(struct thread *thread, void *(*run)(void *)) {
    pthread_attr_t attr;
    CHECK(pthread_attr_init(&attr) == 0);
    CHECK(pthread_attr_setstack(&attr, thread->stack, STACK) == 0);
    uint64_t failures = faulty_failures();
    thread->started = pthread_create(&thread->id, &attr, run, thread) == 0;
    CHECK(thread->started || faulty_failures() > failures);
    CHECK(pthread_attr_destroy(&attr) == 0);
}

static void join(struct thread *thread) {
    if (thread->started) {
        CHECK(pthread_join(thread->id, NULL) == 0);
    }
    drop_all(&thread->room, 1);
}

static void one_after_the_other(void) {
    for (int i = 0; i < THREADS; i++) {
        start(&threads[i], short_life);
        if (threads[i].started) {
            CHECK(pthread_join(threads[i].id, NULL) == 0);
            threads[i].started = false;
        }
    }
    for (int i = 0; i < THREADS; i++) {
        join(&threads[i]);
    }
}

static void together(void) {
    for (int i = 0; i < THREADS; i++) {
        start(&threads[i], long_life);
    }
    all_parts(&main_room);
    for (int i = 0; i < THREADS; i++) {
        join(&threads[i]);
    }
}

static void in_a_child(void) {
    struct block kept;
    keep(&kept, CALL(malloc(5000)), 5000, 1);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        drop(&kept);
        tiny(&main_room);
        large(&main_room);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    drop(&kept);
}

// --- No memory is lost

// Checks that every slab of the range is free, set aside, held or lost to another mapping, and that
// the statistics know the holder of every held slab.
static void check_range(const struct hak_stats *stats) {
    struct page_arena_window window = page_arena_get_window();
    size_t high = page_arena_high();
    size_t free_slabs = 0;
    size_t taken = 0; // slabs that other mappings took after the kernel had unmapped them
    for (size_t slab = 0; slab < high; slab++) {
        struct page_arena_group *group = &window.groups[slab / ARENA_GROUP_SLABS];
        if (!page_arena_reaches(slab)) {
            continue;
        }
        bool is_free = atomic_bitmap_test(group->avail, slab % ARENA_GROUP_SLABS);
        free_slabs += is_free;
        taken += !is_free && atomic_bitmap_test(group->gone, slab % ARENA_GROUP_SLABS);
    }
    struct page_arena_stats arena;
    page_arena_get_stats(&arena);
    size_t held = page_arena_held();
    // In the hardened flavour a freed block may wait without memory, so that held slabs are gone,
    // too.
    size_t all = stats->reserved >> ARENA_SLAB_SHIFT;
    size_t found = free_slabs + arena.aside_slabs + held;
    CHECK(found + taken >= all && found + (HAK_HARDENED ? 0 : taken) <= all);
    size_t known = stats->tiny_slabs + stats->large_slabs + stats->heap_slabs + stats->spare_slabs;
    // In the hardened flavour freed large blocks wait.
    CHECK(HAK_HARDENED ? held >= known : held == known);
}

static void live(bool with_threads) {
    all_parts(&main_room);
    one_after_the_other();
    in_a_child();
    if (with_threads) {
        together();
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    bool with_threads = strcmp(argv[1], "threads") == 0;
    for (int i = 0; i < THREADS; i++) {
        threads[i].stack =
            mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(threads[i].stack != MAP_FAILED);
    }
    struct hak_stats before; // what libc has allocated by now
    hak_stats(&before);

    live(with_threads);
    struct hak_stats stats;
    hak_stats(&stats);
    check_range(&stats);
    uint64_t calls = faulty_calls();
    uint64_t failures = faulty_failures();
    faulty_set(&(struct faulty_script){.kinds = 0});

    live(with_threads); // Now no system call fails.
    malloc_trim(0);
    hak_stats(&stats);
    check_range(&stats);
    CHECK(stats.tiny_live == before.tiny_live);
    CHECK(stats.large_live == before.large_live && stats.large_slabs == before.large_slabs);
    CHECK(HAK_HARDENED || stats.tiny_slabs <= before.tiny_slabs); // In that flavour slabs stay.
    CHECK(stats.tiny_cached == 0);
    CHECK(stats.dirty == 0);

    char text[100];
    snprintf(text, sizeof text, "calls=%llu failures=%llu refused=%llu", (unsigned long long)calls,
             (unsigned long long)failures, (unsigned long long)atomic_load(&refused));
    say(STDOUT_FILENO, text);
    for (int kind = 0; kind < FAULTY_KINDS; kind++) {
        snprintf(text, sizeof text, " %s=%llu", faulty_name(kind),
                 (unsigned long long)faulty_calls_of(kind));
        say(STDOUT_FILENO, text);
    }
    say(STDOUT_FILENO, "\n");
    return 0;
}
