// SPDX-License-Identifier: Apache-2.0
#include "boxes/front_gate_classifier/front_gate_classifier.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/early_block/early_block.h"
#include "boxes/far_block/far_block.h"
#include "boxes/guarded_block/guarded_block.h"
#include "boxes/hardening/hardening.h"
#include "boxes/medium_block/medium_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/private_heap/private_heap.h"
#include "boxes/sampled_block/sampled_block.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"

static struct front_gate_block classify_private(const struct page_arena_window *window,
                                                const void *ptr, size_t slab) {
    size_t usable = 0;
    switch (private_heap_look(window, ptr, &usable)) {
    case PRIVATE_HEAP_LIVE:
        return (struct front_gate_block){
            .kind = FRONT_GATE_PRIVATE, .slab = slab, .usable = usable};
    case PRIVATE_HEAP_FREE:
        return (struct front_gate_block){.kind = FRONT_GATE_PRIVATE_FREE, .slab = slab};
    case PRIVATE_HEAP_INTERIOR:
        return (struct front_gate_block){.kind = FRONT_GATE_PRIVATE_INTERIOR, .slab = slab};
    default:
        return (struct front_gate_block){.kind = FRONT_GATE_FREE_PAGES, .slab = slab};
    }
}

static struct front_gate_block classify_rest(const struct page_arena_window *window,
                                             const void *ptr, size_t slab) {
    // Classifies a pointer into a slab that starts nothing: the slab is free, or inside a run that
    // starts below.
    if (atomic_bitmap_test(window->groups[slab / ARENA_GROUP_SLABS].avail,
                           slab % ARENA_GROUP_SLABS)) {
        return (struct front_gate_block){.kind = FRONT_GATE_FREE_PAGES, .slab = slab};
    }
    for (size_t head = slab; head-- > 0 && superslab_known(window, head);) {
        struct slab *meta = superslab_slab(window, head);
        uint8_t kind = atomic_load_explicit(&meta->kind, memory_order_acquire);
        if (kind == SLAB_NONE) {
            continue;
        }
        if (kind == SLAB_LARGE &&
            slab - head < atomic_load_explicit(&meta->run, memory_order_relaxed)) {
            return (struct front_gate_block){.kind = FRONT_GATE_LARGE_INTERIOR, .slab = slab};
        }
        if (kind == SLAB_PRIVATE) {
            return classify_private(window, ptr, slab);
        }
        break;
    }
    return (struct front_gate_block){.kind = FRONT_GATE_FREE_PAGES, .slab = slab};
}

static struct front_gate_block classify_sampled(const void *ptr, size_t slab) {
    struct front_gate_block answer = {.kind = FRONT_GATE_SAMPLED_FREE, .slab = slab};
    void *start;
    switch (sampled_block_look(ptr, &answer.usable, &start)) {
    case SAMPLED_BLOCK_LIVE:
        answer.kind = FRONT_GATE_SAMPLED;
        break;
    case SAMPLED_BLOCK_INTERIOR:
        answer.kind = FRONT_GATE_SAMPLED_INTERIOR;
        break;
    default:
        break;
    }
    return answer;
}

static struct front_gate_block classify_guarded(const void *ptr, size_t slab) {
    const struct guarded_block *block = guarded_block_near(ptr);
    struct front_gate_block answer = {.kind = FRONT_GATE_GUARDED_FREE, .slab = slab};
    if (block == NULL || block->start != ptr) {
        answer.kind = FRONT_GATE_GUARDED_INTERIOR;
    } else if (atomic_load((_Atomic(int) *)&block->state) == GUARDED_BLOCK_LIVE) {
        answer.kind = FRONT_GATE_GUARDED;
        answer.usable = hak_max(block->size, 1);
    }
    return answer;
}

// Classifies a pointer outside of the heap's window.
static struct front_gate_block classify_outside(const void *ptr, size_t slab) {
    struct front_gate_block answer = {.kind = FRONT_GATE_FOREIGN, .slab = slab};
    if (sampled_block_owns(ptr)) {
        return classify_sampled(ptr, slab);
    }
    if (guarded_block_owns(ptr)) {
        return classify_guarded(ptr, slab);
    }
    answer.usable = far_block_usable(ptr);
    if (answer.usable != 0) {
        answer.kind = FRONT_GATE_LARGE;
        return answer;
    }
    answer.usable = early_block_usable(ptr);
    if (answer.usable != 0) {
        answer.kind = FRONT_GATE_EARLY;
    } else if (early_block_owns(ptr)) {
        answer.kind = FRONT_GATE_FREE_PAGES;
    }
    return answer;
}

// Classifies the start of a tiny block that is not free in its slab.
static void classify_live(struct front_gate_block *answer, const void *ptr) {
#if HAK_HARDENED
    size_t size;
    switch (hardening_look(answer->bin, ptr, &size)) {
    case HARDENING_LIVE:
        answer->usable = size;
        break;
    case HARDENING_FREE:
        answer->kind = FRONT_GATE_TINY_FREE;
        break;
    default:
        answer->kind = FRONT_GATE_TINY_DAMAGED;
        break;
    }
#else
    (void)ptr;
    answer->usable = size_class_usable(answer->bin);
#endif
}

// Classifies a pointer into a chunk of medium blocks.
static struct front_gate_block classify_medium(const struct page_arena_window *window,
                                               const void *ptr, size_t slab) {
    struct front_gate_block answer = {.kind = FRONT_GATE_FREE_PAGES, .slab = slab};
    size_t size = medium_block_size(window, ptr, slab);
    if (size != 0) {
        answer.kind = FRONT_GATE_LARGE;
        answer.usable = superslab_usable(size);
    } else if (medium_block_around(window, ptr, slab) != NULL) {
        answer.kind = FRONT_GATE_LARGE_INTERIOR;
    }
    return answer;
}

struct front_gate_block front_gate_classify(const void *ptr) {
    struct page_arena_window window = page_arena_get_window();
    size_t slab = page_arena_slab_of(&window, ptr);
    if (!superslab_known(&window, slab)) {
        return classify_outside(ptr, slab);
    }
    if (medium_block_owns(&window, slab)) {
        return classify_medium(&window, ptr, slab);
    }
    struct slab *meta = superslab_slab(&window, slab);
    switch (atomic_load_explicit(&meta->kind, memory_order_acquire)) {
    case SLAB_TINY: {
        struct front_gate_block answer = {.kind = FRONT_GATE_TINY, .slab = slab};
        answer.bin = atomic_load_explicit(&meta->bin, memory_order_relaxed);
        if (shared_pool_block_start(answer.bin, ptr) != ptr) {
            answer.kind = FRONT_GATE_TINY_INTERIOR;
        } else if (!shared_pool_has(answer.bin, ptr) || shared_pool_is_free(answer.bin, ptr)) {
            answer.kind = FRONT_GATE_TINY_FREE;
        } else {
            classify_live(&answer, ptr);
        }
        return answer;
    }
    case SLAB_LARGE: {
        struct front_gate_block answer = {.kind = FRONT_GATE_LARGE, .slab = slab};
        if (superslab_large_start(&window, slab) != ptr) {
            answer.kind = FRONT_GATE_LARGE_INTERIOR;
        } else {
            answer.usable = superslab_large_usable(&window, slab);
        }
        return answer;
    }
    case SLAB_HEAP:
        return (struct front_gate_block){.kind = FRONT_GATE_INTERNAL, .slab = slab};
    case SLAB_PRIVATE:
        return classify_private(&window, ptr, slab);
    default:
        return classify_rest(&window, ptr, slab);
    }
}

const char *front_gate_fault(enum front_gate_kind kind) {
    switch (kind) {
    case FRONT_GATE_FOREIGN:
        return "not a pointer of this heap";
    case FRONT_GATE_TINY_FREE:
    case FRONT_GATE_PRIVATE_FREE:
    case FRONT_GATE_SAMPLED_FREE:
    case FRONT_GATE_GUARDED_FREE:
        return "block was freed";
    case FRONT_GATE_TINY_DAMAGED:
        return "heap corruption: written past the end of the block";
    case FRONT_GATE_TINY_INTERIOR:
    case FRONT_GATE_LARGE_INTERIOR:
    case FRONT_GATE_PRIVATE_INTERIOR:
    case FRONT_GATE_SAMPLED_INTERIOR:
    case FRONT_GATE_GUARDED_INTERIOR:
        return "pointer into a block, not to its start";
    case FRONT_GATE_FREE_PAGES:
        return "no block there (freed twice, or never allocated)";
    case FRONT_GATE_INTERNAL:
        return "pointer into the allocator's own data";
    default:
        return "not expected here";
    }
}
