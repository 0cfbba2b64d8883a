// SPDX-License-Identifier: Apache-2.0
#include "fronts/tiny_front_hardened/tiny_front_hardened.h"

#include "boxes/fast_cache/fast_cache.h"
#include "boxes/hardening/hardening.h"
#include "boxes/thread_heap/thread_heap.h"

#if HAK_HARDENED

#    include <string.h>

// Returns the least number of blocks for a random choice, as far as these take few pages.
static unsigned least(unsigned bin) {
    enum { CHOICE = 8, BYTES = 2 * HAK_PAGE };
    return (unsigned)hak_max(1, hak_min(CHOICE, BYTES / size_class_bins[bin].size));
}

static unsigned refill(struct thread_heap *heap, unsigned bin) {
    // Blocks are chosen from the cache, so there must be one.
    if (thread_heap_is_closed(heap, bin)) {
        thread_heap_enter(heap);
        if (!thread_heap_widen_to(heap, bin, FAST_CACHE_MIDDLE)) {
            thread_heap_widen_to(heap, bin, FAST_CACHE_WIDE);
        }
        thread_heap_leave(heap);
    }
    unsigned want = (unsigned)hak_max(thread_heap_next_batch(heap, bin), least(bin));
    return tiny_front_refill_direct(heap, bin, want);
}

static void spill(struct thread_heap *heap, unsigned bin) {
    tiny_front_spill_direct(heap, bin, thread_heap_spill_batch(heap, bin));
}

static void flush(struct thread_heap *heap, unsigned bin) {
    struct hardening_heap *state = heap->front_state;
    if (state == NULL || heap->cold[bin].behind == 0) {
        return;
    }
    void **places = state->blocks[bin];
    thread_heap_enter(heap);
    // Runs of places with a block go back together.
    for (unsigned at = 0; at < HARDENING_QUEUE_MOST; at++) {
        unsigned count = 0;
        while (at + count < HARDENING_QUEUE_MOST && places[at + count] != NULL) {
            count++;
        }
        if (count != 0) {
            tiny_front_give(heap, bin, &places[at], count);
            memset(&places[at], 0, count * sizeof *places);
            at += count;
        }
    }
    thread_heap_count_behind(heap, bin, -heap->cold[bin].behind);
    thread_heap_leave(heap);
}

static bool holds(const struct thread_heap *heap, unsigned bin, const void *block) {
    const struct hardening_heap *state = heap->front_state;
    for (unsigned at = 0; state != NULL && at < HARDENING_QUEUE_MOST; at++) {
        if (state->blocks[bin][at] == block) {
            return true;
        }
    }
    return false;
}

HAK_LAYOUT(tiny_front_hardened_layout,
           HAK_ROWS(HAK_VARIABLE("hardening.keys", hardening.keys),
                    HAK_VARIABLE("hardening.on", hardening.on),
                    HAK_VARIABLE("hardening.zero_most", hardening.zero_most)),
           HAK_ROWS(HAK_FIELD("quarantine.blocks", struct hardening_heap, blocks),
                    HAK_NUMBER("quarantine.most", HARDENING_QUEUE_MOST),
                    HAK_NUMBER("hardening.tags", HARDENING_TAGS),
                    HAK_NUMBER("hardening.slack", HARDENING_SLACK),
                    HAK_NUMBER("hardening.shift", HARDENING_SLACK_SHIFT),
                    HAK_NUMBER("hardening.canary", HARDENING_CANARY),
                    HAK_NUMBER("hardening.zero", HARDENING_ZERO),
                    HAK_NUMBER("hardening.zero_least", HARDENING_ZERO_LEAST)));

const struct tiny_front tiny_front_hardened = {
    "hardened", refill, spill, flush, holds, &tiny_front_hardened_layout,
};

#endif
