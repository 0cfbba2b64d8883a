// SPDX-License-Identifier: Apache-2.0
// run_cache: keeps runs of slabs that were freed a moment ago, for threads that are likely to want
// them again.
//
// A run is a number of adjacent slabs. The cache has 64 lines of 8 places. Each thread takes from
// one line, that of its hak_thread_slot(). It takes the start of the shortest run that is long
// enough, and the rest of that run stays. Runs are put into the line of the thread that is likely
// to want them. Adjacent runs in a line are joined. Each change is one atomic step. The thread that
// takes a run owns it. The cache knows slabs by their numbers only.
//
// Thread-safe and lock-free; callable from anywhere. If a thread ends in the middle of a call, as
// the other threads of a forking process do in the child, the runs that it had in its hands are
// lost, and the cache stays valid. The box calls no other box.
#ifndef HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_H
#define HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

// Build settings. RUN_CACHE_MOST: the most slabs in a run that the cache keeps, whatever the caller
// allows (1..255; 0: the cache keeps nothing). If RUN_CACHE_SPLIT is 0, runs are neither joined nor
// split, and a run is taken only as a whole, for a request of exactly its length.
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

// Takes `slabs` adjacent slabs out of the thread's line: a run of that length, or the start of a
// longer run. Returns the first slab, or RUN_CACHE_NONE if the line has no such run.
size_t run_cache_take(size_t slabs);

// Puts a run of 1 or more slabs into a line, which should then hold at most `most` slabs. Returns a
// run that the caller has to free: a run that made room for this one, or this run itself if it is
// too long, or no longer than the others in a full line. In most calls that run is empty (0 slabs).
// If the returned run is not empty, the line may still hold more than `most` slabs: then the caller
// goes on with run_cache_evict().
struct run_cache_run run_cache_put(unsigned line, size_t from, size_t slabs, size_t most);

// Takes a run out of a line if the line holds more than `most` slabs. Otherwise returns an empty
// run.
struct run_cache_run run_cache_evict(unsigned line, size_t most);

// Returns the number of lines that a run was ever put into, 1..RUN_CACHE_LINES. That is about the
// number of threads that use the cache.
unsigned run_cache_lines(void);

// Takes a run out of the thread's line, from place *cursor on, and moves *cursor behind it. *cursor
// is 0 at the first call. Returns an empty run after the last place.
struct run_cache_run run_cache_take_own(unsigned *cursor);

// As run_cache_take_own(), for the places of all lines. No place is visited twice, so a loop of
// calls ends, whatever other threads do.
struct run_cache_run run_cache_take_any(unsigned *cursor);

// Returns the number of slabs in the cache. It is exact while no other thread uses the cache.
size_t run_cache_slabs(void);

// For readers outside the process; see layout.h.
extern const struct hak_layout run_cache_layout;
HAK_C_END

#endif
