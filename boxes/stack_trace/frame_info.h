// SPDX-License-Identifier: Apache-2.0
// frame_info: how to get from a frame to its caller's, read from .eh_frame.
//
// Part of the box; see stack_trace.h. Of the registers only the three that every caller's frame is
// found by are kept: the stack pointer, the frame pointer and the program counter. The tables are
// those of loaded objects, which the dynamic linker vouches for; the stack is read by `peek`, which
// says whether it could be.
#ifndef HAKMEM_BOXES_STACK_TRACE_FRAME_INFO_H
#define HAKMEM_BOXES_STACK_TRACE_FRAME_INFO_H

#include "boxes/base/base.h"

HAK_C_BEGIN

struct frame {
    uintptr_t pc, sp, fp;
    bool exact; // pc is an instruction that has not been executed, and not a return address
};

// An object that is loaded: what it covers, and its .eh_frame_hdr (NULL: it has none).
struct frame_object {
    uintptr_t start, end;
    const uint8_t *header;
    bool program; // the main program's
};

typedef bool frame_peek(void *context, uintptr_t at, uint64_t *value);

// Returns false if nothing is known of code at `pc`.
bool frame_object_of(uintptr_t pc, struct frame_object *object);

enum frame_step {
    FRAME_CALLER,  // *frame is its caller's now
    FRAME_LAST,    // it has none
    FRAME_UNKNOWN, // no rule was found, and *frame is as it was
};
enum frame_step frame_info_step(struct frame *frame, frame_peek *peek, void *context);
HAK_C_END

#endif
