// SPDX-License-Identifier: Apache-2.0
#include "boxes/decay/decay.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/large_block/large_block.h"
#include "boxes/medium_block/medium_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/probe/probe.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/thread_heap/thread_heap.h"

#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

static struct {
    _Atomic(uint64_t) due_ms; // clock before which no step is due
    _Atomic(uint64_t) lease;  // the thread that does a step, see take_lease(); 0: none
    _Atomic(uint64_t) beat;   // clock of the background thread's last look; 0: there is none
    // Written by the thread that has the lease, with HAK_POKE.
    uint64_t round_ms; // when this round began
    uint64_t round_ns; // the time that this round has taken so far
    uint64_t last_ns;  // when the last step ended
    size_t arena_cursor;
    size_t pool_cursor;
    size_t medium_cursor;
    size_t grown;        // slabs without pages put to use before the last step of growth
    size_t grown_cursor; // where the next step of growth begins
    enum { IDLE, ARENA, POOL, MEDIUM } phase;
    bool round_gave; // the round has given something back
    _Atomic(uint64_t) steps, ns, longest, rounds, pages;
} state;

// A step of growth is due when the pool has put GROWTH_EACH slabs without pages to use, and gives
// back about GROWTH_PAGES pages at most.
enum { GROWTH_EACH = 8, GROWTH_PAGES = 256 };

// A step is made of slices, small enough for the step to read the clock between them.
enum { SLICE_SLABS = 16, SLICE_LOOKS = 16, SLICE_PAGES = 64, SLICE_WORDS = 1024 };

// Counts pages of slabs in use and of chunks that a step or a slice of one has given back. Returns
// how many.
static size_t count_pages(size_t pages) {
    atomic_fetch_add_explicit(&state.pages, pages, memory_order_relaxed);
    if (pages != 0) {
        probe_purge(pages * HAK_PAGE);
    }
    return pages;
}

// Does one slice of the round, and adds the number of pages that it gave back to *given. Returns
// false at the end of the round. A refusal of the kernel ends the walk over one kind of memory,
// because the rest would probably be refused too. The cursor stays, and the next round goes on
// behind the refused place.
static bool slice(uint32_t age_ms, bool all, size_t *given) {
    if (HAK_PEEK(&state.phase) == ARENA) {
        size_t cursor = HAK_PEEK(&state.arena_cursor);
        struct page_arena_purged done = page_arena_purge(&cursor, age_ms, SLICE_SLABS, SLICE_WORDS);
        if (done.slabs != 0) {
            probe_purge(done.slabs * ARENA_SLAB);
        }
        *given += done.slabs * (ARENA_SLAB / HAK_PAGE);
        HAK_POKE(&state.arena_cursor, cursor);
        if (cursor == 0 || done.failed) {
            HAK_POKE(&state.phase, POOL);
        }
        return true;
    }
    if (HAK_PEEK(&state.phase) == POOL) {
        struct shared_pool_walk walk = {.cursor = HAK_PEEK(&state.pool_cursor), .all = all};
        shared_pool_purge(&walk, SLICE_LOOKS, SLICE_PAGES);
        HAK_POKE(&state.pool_cursor, walk.cursor);
        *given += count_pages(walk.pages);
        if (walk.cursor == 0 || walk.refused) {
            HAK_POKE(&state.phase, MEDIUM);
        }
        return true;
    }
    struct medium_block_walk walk = {.cursor = HAK_PEEK(&state.medium_cursor), .all = all};
    medium_block_purge(&walk, SLICE_LOOKS, SLICE_PAGES);
    HAK_POKE(&state.medium_cursor, walk.cursor);
    *given += count_pages(walk.pages);
    if (walk.cursor == 0 || walk.refused) {
        HAK_POKE(&state.phase, IDLE);
        return false;
    }
    return true;
}

static void count_step(uint64_t begin, uint64_t end) {
    uint64_t took = end - begin;
    atomic_fetch_add_explicit(&state.steps, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&state.ns, took, memory_order_relaxed);
    if (took > atomic_load_explicit(&state.longest, memory_order_relaxed)) {
        atomic_store_explicit(&state.longest, took, memory_order_relaxed);
    }
}

static void begin_round(uint64_t now) {
    HAK_POKE(&state.round_ms, now);
    HAK_POKE(&state.round_ns, 0);
    HAK_POKE(&state.round_gave, false);
    HAK_POKE(&state.phase, ARENA);
    large_block_age(settings_get(SETTING_DECAY_MS) == 0);
}

// A round has just ended: returns the clock at which the next one may begin.
static uint64_t next_round(uint64_t half, uint64_t now) {
    uint64_t next = HAK_PEEK(&state.round_ms) + half + 1;
    // If a walk over a large heap finds nothing, the next one begins later.
    uint64_t rest = HAK_PEEK(&state.round_ns) * DECAY_REST / 1000000;
    return HAK_PEEK(&state.round_gave) ? next : hak_max(next, now + rest);
}

// Does a step of at most `most_ns`. Returns the clock at which the next step is due.
static uint64_t step(int64_t decay, uint64_t now, uint64_t most_ns) {
    uint64_t begin = os_now_ns();
    if (HAK_PEEK(&state.phase) == IDLE) {
        begin_round(now);
    }
    size_t given = 0;
    bool more = true;
    uint64_t end = begin;
    while (more && end - begin < most_ns) {
        more = slice((uint32_t)decay, decay == 0, &given);
        end = os_now_ns();
    }
    if (given > 0) {
        count_step(begin, end);
        HAK_POKE(&state.round_gave, true);
    }
    HAK_POKE(&state.last_ns, end);
    HAK_POKE(&state.round_ns, HAK_PEEK(&state.round_ns) + (end - begin));
    if (!more) {
        atomic_fetch_add_explicit(&state.rounds, 1, memory_order_relaxed);
        return next_round((uint64_t)decay / 2, now);
    }
    return now + (DECAY_SHARE - 1) * (end - begin) / 1000000;
}

uint64_t decay_idle_ms(void) {
    int64_t decay = settings_get(SETTING_DECAY_MS);
    return decay < 0 ? UINT64_MAX : (uint64_t)decay / 2;
}

// The lease is the clock at which it was taken, and a mark of the thread that took it. A thread can
// take the lease if no thread has it, if it has run out, or if the thread has it itself, because
// the thread left the earlier step by a jump.
static bool take_lease(uint64_t now, uint64_t *lease) {
    enum { MARK_BITS = 8 };
    uint64_t seen = atomic_load_explicit(&state.lease, memory_order_relaxed);
    uint8_t mark = hak_thread_mark();
    if (seen != 0 && (uint8_t)seen != mark &&
        (int64_t)(now - (seen >> MARK_BITS)) < DECAY_LEASE_MS) {
        return false;
    }
    *lease = now << MARK_BITS | mark;
    return atomic_compare_exchange_strong(&state.lease, &seen, *lease);
}

static void do_step(int64_t decay, uint64_t now, uint64_t most_ns) {
    uint64_t lease;
    if (now >= atomic_load_explicit(&state.due_ms, memory_order_relaxed) &&
        take_lease(now, &lease)) {
        atomic_store(&state.due_ms, step(decay, now, most_ns));
        atomic_compare_exchange_strong(&state.lease, &lease, 0);
    }
}

// Returns true if there is a background thread. One that has not looked at the clock for long does
// not exist any more, as in a child of _Fork().
static bool has_background(uint64_t now) {
    enum { GONE_MS = 10000 };
    uint64_t beat = atomic_load_explicit(&state.beat, memory_order_relaxed);
    return beat != 0 && (int64_t)(now - beat) < GONE_MS;
}

// A heap may grow while pages of its slabs are idle, because the program wants other sizes than the
// free blocks have. Then these pages go back before they are old: for each slab without pages that
// the pool puts to use, DECAY_GROWTH others are visited, and those whose blocks have not moved
// since the last visit lose their idle pages.
static HAK_NOINLINE void grow_step(size_t grown) {
    struct shared_pool_walk walk = {.cursor = HAK_PEEK(&state.grown_cursor), .apart = true};
    size_t look = hak_min(grown - HAK_PEEK(&state.grown), (size_t)2 * GROWTH_EACH) * DECAY_GROWTH;
    HAK_POKE(&state.grown, grown);
    shared_pool_purge(&walk, look, GROWTH_PAGES);
    HAK_POKE(&state.grown_cursor, walk.cursor);
    count_pages(walk.pages);
}

void decay_tick(uint64_t now) {
    int64_t decay = settings_get(SETTING_DECAY_MS);
    size_t grown;
    if (DECAY_GROWTH != 0 && shared_pool_grown(&grown) &&
        HAK_UNLIKELY(grown - HAK_PEEK(&state.grown) >= GROWTH_EACH) && decay >= 0 &&
        !has_background(now) && !os_is_outside()) {
        grow_step(grown);
    }
    if (decay < 0 || now < atomic_load_explicit(&state.due_ms, memory_order_relaxed) ||
        has_background(now) || os_is_outside()) {
        return;
    }
    uint64_t most = (os_now_ns() - HAK_PEEK(&state.last_ns)) / DECAY_SHARE;
    most = hak_min(hak_max(most, DECAY_STEP_LEAST_US * 1000), DECAY_STEP_MOST_US * 1000);
    do_step(decay, now, most);
}

// Gives back the pages of all free slabs but `keep`, highest address first, because claims take the
// lowest. Returns the number of slabs.
static size_t trim_to(size_t keep) {
    size_t given = 0;
    size_t cursor = 0;
    page_arena_purge(&cursor, INT32_MAX, 1, 1); // releases the slabs that are set aside
    for (;;) {
        size_t dirty = page_arena_dirty();
        size_t now = dirty <= keep ? 0 : page_arena_purge_highest(dirty - keep);
        if (now == 0) {
            return given;
        }
        given += now;
    }
}

static size_t purge_all(void) {
    size_t given = 0;
    size_t cursor = 0;
    do {
        given += page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX).slabs;
    } while (cursor != 0);
    return given;
}

size_t decay_all(size_t keep) {
    struct shared_pool_walk pool = {.all = true};
    do {
        shared_pool_purge(&pool, SIZE_MAX, SIZE_MAX);
    } while (pool.cursor != 0);
    struct medium_block_walk medium = {.all = true};
    do {
        medium_block_purge(&medium, SIZE_MAX, SIZE_MAX);
    } while (medium.cursor != 0);
    large_block_age(true);
    size_t slabs = keep / ARENA_SLAB + (keep % ARENA_SLAB != 0);
    return pool.pages + medium.pages +
           (slabs == 0 ? purge_all() : trim_to(slabs)) * (ARENA_SLAB / HAK_PAGE);
}

static void *background(void *arg) {
    (void)arg;
    for (;;) {
        int64_t decay = settings_get(SETTING_DECAY_MS);
        int64_t pause = decay / 8 < 5 ? 5 : decay / 8 > 100 ? 100 : decay / 8;
        struct timespec t = {0, (long)pause * 1000000};
        nanosleep(&t, NULL);
        uint64_t now = os_now_ms();
        atomic_store(&state.beat, now);
        do_step(decay, now, UINT64_MAX);
    }
    return NULL;
}

// Adds the size of an object's thread-local storage, which takes room on each thread's stack.
static int add_tls(struct dl_phdr_info *info, size_t size, void *sum) {
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type == PT_TLS) {
            *(size_t *)sum += info->dlpi_phdr[i].p_memsz + info->dlpi_phdr[i].p_align;
        }
    }
    return 0;
}

// Returns pthread_create()'s error. If libc finds the stack too small, tries larger ones.
static int start_thread(void) {
    enum { STACK = 64 << 10, STACK_MOST = 256 << 20 };
    size_t stack = STACK;
    dl_iterate_phdr(add_tls, &stack);
    stack = hak_round_up(stack, HAK_PAGE);
    pthread_attr_t attr;
    pthread_t thread;
    int error = pthread_attr_init(&attr);
    if (error == 0) {
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        do {
            pthread_attr_setstacksize(&attr, stack);
            error = pthread_create(&thread, &attr, background, NULL);
            stack *= 2;
        } while (error == EINVAL && stack <= STACK_MOST);
        pthread_attr_destroy(&attr);
    }
    return error;
}

void decay_start(void) {
    if (settings_get(SETTING_BACKGROUND) == 0 || settings_get(SETTING_DECAY_MS) < 0) {
        return;
    }
    // The program's signals are not for this thread.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (start_thread() == 0) {
        atomic_store(&state.beat, os_now_ms());
    } else {
        diag_warn_setting(settings_table[SETTING_BACKGROUND].name, "1",
                          "no thread could be started; memory goes back on cache misses");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void decay_after_fork(void) {
    // In the child, misses do the steps. If a thread was doing a step, it is gone; the cursors that
    // it left can be used.
    atomic_store(&state.beat, 0);
    atomic_store(&state.lease, 0);
}

void decay_get_stats(struct decay_stats *stats) {
    *stats = (struct decay_stats){
        .steps = atomic_load(&state.steps),
        .ns = atomic_load(&state.ns),
        .longest = atomic_load(&state.longest),
        .rounds = atomic_load(&state.rounds),
        .pages = atomic_load(&state.pages),
    };
}

HAK_LAYOUT(decay_layout,
           HAK_ROWS(HAK_VARIABLE("decay.steps", state.steps), HAK_VARIABLE("decay.ns", state.ns),
                    HAK_VARIABLE("decay.longest", state.longest),
                    HAK_VARIABLE("decay.pages", state.pages)),
           HAK_ROWS());
