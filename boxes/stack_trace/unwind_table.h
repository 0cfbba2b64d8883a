// SPDX-License-Identifier: Apache-2.0
// unwind_table: reads .eh_frame, the table of how to get from each function's frame to its
// caller's.
//
// Part of the box; see stack_trace.h. A table comes from a loaded object, which the dynamic linker
// vouches for: nothing here checks that a record ends where it says.
#ifndef HAKMEM_BOXES_STACK_TRACE_UNWIND_TABLE_H
#define HAKMEM_BOXES_STACK_TRACE_UNWIND_TABLE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Read a number at *at, and move *at past it: `bytes` (1, 2, 4 or 8) bytes, LEB128 without a sign,
// and LEB128 with one.
uint64_t unwind_read_bytes(const uint8_t **at, unsigned bytes);
uint64_t unwind_read_uleb(const uint8_t **at);
int64_t unwind_read_sleb(const uint8_t **at);

// The contents of a function's record, and of the common record that it names.
struct unwind_record {
    uintptr_t start, size;              // the function's code
    const uint8_t *common, *common_end; // instructions that come first
    const uint8_t *own, *own_end;
    uint64_t code_align;
    int64_t data_align;
    bool signal; // a signal's frame: its caller's pc is no return address
};

// Finds and reads the record of the function that `pc` is in, by the sorted table in .eh_frame_hdr
// at `header`. Returns false if there is none, or if compilers for this processor do not write its
// kind.
bool unwind_find(const uint8_t *header, uintptr_t pc, struct unwind_record *record);
HAK_C_END

#endif
