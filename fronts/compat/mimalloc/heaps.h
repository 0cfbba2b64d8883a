// SPDX-License-Identifier: Apache-2.0
// heaps: mimalloc's first-class heaps. The backing heap of every thread is malloc's; the others are
// private heaps of the thread that makes them. What a thread has not deleted when it ends is
// deleted then: its blocks stay.
#ifndef HAKMEM_FRONTS_COMPAT_MIMALLOC_HEAPS_H
#define HAKMEM_FRONTS_COMPAT_MIMALLOC_HEAPS_H

#include "fronts/compat/compat.h"

HAK_C_BEGIN

struct hak_heap;

struct mi_heap {
    struct hak_heap *heap;        // NULL: malloc's
    struct mi_heap *next, **link; // the thread's others
};

// The calling thread's default heap, which mi_malloc() and kin use.
extern __thread struct mi_heap *heaps_default __attribute__((tls_model("initial-exec")));

// The end of a call that failed: calls the handler of mi_register_error(), sets errno to `error`,
// and returns NULL.
void *heaps_fail(int error);

// A block of a heap; NULL and ENOMEM if there is no memory, or size or align is beyond what can be.
// All of a zeroed block is zero. The byte at `offset` is at the multiple of `align`; NULL and
// EINVAL if that is no power of two.
void *heaps_alloc(struct mi_heap *heap, size_t size, bool zero);
void *heaps_alloc_at(struct mi_heap *heap, size_t size, size_t align, size_t offset, bool zero);

// As realloc(), with the new block in that heap; a size of 0 gets a block too. The bytes by which
// the block grew are zero if `zero`.
void *heaps_realloc(struct mi_heap *heap, void *ptr, size_t size, bool zero);
void *heaps_realloc_at(struct mi_heap *heap, void *ptr, size_t size, size_t align, size_t offset,
                       bool zero);

// count * size, or false and EOVERFLOW.
bool heaps_product(size_t count, size_t size, size_t *total);

// Deletes the heaps that the thread has made.
void heaps_end_thread(void);
HAK_C_END

#endif
