// SPDX-License-Identifier: Apache-2.0
// heaps: mimalloc's first-class heaps. The backing heap of every thread is malloc's heap. The
// others are private heaps of the thread that makes them. Heaps that a thread has not deleted when
// it ends are deleted then; their blocks stay.
#ifndef HAKMEM_FRONTS_COMPAT_MIMALLOC_HEAPS_H
#define HAKMEM_FRONTS_COMPAT_MIMALLOC_HEAPS_H

#include "fronts/compat/compat.h"

HAK_C_BEGIN

struct hak_heap;

struct mi_heap {
    struct hak_heap *heap;        // NULL: malloc's
    struct mi_heap *next, **link; // the thread's others
};

// Returns the calling thread's default heap, which mi_malloc() and kin use.
extern __thread struct mi_heap *heaps_default __attribute__((tls_model("initial-exec")));

// Ends a call that failed: calls the handler of mi_register_error(), sets errno to `error`, and
// returns NULL.
void *heaps_fail(int error);

// Returns a block of a heap. Returns NULL and sets ENOMEM if there is no memory, or if size or
// align is too large for any heap. All of a zeroed block is zero. The byte at `offset` is at a
// multiple of `align`; returns NULL and sets EINVAL if `align` is no power of two.
void *heaps_alloc(struct mi_heap *heap, size_t size, bool zero);
void *heaps_alloc_at(struct mi_heap *heap, size_t size, size_t align, size_t offset, bool zero);

// As realloc(), with the new block in that heap. A size of 0 gets a block too. With `zero`, the
// bytes by which the block grew are zero.
void *heaps_realloc(struct mi_heap *heap, void *ptr, size_t size, bool zero);
void *heaps_realloc_at(struct mi_heap *heap, void *ptr, size_t size, size_t align, size_t offset,
                       bool zero);

// Computes count * size. Returns false and sets EOVERFLOW if that is too large.
bool heaps_product(size_t count, size_t size, size_t *total);

// Deletes the heaps that the thread has made.
void heaps_end_thread(void);
HAK_C_END

#endif
