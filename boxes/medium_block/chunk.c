// SPDX-License-Identifier: Apache-2.0
// chunk: takes pages of chunks, makes chunks, and gives them back.
//
// The threads of a slot take from the chunk that they remember, which no other thread finds. If
// that chunk has no run that is long enough, the threads leave it. They then take from a chunk with
// a short run that is long enough. They remember this chunk only if a run of MOST_PAGES is left in
// it.
#include "boxes/medium_block/medium_block_internal.h"

// The chunk that the threads of a slot remember: its first slab, plus 1; 0: none. A hint.
static struct { alignas(HAK_CACHE_LINE) _Atomic(size_t) chunk; } remembered[HAK_THREAD_SLOTS];

_Atomic(uint64_t) chunk_counted;
_Atomic(uint64_t) chunk_mark; // half as many chunks as there were

void chunk_set_mark(void) {
    atomic_store_explicit(&chunk_mark, chunk_count() / 2, memory_order_relaxed);
}

// --- Longest runs

static unsigned longest_of(page_set avail) {
    page_set starts = starts_of(avail, 16);
    unsigned pages = 16; // that the runs have which start in `starts`
    if (starts == 0) {
        starts = starts_of(avail, LEAST_PAGES);
        pages = LEAST_PAGES;
    }
    if (starts == 0) {
        return 0;
    }
    // Where two runs of n pages start at pages that follow each other, one of n + 1 starts.
    for (; pages < MOST_PAGES; pages++) {
        starts &= starts >> 1;
        if (starts == 0) {
            break;
        }
    }
    return pages;
}

// Says of a chunk whose free pages were `seen` that its longest run has `pages` pages. Another
// thread may free pages meanwhile, and write another length. So the pages are read again
// afterwards.
static void say_longest(const struct page_arena_window *window, size_t chunk, page_set seen,
                        unsigned pages) {
    enum { TRIES = 4 };
    atomic_bitmap_word *avail = chunk_of(window, chunk)->avail;
    for (unsigned i = 0; i < TRIES; i++) {
        chunk_set_longest(window, chunk, pages);
        page_set now = load_pages(avail);
        if (HAK_LIKELY(now == seen)) {
            break;
        }
        seen = now;
        pages = longest_of(seen);
    }
}

// Makes a chunk that nobody remembers one that can be found, or gives it back if it is free.
static void offer(const struct page_arena_window *window, size_t chunk) {
    page_set seen = load_pages(chunk_of(window, chunk)->avail);
    say_longest(window, chunk, seen, longest_of(seen));
    chunk_give_if_free(window, chunk);
}

// --- Taking pages

// Takes the lowest run of `count` pages of a chunk.
static bool take_from(const struct page_arena_window *window, size_t chunk, unsigned count,
                      struct pages_taken *taken) {
    enum { TRIES = 4 }; // each failure means that another thread has taken or freed pages
    atomic_bitmap_word *avail = chunk_of(window, chunk)->avail;
    for (unsigned i = 0; i < TRIES; i++) {
        page_set starts = starts_of(load_pages(avail), count);
        if (starts == 0) {
            return false;
        }
        unsigned page = lowest_page(starts);
        if (HAK_LIKELY(atomic_bitmap_claim_run(avail, page, count))) {
            *taken = (struct pages_taken){chunk, page};
            return true;
        }
    }
    return false;
}

// Makes the threads of the slot take from the chunk from now on, and no others.
static HAK_NOINLINE void remember(const struct page_arena_window *window, size_t chunk,
                                  unsigned slot) {
    chunk_set_longest(window, chunk, 0); // first: another thread may make its slot leave it at once
    atomic_store_explicit(&superslab_slab(window, chunk)->owner, (uint8_t)slot,
                          memory_order_relaxed);
    size_t before = atomic_exchange(&remembered[slot].chunk, chunk + 1) - 1;
    if (before != ARENA_NONE && before != chunk && superslab_known(window, before) &&
        is_chunk(window, before)) {
        offer(window, before);
    }
}

// Makes the threads of the slot take from any chunk.
static HAK_NOINLINE void leave(const struct page_arena_window *window, size_t chunk,
                               unsigned slot) {
    size_t seen = chunk + 1;
    if (atomic_compare_exchange_strong(&remembered[slot].chunk, &seen, 0) &&
        is_chunk(window, chunk)) {
        offer(window, chunk);
    }
}

// Takes pages of a chunk that can be found. If it has many more, the slot's threads remember it.
static HAK_NOINLINE bool take_fitting(const struct page_arena_window *window, unsigned count,
                                      unsigned slot, struct pages_taken *taken) {
    unsigned looks = 16;
    for (;;) {
        size_t chunk = chunk_find(window, count, &looks);
        if (HAK_UNLIKELY(chunk == ARENA_NONE)) {
            return false;
        }
        bool done = take_from(window, chunk, count, taken);
        page_set seen = load_pages(chunk_of(window, chunk)->avail);
        unsigned pages = longest_of(seen);
        if (done && pages == MOST_PAGES) {
            remember(window, chunk, slot);
        } else {
            say_longest(window, chunk, seen, pages);
        }
        if (HAK_LIKELY(done)) {
            return true;
        }
        looks--;
    }
}

// Makes a chunk, and takes its first pages.
static HAK_NOINLINE bool take_new(const struct page_arena_window *window, unsigned count,
                                  struct pages_taken *taken) {
    bool zero;
    size_t chunk =
        page_arena_claim_filled(CHUNK_SLABS, (size_t)CHUNK_SLABS << ARENA_SLAB_SHIFT, &zero);
    if (chunk == ARENA_NONE) {
        return false;
    }
    struct superslab_chunk *pages = chunk_of(window, chunk);
    for (unsigned i = 0; i < CHUNK_PAGES; i++) {
        atomic_store_explicit(superslab_entry(window, chunk, i), 0, memory_order_relaxed);
    }
    for (unsigned i = 0; i < CHUNK_WORDS; i++) {
        atomic_store_explicit(&pages->touched[i], zero ? 0 : ~UINT64_C(0), memory_order_relaxed);
    }
    struct slab *meta = superslab_slab(window, chunk);
    atomic_store_explicit(&meta->active, 1, memory_order_relaxed);
    atomic_store_explicit(&meta->owner, UINT8_MAX, memory_order_relaxed);
    atomic_store(&meta->kind, SLAB_CHUNK);
    atomic_fetch_add_explicit(&chunk_counted, 1, memory_order_relaxed);
    if (chunk_count() / 2 > atomic_load_explicit(&chunk_mark, memory_order_relaxed)) {
        chunk_set_mark();
    }
    atomic_bitmap_ensure_now(superslab_group_word(window, chunk, CHUNKS_WORD),
                             superslab_group_bit(chunk));
    static_assert((int)MOST_PAGES < CHUNK_PAGES - 64, "the rest is longer than a word");
    atomic_bitmap_put_long_run(pages->avail, count, CHUNK_PAGES - count);
    *taken = (struct pages_taken){chunk, 0};
    return true;
}

// The functions called here have frames of their own, because a signal's stack has to have room for
// this one and the arena's.
static HAK_NOINLINE bool take_elsewhere(const struct page_arena_window *window, unsigned count,
                                        unsigned slot, struct pages_taken *taken) {
    if (take_fitting(window, count, slot, taken)) {
        return true;
    }
    if (!take_new(window, count, taken)) {
        return false;
    }
    remember(window, taken->chunk, slot);
    return true;
}

bool chunk_take(const struct page_arena_window *window, unsigned count, unsigned slot,
                struct pages_taken *taken) {
    size_t chunk = atomic_load_explicit(&remembered[slot].chunk, memory_order_relaxed) - 1;
    if (chunk != ARENA_NONE && superslab_known_reached(window, chunk)) {
        if (HAK_LIKELY(take_from(window, chunk, count, taken))) {
            return true;
        }
        leave(window, chunk, slot);
    }
    return take_elsewhere(window, count, slot, taken);
}

// --- Giving pages and chunks back

// Gives the slabs of a chunk to the arena. The caller holds all of its pages.
static HAK_NOINLINE void give(const struct page_arena_window *window, size_t chunk) {
    page_set touched = load_pages(chunk_of(window, chunk)->touched);
    chunk_set_longest(window, chunk, 0);
    atomic_store(&superslab_slab(window, chunk)->kind, SLAB_NONE);
    atomic_fetch_sub_explicit(&chunk_counted, 1, memory_order_relaxed);
    for (unsigned i = 0, end; i < CHUNK_SLABS; i = end) {
        const page_set slab = (1 << SLAB_PAGES) - 1;
        bool dirty = (touched >> i * SLAB_PAGES & slab) != 0;
        for (end = i + 1; end < CHUNK_SLABS && ((touched >> end * SLAB_PAGES & slab) != 0) == dirty;
             end++) {
        }
        page_arena_release(chunk + i, end - i, dirty);
    }
}

void chunk_give_if_free(const struct page_arena_window *window, size_t chunk) {
    atomic_bitmap_word *avail = chunk_of(window, chunk)->avail;
    // While this thread holds a part of the pages, another may free the last ones and see less than
    // all of them. So after a failure this thread looks again.
    while (load_pages(avail) == ALL_PAGES) {
        if (atomic_bitmap_claim_run(avail, 0, CHUNK_PAGES)) {
            give(window, chunk);
            return;
        }
    }
}

// Returns true if the threads of a slot take from the chunk.
static bool is_remembered(const struct page_arena_window *window, size_t chunk) {
    unsigned owner =
        atomic_load_explicit(&superslab_slab(window, chunk)->owner, memory_order_relaxed);
    return owner < HAK_THREAD_SLOTS && atomic_load(&remembered[owner].chunk) == chunk + 1;
}

void chunk_put(const struct page_arena_window *window, size_t chunk, unsigned page,
               unsigned count) {
    atomic_bitmap_word *avail = chunk_of(window, chunk)->avail;
    mark_used(window, chunk);
    atomic_bitmap_put_run(avail, page, count);
    if (is_remembered(window, chunk)) {
        return;
    }
    page_set now = load_pages(avail);
    if (HAK_UNLIKELY(now == ALL_PAGES)) {
        chunk_give_if_free(window, chunk);
        return;
    }
    // The run that the pages are in now may be the longest one.
    unsigned first = behind_highest(~now & (((page_set)1 << page) - 1));
    unsigned length = run_from(now, first);
    length = (unsigned)hak_min(length, MOST_PAGES);
    if (length >= LEAST_PAGES && length > chunk_longest(window, chunk)) {
        say_longest(window, chunk, now, length);
    }
}

void medium_block_flush(void) {
    const struct page_arena_window window = page_arena_get_window();
    medium_give_kept(&window);
    for (unsigned slot = 0; MEDIUM_BLOCK_MOST != 0 && slot < HAK_THREAD_SLOTS; slot++) {
        size_t chunk = atomic_load_explicit(&remembered[slot].chunk, memory_order_relaxed) - 1;
        if (chunk != ARENA_NONE && superslab_known(&window, chunk) && is_chunk(&window, chunk)) {
            chunk_give_if_free(&window, chunk);
        }
    }
}
