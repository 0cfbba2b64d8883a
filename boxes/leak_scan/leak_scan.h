// SPDX-License-Identifier: Apache-2.0
// leak_scan: which sampled blocks nothing points to.
//
// The scan marks blocks as a garbage collector does. It starts at the memory that the program can
// write (globals, stacks, other mappings of the program's) and at the calling thread's registers.
// Every block, sampled or not, that an aligned word there points to or into is reached, and so is
// what the words of a reached block point to. Free blocks are not read. Of the calling thread's
// stack the part in use is read, of other threads' stacks all.
//
// Other threads may go on meanwhile; a block whose pointer they move may be taken for lost.
// Pointers that are not stored as such (compressed, xor'ed, in a file) are not seen. The scan's
// memory comes from mappings, which are given back: a 64th of the heap, and more where structures
// are deep.
#ifndef HAKMEM_BOXES_LEAK_SCAN_LEAK_SCAN_H
#define HAKMEM_BOXES_LEAK_SCAN_LEAK_SCAN_H

#include "boxes/base/base.h"
#include "boxes/heap_profile/heap_profile.h"

HAK_C_BEGIN

typedef void leak_scan_visitor(void *to, const struct heap_profile_sample *sample, bool reached);

// Calls `visit` for each live sample. Returns false, and calls nothing, if there is no memory or if
// the process's mappings cannot be read.
bool leak_scan(leak_scan_visitor *visit, void *to);
HAK_C_END

#endif
