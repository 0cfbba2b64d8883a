// run_cache: runs of slabs that were given back a moment ago and are likely to be asked for again.
//
// A run is a number of adjacent slabs. A thread puts a run into one of a few lines of eight, its
// own most of the time, and takes one of exactly the length it wants from there: one atomic step
// each. What the cache holds is whoever's who takes it; nothing here knows what a slab is.
//
// Thread-safe, lock-free; callable from anywhere, and usable after any single step of a thread
// that is gone. Nothing here calls anything.
#ifndef HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_H
#define HAKMEM_BOXES_RUN_CACHE_RUN_CACHE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Build setting: slabs in a run that is kept, at most (1..255). 0: nothing is kept.
#ifndef RUN_CACHE_MOST
#    define RUN_CACHE_MOST 4
#endif

enum { RUN_CACHE_LINES = 8, RUN_CACHE_WAYS = 8 };

#define RUN_CACHE_NONE SIZE_MAX

struct run_cache_run {
    size_t from;  // index of the first slab, below 2^56
    size_t slabs; // 0: there is no run
};

// Takes a run of exactly `slabs` slabs out of the thread's line; RUN_CACHE_NONE if it has none.
size_t run_cache_take(size_t slabs);

// Puts a run into the thread's line. The run that had to make room for it, if any, or the run
// itself if it is too long, is the caller's.
struct run_cache_run run_cache_put(size_t from, size_t slabs);

// Takes any run out of the places from *cursor on, 0 at first; of 0 slabs when there is no more.
// Looks at no place twice, so that the end comes whatever other threads do.
struct run_cache_run run_cache_take_any(unsigned *cursor);

// Slabs in the cache; exact when no other thread uses it.
size_t run_cache_slabs(void);
HAK_C_END

#endif
