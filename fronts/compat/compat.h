// SPDX-License-Identifier: Apache-2.0
// compat: shared by the fronts of other allocators' interfaces.
//
// Everything is called through the dynamic linker, by the names that programs use: whichever malloc
// serves the process serves these interfaces too, so that a block of the one can be freed by the
// other. What only hakmem can answer is asked of it by compat_is_served().
#ifndef HAKMEM_FRONTS_COMPAT_COMPAT_H
#define HAKMEM_FRONTS_COMPAT_COMPAT_H

#include "boxes/base/base.h"

HAK_C_BEGIN

#define COMPAT_EXPORT __attribute__((visibility("default")))

// Returns true if the process's malloc is hakmem's.
bool compat_is_served(void);

// Returns a block of `size` bytes (0 counts as 1) aligned to `align`, a power of two. Returns NULL
// and sets ENOMEM if there is no memory.
void *compat_alloc(size_t size, size_t align, bool zero);

// Returns the usable bytes of a block that compat_alloc() would return, 0 if it would return none.
size_t compat_good_size(size_t size, size_t align);

// Totals of the statistics, in bytes.
struct compat_totals {
    size_t allocated; // in live blocks
    size_t active; // in pages that hold them, or may hold small ones without a call of the kernel
    size_t dirty;  // in free slabs that have pages
    size_t metadata;
    size_t resident; // at most so much of all this is in memory
    size_t mapped;   // readable and writable
    size_t retained; // reserved address space besides
};
struct hak_stats;
struct compat_totals compat_totals_of(const struct hak_stats *stats);
HAK_C_END

#endif
