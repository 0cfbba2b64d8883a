// SPDX-License-Identifier: Apache-2.0
#include "boxes/thread_heap/thread_heap.h"

#include "backends/os.h"
#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/probe/probe.h"
#include "boxes/superslab/superslab.h"
#include "boxes/thread_heap/thread_heap_internal.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

// HEAPS_MOST is more than a machine of this kind runs threads. The places of the first few heaps
// are static. Those of the others are in slabs that are claimed as heaps are made.
enum {
    HEAPS_MOST = 131072,
    HEAPS_FIRST = 128,
    HEAPS_SLAB = ARENA_SLAB / sizeof(struct thread_heap *),
};
typedef _Atomic(struct thread_heap *) heap_place; // written once

// 0: a heap does not stay for a round of destructors, see stays_a_round().
#ifndef THREAD_HEAP_STAYS
#    define THREAD_HEAP_STAYS 1
#endif

// The slots of an empty stack. Code that looks at the newest blocks of a stack may read the slots
// below.
static void *const null_slots[THREAD_HEAP_NEWEST];
#define NULL_SLOT ((void **)&null_slots[THREAD_HEAP_NEWEST - 1])

#define EMPTY_BINS                                             \
    {                                                          \
        [0 ... SIZE_CLASS_BINS - 1] = { NULL_SLOT, NULL_SLOT } \
    }

// Never written: their stacks are empty to pop and full to push.
static const struct thread_heap empty_heap = {.bins = EMPTY_BINS};
static const struct thread_heap gone_heap = {.bins = EMPTY_BINS};

// The operators start with the other empty heap, so that they are closed until they are opened.
__thread struct thread_heap_link thread_heap_tls
    __attribute__((tls_model("initial-exec"))) = {.heap = (struct thread_heap *)&empty_heap,
                                                  .operators = (struct thread_heap *)&gone_heap,
                                                  .sizes = SIZE_CLASS_ALLOC_MAX + 1};

// The fields are in such an order that a process with few threads touches few pages of them.
static struct {
    _Atomic(uint64_t) key;                                // pthread key + 1, 0: none yet
    _Atomic(uint32_t) made;                               // heaps in the directory
    _Atomic(int32_t) idle;                                // heaps without a thread, about
    _Atomic(heap_place *) slabs[HEAPS_MOST / HEAPS_SLAB]; // by id / HEAPS_SLAB, from HEAPS_FIRST on
    heap_place first[HEAPS_FIRST];                        // by id
    atomic_bitmap_word free[HEAPS_MOST / 64];             // heaps without a thread
    atomic_bitmap_word cold[HEAPS_MOST / 64];             // free heaps without pages
} directory;

// Returns the place of a heap that was made.
static heap_place *place_of(size_t id) {
    if (HAK_LIKELY(id < HEAPS_FIRST)) {
        return &directory.first[id];
    }
    return &atomic_load(&directory.slabs[id / HEAPS_SLAB])[id % HEAPS_SLAB];
}

static uint32_t heaps_made(void) {
    return atomic_load(&directory.made);
}

static void on_thread_exit(void *arg);

static void register_exit(struct thread_heap *heap) {
    uint64_t key = atomic_load(&directory.key);
    if (key == 0) {
        pthread_key_t fresh;
        if (pthread_key_create(&fresh, on_thread_exit) != 0) {
            return; // The heap is not given back when the thread ends; all else works.
        }
        if (atomic_compare_exchange_strong(&directory.key, &key, (uint64_t)fresh + 1)) {
            key = (uint64_t)fresh + 1;
        } else {
            pthread_key_delete(fresh);
        }
    }
    // pthread_setspecific() may call calloc for a high key: the heap is in place by now.
    pthread_setspecific((pthread_key_t)(key - 1), heap);
}

static bool is_own(const struct thread_heap *heap) {
    return heap != &empty_heap && heap != &gone_heap;
}

// The counts of heaps that have lost their pages.
static struct { _Atomic(uint64_t) refills, refilled, spills, spilled; } retired;

static void retire_counts(struct thread_heap_counts *counts) {
    atomic_fetch_add(&retired.refills, counts->refills);
    atomic_fetch_add(&retired.refilled, counts->refilled);
    atomic_fetch_add(&retired.spills, counts->spills);
    atomic_fetch_add(&retired.spilled, counts->spilled);
    HAK_POKE(&counts->refills, 0);
    HAK_POKE(&counts->refilled, 0);
    HAK_POKE(&counts->spills, 0);
    HAK_POKE(&counts->spilled, 0);
}

// Records that slabs belong to thread heaps, or no longer do: for the statistics, for the
// classifier of pointers, and for the count of mostly empty slabs.
static void count_own(const struct page_arena_window *window, size_t slab, size_t slabs,
                      enum slab_kind kind) {
    for (size_t i = 0; i < slabs; i++) {
        atomic_store(&superslab_slab(window, slab + i)->kind, (uint8_t)kind);
    }
    page_arena_count_sparse(kind == SLAB_HEAP ? (ptrdiff_t)slabs : -(ptrdiff_t)slabs);
}

void *thread_heap_claim(size_t slabs, bool *zero) {
    size_t slab = page_arena_claim(slabs, ARENA_SLAB, zero);
    if (slab == ARENA_NONE) {
        return NULL;
    }
    struct page_arena_window window = page_arena_get_window();
    count_own(&window, slab, slabs, SLAB_HEAP);
    return page_arena_address(&window, slab);
}

void thread_heap_give_back(void *memory, size_t slabs, bool dirty) {
    struct page_arena_window window = page_arena_get_window();
    size_t slab = page_arena_slab_of(&window, memory);
    count_own(&window, slab, slabs, SLAB_NONE);
    page_arena_release(slab, slabs, dirty);
}

static _Atomic(bool) sizes_closed;

// Starts a heap whose struct is zero. `zeroed`: its slots are zero too.
static void start(struct thread_heap *heap, uint32_t id, bool zeroed) {
    fast_cache_init(heap->bins, heap->slots, zeroed);
    if (!atomic_load_explicit(&sizes_closed, memory_order_relaxed)) {
        size_class_fill_table(heap->table);
    }
    size_class_fill_sizes(heap->sizes);
    heap->id = id;
    for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
        heap->cold[bin].bottom = heap->bins[bin].top;
        heap->cold[bin].hint = ARENA_NONE;
    }
}

// Makes room in the directory for a heap of that id, unless there is some. Returns false if the id
// is too high, or if there is no memory.
static bool make_place(uint32_t id) {
    if (id < HEAPS_FIRST || id >= HEAPS_MOST ||
        atomic_load(&directory.slabs[id / HEAPS_SLAB]) != NULL) {
        return id < HEAPS_MOST;
    }
    bool zero;
    heap_place *fresh = thread_heap_claim(1, &zero);
    if (fresh == NULL) {
        return false;
    }
    if (!zero) {
        memset((void *)fresh, 0, ARENA_SLAB);
    }
    heap_place *none = NULL;
    if (!atomic_compare_exchange_strong(&directory.slabs[id / HEAPS_SLAB], &none, fresh)) {
        thread_heap_give_back((void *)fresh, 1, !zero);
    }
    return true;
}

// Takes a place in the directory. Returns HEAPS_MOST if there is none left, or no memory for one.
static uint32_t take_place(void) {
    uint32_t id = atomic_load(&directory.made);
    do {
        if (!make_place(id)) {
            return HEAPS_MOST;
        }
    } while (!atomic_compare_exchange_weak(&directory.made, &id, id + 1));
    return id;
}

// Closes the sizes of the calling thread: from now on only a malloc of 0 bytes passes the
// comparison with `sizes`. The table gives every size place 0, whose stack is always empty; with
// headers there is no table.
static void close_sizes_here(struct thread_heap *heap) {
    thread_heap_tls.sizes = 1;
    if (!HAK_HEADER && is_own(heap)) {
        memset(heap->table, 0, sizeof heap->table);
    }
}

void thread_heap_close_sizes(void) {
    atomic_store(&sizes_closed, true);
    uint32_t made = heaps_made();
    for (uint32_t id = 0; !HAK_HEADER && id < made; id++) {
        struct thread_heap *heap = atomic_load(place_of(id));
        if (heap != NULL && !atomic_bitmap_test(directory.cold, id)) {
            for (size_t i = 0; i < sizeof heap->table; i++) {
                HAK_POKE(&heap->table[i], 0);
            }
        }
    }
    close_sizes_here(thread_heap_tls.heap);
}

static struct thread_heap *make(void) {
    if (atomic_load_explicit(&directory.made, memory_order_relaxed) == HEAPS_MOST) {
        return NULL;
    }
    // Takes the memory first, because a place that was taken cannot be given back.
    bool zero;
    struct thread_heap *heap = thread_heap_claim(1, &zero);
    if (heap == NULL) {
        return NULL;
    }
    uint32_t id = take_place();
    if (id == HEAPS_MOST) {
        thread_heap_give_back(heap, 1, !zero);
        return NULL;
    }
    if (!zero) {
        *heap = (struct thread_heap){.busy = 0};
    }
    start(heap, id, zero);
    atomic_store(place_of(id), heap);
    probe_heap_make(heap, id);
    return heap;
}

static struct thread_heap *adopt(void) {
    // A thread that has no heap because there are too many comes here in each of its calls, so the
    // usual case, that no heap is free, must be cheap.
    if (atomic_load(&directory.idle) <= 0) {
        return NULL;
    }
    size_t id = atomic_bitmap_claim_lowest(directory.free, hak_round_up(heaps_made(), 64));
    if (id == ATOMIC_BITMAP_NONE) {
        return NULL;
    }
    atomic_fetch_sub(&directory.idle, 1);
    struct thread_heap *heap = atomic_load(place_of(id));
    if (atomic_bitmap_test(directory.cold, id)) {
        start(heap, (uint32_t)id, true);
        atomic_bitmap_claim(directory.cold, id);
    }
    probe_heap_adopt(heap, id);
    return heap;
}

// The heap that the thread has set aside (see thread_heap_set_aside()), or NULL.
static __thread struct thread_heap *aside __attribute__((tls_model("initial-exec")));

// Switches the thread to another heap. The operators stay open if they are open, else closed.
static void switch_to(struct thread_heap *heap) {
    bool open = thread_heap_operators_open();
    const struct thread_heap *other = heap == &gone_heap ? &empty_heap : &gone_heap;
    thread_heap_tls.operators = open ? heap : (struct thread_heap *)other;
    thread_heap_tls.heap = heap;
}

// `aside` may be set: a thread that has left the call by a jump may make another call before it
// takes its heap back.
void thread_heap_set_aside(void) {
    if (aside == NULL) {
        aside = thread_heap_tls.heap;
    }
    switch_to((struct thread_heap *)&gone_heap);
}

// No heap is aside if the call began before heaps were set aside, or if the call lasted so long
// that the heap has been taken back meanwhile.
void thread_heap_take_back(void) {
    if (aside != NULL) {
        switch_to(aside);
        aside = NULL;
    }
}

struct thread_heap *thread_heap_get(void) {
    if (HAK_UNLIKELY(aside != NULL) && !os_is_outside()) {
        thread_heap_take_back(); // The thread has left the call by a jump.
    }
    struct thread_heap *heap = thread_heap_tls.heap;
    if (HAK_LIKELY(is_own(heap))) {
        return heap;
    }
    if (heap == &gone_heap || !page_arena_init()) {
        return NULL;
    }
    thread_heap_tls.getting = true;
    atomic_signal_fence(memory_order_seq_cst);
    heap = adopt();
    if (heap == NULL) {
        heap = make();
    }
    if (heap != NULL) {
        struct page_arena_window window = page_arena_get_window();
        thread_heap_tls.gate = front_gate_of(&window, false);
        thread_heap_tls.heap = heap;
        if (HAK_UNLIKELY(atomic_load_explicit(&sizes_closed, memory_order_relaxed))) {
            close_sizes_here(heap); // The heap may be older than the call that closed the sizes.
        }
        int saved = errno;
        register_exit(heap);
        errno = saved;
    }
    atomic_signal_fence(memory_order_seq_cst);
    thread_heap_tls.getting = false;
    return heap;
}

void *thread_heap_make_state(void) {
    bool zero;
    void *state = thread_heap_claim(1, &zero);
    if (state != NULL && !zero) {
        memset(state, 0, ARENA_SLAB);
    }
    return state;
}

void thread_heap_flush(void) {
    struct thread_heap *heap = thread_heap_tls.heap;
    if (is_own(heap)) {
        thread_heap_flush_all(heap);
    }
}

void thread_heap_flush_free(void) {
    uint32_t made = heaps_made();
    for (uint32_t id = 0; id < made; id++) {
        if (atomic_bitmap_test(directory.free, id) && atomic_bitmap_claim(directory.free, id)) {
            if (!atomic_bitmap_test(directory.cold, id)) {
                thread_heap_flush_all(atomic_load(place_of(id)));
            }
            atomic_bitmap_put(&directory.free[id / 64], UINT64_C(1) << id % 64);
        }
    }
}

// Frees a heap for the next thread. A few free heaps keep their pages: if a thousand threads end
// together, most of their heaps lose their pages.
static void give(struct thread_heap *heap) {
    enum { KEEP = 16 };
    uint32_t id = heap->id;
    probe_heap_give(heap, id);
    if (atomic_fetch_add(&directory.idle, 1) >= KEEP && heap->front_state == NULL) {
        struct page_arena_window window = page_arena_get_window();
        retire_counts(&heap->counts);
        atomic_bitmap_put(&directory.cold[id / 64], UINT64_C(1) << id % 64);
        if (!page_arena_clean(page_arena_slab_of(&window, heap), 1)) {
            atomic_bitmap_claim(directory.cold, id);
        }
    }
    atomic_bitmap_put(&directory.free[id / 64], UINT64_C(1) << id % 64);
}

// Lets a heap that is to be given back stay until the next round of destructors, so that what other
// keys' destructors free meets its caches. No longer than that: a heap that the thread acquired in
// the last round but one must go in the last. Returns false if it has stayed, or cannot.
static bool stays_a_round(struct thread_heap *heap) {
    if (!THREAD_HEAP_STAYS || thread_heap_tls.ending) {
        return false;
    }
    thread_heap_tls.ending = true;
    return pthread_setspecific((pthread_key_t)(atomic_load(&directory.key) - 1), heap) == 0;
}

static void on_thread_exit(void *arg) {
    os_thread_ends();
    thread_heap_take_back(); // in case the thread has ended within a call of others' code
    // A program that writes to a key that it never created may have written to this one.
    struct thread_heap *heap = thread_heap_tls.heap;
    if (arg != heap || !is_own(heap) || stays_a_round(heap)) {
        return;
    }
    thread_heap_flush_all(heap);
    thread_heap_tls.operators = (struct thread_heap *)&empty_heap;
    thread_heap_tls.heap = (struct thread_heap *)&gone_heap;
    give(heap);
}

void thread_heap_after_fork(void) {
    // The other threads are gone, perhaps in the middle of something. A heap is marked as busy
    // before any store after thread_heap_enter() is visible, and until all of these stores are
    // visible. So a heap that is not busy is whole. A busy one is left alone. So is a cold one that
    // is not free: a thread was giving its pages back, or taking the heap. In a sandbox the pages
    // may have been unmapped at that moment.
    struct thread_heap *current = aside != NULL ? aside : thread_heap_tls.heap;
    if (!is_own(current) && thread_heap_tls.getting) {
        return; // This thread was interrupted while it acquired a heap, and any could be that one.
    }
    uint32_t made = heaps_made();
    for (uint32_t id = 0; id < made; id++) {
        struct thread_heap *heap = atomic_load(place_of(id));
        if (heap != NULL && heap != current && !atomic_bitmap_test(directory.free, id) &&
            !atomic_bitmap_test(directory.cold, id) && atomic_load(&heap->busy) == 0) {
            atomic_fetch_add(&directory.idle, 1);
            atomic_bitmap_put(&directory.free[id / 64], UINT64_C(1) << id % 64);
        }
    }
}

void thread_heap_get_stats(struct thread_heap_stats *stats) {
    *stats = (struct thread_heap_stats){
        .counts = {atomic_load(&retired.refills), atomic_load(&retired.refilled),
                   atomic_load(&retired.spills), atomic_load(&retired.spilled)},
    };
    uint32_t made = heaps_made();
    for (uint32_t id = 0; id < made; id++) {
        struct thread_heap *heap = atomic_load(place_of(id));
        if (heap == NULL) {
            continue;
        }
        stats->heaps++;
        stats->free_heaps += atomic_bitmap_test(directory.free, id);
        if (atomic_bitmap_test(directory.cold, id)) {
            continue;
        }
        stats->counts.refills += HAK_PEEK(&heap->counts.refills);
        stats->counts.refilled += HAK_PEEK(&heap->counts.refilled);
        stats->counts.spills += HAK_PEEK(&heap->counts.spills);
        stats->counts.spilled += HAK_PEEK(&heap->counts.spilled);
        for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
            stats->bin_cached[bin] += thread_heap_held(heap, bin);
        }
    }
}

HAK_LAYOUT(thread_heap_layout,
           HAK_ROWS(HAK_VARIABLE("heaps.made", directory.made),
                    HAK_VARIABLE("heaps.first", directory.first),
                    HAK_VARIABLE("heaps.slabs", directory.slabs),
                    HAK_VARIABLE("heaps.free", directory.free),
                    HAK_VARIABLE("heaps.cold", directory.cold),
                    HAK_VARIABLE("retired.refills", retired.refills),
                    HAK_VARIABLE("retired.refilled", retired.refilled),
                    HAK_VARIABLE("retired.spills", retired.spills),
                    HAK_VARIABLE("retired.spilled", retired.spilled)),
           HAK_ROWS(HAK_NUMBER("heaps.in_slab", HEAPS_SLAB),
                    HAK_NUMBER("heap", sizeof(struct thread_heap)),
                    HAK_FIELD("heap.bins", struct thread_heap, bins),
                    HAK_NUMBER("stack", sizeof(struct fast_bin)),
                    HAK_FIELD("stack.top", struct fast_bin, top),
                    HAK_FIELD("heap.cold", struct thread_heap, cold),
                    HAK_NUMBER("heap_bin", sizeof(struct heap_bin)),
                    HAK_FIELD("heap_bin.bottom", struct heap_bin, bottom),
                    HAK_FIELD("heap_bin.behind", struct heap_bin, behind),
                    HAK_FIELD("heap.front_state", struct thread_heap, front_state),
                    HAK_FIELD("heap.refills", struct thread_heap, counts.refills),
                    HAK_FIELD("heap.refilled", struct thread_heap, counts.refilled),
                    HAK_FIELD("heap.spills", struct thread_heap, counts.spills),
                    HAK_FIELD("heap.spilled", struct thread_heap, counts.spilled)));
