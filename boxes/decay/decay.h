// decay: gives memory that has been idle for HAKMEM_DECAY_MS back to the kernel, in small steps.
//
// Two kinds of memory: free slabs that still have pages (page_arena), and pages without a live
// block inside slabs in use (shared_pool). One walk over both is a round; a round begins at the
// earliest half a decay time after the one before began. Whoever misses its cache does a step when
// one is due: one thread at a time, for a bounded time, and no more than a quarter of the time that
// passes. With HAKMEM_BACKGROUND=1 a thread does the steps instead.
//
// Thread-safe; nobody waits.
#ifndef HAKMEM_BOXES_DECAY_DECAY_H
#define HAKMEM_BOXES_DECAY_DECAY_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum {
    DECAY_STEP_LEAST_US = 100,  // what a step may take, however short the time since the last one
    DECAY_STEP_MOST_US = 12000, // what one malloc or free may pay, however long it was
};

// What the caller's thread should know: there is, or may soon be, something to give back, so that a
// quiet thread had better come by again; or there is more to give back than is in use.
enum decay_need { DECAY_NOTHING, DECAY_PENDING, DECAY_PRESSURE };

// For the miss path, with os_now_ms(): does a step if one is due.
enum decay_need decay_tick(uint64_t now);

// How long memory may be idle, in ms: what caches go by. UINT64_MAX: for ever.
uint64_t decay_idle_ms(void);

// Gives back all that can be, now. Returns the pages given back.
size_t decay_all(void);

// Starts the background thread if the settings ask for it. Called once, from the constructor.
void decay_start(void);

// For pthread_atfork, in the child: there is no background thread any more.
void decay_after_fork(void);

struct decay_stats {
    uint64_t steps;   // that gave something back
    uint64_t ns;      // time they took
    uint64_t longest; // the longest of them, ns
    uint64_t rounds;  // finished
    uint64_t pages;   // given back in slabs in use
};
void decay_get_stats(struct decay_stats *stats);
HAK_C_END

#endif
