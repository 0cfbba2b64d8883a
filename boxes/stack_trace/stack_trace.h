// SPDX-License-Identifier: Apache-2.0
// stack_trace: the calls that led to here.
//
// Frames are found by the call frame information (.eh_frame) of the code they belong to, as an
// exception would find them, so that programs without frame pointers have whole stacks; code that
// has none, as that of a just-in-time compiler, is passed by its frame pointer where that points
// into the stack. What is known of an address is remembered.
//
// Works at any time: in a signal handler, on any stack, while another thread loads a library, and
// in a forked child. Allocates nothing, takes no lock, and reads no stack but on pages that can be
// read: a broken stack ends the trace. (In a sandbox, where the kernel cannot be asked which pages
// those are, only on pages of the main thread's stack and the page that the caller is on.)
#ifndef HAKMEM_BOXES_STACK_TRACE_STACK_TRACE_H
#define HAKMEM_BOXES_STACK_TRACE_STACK_TRACE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { STACK_TRACE_MOST = 128 };

// The return addresses of the current calls, innermost first, up to `most`. Those in the shared
// library that this box is part of are left out at the start. Returns how many.
unsigned stack_trace(uintptr_t *pcs, unsigned most);

// The same from the place where a signal has interrupted the thread (the registers of a
// ucontext_t). The first address is that of the interrupted instruction itself.
unsigned stack_trace_from(uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t *pcs, unsigned most);
HAK_C_END

#endif
