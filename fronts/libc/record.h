// SPDX-License-Identifier: Apache-2.0
// record: decides when calls are recorded (recorder.h), and in which file.
//
// Part of the front. With HAKMEM_RECORD=FILE each call that allocates or frees is recorded from the
// library's start on: malloc, the functions related to it, and the operators of C++.
#ifndef HAKMEM_FRONTS_LIBC_RECORD_H
#define HAKMEM_FRONTS_LIBC_RECORD_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Called by the library's constructor, and in the child of a fork, which records into a file of its
// own.
void record_start(const char *flavour);
void record_after_fork(void);
HAK_C_END

#endif
