// SPDX-License-Identifier: Apache-2.0
#include "fronts/tiny_front/tiny_front.h"

#include "boxes/fast_cache/fast_cache.h"
#include "boxes/front_gate_classifier/front_gate.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"

static void flush(struct thread_heap *heap, unsigned bin) {
    if (tiny_front_of(bin)->flush != NULL) {
        tiny_front_of(bin)->flush(heap, bin);
    }
}

void tiny_front_start(void) {
    enum { C2 = 2, C3 = 3 };
    if (tiny_front_alternative != NULL && settings_get(SETTING_C23_SIMPLE) == 0) {
        HAK_POKE(&tiny_fronts[C2], tiny_front_alternative);
        HAK_POKE(&tiny_fronts[C3], tiny_front_alternative);
    }
    thread_heap_set_flush(flush);
}

static void count_moved(struct thread_heap *heap, unsigned bin, uint16_t *counter, unsigned count) {
    heap->missed[bin] = 1;
    *counter = (uint16_t)hak_min(*counter + count, UINT16_MAX);
}

unsigned tiny_front_take(struct thread_heap *heap, unsigned bin, void **blocks, unsigned want) {
    unsigned got = shared_pool_take(bin, blocks, want, &heap->hints[bin]);
    front_gate_mark(bin, blocks, got);
    count_moved(heap, bin, &heap->taken[bin], got);
    HAK_COUNT(&heap->counts.refills, 1);
    HAK_COUNT(&heap->counts.refilled, got);
    return got;
}

void tiny_front_give(struct thread_heap *heap, unsigned bin, void *const *blocks, unsigned count) {
    shared_pool_put(bin, blocks, count);
    count_moved(heap, bin, &heap->given[bin], count);
    HAK_COUNT(&heap->counts.spills, 1);
    HAK_COUNT(&heap->counts.spilled, count);
}

void *tiny_front_take_one(struct thread_heap *heap, unsigned bin) {
    void *block = NULL;
    tiny_front_begin(heap);
    unsigned got = tiny_front_take(heap, bin, &block, 1);
    tiny_front_end(heap);
    return got == 0 ? NULL : block;
}

void tiny_front_give_one(struct thread_heap *heap, unsigned bin, void *block) {
    tiny_front_begin(heap);
    tiny_front_give(heap, bin, &block, 1);
    tiny_front_end(heap);
}

void tiny_front_check(unsigned bin, void *const *blocks, unsigned count) {
    shared_pool_check(bin, blocks, count);
}

bool tiny_front_is_free(const struct thread_heap *heap, unsigned bin, const void *block) {
    const struct tiny_front *front = tiny_front_of(bin);
    return thread_heap_caches(heap, bin, block) ||
           (front->holds != NULL && front->holds(heap, bin, block)) ||
           shared_pool_is_free(bin, block);
}

unsigned tiny_front_refill_direct(struct thread_heap *heap, unsigned bin, unsigned want) {
    tiny_front_begin(heap);
    tiny_front_widen(heap, bin);
    want = (unsigned)hak_min(want, SHARED_POOL_BATCH_MOST);
    void **room = fast_cache_room(&heap->bins[bin], &want);
    unsigned got = tiny_front_take(heap, bin, room, want);
    fast_cache_fill(&heap->bins[bin], got);
    tiny_front_end(heap);
    return got;
}

bool tiny_front_widen(struct thread_heap *heap, unsigned bin) {
    // In blocks: a burst that does not come again leaves the stack narrow, and one that the pool
    // gets back after a while leaves it wide.
    enum { WIDEN_AFTER = 64, DEEPEN_AFTER = 1024 };
    unsigned taken = heap->taken[bin];
    unsigned given = heap->given[bin];
    if (taken < WIDEN_AFTER && given < WIDEN_AFTER) {
        return false;
    }
    if (taken >= DEEPEN_AFTER && given >= DEEPEN_AFTER) {
        if (thread_heap_deepen(heap, bin)) {
            return true;
        }
        // Already deep, or out of memory. Reset so that not every spill tries again.
        heap->taken[bin] = WIDEN_AFTER;
    }
    // A thread that only frees has no use for the blocks that it keeps.
    return fast_cache_widen(heap->bins, heap->bottoms, heap->slots, bin,
                            taken < WIDEN_AFTER ? FAST_CACHE_MIDDLE : FAST_CACHE_WIDE);
}

void **tiny_front_detach(struct thread_heap *heap, unsigned bin, unsigned *count) {
    if (tiny_front_widen(heap, bin)) {
        return NULL;
    }
    unsigned held = fast_cache_held(heap->bins, heap->bottoms, bin);
    if (held == 0) {
        return NULL;
    }
    *count = (unsigned)hak_min(*count, (held + 1) / 2);
    return fast_cache_detach(&heap->bins[bin], &heap->bottoms[bin], *count);
}

void tiny_front_settle(struct thread_heap *heap, unsigned bin, void **blocks) {
    fast_cache_settle(&heap->bins[bin], &heap->bottoms[bin], blocks);
}

void tiny_front_spill_direct(struct thread_heap *heap, unsigned bin, unsigned count) {
    tiny_front_begin(heap);
    count = (unsigned)hak_min(count, SHARED_POOL_BATCH_MOST);
    void **blocks = tiny_front_detach(heap, bin, &count);
    if (blocks != NULL) {
        tiny_front_give(heap, bin, blocks, count);
        tiny_front_settle(heap, bin, blocks);
    }
    tiny_front_end(heap);
}

unsigned tiny_front_next_batch(struct thread_heap *heap, unsigned bin) {
    const struct size_class_bin *info = &size_class_bins[bin];
    unsigned want = heap->want[bin];
    if (want == 0) {
        // A first batch fills whole cache lines, so that two threads that take turns do not get
        // blocks of one line.
        want = info->size < HAK_CACHE_LINE ? FAST_CACHE_NARROW : 1;
    }
    want = (unsigned)hak_min(want, info->batch);
    heap->want[bin] = (uint8_t)hak_min(want * 2, info->batch);
    return want;
}

unsigned tiny_front_spill_batch(const struct thread_heap *heap, unsigned bin) {
    // The blocks that stay are moved down in the stack: the more there are, the rarer a spill
    // should be.
    unsigned quarter = fast_cache_held(heap->bins, heap->bottoms, bin) / 4;
    return (unsigned)hak_max(size_class_bins[bin].batch, quarter);
}

HAK_LAYOUT(tiny_front_layout,
           HAK_ROWS(HAK_VARIABLE("fronts", tiny_fronts),
                    HAK_VARIABLE("fronts.alternative", tiny_front_alternative)),
           HAK_ROWS(HAK_FIELD("front.layout", struct tiny_front, layout)));
