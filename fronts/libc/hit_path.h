// The way of one allocation and one free, up to the first miss: what the C and the C++ front share.
//
// A size becomes the place of a stack through a table of the heap, a
// pointer becomes one through the page map. Whatever is not a hit ends in one of the slow calls
// below, as a tail call, so that the hit path saves no register.
#ifndef HAKMEM_FRONTS_LIBC_HIT_PATH_H
#define HAKMEM_FRONTS_LIBC_HIT_PATH_H

#include "boxes/base/base.h"
#include "boxes/fast_cache/fast_cache.h"
#include "boxes/front_gate_classifier/front_gate.h"
#include "boxes/thread_heap/thread_heap.h"

HAK_C_BEGIN

// Everything but a hit. NULL and ENOMEM if there is no memory.
HAK_NOINLINE void *slow_alloc(size_t size);
// Aligned to `align`, a power of two. NULL and ENOMEM likewise.
HAK_NOINLINE void *slow_aligned_alloc(size_t align, size_t size);
// Everything but a hit; ptr may be NULL or garbage. Keeps errno.
HAK_NOINLINE void slow_free(void *ptr);

// Gives the pool what caches hold, which may be whole slabs, and the arena what short slabs do not
// need: where there was no memory, one more try may find some.
void slow_make_room(void);

// The three calls below work on one of the current thread's two heaps, which the caller names:
// malloc and free on thread_heap_current(), C++'s operators on thread_heap_of_operators().

// A block from the heap's cache, or NULL: then slow_alloc() is next.
HAK_INLINE void *hit_alloc_from(struct thread_heap *heap, size_t size) {
    if (HAK_UNLIKELY(size >= thread_heap_sizes())) {
        return NULL;
    }
    return fast_cache_pop_at(heap->bins, size_class_hit_place(heap->table, size));
}
HAK_INLINE void *hit_alloc(size_t size) {
    return hit_alloc_from(thread_heap_current(), size);
}

// True if the block went into the heap's cache; otherwise slow_free() is next.
HAK_INLINE bool hit_free_to(struct thread_heap *heap, void *ptr) {
    unsigned place;
    if (HAK_UNLIKELY(!front_gate_find(thread_heap_gate(), ptr, &place))) {
        return false;
    }
    return fast_cache_push_at(heap->bins, place, ptr);
}
HAK_INLINE bool hit_free(void *ptr) {
    return hit_free_to(thread_heap_current(), ptr);
}

// As hit_free_to(), for a block of `size` bytes that came from hit_alloc_from() or slow_alloc():
// its bin follows from the size, and a size that is wrong is found when the cache spills.
HAK_INLINE bool hit_free_sized_to(struct thread_heap *heap, void *ptr, size_t size) {
    if (HAK_UNLIKELY(size >= thread_heap_sizes() || ptr == NULL)) {
        return false;
    }
    return fast_cache_push_at(heap->bins, size_class_hit_place(heap->table, size), ptr);
}
HAK_C_END

#endif
