// SPDX-License-Identifier: Apache-2.0
// record: when calls are recorded (recorder.h), and where.
//
// Part of the front. HAKMEM_RECORD=FILE has each call that allocates or frees recorded, from the
// library's start on: malloc and kin, and the operators of C++. Nothing is without the setting.
#ifndef HAKMEM_FRONTS_LIBC_RECORD_H
#define HAKMEM_FRONTS_LIBC_RECORD_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// From the library's constructor; in the child of a fork, which records into a file of its own.
void record_start(const char *flavour);
void record_after_fork(void);
HAK_C_END

#endif
