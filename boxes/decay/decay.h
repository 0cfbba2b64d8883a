// SPDX-License-Identifier: Apache-2.0
// decay: gives memory that has been idle for HAKMEM_DECAY_MS back to the kernel, in small steps.
//
// There are three kinds of such memory: free slabs that still have pages (page_arena), pages
// without a live block in slabs of small blocks (shared_pool), and free pages in chunks
// (medium_block). One walk over all of them is a round. A round begins half a decay time after the
// last one began, at the earliest. If the last round gave nothing back, the next one also waits for
// DECAY_REST times the time that the last one took. A thread that misses its cache does a step when
// one is due: for a bounded time, and for no more than one part in DECAY_SHARE of the time that
// passes. With HAKMEM_BACKGROUND=1 a background thread does the steps instead.
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
    DECAY_STEP_LEAST_US = 100, // a step may take so long, however recent the last one was
    DECAY_STEP_MOST_US = 500,  // a step of a malloc or free takes no longer
    DECAY_SHARE = 8,
    DECAY_REST = 32,
    DECAY_LEASE_MS = 2000,
};

// To be called at every miss, with os_now_ms(): does a step if one is due. While the pool puts many
// slabs without pages to use, also gives idle pages of other slabs back.
void decay_tick(uint64_t now);

// Build setting: for each slab without pages that the pool puts to use, so many slabs are looked at
// for idle pages. 0: none.
#ifndef DECAY_GROWTH
#    define DECAY_GROWTH 12
#endif

// Returns how long caches may keep idle memory, in ms; UINT64_MAX: for ever.
uint64_t decay_idle_ms(void);

// Gives all idle memory back now, except for about `keep` bytes of free slabs. Returns the number
// of pages given back.
size_t decay_all(size_t keep);

// Starts the background thread if the settings ask for it. Prints a warning on stderr if the thread
// cannot be started. Called once, from the constructor.
void decay_start(void);

// To be called in the child of a fork, which has no background thread any more.
void decay_after_fork(void);

struct decay_stats {
    uint64_t steps;   // steps that gave something back
    uint64_t ns;      // the time that these took
    uint64_t longest; // the time that the longest of them took, ns
    uint64_t rounds;  // finished rounds
    uint64_t pages;   // pages given back in slabs in use and in chunks
};
void decay_get_stats(struct decay_stats *stats);

// For readers outside of the process, see layout.h.
extern const struct hak_layout decay_layout;
HAK_C_END

#endif
