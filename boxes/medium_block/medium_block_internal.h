// SPDX-License-Identifier: Apache-2.0
// medium_block_internal: what the files of medium blocks share.
//
//   medium_block.c   blocks: takes pages for them, frees and resizes them
//   chunk.c          chunks: takes pages of them, makes new ones, gives them back
//   fit.c            knows each chunk's longest free run, and finds a chunk by it
//   purge.c          gives pages without a live block back to the kernel
//
// What is ordered, and by what:
//
// - A page's contents, its bit in `touched` and its block's entry go from thread to thread with its
//   bit in `avail`: setting the bit releases, taking it acquires. Whoever has taken all bits of a
//   chunk has the chunk.
// - A thread that frees pages sets their bits and then reads how long their chunk's longest run is
//   said to be; a thread that changes that length writes it and then reads the bits. One of the two
//   must see the other, so all four steps are sequentially consistent. The same holds between the
//   lengths of chunks, SuperSlabs and groups, and between the bits and `remembered`.
// - An entry is written by the thread that has taken the block's pages, and cleared, in one atomic
//   step, by the thread that frees the block: of two threads that free it, one finds no entry.
#ifndef HAKMEM_BOXES_MEDIUM_BLOCK_MEDIUM_BLOCK_INTERNAL_H
#define HAKMEM_BOXES_MEDIUM_BLOCK_MEDIUM_BLOCK_INTERNAL_H

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/base/alone.h"
#include "boxes/base/base.h"
#include "boxes/medium_block/medium_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"

enum {
    CHUNK_SLABS = SUPERSLAB_CHUNK_SLABS,
    CHUNK_PAGES = SUPERSLAB_CHUNK_PAGES,
    CHUNK_WORDS = SUPERSLAB_CHUNK_WORDS,
    SLAB_PAGES = ARENA_SLAB / HAK_PAGE,
    LONGEST_WORDS = SUPERSLAB_CHUNK_FITS,
    LONGEST_FIRST = SIZE_CLASS_BINS, // of the words of groups and regions
    CHUNKS_WORD = LONGEST_FIRST + LONGEST_WORDS,
};

// The pages of a chunk, a bit each.
__extension__ typedef unsigned __int128 page_set;
static_assert(CHUNK_WORDS == 2, "page_set has two words");

#define ALL_PAGES (~(page_set)0)

HAK_INLINE struct superslab_chunk *chunk_of(const struct page_arena_window *window, size_t first) {
    return &superslab_at(window, first)
                ->chunks[first % ARENA_SUPERSLAB_SLABS / (size_t)CHUNK_SLABS];
}

HAK_INLINE page_set load_pages(atomic_bitmap_word *words) {
    return (page_set)atomic_load(&words[1]) << 64 | atomic_load(&words[0]);
}

HAK_INLINE unsigned lowest_page(page_set pages) {
    uint64_t low = (uint64_t)pages;
    return low != 0 ? (unsigned)__builtin_ctzll(low)
                    : 64 + (unsigned)__builtin_ctzll((uint64_t)(pages >> 64));
}

// Returns the number of the page behind the highest one, 0 if there is none.
HAK_INLINE unsigned behind_highest(page_set pages) {
    uint64_t high = (uint64_t)(pages >> 64);
    uint64_t low = (uint64_t)pages;
    return high != 0  ? 128 - (unsigned)__builtin_clzll(high)
           : low != 0 ? 64 - (unsigned)__builtin_clzll(low)
                      : 0;
}

// Returns those pages at which a run of `count` pages of the set starts. A medium block has
// MOST_PAGES at most, and counts as LEAST_PAGES if it has fewer.
enum { LEAST_PAGES = 9, MOST_PAGES = 32 };
HAK_INLINE page_set starts_of(page_set pages, unsigned count) {
    pages &= pages >> 1;
    pages &= pages >> 2;
    pages &= pages >> 4;
    if (count > 16) {
        pages &= pages >> 8;
        count -= 8;
    }
    return pages & pages >> (count - 8);
}

// Returns the pages [page, page + count), with a count of 1 or more.
HAK_INLINE page_set pages_at(unsigned page, unsigned count) {
    return ALL_PAGES >> (CHUNK_PAGES - count) << page;
}

// Returns how many pages of the set follow each other from `page` on.
HAK_INLINE unsigned run_from(page_set pages, unsigned page) {
    page_set behind = ~(pages >> page);
    return behind == 0 ? CHUNK_PAGES : lowest_page(behind);
}

HAK_INLINE char *page_at(const struct page_arena_window *window, size_t chunk, unsigned page) {
    return (char *)page_arena_address(window, chunk) + ((size_t)page << HAK_PAGE_SHIFT);
}

// --- medium_block.c

// Gives the pages back to their chunks that threads keep.
void medium_give_kept(const struct page_arena_window *window);

// --- chunk.c

// A run of pages that the caller has taken.
struct pages_taken {
    size_t chunk; // its first slab
    unsigned page;
};

// Takes `count` adjacent pages, of the chunk that the threads of that slot remember if it has them.
// Returns false if there is no memory.
bool chunk_take(const struct page_arena_window *window, unsigned count, unsigned slot,
                struct pages_taken *taken);

// Gives the pages [page, page + count) of a chunk back. The caller holds them.
void chunk_put(const struct page_arena_window *window, size_t chunk, unsigned page, unsigned count);

// Returns about how many chunks are in use.
extern _Atomic(uint64_t) chunk_counted;
HAK_INLINE size_t chunk_count(void) {
    return atomic_load_explicit(&chunk_counted, memory_order_relaxed);
}

// Returns true if fewer than half as many chunks are in use as there were at most since the
// function last returned true. It then counts from the present number on.
extern _Atomic(uint64_t) chunk_mark;
void chunk_set_mark(void);
HAK_INLINE bool chunk_are_half(void) {
    bool half = chunk_count() < atomic_load_explicit(&chunk_mark, memory_order_relaxed);
    if (HAK_UNLIKELY(half)) {
        chunk_set_mark();
    }
    return half;
}

// --- fit.c

// What is said of a chunk: the length of its longest free run in pages, LEAST_PAGES to MOST_PAGES
// (that many or more); 0: it has no such run, or is not to be found.
unsigned chunk_longest(const struct page_arena_window *window, size_t chunk);
void chunk_set_longest(const struct page_arena_window *window, size_t chunk, unsigned pages);

// Finds a chunk that seems to have a run of `count` adjacent free pages, in the first group with
// such a chunk. Of these, the chunk is in the SuperSlab whose longest run is shortest, and there it
// is the chunk whose longest run is shortest. Returns the chunk's first slab. Returns ARENA_NONE if
// there is no such chunk, or if *looks places had none after all. Each of these places lowers
// *looks by 1.
size_t chunk_find(const struct page_arena_window *window, unsigned count, unsigned *looks);

// Gives a chunk back to the arena if none of its pages is taken.
void chunk_give_if_free(const struct page_arena_window *window, size_t chunk);

HAK_INLINE bool is_chunk(const struct page_arena_window *window, size_t first) {
    return atomic_load(&superslab_slab(window, first)->kind) == SLAB_CHUNK;
}

HAK_INLINE void mark_used(const struct page_arena_window *window, size_t chunk) {
    struct slab *meta = superslab_slab(window, chunk);
    if (atomic_load_explicit(&meta->active, memory_order_relaxed) == 0) {
        atomic_store_explicit(&meta->active, 1, memory_order_relaxed);
    }
}

#endif
