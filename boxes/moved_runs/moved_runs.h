// SPDX-License-Identifier: Apache-2.0
// moved_runs: the runs of slabs whose pages were moved by the page table.
//
// The kernel keeps a run whose pages were moved as a mapping of its own, which cannot merge with
// its neighbours before it is mapped afresh: the process has up to two mappings more. A process has
// 65,530 mappings unless vm.max_map_count says otherwise, and the program wants some for itself. So
// each moved run is noted here. Without room for a note, nothing is moved.
//
// An entry is written by a thread that holds all slabs of its run; anyone may look at any time.
// Thread-safe, lock-free; callable from anywhere. Where a thread ends in the middle of a call (in a
// forked child) an entry stays whose run is not, or no longer, a mapping: that costs a place.
#ifndef HAKMEM_BOXES_MOVED_RUNS_MOVED_RUNS_H
#define HAKMEM_BOXES_MOVED_RUNS_MOVED_RUNS_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Build setting: runs that are noted at most. 0: no page is moved, all are copied.
#ifndef MOVED_RUNS_MOST
#    define MOVED_RUNS_MOST 900
#endif

struct moved_run {
    size_t from;  // index of the first slab, 1 to 2^32 - 1
    size_t slabs; // up to 2^32 - 1; 0: there is no run
};

// Notes a run. False if there is no room for it: MOVED_RUNS_MOST are noted, or one for each 72
// mappings that the kernel grants, and perhaps some more where threads note theirs at one time.
bool moved_runs_add(struct moved_run run);

// Puts `now` (of 0 slabs: nothing) in the place of `was`, entry `index`. False, and nothing
// happened, if the entry is not `was` any more.
bool moved_runs_change(size_t index, struct moved_run was, struct moved_run now);

// The entry `index` (below moved_runs_end()); of 0 slabs if there is none.
struct moved_run moved_runs_at(size_t index);

// One past the last entry that was ever used. Never falls.
size_t moved_runs_end(void);

// How many runs are noted; exact when no other thread adds or changes one.
size_t moved_runs_count(void);
HAK_C_END

#endif
