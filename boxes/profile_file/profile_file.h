// SPDX-License-Identifier: Apache-2.0
// profile_file: the heap profile as a file.
//
// The file is in pprof's format (profile.proto, gzipped), with mappings, build ids and the names of
// functions. It has the allocated and the live objects and (requested) bytes of each stack. A file
// whose name ends in ".folded" is a text instead, with one line for each stack of calls,
// "outermost;...;innermost BYTES". BYTES is the live bytes, or the allocated bytes if the name ends
// in ".alloc.folded".
//
// A process has one writer at a time. Async-signal-safe; memory comes from mappings that are given
// back. Nothing here touches errno.
#ifndef HAKMEM_BOXES_PROFILE_FILE_PROFILE_FILE_H
#define HAKMEM_BOXES_PROFILE_FILE_PROFILE_FILE_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { PROFILE_PATH_MOST = 1280 };

// Writes the current profile. The file is written under another name and then renamed, so that no
// reader sees half of it; a file below /dev is written in place. Returns false if the file could
// not be written, or if another writer is at work.
bool profile_file_write(const char *path);

// Builds the name that a pattern stands for: %p is the process's number, %t the time in seconds
// since 1970, %n the number of the profile, from 1, and %% a %. In a forked child, a pattern
// without %p gets ".NUMBER" of the process before the name's extension. Returns false if the name
// would be too long.
bool profile_file_name(const char *pattern, uint64_t nth, bool child, char *path);

// To be called in a forked child, where no other writer exists.
void profile_file_after_fork(void);
HAK_C_END

#endif
