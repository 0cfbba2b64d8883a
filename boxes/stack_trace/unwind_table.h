// SPDX-License-Identifier: Apache-2.0
// unwind_table: reads .eh_frame, the table that tells for each function how to find the frame of
// its caller.
//
// Part of the box; see stack_trace.h. A table comes from a loaded object, which the dynamic linker
// vouches for: nothing here checks whether the lengths in a record are right.
#ifndef HAKMEM_BOXES_STACK_TRACE_UNWIND_TABLE_H
#define HAKMEM_BOXES_STACK_TRACE_UNWIND_TABLE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Read a number at *at, and move *at past it: a number of `bytes` (1, 2, 4 or 8) bytes, an unsigned
// LEB128 number, and a signed one.
uint64_t unwind_read_bytes(const uint8_t **at, unsigned bytes);
uint64_t unwind_read_uleb(const uint8_t **at);
int64_t unwind_read_sleb(const uint8_t **at);

// The contents of a function's record, and of the common record that it names.
struct unwind_record {
    uintptr_t start, size;              // the function's code
    const uint8_t *common, *common_end; // the common record's instructions, which come first
    const uint8_t *own, *own_end;       // the function's own instructions
    uint64_t code_align;
    int64_t data_align;
    bool signal; // a signal's frame: the caller's pc is not a return address
};

// Finds the record of the function that `pc` is in by the sorted table in .eh_frame_hdr at
// `header`, and reads the record. Returns false if there is none, or if it is of a kind that
// compilers for x86-64 do not write.
bool unwind_find(const uint8_t *header, uintptr_t pc, struct unwind_record *record);
HAK_C_END

#endif
