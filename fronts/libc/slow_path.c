// Misses, large blocks, and pointers that are not what they should be.
#include "fronts/libc/hit_path.h"

#include "backends/os.h"
#include "boxes/decay/decay.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/early_block/early_block.h"
#include "boxes/front_gate_classifier/front_gate_classifier.h"
#include "boxes/large_block/large_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/private_heap/private_heap.h"
#include "boxes/shared_pool/shared_pool.h"
#include "fronts/tiny_front/tiny_front.h"

#include <errno.h>
#include <string.h>

// Every miss looks at the clock, and may have to do a share of what is due.
static void tick_at(struct thread_heap *heap, uint64_t now) {
    decay_tick(now);
    if (HAK_LIKELY(heap != NULL)) {
        thread_heap_tick(heap, now, decay_idle_ms());
    }
}

static void tick(struct thread_heap *heap) {
    tick_at(heap, os_now_ms());
}

// The same for a large block that is allocated, which is about as quick as a tick: the clock moves
// every few ms only, and what was seen at a time of it need not be looked at again. The heap of a
// thread that has none is an empty one, whose seen_ms is 0: such a thread looks each time. A free
// of a large block does not look: what it has freed is not idle yet.
static void tick_once(void) {
    uint64_t now = os_now_ms();
    if (HAK_UNLIKELY(now != thread_heap_current()->seen_ms)) {
        tick_at(thread_heap_get(), now);
    }
}

void slow_tick(void) {
    tick_once();
}

HAK_COLD void slow_make_room(void) {
    thread_heap_flush();
    thread_heap_flush_free();
    shared_pool_give_short();
}

static HAK_NOINLINE void *miss(unsigned bin) {
    struct thread_heap *heap = thread_heap_get();
    void *block = NULL;
    tick(heap);
    if (HAK_UNLIKELY(heap == NULL)) {
        // A thread past its destructors, or no memory for a heap: one block, without a cache.
        shared_pool_hint hint = ARENA_NONE;
        unsigned got = shared_pool_take(bin, &block, 1, &hint);
        front_gate_mark(bin, &block, got);
        if (got == 0) {
            errno = ENOMEM;
        }
        return block;
    }
    // An adopted heap brings its cached blocks.
    block = fast_cache_pop(&heap->bins[bin]);
    if (block != NULL) {
        return block;
    }
    if (HAK_UNLIKELY(tiny_front_of(bin)->refill(heap, bin) == 0)) {
        slow_make_room();
        if (tiny_front_of(bin)->refill(heap, bin) == 0) {
            errno = ENOMEM;
            return NULL;
        }
    }
    return fast_cache_pop(&heap->bins[bin]);
}

static HAK_NOINLINE void *large(size_t size, size_t align, enum large_block_use use) {
    tick_once();
    void *block = large_block_alloc(size, align, use);
    if (HAK_UNLIKELY(block == NULL)) {
        slow_make_room();
        block = large_block_alloc(size, align, use);
        if (block == NULL) {
            errno = ENOMEM;
        }
    }
    return block;
}

void *slow_alloc(size_t size) {
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        return early_block_alloc(size, 1);
    }
    if (HAK_UNLIKELY(size > SIZE_CLASS_TINY_MAX)) {
        return large(size, 1, LARGE_BLOCK_ANY);
    }
    unsigned bin = size_class_bin_of(size);
    void *block = fast_cache_pop(&thread_heap_current()->bins[bin]);
    return HAK_LIKELY(block != NULL) ? block : miss(bin);
}

void *slow_zero_alloc(size_t size) {
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        return early_block_alloc(size, 1);
    }
    if (HAK_UNLIKELY(size > SIZE_CLASS_TINY_MAX)) {
        return large(size, 1, LARGE_BLOCK_ZERO);
    }
    void *block = slow_alloc(size);
    return HAK_LIKELY(block != NULL) ? memset(block, 0, size) : NULL;
}

void *slow_grown_alloc(size_t size) {
    return large(size, 1, LARGE_BLOCK_GROWN);
}

void *slow_zero_aligned_alloc(size_t align, size_t size) {
    return large(size, align, LARGE_BLOCK_ZERO);
}

void *slow_aligned_alloc(size_t align, size_t size) {
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        return early_block_alloc(size, align);
    }
    unsigned bin = size_class_aligned_bin(size, align);
    if (bin == 0) {
        return large(size == 0 ? 1 : size, align, LARGE_BLOCK_ANY);
    }
    void *block = fast_cache_pop(&thread_heap_current()->bins[bin]);
    return HAK_LIKELY(block != NULL) ? block : miss(bin);
}

// The header strategy comes here with every pointer whose header is not what the hit path expects.
static void check_header(unsigned bin, const void *ptr) {
    if (HAK_UNLIKELY(shared_pool_block_start(bin, ptr) != ptr)) {
        diag_misuse(DIAG_CALL_FREE, ptr, classified_fault(CLASSIFIED_TINY_INTERIOR));
    }
    if (HAK_UNLIKELY(!front_gate_intact(bin, ptr))) {
        diag_misuse(DIAG_CALL_FREE, ptr,
                    "heap corruption: header byte overwritten by the block before");
    }
}

static HAK_NOINLINE void renew_gate(void) {
    struct page_arena_window window = page_arena_get_window();
    *thread_heap_gate() = front_gate_of(&window); // it may have grown
}

static HAK_NOINLINE void free_tiny(unsigned bin, void *ptr) {
    struct thread_heap *heap = thread_heap_get();
    tick(heap);
    if (HAK_HEADER) {
        check_header(bin, ptr);
    }
    if (HAK_UNLIKELY(heap == NULL)) {
        shared_pool_put(bin, &ptr, 1);
        return;
    }
    renew_gate();
    if (!fast_cache_push(&heap->bins[bin], ptr)) {
        tiny_front_of(bin)->spill(heap, bin);
        fast_cache_push(&heap->bins[bin], ptr);
    }
}

static HAK_NOINLINE void free_large(void *ptr) {
    struct page_arena_window window = page_arena_get_window();
    if (HAK_UNLIKELY(!large_block_free(&window, ptr, page_arena_slab_of(&window, ptr)) &&
                     !private_heap_free(&window, ptr) && !early_block_free(ptr))) {
        diag_misuse(DIAG_CALL_FREE, ptr, classified_fault(classify_ptr(ptr).kind));
    }
}

void slow_free(void *ptr) {
    if (ptr == NULL) {
        return;
    }
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        early_block_free(ptr); // A wrong pointer cannot be reported yet.
        return;
    }
    struct page_arena_window window = page_arena_get_window();
    unsigned bin = front_gate_search(&window, ptr) / 2;
    if (HAK_LIKELY(bin != 0)) {
        free_tiny(bin, ptr);
    } else {
        free_large(ptr);
    }
}
