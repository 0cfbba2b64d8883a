// SPDX-License-Identifier: Apache-2.0
#include "fronts/tiny_front_pool/tiny_front_pool.h"

#include "boxes/thread_heap/thread_heap.h"

static unsigned refill(struct thread_heap *heap, unsigned bin) {
    return tiny_front_refill_direct(heap, bin, thread_heap_next_batch(heap, bin));
}

static void spill(struct thread_heap *heap, unsigned bin) {
    tiny_front_spill_direct(heap, bin, thread_heap_spill_batch(heap, bin));
}

const struct tiny_front tiny_front_pool = {"pool", refill, spill, NULL, NULL, NULL};
