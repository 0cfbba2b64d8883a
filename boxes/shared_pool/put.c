// SPDX-License-Identifier: Apache-2.0
// put: takes blocks out of a slab's bitmap and puts them back; gives back slabs that are free as a
// whole. All of this is in one file, so that the compiler knows which registers each step leaves
// alone: in two files, putting a batch back took 5 % more instructions.
//
// In the hardened flavour a slab serves one bin for good (it *stays*), so that no address is ever
// used for blocks of another size. While there are few slabs without a live block, they keep their
// pages.
#include "boxes/shared_pool/shared_pool_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/probe/probe.h"

_Atomic(size_t) pool_empty_slabs;

void pool_freed_twice(const struct page_arena_window *window, size_t slab, unsigned bin,
                      unsigned word, uint64_t before, uint64_t mask) {
    size_t block = word * 64 + (size_t)__builtin_ctzll(before & mask);
    diag_misuse(DIAG_CALL_FREE,
                (char *)page_arena_address(window, slab) + block * size_class_bins[bin].size,
                "block freed twice");
}

bool pool_put_first_or_last(const struct page_arena_window *window, size_t slab, unsigned bin,
                            unsigned word, uint64_t before, uint64_t after) {
    // Otherwise the slab is listed, or the thread that set the word's first bit lists it.
    if (before == 0) {
        pool_list(window, slab, bin);
    }
    return after == full_word(superslab_slab(window, slab), bin, word);
}

uint64_t pool_hold(const struct page_arena_window *window, size_t slab, unsigned bin, unsigned word,
                   uint64_t want, unsigned *owed) {
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

// Returns true if every block of the slab is free. `word` was full a moment ago.
static bool is_all_free(const struct page_arena_window *window, size_t slab, unsigned bin,
                        unsigned word) {
    struct slab *meta = superslab_slab(window, slab);
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned words = size_class_bins[bin].words;
    // Blocks often come back in the order of their addresses, upwards or downwards. Then one of the
    // two neighbouring words is not full, and the other words need not be read.
    if ((word > 0 && !is_word_full(meta, bits, bin, word - 1)) ||
        (word + 1 < words && !is_word_full(meta, bits, bin, word + 1))) {
        return false;
    }
    for (unsigned w = words; w-- > 0;) {
        if (!is_word_full(meta, bits, bin, w)) {
            return false;
        }
    }
    return true;
}

// Holds every block of a slab without a guard. If one of them is not free, or if the slab has a
// guard by now, returns false and holds none. Then *owed is set to the bin for which the caller
// owes a pool_reclaim_if_free(), if it owes one.
static HAK_NOINLINE bool hold_all(const struct page_arena_window *window, size_t slab, unsigned bin,
                                  unsigned *owed) {
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned words = size_class_bins[bin].words;
    for (unsigned w = 0; w < words; w++) {
        uint64_t full = superslab_full_word(bin, w);
        uint64_t got = pool_hold(window, slab, bin, w, full, owed);
        // The thread that sets a guard holds blocks until the slab says that it has a guard. So the
        // look at is_guarded() after the last word is final.
        if (got == full && !is_guarded(superslab_slab(window, slab))) {
            continue;
        }
        // Another thread has taken a block. The thread that puts the last block back checks again.
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

void pool_give_away(const struct page_arena_window *window, size_t slab, unsigned bin) {
    probe_slab_release(page_arena_address(window, slab), size_class_bins[bin].size);
    struct slab *meta = superslab_slab(window, slab);
    if (HAK_HARDENED && atomic_load(&meta->clean) == UINT16_MAX) {
        pool_count_bare(false);
    }
    pool_leave_empty(meta);
    page_map_set(window, slab, 0);
    atomic_store(&meta->kind, SLAB_NONE);
    pool_count_clean(0, atomic_exchange(&meta->clean, 0));
    pool_count_gone(bin);
    pool_unlist(window, slab, bin);
    pool_give_slab(window, slab);
}

// Returns true if empty slabs take up so much of a limit on address space or data that they cannot
// all be kept: the program's own mappings need room, too.
static bool are_many_kept(void) {
    enum { SHARE = 8 }; // of the limit, one part in so many
    size_t limit = page_arena_limit();
    return HAK_UNLIKELY(limit != 0) &&
           page_arena_sparse() + atomic_load_explicit(&pool_empty_slabs, memory_order_relaxed) >=
               limit / SHARE;
}

// As pool_reclaim_if_free(), where slabs stay: gives the pages of the slab back if there are enough
// empty slabs that keep theirs, or all of the slab.
static HAK_NOINLINE void keep_empty(const struct page_arena_window *window, size_t slab,
                                    unsigned bin, unsigned word) {
    // So many empty slabs keep their pages: LEAST, or one in SHARE of the slabs in use.
    enum { LEAST = 128, SHARE = 4 };
    struct slab *meta = superslab_slab(window, slab);
    if (atomic_load(&meta->clean) == UINT16_MAX || !is_all_free(window, slab, bin, word)) {
        return;
    }
    if (are_many_kept()) {
        pool_give_kept(window, slab);
        return;
    }
    // If the slab is marked empty and still has pages, it is among those that keep theirs, or the
    // kernel did not take them: they are locked, or the process is in a sandbox.
    size_t most = hak_max(LEAST, (shared_pool_guess_totals().slabs >> ARENA_SLAB_SHIFT) / SHARE);
    if (atomic_exchange(&meta->empty, 1) != 0 ||
        atomic_fetch_add_explicit(&pool_empty_slabs, 1, memory_order_relaxed) < most) {
        return;
    }
    size_t given = 0;
    pool_purge_slab(window, slab, bin, &given);
    if (atomic_load(&meta->clean) == UINT16_MAX) {
        pool_leave_empty(meta);
    }
}

void pool_give_if_free(const struct page_arena_window *window, size_t slab, unsigned bin,
                       unsigned word) {
    // A slab that has got a guard since the caller looked is left alone: hold_all() would fail, and
    // all blocks would be free again, for ever.
    struct slab *meta = superslab_slab(window, slab);
    while (bin != 0 && !is_guarded(meta) && is_all_free(window, slab, bin, word)) {
        unsigned owed = 0;
        if (hold_all(window, slab, bin, &owed)) {
            pool_give_away(window, slab, bin);
            return;
        }
        bin = owed;
        word = 0; // is_all_free() reads all words, or finds that the first is not full
    }
}

void pool_reclaim_if_free(const struct page_arena_window *window, size_t slab, unsigned bin,
                          unsigned word) {
    if (stays()) {
        keep_empty(window, slab, bin, word);
    } else {
        pool_give_if_free(window, slab, bin, word);
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

bool shared_pool_has(unsigned bin, const void *ptr) {
    struct page_arena_window window = page_arena_get_window();
    unsigned absent =
        superslab_absent(superslab_slab(&window, page_arena_slab_of(&window, ptr)), bin);
    return size_class_block_at(bin, (uint32_t)((uintptr_t)ptr & (ARENA_SLAB - 1))) <
           size_class_bins[bin].blocks - absent;
}

bool shared_pool_is_free(unsigned bin, const void *ptr) {
    struct page_arena_window window = page_arena_get_window();
    size_t slab = page_arena_slab_of(&window, ptr);
    uint32_t block = size_class_block_at(bin, (uint32_t)((uintptr_t)ptr & (ARENA_SLAB - 1)));
    return atomic_bitmap_test(superslab_bits(&window, slab, bin), block);
}

// Stops the program: a block came back for a bin that its slab does not serve.
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

// Returns true if a block could start at ptr: *block is its number in the slab.
HAK_INLINE bool starts_at(const struct size_class_bin *info, const void *ptr, size_t *block) {
    return HAK_LIKELY(size_class_is_start(info, (uintptr_t)ptr & (ARENA_SLAB - 1), block));
}

// Returns true if ptr is a block of a larger bin. C++'s sized delete may be told the size of a base
// class, or a smaller size than was requested. That does no harm, and programs do it; the debug
// flavour reports it. With headers such a block cannot be told from one whose header was
// overwritten.
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

// Puts a block of a larger bin back. Stops the program at any other pointer that is no block of the
// bin.
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
    // If the slab serves another bin, the bin is wrong and not the address.
    if (!starts_at(&size_class_bins[bin], ptr, &block) && superslab_known(window, slab) &&
        is_tiny(window, slab, bin)) {
        diag_misuse(DIAG_CALL_FREE, ptr, "pointer into a block, not to its start");
    }
    not_of_bin(window, slab, ptr);
}

// Build setting: 0: each block of a batch is looked up in its slab, even if it is the neighbour of
// the block before it.
#ifndef SHARED_POOL_RUNS
#    define SHARED_POOL_RUNS 1
#endif

// Blocks of one word, which go back in one step. Neighbours in a cache are often neighbours in a
// slab.
struct gathered {
    atomic_bitmap_word *word;
    size_t place;  // of the word: its slab, and its number in the low GATHERED_NUMBER bits
    uint64_t mask; // the bits that go back
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
                      page_map_get(window, slab) == size_class_place(bin));
}

// Puts each block back in a step of its own. `beside`: where the bitmaps of the bin are; see
// superslab_bits_where().
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

// Returns how many of the blocks lie at distances of `step` behind ptr, one after the other.
HAK_INLINE unsigned count_following(const char *ptr, ptrdiff_t step, void *const *blocks,
                                    size_t most) {
    unsigned n = 0;
    for (const char *next = ptr + step; n < most && blocks[n] == next; next += step) {
        n++;
    }
    return n;
}

// Gathers the blocks that follow blocks[0], as long as each is the neighbour of the one before it,
// upwards or downwards. blocks[0] has been gathered as bit `first` of its word. Only blocks whose
// bits are in the same word and not gathered yet are taken, so they need no other check. `full`:
// the bits of the word that stand for blocks. Returns the number of blocks.
HAK_INLINE unsigned gather_run(struct gathered *some, void *const *blocks, unsigned count,
                               unsigned first, size_t size, uint64_t full) {
    ptrdiff_t step = count > 1 ? (const char *)blocks[1] - (const char *)blocks[0] : 0;
    bool up = step == (ptrdiff_t)size;
    if (SHARED_POOL_RUNS == 0 || (!up && step != -(ptrdiff_t)size)) {
        return 0;
    }
    uint64_t taken = ~full | some->mask;
    uint64_t edge = UINT64_C(1) << (63 - first); // the first bit past the word's end
    int room = up ? __builtin_ctzll(taken >> first >> 1 | edge)
                  : __builtin_clzll(taken << (63 - first) << 1 | edge);
    size_t most = hak_min((size_t)room, (size_t)count - 1);
    unsigned n = count_following(blocks[0], step, blocks + 1, most);
    uint64_t run = (UINT64_C(1) << n) - 1;
    some->mask |= up ? run << first << 1 : run << (first - n);
    return n;
}

// Puts neighbours that follow each other back in one step. in_order: many may do so.
HAK_INLINE void put_runs(const struct page_arena_window *window, unsigned bin, void *const *blocks,
                         unsigned count, bool alone, bool in_order) {
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
        if (place != some.place || (some.mask & bit) != 0) {
            if (HAK_LIKELY(some.mask != 0)) {
                put_gathered(window, bin, &some, alone);
            }
            // To be checked after each step: if the next block was freed twice, the step may have
            // given its slab away.
            if (!serves(window, mapped, slab, bin)) {
                put_misfit(window, bin, ptr);
                some.mask = 0;
                some.place = SIZE_MAX;
                continue;
            }
            some.word = superslab_bits(window, slab, bin) + block / 64;
            some.place = place;
            some.mask = 0;
        }
        some.mask |= bit;
        if (in_order) {
            uint64_t full = superslab_full_word(bin, (unsigned)(block / 64));
            i += gather_run(&some, blocks + i, count - i, block % 64, info.size, full);
        }
    }
    if (some.mask != 0) {
        put_gathered(window, bin, &some, alone);
    }
}

// Returns true if two blocks are neighbours, or have one block between them.
HAK_INLINE bool are_near(unsigned bin, const void *one, const void *other) {
    uintptr_t near = 2 * (uintptr_t)size_class_bins[bin].size;
    return (uintptr_t)one - (uintptr_t)other + near <= 2 * near;
}

// Guesses, from two pairs of blocks, whether most blocks follow a neighbour. The first block does
// not count, because fast_cache_detach() puts the newest block of a batch there.
static bool are_in_order(unsigned bin, void *const *blocks, unsigned count) {
    unsigned middle = count / 2;
    return count >= 4 && are_near(bin, blocks[1], blocks[2]) &&
           are_near(bin, blocks[middle], blocks[middle + 1]);
}

void shared_pool_put(unsigned bin, void *const *blocks, unsigned count) {
    const struct page_arena_window window = page_arena_get_window();
    bool alone = hak_alone();
    // Gathering blocks that are no neighbours costs more than steps that are not atomic.
    bool in_order = are_in_order(bin, blocks, count);
    if (!alone || in_order) {
        put_runs(&window, bin, blocks, count, alone, in_order);
    } else if (superslab_bits_beside(bin)) {
        put_each(&window, bin, blocks, count, true);
    } else {
        put_each(&window, bin, blocks, count, false);
    }
    if (count != 0) {
        // One slab of the batch will do: reading the metadata of all would cost too much.
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
