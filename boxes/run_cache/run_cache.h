// SPDX-License-Identifier: Apache-2.0 run_cache: keeps runs of slabs that were freed a moment ago,
// for threads that are likely to want them again.
//
// A run is a number of adjacent slabs. The cache is 8 lines of 8 places. A thread puts runs into
// one line, which it may share with others, and takes a run of exactly the length it wants from
// there: one atomic step each. Whoever takes a run has it; nothing here knows what a slab is.
//
// Thread-safe, lock-free; callable from anywhere. Where a thread ends in the middle of a call (in a
// forked child) the run in its hands is lost, and the cache is as good as before. Nothing here
// calls anything.
#ifndef HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_H
#define HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

// Build setting: slabs in a run that is kept, at most (1..255). 0: nothing is kept.
#ifndef RUN_CACHE_MOST
#    define RUN_CACHE_MOST 5 // a block of 256 KiB and its colour
#endif

enum { RUN_CACHE_LINES = 8, RUN_CACHE_WAYS = 8 };

#define RUN_CACHE_NONE SIZE_MAX

struct run_cache_run {
    size_t from;  // index of the first slab, below 2^56
    size_t slabs; // 0: there is no run
};

// Takes a run of exactly `slabs` slabs out of the thread's line; RUN_CACHE_NONE if it has none.
size_t run_cache_take(size_t slabs);

// Puts a run of 1 or more slabs into the thread's line. The answer is the caller's: the run that
// had to make room, or this run if it is too long; mostly it is none (of 0 slabs).
struct run_cache_run run_cache_put(size_t from, size_t slabs);

// Takes a run out of the thread's line, looking at the places from *cursor (0 at first) on; of 0
// slabs when it has looked at all.
struct run_cache_run run_cache_take_own(unsigned *cursor);

// Takes a run out of any line, from place *cursor (0 at first) on. Returns a run of 0 slabs after
// the last place. No place is visited twice, so a loop of calls ends whatever other threads do.
struct run_cache_run run_cache_take_any(unsigned *cursor);

// Slabs in the cache; exact when no other thread uses it.
size_t run_cache_slabs(void);

// For readers outside of the process, see layout.h.
extern const struct hak_layout run_cache_layout;
HAK_C_END

#endif
