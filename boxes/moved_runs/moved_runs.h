// SPDX-License-Identifier: Apache-2.0
// moved_runs: the runs of slabs whose pages were moved by the page table.
//
// The kernel keeps a run whose pages were moved as a mapping of its own, which cannot merge with
// its neighbours before it is mapped afresh: the process has up to two mappings more. A process has
// 65,530 mappings unless vm.max_map_count says otherwise, and the program wants some for itself. So
// each moved run is noted here. Without room for a note, nothing is moved.
//
// Only a thread that holds all slabs of a run writes the run's entry; any thread may read it at any
// time. Thread-safe, lock-free; callable from anywhere. If a thread ends in the middle of a call
// (in a forked child), an entry may stay whose run is no mapping: that costs a place in the table.
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

// Notes a run. Returns false if there is no room: MOVED_RUNS_MOST runs are noted, or one for each
// 72 mappings that the kernel grants. Threads that note runs at the same time may exceed that by a
// few.
bool moved_runs_add(struct moved_run run);

// Replaces entry `index`, which is `was`, by `now` (a run of 0 slabs removes the entry). Returns
// false, and changes nothing, if the entry is no longer `was`.
bool moved_runs_change(size_t index, struct moved_run was, struct moved_run now);

// Returns entry `index`, which is below moved_runs_end(); a run of 0 slabs if the entry is empty.
struct moved_run moved_runs_at(size_t index);

// Returns one past the last entry that was ever used. The number never falls.
size_t moved_runs_end(void);

// How many runs are noted; exact when no other thread adds or changes one.
size_t moved_runs_count(void);
HAK_C_END

#endif
