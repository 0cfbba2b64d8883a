// SPDX-License-Identifier: Apache-2.0
// profile: when a heap profile is written, and by whom it is asked for.
//
// Part of the front. HAKMEM_PROFILE=FILE has allocations sampled from the library's start on, and
// profiles written at exit, when a signal comes, after so many bytes and after so many seconds. All
// of that is off without the setting.
#ifndef HAKMEM_FRONTS_LIBC_PROFILE_H
#define HAKMEM_FRONTS_LIBC_PROFILE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// From the library's constructor; in the child of a fork; from its destructor.
void profile_start(void);
void profile_after_fork(void);
void profile_finish(void);

// After each sample: writes a profile if one is due.
void profile_tick(void);

// For programs. Writes the profile of now to `path`, or, if that is NULL, to the file that
// HAKMEM_PROFILE names. False if nothing is sampled, the file cannot be written, or a profile is
// being written. Async-signal-safe; any thread may call at any time.
bool hak_profile_dump(const char *path);
HAK_C_END

#endif
