// SPDX-License-Identifier: Apache-2.0
#include "fronts/tiny_front_classic/tiny_front_classic.h"

#include "boxes/diagnostics/diagnostics.h"
#include "boxes/fast_cache/fast_cache.h"
#include "boxes/magazine/magazine.h"
#include "boxes/thread_heap/thread_heap.h"
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

// Moves the last loaded blocks of a magazine, at most `most`, to a list, the last one on top.
static void list_loaded(struct tls_sll *list, struct magazine *magazine, unsigned most) {
    void *const *blocks = magazine_unload(magazine, &most);
    for (unsigned i = 0; i < most; i++) {
        tls_sll_push(list, &blocks[i], 1);
    }
}

static unsigned refill(struct thread_heap *heap, unsigned bin) {
    struct layers *layers = layers_of(heap);
    if (HAK_UNLIKELY(layers == NULL)) {
        return tiny_front_refill_direct(heap, bin, 1);
    }
    struct tls_sll *list = &layers->lists[bin];
    struct magazine *magazine = &layers->magazines[bin];
    thread_heap_enter(heap);
    if (list->count == 0) {
        unsigned batch = (unsigned)hak_min(thread_heap_next_batch(heap, bin), MAGAZINE_BLOCKS);
        if (magazine->count == 0) {
            void **room = magazine_room(magazine, &batch);
            unsigned got = tiny_front_take(heap, bin, room, batch);
            magazine_load(magazine, got);
            thread_heap_count_behind(heap, bin, (int)got);
        }
        list_loaded(list, magazine, batch);
    }
    unsigned fill = (unsigned)hak_min(FILL, size_class_bins[bin].batch);
    thread_heap_widen(heap, bin);
    void **room = fast_cache_room(&heap->bins[bin], &fill);
    unsigned got = tls_sll_pop(list, room, fill);
    thread_heap_count_behind(heap, bin, -(int)got);
    fast_cache_fill(&heap->bins[bin], got);
    thread_heap_leave(heap);
    return got;
}

// Takes the newest blocks of the list, at most `*count`, into free slots of the stack, or one block
// to `one` if the stack has none. Sets `*count` to their number.
static HAK_NOINLINE void **take_out(struct thread_heap *heap, unsigned bin, struct tls_sll *list,
                                    unsigned *count, void **one) {
    void **room = fast_cache_room(&heap->bins[bin], count);
    if (*count == 0) {
        room = one;
        *count = 1;
    }
    *count = tls_sll_pop(list, room, *count);
    thread_heap_count_behind(heap, bin, -(int)*count);
    return room;
}

// Gives the newest `count` blocks of the list to the pool.
static HAK_NOINLINE void give_listed(struct thread_heap *heap, unsigned bin, struct tls_sll *list,
                                     unsigned count) {
    while (count > 0) {
        unsigned taken = count;
        void *one;
        void **blocks = take_out(heap, bin, list, &taken, &one);
        tiny_front_give(heap, bin, blocks, taken);
        count -= taken;
    }
}

// Moves the newest blocks of the list, at most `most`, to the magazine; returns for how many it had
// room.
static HAK_NOINLINE unsigned load_listed(struct magazine *magazine, struct tls_sll *list,
                                         unsigned most) {
    void **room = magazine_room(magazine, &most);
    magazine_load(magazine, tls_sll_pop(list, room, most));
    return most;
}

// Moves the newest `count` blocks of the list to the magazine, and those that do not fit there to
// the pool. (Each of the two calls has left the stack before the next one begins, because calls
// into the pool go deep.)
static HAK_NOINLINE void hand_down(struct thread_heap *heap, unsigned bin, unsigned count) {
    struct layers *layers = heap->front_state;
    struct tls_sll *list = &layers->lists[bin];
    count -= load_listed(&layers->magazines[bin], list, count);
    give_listed(heap, bin, list, count);
}

// Moves blocks from the full stack to the list.
static HAK_NOINLINE void list_oldest(struct thread_heap *heap, unsigned bin, struct tls_sll *list) {
    unsigned count = size_class_bins[bin].batch;
    void **blocks = thread_heap_detach(heap, bin, &count);
    if (blocks != NULL) {
        // The list is linked through the blocks, so no pointer into a block may get into it, and no
        // block twice.
        tiny_front_check(bin, blocks, count);
        void *twice = tls_sll_find_twice(list, blocks, count);
        if (HAK_UNLIKELY(twice != NULL)) {
            diag_misuse(DIAG_CALL_FREE, twice, "block freed twice");
        }
        tls_sll_push(list, blocks, count);
        thread_heap_count_behind(heap, bin, (int)count);
        thread_heap_settle(heap, bin, blocks);
    }
}

static void spill(struct thread_heap *heap, unsigned bin) {
    struct layers *layers = layers_of(heap);
    if (HAK_UNLIKELY(layers == NULL)) {
        tiny_front_spill_direct(heap, bin, size_class_bins[bin].batch);
        return;
    }
    struct tls_sll *list = &layers->lists[bin];
    thread_heap_enter(heap);
    list_oldest(heap, bin, list);
    if (list->count > list_most(bin)) {
        hand_down(heap, bin, list->count - list_most(bin) / 2);
    }
    thread_heap_leave(heap);
}

static void flush(struct thread_heap *heap, unsigned bin) {
    struct layers *layers = heap->front_state;
    if (layers == NULL || heap->cold[bin].behind == 0) {
        return;
    }
    thread_heap_enter(heap);
    unsigned got = MAGAZINE_BLOCKS;
    void *const *blocks = magazine_unload(&layers->magazines[bin], &got);
    tiny_front_give(heap, bin, blocks, got);
    give_listed(heap, bin, &layers->lists[bin], layers->lists[bin].count);
    thread_heap_count_behind(heap, bin, -heap->cold[bin].behind);
    thread_heap_leave(heap);
}

static bool holds(const struct thread_heap *heap, unsigned bin, const void *block) {
    const struct layers *layers = heap->front_state;
    return layers != NULL && (tls_sll_holds(&layers->lists[bin], block) ||
                              magazine_holds(&layers->magazines[bin], block));
}

HAK_LAYOUT(tiny_front_classic_layout, HAK_ROWS(),
           HAK_ROWS(HAK_FIELD("layers.lists", struct layers, lists),
                    HAK_FIELD("layers.magazines", struct layers, magazines),
                    HAK_NUMBER("list", sizeof(struct tls_sll)),
                    HAK_FIELD("list.head", struct tls_sll, head),
                    HAK_FIELD("list.count", struct tls_sll, count),
                    HAK_NUMBER("magazine", sizeof(struct magazine)),
                    HAK_FIELD("magazine.count", struct magazine, count),
                    HAK_FIELD("magazine.blocks", struct magazine, blocks)));

const struct tiny_front tiny_front_classic = {
    "classic", refill, spill, flush, holds, &tiny_front_classic_layout,
};
