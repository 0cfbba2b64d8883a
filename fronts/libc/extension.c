// SPDX-License-Identifier: Apache-2.0
#include "fronts/libc/extension.h"

#include "backends/os.h"
#include "boxes/base/base.h"
#include "boxes/decay/decay.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/front_gate_classifier/front_gate_classifier.h"
#include "boxes/large_block/large_block.h"
#include "boxes/medium_block/medium_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/private_heap/private_heap.h"
#include "boxes/settings/settings.h"
#include "boxes/size_class/size_class.h"
#include "boxes/thread_heap/thread_heap.h"
#include "fronts/libc/hit_path.h"
#include "fronts/libc/libc.h"

#include <string.h>

#define EXPORT __attribute__((visibility("default")))

static bool is_beyond(size_t size, size_t align) {
    return size > (size_t)PTRDIFF_MAX - ARENA_SLAB || align > (size_t)PTRDIFF_MAX - size;
}

EXPORT size_t hak_good_size(size_t size, size_t align) {
    if (is_beyond(size, align)) {
        return 0;
    }
    size = hak_max(size, 1);
    if (HAK_HARDENED) {
        return size;
    }
    unsigned bin = 0;
    if (align > HAK_MIN_ALIGN) {
        bin = size_class_aligned_bin(size, align);
    } else if (size <= SIZE_CLASS_TINY_MAX) {
        bin = size_class_bin_of(size);
    }
    if (bin != 0) {
        return size_class_usable(bin);
    }
    return large_block_good_size(size);
}

EXPORT void hak_page_sizes(void) {
    large_block_round_to_pages();
}

EXPORT size_t hak_resize_here(void *ptr, size_t size) {
    struct front_gate_block block = front_gate_classify(ptr);
    if (block.usable == 0) {
        diag_misuse("hak_resize_here", ptr, front_gate_fault(block.kind));
    }
    struct page_arena_window window = page_arena_get_window();
    size_t wanted = hak_max(size, 1);
    if (block.kind == FRONT_GATE_LARGE && size <= (size_t)PTRDIFF_MAX &&
        (medium_block_owns_any(&window, block.slab)
             ? medium_block_resize(&window, ptr, block.slab, wanted)
             : large_block_resize_here(&window, ptr, block.slab, wanted))) {
        return large_block_good_size(wanted);
    }
    return block.usable;
}

EXPORT size_t hak_usable(const void *ptr) {
    return front_gate_classify(ptr).usable;
}

EXPORT bool hak_in_heap(const void *ptr) {
    switch (front_gate_classify(ptr).kind) {
    case FRONT_GATE_FOREIGN:
    case FRONT_GATE_FREE_PAGES:
    case FRONT_GATE_INTERNAL:
        return false;
    default:
        return true;
    }
}

EXPORT void hak_flush_thread(void) {
    thread_heap_flush();
}

EXPORT size_t hak_thread_cached(void) {
    struct thread_heap *heap = thread_heap_current();
    size_t bytes = 0;
    // A thread without a heap of its own has an empty heap, whose seen_ms is 0.
    for (unsigned bin = 1; heap->seen_ms != 0 && bin < SIZE_CLASS_BINS; bin++) {
        size_t blocks = thread_heap_held(heap, bin);
        bytes += blocks * size_class_bins[bin].size;
    }
    return bytes;
}

EXPORT void hak_purge(void) {
    thread_heap_flush_free();
    decay_all(0);
}

EXPORT void hak_decay(void) {
    decay_tick(os_now_ms());
}

EXPORT int64_t hak_decay_ms(void) {
    return settings_get(SETTING_DECAY_MS);
}

EXPORT bool hak_set_decay_ms(int64_t ms) {
    return settings_set(SETTING_DECAY_MS, ms);
}

EXPORT void *hak_aligned_zalloc(size_t align, size_t size) {
    size = hak_max(size, 1);
    if (size_class_aligned_bin(size, hak_max(align, HAK_MIN_ALIGN)) == 0) {
        return slow_zero_aligned_alloc(align, size);
    }
    void *block = slow_aligned_alloc(align, size);
    return block == NULL ? NULL : memset(block, 0, size);
}

// The two types are the same: the public name for the box's struct.
static struct private_heap *inside(struct hak_heap *heap) {
    return (struct private_heap *)heap;
}

static struct hak_heap *outside(struct private_heap *heap) {
    return (struct hak_heap *)heap;
}

EXPORT struct hak_heap *hak_heap_new(void) {
    struct private_heap *heap = private_heap_new();
    if (HAK_UNLIKELY(heap == NULL)) {
        slow_make_room();
        heap = private_heap_new();
    }
    return outside(heap);
}

EXPORT void *hak_heap_alloc(struct hak_heap *heap, size_t size, size_t align, bool zero) {
    // Private heaps have no misses, so each allocation does the housekeeping of a miss.
    decay_tick(os_now_ms());
    void *block = private_heap_alloc(inside(heap), size, align, zero);
    if (HAK_UNLIKELY(block == NULL)) {
        slow_make_room();
        block = private_heap_alloc(inside(heap), size, align, zero);
    }
    return block;
}

EXPORT void *hak_heap_alloc_at(struct hak_heap *heap, size_t size, size_t align, size_t offset,
                               bool zero) {
    decay_tick(os_now_ms());
    void *block = private_heap_alloc_at(inside(heap), size, align, offset, zero);
    if (HAK_UNLIKELY(block == NULL)) {
        slow_make_room();
        block = private_heap_alloc_at(inside(heap), size, align, offset, zero);
    }
    return block;
}

EXPORT size_t hak_heap_good_size(size_t size, size_t align) {
    return private_heap_good_size(size, align);
}

EXPORT void hak_heap_delete(struct hak_heap *heap) {
    private_heap_delete(inside(heap));
}

EXPORT void hak_heap_destroy(struct hak_heap *heap) {
    private_heap_destroy(inside(heap));
}

EXPORT void hak_heap_reset(struct hak_heap *heap) {
    private_heap_reset(inside(heap));
}

EXPORT struct hak_heap *hak_heap_of(const void *ptr) {
    struct page_arena_window window = page_arena_get_window();
    return outside(private_heap_of(&window, ptr));
}

EXPORT bool hak_heap_visit(struct hak_heap *heap,
                           bool (*visit)(void *block, size_t usable, void *arg), void *arg) {
    return private_heap_visit(inside(heap), visit, arg);
}

EXPORT void hak_heap_stats(struct hak_heap *heap, size_t *live, size_t *held) {
    struct private_heap_stats stats = private_heap_get_stats(inside(heap));
    *live = stats.live;
    *held = stats.held;
}
