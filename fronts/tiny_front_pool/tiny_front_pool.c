// SPDX-License-Identifier: Apache-2.0
#include "fronts/tiny_front_pool/tiny_front_pool.h"

static unsigned refill(struct thread_heap *heap, unsigned bin) {
    return tiny_front_refill_direct(heap, bin, tiny_front_next_batch(heap, bin));
}

static void spill(struct thread_heap *heap, unsigned bin) {
    tiny_front_spill_direct(heap, bin, tiny_front_spill_batch(heap, bin));
}

const struct tiny_front tiny_front_pool = {"pool", refill, spill, NULL, NULL, NULL};
