// SPDX-License-Identifier: Apache-2.0
// Declarations that the files of the C front share, besides those of hit_path.h.
#ifndef HAKMEM_FRONTS_LIBC_LIBC_H
#define HAKMEM_FRONTS_LIBC_LIBC_H

#include "include/hakmem/hakmem.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Allocate as slow_alloc() does; NULL and ENOMEM mean out of memory. slow_zero_alloc() returns a
// block that is all zero. slow_grown_alloc() is for a block above SIZE_CLASS_TINY_MAX to which
// realloc will move a block that has outgrown its place.
void *slow_zero_alloc(size_t size);
void *slow_grown_alloc(size_t size);
// Does the thread's share of the housekeeping, as every slow call does.
void slow_tick(void);

// As slow_aligned_alloc(), for a large block that is all zero. `size` is not 0.
void *slow_zero_aligned_alloc(size_t align, size_t size);

#ifdef __cplusplus
}
#endif

#endif
