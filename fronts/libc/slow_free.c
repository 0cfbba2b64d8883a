// SPDX-License-Identifier: Apache-2.0
// Frees that are no hit: full caches, medium and large blocks, and wrong pointers.
#include "fronts/libc/slow_path.h"

#include "fronts/libc/hardened_path.h"
#include "fronts/libc/hit_path.h"

#include "boxes/diagnostics/diagnostics.h"
#include "boxes/early_block/early_block.h"
#include "boxes/front_gate_classifier/front_gate_classifier.h"
#include "boxes/guarded_block/guarded_block.h"
#include "boxes/hardening/hardening.h"
#include "boxes/heap_profile/heap_profile.h"
#include "boxes/large_block/large_block.h"
#include "boxes/medium_block/medium_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/private_heap/private_heap.h"
#include "boxes/recorder/recorder.h"
#include "boxes/sampled_block/sampled_block.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/size_class/size_class.h"
#include "fronts/libc/guard.h"
#include "fronts/tiny_front/tiny_front.h"

// Stops the program unless ptr, a pointer into a slab of `bin`, starts a block. With the header
// strategy, also stops the program if the block's header was overwritten.
static void check_start(unsigned bin, const void *ptr) {
    if (HAK_UNLIKELY(shared_pool_block_start(bin, ptr) != ptr)) {
        diag_misuse(DIAG_CALL_FREE, ptr, front_gate_fault(FRONT_GATE_TINY_INTERIOR));
    }
    if (HAK_UNLIKELY(!front_gate_intact(bin, ptr))) {
        diag_misuse(DIAG_CALL_FREE, ptr,
                    "heap corruption: header byte overwritten by the block before");
    }
}

#if HAK_HARDENED
void slow_keep(struct thread_heap *heap, unsigned bin, void *ptr) {
    void *out = hardened_path_keep(heap, bin, ptr);
    if (HAK_UNLIKELY(out != NULL)) {
        tick(heap);
        hardened_path_spill(heap, bin, out);
    }
}

void slow_free_middle(struct thread_heap *heap, unsigned bin, void *ptr) {
    size_t size;
    if (HAK_UNLIKELY(!hardening_intact(bin, ptr, &size)) ||
        HAK_UNLIKELY(!hardening_intact_below(bin, ptr))) {
        slow_free(ptr);
        return;
    }
    memset(ptr, 0, size_class_bins[bin].size);
    hardened_hit_keep(heap, bin, ptr);
}

// Frees a block in the usual case. Returns false in any other case. A pointer that does not start a
// block is noticed, because there is no tag where the block's tag would be.
HAK_INLINE bool free_hardened(void *ptr) {
    struct thread_heap *heap = thread_heap_current();
    unsigned bin = size_class_bin_at(front_gate_registry(thread_heap_gate(), ptr));
    if (HAK_UNLIKELY(bin == 0 || heap->front_state == NULL)) {
        return false;
    }
    // The last page of a slab may have no access rights.
    size_t end = (uintptr_t)ptr % ARENA_SLAB + size_class_bins[bin].size;
    size_t block;
    if ((HAK_UNLIKELY(end > ARENA_SLAB - HAK_PAGE) &&
         (!size_class_is_start(&size_class_bins[bin], (uintptr_t)ptr % ARENA_SLAB, &block) ||
          !shared_pool_has(bin, ptr))) ||
        HAK_UNLIKELY(!hardening_may_free(bin, ptr))) {
        return false;
    }
    hardening_bury(bin, ptr);
    if (HAK_LIKELY(HAK_PEEK(&hardening.usual))) {
        hardened_hit_keep(heap, bin, ptr);
    } else {
        slow_keep(heap, bin, ptr);
    }
    return true;
}

// Frees a block in all other cases. `heap` may be NULL.
static HAK_NOINLINE void free_hardened_slowly(struct thread_heap *heap, unsigned bin, void *ptr) {
    hardening_prepare();
    if (!shared_pool_has(bin, ptr)) {
        hardening_refuse_absent(ptr);
        return;
    }
    if (!hardening_may_free(bin, ptr)) {
        hardening_refuse(bin, ptr);
    }
    hardening_bury(bin, ptr);
    if (HAK_UNLIKELY(heap == NULL)) {
        shared_pool_put(bin, &ptr, 1);
        return;
    }
    slow_renew_gate(heap, true);
    hardened_path_start(heap);
    void *out = hardened_path_keep(heap, bin, ptr);
    if (out != NULL) {
        hardened_path_spill(heap, bin, out);
    }
}
#endif

// Stops the program if the block is found to be free already. A block may have the mark by chance,
// so the mark alone is no fault. While free() does not read blocks, a cached block may have no
// mark. A small block comes here each time its stack is full; that stack may be deep, so only the
// topmost block is looked at.
static void check_twice(const struct thread_heap *heap, unsigned bin, const void *ptr) {
    bool twice;
    if (free_mark_is_set(ptr, heap)) {
        twice = tiny_front_is_free(heap, bin, ptr);
    } else if (front_gate_checks(thread_heap_gate())) {
        twice = false;
    } else {
        twice = bin >= SIZE_CLASS_HIT_BINS ? thread_heap_caches(heap, bin, ptr)
                                           : hit_is_next(heap, bin, ptr);
    }
    if (HAK_UNLIKELY(twice)) {
        diag_misuse(DIAG_CALL_FREE, ptr, "block freed twice");
    }
}

// Pushes a block into the heap's cache. Returns false if there is no room.
HAK_INLINE bool push(struct thread_heap *heap, unsigned bin, void *ptr) {
    if (HAK_UNLIKELY(!fast_cache_push(&heap->bins[bin], ptr))) {
        return false;
    }
    free_mark_set(ptr, heap);
    return true;
}

#if !HAK_HARDENED
// Frees blocks that are too large for their free to be a hit. Checks that the pointer starts a
// block, which costs little for such blocks. Returns false in an unusual case.
HAK_INLINE bool free_middle(void *ptr) {
    struct thread_heap *heap = thread_heap_current();
    unsigned bin = size_class_bin_at(front_gate_registry(thread_heap_gate(), ptr));
    size_t block;
    if (bin < SIZE_CLASS_HIT_BINS ||
        !size_class_is_start(&size_class_bins[bin], (uintptr_t)ptr % ARENA_SLAB, &block)) {
        return false;
    }
    if (HAK_LIKELY(front_gate_checks(thread_heap_gate()))) {
        return !free_mark_is_set(ptr, heap) && push(heap, bin, ptr);
    }
    // The block is not read, because it may be far from the processor's caches.
    if (hit_is_one_of_newest(heap, bin, ptr) || !fast_cache_push(&heap->bins[bin], ptr)) {
        return false;
    }
    fast_cache_fetch(ptr);
    return true;
}
#endif

static HAK_NOINLINE void free_tiny(unsigned bin, void *ptr) {
    struct thread_heap *heap = thread_heap_get();
    tick(heap);
    check_start(bin, ptr);
#if HAK_HARDENED
    free_hardened_slowly(heap, bin, ptr);
    return;
#endif
    if (HAK_UNLIKELY(heap == NULL)) {
        shared_pool_put(bin, &ptr, 1);
        return;
    }
    slow_renew_gate(heap, true);
    check_twice(heap, bin, ptr);
    if (!push(heap, bin, ptr)) {
        tiny_front_of(bin)->spill(heap, bin);
        if (!push(heap, bin, ptr)) {
            tiny_front_give_one(heap, bin, ptr);
        }
    }
}

// Frees a block that is in a range of sampled or guarded blocks. Returns false if it is in neither.
// The sample ends first, because once the block is free its address may be another block's.
static HAK_COLD bool free_sampled(void *ptr) {
    struct heap_profile_sample sample;
    if (heap_profile_take(ptr, &sample)) {
        heap_profile_drop(&sample);
    }
    if (guarded_block_owns(ptr)) {
        const char *fault = guarded_block_free(ptr);
        if (fault != NULL) {
            guard_misuse(DIAG_CALL_FREE, ptr, fault);
        }
        return true;
    }
    if (!sampled_block_owns(ptr)) {
        return false;
    }
    if (!sampled_block_free(ptr)) {
        diag_misuse(DIAG_CALL_FREE, ptr, front_gate_fault(front_gate_classify(ptr).kind));
    }
    return true;
}

static HAK_NOINLINE void free_large(void *ptr) {
    if ((heap_profile_started() || guarded_block_owns(ptr)) && free_sampled(ptr)) {
        return;
    }
    struct page_arena_window window = page_arena_get_window();
    size_t slab = page_arena_slab_of(&window, ptr);
    bool freed = medium_block_owns_any(&window, slab) ? medium_block_free(&window, ptr, slab)
                                                      : large_block_free(&window, ptr, slab);
    if (HAK_UNLIKELY(!freed && !private_heap_free(&window, ptr) && !early_block_free(ptr))) {
        diag_misuse(DIAG_CALL_FREE, ptr, front_gate_fault(front_gate_classify(ptr).kind));
    }
}

#if !HAK_HARDENED
// Frees a block in the window that has no bin: mostly a large block.
static HAK_NOINLINE void free_without_bin(void *ptr) {
    if (HAK_LIKELY(page_arena_is_known()) && !heap_profile_started()) {
        const struct page_arena_window *window = &page_arena_known.window;
        size_t slab = page_arena_slab_of(window, ptr);
        if (HAK_LIKELY(medium_block_owns_reached(window, slab)
                           ? medium_block_free(window, ptr, slab)
                           : large_block_free_reached(ptr, slab))) {
            return;
        }
    }
    free_large(ptr);
}
#endif

#if HAK_HARDENED
// Returns the usable bytes of the live block that starts at ptr. Returns 0 if there is none, which
// free() will report, and for blocks whose requested size is not known.
static size_t user_bytes(const void *ptr) {
    if (ptr == NULL || !thread_heap_ready() || !hardening_has(HARDENING_SIZES)) {
        return 0;
    }
    struct front_gate_block what = front_gate_classify(ptr);
    return what.kind == FRONT_GATE_TINY || what.kind == FRONT_GATE_LARGE ? what.usable : 0;
}

void slow_check_size(const char *call, const void *ptr, size_t align, size_t size) {
    size_t usable = user_bytes(ptr);
    if (usable != 0) {
        hardening_check_size(call, ptr, usable, align, size);
    }
}

void slow_check_align(const char *call, const void *ptr, size_t align) {
    size_t usable = user_bytes(ptr);
    if (usable != 0) {
        hardening_check_size(call, ptr, usable, align, usable);
    }
}
#endif

static HAK_COLD void recorded_free(void *ptr) {
    recorder_frees(ptr);
    slow_free(ptr);
    recorder_leaves();
}

// Frees any pointer. A function of its own, so that the usual path saves no register.
static HAK_NOINLINE void free_unusual(void *ptr) {
    if (ptr == NULL) {
        return;
    }
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        early_block_free(ptr); // A wrong pointer cannot be reported yet.
        return;
    }
    if (recorder_enters()) {
        recorded_free(ptr);
        return;
    }
    struct page_arena_window window = page_arena_get_window();
    unsigned bin = size_class_bin_at(front_gate_search(&window, ptr));
    if (HAK_LIKELY(bin != 0)) {
        free_tiny(bin, ptr);
    } else {
        free_large(ptr);
    }
}

void slow_free(void *ptr) {
#if HAK_HARDENED
    if (HAK_LIKELY(free_hardened(ptr))) {
        return;
    }
#else
    if (SIZE_CLASS_CLOSED != 0 && HAK_LIKELY(free_middle(ptr))) {
        return;
    }
    unsigned place;
    if (front_gate_find_registered(thread_heap_gate(), ptr, &place) && place == 0) {
        free_without_bin(ptr);
        return;
    }
#endif
    free_unusual(ptr);
}
