// SPDX-License-Identifier: Apache-2.0
// guard: reports accesses beside or after a guarded block.
//
// Part of the front. HAKMEM_GUARD=N puts one allocation in about N against a page without access
// rights (guarded_block.h). An access to that page is reported on stderr: the access, the block,
// and the calls that made the access, allocated the block and freed it. Then the fault takes its
// course, to the program's own handler if it has one.
#ifndef HAKMEM_FRONTS_LIBC_GUARD_H
#define HAKMEM_FRONTS_LIBC_GUARD_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Called by the library's constructor.
void guard_start(void);

// Installs the handler again if the program has installed one of its own since. Called after each
// allocation of a guarded block.
void guard_keep_handler(void);

// Reports why a free of `ptr`, which is in the range of guarded blocks, is wrong, and stops the
// program.
HAK_NORETURN HAK_COLD void guard_misuse(const char *call, const void *ptr, const char *fault);
HAK_C_END

#endif
