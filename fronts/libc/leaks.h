// SPDX-License-Identifier: Apache-2.0
// leaks: reports the blocks that are live when the program ends, by the calls that allocated them.
//
// Part of the front. HAKMEM_LEAKS=1 samples allocations, as HAKMEM_PROFILE does, and writes a
// report to stderr at exit: each stack of calls whose sampled blocks are live and lost (nothing
// points to them), with the bytes that these blocks stand for, and how much more is live. At
// HAKMEM_PROFILE_RATE=1 the figures are exact.
#ifndef HAKMEM_FRONTS_LIBC_LEAKS_H
#define HAKMEM_FRONTS_LIBC_LEAKS_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Called by the library's destructor.
void leaks_report(void);
HAK_C_END

#endif
