// SPDX-License-Identifier: Apache-2.0
// The steps of the hardened flavour between a heap's cache and the program: it chooses the block
// that is handed out, and puts freed blocks into quarantine. Nothing in the other flavours.
//
// These functions run on the heap's own thread. Between steps that belong together the heap is
// marked busy, so that in a forked child no thread adopts it. A block that is between two places at
// the fork is lost to the child.
#ifndef HAKMEM_FRONTS_LIBC_HARDENED_PATH_H
#define HAKMEM_FRONTS_LIBC_HARDENED_PATH_H

#include "boxes/base/base.h"

#if HAK_HARDENED

#    include "backends/os.h"
#    include "boxes/fast_cache/fast_cache.h"
#    include "boxes/hardening/hardening.h"
#    include "boxes/thread_heap/thread_heap.h"
#    include "fronts/libc/hardened_hit.h"
#    include "fronts/tiny_front/tiny_front.h"

// Gives a heap its quarantine, if it has none and there is memory for one.
HAK_INLINE void hardened_path_start(struct thread_heap *heap) {
    struct hardening_heap *state = heap->front_state;
    if (HAK_UNLIKELY(state == NULL)) {
        state = thread_heap_make_state();
        if (state == NULL) {
            return;
        }
        state->random = os_secret(0) ^ (uintptr_t)state * os_secret(1) ^ os_now_ns();
        heap->front_state = state;
    }
    hardening_measure(state);
}

// Pops a block, at random if HAKMEM_RANDOM is on. Returns NULL if there is none.
HAK_INLINE void *hardened_path_pop(struct thread_heap *heap, unsigned bin) {
    struct fast_bin *stack = &heap->bins[bin];
    struct hardening_heap *state = heap->front_state;
    if (HAK_UNLIKELY(*stack->top == NULL || state == NULL) || !hardening_has(HARDENING_RANDOM)) {
        return fast_cache_pop(stack);
    }
    return hardened_hit_take(heap, bin, state);
}

// Puts a freed block into the quarantine, and the block that has waited longest into the cache. If
// the cache is full, returns that block, for hardened_path_spill(); else NULL.
HAK_INLINE void *hardened_path_keep(struct thread_heap *heap, unsigned bin, void *ptr) {
    struct hardening_heap *state = heap->front_state;
    void *out = ptr;
    thread_heap_enter(heap);
    if (HAK_LIKELY(state != NULL && hardening_has(HARDENING_QUARANTINE))) {
        out = hardening_wait(state, bin, ptr);
        if (HAK_UNLIKELY(out == NULL)) {
            thread_heap_count_behind(heap, bin, 1);
        }
    }
    if (HAK_LIKELY(out != NULL) && HAK_LIKELY(fast_cache_push(&heap->bins[bin], out))) {
        out = NULL;
    }
    thread_heap_leave(heap);
    return out;
}

// Puts a block that hardened_path_keep() has returned into the cache, after it has made room.
HAK_INLINE void hardened_path_spill(struct thread_heap *heap, unsigned bin, void *out) {
    if (!fast_cache_push(&heap->bins[bin], out)) {
        tiny_front_of(bin)->spill(heap, bin);
        if (!fast_cache_push(&heap->bins[bin], out)) {
            tiny_front_give_one(heap, bin, out);
        }
    }
}

#endif
#endif
