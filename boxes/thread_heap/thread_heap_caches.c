// SPDX-License-Identifier: Apache-2.0
// thread_heap_caches: makes the stacks of a heap wider and deep, and empties them, also when they
// are idle.
#include "boxes/thread_heap/thread_heap_internal.h"

#include "boxes/fast_cache/fast_cache.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"

static void (*_Atomic flush_front)(struct thread_heap *, unsigned);

void thread_heap_set_flush(void (*flush)(struct thread_heap *heap, unsigned bin)) {
    atomic_store(&flush_front, flush);
}

enum { DEEP_SLABS = FAST_CACHE_DEEP_SLOTS * sizeof(void *) / ARENA_SLAB };
static_assert(DEEP_SLABS * ARENA_SLAB == FAST_CACHE_DEEP_SLOTS * sizeof(void *), "whole slabs");

bool thread_heap_deepen(struct thread_heap *heap, unsigned bin) {
    struct heap_bin *cold = &heap->cold[bin];
    cold->width = FAST_CACHE_DEEP;
    // Under HAKMEM_LIMIT, memory that one thread keeps is missing elsewhere.
    if (!fast_cache_can_be_deep(bin) || settings_get(SETTING_LIMIT) != 0) {
        return false;
    }
    bool zero;
    if (heap->deep == NULL && (heap->deep = thread_heap_claim(DEEP_SLABS, &zero)) == NULL) {
        // Out of memory. Reset so that not every miss tries again.
        cold->width = FAST_CACHE_WIDE;
        cold->taken = THREAD_HEAP_WIDEN_AFTER;
        return false;
    }
    return fast_cache_widen(&heap->bins[bin], &cold->bottom, heap->deep, bin, FAST_CACHE_DEEP);
}

bool thread_heap_widen_to(struct thread_heap *heap, unsigned bin, enum fast_cache_width width) {
    struct heap_bin *cold = &heap->cold[bin];
    cold->width = (uint8_t)hak_max(cold->width, width);
    return fast_cache_widen(&heap->bins[bin], &cold->bottom, heap->slots, bin, width);
}

HAK_NOINLINE bool thread_heap_make_wider(struct thread_heap *heap, unsigned bin) {
    enum fast_cache_width due = heap_bin_due(&heap->cold[bin]);
    if (due == FAST_CACHE_DEEP && thread_heap_deepen(heap, bin)) {
        return true;
    }
    return thread_heap_widen_to(heap, bin, due == FAST_CACHE_DEEP ? FAST_CACHE_WIDE : due);
}

void **thread_heap_detach_more(struct thread_heap *heap, unsigned bin, unsigned *count) {
    void ***bottom = &heap->cold[bin].bottom;
    size_t held = (size_t)(heap->bins[bin].top - *bottom);
    *count = (unsigned)hak_min(*count, (held + 1) / 2);
    return held == 0 ? NULL : fast_cache_detach(&heap->bins[bin], bottom, *count);
}

void **thread_heap_detach(struct thread_heap *heap, unsigned bin, unsigned *count) {
    if (thread_heap_widen(heap, bin)) {
        return NULL;
    }
    return thread_heap_detach_more(heap, bin, count);
}

unsigned thread_heap_next_batch(struct thread_heap *heap, unsigned bin) {
    const struct size_class_bin *info = &size_class_bins[bin];
    unsigned want = heap->cold[bin].want;
    if (want == 0) {
        // A first batch fills whole cache lines, so that two threads that take turns do not get
        // blocks of one line.
        want = info->size < HAK_CACHE_LINE ? FAST_CACHE_NARROW : 1;
    }
    size_t most = info->batch;
    if (heap->cold[bin].width == FAST_CACHE_DEEP) {
        // The blocks of a deep stack go in phases, so a refill may take as many as a spill.
        size_t quarter = (size_t)(heap->bins[bin].limit - heap->cold[bin].bottom) / 4;
        most = hak_max(most, hak_min(quarter, THREAD_HEAP_REFILL_MOST));
    }
    want = (unsigned)hak_min(want, most);
    heap->cold[bin].want = (uint8_t)hak_min(want * 2, most);
    return want;
}

unsigned thread_heap_spill_batch(const struct thread_heap *heap, unsigned bin) {
    // The blocks that stay are moved down in the stack: the more there are, the rarer a spill
    // should be.
    size_t quarter = (size_t)(heap->bins[bin].top - heap->cold[bin].bottom) / 4;
    return (unsigned)hak_max(size_class_bins[bin].batch, quarter);
}

static bool is_deep(const struct thread_heap *heap, unsigned bin) {
    return heap->deep != NULL &&
           (uintptr_t)heap->cold[bin].bottom - (uintptr_t)heap->deep < DEEP_SLABS * ARENA_SLAB;
}

// Gives the slots of deep stacks back if the heap has no deep stack any more.
static void drop_deep(struct thread_heap *heap) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        if (is_deep(heap, bin)) {
            return;
        }
    }
    if (heap->deep != NULL) {
        void *deep = heap->deep;
        thread_heap_enter(heap);
        heap->deep = NULL;
        thread_heap_give_back(deep, DEEP_SLABS, true);
        thread_heap_leave(heap);
    }
}

bool thread_heap_caches(const struct thread_heap *heap, unsigned bin, const void *block) {
    // From the top down: a block that is freed twice has often been freed a moment ago.
    for (void **at = heap->bins[bin].top; at > heap->cold[bin].bottom; at--) {
        if (*at == block) {
            return true;
        }
    }
    return false;
}

// Moves the `count` oldest blocks of a stack to the pool. Returns their slots, as
// fast_cache_detach() does.
static void **give_oldest(struct thread_heap *heap, unsigned bin, unsigned count) {
    void **blocks = fast_cache_detach(&heap->bins[bin], &heap->cold[bin].bottom, count);
    shared_pool_put(bin, blocks, count);
    HAK_COUNT(&heap->counts.spills, 1);
    HAK_COUNT(&heap->counts.spilled, count);
    return blocks;
}

static void flush_bin(struct thread_heap *heap, unsigned bin) {
    void (*front)(struct thread_heap *, unsigned) = atomic_load(&flush_front);
    struct fast_bin *stack = &heap->bins[bin];
    struct heap_bin *cold = &heap->cold[bin];
    thread_heap_enter(heap);
    while (stack->top != cold->bottom) {
        size_t held = (size_t)(stack->top - cold->bottom);
        give_oldest(heap, bin, (unsigned)hak_min(held, SHARED_POOL_BATCH_MOST));
    }
    fast_cache_narrow(stack, &cold->bottom, heap->slots, bin);
    cold->width = FAST_CACHE_UNWIDENED;
    cold->taken = 0;
    cold->given = 0;
    cold->want = 0;
    cold->hint = ARENA_NONE;
    thread_heap_leave(heap);
    if (front != NULL) {
        front(heap, bin);
    }
}

void thread_heap_flush_all(struct thread_heap *heap) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        flush_bin(heap, bin);
    }
    drop_deep(heap);
}

// Empties caches that have not missed since the last trim, from heap->trim_bin on, until MOVE_MOST
// blocks have been moved, which is as much as one call may take.
static void trim(struct thread_heap *heap) {
    enum { MOVE_MOST = 2048 };
    unsigned moved = 0;
    unsigned bin = heap->trim_bin;
    for (; bin < SIZE_CLASS_BINS && moved < MOVE_MOST; bin++) {
        struct heap_bin *cold = &heap->cold[bin];
        if ((cold->missed & HEAP_BIN_MISSED_TRIM) != 0) {
            cold->missed &= (uint8_t)~HEAP_BIN_MISSED_TRIM;
        } else if (cold->want != 0 || thread_heap_held(heap, bin) != 0) {
            moved += (unsigned)thread_heap_held(heap, bin);
            flush_bin(heap, bin);
        }
    }
    if (bin < SIZE_CLASS_BINS) {
        heap->trim_bin = (uint8_t)bin;
        return;
    }
    heap->trim_bin = 0;
    drop_deep(heap);
}

// Moves up to `most` blocks of the older half of a stack to the pool. Returns how many.
static unsigned spill_half(struct thread_heap *heap, unsigned bin, unsigned most) {
    size_t half = (size_t)(heap->bins[bin].top - heap->cold[bin].bottom) / 2;
    unsigned count = (unsigned)hak_min(hak_min(half, most), SHARED_POOL_BATCH_MOST);
    if (count == 0) {
        return 0;
    }
    thread_heap_enter(heap);
    thread_heap_settle(heap, bin, give_oldest(heap, bin, count));
    thread_heap_leave(heap);
    return count;
}

void thread_heap_spill_quiet(struct thread_heap *heap) {
    enum { SHARE = 16, SLABS_LEAST = 2, SLABS_MOST = 64, MOVE_MOST = 1024, BYTES_LEAST = 16384 };
    size_t slabs = shared_pool_guess_totals().slabs / ARENA_SLAB;
    if (heap->company.grew < hak_min(hak_max(slabs / SHARE, SLABS_LEAST), SLABS_MOST)) {
        return;
    }
    heap->company.grew = 0;
    unsigned left = MOVE_MOST;
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        struct heap_bin *cold = &heap->cold[bin];
        if ((cold->missed & HEAP_BIN_MISSED_LOOK) != 0) {
            cold->missed &= (uint8_t)~HEAP_BIN_MISSED_LOOK;
            continue;
        }
        size_t held = (size_t)(heap->bins[bin].top - cold->bottom);
        if (held * size_class_bins[bin].size >= BYTES_LEAST) {
            left -= spill_half(heap, bin, left);
        }
    }
}

void thread_heap_tick(struct thread_heap *heap, uint64_t now, uint64_t idle_ms) {
    heap->seen_ms = now;
    if (HAK_UNLIKELY(now >= heap->trim_ms && idle_ms != UINT64_MAX)) {
        if (heap->trim_ms != 0) {
            heap->trim_bin = 1; // A trim that has not ended by now starts again.
        }
        heap->trim_ms = now + hak_max(idle_ms, 1);
    }
    if (HAK_UNLIKELY(heap->trim_bin != 0)) {
        trim(heap);
    }
}
