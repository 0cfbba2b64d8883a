// SPDX-License-Identifier: Apache-2.0
// profile_file: the heap profile as a file.
//
// In pprof's format (profile.proto, gzipped), with mappings, build ids and the names of functions:
// what was allocated, and what of it lives, in objects and in bytes as asked for. A file whose name
// ends in ".folded" is a text instead, a line a stack of calls, "outermost;...;innermost BYTES",
// with the bytes that live, and with those that were allocated if it ends in ".alloc.folded".
//
// One writer at a time in a process. Async-signal-safe; has its memory from mappings that it gives
// back. Nothing here touches errno.
#ifndef HAKMEM_BOXES_PROFILE_FILE_PROFILE_FILE_H
#define HAKMEM_BOXES_PROFILE_FILE_PROFILE_FILE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { PROFILE_PATH_MOST = 1280 };

// Writes the profile of now. The file is written under another name and then renamed, so that no
// reader sees half of one; below /dev it is written as it is. False if it could not be written, or
// another writer is at work.
bool profile_file_write(const char *path);

// The name that a pattern stands for: %p is the process's number, %t the time in seconds since
// 1970, %n the number of the profile, from 1, and %% a %. In a child that a process has forked a
// pattern without %p has ".NUMBER" of the process put before the name's extension. False if the
// name would be too long.
bool profile_file_name(const char *pattern, uint64_t nth, bool child, char *path);

// For the child of a fork: no other writer is there.
void profile_file_after_fork(void);
HAK_C_END

#endif
