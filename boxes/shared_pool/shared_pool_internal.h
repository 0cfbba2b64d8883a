// SPDX-License-Identifier: Apache-2.0
// shared_pool_internal: shared by the files of the pool.
//
//   totals.c        counts over the whole pool
//   shared_pool.c   lists slabs with free blocks, and takes blocks from them
//   put.c           moves bits out of a slab's bitmap and back; gives free slabs back
//   home.c          SuperSlabs that few threads have for themselves
//   purge.c         gives pages without a live block back to the kernel
//   short_slab.c    slabs with a part of their pages, in tight processes
//
// What is ordered, and by what:
//
// - A block's contents, and a slab's kind, bin, bitmap and byte in the page map, go from thread to
//   thread with a bit of the slab's bitmap: setting the bit releases, taking it acquires. A thread
//   that has a block has seen all writes from before the block was handed out, and so reads the
//   page map without an atomic.
// - A thread that puts blocks back sets a bit and then reads `listed`; a thread that unlists the
//   slab clears `listed` and then reads the bits. One of the two must see the other, so all four
//   steps are sequentially consistent. The same holds at each level above, between `listed` and its
//   summaries.
// - A thread that lists a slab and then finds an owner leaves the summaries alone; a thread that
//   takes the owner away looks at `listed` afterwards. One of the two sets the summaries.
// - Reads that only choose where to try (find_listed(), the first look at a word, `active`, whether
//   `clean` is zero) are relaxed: a read-modify-write follows.
// - Totals order nothing.
// - While the process has one thread, no order is needed: bits are set without an atomic step
//   (atomic_bitmap_put_clear()).
#ifndef HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_INTERNAL_H
#define HAKMEM_BOXES_SHARED_POOL_SHARED_POOL_INTERNAL_H

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/hardening/hardening.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/page_map/page_map.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"

enum { SLAB_PAGES = ARENA_SLAB / HAK_PAGE };

HAK_INLINE bool is_tiny(const struct page_arena_window *window, size_t slab, unsigned bin) {
    struct slab *meta = superslab_slab(window, slab);
    return atomic_load(&meta->kind) == SLAB_TINY && atomic_load(&meta->bin) == bin;
}

HAK_INLINE bool has_free(atomic_bitmap_word *bits, unsigned bin) {
    for (unsigned w = 0; w < size_class_bins[bin].words; w++) {
        if (atomic_load(&bits[w]) != 0) {
            return true;
        }
    }
    return false;
}

HAK_INLINE void mark_active(struct slab *meta) {
    if (atomic_load_explicit(&meta->active, memory_order_relaxed) == 0) {
        atomic_store_explicit(&meta->active, 1, memory_order_relaxed);
    }
}

// Returns true if a slab serves one bin for good: it *stays*. Only in the hardened flavour; see
// put.c.
HAK_INLINE bool stays(void) {
#if HAK_HARDENED
    return hardening_has(HARDENING_SEPARATE);
#else
    return false;
#endif
}

// Returns those of the blocks [first, last] of a slab that are in word `w` of its bitmap, as bits.
// There must be one at least.
HAK_INLINE uint64_t blocks_in_word(size_t first, size_t last, size_t w) {
    size_t from = hak_max(first, w * 64);
    size_t end = hak_min(last + 1, w * 64 + 64);
    return ~UINT64_C(0) >> (64 - (end - from)) << from % 64;
}

// Guards: of the slabs that stay, the first ones end in a page without access rights if that costs
// few blocks. A write past such a slab does not reach the next one. The slab is short for good, as
// a slab of a tight process is for a while (short_slab.c). Each guard costs a mapping or two, and
// prevents a huge page at its place.
enum { GUARDED_PAGES = SLAB_PAGES - 1 };
HAK_INLINE bool is_guarded(struct slab *meta) {
    return HAK_HARDENED && !page_arena_is_tight() &&
           atomic_load_explicit(&meta->pages, memory_order_relaxed) == GUARDED_PAGES;
}

// Returns the number of blocks that a slab of `bin` has.
HAK_INLINE unsigned blocks_of(struct slab *meta, unsigned bin) {
    return is_guarded(meta) ? superslab_blocks_on(bin, GUARDED_PAGES) : size_class_bins[bin].blocks;
}

// Returns the value of word `word` of a slab's bitmap when all blocks that the slab has are free.
HAK_INLINE uint64_t full_word(struct slab *meta, unsigned bin, unsigned word) {
    if (HAK_LIKELY(!is_guarded(meta))) {
        return superslab_full_word(bin, word);
    }
    unsigned blocks = blocks_of(meta, bin); // The last word may have none, because of the guard.
    return blocks <= word * 64 ? 0 : blocks_in_word(0, blocks - 1, word);
}

HAK_INLINE bool is_word_full(struct slab *meta, atomic_bitmap_word *bits, unsigned bin,
                             unsigned word) {
    return atomic_load(&bits[word]) == full_word(meta, bin, word);
}

// Returns the mark of the thread that takes blocks from slab number `at` of the SuperSlab; 0 if
// there is none, or if it is the calling thread. A hint.
HAK_INLINE uint8_t pool_other_taker(struct superslab *superslab, size_t at) {
    uint8_t taker = atomic_load_explicit(&superslab->taker[at], memory_order_relaxed);
    return taker == hak_thread_mark() ? 0 : taker;
}

// --- totals.c

// Returns true if blocks of the bin are small: a slab of small blocks has next to nothing behind
// its last block.
bool pool_is_small(unsigned bin);

// Counts a slab of the bin as put to use. `zero`: it has no pages yet.
void pool_count_fresh(unsigned bin, bool zero);

// Counts a slab of the bin as no longer in use.
void pool_count_gone(unsigned bin);

// Counts pages, given as bits: `gained` are clean now, that is, without memory; `lost` are not any
// more.
void pool_count_clean(uint16_t gained, uint16_t lost);

// From now on each thread counts on a line that it shares with few others, and not in the totals.
void pool_share_totals(void);

// Tells the arena whether the heap is dense (see page_arena_mark_dense()).
void pool_mark_dense(void);

// --- shared_pool.c

// Lists a slab that may have free blocks of the bin.
void pool_list(const struct page_arena_window *window, size_t slab, unsigned bin);

// Takes a slab without free blocks off the list. Reads its bitmap again afterwards, and lists the
// slab again if a block has become free.
void pool_unlist(const struct page_arena_window *window, size_t slab, unsigned bin);

// Adds blocks of a slab to the `got` blocks in blocks[], up to `want`. Returns the new number of
// blocks. Sets *more to true if the slab may have more blocks, for which there was no room. Once
// the batch has blocks, no word is split to fill it up: splitting takes a step for each block, and
// the rest of the word would split the next batch's words.
unsigned pool_take_from(const struct page_arena_window *window, size_t slab, unsigned bin,
                        void **blocks, unsigned got, unsigned want, bool *more);

// Puts a slab that the caller holds to use for `bin`, with `pages` pages (0: all). Takes its first
// blocks, up to `want`, into blocks[]. Returns their number.
unsigned pool_format(size_t slab, bool zero, unsigned bin, void **blocks, unsigned want,
                     unsigned pages);

// Sets the bits of the summaries that lead to the SuperSlab's `listed` word, the lowest level
// first. Does nothing for a home.
void pool_summarize(const struct page_arena_window *window, size_t slab, unsigned bin);

// --- home.c

// Returns true if the slab's SuperSlab is a group's home: no summary leads to it.
HAK_INLINE bool is_home(const struct page_arena_window *window, size_t slab) {
    return SHARED_POOL_HOMES != 0 &&
           HAK_UNLIKELY(atomic_load(&superslab_at(window, slab)->owner) != 0);
}

// Groups are numbered from 0; the owner of a home is its group's number plus 1.
enum { POOL_GROUPS = 64 };

// Returns true if the thread belongs to a group.
enum { POOL_MET_MANY = 4 };
HAK_INLINE bool has_group(const struct shared_pool_company *company) {
    return SHARED_POOL_HOMES != 0 && company != NULL && HAK_UNLIKELY(company->met >= POOL_MET_MANY);
}

// To be called when a thread has met several others in a search. The POOL_MET_MANY-th call makes
// the thread join a group.
void pool_meet(struct shared_pool_company *company);

// Returns a listed slab of the group's homes, or ARENA_NONE.
size_t pool_find_home(const struct page_arena_window *window, unsigned bin, unsigned group);

// Returns true if the group has spare slabs.
bool pool_has_spare(const struct page_arena_window *window, unsigned group);

// Takes a spare slab of the group's homes; if there is none, makes a home and takes one of its
// slabs. Returns ARENA_NONE if neither can be done. `huge`: a home made now may be on huge pages.
size_t pool_claim_home(unsigned group, bool huge, bool *zero);

// If the slab's SuperSlab is a home, keeps the free slab as a spare one there, unless that has
// enough spare slabs with pages. Otherwise gives the slab back to the arena.
void pool_give_slab(const struct page_arena_window *window, size_t slab);

// To be called by the decay's walk at the first slab `first` of a SuperSlab. If that is a home that
// its group has not used for a while, makes it common. `all`: gives its spare slabs back in any
// case.
void pool_visit_home(const struct page_arena_window *window, size_t first, bool all);

// --- put.c

// The number of slabs without a live block that have pages. An estimate. Counted only where slabs
// stay; see stays().
extern _Atomic(size_t) pool_empty_slabs;

// Counts a slab that stays as one without pages (`bare`), or as one that has pages again.
HAK_INLINE void pool_count_bare(bool bare) {
    if (HAK_HARDENED) {
        page_arena_count_sparse(bare ? 1 : -1);
    }
}

// To be called when a slab is used again, or no longer has pages: takes the slab out of
// pool_empty_slabs.
HAK_INLINE void pool_leave_empty(struct slab *meta) {
    if (HAK_HARDENED && atomic_load_explicit(&meta->empty, memory_order_relaxed) != 0 &&
        atomic_exchange(&meta->empty, 0) != 0) {
        atomic_fetch_sub_explicit(&pool_empty_slabs, 1, memory_order_relaxed);
    }
}

// Stops the program: bits of `mask` were set before.
HAK_NORETURN HAK_COLD void pool_freed_twice(const struct page_arena_window *window, size_t slab,
                                            unsigned bin, unsigned word, uint64_t before,
                                            uint64_t mask);

// Called when bits were set in a word that had none, or that may be full now. If the word had none,
// lists the slab. Returns true if the word is full.
bool pool_put_first_or_last(const struct page_arena_window *window, size_t slab, unsigned bin,
                            unsigned word, uint64_t before, uint64_t after);

// Sets the bits of `mask` in `at`, word `word` of a slab's bitmap. Returns true if all blocks of
// that word are free now: the caller owes a pool_reclaim_if_free().
HAK_INLINE bool put_mask(const struct page_arena_window *window, size_t slab, unsigned bin,
                         atomic_bitmap_word *at, unsigned word, uint64_t mask, bool alone) {
    uint64_t before = atomic_bitmap_put_clear(at, mask, alone);
    if (HAK_UNLIKELY((before & mask) != 0)) {
        pool_freed_twice(window, slab, bin, word, before, mask);
    }
    // A full word is 2^n - 1, so the number after it has no bit in common with `before`. If
    // `before` is 0, no number has one.
    uint64_t after = before + mask;
    return HAK_UNLIKELY((before & (after + 1)) == 0) &&
           pool_put_first_or_last(window, slab, bin, word, before, after);
}

// Gives a slab away if all of its blocks are free. To be called by a thread that has made word
// `word` of the bitmap full.
void pool_reclaim_if_free(const struct page_arena_window *window, size_t slab, unsigned bin,
                          unsigned word);

HAK_INLINE void put_word(const struct page_arena_window *window, size_t slab, unsigned bin,
                         atomic_bitmap_word *at, unsigned word, uint64_t mask, bool alone) {
    if (HAK_UNLIKELY(put_mask(window, slab, bin, at, word, mask, alone))) {
        pool_reclaim_if_free(window, slab, bin, word);
    }
}

// The one way to take blocks out of a bitmap. Takes those of the bits `want` of word `word` that
// are set, and returns them. Afterwards checks whether the slab serves another bin by now: while
// bits are held, the slab cannot change again. If it does, the bits go back to that bin, and 0 is
// returned; *owed is set to that bin if the caller owes a pool_reclaim_if_free() for it.
uint64_t pool_hold(const struct page_arena_window *window, size_t slab, unsigned bin, unsigned word,
                   uint64_t want, unsigned *owed);

// Gives a slab back to the arena if all of its blocks are free, even if slabs stay. `word` is a
// word of the bitmap that was full a moment ago, or 0.
void pool_give_if_free(const struct page_arena_window *window, size_t slab, unsigned bin,
                       unsigned word);

// Gives a slab back to the arena. The caller holds all of its blocks.
void pool_give_away(const struct page_arena_window *window, size_t slab, unsigned bin);

// --- purge.c

// Returns true if the blocks [first, last] are free. Changes nothing.
bool pool_are_free(atomic_bitmap_word *bits, size_t first, size_t last);

// Holds the blocks [first, last], that is, takes their bits. Returns false, and holds none, if one
// of them is not free.
bool pool_hold_blocks(const struct page_arena_window *window, size_t slab, unsigned bin,
                      size_t first, size_t last, unsigned *owed);

// Gives back those pages of a slab that have memory and no live block, and adds their number to
// *given. Holds the blocks on them meanwhile, so that no other thread can take one. Returns false
// if the kernel refuses.
bool pool_purge_slab(const struct page_arena_window *window, size_t slab, unsigned bin,
                     size_t *given);

// Returns `slab`, or the slab at which a walk goes on if `slab` starts a SuperSlab without
// metadata, such as one inside a large block.
size_t pool_skip_unknown(const struct page_arena_window *window, size_t slab);

// --- short_slab.c

// As shared_pool_take(), for a tight process in which no slab in use has a free block. Gives the
// slab of the hint more pages, or puts a fresh slab to use.
unsigned pool_take_short(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint);

// Gives a slab back to the arena if it has no live block, even if slabs stay.
void pool_give_kept(const struct page_arena_window *window, size_t slab);

#endif
