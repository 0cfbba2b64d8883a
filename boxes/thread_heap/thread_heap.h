// SPDX-License-Identifier: Apache-2.0
// thread_heap: a thread's caches and counters; their birth, exit, adoption by a later thread, fork.
//
// One initial-exec TLS pointer leads to the current thread's heap. Until the thread's first miss
// the pointer leads to a static empty heap. A destructor of thread-specific data gives the heap
// back, in the second of its rounds. Then the pointer leads to another empty heap, "gone": from
// then on the pool serves the thread, block by block. A heap lives in one slab. A free heap, one
// without a thread, is a set bit. It may still have blocks in its caches, which the thread that
// adopts the heap gets, too. In a forked child all heaps become free except for the current one and
// those that are busy.
#ifndef HAKMEM_BOXES_THREAD_HEAP_THREAD_HEAP_H
#define HAKMEM_BOXES_THREAD_HEAP_THREAD_HEAP_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"
#include "boxes/cpu/cpu.h"
#include "boxes/fast_cache/fast_cache.h"
#include "boxes/front_gate_classifier/front_gate.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/size_class/size_class.h"

HAK_C_BEGIN

// A heap's counts. Only its thread writes them, with HAK_COUNT, on misses.
struct thread_heap_counts {
    uint64_t refills, refilled; // how often blocks came from the pool, and how many
    uint64_t spills, spilled;   // how often blocks went to the pool, and how many
};

// The part of a bin that only misses touch, in one cache line. Only the functions of this box write
// it; fields with HAK_POKE are read by other threads.
struct heap_bin {
    void **bottom;         // slot 0 of the stack; HAK_POKE
    shared_pool_hint hint; // the slab that the pool tries first
    uint16_t taken;        // blocks from the pool since a flush narrowed the stack; 65535 at most
    uint16_t given;        // blocks to the pool since then; 65535 at most
    uint16_t behind;       // blocks that a front holds behind the cache; HAK_POKE
    uint8_t want;          // blocks that the next refill asks for; 0: as many as a first refill
    uint8_t width;         // enum fast_cache_width: the largest width that was tried
    uint8_t missed;        // set of enum heap_bin_missed
};

// A bin has been refilled or spilled since the last trim, and since the last look at quiet stacks.
enum heap_bin_missed { HEAP_BIN_MISSED_TRIM = 1, HEAP_BIN_MISSED_LOOK = 2 };

struct thread_heap {
    struct fast_bin bins[SIZE_CLASS_BINS];     // hit path; first, because places count from here
    struct fast_bin closed[SIZE_CLASS_CLOSED]; // never written, so empty and full: the places of
                                               // bins without hits, see size_class_place()
    uint8_t table[SIZE_CLASS_TABLE];           // hit path of malloc: from size to stack
    uint8_t sizes[SIZE_CLASS_SIZES];           // hit path of sized delete: from size to stack
    // Only misses touch the fields below.
    _Atomic(uint8_t) busy; // the thread is between thread_heap_enter() and thread_heap_leave()
    uint8_t trim_bin;      // bin that the trim goes on with; 0: no trim is under way
    uint8_t large_quiet;   // large blocks to be allocated until the clock is read for one again
    uint32_t id;           // index in the directory of heaps
    uint64_t seen_ms;      // clock of the thread's last miss; 0 in an empty heap
    uint64_t trim_ms;      // clock at which the next trim begins
    size_t gate_growths;   // page_arena_growths() when the thread's gate was copied last
    void **deep;           // slots of deep stacks; NULL: there are none
    struct shared_pool_company company;
    struct thread_heap_counts counts;
    void *front_state; // a front's own, made by thread_heap_make_state()
    alignas(HAK_CACHE_LINE) struct heap_bin cold[SIZE_CLASS_BINS];
    void *slots[]; // FAST_CACHE_SLOTS
};

static_assert(HAK_CACHE_LINE % sizeof(struct heap_bin) == 0, "no heap_bin crosses a line");

static_assert(offsetof(struct thread_heap, table) == SIZE_CLASS_PLACES * sizeof(void *),
              "every place is one of a stack, or closed");
static_assert(sizeof(struct thread_heap) + FAST_CACHE_SLOTS * sizeof(void *) <= ARENA_SLAB,
              "a heap fits in a slab");

// The thread-local data of the hit path, in one cache line.
//
// A call may come before the dynamic linker has relocated the library, from the IFUNC resolver of
// another library. Then the variable is either at the address of the thread pointer, so that its
// fields overlay glibc's thread control block, or at its right address, where all bytes are still
// zero. So the fields that are read first (`sizes`, the gate's `units`, and its `checked` or
// `length`) are where that control block has zeros in a process of one thread: at 0x18 (whether
// there are several threads), 0x20 (unused on x86-64) and 0x38 (unused).
struct thread_heap_link {
    alignas(HAK_CACHE_LINE) struct thread_heap *heap;
    // True while this thread acquires a heap: a fork from a signal handler must then adopt none.
    bool getting;
    bool ending;                   // the thread's destructors run: the heap goes in the next round
    struct thread_heap *operators; // see thread_heap_of_operators()
    // A malloc of fewer bytes may be a hit. 0 before the library is relocated (see above). 1 in a
    // thread that has called thread_heap_close_sizes(), or got its heap after such a call.
    size_t sizes;
    struct front_gate gate; // a copy of the window's gate; `units` is 0 until the first miss
};
static_assert(offsetof(struct thread_heap_link, sizes) == 0x18, "zero in a thread control block");
#if HAK_HEADER
static_assert(offsetof(struct thread_heap_link, gate.units) == 0x20, "likewise");
static_assert(offsetof(struct thread_heap_link, gate.length) == 0x38, "likewise");
#else
static_assert(offsetof(struct thread_heap_link, gate.checked) == 0x20, "likewise");
static_assert(offsetof(struct thread_heap_link, gate.units) == 0x38, "likewise");
#endif
static_assert(sizeof(struct thread_heap_link) == HAK_CACHE_LINE, "static TLS is scarce");
extern __thread struct thread_heap_link thread_heap_tls __attribute__((tls_model("initial-exec")));

// Number of slots that can be read downwards from the top of any stack of blocks above
// SIZE_CLASS_HIT_MAX, in any heap: below are the stacks of smaller bins, or slots in their place.
enum { THREAD_HEAP_NEWEST = 8 };

// Returns the current thread's heap, or one of the two static empty ones. Never NULL.
HAK_INLINE struct thread_heap *thread_heap_current(void) {
    return thread_heap_tls.heap;
}

// Returns true if the library is relocated. Until then, only early_block can serve the call.
HAK_INLINE bool thread_heap_ready(void) {
    return thread_heap_tls.sizes != 0;
}

// Returns the size from which on no malloc is a hit. If it is 0, the current heap must not be read.
HAK_INLINE size_t thread_heap_sizes(void) {
    return thread_heap_tls.sizes;
}

// Returns the heap in which C++'s operators look for a hit: the current heap after
// thread_heap_open_operators(), before that an empty heap, so that each operator takes the slow
// path. Never NULL.
HAK_INLINE struct thread_heap *thread_heap_of_operators(void) {
    return thread_heap_tls.operators;
}

// Returns true if the operators hit in the current heap. Becomes false again when the thread gets a
// heap or loses it.
HAK_INLINE bool thread_heap_operators_open(void) {
    return thread_heap_tls.operators == thread_heap_tls.heap;
}
HAK_INLINE void thread_heap_open_operators(void) {
    thread_heap_tls.operators = thread_heap_tls.heap;
}

// Returns the gate in which the current thread's free looks pointers up.
HAK_INLINE struct front_gate *thread_heap_gate(void) {
    return &thread_heap_tls.gate;
}

// Returns the current thread's own heap. If the thread has none, adopts or makes one. Returns NULL
// if the thread has given its heap back, or if there is no memory for a heap.
struct thread_heap *thread_heap_get(void);

// Returns true if the block is in the heap's stack of a bin, after a look at every slot. The heap
// is the current thread's.
bool thread_heap_caches(const struct thread_heap *heap, unsigned bin, const void *block);

// Moves every cached block of the current thread to the pool, which checks each block.
void thread_heap_flush(void);

// As above, for all heaps without a thread. In a forked child these may be the heaps of the
// parent's other threads, with many blocks.
void thread_heap_flush_free(void);

// To be called at every miss, with the clock in ms. Empties the caches of bins that have had no
// miss for `idle_ms` or more (UINT64_MAX: never). Each call moves a bounded number of blocks.
void thread_heap_tick(struct thread_heap *heap, uint64_t now, uint64_t idle_ms);

// Build setting: 0: a heap that grows keeps what its quiet stacks hold, until that is old.
#ifndef THREAD_HEAP_QUIET
#    define THREAD_HEAP_QUIET 1
#endif

// To be called at a miss for which slabs without pages were put to use (heap->company.grew). A
// program that goes from one size to another grows while the thread's stacks hold blocks of sizes
// that the program does not use any more. So each time that the heap has grown by a small part, the
// older half of each large stack that had no miss meanwhile goes back to the pool. A stack that is
// in use without misses does not need its older half. Each call moves a bounded number of blocks.
void thread_heap_spill_quiet(struct thread_heap *heap);
HAK_INLINE void thread_heap_tick_grown(struct thread_heap *heap) {
    if (THREAD_HEAP_QUIET != 0 && HAK_UNLIKELY(heap->company.grew != 0)) {
        thread_heap_spill_quiet(heap);
    }
}

// Sets the function that moves the blocks which a front holds for a bin to the pool. A flush of a
// heap calls it for every bin. To be called once, before the first thread ends.
void thread_heap_set_flush(void (*flush)(struct thread_heap *heap, unsigned bin));

// Returns one zeroed slab for a front's own state, which stays with the heap for good. Returns NULL
// if there is no memory.
void *thread_heap_make_state(void);

// The operations on a heap's stack of a bin, for the fronts. All of them but the counts are to be
// called between thread_heap_enter() and thread_heap_leave().

// Makes the stack of a bin deep (see fast_cache.h), in slabs that the heap keeps as long as it has
// a deep stack. Returns false if the stack is deep already, or cannot be: because of the bin, under
// HAKMEM_LIMIT, or if there is no memory.
bool thread_heap_deepen(struct thread_heap *heap, unsigned bin);

// Makes the stack of a bin as wide as `width`, which is FAST_CACHE_MIDDLE or FAST_CACHE_WIDE.
// Returns false if the stack is as wide already.
bool thread_heap_widen_to(struct thread_heap *heap, unsigned bin, enum fast_cache_width width);

// Returns the width that the use of a stack asks for. A short burst leaves the stack narrow. The
// stack becomes wide when enough blocks have come from the pool, and deep when many have come and
// many have gone back. For a thread that only frees it gets middle width, because such a thread has
// no use for the blocks that it keeps. The bounds are numbers of blocks.
enum { THREAD_HEAP_WIDEN_AFTER = 64, THREAD_HEAP_DEEPEN_AFTER = 1024 };
HAK_INLINE enum fast_cache_width heap_bin_due(const struct heap_bin *cold) {
    if (cold->taken < THREAD_HEAP_WIDEN_AFTER) {
        return cold->given < THREAD_HEAP_WIDEN_AFTER ? FAST_CACHE_UNWIDENED : FAST_CACHE_MIDDLE;
    }
    return hak_min(cold->taken, cold->given) < THREAD_HEAP_DEEPEN_AFTER ? FAST_CACHE_WIDE
                                                                        : FAST_CACHE_DEEP;
}

// Makes a much used stack wider. Returns false if the stack is as wide as its use asks for.
bool thread_heap_make_wider(struct thread_heap *heap, unsigned bin);
HAK_INLINE bool thread_heap_widen(struct thread_heap *heap, unsigned bin) {
    const struct heap_bin *cold = &heap->cold[bin];
    return HAK_UNLIKELY(cold->width < heap_bin_due(cold)) && thread_heap_make_wider(heap, bin);
}

// Makes room in a full stack, by making the stack wider or by taking out its oldest blocks. Returns
// NULL if the stack is wider now, or had no block. Otherwise returns the blocks that were taken
// out: at most *count and at most half of the stack, but at least 1. Sets *count to their number.
// They stay in their slots until thread_heap_settle().
void **thread_heap_detach(struct thread_heap *heap, unsigned bin, unsigned *count);

// As above, for more blocks of a stack that was not settled yet: the stack does not become wider.
void **thread_heap_detach_more(struct thread_heap *heap, unsigned bin, unsigned *count);
HAK_INLINE void thread_heap_settle(struct thread_heap *heap, unsigned bin, void **blocks) {
    fast_cache_settle(&heap->bins[bin], &heap->cold[bin].bottom, blocks);
}

// Build setting: the most blocks in a refill of a deep stack. 0: the bin's batch, as for others.
#ifndef THREAD_HEAP_REFILL_MOST
#    define THREAD_HEAP_REFILL_MOST 255
#endif

// Returns the size of the next refill: one block at first, or a cache line of small blocks, and
// twice as many each time, up to the bin's batch, or to a quarter of a deep stack. So a thread that
// needs one block does not take sixty-four.
unsigned thread_heap_next_batch(struct thread_heap *heap, unsigned bin);

// Returns the size of the next spill: the bin's batch, or a quarter of the stack if that is more.
unsigned thread_heap_spill_batch(const struct thread_heap *heap, unsigned bin);

// thread_heap_count_refill() counts `count` blocks that came from the pool,
// thread_heap_count_spill() `count` blocks that went to the pool.
HAK_INLINE uint16_t heap_bin_add(uint16_t counter, unsigned count) {
    return (uint16_t)hak_min(counter + count, UINT16_MAX);
}
HAK_INLINE void thread_heap_count_refill(struct thread_heap *heap, unsigned bin, unsigned count) {
    struct heap_bin *cold = &heap->cold[bin];
    cold->missed = HEAP_BIN_MISSED_TRIM | HEAP_BIN_MISSED_LOOK;
    cold->taken = heap_bin_add(cold->taken, count);
    HAK_COUNT(&heap->counts.refills, 1);
    HAK_COUNT(&heap->counts.refilled, count);
}
HAK_INLINE void thread_heap_count_spill(struct thread_heap *heap, unsigned bin, unsigned count) {
    struct heap_bin *cold = &heap->cold[bin];
    cold->missed = HEAP_BIN_MISSED_TRIM | HEAP_BIN_MISSED_LOOK;
    cold->given = heap_bin_add(cold->given, count);
    HAK_COUNT(&heap->counts.spills, 1);
    HAK_COUNT(&heap->counts.spilled, count);
}

// Counts `more` blocks that a front holds behind the cache from now on (a negative number: no
// longer holds).
HAK_INLINE void thread_heap_count_behind(struct thread_heap *heap, unsigned bin, int more) {
    HAK_POKE(&heap->cold[bin].behind, (uint16_t)(heap->cold[bin].behind + more));
}

// Returns true if the stack of a bin has no slots (see fast_cache_is_closed()).
HAK_INLINE bool thread_heap_is_closed(const struct thread_heap *heap, unsigned bin) {
    return fast_cache_is_closed(&heap->bins[bin], heap->cold[bin].bottom);
}

// Returns the number of blocks in a heap's stack of a bin, and behind it. A guess if the heap is
// another thread's.
HAK_INLINE size_t thread_heap_held(const struct thread_heap *heap, unsigned bin) {
    return fast_cache_held(&heap->bins[bin], &heap->cold[bin].bottom, bin) +
           (size_t)HAK_PEEK(&heap->cold[bin].behind);
}

// For os_around_calls(): to be called before and after a call in which code of others may allocate
// and free on the calling thread, between any two steps of this library. Meanwhile the pool serves
// the thread, as it serves threads that have given their heap back. So the thread's heap stays as
// it was before the call.
void thread_heap_set_aside(void);
void thread_heap_take_back(void);

// From now on no malloc is a hit, in any heap: malloc takes the slow path, where allocations are
// counted for the sampler. Frees hit as before. Other threads' heaps follow at once, except with
// headers, where no table leads to the stack: there they follow when the thread gets another heap.
void thread_heap_close_sizes(void);

// To be called in the child of a fork (pthread_atfork()).
void thread_heap_after_fork(void);

// Enclose steps between which a heap is not whole: in a child that is forked in between, no thread
// adopts the heap.
HAK_INLINE void thread_heap_enter(struct thread_heap *heap) {
    atomic_store_explicit(&heap->busy, 1, memory_order_relaxed);
    cpu_store_fence();
}
HAK_INLINE void thread_heap_leave(struct thread_heap *heap) {
    cpu_store_fence();
    atomic_store_explicit(&heap->busy, 0, memory_order_relaxed);
}

struct thread_heap_stats {
    size_t heaps;                       // heaps made so far
    size_t free_heaps;                  // those of them that have no thread
    struct thread_heap_counts counts;   // sums over all heaps
    size_t bin_cached[SIZE_CLASS_BINS]; // blocks in caches
};

// Looks at all heaps. Exact when no other thread uses the allocator.
void thread_heap_get_stats(struct thread_heap_stats *stats);

// For readers outside of the process, see layout.h.
extern const struct hak_layout thread_heap_layout;
HAK_C_END

#endif
