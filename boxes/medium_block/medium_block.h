// SPDX-License-Identifier: Apache-2.0
// medium_block: blocks above 32 KiB and up to 128 KiB, as runs of pages in chunks.
//
// A chunk is 8 adjacent slabs. A bit for each of its 128 pages says whether the page is free. A
// block is a run of pages that a thread has taken out of these bits, and a freed block is bits that
// are set again. So a block takes up no page more than it needs, its neighbours grow together when
// they are free, and any thread frees any block by one atomic step or two. No thread owns a chunk:
// each thread remembers the one that it took from last, and finds others by the length of their
// longest free runs. A chunk without a block goes back to the page arena.
//
// There are no medium blocks in the hardened flavour, with the header strategy, under HAKMEM_LIMIT,
// and in a tight process (page_arena_is_tight()). large_block serves the sizes then.
//
// Thread-safe and lock-free; callable from anywhere. After any single step others can go on: a
// thread that ends in the middle of a call, as the other threads of a forking process do in the
// child, loses the pages that it had in its hands, and nothing else.
#ifndef HAKMEM_BOXES_MEDIUM_BLOCK_MEDIUM_BLOCK_H
#define HAKMEM_BOXES_MEDIUM_BLOCK_MEDIUM_BLOCK_H

#include "boxes/base/base.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/superslab/superslab.h"

HAK_C_BEGIN

// Build setting: the most usable bytes of a medium block, up to 128 KiB; 0: there are none.
#ifndef MEDIUM_BLOCK_MOST
#    define MEDIUM_BLOCK_MOST ((size_t)128 << 10)
#endif

// Build setting: 0: freed pages go back to their chunk at once, and no thread keeps some.
#ifndef MEDIUM_BLOCK_KEPT
#    define MEDIUM_BLOCK_KEPT 1
#endif

// Returns a block of `size` bytes (above 32 KiB, or less with an alignment that bins do not have)
// at a multiple of `align` (a power of two). If `align` is at most 64, the block may start at any
// cache line of its first page. `zero`: all of it must be zero. Returns NULL if such blocks are not
// medium ones, or if there is no memory for another chunk.
void *medium_block_alloc(size_t size, size_t align, bool zero);

// Returns true if `slab`, whose metadata can be read (superslab_known()), belongs to a chunk.
HAK_INLINE bool medium_block_owns(const struct page_arena_window *window, size_t slab) {
    size_t first = slab & ~(size_t)(SUPERSLAB_CHUNK_SLABS - 1);
    return MEDIUM_BLOCK_MOST != 0 && atomic_load_explicit(&superslab_slab(window, first)->kind,
                                                          memory_order_acquire) == SLAB_CHUNK;
}

// As above, for a slab that page_arena_reaches(), and for any number.
HAK_INLINE bool medium_block_owns_reached(const struct page_arena_window *window, size_t slab) {
    return superslab_known_reached(window, slab) && medium_block_owns(window, slab);
}
HAK_INLINE bool medium_block_owns_any(const struct page_arena_window *window, size_t slab) {
    return superslab_known(window, slab) && medium_block_owns(window, slab);
}

// In the calls below `slab` is page_arena_slab_of(window, ptr), and belongs to a chunk.

// Frees the block that starts at `ptr`. Returns false if no live block starts there.
bool medium_block_free(const struct page_arena_window *window, const void *ptr, size_t slab);

// Returns the size that was last asked for the live block that starts at `ptr`. Returns 0 if no
// live block starts there.
size_t medium_block_size(const struct page_arena_window *window, const void *ptr, size_t slab);

// Resizes the live block that starts at `ptr` to `size` bytes (> 0), at its place. Returns false,
// and changes nothing, if that cannot be done. medium_block_stays() resizes a block
// only if the new size takes up the same pages.
bool medium_block_stays(const struct page_arena_window *window, const void *ptr, size_t slab,
                        size_t size);
bool medium_block_resize(const struct page_arena_window *window, const void *ptr, size_t slab,
                         size_t size);

// Returns the start of the live block that has the byte at `ptr`, or NULL.
char *medium_block_around(const struct page_arena_window *window, const void *ptr, size_t slab);

// A walk that gives back those pages of chunks that have no live block. All zero at first, except
// for `all`.
struct medium_block_walk {
    size_t cursor; // where the next step begins; 0 at the end of the walk
    size_t pages;  // given back so far
    bool all;      // also look at chunks of which pages were taken or freed since the last walk
    bool refused;  // the kernel would not take pages
};

// Takes one step of a walk. The step ends when about `budget` pages have been given back, when
// `look` SuperSlabs or groups of them have been looked at, when the kernel refuses, or at the end
// of the heap.
void medium_block_purge(struct medium_block_walk *walk, size_t look, size_t budget);

// Gives back the pages that threads keep, and those chunks without a block that they remember.
void medium_block_flush(void);
HAK_C_END

#endif
