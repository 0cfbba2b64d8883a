// SPDX-License-Identifier: Apache-2.0
// Allocations that are no hit: misses, large blocks, sampled and recorded allocations; and the
// housekeeping of slow calls.
#include "fronts/libc/slow_path.h"

#include "fronts/libc/hardened_path.h"
#include "fronts/libc/hit_path.h"

#include "backends/os.h"
#include "boxes/early_block/early_block.h"
#include "boxes/guarded_block/guarded_block.h"
#include "boxes/hardening/hardening.h"
#include "boxes/heap_profile/heap_profile.h"
#include "boxes/large_block/large_block.h"
#include "boxes/medium_block/medium_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/recorder/recorder.h"
#include "boxes/sampled_block/sampled_block.h"
#include "boxes/sampler/sampler.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/size_class/size_class.h"
#include "fronts/libc/guard.h"
#include "fronts/libc/libc.h"
#include "fronts/libc/profile.h"
#include "fronts/tiny_front/tiny_front.h"

#include <errno.h>
#include <string.h>

// As tick(), for the allocation of a large block, which takes about as long as a tick. The clock
// moves every few ms only, so a thread ticks once for each value of the clock, and after it has
// read the same value twice it lets QUIET allocations pass. A thread without a heap has the empty
// one, whose seen_ms is 0, and ticks each time. A free of a large block does not tick, because the
// freed block is not idle yet.
static void tick_once(void) {
    enum { QUIET = 3 };
    struct thread_heap *heap = thread_heap_current();
    if (heap->large_quiet != 0) {
        heap->large_quiet--;
        return;
    }
    uint64_t now = os_now_ms();
    if (HAK_UNLIKELY(now != heap->seen_ms)) {
        tick_at(thread_heap_get(), now);
    } else {
        heap->large_quiet = QUIET;
    }
}

void slow_tick(void) {
    tick_once();
}

HAK_COLD void slow_make_room(void) {
    thread_heap_flush();
    thread_heap_flush_free();
    large_block_flush();
    medium_block_flush();
    shared_pool_give_short();
    shared_pool_leave_homes();
}

// To be called if slow_make_room() was not enough for a block of `size` bytes: gives up memory that
// is kept apart for other sizes. Returns false if that cannot help.
static HAK_COLD bool make_last_room(size_t size) {
    if (!HAK_HARDENED || size > shared_pool_get_totals().slabs) {
        return false;
    }
    shared_pool_give_kept();
    return true;
}

// Returns true if free should read the blocks that it is given. That costs little as long as all
// blocks of the process together fit into the processor's cache.
static bool is_worth_a_look(void) {
    enum { NEAR = 2 << 20 }; // bytes
    int64_t setting = settings_get(SETTING_CHECK_FREES);
    if (FREE_MARK == 0 || setting != 1 || HAK_DEBUG) {
        return FREE_MARK != 0 && (setting != 0 || HAK_DEBUG);
    }
    if (shared_pool_has_homes()) {
        return false; // The counts are behind then, and to sum them up would slow other threads.
    }
    struct shared_pool_totals totals = shared_pool_guess_totals();
    return totals.slabs <= NEAR + totals.clean;
}

void slow_renew_gate(struct thread_heap *heap, bool anew) {
    struct front_gate *gate = thread_heap_gate();
    if (recorder_is_on()) {
        close_gate();
        return;
    }
    size_t growths = page_arena_growths();
    if (HAK_LIKELY(growths == heap->gate_growths)) {
        if (anew || front_gate_checks(gate)) {
            front_gate_set_check(gate, is_worth_a_look());
        }
        return;
    }
    struct page_arena_window window = page_arena_get_window();
    *gate = front_gate_of(&window, is_worth_a_look());
    heap->gate_growths = growths;
}

void slow_look_anew(void) {
    struct thread_heap *heap = thread_heap_get();
    if (heap != NULL) {
        slow_renew_gate(heap, true);
    }
}

// Turns a free block into a live one.
HAK_INLINE void hand_out(unsigned bin, void *block, size_t size) {
#if HAK_HARDENED
    hardening_issue(bin, block, size);
#else
    (void)bin, (void)size;
    free_mark_clear(block);
#endif
}

// Ends a miss: turns a free block into a live one, or sets ENOMEM if there is none (NULL).
static void *hand_out_or_fail(unsigned bin, void *block, size_t size) {
    if (HAK_UNLIKELY(block == NULL)) {
        errno = ENOMEM;
        return NULL;
    }
    hand_out(bin, block, size);
    return block;
}

// Returns a block from the heap's cache, for a request of `size` bytes, or NULL.
HAK_INLINE void *pop(struct thread_heap *heap, unsigned bin, size_t size) {
#if HAK_HARDENED
    void *block = hardened_path_pop(heap, bin);
#else
    void *block = fast_cache_pop(&heap->bins[bin]);
#endif
    if (HAK_LIKELY(block != NULL)) {
        hand_out(bin, block, size);
    }
    return block;
}

// Returns true if blocks of the bin bypass the heap's cache, because the thread has not used many
// yet.
static bool is_uncached(struct thread_heap *heap, unsigned bin) {
    if (HAK_LIKELY(!thread_heap_is_closed(heap, bin))) {
        return false;
    }
    thread_heap_enter(heap);
    bool wider = thread_heap_widen(heap, bin);
    thread_heap_leave(heap);
    return !wider;
}

static HAK_NOINLINE void *take_uncached(struct thread_heap *heap, unsigned bin, size_t size) {
    void *block = tiny_front_take_one(heap, bin);
    if (HAK_UNLIKELY(block == NULL)) {
        slow_make_room();
        block = tiny_front_take_one(heap, bin);
        if (block == NULL && make_last_room(size)) {
            block = tiny_front_take_one(heap, bin);
        }
    }
    return hand_out_or_fail(bin, block, size);
}

// Takes one block for a thread that has given its heap back, or for which there is no heap.
static HAK_NOINLINE HAK_COLD void *take_without_heap(unsigned bin, size_t size) {
    void *block;
    shared_pool_hint hint = ARENA_NONE;
    unsigned got = shared_pool_take(bin, &block, 1, &hint);
    front_gate_mark(bin, &block, got);
    tick(NULL);
    return hand_out_or_fail(bin, got == 0 ? NULL : block, size);
}

// Fills the cache, and takes a block out of it. Returns NULL and sets ENOMEM if there is no memory.
HAK_INLINE void *take_refilled(struct thread_heap *heap, unsigned bin, size_t size) {
    const struct tiny_front *front = tiny_front_of(bin);
    if (HAK_UNLIKELY(front->refill(heap, bin) == 0)) {
        slow_make_room();
        if (front->refill(heap, bin) == 0 &&
            !(make_last_room(size) && front->refill(heap, bin) != 0)) {
            errno = ENOMEM;
            return NULL;
        }
    }
    return pop(heap, bin, size);
}

// Serves a request for which the thread's cache has no block: gets the thread a heap if it has
// none, takes blocks from the pool, and does the housekeeping last.
static HAK_NOINLINE void *miss(unsigned bin, size_t size) {
#if HAK_HARDENED
    hardening_prepare();
#endif
    struct thread_heap *heap = thread_heap_get();
    if (HAK_UNLIKELY(heap == NULL)) {
        return take_without_heap(bin, size);
    }
#if HAK_HARDENED
    hardened_path_start(heap);
#endif
    void *block = pop(heap, bin, size); // A heap that was adopted just now may have blocks.
    if (HAK_LIKELY(block == NULL)) {
        block = !HAK_HARDENED && HAK_UNLIKELY(is_uncached(heap, bin))
                    ? take_uncached(heap, bin, size)
                    : take_refilled(heap, bin, size);
    }
    uint64_t before = heap->seen_ms;
    tick(heap);
    thread_heap_tick_grown(heap);
    slow_renew_gate(heap, heap->seen_ms != before);
    return block;
}

// Returns false for a block that is larger than the window, for which making room cannot help.
static bool may_fit(size_t size, size_t align) {
    size_t most = page_arena_get_window().slabs << ARENA_SLAB_SHIFT;
    return size <= most && align <= most;
}

// Counts a small allocation. Returns true if it may get a sampled or a guarded block, which
// sampled() decides. If the sampler is due, the allocation is not counted for the guard yet.
HAK_INLINE bool is_due(size_t size) {
    return sampler_counts(size) || guarded_block_counts();
}

static HAK_COLD void *guarded(size_t size, size_t align) {
    void *block = guarded_block_decides() ? guarded_block_alloc(size, align) : NULL;
    if (block != NULL) {
        guard_keep_handler();
    }
    return block;
}

// Returns a guarded or sampled block for an allocation that is_due(), or NULL if it gets neither.
static HAK_NOINLINE void *sampled(size_t size, size_t align) {
    bool sampler = sampler_left < 0;
    void *block = !sampler || guarded_block_counts() ? guarded(size, align) : NULL;
    if (sampler && sampler_decides(size)) {
        block = block != NULL ? block : sampled_block_alloc(size, align);
        heap_profile_note(block, size);
        profile_tick();
    }
    return block;
}

static HAK_COLD void sample_large(void *block, size_t size) {
    if (sampler_decides(size)) {
        heap_profile_note(block, size);
        profile_tick();
    }
}

// Allocates a block that no bin serves.
static void *beyond_bins(size_t size, size_t align, enum large_block_use use) {
    void *block =
        size <= MEDIUM_BLOCK_MOST ? medium_block_alloc(size, align, use == LARGE_BLOCK_ZERO) : NULL;
    return block != NULL ? block : large_block_alloc(size, align, use);
}

static HAK_NOINLINE void *large(size_t size, size_t align, enum large_block_use use) {
    tick_once();
    void *block = beyond_bins(size, align, use);
    if (HAK_UNLIKELY(block == NULL) && may_fit(size, align)) {
        slow_make_room();
        block = beyond_bins(size, align, use);
        if (block == NULL && make_last_room(size)) {
            block = beyond_bins(size, align, use);
        }
    }
    if (HAK_UNLIKELY(block == NULL)) {
        errno = ENOMEM;
    } else if (sampler_counts(size)) {
        sample_large(block, size);
    }
    return block;
}

// Allocates a block of a bin for a request of `size` bytes at a multiple of `align`.
HAK_INLINE void *small(unsigned bin, size_t size, size_t align) {
    if (is_due(size)) {
        void *block = sampled(size, align);
        if (block != NULL) {
            return block;
        }
    }
    void *block = pop(thread_heap_current(), bin, size);
    return HAK_LIKELY(block != NULL) ? block : miss(bin, size);
}

static HAK_NOINLINE void *alloc_unhit(size_t size) {
    return size > SIZE_CLASS_TINY_MAX ? large(size, 1, LARGE_BLOCK_ANY)
                                      : small(size_class_bin_of(size), size, 1);
}

static HAK_NOINLINE void *miss_of(size_t size) {
    return miss(size_class_bin_of(size), size);
}

// Allocates a block of a size that may be a hit, from the thread's stack or by a miss.
HAK_INLINE void *take_counted(size_t size) {
    struct thread_heap *heap = thread_heap_current();
    size_t place = size_class_sized_place(heap->sizes, size);
#if HAK_HARDENED
    void *block = pop(heap, size_class_bin_of_alloc((unsigned)place), size);
#else
    void *block = hit_pop(heap, place);
#endif
    return HAK_LIKELY(block != NULL) ? block : miss_of(size);
}

static HAK_NOINLINE void *alloc_due(size_t size) {
    void *block = sampled(size, 1);
    return block != NULL ? block : take_counted(size);
}

// Calls that are recorded. Each closes the thread's gate, because a thread that ran before the
// recording began may still have an open one, by which its frees would hit.
static HAK_COLD void *recorded(enum trace_kind kind, void *block, size_t size, size_t align) {
    close_gate();
    recorder_allocated(kind, block, size, align);
    recorder_leaves();
    return block;
}

static HAK_COLD void *recorded_alloc(size_t size) {
    return recorded(TRACE_MALLOC, slow_alloc(size), size, 1);
}

static HAK_COLD void *recorded_zero_alloc(size_t size) {
    return recorded(TRACE_CALLOC, slow_zero_alloc(size), size, 1);
}

static HAK_COLD void *recorded_aligned_alloc(size_t align, size_t size) {
    return recorded(TRACE_ALIGNED, slow_aligned_alloc(align, size), size, align);
}

static HAK_COLD void *recorded_zero_aligned_alloc(size_t align, size_t size) {
    return recorded(TRACE_ALIGNED, slow_zero_aligned_alloc(align, size), size, align);
}

HAK_INLINE void *counted_alloc(size_t size) {
    if (HAK_UNLIKELY(size - 1 >= SIZE_CLASS_HIT_MAX)) { // 0, too: it has no place in the table
        return alloc_unhit(size);
    }
    return is_due(size) ? alloc_due(size) : take_counted(size);
}

// Allocates while a recording is on: records the call, unless it is made within a recorded call.
static HAK_COLD HAK_NOINLINE void *alloc_in_recording(size_t size) {
    return recorder_enters_recording() ? recorded_alloc(size) : counted_alloc(size);
}

#if HAK_HARDENED
// Serves a request of a size that may be a hit in other flavours, but for whose block the check
// takes too many instructions for a hit. Returns NULL in an unusual case; see hardened_hit_alloc().
HAK_INLINE void *alloc_hardened(size_t size) {
    unsigned bin;
    void *block = hardened_hit_pop(thread_heap_current(), size, SIZE_CLASS_HIT_MAX, &bin);
    if (HAK_LIKELY(block != NULL)) {
        size_t bytes = size_class_bins[bin].size - sizeof(hardening_pair);
        hardening_issue_looked(bin, block, size, hardening_any_many(block, bytes));
    }
    return block;
}
#endif

// While allocations are sampled, every malloc comes here. Requests that would otherwise be hits are
// served in a few instructions, by a table that gives their stack. All other cases are tail calls,
// so no register is saved.
void *slow_alloc(size_t size) {
#if HAK_HARDENED
    void *block = alloc_hardened(size);
    if (HAK_LIKELY(block != NULL)) {
        return block;
    }
#endif
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        return early_block_alloc(size, 1);
    }
    return recorder_is_on() ? alloc_in_recording(size) : counted_alloc(size);
}

void *slow_zero_alloc(size_t size) {
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        return early_block_alloc(size, 1);
    }
    if (recorder_enters()) {
        return recorded_zero_alloc(size);
    }
    if (HAK_UNLIKELY(size > SIZE_CLASS_TINY_MAX)) {
        return large(size, 1, LARGE_BLOCK_ZERO);
    }
    void *block = slow_alloc(size);
#if HAK_HARDENED
    // A block without a bin is sampled or guarded, and is in no slab of the heap.
    unsigned bin = size_class_bin_at(front_gate_registry(thread_heap_gate(), block));
    if (bin != 0 && hardening_is_zero(bin)) {
        return block;
    }
#endif
    return HAK_LIKELY(block != NULL) ? memset(block, 0, size) : NULL;
}

void *slow_grown_alloc(size_t size) {
    return large(size, 1, LARGE_BLOCK_GROWN);
}

void *slow_zero_aligned_alloc(size_t align, size_t size) {
    if (recorder_enters()) {
        return recorded_zero_aligned_alloc(align, size);
    }
    return large(size, align, LARGE_BLOCK_ZERO);
}

// Frees a block that is not aligned, and takes another one, until one is aligned. A cache may have
// a block of a larger bin, which is less aligned, if sized delete was given too small a size.
static HAK_COLD HAK_NOINLINE void *take_aligned(void *block, unsigned bin, size_t size,
                                                size_t align) {
    while (((uintptr_t)block & (align - 1)) != 0) {
        slow_free(block);
        block = small(bin, size, align);
    }
    return block;
}

void *slow_aligned_alloc(size_t align, size_t size) {
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        return early_block_alloc(size, align);
    }
    if (recorder_enters()) {
        return recorded_aligned_alloc(align, size);
    }
    unsigned bin = size_class_aligned_bin(size, align);
    if (bin == 0) {
        return large(size == 0 ? 1 : size, align, LARGE_BLOCK_ANY);
    }
    void *block = small(bin, size, align);
    return HAK_LIKELY(((uintptr_t)block & (align - 1)) == 0)
               ? block
               : take_aligned(block, bin, size, align);
}

void slow_sample_moved(void *block, size_t size) {
    if (sampler_counts(size)) {
        sample_large(block, size);
    }
}
