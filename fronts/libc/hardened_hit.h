// SPDX-License-Identifier: Apache-2.0
// Hits of the hardened flavour: one allocation and one free of a small block with all checks on.
// Nothing in the other flavours.
//
// A function that meets an unusual case (a larger size, a check that is off, a full stack, a fault)
// changes nothing and returns NULL or false. Then the slow path does the same step by step, and
// reports faults. So no register is saved here.
#ifndef HAKMEM_FRONTS_LIBC_HARDENED_HIT_H
#define HAKMEM_FRONTS_LIBC_HARDENED_HIT_H

#include "boxes/base/base.h"

#if HAK_HARDENED

#    include "boxes/fast_cache/fast_cache.h"
#    include "boxes/front_gate_classifier/front_gate.h"
#    include "boxes/hardening/hardening.h"
#    include "boxes/size_class/size_class.h"
#    include "boxes/thread_heap/thread_heap.h"

HAK_C_BEGIN

// Returns one of the topmost places of a heap's stack, which has blocks: the block in it is to be
// handed out, and the topmost block to be moved there.
//
// The slots of a stack are in groups, each as large as the number of blocks to choose from. The
// choice is among the rest of the topmost group, or two blocks if there are fewer. So neighbours in
// memory are handed out one after the other, in random order, and blocks that a program allocates
// one after the other share cache lines. (A choice among a fixed number of topmost blocks leaves
// some behind for long, and makes Lua take twice the time.)
HAK_INLINE void **hardened_hit_choose(struct hardening_heap *state, void **top, void **bottom) {
    size_t group = (((uintptr_t)top / sizeof *top & HAK_PEEK(&hardening.choice)) | 1) + 1;
    return top - hardening_below(state, hak_min((size_t)(top - bottom), group));
}

// Takes one of the topmost blocks of a heap's stack, which has blocks.
HAK_INLINE void *hardened_hit_take(struct thread_heap *heap, unsigned bin,
                                   struct hardening_heap *state) {
    struct fast_bin *stack = &heap->bins[bin];
    void **top = stack->top;
    void *topmost = *top;
    void **chosen = hardened_hit_choose(state, top, heap->cold[bin].bottom);
    thread_heap_enter(heap);
    void *block = *chosen;
    *chosen = topmost;
    HAK_POKE(&stack->top, top - 1);
    thread_heap_leave(heap);
    return block;
}

// Returns a free block for `size` bytes, 1 to `most`, from the heap's cache, and sets *bin to its
// bin. Returns NULL in an unusual case.
HAK_INLINE void *hardened_hit_pop(struct thread_heap *heap, size_t size, size_t most,
                                  unsigned *bin) {
    // In the table of an empty heap no size is a hit, and while allocations are sampled or recorded
    // that is so in every heap. (Table entry 1 is that of the smallest sizes.)
    if (HAK_UNLIKELY(size >= thread_heap_sizes()) || HAK_UNLIKELY(size - 1 >= most) ||
        HAK_UNLIKELY(HAK_PEEK(&heap->table[1]) == 0) || HAK_UNLIKELY(!HAK_PEEK(&hardening.usual))) {
        return NULL;
    }
    *bin = size_class_bin_of_alloc((unsigned)size_class_sized_place(heap->sizes, size));
    struct hardening_heap *state = (struct hardening_heap *)heap->front_state;
    if (HAK_UNLIKELY(*heap->bins[*bin].top == NULL) || HAK_UNLIKELY(state == NULL)) {
        return NULL;
    }
    return hardened_hit_take(heap, *bin, state);
}

// Returns a block for `size` bytes from the heap's cache, or NULL in an unusual case.
HAK_INLINE void *hardened_hit_alloc(struct thread_heap *heap, size_t size) {
    unsigned bin;
    void *block = hardened_hit_pop(heap, size, HARDENING_FEW - sizeof(hardening_word), &bin);
    if (HAK_LIKELY(block != NULL)) {
        hardening_issue_small(bin, block, size);
    }
    return block;
}

// Puts a freed block into the quarantine. The block that has waited longest goes to the cache, or
// to the pool if the cache is full.
HAK_NOINLINE void slow_keep(struct thread_heap *heap, unsigned bin, void *ptr);

// As slow_keep(), in a few instructions if the quarantine is full and the cache has room. Only to
// be called while `hardening.usual` is true.
HAK_INLINE void hardened_hit_keep(struct thread_heap *heap, unsigned bin, void *ptr) {
    struct hardening_heap *state = (struct hardening_heap *)heap->front_state;
    struct fast_bin *stack = &heap->bins[bin];
    struct hardening_queue *queue = &state->queues[bin];
    void **place = &state->blocks[bin][queue->next];
    void *out = *place;
    void **top = stack->top;
    if (HAK_UNLIKELY(out == NULL) || HAK_UNLIKELY(top == stack->limit)) {
        slow_keep(heap, bin, ptr);
        return;
    }
    thread_heap_enter(heap);
    *place = ptr;
    queue->next = (uint16_t)((queue->next + 1u) & queue->last);
    top[1] = out;
    HAK_POKE(&stack->top, top + 1);
    thread_heap_leave(heap);
}

// Does the rest of hardened_hit_free() for a block that a call has to clear. In an unusual case
// calls slow_free().
HAK_NOINLINE void slow_free_middle(struct thread_heap *heap, unsigned bin, void *ptr);

// Puts the block into the quarantine, and the block that has waited longest into the heap's cache.
// Returns false, and does nothing, in an unusual case.
HAK_INLINE bool hardened_hit_free(struct thread_heap *heap, void *ptr) {
    // (If the block is too large for a hit, this is not its bin, but SIZE_CLASS_HIT_BINS or more.)
    unsigned bin = size_class_bin_of_alloc(front_gate_registry(thread_heap_gate(), ptr));
    if (HAK_UNLIKELY(bin - 1 >= SIZE_CLASS_HIT_BINS - 1)) {
        return false;
    }
    size_t bytes = size_class_bins[bin].size;
    size_t size;
    // The last page of a slab may have no access rights.
    if (HAK_UNLIKELY((uintptr_t)ptr % ARENA_SLAB > ARENA_SLAB - HAK_PAGE - bytes) ||
        HAK_UNLIKELY(heap->front_state == NULL) || HAK_UNLIKELY(!HAK_PEEK(&hardening.usual))) {
        return false;
    }
    if (HAK_UNLIKELY(bytes > HARDENING_FEW)) {
        slow_free_middle(heap, bin, ptr);
        return true;
    }
    if (HAK_UNLIKELY(!hardening_intact(bin, ptr, &size)) ||
        HAK_UNLIKELY(!hardening_intact_below(bin, ptr))) {
        return false;
    }
    hardening_clear(ptr, bytes);
    hardened_hit_keep(heap, bin, ptr);
    return true;
}

HAK_C_END

#endif
#endif
