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

unsigned tiny_front_take(struct thread_heap *heap, unsigned bin, void **blocks, unsigned want) {
    unsigned got = shared_pool_take_home(bin, blocks, want, &heap->cold[bin].hint, &heap->company);
    front_gate_mark(bin, blocks, got);
    thread_heap_count_refill(heap, bin, got);
    return got;
}

void tiny_front_give(struct thread_heap *heap, unsigned bin, void *const *blocks, unsigned count) {
    shared_pool_put(bin, blocks, count);
    thread_heap_count_spill(heap, bin, count);
}

void *tiny_front_take_one(struct thread_heap *heap, unsigned bin) {
    void *block = NULL;
    thread_heap_enter(heap);
    unsigned got = tiny_front_take(heap, bin, &block, 1);
    thread_heap_leave(heap);
    return got == 0 ? NULL : block;
}

void tiny_front_give_one(struct thread_heap *heap, unsigned bin, void *block) {
    thread_heap_enter(heap);
    tiny_front_give(heap, bin, &block, 1);
    thread_heap_leave(heap);
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
    thread_heap_enter(heap);
    thread_heap_widen(heap, bin);
    want = (unsigned)hak_min(want, SHARED_POOL_BATCH_MOST);
    void **room = fast_cache_room(&heap->bins[bin], &want);
    unsigned got = tiny_front_take(heap, bin, room, want);
    fast_cache_fill(&heap->bins[bin], got);
    thread_heap_leave(heap);
    return got;
}

void tiny_front_spill_direct(struct thread_heap *heap, unsigned bin, unsigned count) {
    thread_heap_enter(heap);
    unsigned some = (unsigned)hak_min(count, SHARED_POOL_BATCH_MOST);
    void **first = thread_heap_detach(heap, bin, &some);
    // The rest of the stack is moved down once, however many blocks leave it.
    for (void **blocks = first; blocks != NULL;) {
        tiny_front_give(heap, bin, blocks, some);
        count -= some;
        some = (unsigned)hak_min(count, SHARED_POOL_BATCH_MOST);
        blocks = some == 0 ? NULL : thread_heap_detach_more(heap, bin, &some);
    }
    if (first != NULL) {
        thread_heap_settle(heap, bin, first);
    }
    thread_heap_leave(heap);
}

HAK_LAYOUT(tiny_front_layout,
           HAK_ROWS(HAK_VARIABLE("fronts", tiny_fronts),
                    HAK_VARIABLE("fronts.alternative", tiny_front_alternative)),
           HAK_ROWS(HAK_FIELD("front.layout", struct tiny_front, layout)));
