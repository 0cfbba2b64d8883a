// SPDX-License-Identifier: Apache-2.0
// run_cache: keeps runs of slabs that were freed a moment ago, for threads that are likely to want
// them again.
//
// A run is a number of adjacent slabs. The cache has 64 lines of 8 places. A thread puts runs into
// one line, which few others share, and takes from there the start of the shortest run that is long
// enough; what is left of it stays. Adjacent runs of a line become one. Each change is one atomic
// step. Whoever takes a run has it; nothing here knows what a slab is.
//
// Thread-safe, lock-free; callable from anywhere. Where a thread ends in the middle of a call (in a
// forked child) the runs in its hands are lost, and the cache is as good as before. Nothing here
// calls anything.
#ifndef HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_H
#define HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

// Build settings: slabs that a line keeps at most, whatever its caller allows (1..255); 0: nothing
// is kept. And 0 leaves runs as they are put: a run is taken whole, by whoever asks for its length.
#ifndef RUN_CACHE_MOST
#    define RUN_CACHE_MOST 128 // 8 MiB
#endif
#ifndef RUN_CACHE_SPLIT
#    define RUN_CACHE_SPLIT 1
#endif

enum { RUN_CACHE_LINES = 64, RUN_CACHE_WAYS = 8 };

#define RUN_CACHE_NONE SIZE_MAX

struct run_cache_run {
    size_t from;  // index of the first slab, below 2^46
    size_t slabs; // 0: there is no run
};

// Takes a run of exactly `slabs` slabs out of the thread's line, as it is or from a longer one;
// RUN_CACHE_NONE if it has none.
size_t run_cache_take(size_t slabs);

// Puts a run of 1 or more slabs into the thread's line, which is to have no more than `most` slabs
// then. The answer is the caller's: a run that had to make room, or this run if it is too long;
// mostly it is none (of 0 slabs). The line may have more than `most` still: run_cache_evict().
struct run_cache_run run_cache_put(size_t from, size_t slabs, size_t most);

// Takes a run out of the thread's line if that has more than `most` slabs; of 0 slabs otherwise.
struct run_cache_run run_cache_evict(size_t most);

// Lines that a run was ever put into, 1..RUN_CACHE_LINES: about how many threads share the cache.
unsigned run_cache_lines(void);

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
