// SPDX-License-Identifier: Apache-2.0
// profile: decides when a heap profile is written.
//
// Part of the front. With HAKMEM_PROFILE=FILE allocations are sampled from the library's start on,
// and profiles are written at exit and, by further settings, when a signal comes, after a number of
// bytes and after a number of seconds. HAKMEM_LEAKS=1 samples, too, and writes no profile.
#ifndef HAKMEM_FRONTS_LIBC_PROFILE_H
#define HAKMEM_FRONTS_LIBC_PROFILE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Called by the library's constructor, in the child of a fork, and by the destructor.
void profile_start(void);
void profile_after_fork(void);
void profile_finish(void);

// Called after each sample: writes a profile if one is due.
void profile_tick(void);

// For programs; see hakmem.h.
bool hak_profile_dump(const char *path);
HAK_C_END

#endif
