// SPDX-License-Identifier: Apache-2.0
// recorder: a trace of what a program allocates and frees, as a file (trace_format.h).
//
// A recording thread takes one of a few lanes, appends its record to the lane's chunk, which is a
// part of the file that is mapped, and lets go of the lane. So nothing is lost when the process
// dies, whatever kills it, and threads that end leave nothing behind. The file is opened by its
// name for each chunk: no descriptor is kept that a program could close.
//
// Thread-safe, and never waits for another thread: a call for which no lane is free after many
// tries is not recorded, and counted as lost. Allocates nothing, and leaves errno as it was. Where
// the file cannot grow, or a sandbox forbids it, the recording ends.
#ifndef HAKMEM_BOXES_RECORDER_RECORDER_H
#define HAKMEM_BOXES_RECORDER_RECORDER_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/recorder/trace_format.h"

HAK_C_BEGIN

enum { RECORDER_PATH_MOST = 1280 };

// Starts recording into a new file; what had its name is overwritten. `path` is absolute and
// shorter than RECORDER_PATH_MOST. False, and nothing is recorded, if it cannot be created.
bool recorder_start(const char *path, const char *program, const char *flavour);

// For the child of a fork, if the parent records: records into a file of its own, which is created
// at the first call. "": no more.
void recorder_after_fork(const char *path);

HAK_INLINE bool recorder_is_on(void) {
    extern bool recorder_on;
    return HAK_UNLIKELY(HAK_PEEK(&recorder_on));
}

// True if a call of the calling thread is to be recorded. Until recorder_leaves() calls that it
// makes are parts of it, and are not.
bool recorder_enters_recording(void);
HAK_INLINE bool recorder_enters(void) {
    return recorder_is_on() && recorder_enters_recording();
}
void recorder_leaves(void);

// Between the two: an allocation that was made (TRACE_MALLOC, TRACE_CALLOC or TRACE_ALIGNED), NULL
// if it got nothing; a free that is about to be made; a resize that is, and what came of it.
void recorder_allocated(enum trace_kind kind, const void *block, size_t size, size_t align);
void recorder_frees(const void *block);
void recorder_resizes(const void *block, size_t size);
void recorder_resized(const void *block);
HAK_C_END

#endif
