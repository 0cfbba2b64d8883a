// SPDX-License-Identifier: Apache-2.0
// decay: gives memory that has been idle for HAKMEM_DECAY_MS back to the kernel, in small steps.
//
// Two kinds of memory: free slabs that still have pages (page_arena), and pages without a live
// block inside slabs in use (shared_pool). One walk over both is a round. A round begins at the
// earliest half a decay time after the one before began, and at the earliest after a rest of
// DECAY_REST times the work of the last round if that gave nothing back. A thread that misses its
// cache does a step when one is due: for a bounded time, and for no more than one part in
// DECAY_SHARE of the time that passes. With HAKMEM_BACKGROUND=1 a background thread does the steps
// instead.
//
// Thread-safe. No thread waits. One thread at a time does a step, under a lease that runs out: a
// thread that never returns from a step (it left by longjmp(), or does not exist in this forked
// child) keeps others from steps for DECAY_LEASE_MS. Two threads that do a step at the same time do
// no harm.
#ifndef HAKMEM_BOXES_DECAY_DECAY_H
#define HAKMEM_BOXES_DECAY_DECAY_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

enum {
    DECAY_STEP_LEAST_US = 100, // what a step may take, however short the time since the last one
    DECAY_STEP_MOST_US = 500,  // what one malloc or free may pay, however long it was
    DECAY_SHARE = 8,
    DECAY_REST = 32,
    DECAY_LEASE_MS = 2000,
};

// For the miss path, with os_now_ms(): does a step if one is due.
void decay_tick(uint64_t now);

// Build setting: slabs that are looked at for each one that the heap grows by. 0: none.
#ifndef DECAY_GROWTH
#    define DECAY_GROWTH 4
#endif

// Returns how long caches may keep idle memory, in ms; UINT64_MAX: for ever.
uint64_t decay_idle_ms(void);

// Gives all idle memory back now, but for about `keep` bytes of free slabs. Returns the number of
// pages given back.
size_t decay_all(size_t keep);

// Starts the background thread if the settings ask for it; a warning line on stderr if it cannot.
// Called once, from the constructor.
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

// For readers outside of the process, see layout.h.
extern const struct hak_layout decay_layout;
HAK_C_END

#endif
