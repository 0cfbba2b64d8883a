// SPDX-License-Identifier: Apache-2.0
// shared_pool: lists slabs with free blocks, and takes blocks from them.
#include "boxes/shared_pool/shared_pool_internal.h"

#include "backends/os.h"
#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/probe/probe.h"
#include "boxes/settings/settings.h"

#include <string.h>

static uint32_t listed_bit(size_t slab) {
    return UINT32_C(1) << (slab % ARENA_SUPERSLAB_SLABS);
}

void pool_summarize(const struct page_arena_window *window, size_t slab, unsigned bin) {
    if (is_home(window, slab)) {
        return;
    }
    atomic_bitmap_ensure_now(superslab_group_word(window, slab, bin), superslab_group_bit(slab));
    atomic_bitmap_ensure_now(superslab_region_word(window, slab, bin), superslab_region_bit(slab));
}

void pool_list(const struct page_arena_window *window, size_t slab, unsigned bin) {
    _Atomic(uint32_t) *listed = &superslab_at(window, slab)->listed[bin];
    if ((atomic_load(listed) & listed_bit(slab)) == 0) {
        atomic_fetch_or(listed, listed_bit(slab));
    }
    pool_summarize(window, slab, bin);
}

// Clears the bits of the summaries that lead to an empty word. After the bit for a word is cleared,
// the word is read again. A thread that sets a bit in the word after that sees the cleared bit, and
// sets it.
static void clear_summaries(const struct page_arena_window *window, size_t slab, unsigned bin) {
    if (is_home(window, slab)) {
        return;
    }
    atomic_bitmap_word *group = superslab_group_word(window, slab, bin);
    if ((atomic_fetch_and(group, ~superslab_group_bit(slab)) & ~superslab_group_bit(slab)) == 0) {
        atomic_fetch_and(superslab_region_word(window, slab, bin), ~superslab_region_bit(slab));
        if (atomic_load(group) != 0) {
            atomic_bitmap_ensure_now(superslab_region_word(window, slab, bin),
                                     superslab_region_bit(slab));
        }
    }
    if (atomic_load(&superslab_at(window, slab)->listed[bin]) != 0) {
        pool_summarize(window, slab, bin);
    }
}

void pool_unlist(const struct page_arena_window *window, size_t slab, unsigned bin) {
    struct superslab *superslab = superslab_at(window, slab);
    uint32_t before = atomic_fetch_and(&superslab->listed[bin], ~listed_bit(slab));
    if ((before & ~listed_bit(slab)) == 0) {
        clear_summaries(window, slab, bin);
    }
    if (is_tiny(window, slab, bin) && has_free(superslab_bits(window, slab, bin), bin)) {
        pool_list(window, slab, bin);
    }
}

// The state of a search for a listed slab.
struct found {
    size_t slab;     // the lowest listed slab seen so far, or ARENA_NONE
    unsigned looks;  // how many more slabs that other threads take from may be looked at
    uint64_t others; // a bit for each of these threads; several may share one
};

// Searches the slabs of a SuperSlab. Returns true if the search is over, because *found has a slab
// that no other thread takes from, or because enough slabs have been seen.
static bool find_in_superslab(const struct page_arena_window *window, size_t first, unsigned bin,
                              struct found *found) {
    struct superslab *superslab = superslab_at(window, first);
    uint32_t slabs = atomic_load_explicit(&superslab->listed[bin], memory_order_relaxed);
    for (; slabs != 0; slabs &= slabs - 1) {
        unsigned slab = (unsigned)__builtin_ctz(slabs);
        uint8_t taker = pool_other_taker(superslab, slab);
        if (taker == 0) {
            found->slab = first + slab;
            return true;
        }
        found->slab = hak_min(found->slab, first + slab);
        found->others |= UINT64_C(1) << taker / 2 % 64;
        if (--found->looks == 0) {
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

// Finds the lowest listed slab that no other thread takes from. If there is none, finds the lowest
// listed slab, or ARENA_NONE. Threads that take from one slab write to the same lines: its bitmap,
// and often the blocks.
static void find_everywhere(const struct page_arena_window *window, unsigned bin,
                            struct found *found) {
    size_t regions = (page_arena_top() + ARENA_REGION_SLABS - 1) / ARENA_REGION_SLABS;
    for (size_t r = 0; r < regions; r++) {
        uint64_t bits = atomic_load_explicit(&window->regions[r].user[bin], memory_order_relaxed);
        for (; bits != 0; bits &= bits - 1) {
            size_t group = r * ARENA_REGION_GROUPS + (size_t)__builtin_ctzll(bits);
            if (find_in_group(window, group, bin, found)) {
                return;
            }
        }
    }
}

// Returns the slab to take blocks from, for a thread with homes: a slab of its homes if one is
// listed. Slabs that other threads take from are left alone, but one search in OTHERS_EACH takes
// such a slab, so that their free blocks are used in the end.
static HAK_NOINLINE size_t find_from_home(const struct page_arena_window *window, unsigned bin,
                                          struct shared_pool_company *company) {
    enum { LOOKS = 8, OTHERS_EACH = 8 };
    size_t slab = pool_find_home(window, bin, company->group);
    if (slab != ARENA_NONE) {
        return slab;
    }
    struct found found = {ARENA_NONE, LOOKS, 0};
    find_everywhere(window, bin, &found);
    if (found.slab == ARENA_NONE) {
        return ARENA_NONE;
    }
    size_t at = found.slab % ARENA_SUPERSLAB_SLABS;
    if (pool_other_taker(superslab_at(window, found.slab), at) == 0 ||
        !pool_has_spare(window, company->group)) { // the group would make one more home
        return found.slab;
    }
    return ++company->passed % OTHERS_EACH == 0 ? found.slab : ARENA_NONE;
}

// Returns the slab to take blocks from. Returns ARENA_NONE if a fresh slab is to be put to use.
static size_t find_listed(const struct page_arena_window *window, unsigned bin,
                          struct shared_pool_company *company) {
    enum { LOOKS = 64 };      // after that many, a slab that another thread takes from will do
    enum { OTHERS_MANY = 3 }; // other threads that a search meets
    if (has_group(company)) {
        return find_from_home(window, bin, company);
    }
    struct found found = {ARENA_NONE, LOOKS, 0};
    find_everywhere(window, bin, &found);
    if (SHARED_POOL_HOMES != 0 && HAK_UNLIKELY(found.others != 0) && company != NULL &&
        __builtin_popcountll(found.others) >= OTHERS_MANY) {
        pool_meet(company);
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

// Returns the pages of a slab that blocks [first, last] lie on, as bits.
static uint16_t pages_of(size_t size, size_t first, size_t last) {
    unsigned from = (unsigned)(first * size >> HAK_PAGE_SHIFT);
    unsigned to = (unsigned)(((last + 1) * size - 1) >> HAK_PAGE_SHIFT);
    return (uint16_t)((2u << to) - (1u << from));
}

// To be called before blocks are used, because their pages have memory from then on. Only a thread
// that holds every block of a page sets the page's bit in `clean`, so none of these bits is set
// meanwhile.
static void leave_clean(struct slab *meta, size_t size, unsigned word, uint64_t mask) {
    mark_active(meta);
    pool_leave_empty(meta);
    uint16_t clean = atomic_load_explicit(&meta->clean, memory_order_relaxed);
    if (HAK_UNLIKELY(clean != 0)) {
        size_t first = word * 64 + (size_t)__builtin_ctzll(mask);
        size_t last = word * 64 + 63 - (size_t)__builtin_clzll(mask);
        uint16_t pages = pages_of(size, first, last);
        if ((clean & pages) != 0) {
            clean = atomic_fetch_and(&meta->clean, (uint16_t)~pages);
            pool_count_clean(0, pages & clean);
            if (clean == UINT16_MAX) {
                pool_count_bare(false);
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
    enum { RUN = 15 }; // four neighbours: then it pays to count how many more there are
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

// Writes the addresses of the blocks in `mask`, which belong to one word of a slab's bitmap, lowest
// first. Returns the place behind them. In a small batch blocks that share a cache line do not
// follow each other, because the program may give them to different threads: every fourth block
// comes first. In a large batch the addresses only rise, which the processor's prefetcher sees.
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

unsigned pool_take_from(const struct page_arena_window *window, size_t slab, unsigned bin,
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
        mask = pool_hold(window, slab, bin, w, mask, &owed);
        if (HAK_UNLIKELY(owed != 0)) {
            pool_reclaim_if_free(window, slab, owed, w);
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

unsigned pool_format(size_t slab, bool zero, unsigned bin, void **blocks, unsigned want,
                     unsigned pages) {
    const struct page_arena_window here = page_arena_get_window();
    const struct page_arena_window *window = &here;
    const struct size_class_bin *info = &size_class_bins[bin];
    struct slab *meta = superslab_slab(window, slab);
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned there = HAK_LIKELY(pages == 0) ? info->blocks : superslab_blocks_on(bin, pages);
    unsigned got = (unsigned)hak_min(want, there);
    uint16_t untouched = zero ? (uint16_t)~pages_of(info->size, 0, got - 1) : 0;
    atomic_store(&meta->clean, untouched);
    pool_count_clean(untouched, 0);
    pool_count_fresh(bin, zero);
    atomic_store(&meta->active, 1);
    atomic_store(&meta->bin, (uint8_t)bin);
    atomic_store(&meta->kind, SLAB_TINY);
    page_map_set(window, slab, size_class_place(bin));
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
        // Stored last, because a thread that holds `pages` assumes that `bin` is set. Until then
        // the slab looks like one whose other blocks are in use.
        atomic_store(&meta->pages, (uint8_t)pages);
    }
    set_taker(window, slab);
    if (left) {
        pool_list(window, slab, bin);
    }
    return got;
}

#if HAK_HARDENED
static _Atomic(size_t) guards; // set so far
#endif

// Gives a fresh slab its guard. Returns the number of pages that the slab has then; 0 stands for
// all.
static unsigned set_guard(size_t slab, unsigned bin) {
#if HAK_HARDENED
    enum { FEW = 8 }; // one block in so many may be lost
    unsigned blocks = size_class_bins[bin].blocks;
    unsigned lost = blocks - superslab_blocks_on(bin, GUARDED_PAGES);
    if (!stays() || lost * FEW > blocks || page_arena_is_tight() ||
        atomic_load_explicit(&guards, memory_order_relaxed) >=
            (size_t)settings_get(SETTING_GUARD_PAGES)) {
        return 0;
    }
    const struct page_arena_window window = page_arena_get_window();
    char *last = (char *)page_arena_address(&window, slab) + GUARDED_PAGES * (size_t)HAK_PAGE;
    if (os_forbid(last, HAK_PAGE) != OS_OK) {
        return 0;
    }
    atomic_fetch_add_explicit(&guards, 1, memory_order_relaxed);
    return GUARDED_PAGES;
#else
    (void)slab, (void)bin;
    return 0;
#endif
}

// As shared_pool_take(), from a fresh slab. Returns 0 if there is no memory.
static HAK_NOINLINE unsigned take_from_fresh(unsigned bin, void **blocks, unsigned want,
                                             shared_pool_hint *hint,
                                             struct shared_pool_company *company) {
    bool zero;
    size_t slab = ARENA_NONE;
    if (has_group(company)) {
        slab = pool_claim_home(company->group, pool_is_small(bin), &zero);
    }
    if (HAK_LIKELY(slab == ARENA_NONE)) {
        pool_mark_dense();
        slab = pool_is_small(bin) ? page_arena_claim_filled(1, ARENA_SLAB, &zero)
                                  : page_arena_claim(1, ARENA_SLAB, &zero);
    }
    if (slab == ARENA_NONE) {
        return 0;
    }
    if (zero && company != NULL && company->grew < UINT8_MAX) {
        company->grew++;
    }
    const struct page_arena_window window = page_arena_get_window();
    probe_slab_claim(page_arena_address(&window, slab), size_class_bins[bin].size);
    if (HAK_HARDENED && !zero) {
        // Free blocks are zero. The slab is not in use yet, so no other thread reads it.
        memset(page_arena_address(&window, slab), 0, ARENA_SLAB);
    }
    *hint = slab;
    return pool_format(slab, zero, bin, blocks, want, set_guard(slab, bin));
}

// As shared_pool_take(), from slabs in use. Returns 0 if none of them has a free block.
static HAK_NOINLINE unsigned take_listed(unsigned bin, void **blocks, unsigned want,
                                         shared_pool_hint *hint,
                                         struct shared_pool_company *company) {
    const struct page_arena_window here = page_arena_get_window();
    const struct page_arena_window *window = &here;
    unsigned got = 0;
    bool more = false;
    size_t slab = *hint;
    if (slab != ARENA_NONE && is_tiny(window, slab, bin)) {
        got = pool_take_from(window, slab, bin, blocks, 0, want, &more);
        if (more) {
            return got;
        }
        pool_unlist(window, slab, bin);
    }
    while (got < want && (slab = find_listed(window, bin, company)) != ARENA_NONE) {
        more = false;
        if (is_tiny(window, slab, bin)) {
            got = pool_take_from(window, slab, bin, blocks, got, want, &more);
        }
        *hint = slab;
        set_taker(window, slab);
        if (more) {
            break;
        }
        pool_unlist(window, slab, bin);
    }
    return got;
}

unsigned shared_pool_take_home(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint,
                               struct shared_pool_company *company) {
    if (HAK_UNLIKELY(!page_arena_init())) {
        return 0;
    }
    unsigned got = take_listed(bin, blocks, want, hint, company);
    if (HAK_LIKELY(got > 0)) {
        return got;
    }
    return HAK_UNLIKELY(page_arena_is_tight()) ? pool_take_short(bin, blocks, want, hint)
                                               : take_from_fresh(bin, blocks, want, hint, company);
}

unsigned shared_pool_take(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint) {
    return shared_pool_take_home(bin, blocks, want, hint, NULL);
}
