// SPDX-License-Identifier: Apache-2.0
// frame_info: finds the caller of a frame by the tables in .eh_frame.
//
// Part of the box; see stack_trace.h. Only three registers are kept, which suffice to find every
// caller's frame: the stack pointer, the frame pointer and the program counter. The tables are
// those of loaded objects, which the dynamic linker vouches for. The stack is read by `peek`, which
// returns false if the stack cannot be read there.
#ifndef HAKMEM_BOXES_STACK_TRACE_FRAME_INFO_H
#define HAKMEM_BOXES_STACK_TRACE_FRAME_INFO_H

#include "boxes/base/base.h"

HAK_C_BEGIN

struct frame {
    uintptr_t pc, sp, fp;
    bool exact; // pc is an instruction that has not been executed, and not a return address
};

// A loaded object.
struct frame_object {
    uintptr_t start, end;  // the addresses that it covers
    const uint8_t *header; // its .eh_frame_hdr; NULL: it has none
    bool program;          // it is the main program
};

typedef bool frame_peek(void *context, uintptr_t at, uint64_t *value);

// Finds the object with the code at `pc`. Returns false if there is none.
bool frame_object_of(uintptr_t pc, struct frame_object *object);

enum frame_step {
    FRAME_CALLER,  // *frame is the frame of the caller now
    FRAME_LAST,    // the frame has no caller
    FRAME_UNKNOWN, // no rule was found, and *frame is as it was
};

// Replaces a frame by its caller's. `context` is passed to `peek`.
enum frame_step frame_info_step(struct frame *frame, frame_peek *peek, void *context);
HAK_C_END

#endif
