// SPDX-License-Identifier: Apache-2.0
// leaks: what is live when the program ends, by the calls that allocated it.
//
// Part of the front. HAKMEM_LEAKS=1 has allocations sampled, as HAKMEM_PROFILE does, and a report
// written to stderr at exit: each stack of calls whose sampled blocks are live and lost (nothing
// points to them), with what they stand for, and how much more is live. At HAKMEM_PROFILE_RATE=1
// that is exact.
#ifndef HAKMEM_FRONTS_LIBC_LEAKS_H
#define HAKMEM_FRONTS_LIBC_LEAKS_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// From the library's destructor.
void leaks_report(void);
HAK_C_END

#endif
