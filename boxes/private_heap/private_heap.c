// SPDX-License-Identifier: Apache-2.0
#include "boxes/private_heap/private_heap.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/base/atomic.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"

#include <string.h>

enum {
    CHUNK_BLOCKS = 8, // a chunk has room for so many blocks; larger blocks get a run each
    CHUNK_LOOKS = 8,  // chunks that an allocation visits before it makes a new one
    LARGE_OFFSET = 128,
};

// The description at the start of a run of slabs. In a chunk of small blocks, block k is at k *
// size, as in every slab of its bin; the first blocks, where this description lies, are never
// handed out.
struct chunk {
    uintptr_t self; // its own address: a write past the end of what lies before it is found
    struct private_heap *heap;
    struct chunk *next;   // the heap's next older chunk of this bin
    _Atomic(size_t) refs; // live blocks, and one while the heap has it: the last one gives it back
    _Atomic(struct chunk *) *slot; // of a large block: where the heap notes it
    size_t offset, usable;         // of a large block
    uint32_t bin;                  // 0: one large block
    uint32_t first;                // number of the first block that may be handed out
    atomic_bitmap_word free[SIZE_CLASS_MAX_BLOCKS / 64]; // as many words as the bin has
};

static_assert(offsetof(struct chunk, free) <= LARGE_OFFSET, "a large block starts behind it");

// The table in which a heap notes its large blocks.
struct table {
    _Atomic(struct table *) next;
    size_t count;
    _Atomic(struct chunk *) slots[];
};

struct private_heap {
    _Atomic(size_t) refs; // the owner's, and one a run
    _Atomic(bool) deleted;
    _Atomic(size_t) live, slabs; // usable bytes of live blocks; slabs of runs
    _Atomic(struct chunk *) newest[SIZE_CLASS_BINS];
    _Atomic(struct chunk *) current[SIZE_CLASS_BINS]; // where the last block came from
    struct table first;                               // the rest of the slab
};

enum {
    FIRST_SLOTS = (ARENA_SLAB - sizeof(struct private_heap)) / sizeof(void *),
    MORE_SLOTS = (ARENA_SLAB - sizeof(struct table)) / sizeof(void *),
};

static _Atomic(size_t) all_live;

size_t private_heap_live(void) {
    return atomic_load_explicit(&all_live, memory_order_relaxed);
}

static void count_live(struct private_heap *heap, ptrdiff_t bytes) {
    atomic_fetch_add_explicit(&heap->live, (size_t)bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&all_live, (size_t)bytes, memory_order_relaxed);
}

static void *claim(size_t slabs, size_t align, enum slab_kind kind, bool *zero) {
    if (!page_arena_init()) {
        return NULL;
    }
    size_t slab = page_arena_claim(slabs, hak_max(align, ARENA_SLAB), zero);
    if (slab == ARENA_NONE) {
        return NULL;
    }
    struct page_arena_window window = page_arena_get_window();
    struct slab *meta = superslab_slab(&window, slab);
    atomic_store_explicit(&meta->run, slabs, memory_order_relaxed);
    atomic_store_explicit(&meta->kind, (uint8_t)kind, memory_order_release);
    return page_arena_address(&window, slab);
}

static size_t give_back(void *start, bool is_run) {
    struct page_arena_window window = page_arena_get_window();
    size_t slab = page_arena_slab_of(&window, start);
    struct slab *meta = superslab_slab(&window, slab);
    size_t slabs = is_run ? atomic_load_explicit(&meta->run, memory_order_relaxed) : 1;
    atomic_store_explicit(&meta->kind, SLAB_NONE, memory_order_release);
    page_arena_release(slab, slabs, true);
    return slabs;
}

static struct table *new_table(void) {
    bool zero;
    struct table *table = claim(1, ARENA_SLAB, SLAB_HEAP, &zero);
    if (table != NULL) {
        if (!zero) {
            memset(table, 0, ARENA_SLAB);
        }
        table->count = MORE_SLOTS;
    }
    return table;
}

struct private_heap *private_heap_new(void) {
    bool zero;
    struct private_heap *heap = claim(1, ARENA_SLAB, SLAB_HEAP, &zero);
    if (heap == NULL) {
        return NULL;
    }
    if (!zero) {
        memset(heap, 0, ARENA_SLAB);
    }
    heap->first.count = FIRST_SLOTS;
    atomic_store(&heap->refs, 1);
    return heap;
}

static void drop_heap(struct private_heap *heap) {
    if (atomic_fetch_sub(&heap->refs, 1) != 1) {
        return;
    }
    struct table *table = atomic_load(&heap->first.next);
    while (table != NULL) {
        struct table *next = atomic_load(&table->next);
        give_back(table, false);
        table = next;
    }
    give_back(heap, false);
}

static struct chunk *new_chunk(struct private_heap *heap, size_t slabs, size_t align, bool *zero) {
    struct chunk *chunk = claim(slabs, align, SLAB_PRIVATE, zero);
    if (chunk != NULL) {
        chunk->self = (uintptr_t)chunk;
        chunk->heap = heap;
        chunk->slot = NULL;
        atomic_store_explicit(&chunk->refs, 1, memory_order_relaxed);
        atomic_fetch_add(&heap->refs, 1);
        atomic_fetch_add_explicit(&heap->slabs, slabs, memory_order_relaxed);
    }
    return chunk;
}

static void free_chunk(struct chunk *chunk) {
    struct private_heap *heap = chunk->heap;
    size_t slabs = give_back(chunk, true);
    atomic_fetch_sub_explicit(&heap->slabs, slabs, memory_order_relaxed);
    drop_heap(heap);
}

// The byte below a block is the last one of whatever lies before, and must not look like a header.
static void *hand_out(void *block) {
    if (HAK_HEADER && (uintptr_t)block % HAK_PAGE != 0) {
        ((uint8_t *)block)[-1] = 0;
    }
    return block;
}

static void *take(struct chunk *chunk) {
    const struct size_class_bin *bin = &size_class_bins[chunk->bin];
    if (atomic_load_explicit(&chunk->refs, memory_order_relaxed) > bin->blocks - chunk->first) {
        return NULL;
    }
    size_t block = atomic_bitmap_claim_lowest(chunk->free, bin->words * 64u);
    if (block == ATOMIC_BITMAP_NONE) {
        return NULL;
    }
    atomic_fetch_add_explicit(&chunk->refs, 1, memory_order_relaxed);
    return hand_out((char *)chunk + block * bin->size);
}

static struct chunk *chunk_of_bin(struct private_heap *heap, unsigned bin) {
    bool zero;
    struct chunk *chunk = new_chunk(heap, 1, ARENA_SLAB, &zero);
    if (chunk == NULL) {
        return NULL;
    }
    const struct size_class_bin *info = &size_class_bins[bin];
    // In the header flavour, the byte below the first block belongs to that block.
    size_t front = offsetof(struct chunk, free) + info->words * sizeof chunk->free[0] + HAK_HEADER;
    chunk->bin = bin;
    chunk->first = (uint32_t)((front + info->size - 1) / info->size);
    memset((void *)chunk->free, 0, info->words * sizeof chunk->free[0]);
    atomic_bitmap_put_run(chunk->free, chunk->first, info->blocks - chunk->first);
    chunk->next = atomic_load(&heap->newest[bin]);
    while (!atomic_compare_exchange_weak(&heap->newest[bin], &chunk->next, chunk)) {
    }
    return chunk;
}

static void *alloc_small(struct private_heap *heap, unsigned bin) {
    struct chunk *chunk = atomic_load(&heap->current[bin]);
    for (unsigned looks = 0; looks < CHUNK_LOOKS; looks++) {
        if (chunk == NULL) {
            chunk = atomic_load(&heap->newest[bin]);
            if (chunk == NULL) {
                break;
            }
        }
        void *block = take(chunk);
        if (block != NULL) {
            // Stored once more, for threads that find the chunk here and have not read `newest`.
            atomic_store_explicit(&heap->current[bin], chunk, memory_order_release);
            return block;
        }
        chunk = chunk->next;
    }
    // The next search goes on where this one stopped, so that old chunks get their turn.
    atomic_store_explicit(&heap->current[bin], chunk, memory_order_release);
    chunk = chunk_of_bin(heap, bin);
    return chunk == NULL ? NULL : take(chunk);
}

// Notes a large block. Returns false if there is no memory for that.
static bool note(struct private_heap *heap, struct chunk *chunk) {
    struct table *table = &heap->first;
    while (true) {
        for (size_t i = 0; i < table->count; i++) {
            struct chunk *none = NULL;
            chunk->slot = &table->slots[i];
            if (atomic_load_explicit(chunk->slot, memory_order_relaxed) == NULL &&
                atomic_compare_exchange_strong(chunk->slot, &none, chunk)) {
                return true;
            }
        }
        struct table *next = atomic_load(&table->next);
        if (next == NULL) {
            struct table *fresh = new_table();
            if (fresh == NULL) {
                return false;
            }
            if (atomic_compare_exchange_strong(&table->next, &next, fresh)) {
                next = fresh;
            } else {
                give_back(fresh, false);
            }
        }
        table = next;
    }
}

// Returns where a large block starts in its run, so that its byte at `at` is at a multiple of
// `align`.
static size_t large_offset(size_t align, size_t at) {
    return hak_round_up(LARGE_OFFSET + at, align) - at;
}

// The run may have more room, but a block's usable bytes follow from its size.
static size_t large_usable(size_t size) {
    return hak_round_up(hak_max(size, 1), HAK_PAGE);
}

static size_t large_slabs(size_t size, size_t offset) {
    return (offset + large_usable(size) + ARENA_SLAB - 1) >> ARENA_SLAB_SHIFT;
}

static void *alloc_large(struct private_heap *heap, size_t size, size_t align, size_t at,
                         bool zero) {
    size_t offset = large_offset(align, at);
    size_t slabs = large_slabs(size, offset);
    bool is_zero;
    struct chunk *chunk = new_chunk(heap, slabs, align, &is_zero);
    if (chunk == NULL) {
        return NULL;
    }
    chunk->bin = 0;
    chunk->offset = offset;
    chunk->usable = large_usable(size);
    if (!note(heap, chunk)) {
        free_chunk(chunk);
        return NULL;
    }
    void *block = hand_out((char *)chunk + chunk->offset);
    if (zero && !is_zero) {
        memset(block, 0, size);
    }
    count_live(heap, (ptrdiff_t)chunk->usable);
    return block;
}

// Returns the bin of small blocks of that size, 0 if there is none.
static unsigned small_bin(size_t size, size_t align) {
    unsigned bin = size_class_aligned_bin(size, hak_max(align, HAK_MIN_ALIGN));
    return bin != 0 && size_class_bins[bin].blocks >= CHUNK_BLOCKS ? bin : 0;
}

static bool is_beyond(size_t size, size_t align) {
    return size > (size_t)PTRDIFF_MAX / 4 || align > (size_t)PTRDIFF_MAX / 4;
}

size_t private_heap_good_size(size_t size, size_t align) {
    if (is_beyond(size, align)) {
        return 0;
    }
    unsigned bin = small_bin(size, align);
    return bin != 0 ? size_class_usable(bin) : large_usable(size);
}

void *private_heap_alloc(struct private_heap *heap, size_t size, size_t align, bool zero) {
    if (is_beyond(size, align)) {
        return NULL;
    }
    unsigned bin = small_bin(size, align);
    if (bin == 0) {
        return alloc_large(heap, size, align, 0, zero);
    }
    void *block = alloc_small(heap, bin);
    if (block == NULL) {
        return NULL;
    }
    count_live(heap, (ptrdiff_t)size_class_usable(bin));
    return zero ? memset(block, 0, size) : block;
}

void *private_heap_alloc_at(struct private_heap *heap, size_t size, size_t align, size_t offset,
                            bool zero) {
    return is_beyond(size, align) || offset > size ? NULL
                                                   : alloc_large(heap, size, align, offset, zero);
}

// Returns the run that ptr points into if it is a private heap's, else NULL.
static struct chunk *chunk_of(const struct page_arena_window *window, const void *ptr) {
    size_t slab = page_arena_slab_of(window, ptr);
    if (!superslab_known(window, slab) ||
        atomic_bitmap_test(window->groups[slab / ARENA_GROUP_SLABS].avail,
                           slab % ARENA_GROUP_SLABS)) {
        return NULL;
    }
    // A block of a large alignment starts in a later slab of its run than the description does.
    for (size_t head = slab;; head--) {
        struct slab *meta = superslab_slab(window, head);
        uint8_t kind = atomic_load_explicit(&meta->kind, memory_order_acquire);
        if (kind == SLAB_PRIVATE &&
            slab - head < atomic_load_explicit(&meta->run, memory_order_relaxed)) {
            struct chunk *chunk = page_arena_address(window, head);
            return chunk->self == (uintptr_t)chunk ? chunk : NULL;
        }
        if (kind != SLAB_NONE || head == 0 || !superslab_known(window, head - 1)) {
            return NULL;
        }
    }
}

// Sets *block to the number of the small block that starts at ptr. Returns false if none can start
// there.
static bool block_at(const struct chunk *chunk, const void *ptr, size_t *block) {
    uintptr_t offset = (uintptr_t)ptr - (uintptr_t)chunk;
    return offset < ARENA_SLAB &&
           size_class_is_start(&size_class_bins[chunk->bin], (uint32_t)offset, block) &&
           *block >= chunk->first;
}

static bool is_large_at(const struct chunk *chunk, const void *ptr) {
    return (const char *)ptr == (const char *)chunk + chunk->offset;
}

enum private_heap_look private_heap_look(const struct page_arena_window *window, const void *ptr,
                                         size_t *usable) {
    struct chunk *chunk = chunk_of(window, ptr);
    size_t block;
    if (chunk == NULL) {
        return PRIVATE_HEAP_NONE;
    }
    if (chunk->bin == 0) {
        *usable = chunk->usable;
        return is_large_at(chunk, ptr) ? PRIVATE_HEAP_LIVE : PRIVATE_HEAP_INTERIOR;
    }
    if (!block_at(chunk, ptr, &block)) {
        return PRIVATE_HEAP_INTERIOR;
    }
    *usable = size_class_usable(chunk->bin);
    return atomic_bitmap_test(chunk->free, block) ? PRIVATE_HEAP_FREE : PRIVATE_HEAP_LIVE;
}

struct private_heap *private_heap_of(const struct page_arena_window *window, const void *ptr) {
    size_t usable;
    if (private_heap_look(window, ptr, &usable) != PRIVATE_HEAP_LIVE) {
        return NULL;
    }
    struct private_heap *heap = chunk_of(window, ptr)->heap;
    return atomic_load(&heap->deleted) ? NULL : heap;
}

bool private_heap_free(const struct page_arena_window *window, void *ptr) {
    struct chunk *chunk = chunk_of(window, ptr);
    if (chunk == NULL) {
        return false;
    }
    if (chunk->bin == 0) {
        struct chunk *expected = chunk;
        if (!is_large_at(chunk, ptr) ||
            !atomic_compare_exchange_strong(chunk->slot, &expected, NULL)) {
            return false;
        }
        count_live(chunk->heap, -(ptrdiff_t)chunk->usable);
        free_chunk(chunk);
        return true;
    }
    size_t block;
    if (!block_at(chunk, ptr, &block)) {
        return false;
    }
    uint64_t bit = UINT64_C(1) << block % 64;
    if ((atomic_bitmap_put(&chunk->free[block / 64], bit) & bit) != 0) {
        return false;
    }
    // The heap's reference keeps the chunk, and the chunk's keeps the heap.
    count_live(chunk->heap, -(ptrdiff_t)size_class_usable(chunk->bin));
    if (atomic_fetch_sub(&chunk->refs, 1) == 1) {
        free_chunk(chunk);
    }
    return true;
}

void private_heap_delete(struct private_heap *heap) {
    atomic_store(&heap->deleted, true);
    for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
        struct chunk *chunk = atomic_load(&heap->newest[bin]);
        while (chunk != NULL) {
            struct chunk *next = chunk->next;
            if (atomic_fetch_sub(&chunk->refs, 1) == 1) {
                free_chunk(chunk);
            }
            chunk = next;
        }
    }
    drop_heap(heap);
}

void private_heap_reset(struct private_heap *heap) {
    for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
        struct chunk *chunk = atomic_exchange(&heap->newest[bin], NULL);
        atomic_store(&heap->current[bin], NULL);
        while (chunk != NULL) {
            struct chunk *next = chunk->next;
            free_chunk(chunk);
            chunk = next;
        }
    }
    for (struct table *table = &heap->first; table != NULL; table = atomic_load(&table->next)) {
        for (size_t i = 0; i < table->count; i++) {
            struct chunk *chunk = atomic_exchange(&table->slots[i], NULL);
            if (chunk != NULL) {
                free_chunk(chunk);
            }
        }
    }
    count_live(heap, -(ptrdiff_t)atomic_load(&heap->live));
}

void private_heap_destroy(struct private_heap *heap) {
    private_heap_reset(heap);
    drop_heap(heap);
}

static bool visit_chunk(struct chunk *chunk, private_heap_visitor visit, void *arg) {
    const struct size_class_bin *bin = &size_class_bins[chunk->bin];
    for (size_t block = chunk->first; block < bin->blocks; block++) {
        if (!atomic_bitmap_test(chunk->free, block) &&
            !visit((char *)chunk + block * bin->size, size_class_usable(chunk->bin), arg)) {
            return false;
        }
    }
    return true;
}

bool private_heap_visit(struct private_heap *heap, private_heap_visitor visit, void *arg) {
    for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
        struct chunk *chunk = atomic_load(&heap->newest[bin]);
        for (; chunk != NULL; chunk = chunk->next) {
            if (!visit_chunk(chunk, visit, arg)) {
                return false;
            }
        }
    }
    for (struct table *table = &heap->first; table != NULL; table = atomic_load(&table->next)) {
        for (size_t i = 0; i < table->count; i++) {
            struct chunk *chunk = atomic_load(&table->slots[i]);
            if (chunk != NULL && !visit((char *)chunk + chunk->offset, chunk->usable, arg)) {
                return false;
            }
        }
    }
    return true;
}

struct private_heap_stats private_heap_get_stats(struct private_heap *heap) {
    return (struct private_heap_stats){
        atomic_load_explicit(&heap->live, memory_order_relaxed),
        atomic_load_explicit(&heap->slabs, memory_order_relaxed) << ARENA_SLAB_SHIFT,
    };
}

HAK_LAYOUT(private_heap_layout, HAK_ROWS(HAK_VARIABLE("private.live", all_live)),
           HAK_ROWS(HAK_FIELD("chunk.self", struct chunk, self),
                    HAK_FIELD("chunk.heap", struct chunk, heap),
                    HAK_FIELD("chunk.offset", struct chunk, offset),
                    HAK_FIELD("chunk.usable", struct chunk, usable),
                    HAK_FIELD("chunk.bin", struct chunk, bin),
                    HAK_FIELD("chunk.first", struct chunk, first),
                    HAK_FIELD("chunk.free", struct chunk, free)));
