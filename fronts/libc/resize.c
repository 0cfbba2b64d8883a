// SPDX-License-Identifier: Apache-2.0
// realloc(), reallocarray() and malloc_usable_size(): the calls on a live block.
#include "fronts/libc/calls.h"
#include "fronts/libc/interposed.h"
#include "fronts/libc/libc.h"

#include "boxes/diagnostics/diagnostics.h"
#include "boxes/early_block/early_block.h"
#include "boxes/free_mark/free_mark.h"
#include "boxes/front_gate_classifier/front_gate.h"
#include "boxes/front_gate_classifier/front_gate_classifier.h"
#include "boxes/hardening/hardening.h"
#include "boxes/heap_profile/heap_profile.h"
#include "boxes/large_block/large_block.h"
#include "boxes/medium_block/medium_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/recorder/recorder.h"
#include "boxes/shared_pool/free_bit.h"
#include "boxes/size_class/size_class.h"
#include "boxes/thread_heap/thread_heap.h"
#include "fronts/tiny_front/tiny_front.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

// Returns true if a block is among the newest of its stack. While free() does not read blocks,
// blocks in a cache have no mark.
static bool is_newest(const struct thread_heap *heap, unsigned bin, const void *ptr) {
    void **top = heap->bins[bin].top;
    for (size_t i = 0; i < THREAD_HEAP_NEWEST && top - i > heap->cold[bin].bottom; i++) {
        if (top[-(ptrdiff_t)i] == ptr) {
            return true;
        }
    }
    return false;
}

// Classifies the block at `ptr`. Stops the program if no live block starts there.
static struct front_gate_block classify_live(const char *call, const void *ptr) {
    struct front_gate_block what = front_gate_classify(ptr);
    const struct thread_heap *heap = thread_heap_current();
    if (what.kind == FRONT_GATE_TINY &&
        (free_mark_is_set(ptr, heap) ? tiny_front_is_free(heap, what.bin, ptr)
                                     : is_newest(heap, what.bin, ptr))) {
        what = (struct front_gate_block){.kind = FRONT_GATE_TINY_FREE};
    }
    if (HAK_UNLIKELY(what.usable == 0)) {
        diag_misuse(call, ptr, front_gate_fault(what.kind));
    }
    return what;
}

// Moves the contents of ptr, a live block of `usable` bytes, to a new block.
static HAK_NOINLINE void *move(void *ptr, size_t size, size_t usable) {
    int saved = errno;
    bool grown = size > SIZE_CLASS_TINY_MAX && size > usable;
    void *fresh = grown ? slow_grown_alloc(size) : get(size);
    if (fresh == NULL) {
        if (size > usable) {
            return NULL;
        }
        errno = saved; // A block that shrinks stays where it is.
        return ptr;
    }
    memcpy(fresh, ptr, hak_min(size, usable));
    put(ptr);
    return fresh;
}

// Resizes a block above SIZE_CLASS_TINY_MAX to another such size: as large_block_resize() does.
// Returns NULL if that cannot be done. The sample of a sampled block ends, and the new size counts
// for the sampler as an allocation.
static void *resize_large(const struct front_gate_block *old, void *ptr, size_t size) {
    const struct page_arena_window window = page_arena_get_window();
    struct heap_profile_sample sample;
    bool sampled = heap_profile_started() && heap_profile_take(ptr, &sample);
    void *same = NULL;
    if (!medium_block_owns_any(&window, old->slab)) {
        same = large_block_resize(&window, ptr, old->slab, size);
    } else if (medium_block_resize(&window, ptr, old->slab, size)) {
        same = ptr;
    }
    if (HAK_UNLIKELY(sampled)) {
        same != NULL ? heap_profile_drop(&sample) : heap_profile_put_back(&sample);
    }
    if (same != NULL) {
        slow_sample_moved(same, size);
        if (same != ptr && old->usable < LARGE_BLOCK_MOVE) { // copied
            slow_tick();
        }
    }
    return same;
}

// Returns true if a block that is not large serves `size` bytes as it is: if they fit, and are more
// than half of the block, or would get a block of the same bin.
static bool serves(const struct front_gate_block *old, size_t size) {
    return size <= old->usable && (size > old->usable / 2 || (old->kind == FRONT_GATE_TINY &&
                                                              size_class_bin_of(size) == old->bin));
}

// Resizes a live block to `size` bytes, not 0.
static void *resize_live(const struct front_gate_block *old, void *ptr, size_t size) {
    if (old->kind == FRONT_GATE_SAMPLED || old->kind == FRONT_GATE_GUARDED) {
        return move(ptr, size, old->usable); // The sample ends, and the new block may be one.
    }
#if HAK_HARDENED
    if (old->kind == FRONT_GATE_TINY) {
        if (size <= SIZE_CLASS_TINY_MAX && size_class_bin_of(size) == old->bin) {
            hardening_set(old->bin, ptr, size);
            return ptr;
        }
        return move(ptr, size, old->usable);
    }
#endif
    if (old->kind != FRONT_GATE_LARGE) {
        return serves(old, size) ? ptr : move(ptr, size, old->usable);
    }
    void *same = size > SIZE_CLASS_TINY_MAX ? resize_large(old, ptr, size) : NULL;
    return same != NULL ? same : move(ptr, size, old->usable);
}

static HAK_COLD void *recorded_resize(const char *call, void *ptr, size_t size);

static HAK_NOINLINE void *slow_resize(const char *call, void *ptr, size_t size) {
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        if (size != 0) {
            return early_block_resize(ptr, size);
        }
        early_block_free(ptr);
        return NULL;
    }
    if (recorder_enters()) {
        return recorded_resize(call, ptr, size);
    }
    struct front_gate_block old = classify_live(call, ptr);
    if (size == 0) {
        put(ptr);
        return NULL;
    }
    return resize_live(&old, ptr, size);
}

static void *recorded_resize(const char *call, void *ptr, size_t size) {
    size != 0 ? recorder_resizes(ptr, size) : recorder_frees(ptr);
    void *block = slow_resize(call, ptr, size);
    if (size != 0) {
        recorder_resized(block);
    }
    recorder_leaves();
    return block;
}

// The tiny block that starts at an address, live or not: its bin (0: none starts there), its slab
// (0: the address is not in the window), and its number in the slab.
struct tiny {
    unsigned bin;
    size_t slab, block;
};

// Finds the tiny block at an address. Returns bin 0 in the hardened flavour, so that every block
// takes the slow path, and until the window is set up, which is_in_pool() needs.
HAK_INLINE struct tiny tiny_at(const void *ptr) {
    const struct front_gate *gate = thread_heap_gate();
    struct tiny tiny = {0};
    size_t unit = front_gate_unit(gate, ptr);
    if (HAK_HARDENED || HAK_UNLIKELY(unit >= gate->units) || !page_arena_is_known()) {
        return tiny;
    }
    unsigned bin = size_class_bin_at(front_gate_at(gate, unit));
    tiny.slab = unit >> FRONT_GATE_SLAB_UNITS;
    tiny.bin = HAK_LIKELY(size_class_is_start(&size_class_bins[bin], (uintptr_t)ptr % ARENA_SLAB,
                                              &tiny.block))
                   ? bin
                   : 0;
    return tiny;
}

HAK_INLINE bool is_in_pool(const struct tiny *tiny) {
    return shared_pool_bit_is_set(tiny->bin, tiny->slab, tiny->block);
}

// Returns true if a block that realloc() is to move or keep is free: in its slab, or among the
// newest of the thread's cache. For a small block only the debug flavour looks: each look would
// bring a line of the slab's bitmap into the processor's cache.
HAK_INLINE bool is_put_back(const struct tiny *tiny, const void *ptr) {
    const struct thread_heap *heap = thread_heap_current();
    if (HAK_HEADER || tiny->bin < SIZE_CLASS_HIT_BINS) {
        return HAK_DEBUG && (is_in_pool(tiny) || is_newest(heap, tiny->bin, ptr));
    }
    return is_in_pool(tiny) || hit_is_one_of_newest(heap, tiny->bin, ptr);
}

// Resizes a large block in the window (tiny_at() has found its slab, and no bin) that keeps its
// pages. Returns false for any other block, and while allocations are sampled, because the block
// may be a sample.
HAK_INLINE bool large_stays(const struct tiny *tiny, void *ptr, size_t size) {
    if (tiny->slab == 0 || size <= SIZE_CLASS_TINY_MAX || heap_profile_started()) {
        return false;
    }
    const struct page_arena_window window = page_arena_get_window();
    return medium_block_owns_reached(&window, tiny->slab)
               ? medium_block_stays(&window, ptr, tiny->slab, size)
               : large_block_stays(ptr, tiny->slab, size);
}

// Resizes tiny blocks that stay where they are or move into another bin, and large blocks that keep
// their pages. slow_resize() does all else.
static HAK_NOINLINE void *resize(const char *call, void *ptr, size_t size) {
    const struct tiny tiny = tiny_at(ptr);
    const unsigned bin = tiny.bin;
    if (bin == 0 && large_stays(&tiny, ptr, size)) {
        return ptr;
    }
    if (HAK_UNLIKELY(bin == 0 || size - 1 >= SIZE_CLASS_ALLOC_MAX ||
                     free_mark_is_set(ptr, thread_heap_current()) ||
                     hit_is_next(thread_heap_current(), bin, ptr) || is_put_back(&tiny, ptr))) {
        return slow_resize(call, ptr, size);
    }
    size_t usable = size_class_usable(bin);
    if (size <= usable) {
        if (size > usable / 2) {
            return ptr;
        }
        // Few calls shrink a block so much, so a look at its bit costs little.
        if (HAK_UNLIKELY(is_in_pool(&tiny))) {
            return slow_resize(call, ptr, size);
        }
        if (bin == 1) { // the same bin; see serves()
            return ptr;
        }
    }
    void *fresh = hit_alloc(size);
    if (HAK_UNLIKELY(fresh == NULL)) {
        return move(ptr, size, usable);
    }
    memcpy(fresh, ptr, hak_min(size, usable));
    put(ptr);
    return fresh;
}

EXPORT void *realloc(void *ptr, size_t size) {
    return ptr == NULL ? get(size) : resize("realloc", ptr, size);
}
OWN(realloc) void *own_realloc(void *ptr, size_t size);

EXPORT void *reallocarray(void *ptr, size_t count, size_t size) {
    size_t total;
    if (!product(count, size, &total)) {
        return NULL;
    }
    if (HAK_UNLIKELY(interposed_calls() & INTERPOSED_REALLOC)) {
        return process_realloc(ptr, total);
    }
    return ptr == NULL ? get(total) : resize("reallocarray", ptr, total);
}

// For NULL, blocks that are not tiny, and pointers that start no live block.
static HAK_NOINLINE size_t slow_usable(const void *ptr) {
    return ptr == NULL ? 0 : classify_live("malloc_usable_size", ptr).usable;
}

// Some programs call this for each block that they allocate and for each that they free, so few
// looks are made. A freed block is noticed in the cache if it is the next to be handed out, or, if
// free() reads blocks, by its mark; and in the pool by its bit.
EXPORT size_t malloc_usable_size(void *ptr) {
    const struct tiny tiny = tiny_at(ptr);
    if (HAK_UNLIKELY(tiny.bin == 0) || HAK_UNLIKELY(is_in_pool(&tiny)) ||
        HAK_UNLIKELY(front_gate_checks(thread_heap_gate())
                         ? free_mark_is_set(ptr, thread_heap_current())
                         : hit_is_next(thread_heap_current(), tiny.bin, ptr))) {
        return slow_usable(ptr);
    }
    return size_class_usable(tiny.bin);
}

#ifdef __GLIBC__
EXPORT LIBC_NAME(realloc) void *__libc_realloc(void *ptr, size_t size);
#endif
