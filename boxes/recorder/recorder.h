// SPDX-License-Identifier: Apache-2.0
// recorder: a trace of a program's allocations and frees, as a file (trace_format.h).
//
// A recording thread takes one of a few lanes, appends its record to the lane's chunk (a part of
// the file that is mapped), and gives the lane back. So a killed process loses no record, and a
// thread that ends leaves nothing behind. Each new chunk opens the file by its name: the recorder
// keeps no descriptor that a program could close.
//
// Thread-safe. A call never waits for another thread: if no lane is free after many tries, the call
// is not recorded, and is counted as lost. The recorder allocates nothing and leaves errno as it
// was. The recording ends if the file cannot grow, or if a sandbox forbids that.
#ifndef HAKMEM_BOXES_RECORDER_RECORDER_H
#define HAKMEM_BOXES_RECORDER_RECORDER_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/recorder/trace_format.h"

HAK_C_BEGIN

enum { RECORDER_PATH_MOST = 1280 };

// Starts recording into the file `path`, which is overwritten if it exists. `path` is absolute and
// shorter than RECORDER_PATH_MOST. Returns false, and records nothing, if the file cannot be
// created.
bool recorder_start(const char *path, const char *program, const char *flavour);

// To be called in the child of a fork if the parent records: the child records into the file `path`
// from now on, which is created at the first recorded call. An empty path ends the recording.
void recorder_after_fork(const char *path);

HAK_INLINE bool recorder_is_on(void) {
    extern bool recorder_on __attribute__((visibility("hidden")));
    return HAK_UNLIKELY(HAK_PEEK(&recorder_on));
}

// Returns true if the call that the thread has just begun is to be recorded. Calls that the thread
// makes from then until recorder_leaves() are parts of that call, and are not recorded.
bool recorder_enters_recording(void);
HAK_INLINE bool recorder_enters(void) {
    return recorder_is_on() && recorder_enters_recording();
}
void recorder_leaves(void);

// To be called between recorder_enters() and recorder_leaves(): after an allocation (TRACE_MALLOC,
// TRACE_CALLOC or TRACE_ALIGNED; `block` is NULL if it failed), before a free, before a resize, and
// after a resize.
void recorder_allocated(enum trace_kind kind, const void *block, size_t size, size_t align);
void recorder_frees(const void *block);
void recorder_resizes(const void *block, size_t size);
void recorder_resized(const void *block);
HAK_C_END

#endif
