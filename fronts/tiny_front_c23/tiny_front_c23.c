// SPDX-License-Identifier: Apache-2.0
#include "fronts/tiny_front_c23/tiny_front_c23.h"

#include "boxes/settings/settings.h"
#include "boxes/thread_heap/thread_heap.h"

static unsigned refill(struct thread_heap *heap, unsigned bin) {
    unsigned want = (unsigned)settings_get(SETTING_C23_REFILL);
    want = want == 0 ? thread_heap_next_batch(heap, bin)
                     : (unsigned)hak_min(want, size_class_bins[bin].slots);
    return tiny_front_refill_direct(heap, bin, want);
}

static void spill(struct thread_heap *heap, unsigned bin) {
    tiny_front_spill_direct(heap, bin, thread_heap_spill_batch(heap, bin));
}

const struct tiny_front tiny_front_c23 = {"c23", refill, spill, NULL, NULL, NULL};
