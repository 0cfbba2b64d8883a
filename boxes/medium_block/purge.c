// SPDX-License-Identifier: Apache-2.0
// purge: gives pages of chunks that have no live block back to the kernel, and holds them
// meanwhile.
#include "backends/os.h"
#include "boxes/medium_block/medium_block_internal.h"

// Gives a run of free pages back. Returns false if the kernel refuses.
static bool purge_run(const struct page_arena_window *window, size_t chunk, unsigned page,
                      unsigned count, size_t *given) {
    struct superslab_chunk *pages = chunk_of(window, chunk);
    size_t bytes = (size_t)count << HAK_PAGE_SHIFT;
    if (bytes < os_least_purge() || !atomic_bitmap_claim_run(pages->avail, page, count)) {
        return true;
    }
    bool done = os_purge(page_at(window, chunk, page), bytes) == OS_OK;
    if (done) {
        atomic_bitmap_clear_run(pages->touched, page, count);
        *given += count;
    }
    atomic_bitmap_put_run(pages->avail, page, count);
    return done;
}

static bool purge_chunk(const struct page_arena_window *window, size_t chunk, size_t *given) {
    struct superslab_chunk *pages = chunk_of(window, chunk);
    page_set idle = load_pages(pages->avail) & load_pages(pages->touched);
    while (idle != 0) {
        unsigned page = lowest_page(idle);
        unsigned count = run_from(idle, page);
        if (!purge_run(window, chunk, page, count, given)) {
            return false;
        }
        idle &= ~pages_at(page, count);
    }
    return true;
}

// Returns true if a chunk may have idle pages. Marks it as not used since now.
static bool is_quiet(struct slab *meta, bool all) {
    if (atomic_load_explicit(&meta->active, memory_order_relaxed) != 0) {
        atomic_store_explicit(&meta->active, 0, memory_order_relaxed);
        return all;
    }
    return true;
}

static bool has_chunk(const struct page_arena_window *window, size_t first) {
    bool any = false;
    for (size_t i = 0; i < ARENA_SUPERSLAB_SLABS; i += CHUNK_SLABS) {
        any = any || is_chunk(window, first + i);
    }
    return any;
}

// Visits the chunks of a SuperSlab.
static void visit(const struct page_arena_window *window, size_t first,
                  struct medium_block_walk *walk) {
    for (size_t i = 0; i < ARENA_SUPERSLAB_SLABS && !walk->refused; i += CHUNK_SLABS) {
        size_t chunk = first + i;
        if (is_chunk(window, chunk) && is_quiet(superslab_slab(window, chunk), walk->all)) {
            walk->refused = !purge_chunk(window, chunk, &walk->pages);
            chunk_give_if_free(window, chunk);
        }
    }
}

// No longer visits a SuperSlab without a chunk. A thread that makes a chunk sets the bit after it.
static void forget(const struct page_arena_window *window, size_t first) {
    atomic_bitmap_word *word = superslab_group_word(window, first, CHUNKS_WORD);
    atomic_fetch_and(word, ~superslab_group_bit(first));
    if (has_chunk(window, first)) {
        atomic_fetch_or(word, superslab_group_bit(first));
    }
}

// Returns the first SuperSlab from `slab` on that may have chunks, or a place to go on from.
static size_t skip(const struct page_arena_window *window, size_t slab) {
    if (!page_arena_reaches(slab)) {
        return hak_round_up(slab + 1, ARENA_GROUP_SLABS);
    }
    uint64_t bits = atomic_load(superslab_group_word(window, slab, CHUNKS_WORD));
    bits >>= slab / ARENA_SUPERSLAB_SLABS % ARENA_GROUP_SUPERSLABS;
    return bits == 0 ? hak_round_up(slab + 1, ARENA_GROUP_SLABS)
                     : slab + (size_t)__builtin_ctzll(bits) * ARENA_SUPERSLAB_SLABS;
}

void medium_block_purge(struct medium_block_walk *walk, size_t look, size_t budget) {
    struct page_arena_window window;
    size_t high = page_arena_walk(&window);
    size_t slab = walk->cursor;
    size_t most = budget < SIZE_MAX - walk->pages ? walk->pages + budget : SIZE_MAX;
    walk->refused = false;
    if (slab == 0) {
        medium_give_kept(&window);
    }
    for (; slab < high && look > 0 && walk->pages < most && !walk->refused; look--) {
        size_t next = skip(&window, slab);
        if (next != slab) {
            slab = next;
            continue;
        }
        if (superslab_known(&window, slab)) {
            visit(&window, slab, walk);
            if (!has_chunk(&window, slab)) {
                forget(&window, slab);
            }
        }
        slab += ARENA_SUPERSLAB_SLABS;
    }
    walk->cursor = slab < high ? slab : 0;
}
