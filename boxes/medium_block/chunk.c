// SPDX-License-Identifier: Apache-2.0
// chunk: finds a chunk with enough adjacent free pages, makes chunks, and gives them back.
//
// Chunks are listed by the length of their longest free run. A chunk has the number of its list.
// For each list a word of a group has a bit for each SuperSlab that may have such a chunk, and a
// word of a region a bit for each such group: the words behind those of the bins (see shared_pool).
// They are hints that err towards set. The chunk that a thread remembers is seldom on a list.
#include "boxes/medium_block/medium_block_internal.h"

// The chunk that the threads of a slot took from last: its first slab, plus 1; 0: none. A hint.
static struct { alignas(HAK_CACHE_LINE) _Atomic(size_t) chunk; } remembered[HAK_THREAD_SLOTS];

_Atomic(uint64_t) chunk_counted;
_Atomic(uint64_t) chunk_mark; // half as many chunks as there were

void chunk_set_mark(void) {
    atomic_store_explicit(&chunk_mark, chunk_count() / 2, memory_order_relaxed);
}

// --- Lists

// The lists are of chunks whose longest run has 9 pages, 10 or 11, 12 or 13, and so on, and 32 or
// more. list_of() returns the list of chunks whose longest run has `pages` (9 or more) pages,
// list_for() the first list of which each chunk has a run of `pages` (up to 32) pages.
enum { STEP_PAGES = 2 };
static unsigned list_of(unsigned pages) {
    return (unsigned)(hak_min(pages, MOST_PAGES) - 8) / STEP_PAGES;
}
static unsigned list_for(unsigned pages) {
    return pages <= LEAST_PAGES ? 0 : (pages - 7u) / STEP_PAGES;
}
static_assert((MOST_PAGES - 8) / STEP_PAGES == LISTS - 1, "the last list");

// Sets the bits that lead to a SuperSlab, the lowest level first.
static void summarize(const struct page_arena_window *window, size_t chunk, unsigned word) {
    atomic_bitmap_ensure_now(superslab_group_word(window, chunk, word), superslab_group_bit(chunk));
    atomic_bitmap_ensure_now(superslab_region_word(window, chunk, word),
                             superslab_region_bit(chunk));
}

static unsigned list_in(const struct page_arena_window *window, size_t chunk) {
    return atomic_load(&chunk_of(window, chunk)->list);
}

// Returns true if a chunk of the SuperSlab is on the list.
static bool has_listed(const struct page_arena_window *window, size_t chunk, unsigned list) {
    size_t first = chunk - chunk % ARENA_SUPERSLAB_SLABS;
    bool any = false;
    for (size_t i = 0; i < ARENA_SUPERSLAB_SLABS; i += CHUNK_SLABS) {
        any |= list_in(window, first + i) == list + 1;
    }
    return any;
}

// Clears a bit. Returns true if the word has none then.
static bool clear_bit(atomic_bitmap_word *word, uint64_t bit) {
    for (;;) {
        uint64_t seen = atomic_load(word);
        if (HAK_LIKELY(hak_step_swap(word, seen, seen & ~bit))) {
            return (seen & ~bit) == 0;
        }
    }
}

// Clears the bits that lead to a SuperSlab of which no chunk seems to be on the list.
static void pass_over(const struct page_arena_window *window, size_t chunk, unsigned list) {
    unsigned word = LIST_FIRST + list;
    atomic_bitmap_word *group = superslab_group_word(window, chunk, word);
    if (clear_bit(group, superslab_group_bit(chunk)) &&
        clear_bit(superslab_region_word(window, chunk, word), superslab_region_bit(chunk)) &&
        atomic_load(group) != 0) {
        atomic_bitmap_ensure_now(superslab_region_word(window, chunk, word),
                                 superslab_region_bit(chunk));
    }
    if (has_listed(window, chunk, list)) {
        summarize(window, chunk, word);
    }
}

// Puts a chunk on a list, whose number plus 1 is `list`, or takes it off the lists (0).
static void set_list(const struct page_arena_window *window, size_t chunk, unsigned list) {
    _Atomic(uint8_t) *at = &chunk_of(window, chunk)->list;
    unsigned before = list_in(window, chunk);
    if (before != list) {
        if (hak_alone()) {
            atomic_store_explicit(at, (uint8_t)list, memory_order_relaxed);
        } else {
            atomic_store(at, (uint8_t)list);
        }
    }
    if (list != 0) {
        summarize(window, chunk, LIST_FIRST + list - 1);
    }
    if (before != 0 && before != list && !has_listed(window, chunk, before - 1)) {
        pass_over(window, chunk, before - 1);
    }
}

// Returns the list of a chunk with these free pages, plus 1; 0 if none of them is on.
static unsigned list_for_set(page_set avail) {
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
    return list_of(pages) + 1;
}

// Lists a chunk by its longest run, or takes it off the lists if that is too short. Another thread
// may free pages meanwhile, and list the chunk by them. So the pages are read again afterwards.
static void list(const struct page_arena_window *window, size_t chunk) {
    enum { TRIES = 4 };
    atomic_bitmap_word *avail = chunk_of(window, chunk)->avail;
    page_set seen = load_pages(avail);
    for (unsigned i = 0; i < TRIES; i++) {
        set_list(window, chunk, list_for_set(seen));
        page_set now = load_pages(avail);
        if (HAK_LIKELY(now == seen)) {
            break;
        }
        seen = now;
    }
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

// Returns true if threads of another slot take from the chunk.
static bool is_anothers(const struct page_arena_window *window, size_t chunk, unsigned slot) {
    unsigned owner =
        atomic_load_explicit(&superslab_slab(window, chunk)->owner, memory_order_relaxed);
    return owner != slot && owner < HAK_THREAD_SLOTS &&
           atomic_load_explicit(&remembered[owner].chunk, memory_order_relaxed) == chunk + 1;
}

// Makes the threads of the slot take from the chunk from now on.
static HAK_NOINLINE void remember(const struct page_arena_window *window, size_t chunk,
                                  unsigned slot) {
    set_list(window, chunk, 0); // first: another thread may make its slot take from others at once
    atomic_store_explicit(&superslab_slab(window, chunk)->owner, (uint8_t)slot,
                          memory_order_relaxed);
    size_t before = atomic_exchange(&remembered[slot].chunk, chunk + 1) - 1;
    if (before != ARENA_NONE && before != chunk && superslab_known(window, before) &&
        is_chunk(window, before)) {
        list(window, before);
        chunk_give_if_free(window, before);
    }
}

// A search for a chunk on one of the lists from `list` on.
struct search {
    const struct page_arena_window *window;
    struct pages_taken *taken;
    unsigned list, count, slot;
    unsigned looks; // how many more chunks may be looked at
};

// Takes pages of a chunk of the SuperSlab that is on the list.
static bool search_superslab(struct search *search, size_t first) {
    const struct page_arena_window *window = search->window;
    if (!superslab_known_reached(window, first)) {
        return false;
    }
    bool any = false;
    for (size_t chunk = first; chunk < first + ARENA_SUPERSLAB_SLABS; chunk += CHUNK_SLABS) {
        if (HAK_LIKELY(list_in(window, chunk) != search->list + 1)) {
            continue;
        }
        any = true;
        if (is_anothers(window, chunk, search->slot)) {
            continue;
        }
        if (HAK_LIKELY(take_from(window, chunk, search->count, search->taken))) {
            return true;
        }
        list(window, chunk);
        if (--search->looks == 0) {
            break;
        }
    }
    if (!any) {
        pass_over(window, first, search->list);
    }
    return false;
}

static bool search_group(struct search *search, size_t group) {
    size_t first = group * ARENA_GROUP_SLABS;
    uint64_t bits =
        atomic_load(superslab_group_word(search->window, first, LIST_FIRST + search->list));
    for (; bits != 0 && search->looks > 0; bits &= bits - 1) {
        if (search_superslab(search, first + (size_t)__builtin_ctzll(bits) *
                                                 (size_t)ARENA_SUPERSLAB_SLABS)) {
            return true;
        }
    }
    return false;
}

// Takes pages of the lowest chunk of a region that is on the list.
static bool search_region(struct search *search, size_t region) {
    uint64_t bits = atomic_load(&search->window->regions[region].user[LIST_FIRST + search->list]);
    for (; bits != 0 && search->looks > 0; bits &= bits - 1) {
        if (search_group(search, region * ARENA_REGION_GROUPS + (size_t)__builtin_ctzll(bits))) {
            return true;
        }
    }
    return false;
}

// Takes pages of the first chunk that has enough, on the list of the shortest runs.
static HAK_NOINLINE bool take_listed(const struct page_arena_window *window, unsigned count,
                                     unsigned slot, struct pages_taken *taken) {
    enum { LOOKS = 16 };
    struct search search = {window, taken, 0, count, slot, LOOKS};
    size_t regions = (page_arena_top() + ARENA_REGION_SLABS - 1) / ARENA_REGION_SLABS;
    for (size_t region = 0; region < regions; region++) {
        for (search.list = list_for(count); search.list < LISTS; search.list++) {
            if (search_region(&search, region)) {
                return true;
            }
        }
    }
    return false;
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
    atomic_store_explicit(&pages->list, 0, memory_order_relaxed);
    atomic_store(&meta->kind, SLAB_CHUNK);
    atomic_fetch_add_explicit(&chunk_counted, 1, memory_order_relaxed);
    if (chunk_count() / 2 > atomic_load_explicit(&chunk_mark, memory_order_relaxed)) {
        chunk_set_mark();
    }
    summarize(window, chunk, CHUNKS_WORD);
    atomic_bitmap_put_run(pages->avail, count, CHUNK_PAGES - count);
    *taken = (struct pages_taken){chunk, 0};
    return true;
}

// The functions called here have frames of their own, because a signal's stack has to have room for
// this one and the arena's.
static HAK_NOINLINE bool take_elsewhere(const struct page_arena_window *window, unsigned count,
                                        unsigned slot, struct pages_taken *taken) {
    if (!take_listed(window, count, slot, taken) && !take_new(window, count, taken)) {
        return false;
    }
    remember(window, taken->chunk, slot);
    return true;
}

bool chunk_take(const struct page_arena_window *window, unsigned count, unsigned slot,
                struct pages_taken *taken) {
    size_t chunk = atomic_load_explicit(&remembered[slot].chunk, memory_order_relaxed) - 1;
    if (HAK_LIKELY(chunk != ARENA_NONE) && superslab_known_reached(window, chunk) &&
        HAK_LIKELY(take_from(window, chunk, count, taken))) {
        return true;
    }
    return take_elsewhere(window, count, slot, taken);
}

// --- Giving pages and chunks back

// Gives the slabs of a chunk to the arena. The caller holds all of its pages.
static HAK_NOINLINE void give(const struct page_arena_window *window, size_t chunk) {
    page_set touched = load_pages(chunk_of(window, chunk)->touched);
    set_list(window, chunk, 0);
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

void chunk_put(const struct page_arena_window *window, size_t chunk, unsigned page,
               unsigned count) {
    atomic_bitmap_word *avail = chunk_of(window, chunk)->avail;
    mark_used(window, chunk);
    atomic_bitmap_put_run(avail, page, count);
    if (atomic_load_explicit(&remembered[hak_thread_slot()].chunk, memory_order_relaxed) ==
        chunk + 1) {
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
    if (length >= LEAST_PAGES && list_of(length) + 1 > list_in(window, chunk)) {
        list(window, chunk);
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
