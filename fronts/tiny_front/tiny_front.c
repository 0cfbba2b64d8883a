#include "fronts/tiny_front/tiny_front.h"

unsigned tiny_front_refill_direct(struct thread_heap *heap, unsigned bin, unsigned want) {
    void *blocks[SHARED_POOL_BATCH_MOST];
    thread_heap_enter(heap);
    unsigned got = shared_pool_take(bin, blocks, want, &heap->hints[bin]);
    fast_cache_fill(&heap->bins[bin], blocks, got);
    thread_heap_leave(heap);
    heap->counts.refills++;
    heap->counts.refilled += got;
    return got;
}

void tiny_front_spill_direct(struct thread_heap *heap, unsigned bin, unsigned count) {
    void *blocks[SHARED_POOL_BATCH_MOST];
    thread_heap_enter(heap);
    fast_cache_drain(&heap->bins[bin], heap->slots + heap->bottoms[bin], blocks, count);
    shared_pool_put(bin, blocks, count);
    thread_heap_leave(heap);
    heap->counts.spills++;
    heap->counts.spilled += count;
}

unsigned tiny_front_next_batch(struct thread_heap *heap, unsigned bin) {
    const struct size_class_bin *info = &size_class_bins[bin];
    unsigned want = heap->want[bin];
    if (want == 0) {
        want = (unsigned)hak_max(1, hak_min(8, 2048 / info->size));
    }
    want = (unsigned)hak_min(want, info->batch);
    heap->want[bin] = (uint8_t)hak_min(want * 2, info->batch);
    return want;
}
