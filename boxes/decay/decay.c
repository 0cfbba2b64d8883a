#include "boxes/decay/decay.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/thread_heap/thread_heap.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

static struct {
    _Atomic(uint64_t) due_ms; // clock before which nobody needs to look
    _Atomic(int) busy;        // a thread is at it; never waited for
    _Atomic(int) background;  // the thread runs
    _Atomic(bool) pending;    // the last round gave something back, or left something to the next
    _Atomic(bool) pressure;   // see under_pressure()
    _Atomic(uint64_t) pressure_ms; // when that was looked at
    // Written by the busy thread only.
    uint64_t round_ms; // when this round began
    uint64_t last_ns;  // when the last step ended
    size_t arena_cursor;
    size_t pool_cursor;
    enum { IDLE, ARENA, POOL } phase;
    bool round_left; // slabs were in use too recently
    bool round_gave;
    _Atomic(uint64_t) steps, ns, longest, rounds, pages;
} state;

// Slices small enough to look at the clock in between.
enum { SLICE_SLABS = 16, SLICE_LOOKS = 64, SLICE_PAGES = 64 };

// One slice of the round. False at its end.
static bool slice(uint32_t age_ms, bool all, size_t *given) {
    if (state.phase == ARENA) {
        *given +=
            page_arena_purge(&state.arena_cursor, age_ms, SLICE_SLABS) * (ARENA_SLAB / HAK_PAGE);
        if (state.arena_cursor == 0) {
            state.phase = POOL;
        }
        return true;
    }
    bool left = false;
    size_t pages = shared_pool_purge(&state.pool_cursor, SLICE_LOOKS, SLICE_PAGES, all, &left);
    state.round_left |= left;
    atomic_fetch_add_explicit(&state.pages, pages, memory_order_relaxed);
    *given += pages;
    if (state.pool_cursor == 0) {
        state.phase = IDLE;
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

// A step of at most `most_ns`. Returns the clock at which the next one is due.
static uint64_t step(int64_t decay, uint64_t now, uint64_t most_ns) {
    uint64_t begin = os_now_ns();
    if (state.phase == IDLE) {
        uint64_t next = state.round_ms + (uint64_t)decay / 2;
        if (now < next && state.round_ms != 0) {
            return next;
        }
        state.round_ms = now;
        state.phase = ARENA;
        state.arena_cursor = 0;
        state.pool_cursor = 0;
        state.round_left = false;
        state.round_gave = false;
        atomic_store_explicit(&state.pending, true, memory_order_relaxed);
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
    }
    state.last_ns = end;
    state.round_gave |= given > 0;
    if (!more) {
        atomic_store_explicit(&state.pending,
                              state.round_left || state.round_gave || page_arena_dirty() > 0,
                              memory_order_relaxed);
        atomic_fetch_add_explicit(&state.rounds, 1, memory_order_relaxed);
        return state.round_ms + (uint64_t)decay / 2 + 1;
    }
    // A third of the time at most goes into this.
    return now + (2 * (end - begin)) / 1000000;
}

uint64_t decay_idle_ms(void) {
    int64_t decay = settings_get(SETTING_DECAY_MS);
    return decay < 0 ? UINT64_MAX : (uint64_t)decay / 2;
}

// Looked at once in a tick of the coarse clock.
static bool under_pressure(uint64_t now) {
    const int64_t least = 64 << 20;
    uint64_t seen = atomic_load_explicit(&state.pressure_ms, memory_order_relaxed);
    if (seen != now && atomic_compare_exchange_strong(&state.pressure_ms, &seen, now)) {
        struct shared_pool_totals pool = shared_pool_get_totals();
        int64_t out = thread_heap_bytes();
        int64_t dirty = (int64_t)(page_arena_dirty() << ARENA_SLAB_SHIFT);
        int64_t idle = (int64_t)(pool.slabs - pool.clean) - out + dirty;
        int64_t held =
            (int64_t)(page_arena_held() << ARENA_SLAB_SHIFT) + dirty - (int64_t)pool.clean;
        atomic_store_explicit(&state.pressure, idle > least && idle > held / 2,
                              memory_order_relaxed);
    }
    return atomic_load_explicit(&state.pressure, memory_order_relaxed);
}

static enum decay_need need(uint64_t now) {
    if (under_pressure(now)) {
        return DECAY_PRESSURE;
    }
    return atomic_load_explicit(&state.pending, memory_order_relaxed) ? DECAY_PENDING
                                                                      : DECAY_NOTHING;
}

enum decay_need decay_tick(uint64_t now) {
    int64_t decay = settings_get(SETTING_DECAY_MS);
    if (decay < 0 || atomic_load_explicit(&state.background, memory_order_relaxed) != 0) {
        return DECAY_NOTHING;
    }
    int idle = 0;
    if (now >= atomic_load_explicit(&state.due_ms, memory_order_relaxed) &&
        atomic_compare_exchange_strong(&state.busy, &idle, 1)) {
        uint64_t most = (os_now_ns() - state.last_ns) / 3;
        most = most < DECAY_STEP_LEAST_US * 1000u ? DECAY_STEP_LEAST_US * 1000u : most;
        most = most > DECAY_STEP_MOST_US * 1000u ? DECAY_STEP_MOST_US * 1000u : most;
        atomic_store(&state.due_ms, step(decay, now, most));
        atomic_store(&state.busy, 0);
    }
    return need(now);
}

size_t decay_all(void) {
    size_t given = 0;
    size_t cursor = 0;
    do {
        given += shared_pool_purge(&cursor, SIZE_MAX, SIZE_MAX, true, NULL);
    } while (cursor != 0);
    do {
        given += page_arena_purge(&cursor, 0, SIZE_MAX) * (ARENA_SLAB / HAK_PAGE);
    } while (cursor != 0);
    return given;
}

static void *background(void *arg) {
    (void)arg;
    for (;;) {
        int64_t decay = settings_get(SETTING_DECAY_MS);
        int64_t pause = decay / 8 < 5 ? 5 : decay / 8 > 100 ? 100 : decay / 8;
        struct timespec t = {0, (long)pause * 1000000};
        nanosleep(&t, NULL);
        uint64_t now = os_now_ms();
        int idle = 0;
        if (now >= atomic_load(&state.due_ms) &&
            atomic_compare_exchange_strong(&state.busy, &idle, 1)) {
            atomic_store(&state.due_ms, step(decay, now, UINT64_MAX));
            atomic_store(&state.busy, 0);
        }
    }
    return NULL;
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
    pthread_attr_t attr;
    pthread_t thread;
    if (pthread_attr_init(&attr) == 0) {
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attr, 64 << 10);
        if (pthread_create(&thread, &attr, background, NULL) == 0) {
            atomic_store(&state.background, 1);
        }
        pthread_attr_destroy(&attr);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void decay_after_fork(void) {
    // Misses do the steps from here on. Whoever was at one is gone; his cursors are good.
    atomic_store(&state.background, 0);
    atomic_store(&state.busy, 0);
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
