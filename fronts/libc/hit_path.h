// SPDX-License-Identifier: Apache-2.0
// The way of one allocation and of one free, up to the first miss. The C and the C++ front share
// it.
//
// A table of the heap gives the place of the stack for a size, and the page map gives it for a
// pointer. A block in a cache has its heap's mark (free_mark.h): if a block that is freed has the
// mark already, the slow path looks for it in the cache. Every case that is not a hit ends in one
// of the slow calls below, as a tail call, so the hit path saves no register. The hardened flavour
// has hits of its own, which check every block (hardened_hit.h).
#ifndef HAKMEM_FRONTS_LIBC_HIT_PATH_H
#define HAKMEM_FRONTS_LIBC_HIT_PATH_H

#include "boxes/base/base.h"
#include "boxes/fast_cache/fast_cache.h"
#include "boxes/free_mark/free_mark.h"
#include "boxes/front_gate_classifier/front_gate.h"
#include "boxes/size_class/size_class.h"
#include "boxes/thread_heap/thread_heap.h"
#include "fronts/libc/hardened_hit.h"

HAK_C_BEGIN

// Allocates in all cases that are no hit. Returns NULL and sets ENOMEM if there is no memory.
HAK_NOINLINE void *slow_alloc(size_t size);
// As slow_alloc(), aligned to `align`, a power of two.
HAK_NOINLINE void *slow_aligned_alloc(size_t align, size_t size);
// Frees in all cases that are no hit. `ptr` may be NULL or any other pointer. Keeps errno.
HAK_NOINLINE void slow_free(void *ptr);

// To be called when realloc() has resized a large block, which counts as a new block for the
// sampler.
void slow_sample_moved(void *block, size_t size);

// For calls that are told a block's size or alignment. In the hardened flavour, these stop the
// program if a live block starts at `ptr` for which another size was requested, or that does not
// start at a multiple of `align` (0: not told). In the other flavours they do nothing.
#if HAK_HARDENED
HAK_NOINLINE void slow_check_size(const char *call, const void *ptr, size_t align, size_t size);
HAK_NOINLINE void slow_check_align(const char *call, const void *ptr, size_t align);
#else
HAK_INLINE void slow_check_size(const char *call, const void *ptr, size_t align, size_t size) {
    (void)call, (void)ptr, (void)align, (void)size;
}
HAK_INLINE void slow_check_align(const char *call, const void *ptr, size_t align) {
    (void)call, (void)ptr, (void)align;
}
#endif

// Decides anew whether free reads the blocks that it is given, which depends on the size of the
// heap. Each miss does so too.
void slow_look_anew(void);

// To be called when there was no memory, before one more try. Gives the pool the cached blocks of
// this thread and of heaps without a thread, and the arena all slabs and runs that are kept aside.
void slow_make_room(void);

// The three calls below work on one of the current thread's two heaps, which the caller names:
// malloc and free on thread_heap_current(), C++'s operators on thread_heap_of_operators().

// Returns a block from the stack at `place` of the heap, without its mark, or NULL if there is
// none.
HAK_INLINE void *hit_pop(struct thread_heap *heap, size_t place) {
    void *block = fast_cache_pop_at(heap->bins, place);
    if (HAK_LIKELY(block != NULL)) {
        free_mark_clear(block);
    }
    return block;
}

// Returns a block from the heap's cache, or NULL: then slow_alloc() is next.
HAK_INLINE void *hit_alloc_from(struct thread_heap *heap, size_t size) {
#if HAK_HARDENED
    return hardened_hit_alloc(heap, size);
#else
    if (HAK_UNLIKELY(size >= thread_heap_sizes())) {
        return NULL;
    }
    return hit_pop(heap, size_class_hit_place(heap->table, size));
#endif
}
HAK_INLINE void *hit_alloc(size_t size) {
    return hit_alloc_from(thread_heap_current(), size);
}

// As hit_alloc(), for a block aligned to `align`, a power of two above HAK_MIN_ALIGN. If it returns
// NULL, slow_aligned_alloc() is next.
HAK_INLINE void *hit_aligned_alloc(size_t align, size_t size) {
    if (SIZE_CLASS_ALIGNED_HITS == 0) {
        return NULL;
    }
    void *block = hit_alloc(size_class_aligned_size(size, align));
    if (HAK_LIKELY(((uintptr_t)block & (align - 1)) == 0)) {
        return block;
    }
    // The block has a larger bin than the stack, and is less aligned: sized delete was given too
    // small a size.
    slow_free(block);
    return NULL;
}

// Puts a block into the stack at `place` of the heap. Returns false if the stack is full, or if the
// block has the heap's mark.
HAK_INLINE bool hit_push(struct thread_heap *heap, size_t place, void *ptr) {
    // The stack comes first: a wild pointer, which perhaps cannot be read, has a stack that is
    // always full.
    void **top;
    if (HAK_UNLIKELY(!fast_cache_has_room_at(heap->bins, place, &top)) ||
        HAK_UNLIKELY(free_mark_is_set(ptr, heap))) {
        return false;
    }
    fast_cache_push_at(heap->bins, place, top, ptr);
    free_mark_set(ptr, heap);
    return true;
}

// Returns true if the block is on top of the heap's stack of a bin, that is, the last one that was
// freed into it.
HAK_INLINE bool hit_is_next(const struct thread_heap *heap, unsigned bin, const void *ptr) {
    return *heap->bins[bin].top == ptr;
}

// Returns true if a block above SIZE_CLASS_HIT_MAX is in one of the topmost THREAD_HEAP_NEWEST
// slots of its stack, which are in a cache line or two, or in slots below the stack. Those exist,
// because the stacks of smaller bins come first.
HAK_INLINE bool hit_is_one_of_newest(const struct thread_heap *heap, unsigned bin,
                                     const void *ptr) {
    void **top = heap->bins[bin].top;
#pragma GCC unroll 8
    for (unsigned i = 0; i < THREAD_HEAP_NEWEST; i++) {
        if (HAK_UNLIKELY(*(top - i) == ptr)) {
            return true;
        }
    }
    return false;
}

// As hit_push(), but without reading the block, which may be far from the processor's caches.
// Returns false if the block is already the topmost one, whose slot is next to the one that is
// written.
HAK_INLINE bool hit_push_unseen(struct thread_heap *heap, size_t place, void *ptr) {
    void **top;
    if (HAK_UNLIKELY(!fast_cache_has_room_at(heap->bins, place, &top)) ||
        HAK_UNLIKELY(*top == ptr)) {
        return false;
    }
    fast_cache_push_at(heap->bins, place, top, ptr);
    fast_cache_fetch(ptr);
    return true;
}

// Returns true if the block went into the heap's cache. Otherwise slow_free() is next.
HAK_INLINE bool hit_free_to(struct thread_heap *heap, void *ptr) {
#if HAK_HARDENED
    return hardened_hit_free(heap, ptr);
#else
    const struct front_gate *gate = thread_heap_gate();
#    if HAK_HEADER
    unsigned place;
    return HAK_LIKELY(front_gate_find(gate, ptr, &place)) && hit_push(heap, place, ptr);
#    else
    size_t unit = front_gate_unit(gate, ptr);
    if (HAK_LIKELY(unit < gate->checked)) {
        return hit_push(heap, front_gate_at(gate, unit), ptr);
    }
    return unit < gate->units && hit_push_unseen(heap, front_gate_at(gate, unit), ptr);
#    endif
#endif
}
HAK_INLINE bool hit_free(void *ptr) {
    return hit_free_to(thread_heap_current(), ptr);
}

// As hit_free_to(), for a block of `size` bytes that came from hit_alloc_from() or slow_alloc().
// The bin follows from the size; a wrong size is noticed when the cache spills. The pointer is only
// checked for its alignment and for being in the heap.
HAK_INLINE bool hit_free_sized_to(struct thread_heap *heap, void *ptr, size_t size) {
#if HAK_HARDENED
    (void)size;
    return hardened_hit_free(heap, ptr);
#else
    const struct front_gate *gate = thread_heap_gate();
    if (HAK_UNLIKELY(size > SIZE_CLASS_HIT_MAX)) {
        return false;
    }
#    if HAK_HEADER
    return (uintptr_t)ptr - gate->readable < gate->length && (uintptr_t)ptr % HAK_MIN_ALIGN == 0 &&
           hit_push(heap, size_class_sized_place(heap->sizes, size), ptr);
#    else
    size_t unit = front_gate_units(gate->lowest, ptr);
    if (HAK_LIKELY(unit < gate->checked)) {
        return hit_push(heap, size_class_sized_place(heap->sizes, size), ptr);
    }
    return unit < gate->units &&
           hit_push_unseen(heap, size_class_sized_place(heap->sizes, size), ptr);
#    endif
#endif
}
HAK_C_END

#endif
