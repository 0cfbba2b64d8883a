// SPDX-License-Identifier: Apache-2.0
// dirty_ceiling: how much free memory that still has pages ("dirty" memory) frees may leave behind.
//
// Time alone is no bound: a process that frees all its memory and goes to sleep makes no call in
// which memory could be given back. So a free that finds more than the ceiling gives the surplus
// back, in proportion to its own size. The ceiling is the largest of
// - DIRTY_CEILING_LEAST,
// - a quarter of the slabs held, up to DIRTY_CEILING_SMALL: a small heap changes as a whole,
// - one part in DIRTY_CEILING_SHARE of the slabs held,
// - a quarter more than the largest draw in this period or the one before. The draw is the number
//   of free slabs that were claimed again and have not been freed since. A program that allocates
//   and frees in phases pays for the first phase only, as slabs that it claims in place of those
//   that were given back count for the draw as well. A program that claims a slab and frees it,
//   over and over, has a draw of one.
//
// All figures are numbers of slabs (64 KiB). Thread-safe; orders no other memory, as the figures
// are guesses about what a program will do. The box calls no other box.
#ifndef HAKMEM_BOXES_DIRTY_CEILING_DIRTY_CEILING_H
#define HAKMEM_BOXES_DIRTY_CEILING_DIRTY_CEILING_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Build setting: slabs that may always stay. SIZE_MAX: frees give nothing back.
#ifndef DIRTY_CEILING_LEAST
#    define DIRTY_CEILING_LEAST 16 // 1 MiB
#endif

enum {
    DIRTY_CEILING_SMALL = 128, // 8 MiB
    DIRTY_CEILING_SHARE = 8,
    DIRTY_CEILING_STEP = 32,  // a smaller surplus is not worth a system call
    DIRTY_CEILING_MOST = 128, // the most that one free gives back: 8 MiB, some 0.7 ms
    DIRTY_CEILING_MISSES = 8, // after so many frees in a row that give nothing back, none tries
};

// Returns how many slabs a free of `freed` slabs is to give back: 0, or DIRTY_CEILING_STEP to
// DIRTY_CEILING_MOST, and over several frees no more than twice the slabs that they freed. `dirty`
// is the number of free slabs with pages, with those just freed; `held` is the number of slabs in
// use; `now_ms` is a clock that may wrap; `period_ms` (> 0) is how long a draw counts.
size_t dirty_ceiling_surplus(size_t dirty, size_t held, size_t freed, uint32_t now_ms,
                             uint32_t period_ms);

// To be called when `given` slabs of a surplus were given back. If DIRTY_CEILING_MISSES calls in a
// row gave back next to nothing, because the kernel did not take the slabs or none was found, all
// free slabs with pages (`dirty`) may stay for this period and the next one.
void dirty_ceiling_count_given(size_t dirty, size_t surplus, size_t given);

// To be called when `slabs` slabs were claimed, `dirty` of them with pages.
void dirty_ceiling_count_claimed(size_t slabs, size_t dirty);
HAK_C_END

#endif
