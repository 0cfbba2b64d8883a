// SPDX-License-Identifier: Apache-2.0
// profile: decides when a heap profile is written.
//
// Part of the front. With HAKMEM_PROFILE=FILE allocations are sampled from the library's start on,
// and profiles are written at exit and, by further settings, when a signal comes, after a number of
// bytes and after a number of seconds. Without the setting nothing is sampled.
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

// For programs. Writes the present profile to `path`, or to the file that HAKMEM_PROFILE names if
// `path` is NULL. Returns false if nothing is sampled, if the file cannot be written, or if another
// thread is writing a profile. Async-signal-safe; any thread may call at any time.
bool hak_profile_dump(const char *path);
HAK_C_END

#endif
