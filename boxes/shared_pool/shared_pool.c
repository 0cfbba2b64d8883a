// SPDX-License-Identifier: Apache-2.0
#include "boxes/shared_pool/shared_pool.h"

#include "backends/os.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/hardening/hardening.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"

#include <string.h>

// Build setting: 1 puts slabs of all blocks on huge pages in a dense heap, and not of those up to a
// page alone.
#ifndef SHARED_POOL_HUGE_MEDIUM
#    define SHARED_POOL_HUGE_MEDIUM 0
#endif

// What is ordered, and by what:
//
// - A block's contents, and a slab's kind, bin, bitmap and byte in the page map, go from thread to
//   thread with a bit of the slab's bitmap: setting it releases, taking it acquires. Whoever has a
//   block has seen what was written before the block was handed out, and so reads the page map
//   without an atomic.
// - A thread that puts blocks back sets a bit and then looks whether the slab is listed; one that
//   unlists the slab clears `listed` and then looks whether a bit is set. One of the two must see
//   the other, so both are sequentially consistent, the looking too; so are they again at each
//   level above, between `listed` and its summaries.
// - What is read to decide where to look (find_listed, the first look at a word, `active`, `clean`
//   for its being zero) is relaxed: what was seen is tried with a read-modify-write afterwards.
// - Totals order nothing.
// - While the process has one thread there is nobody to order anything for: then a bit is set
//   without an atomic step (atomic_bitmap_put_clear).

static struct {
    _Atomic(size_t) slabs; // in use
    _Atomic(size_t) small; // of them, of small blocks
    _Atomic(size_t) clean; // pages of them without memory
    _Atomic(size_t) grown; // slabs put to use so far
} totals;

size_t shared_pool_grown(void) {
    return atomic_load_explicit(&totals.grown, memory_order_relaxed);
}

struct shared_pool_totals shared_pool_get_totals(void) {
    return (struct shared_pool_totals){
        atomic_load_explicit(&totals.slabs, memory_order_relaxed) << ARENA_SLAB_SHIFT,
        atomic_load_explicit(&totals.clean, memory_order_relaxed) << HAK_PAGE_SHIFT,
    };
}

// Slabs of these blocks have next to nothing behind the last one.
static bool is_small(unsigned bin) {
    return SHARED_POOL_HUGE_MEDIUM != 0 || size_class_bins[bin].size <= HAK_PAGE;
}

enum { DENSE_LEAST = 128 }; // slabs of a heap that may be dense

// Whether there are too few slabs of small blocks for a dense heap.
static bool is_small_heap(size_t small) {
    return small < DENSE_LEAST / 4 * 3;
}

static void count_slabs(unsigned bin, size_t more) {
    atomic_fetch_add_explicit(&totals.slabs, more, memory_order_relaxed);
    if (is_small(bin)) {
        atomic_fetch_add_explicit(&totals.small, more, memory_order_relaxed);
    }
}

static void count_gone(unsigned bin) {
    count_slabs(bin, (size_t)-1);
    // What comes after a dense heap that is gone, large blocks perhaps, is not on huge pages.
    if (is_small_heap(atomic_load_explicit(&totals.small, memory_order_relaxed))) {
        page_arena_mark_dense(false);
    }
}

static void count_clean(uint16_t gained, uint16_t lost) {
    int change = __builtin_popcount(gained) - __builtin_popcount(lost);
    if (change != 0) {
        atomic_fetch_add_explicit(&totals.clean, (size_t)(ptrdiff_t)change, memory_order_relaxed);
    }
}

// The summaries of `listed`: in each group a word a bin, one bit a SuperSlab, and in each region a
// word a bin, one bit a group.
static atomic_bitmap_word *group_word(const struct page_arena_window *window, size_t slab,
                                      unsigned bin) {
    return &window->groups[slab / ARENA_GROUP_SLABS].user[bin];
}

static uint64_t group_bit(size_t slab) {
    return UINT64_C(1) << (slab / ARENA_SUPERSLAB_SLABS % ARENA_GROUP_SUPERSLABS);
}

static atomic_bitmap_word *region_word(const struct page_arena_window *window, size_t slab,
                                       unsigned bin) {
    return &window->regions[slab / ARENA_REGION_SLABS].user[bin];
}

static uint64_t region_bit(size_t slab) {
    return UINT64_C(1) << (slab / ARENA_GROUP_SLABS % ARENA_REGION_GROUPS);
}

static uint32_t listed_bit(size_t slab) {
    return UINT32_C(1) << (slab % ARENA_SUPERSLAB_SLABS);
}

static bool is_tiny(const struct page_arena_window *window, size_t slab, unsigned bin) {
    struct slab *meta = superslab_slab(window, slab);
    return atomic_load(&meta->kind) == SLAB_TINY && atomic_load(&meta->bin) == bin;
}

static bool has_free(atomic_bitmap_word *bits, unsigned bin) {
    for (unsigned w = 0; w < size_class_bins[bin].words; w++) {
        if (atomic_load(&bits[w]) != 0) {
            return true;
        }
    }
    return false;
}

// A slab's byte in the page map: the place of its bin while it is in use.
static _Atomic(uint8_t) *map_of(const struct page_arena_window *window, size_t slab) {
    return (_Atomic(uint8_t) *)window->base + slab;
}

static void mark_active(struct slab *meta) {
    if (atomic_load_explicit(&meta->active, memory_order_relaxed) == 0) {
        atomic_store_explicit(&meta->active, 1, memory_order_relaxed);
    }
}

// --- Slabs that stay
//
// In the hardened flavour a slab serves one bin for good, so that no address is ever used for
// blocks of another size. Slabs without a live block keep their pages while there are few of them.

static bool stays(void) {
#if HAK_HARDENED
    return hardening_has(HARDENING_SEPARATE);
#else
    return false;
#endif
}

static _Atomic(size_t) empty_slabs; // with pages; an estimate

// A slab that stays has no pages any more (true), or some again.
static void count_bare(bool bare) {
    if (HAK_HARDENED) {
        page_arena_count_sparse(bare ? 1 : -1);
    }
}

// A slab is used again, or has no pages any more.
static void leave_empty(struct slab *meta) {
    if (HAK_HARDENED && atomic_load_explicit(&meta->empty, memory_order_relaxed) != 0 &&
        atomic_exchange(&meta->empty, 0) != 0) {
        atomic_fetch_sub_explicit(&empty_slabs, 1, memory_order_relaxed);
    }
}

static void set_bit(atomic_bitmap_word *word, uint64_t bit) {
    if ((atomic_load(word) & bit) == 0) {
        atomic_fetch_or(word, bit);
    }
}

// Sets the bits that lead to the SuperSlab's `listed`, from below.
static void summarize(const struct page_arena_window *window, size_t slab, unsigned bin) {
    set_bit(group_word(window, slab, bin), group_bit(slab));
    set_bit(region_word(window, slab, bin), region_bit(slab));
}

static void list(const struct page_arena_window *window, size_t slab, unsigned bin) {
    _Atomic(uint32_t) *listed = &superslab_at(window, slab)->listed[bin];
    if ((atomic_load(listed) & listed_bit(slab)) == 0) {
        atomic_fetch_or(listed, listed_bit(slab));
    }
    summarize(window, slab, bin);
}

// Clears the bits that lead to an empty word below. Each word is looked at again after the bit
// above it is cleared: whoever sets a bit in it afterwards sees the cleared bit, and sets that one
// too.
static void clear_summaries(const struct page_arena_window *window, size_t slab, unsigned bin) {
    atomic_bitmap_word *group = group_word(window, slab, bin);
    if ((atomic_fetch_and(group, ~group_bit(slab)) & ~group_bit(slab)) == 0) {
        atomic_fetch_and(region_word(window, slab, bin), ~region_bit(slab));
        if (atomic_load(group) != 0) {
            set_bit(region_word(window, slab, bin), region_bit(slab));
        }
    }
    if (atomic_load(&superslab_at(window, slab)->listed[bin]) != 0) {
        summarize(window, slab, bin);
    }
}

// Takes a slab without free blocks off the list; its bitmap is looked at again afterwards likewise.
static void unlist(const struct page_arena_window *window, size_t slab, unsigned bin) {
    struct superslab *superslab = superslab_at(window, slab);
    uint32_t before = atomic_fetch_and(&superslab->listed[bin], ~listed_bit(slab));
    if ((before & ~listed_bit(slab)) == 0) {
        clear_summaries(window, slab, bin);
    }
    if (is_tiny(window, slab, bin) && has_free(superslab_bits(window, slab, bin), bin)) {
        list(window, slab, bin);
    }
}

// What a search for a listed slab has found so far.
struct found {
    size_t slab;    // the lowest listed one, or ARENA_NONE
    unsigned looks; // at slabs that other threads take from
};

// Looks through the slabs of a SuperSlab. True if there is an end to the search: *found has one
// that no other thread takes from, or there have been looks enough.
static bool find_in_superslab(const struct page_arena_window *window, size_t first, unsigned bin,
                              struct found *found) {
    enum { LOOKS = 64 }; // then a slab of another thread will do
    struct superslab *superslab = superslab_at(window, first);
    uint8_t me = hak_thread_mark();
    uint32_t slabs = atomic_load_explicit(&superslab->listed[bin], memory_order_relaxed);
    for (; slabs != 0; slabs &= slabs - 1) {
        unsigned slab = (unsigned)__builtin_ctz(slabs);
        uint8_t taker = atomic_load_explicit(&superslab->taker[slab], memory_order_relaxed);
        if (taker == 0 || taker == me) {
            found->slab = first + slab;
            return true;
        }
        found->slab = hak_min(found->slab, first + slab);
        if (++found->looks == LOOKS) {
            return true;
        }
    }
    return false;
}

static bool find_in_group(const struct page_arena_window *window, size_t group, unsigned bin,
                          struct found *found) {
    uint64_t bits = atomic_load_explicit(&window->groups[group].user[bin], memory_order_relaxed);
    for (; bits != 0; bits &= bits - 1) {
        size_t superslab = (size_t)__builtin_ctzll(bits);
        size_t first = group * ARENA_GROUP_SLABS + superslab * ARENA_SUPERSLAB_SLABS;
        if (find_in_superslab(window, first, bin, found)) {
            return true;
        }
    }
    return false;
}

// The lowest listed slab that no other thread takes from, or if there is none, the lowest of all.
// Threads that take from one slab write to the same lines: its bitmap, and often the blocks.
static size_t find_listed(const struct page_arena_window *window, unsigned bin) {
    struct found found = {ARENA_NONE, 0};
    size_t regions = (page_arena_top() + ARENA_REGION_SLABS - 1) / ARENA_REGION_SLABS;
    for (size_t r = 0; r < regions; r++) {
        uint64_t bits = atomic_load_explicit(&window->regions[r].user[bin], memory_order_relaxed);
        for (; bits != 0; bits &= bits - 1) {
            size_t group = r * ARENA_REGION_GROUPS + (size_t)__builtin_ctzll(bits);
            if (find_in_group(window, group, bin, &found)) {
                return found.slab;
            }
        }
    }
    return found.slab;
}

static void set_taker(const struct page_arena_window *window, size_t slab) {
    _Atomic(uint8_t) *at = &superslab_at(window, slab)->taker[slab % ARENA_SUPERSLAB_SLABS];
    uint8_t me = hak_thread_mark();
    if (atomic_load_explicit(at, memory_order_relaxed) != me) {
        atomic_store_explicit(at, me, memory_order_relaxed);
    }
}

static HAK_NORETURN HAK_COLD void freed_twice(const struct page_arena_window *window, size_t slab,
                                              unsigned bin, unsigned word, uint64_t before,
                                              uint64_t mask) {
    size_t block = word * 64 + (size_t)__builtin_ctzll(before & mask);
    diag_misuse(DIAG_CALL_FREE,
                (char *)page_arena_address(window, slab) + block * size_class_bins[bin].size,
                "block freed twice");
}

// Bits have been set in a word that had none, or they were perhaps the last. True if they were.
static HAK_NOINLINE bool put_first_or_last(const struct page_arena_window *window, size_t slab,
                                           unsigned bin, unsigned word, uint64_t before,
                                           uint64_t after) {
    if (before ==
        0) { // Otherwise the slab is listed, or the thread that set the first bit lists it.
        list(window, slab, bin);
    }
    return after == superslab_full_word(bin, word);
}

// Sets the bits of `mask` in `at`, word `word` of a slab's bitmap. Returns true if no block of that
// word is out any more: the caller owes a reclaim_if_free().
HAK_INLINE bool put_mask(const struct page_arena_window *window, size_t slab, unsigned bin,
                         atomic_bitmap_word *at, unsigned word, uint64_t mask, bool alone) {
    uint64_t before = atomic_bitmap_put_clear(at, mask, alone);
    if (HAK_UNLIKELY((before & mask) != 0)) {
        freed_twice(window, slab, bin, word, before, mask);
    }
    // A full word is some 2^n - 1, and only then has the next number no bit in common with `before`
    // (nor has any number, if `before` is 0).
    uint64_t after = before + mask;
    return HAK_UNLIKELY((before & (after + 1)) == 0) &&
           put_first_or_last(window, slab, bin, word, before, after);
}

// The one way to take blocks out of a bitmap: takes the free ones of `want`, bits of word `word`,
// and returns those taken. The slab may serve another bin by now. This is looked at after the
// taking, because bits that are held keep a slab from changing again; if it does, they go back to
// the bin that it serves, and 0 is returned. *owed is then that bin if the caller owes a
// reclaim_if_free() for it, and is left alone otherwise.
static uint64_t hold(const struct page_arena_window *window, size_t slab, unsigned bin,
                     unsigned word, uint64_t want, unsigned *owed) {
    atomic_bitmap_word *at = superslab_bits(window, slab, bin) + word;
    uint64_t got = atomic_fetch_and(at, ~want) & want;
    if (HAK_UNLIKELY(got != 0 && !is_tiny(window, slab, bin))) {
        struct slab *meta = superslab_slab(window, slab);
        unsigned now = atomic_load(&meta->bin);
        DIAG_ASSERT(atomic_load(&meta->kind) == SLAB_TINY);
        if (put_mask(window, slab, now, at, word, got, false)) {
            *owed = now;
        }
        return 0;
    }
    return got;
}

static bool is_word_full(atomic_bitmap_word *bits, unsigned bin, unsigned word) {
    return atomic_load(&bits[word]) == superslab_full_word(bin, word);
}

// True if every block of the slab is free. `word` is one that was full a moment ago.
static bool is_all_free(const struct page_arena_window *window, size_t slab, unsigned bin,
                        unsigned word) {
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned words = size_class_bins[bin].words;
    // Blocks often come back in the order of their addresses, upwards or downwards: then one of the
    // neighbours says no, and the other words are not looked at for each word of the slab.
    if ((word > 0 && !is_word_full(bits, bin, word - 1)) ||
        (word + 1 < words && !is_word_full(bits, bin, word + 1))) {
        return false;
    }
    for (unsigned w = words; w-- > 0;) {
        if (!is_word_full(bits, bin, w)) {
            return false;
        }
    }
    return true;
}

// Holds every block of a slab. False if one is not to be had; then nothing is held, and *owed is
// the bin for which a reclaim_if_free() is owed if there is one.
static HAK_NOINLINE bool hold_all(const struct page_arena_window *window, size_t slab, unsigned bin,
                                  unsigned *owed) {
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned words = size_class_bins[bin].words;
    for (unsigned w = 0; w < words; w++) {
        uint64_t full = superslab_full_word(bin, w);
        uint64_t got = hold(window, slab, bin, w, full, owed);
        if (got == full) {
            continue;
        }
        // Another thread was faster. Whoever puts the last block back looks again.
        bool last = got != 0 && put_mask(window, slab, bin, bits + w, w, got, false);
        while (w-- > 0) {
            uint64_t mask = superslab_full_word(bin, w);
            last = put_mask(window, slab, bin, bits + w, w, mask, false) || last;
        }
        *owed = last ? bin : *owed;
        return false;
    }
    return true;
}

// Gives a slab, all of whose blocks are held, back to the arena.
static HAK_NOINLINE void give_away(const struct page_arena_window *window, size_t slab,
                                   unsigned bin) {
    struct slab *meta = superslab_slab(window, slab);
    if (HAK_HARDENED && atomic_load(&meta->clean) == UINT16_MAX) {
        count_bare(false);
    }
    atomic_store(map_of(window, slab), 0);
    atomic_store(&meta->kind, SLAB_NONE);
    count_clean(0, atomic_exchange(&meta->clean, 0));
    count_gone(bin);
    unlist(window, slab, bin);
    page_arena_release(slab, 1, true);
}

static bool purge_slab(const struct page_arena_window *window, size_t slab, unsigned bin,
                       size_t *given);

// The same where slabs stay: if there are enough of them without a live block, gives this one's
// pages back.
static HAK_NOINLINE void keep_empty(const struct page_arena_window *window, size_t slab,
                                    unsigned bin, unsigned word) {
    enum { MOST = 128 };
    struct slab *meta = superslab_slab(window, slab);
    // (With the last of its pages put back after a purge, it has none left.)
    if (atomic_load(&meta->clean) == UINT16_MAX || !is_all_free(window, slab, bin, word)) {
        return;
    }
    if (atomic_load_explicit(&empty_slabs, memory_order_relaxed) < MOST) {
        if (atomic_exchange(&meta->empty, 1) == 0) {
            atomic_fetch_add_explicit(&empty_slabs, 1, memory_order_relaxed);
        }
        return;
    }
    leave_empty(meta);
    size_t given = 0;
    purge_slab(window, slab, bin, &given);
}

// For whoever has made word `word` of a slab's bitmap full: gives the slab away if all of its
// blocks are free.
static HAK_NOINLINE void reclaim_if_free(const struct page_arena_window *window, size_t slab,
                                         unsigned bin, unsigned word) {
    if (stays()) {
        keep_empty(window, slab, bin, word);
        return;
    }
    while (bin != 0 && is_all_free(window, slab, bin, word)) {
        unsigned owed = 0;
        if (hold_all(window, slab, bin, &owed)) {
            give_away(window, slab, bin);
            return;
        }
        bin = owed;
        word = 0; // All words are looked at anyway, or the first one says no.
    }
}

HAK_INLINE void put_word(const struct page_arena_window *window, size_t slab, unsigned bin,
                         atomic_bitmap_word *at, unsigned word, uint64_t mask, bool alone) {
    if (HAK_UNLIKELY(put_mask(window, slab, bin, at, word, mask, alone))) {
        reclaim_if_free(window, slab, bin, word);
    }
}

enum { SLAB_PAGES = ARENA_SLAB / HAK_PAGE };

// The pages of a slab that blocks [first, last] lie on, as bits.
static uint16_t pages_of(size_t size, size_t first, size_t last) {
    unsigned from = (unsigned)(first * size >> HAK_PAGE_SHIFT);
    unsigned to = (unsigned)(((last + 1) * size - 1) >> HAK_PAGE_SHIFT);
    return (uint16_t)((2u << to) - (1u << from));
}

// Blocks are about to be used: their pages have memory from now on. Only who holds every block of a
// page sets its bit, so it cannot be set while one of them is out.
static void leave_clean(struct slab *meta, size_t size, unsigned word, uint64_t mask) {
    mark_active(meta);
    leave_empty(meta);
    uint16_t clean = atomic_load_explicit(&meta->clean, memory_order_relaxed);
    if (HAK_UNLIKELY(clean != 0)) {
        size_t first = word * 64 + (size_t)__builtin_ctzll(mask);
        size_t last = word * 64 + 63 - (size_t)__builtin_clzll(mask);
        uint16_t pages = pages_of(size, first, last);
        if ((clean & pages) != 0) {
            clean = atomic_fetch_and(&meta->clean, (uint16_t)~pages);
            count_clean(0, pages & clean);
            if (clean == UINT16_MAX) {
                count_bare(false);
            }
        }
    }
}

HAK_INLINE void **write_run(char *start, size_t size, unsigned from, unsigned count,
                            void **blocks) {
    char *block = start + from * size;
    void **end = blocks + count;
#pragma GCC unroll 4
    while (blocks != end) {
        *blocks++ = block;
        block += size;
    }
    return blocks;
}

HAK_INLINE void **write_mask(char *start, size_t size, uint64_t mask, void **blocks) {
    enum { RUN = 15 }; // so many neighbours are worth a look how many more there are
    while (mask != 0) {
        unsigned from = (unsigned)__builtin_ctzll(mask);
        uint64_t low = mask >> from;
        if ((low & RUN) != RUN) {
            *blocks++ = start + from * size;
            mask &= mask - 1;
            continue;
        }
        unsigned count = low == ~UINT64_C(0) ? 64 : (unsigned)__builtin_ctzll(~low);
        blocks = write_run(start, size, from, count, blocks);
        mask &= mask + (UINT64_C(1) << from);
    }
    return blocks;
}

// Writes the addresses of the blocks in `mask`, of one word of a slab's bitmap, lowest first, and
// returns the place behind them. In a small batch blocks that share a cache line do not follow each
// other, as the program may give them to different threads: every fourth one comes first. A thread
// that takes many goes through memory in one direction, which the processor's prefetcher sees.
static void **write_blocks(char *slab, size_t size, unsigned word, uint64_t mask, void **blocks) {
    enum { APART = 32 };
    char *start = slab + word * 64 * size;
    if (mask == 0) {
        return blocks;
    }
    if (size >= HAK_CACHE_LINE || __builtin_popcountll(mask) > APART) {
        return write_mask(start, size, mask, blocks);
    }
    for (unsigned i = 0; i < 4; i++) {
        blocks = write_mask(start, size, mask & UINT64_C(0x1111111111111111) << i, blocks);
    }
    return blocks;
}

// Adds to the `got` blocks in blocks[], up to `want`; returns how many there are then. *more: the
// slab may have others, for which there was no room. To split a word takes a step for each block,
// and what is left of it would split those of the next batch: a batch that has some is not filled
// up with a part of one.
static unsigned take_from(const struct page_arena_window *window, size_t slab, unsigned bin,
                          void **blocks, unsigned got, unsigned want, bool *more) {
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    char *start = page_arena_address(window, slab);
    size_t size = size_class_bins[bin].size;
    unsigned words = size_class_bins[bin].words;
    *more = false;
    for (unsigned w = 0; w < words && got < want; w++) {
        if (got > 0 && atomic_bitmap_count(&bits[w]) > want - got) {
            *more = true;
            return got;
        }
        uint64_t mask = atomic_bitmap_lowest(&bits[w], want - got);
        if (mask == 0) {
            continue;
        }
        unsigned owed = 0;
        mask = hold(window, slab, bin, w, mask, &owed);
        if (HAK_UNLIKELY(owed != 0)) {
            reclaim_if_free(window, slab, owed, w);
        }
        if (mask == 0) {
            continue;
        }
        leave_clean(superslab_slab(window, slab), size, w, mask);
        got = (unsigned)(write_blocks(start, size, w, mask, blocks + got) - blocks);
    }
    *more = got == want;
    return got;
}

// A heap much larger than what the processor's TLB covers is faster on huge pages, and loses little
// memory by them if it is of slabs of small blocks and these are full: larger ones leave the end of
// their slab, which a huge page has, too. Not one of many threads that do little.
static bool is_dense(void) {
    size_t slabs = atomic_load_explicit(&totals.small, memory_order_relaxed);
    if (is_small_heap(slabs)) {
        return false; // what is held need not be counted, which takes tens of loads
    }
    size_t clean = atomic_load_explicit(&totals.clean, memory_order_relaxed);
    size_t held = page_arena_held();
    return held >= DENSE_LEAST && slabs >= held / 4 * 3 && page_arena_sparse() <= held / 16 &&
           clean <= slabs * SLAB_PAGES / 4;
}

// The blocks [first, last] of a slab that are in word `w` of its bitmap, as bits.
static uint64_t blocks_in_word(size_t first, size_t last, size_t w) {
    size_t from = hak_max(first, w * 64);
    size_t end = hak_min(last + 1, w * 64 + 64);
    return from >= end ? 0 : atomic_bitmap_mask((unsigned)(from % 64), (unsigned)(end - from));
}

// --- Short slabs
//
// In a tight process a slab of blocks begins with the pages of its first block, and gets more when
// its bin runs out. The bits of the blocks on other pages are clear, as if these were out: nobody
// takes them, and the slab is not free as a whole before it has all its pages.

static unsigned pages_for(unsigned bin, unsigned blocks) {
    return (unsigned)((blocks * size_class_bins[bin].size + HAK_PAGE - 1) >> HAK_PAGE_SHIFT);
}

// The value of `pages` of a slab that has as many.
static uint8_t pages_value(unsigned bin, unsigned pages) {
    return superslab_blocks_on(bin, pages) == size_class_bins[bin].blocks ? 0 : (uint8_t)pages;
}

// Adds pages to a short slab of the bin, as many as it has or those of one block. False if it is
// no such slab, another thread is at it, or the kernel refuses.
static bool lengthen(const struct page_arena_window *window, size_t slab, unsigned bin) {
    struct slab *meta = superslab_slab(window, slab);
    uint8_t pages = atomic_load(&meta->pages);
    if (pages == 0 || pages == SUPERSLAB_PAGES_HELD ||
        !atomic_compare_exchange_strong(&meta->pages, &pages, SUPERSLAB_PAGES_HELD)) {
        return false;
    }
    // What is short is given away by who holds it alone. The hint may be old: the slab need not be
    // of this bin.
    unsigned first = superslab_blocks_on(bin, pages);
    unsigned least = pages_for(bin, first + 1);
    unsigned now = (unsigned)hak_max(least, hak_min(pages * 2u, SLAB_PAGES));
    if (!is_tiny(window, slab, bin) ||
        (!page_arena_give_rights(slab, pages, now - pages) &&
         ((now = least), !page_arena_give_rights(slab, pages, now - pages)))) {
        atomic_store(&meta->pages, pages);
        return false;
    }
    unsigned last = superslab_blocks_on(bin, now) - 1;
    atomic_store(&meta->pages, pages_value(bin, now));
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    for (unsigned w = first / 64; w <= last / 64; w++) {
        atomic_bitmap_put(&bits[w], blocks_in_word(first, last, w));
    }
    list(window, slab, bin);
    return true;
}

// Puts a slab that the caller holds to use for `bin`. The first `want` blocks are the caller's.
// pages: how many it has, 0: all.
static HAK_NOINLINE unsigned format(size_t slab, bool zero, unsigned bin, void **blocks,
                                    unsigned want, unsigned pages) {
    const struct page_arena_window here = page_arena_get_window();
    const struct page_arena_window *window = &here;
    const struct size_class_bin *info = &size_class_bins[bin];
    struct slab *meta = superslab_slab(window, slab);
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned there = HAK_LIKELY(pages == 0) ? info->blocks : superslab_blocks_on(bin, pages);
    unsigned got = (unsigned)hak_min(want, there);
    uint16_t untouched = zero ? (uint16_t)~pages_of(info->size, 0, got - 1) : 0;
    atomic_store(&meta->clean, untouched);
    count_clean(untouched, 0);
    count_slabs(bin, 1);
    atomic_fetch_add_explicit(&totals.grown, 1, memory_order_relaxed);
    atomic_store(&meta->active, 1);
    atomic_store(&meta->bin, (uint8_t)bin);
    atomic_store(&meta->kind, SLAB_TINY);
    atomic_store(map_of(window, slab), (uint8_t)size_class_place(bin));
    char *start = page_arena_address(window, slab);
    bool left = false;
    for (unsigned w = 0; w * 64 < there; w++) {
        unsigned ours = w * 64 >= got ? 0 : (unsigned)hak_min(got - w * 64, 64);
        uint64_t mask = atomic_bitmap_mask(0, ours);
        blocks = write_blocks(start, info->size, w, mask, blocks);
        unsigned count = there - w * 64;
        uint64_t rest = (count >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1) & ~mask;
        if (rest != 0) {
            atomic_bitmap_put(&bits[w], rest);
            left = true;
        }
    }
    if (HAK_UNLIKELY(pages != 0)) {
        // Last: who holds `pages` takes it that the bin is the slab's. Till then it is as a slab
        // whose other blocks are out.
        atomic_store(&meta->pages, (uint8_t)pages);
    }
    set_taker(window, slab);
    if (left) {
        list(window, slab, bin);
    }
    return got;
}

// The same with a fresh slab. 0 if there is no memory.
static HAK_NOINLINE unsigned take_from_fresh(unsigned bin, void **blocks, unsigned want,
                                             shared_pool_hint *hint) {
    bool zero;
    page_arena_mark_dense(is_dense());
    size_t slab = is_small(bin) ? page_arena_claim_filled(1, ARENA_SLAB, &zero)
                                : page_arena_claim(1, ARENA_SLAB, &zero);
    if (slab == ARENA_NONE) {
        return 0;
    }
    if (HAK_HARDENED && !zero) {
        // Free blocks are zero. (Before the slab is in use: nobody looks at it.)
        const struct page_arena_window window = page_arena_get_window();
        memset(page_arena_address(&window, slab), 0, ARENA_SLAB);
    }
    *hint = slab;
    return format(slab, zero, bin, blocks, want, 0);
}

// Takes blocks of slabs that are in use. 0 if none has a free one.
static HAK_NOINLINE unsigned take_listed(unsigned bin, void **blocks, unsigned want,
                                         shared_pool_hint *hint) {
    const struct page_arena_window here = page_arena_get_window();
    const struct page_arena_window *window = &here;
    unsigned got = 0;
    bool more = false;
    size_t slab = *hint;
    if (slab != ARENA_NONE && is_tiny(window, slab, bin)) {
        got = take_from(window, slab, bin, blocks, 0, want, &more);
        if (more) {
            return got;
        }
        unlist(window, slab, bin);
    }
    while (got < want && (slab = find_listed(window, bin)) != ARENA_NONE) {
        more = false;
        if (is_tiny(window, slab, bin)) {
            got = take_from(window, slab, bin, blocks, got, want, &more);
        }
        *hint = slab;
        set_taker(window, slab);
        if (more) {
            break;
        }
        unlist(window, slab, bin);
    }
    return got;
}

// For a tight process, if no slab in use has a free block: takes some of the slab that was the last
// to have some, if it can get more pages, or of a fresh one.
static HAK_NOINLINE unsigned take_short(unsigned bin, void **blocks, unsigned want,
                                        shared_pool_hint *hint) {
    const struct page_arena_window window = page_arena_get_window();
    if (*hint != ARENA_NONE && lengthen(&window, *hint, bin)) {
        bool more;
        unsigned got = take_from(&window, *hint, bin, blocks, 0, want, &more);
        if (got > 0) {
            return got;
        }
    }
    bool zero;
    size_t slab = page_arena_claim_bare(&zero);
    if (slab == ARENA_NONE) {
        return 0;
    }
    unsigned pages = pages_for(bin, 1);
    if ((HAK_HARDENED && !zero && !page_arena_clean(slab, 1)) ||
        !page_arena_give_rights(slab, 0, pages)) {
        page_arena_release(slab, 1, !zero);
        return 0;
    }
    *hint = slab;
    return format(slab, zero, bin, blocks, want, pages_value(bin, pages));
}

unsigned shared_pool_take(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint) {
    if (HAK_UNLIKELY(!page_arena_init())) {
        return 0;
    }
    unsigned got = take_listed(bin, blocks, want, hint);
    if (HAK_LIKELY(got > 0)) {
        return got;
    }
    return HAK_UNLIKELY(page_arena_is_tight()) ? take_short(bin, blocks, want, hint)
                                               : take_from_fresh(bin, blocks, want, hint);
}

// True if the blocks [first, last] are free. A look.
static bool are_free(atomic_bitmap_word *bits, size_t first, size_t last) {
    for (size_t w = first / 64; w <= last / 64; w++) {
        uint64_t need = blocks_in_word(first, last, w);
        if ((atomic_load_explicit(&bits[w], memory_order_relaxed) & need) != need) {
            return false;
        }
    }
    return true;
}

// Puts the blocks [first, last], all of which are held, back.
static HAK_NOINLINE void put_blocks(const struct page_arena_window *window, size_t slab,
                                    unsigned bin, size_t first, size_t last) {
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    for (size_t w = first / 64; w <= last / 64; w++) {
        put_word(window, slab, bin, bits + w, (unsigned)w, blocks_in_word(first, last, w), false);
    }
}

// Holds the blocks [first, last]. False if one of them is not to be had; then none is held.
static bool hold_blocks(const struct page_arena_window *window, size_t slab, unsigned bin,
                        size_t first, size_t last, unsigned *owed) {
    for (size_t w = first / 64; w <= last / 64; w++) {
        uint64_t need = blocks_in_word(first, last, w);
        uint64_t got = hold(window, slab, bin, (unsigned)w, need, owed);
        if (got == need) {
            continue;
        }
        if (got != 0) {
            put_word(window, slab, bin, superslab_bits(window, slab, bin) + w, (unsigned)w, got,
                     false);
        }
        if (w > first / 64) {
            put_blocks(window, slab, bin, first, w * 64 - 1);
        }
        return false;
    }
    return true;
}

// Those of `pages` that are so many in a row as are worth a call.
static uint16_t worthwhile(uint16_t pages) {
    size_t least = (os_least_purge() + HAK_PAGE - 1) >> HAK_PAGE_SHIFT;
    if (HAK_LIKELY(least == 1)) {
        return pages;
    }
    uint32_t starts = pages;
    for (size_t i = 1; i < least && starts != 0; i++) {
        starts &= starts >> 1;
    }
    uint32_t all = 0;
    for (size_t i = 0; i < least && starts != 0; i++) {
        all |= starts << i;
    }
    return (uint16_t)all;
}

// Gives the memory of `pages`, all of whose blocks are held, back to the kernel. Returns how many
// pages: 0 if the kernel would not.
static HAK_NOINLINE size_t purge_pages(const struct page_arena_window *window, size_t slab,
                                       uint16_t pages) {
    char *at = page_arena_address(window, slab);
    struct os_range ranges[SLAB_PAGES / 2 + 1];
    size_t n = 0;
    for (unsigned page = 0; page < SLAB_PAGES; page++) {
        if ((pages >> page & 1) == 0) {
            continue;
        }
        if (page > 0 && (pages >> (page - 1) & 1) != 0) {
            ranges[n - 1].size += HAK_PAGE;
        } else {
            ranges[n++] = (struct os_range){at + ((size_t)page << HAK_PAGE_SHIFT), HAK_PAGE};
        }
    }
    if (os_purge_ranges(ranges, n) != OS_OK) {
        return 0;
    }
    struct slab *meta = superslab_slab(window, slab);
    leave_empty(meta);
    uint16_t before = atomic_fetch_or(&meta->clean, pages);
    count_clean(pages & (uint16_t)~before, 0);
    if (before != UINT16_MAX && (before | pages) == UINT16_MAX) {
        count_bare(true);
    }
    return (size_t)__builtin_popcount(pages);
}

// The blocks on pages [from, end) of a slab: the first one's number, and the last one's.
static size_t first_on(unsigned bin, unsigned from) {
    return size_class_block_at(bin, (uint32_t)from << HAK_PAGE_SHIFT);
}
static size_t last_on(unsigned bin, unsigned end) {
    return hak_min(size_class_block_at(bin, ((uint32_t)end << HAK_PAGE_SHIFT) - 1),
                   size_class_bins[bin].blocks - 1u);
}

// Puts the blocks on `pages` back. A block may be on more than one of them.
static void put_pages(const struct page_arena_window *window, size_t slab, unsigned bin,
                      uint32_t pages) {
    size_t next = 0; // what is below is put back
    while (pages != 0) {
        unsigned from = (unsigned)__builtin_ctz(pages);
        unsigned end = from + (unsigned)__builtin_ctz(~(pages >> from));
        size_t first = hak_max(first_on(bin, from), next);
        size_t last = last_on(bin, end);
        if (first <= last) {
            put_blocks(window, slab, bin, first, last);
            next = last + 1;
        }
        pages &= ~((UINT32_C(1) << end) - 1);
    }
}

// Gives back the pages of one slab that have memory and no live block. The blocks of a page are
// held while it is worked on, so that nobody can get one of them. False if the kernel would not.
static bool purge_slab(const struct page_arena_window *window, size_t slab, unsigned bin,
                       size_t *given) {
    uint16_t held = 0; // pages
    size_t next = 0;   // the lowest block that is not on the last one of them
    uint16_t clean = atomic_load(&superslab_slab(window, slab)->clean);
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned owed = 0;
    for (unsigned page = 0; page < SLAB_PAGES; page++) {
        size_t first = first_on(bin, page);
        size_t last = last_on(bin, page + 1);
        if ((clean >> page & 1) != 0 || first > last) {
            continue;
        }
        first = hak_max(first, next); // the blocks below are held
        if (first <= last) {
            if (!are_free(bits, first, last)) {
                continue;
            }
            if (!hold_blocks(window, slab, bin, first, last, &owed)) {
                break; // Another thread takes blocks of this slab, or has put it to another use.
            }
        }
        held |= (uint16_t)(1u << page);
        next = last + 1;
    }
    uint16_t pages = worthwhile(held);
    size_t count = pages == 0 ? 0 : purge_pages(window, slab, pages);
    *given += count;
    put_pages(window, slab, bin, held);
    if (HAK_UNLIKELY(owed != 0)) {
        reclaim_if_free(window, slab, owed, 0);
    }
    return pages == 0 || count != 0;
}

// The slab at which a walk goes on that is at `slab`: SuperSlabs without metadata, such as those
// inside a large block, are passed over.
static size_t skip_unknown(const struct page_arena_window *window, size_t slab) {
    if (slab % ARENA_SUPERSLAB_SLABS != 0) {
        return slab;
    }
    if (!page_arena_reaches(slab)) {
        return hak_round_up(slab + 1, ARENA_GROUP_SLABS);
    }
    uint64_t used = atomic_load_explicit(&window->groups[slab / ARENA_GROUP_SLABS].meta_used,
                                         memory_order_relaxed);
    if (slab % ARENA_GROUP_SLABS == 0 && used == 0) {
        return slab + ARENA_GROUP_SLABS;
    }
    used >>= slab / ARENA_SUPERSLAB_SLABS % ARENA_GROUP_SUPERSLABS;
    return (used & 1) != 0 && superslab_known(window, slab) ? slab : slab + ARENA_SUPERSLAB_SLABS;
}

// True if a slab in use is worth a look for idle pages; marks it as looked at.
static bool is_quiet(struct slab *meta, bool all) {
    if (atomic_load_explicit(&meta->kind, memory_order_relaxed) != SLAB_TINY) {
        return false;
    }
    if (atomic_load_explicit(&meta->active, memory_order_relaxed) != 0) {
        atomic_store_explicit(&meta->active, 0, memory_order_relaxed);
        return all;
    }
    return all || atomic_load_explicit(&meta->clean, memory_order_relaxed) != UINT16_MAX;
}

void shared_pool_purge(struct shared_pool_walk *walk, size_t look, size_t budget) {
    struct page_arena_window window;
    size_t high = page_arena_walk(&window);
    size_t slab = walk->cursor;
    size_t most = budget < SIZE_MAX - walk->pages ? walk->pages + budget : SIZE_MAX;
    walk->refused = false;
    for (; slab < high && look > 0 && walk->pages < most && !walk->refused; look--) {
        size_t next = skip_unknown(&window, slab);
        if (next != slab) {
            slab = next;
            continue;
        }
        struct slab *meta = superslab_slab(&window, slab);
        if (is_quiet(meta, walk->all)) {
            unsigned bin = atomic_load_explicit(&meta->bin, memory_order_relaxed);
            walk->refused = !purge_slab(&window, slab, bin, &walk->pages);
            // The thread that was to list the slab may be one of the process that forked this one.
            if (has_free(superslab_bits(&window, slab, bin), bin) && is_tiny(&window, slab, bin)) {
                list(&window, slab, bin);
            }
            // Taking the blocks out and putting them back was no use of the slab.
            atomic_store_explicit(&meta->active, 0, memory_order_relaxed);
        }
        slab++;
    }
    walk->cursor = slab < high ? slab : 0;
}

// Gives a short slab away if all of its blocks are free.
static void give_short(const struct page_arena_window *window, size_t slab) {
    struct slab *meta = superslab_slab(window, slab);
    uint8_t pages = atomic_load(&meta->pages);
    if (pages == 0 || pages == SUPERSLAB_PAGES_HELD ||
        !atomic_compare_exchange_strong(&meta->pages, &pages, SUPERSLAB_PAGES_HELD)) {
        return;
    }
    // It is short, and stays so.
    unsigned bin = atomic_load(&meta->bin);
    unsigned last = superslab_blocks_on(bin, pages) - 1;
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned owed = 0; // nothing is: the slab is not free as a whole
    if (are_free(bits, 0, last) && hold_blocks(window, slab, bin, 0, last, &owed)) {
        atomic_store(&meta->pages, 0);
        give_away(window, slab, bin);
        return;
    }
    atomic_store(&meta->pages, pages);
}

void shared_pool_give_short(void) {
    if (HAK_LIKELY(!page_arena_is_tight()) || stays()) {
        return;
    }
    struct page_arena_window window;
    size_t high = page_arena_walk(&window);
    for (size_t slab = 0; slab < high;) {
        size_t next = skip_unknown(&window, slab);
        if (next == slab) {
            give_short(&window, slab);
            next = slab + 1;
        }
        slab = next;
    }
}

void *shared_pool_block_start(unsigned bin, const void *ptr) {
    uint32_t offset = (uint32_t)((uintptr_t)ptr & (ARENA_SLAB - 1));
    uint32_t block = size_class_block_at(bin, offset);
    if (block >= size_class_bins[bin].blocks) {
        return NULL;
    }
    return (char *)ptr - (offset - block * size_class_bins[bin].size);
}

bool shared_pool_is_free(unsigned bin, const void *ptr) {
    struct page_arena_window window = page_arena_get_window();
    size_t slab = page_arena_slab_of(&window, ptr);
    uint32_t block = size_class_block_at(bin, (uint32_t)((uintptr_t)ptr & (ARENA_SLAB - 1)));
    return atomic_bitmap_test(superslab_bits(&window, slab, bin), block);
}

// A block came back for a bin that its slab does not serve.
static HAK_NORETURN HAK_COLD void not_of_bin(const struct page_arena_window *window, size_t slab,
                                             const void *ptr) {
    const char *fault = "not a pointer of this heap";
    if (superslab_known(window, slab)) {
        fault =
            atomic_load(&superslab_slab(window, slab)->kind) == SLAB_TINY
                ? (HAK_HEADER ? "heap corruption: header byte overwritten, or a wrong size given"
                              : "block freed twice, or the size given does not fit it")
                : "block freed twice (its slab is gone)";
    }
    diag_misuse(DIAG_CALL_FREE, ptr, fault);
}

// True if a block could start at ptr: *block is its number in the slab.
HAK_INLINE bool starts_at(const struct size_class_bin *info, const void *ptr, size_t *block) {
    return HAK_LIKELY(size_class_is_start(info, (uintptr_t)ptr & (ARENA_SLAB - 1), block));
}

// A block may come back for a bin that is smaller than its own: C++'s sized delete was told the
// size of a base class, or of what a larger block was asked for. Nobody has been hurt, and programs
// do it. Whoever wants to know builds the debug flavour. With headers it cannot be told from a
// header that was overwritten.
static bool is_larger(const struct page_arena_window *window, size_t slab, unsigned bin,
                      const void *ptr, unsigned *own, size_t *block) {
    if (HAK_HEADER || HAK_DEBUG || !superslab_known(window, slab) ||
        atomic_load(&superslab_slab(window, slab)->kind) != SLAB_TINY) {
        return false;
    }
    *own = atomic_load(&superslab_slab(window, slab)->bin);
    return *own > bin && *own < SIZE_CLASS_BINS && starts_at(&size_class_bins[*own], ptr, block) &&
           !atomic_bitmap_test(superslab_bits(window, slab, *own), *block);
}

// Puts back what is no block of the bin, or stops.
static HAK_NOINLINE HAK_COLD void put_misfit(const struct page_arena_window *window, unsigned bin,
                                             const void *ptr) {
    size_t slab = page_arena_slab_of(window, ptr);
    unsigned own;
    size_t block;
    if (is_larger(window, slab, bin, ptr, &own, &block)) {
        put_word(window, slab, own, superslab_bits(window, slab, own) + block / 64,
                 (unsigned)(block / 64), UINT64_C(1) << (block % 64), false);
        return;
    }
    // That its slab serves another bin says more than that no block starts there: then the bin is
    // wrong, and not the address.
    if (!starts_at(&size_class_bins[bin], ptr, &block) && superslab_known(window, slab) &&
        is_tiny(window, slab, bin)) {
        diag_misuse(DIAG_CALL_FREE, ptr, "pointer into a block, not to its start");
    }
    not_of_bin(window, slab, ptr);
}

// Blocks of one word go back in one step; neighbours in a cache are often neighbours in a slab.
struct gathered {
    atomic_bitmap_word *word;
    size_t place; // of the word: its slab, and its number in the low GATHERED_NUMBER bits
    uint64_t mask;
};
enum { GATHERED_NUMBER = 10 };

HAK_INLINE void put_gathered(const struct page_arena_window *window, unsigned bin,
                             const struct gathered *some, bool alone) {
    unsigned number = (unsigned)(some->place & ((1u << GATHERED_NUMBER) - 1));
    put_word(window, some->place >> GATHERED_NUMBER, bin, some->word, number, some->mask, alone);
}

// `mapped` is page_arena_mapped().
HAK_INLINE bool serves(const struct page_arena_window *window, size_t mapped, size_t slab,
                       unsigned bin) {
    return HAK_LIKELY((slab < mapped || page_arena_reaches(slab)) &&
                      atomic_load_explicit(map_of(window, slab), memory_order_relaxed) ==
                          size_class_place(bin));
}

// Each block in a step of its own. `beside`: where the bitmaps are, the same for all blocks of the
// bin.
HAK_INLINE void put_each(const struct page_arena_window *window, unsigned bin, void *const *blocks,
                         unsigned count, bool beside) {
    const struct size_class_bin info = size_class_bins[bin];
    size_t mapped = page_arena_mapped();
    for (void *const *end = blocks + count; blocks != end; blocks++) {
        const void *ptr = *blocks;
        size_t slab = page_arena_slab_of(window, ptr);
        size_t block;
        if (!starts_at(&info, ptr, &block) || !serves(window, mapped, slab, bin)) {
            put_misfit(window, bin, ptr);
            continue;
        }
        put_word(window, slab, bin, superslab_bits_where(window, slab, beside) + block / 64,
                 (unsigned)(block / 64), UINT64_C(1) << (block % 64), true);
    }
}

// Neighbours that follow each other in a step together.
HAK_INLINE void put_runs(const struct page_arena_window *window, unsigned bin, void *const *blocks,
                         unsigned count, bool alone) {
    const struct size_class_bin info = size_class_bins[bin];
    size_t mapped = page_arena_mapped();
    struct gathered some = {NULL, SIZE_MAX, 0};
    for (unsigned i = 0; i < count; i++) {
        const void *ptr = blocks[i];
        size_t slab = page_arena_slab_of(window, ptr);
        size_t block;
        if (!starts_at(&info, ptr, &block)) {
            put_misfit(window, bin, ptr);
            continue;
        }
        uint64_t bit = UINT64_C(1) << (block % 64);
        size_t place = slab << GATHERED_NUMBER | block / 64;
        if (place == some.place && (some.mask & bit) == 0) {
            some.mask |= bit;
            continue;
        }
        if (HAK_LIKELY(some.mask != 0)) {
            put_gathered(window, bin, &some, alone);
        }
        // After each step, which may have given the slab away if the next block was freed twice.
        if (!serves(window, mapped, slab, bin)) {
            put_misfit(window, bin, ptr);
            some.mask = 0;
            some.place = SIZE_MAX;
            continue;
        }
        some.word = superslab_bits(window, slab, bin) + block / 64;
        some.place = place;
        some.mask = bit;
    }
    if (some.mask != 0) {
        put_gathered(window, bin, &some, alone);
    }
}

// A guess, from two pairs of them: that most follow a neighbour.
static bool are_in_order(unsigned bin, void *const *blocks, unsigned count) {
    uintptr_t near = 2 * (uintptr_t)size_class_bins[bin].size;
    unsigned middle = count / 2;
    return count >= 4 && (uintptr_t)blocks[0] - (uintptr_t)blocks[1] + near <= 2 * near &&
           (uintptr_t)blocks[middle] - (uintptr_t)blocks[middle + 1] + near <= 2 * near;
}

void shared_pool_put(unsigned bin, void *const *blocks, unsigned count) {
    const struct page_arena_window window = page_arena_get_window();
    bool alone = hak_alone();
    // To gather what does not stand together costs more than steps that are not atomic.
    if (!alone || are_in_order(bin, blocks, count)) {
        put_runs(&window, bin, blocks, count, alone);
    } else if (superslab_bits_beside(bin)) {
        put_each(&window, bin, blocks, count, true);
    } else {
        put_each(&window, bin, blocks, count, false);
    }
    if (count != 0) {
        // The others of a batch are not worth a look at their slabs' metadata.
        mark_active(superslab_slab(&window, page_arena_slab_of(&window, blocks[count - 1])));
    }
}

void shared_pool_check(unsigned bin, void *const *blocks, unsigned count) {
    struct page_arena_window window = page_arena_get_window();
    for (unsigned i = 0; i < count; i++) {
        size_t slab = page_arena_slab_of(&window, blocks[i]);
        if (HAK_UNLIKELY(!superslab_known(&window, slab) || !is_tiny(&window, slab, bin))) {
            unsigned own;
            size_t block;
            if (is_larger(&window, slab, bin, blocks[i], &own, &block)) {
                continue;
            }
            not_of_bin(&window, slab, blocks[i]);
        }
        if (HAK_UNLIKELY(shared_pool_block_start(bin, blocks[i]) != blocks[i])) {
            diag_misuse(DIAG_CALL_FREE, blocks[i], "pointer into a block, not to its start");
        }
        if (HAK_UNLIKELY(shared_pool_is_free(bin, blocks[i]))) {
            diag_misuse(DIAG_CALL_FREE, blocks[i], "block freed twice");
        }
    }
}
