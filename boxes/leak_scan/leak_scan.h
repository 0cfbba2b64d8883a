// SPDX-License-Identifier: Apache-2.0
// leak_scan: which sampled blocks nothing points to.
//
// A walk as a garbage collector's: from the memory that the program can write (globals, stacks,
// other mappings of its own) and the calling thread's registers to every block, sampled or not,
// that an aligned word points to or into, and on from there. What a heap block's word points to
// does not count while nothing leads to that block. Free blocks are not walked, and neither is what
// a thread's stack held before: of the calling thread's the part in use, of others' all of it.
//
// Other threads may run on meanwhile: what they move about may be taken for lost. Pointers that are
// not stored as such (compressed, xor'ed, in a file) are not seen. Allocates nothing: has its
// memory from mappings, a 64th of the heap and more where structures are deep, that it gives back.
#ifndef HAKMEM_BOXES_LEAK_SCAN_LEAK_SCAN_H
#define HAKMEM_BOXES_LEAK_SCAN_LEAK_SCAN_H

#include "boxes/base/base.h"
#include "boxes/heap_profile/heap_profile.h"

HAK_C_BEGIN

typedef void leak_scan_visitor(void *to, const struct heap_profile_sample *sample, bool reached);

// Calls `visit` for each live sample. False, and it is not called, if there is no memory, or the
// process's mappings cannot be read.
bool leak_scan(leak_scan_visitor *visit, void *to);
HAK_C_END

#endif
