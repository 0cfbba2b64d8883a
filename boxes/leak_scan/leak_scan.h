// SPDX-License-Identifier: Apache-2.0
// leak_scan: finds the sampled blocks that nothing points to.
//
// The scan marks blocks as a garbage collector does. It starts at the memory that the program can
// write (globals, stacks, other mappings of the program) and at the calling thread's registers.
// Every block, sampled or not, is reached if an aligned word there points to it or into it, and so
// is every block to which a word of a reached block points. Free blocks are not read. Of the
// calling thread's stack only the part in use is read; other threads' stacks are read as a whole.
//
// Other threads may go on meanwhile; a block whose pointer they move may count as lost. Pointers
// that are not stored as such (compressed, xor'ed, in a file) are not seen. The scan's memory comes
// from mappings, which are given back: a 64th of the heap, and more if structures are deep.
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
