// SPDX-License-Identifier: Apache-2.0
#include "boxes/medium_block/medium_block.h"

#include "boxes/medium_block/medium_block_internal.h"
#include "boxes/settings/settings.h"

#include <string.h>

static_assert(MEDIUM_BLOCK_MOST <= (size_t)128 << 10, "a chunk has a few such blocks");

// Returns true if pages of chunks may be taken in this process.
static bool may_take(void) {
    return settings_get(SETTING_LIMIT) == 0 && page_arena_init() &&
           !HAK_UNLIKELY(page_arena_is_tight());
}

// --- Entries

static uint64_t entry_of(unsigned pages, unsigned slot, size_t colour, size_t size) {
    return pages | slot << SUPERSLAB_ENTRY_SLOT | (uint64_t)colour << SUPERSLAB_ENTRY_COLOUR |
           (uint64_t)size << SUPERSLAB_ENTRY_SIZE;
}
// Returns the entry of the block after its length has changed.
static uint64_t entry_of_resized(uint64_t entry, unsigned pages, size_t size) {
    return entry_of(pages, superslab_entry_slot(entry), superslab_entry_colour(entry), size);
}
static unsigned pages_for(size_t bytes) {
    return (unsigned)((bytes + HAK_PAGE - 1) >> HAK_PAGE_SHIFT);
}

// A block that may start at ptr.
struct medium {
    size_t chunk;
    unsigned page;
    atomic_bitmap_word *at;
    uint64_t entry; // 0: no block starts at ptr
};

HAK_INLINE struct medium find(const struct page_arena_window *window, const void *ptr,
                              size_t slab) {
    struct medium found = {.chunk = slab & ~(size_t)(CHUNK_SLABS - 1)};
    size_t offset = (size_t)((const char *)ptr - (char *)page_arena_address(window, found.chunk));
    found.page = (unsigned)(offset >> HAK_PAGE_SHIFT);
    found.at = superslab_entry(window, found.chunk, found.page);
    uint64_t entry = atomic_load_explicit(found.at, memory_order_relaxed);
    found.entry = superslab_entry_colour(entry) == offset % HAK_PAGE ? entry : 0;
    return found;
}

// --- Pages that were freed a moment ago

// The threads of a slot keep the pages of some blocks that were freed, for blocks of the same
// number of pages: up to two runs of each number, the older one first. A word has the number of the
// first page, and how many pages there are. 0: nothing is kept.
//
// What is kept also keeps the chunk that it is in, with all of the chunk's pages. A program that
// only frees should keep nothing in the end. So once PUSHED_OUT runs of a number of pages have been
// pushed out and none was taken, the place is closed: it keeps nothing until a thread asks for that
// number again. And as soon as fewer than half of the chunks are left, all kept pages are given
// back.
enum { KEPT_SHIFT = 8, PUSHED_SHIFT = 56, PUSHED_OUT = 3 };
#define KEPT_CLOSED (UINT64_C(1) << 63) // the older run's word; it has no pages

struct kept_place {
    _Atomic(uint64_t) old;
    _Atomic(uint64_t) last; // and from PUSHED_SHIFT on, how many were pushed out before it
};
enum { PLACES = MOST_PAGES - LEAST_PAGES + 1 };
static struct { alignas(HAK_CACHE_LINE) struct kept_place places[PLACES]; } kept[HAK_THREAD_SLOTS];

static uint64_t kept_word(size_t chunk, unsigned page, unsigned count) {
    return (chunk * SLAB_PAGES + page) << KEPT_SHIFT | count;
}

static struct pages_taken kept_pages(uint64_t word) {
    size_t page = (word & ((UINT64_C(1) << PUSHED_SHIFT) - 1)) >> KEPT_SHIFT;
    return (struct pages_taken){page / CHUNK_PAGES * CHUNK_SLABS, page % CHUNK_PAGES};
}

static unsigned kept_count(uint64_t word) {
    return word % (1 << KEPT_SHIFT);
}

HAK_INLINE struct kept_place *kept_at(unsigned slot, unsigned count) {
    return &kept[slot].places[count - LEAST_PAGES];
}

// Takes `count` pages that are kept.
HAK_INLINE bool take_kept(unsigned slot, unsigned count, struct pages_taken *taken) {
    struct kept_place *place = kept_at(slot, count);
    _Atomic(uint64_t) *at = &place->last;
    uint64_t word = atomic_load_explicit(at, memory_order_relaxed);
    if (word == 0) {
        at = &place->old;
        word = atomic_load_explicit(at, memory_order_relaxed);
    }
    if (kept_count(word) == 0 || !hak_step_swap(at, word, 0)) {
        return false;
    }
    *taken = kept_pages(word);
    return true;
}

// To be called if a thread asks for `count` pages, and none are kept.
static void reopen(unsigned slot, unsigned count) {
    struct kept_place *place = kept_at(slot, count);
    if (atomic_load_explicit(&place->old, memory_order_relaxed) == KEPT_CLOSED) {
        hak_step_swap(&place->old, KEPT_CLOSED, 0);
    }
}

static void give_kept(const struct page_arena_window *window, uint64_t word) {
    if (kept_count(word) != 0) {
        struct pages_taken pages = kept_pages(word);
        chunk_put(window, pages.chunk, pages.page, kept_count(word));
    }
}

// Keeps no more pages at a place, and gives back those that it has.
static HAK_NOINLINE void close(const struct page_arena_window *window, struct kept_place *place) {
    uint64_t old = atomic_exchange(&place->old, KEPT_CLOSED);
    give_kept(window, atomic_exchange(&place->last, 0));
    give_kept(window, old);
}

// Keeps the pages of a freed block for the threads of a slot. Gives back those that it replaces. A
// block that was resized may have a number of pages for which there is no place.
static void keep(const struct page_arena_window *window, size_t chunk, unsigned page,
                 unsigned count, unsigned slot) {
    if (HAK_UNLIKELY(count - LEAST_PAGES >= PLACES)) {
        chunk_put(window, chunk, page, count);
        return;
    }
    struct kept_place *place = kept_at(slot, count);
    uint64_t word = kept_word(chunk, page, count);
    uint64_t old = atomic_load_explicit(&place->old, memory_order_relaxed);
    if (MEDIUM_BLOCK_KEPT != 0 && old == 0 && HAK_LIKELY(hak_step_swap(&place->old, 0, word))) {
        return;
    }
    uint64_t out = word;
    uint64_t last = atomic_load_explicit(&place->last, memory_order_relaxed);
    uint64_t pushed = last == 0 ? 0 : (last >> PUSHED_SHIFT) + 1;
    if (MEDIUM_BLOCK_KEPT != 0 && old != 0 && old != KEPT_CLOSED) {
        if (pushed > PUSHED_OUT) {
            close(window, place);
        } else if (HAK_LIKELY(hak_step_swap(&place->last, last, word | pushed << PUSHED_SHIFT))) {
            out = last;
        }
    }
    give_kept(window, out);
}

// Takes what a word has out of it, and gives it back.
static void empty(const struct page_arena_window *window, _Atomic(uint64_t) *at) {
    uint64_t word = atomic_load_explicit(at, memory_order_relaxed);
    if (kept_count(word) != 0 && hak_step_swap(at, word, 0)) {
        give_kept(window, word);
    }
}

void medium_give_kept(const struct page_arena_window *window) {
    for (unsigned slot = 0; slot < HAK_THREAD_SLOTS; slot++) {
        for (unsigned count = LEAST_PAGES; count <= MOST_PAGES; count++) {
            struct kept_place *place = kept_at(slot, count);
            empty(window, &place->last);
            empty(window, &place->old);
        }
    }
}

// --- Blocks

// As long as there are fewer chunks, blocks start at different lines of their first page: if all of
// them started at a page, their first lines would share a few sets of the processor's cache.
enum { COLOURED_MOST = 64 };

// Returns how many bytes a block starts behind the start of its first page, up to `room`.
static size_t colour_for(const char *start, size_t room) {
    uint64_t hash = hak_hash((uintptr_t)start >> HAK_PAGE_SHIFT) >> 32;
    return (hash * (room / HAK_CACHE_LINE + 1) >> 32) * HAK_CACHE_LINE;
}

// Marks pages as touched. Returns the set of those that had been touched before.
static page_set touch(struct superslab_chunk *chunk, unsigned page, unsigned count) {
    page_set pages = pages_at(page, count);
    page_set before = load_pages(chunk->touched) & pages;
    if (HAK_UNLIKELY(before != pages)) {
        atomic_bitmap_ensure_run(chunk->touched, page, count);
    }
    return before;
}

// Clears the pages of a chunk that are in `touched`.
static HAK_NOINLINE void clear(const struct page_arena_window *window, size_t chunk,
                               page_set touched) {
    while (touched != 0) {
        unsigned from = lowest_page(touched);
        unsigned count = run_from(touched, from);
        memset(page_at(window, chunk, from), 0, (size_t)count << HAK_PAGE_SHIFT);
        touched &= ~pages_at(from, count);
    }
}

// Starts a block of `bytes` usable bytes in pages that the caller has taken.
HAK_INLINE void *begin(const struct page_arena_window *window, struct pages_taken taken,
                       unsigned count, unsigned slot, size_t bytes, size_t size, size_t align) {
    char *start = page_at(window, taken.chunk, taken.page);
    size_t room = ((size_t)count << HAK_PAGE_SHIFT) - bytes;
    size_t colour =
        align <= HAK_CACHE_LINE && chunk_count() < COLOURED_MOST ? colour_for(start, room) : 0;
    atomic_store_explicit(superslab_entry(window, taken.chunk, taken.page),
                          entry_of(count, slot, colour, size), memory_order_release);
    return start + colour;
}

static HAK_NOINLINE void *alloc_in_chunk(unsigned count, unsigned slot, size_t bytes, size_t size,
                                         size_t align, bool zero) {
    const struct page_arena_window window = page_arena_get_window();
    struct pages_taken taken;
    if (!chunk_take(&window, count, slot, &taken)) {
        return NULL;
    }
    page_set touched = touch(chunk_of(&window, taken.chunk), taken.page, count);
    if (zero && touched != 0) {
        clear(&window, taken.chunk, touched);
    }
    mark_used(&window, taken.chunk);
    return begin(&window, taken, count, slot, bytes, size, align);
}

void *medium_block_alloc(size_t size, size_t align, bool zero) {
    if (HAK_HEADER != 0 || HAK_HARDENED != 0 || size > MEDIUM_BLOCK_MOST || align > HAK_PAGE) {
        return NULL;
    }
    size_t bytes = superslab_usable(size);
    unsigned count = (unsigned)hak_max(pages_for(bytes), LEAST_PAGES);
    unsigned slot = hak_thread_slot();
    struct pages_taken taken;
    if (HAK_LIKELY(page_arena_is_known()) && HAK_LIKELY(take_kept(slot, count, &taken))) {
        // There was a block in these pages, so all of them were touched.
        const struct page_arena_window *window = &page_arena_known.window;
        if (zero) {
            clear(window, taken.chunk, pages_at(taken.page, count));
        }
        return begin(window, taken, count, slot, bytes, size, align);
    }
    reopen(slot, count);
    return may_take() ? alloc_in_chunk(count, slot, bytes, size, align, zero) : NULL;
}

bool medium_block_free(const struct page_arena_window *window, const void *ptr, size_t slab) {
    struct medium block = find(window, ptr, slab);
    if (HAK_UNLIKELY(block.entry == 0) || !hak_step_swap(block.at, block.entry, 0)) {
        return false;
    }
    keep(window, block.chunk, block.page, superslab_entry_pages(block.entry),
         superslab_entry_slot(block.entry) % HAK_THREAD_SLOTS);
    if (HAK_UNLIKELY(chunk_are_half())) {
        medium_give_kept(window);
    }
    return true;
}

size_t medium_block_size(const struct page_arena_window *window, const void *ptr, size_t slab) {
    uint64_t entry = find(window, ptr, slab).entry;
    return entry == 0 ? 0 : superslab_entry_size(entry);
}

bool medium_block_stays(const struct page_arena_window *window, const void *ptr, size_t slab,
                        size_t size) {
    struct medium block = find(window, ptr, slab);
    size_t need = superslab_usable(size) + superslab_entry_colour(block.entry);
    if (block.entry == 0 || size > MEDIUM_BLOCK_MOST ||
        pages_for(need) != superslab_entry_pages(block.entry)) {
        return false;
    }
    atomic_store_explicit(block.at,
                          entry_of_resized(block.entry, superslab_entry_pages(block.entry), size),
                          memory_order_relaxed);
    return true;
}

bool medium_block_resize(const struct page_arena_window *window, const void *ptr, size_t slab,
                         size_t size) {
    struct medium block = find(window, ptr, slab);
    size_t colour = superslab_entry_colour(block.entry);
    unsigned have = superslab_entry_pages(block.entry);
    if (block.entry == 0 || size > MEDIUM_BLOCK_MOST) {
        return false;
    }
    unsigned want = pages_for(superslab_usable(size) + colour);
    struct superslab_chunk *chunk = chunk_of(window, block.chunk);
    if (want > have) {
        if (block.page + want > CHUNK_PAGES ||
            !atomic_bitmap_claim_run(chunk->avail, block.page + have, want - have)) {
            return false;
        }
        touch(chunk, block.page + have, want - have);
    }
    atomic_store_explicit(block.at, entry_of_resized(block.entry, want, size),
                          memory_order_relaxed);
    if (want < have) {
        chunk_put(window, block.chunk, block.page + want, have - want);
    }
    return true;
}

char *medium_block_around(const struct page_arena_window *window, const void *ptr, size_t slab) {
    size_t chunk = slab & ~(size_t)(CHUNK_SLABS - 1);
    size_t offset = (size_t)((const char *)ptr - (char *)page_arena_address(window, chunk));
    for (size_t page = offset >> HAK_PAGE_SHIFT, back = 0;; page--, back++) {
        uint64_t entry =
            atomic_load_explicit(superslab_entry(window, chunk, page), memory_order_acquire);
        if (entry != 0) {
            char *start = page_at(window, chunk, (unsigned)page) + superslab_entry_colour(entry);
            size_t usable = superslab_usable(superslab_entry_size(entry));
            return (size_t)((const char *)ptr - start) < usable ? start : NULL;
        }
        if (page == 0 || back > MEDIUM_BLOCK_MOST >> HAK_PAGE_SHIFT) {
            return NULL;
        }
    }
}
