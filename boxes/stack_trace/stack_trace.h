// SPDX-License-Identifier: Apache-2.0
// stack_trace: the calls on the current stack.
//
// Frames are found by the call frame information (.eh_frame) of their code, as an exception finds
// them, so that stacks of programs without frame pointers are complete. Of code without that
// information, such as a just-in-time compiler's, the caller is found by the frame pointer, if that
// points into the stack. The rules that were found for an address are kept for the next time.
//
// Works at any time: in a signal handler, on any stack, while another thread loads a library, and
// in a forked child. Allocates nothing, takes no lock, and reads only pages that can be read: a
// broken stack ends the trace. (In a sandbox the kernel cannot be asked which pages can be read.
// Only pages of the main thread's stack, and the page that the caller is on, are read there.)
#ifndef HAKMEM_BOXES_STACK_TRACE_STACK_TRACE_H
#define HAKMEM_BOXES_STACK_TRACE_STACK_TRACE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { STACK_TRACE_MOST = 128 };

// Writes up to `most` return addresses of the current calls to pcs[], innermost first. Leaves out
// the first calls if they are within the shared library that this box is part of. Returns the
// number of addresses.
unsigned stack_trace(uintptr_t *pcs, unsigned most);

// As stack_trace(), from the place where a signal has interrupted the thread (the registers of a
// ucontext_t). The first address is that of the interrupted instruction.
unsigned stack_trace_from(uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t *pcs, unsigned most);
HAK_C_END

#endif
