#include "fronts/tiny_front_classic/tiny_front_classic.h"

#include "boxes/magazine/magazine.h"
#include "boxes/tls_sll/tls_sll.h"

enum {
    FILL = 16,     // blocks from the list to the cache at a miss
    LIST_MOST = 64 // blocks in a list before it hands a batch down
};

struct layers {
    struct tls_sll lists[SIZE_CLASS_BINS];
    struct magazine magazines[SIZE_CLASS_BINS];
};

static_assert(sizeof(struct layers) <= ARENA_SLAB, "the layers of a heap fit in a slab");

static struct layers *layers_of(struct thread_heap *heap) {
    if (heap->front_state == NULL) {
        heap->front_state = thread_heap_make_state();
    }
    return heap->front_state;
}

// Large blocks are moved in smaller numbers: a list never holds more than a cache may.
static unsigned list_most(unsigned bin) {
    return (unsigned)hak_min(LIST_MOST, size_class_bins[bin].slots);
}

static void count_behind(struct thread_heap *heap, unsigned bin, int more) {
    HAK_POKE(&heap->behind[bin], (uint16_t)(heap->behind[bin] + more));
}

static unsigned refill(struct thread_heap *heap, unsigned bin) {
    struct layers *layers = layers_of(heap);
    if (HAK_UNLIKELY(layers == NULL)) {
        return tiny_front_refill_direct(heap, bin, 1);
    }
    struct tls_sll *list = &layers->lists[bin];
    struct magazine *magazine = &layers->magazines[bin];
    void *blocks[MAGAZINE_BLOCKS];
    tiny_front_begin(heap);
    if (list->count == 0) {
        unsigned batch = (unsigned)hak_min(tiny_front_next_batch(heap, bin), MAGAZINE_BLOCKS);
        if (magazine->count == 0) {
            unsigned got = tiny_front_take(heap, bin, blocks, batch);
            count_behind(heap, bin, (int)magazine_load(magazine, blocks, got));
        }
        tls_sll_push(list, blocks, magazine_unload(magazine, blocks, batch));
    }
    unsigned fill = (unsigned)hak_min(FILL, size_class_bins[bin].batch);
    tiny_front_widen(heap, bin);
    fill = (unsigned)hak_min(fill, (size_t)(heap->bins[bin].limit - heap->bins[bin].top));
    unsigned got = tls_sll_pop(list, blocks, fill);
    count_behind(heap, bin, -(int)got);
    fast_cache_fill(&heap->bins[bin], blocks, got);
    tiny_front_end(heap);
    return got;
}

// Moves the newest `count` blocks of the list to the magazine, and what does not fit there to the
// pool.
static void hand_down(struct thread_heap *heap, unsigned bin, unsigned count) {
    struct layers *layers = heap->front_state;
    struct magazine *magazine = &layers->magazines[bin];
    void *blocks[SHARED_POOL_BATCH_MOST];
    unsigned got = tls_sll_pop(&layers->lists[bin], blocks, count);
    unsigned fit = magazine_load(magazine, blocks, got);
    if (fit < got) {
        tiny_front_give(heap, bin, blocks + fit, got - fit);
        count_behind(heap, bin, -(int)(got - fit));
    }
}

static void spill(struct thread_heap *heap, unsigned bin) {
    struct layers *layers = layers_of(heap);
    unsigned count = size_class_bins[bin].batch;
    if (HAK_UNLIKELY(layers == NULL)) {
        tiny_front_spill_direct(heap, bin, count);
        return;
    }
    void *blocks[SHARED_POOL_BATCH_MOST];
    tiny_front_begin(heap);
    count = tiny_front_drain(heap, bin, blocks, count);
    // The list is threaded through the blocks: what is not the start of a block must not get there.
    tiny_front_check(bin, blocks, count);
    tls_sll_push(&layers->lists[bin], blocks, count);
    count_behind(heap, bin, (int)count);
    if (layers->lists[bin].count > list_most(bin)) {
        hand_down(heap, bin, layers->lists[bin].count - list_most(bin) / 2);
    }
    tiny_front_end(heap);
}

static void flush(struct thread_heap *heap, unsigned bin) {
    struct layers *layers = heap->front_state;
    if (layers == NULL || heap->behind[bin] == 0) {
        return;
    }
    void *blocks[SHARED_POOL_BATCH_MOST];
    tiny_front_begin(heap);
    unsigned got = magazine_unload(&layers->magazines[bin], blocks, MAGAZINE_BLOCKS);
    tiny_front_give(heap, bin, blocks, got);
    while ((got = tls_sll_pop(&layers->lists[bin], blocks, SHARED_POOL_BATCH_MOST)) > 0) {
        tiny_front_give(heap, bin, blocks, got);
    }
    HAK_POKE(&heap->behind[bin], 0);
    tiny_front_end(heap);
}

const struct tiny_front tiny_front_classic = {"classic", refill, spill, flush};
