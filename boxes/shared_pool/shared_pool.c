#include "boxes/shared_pool/shared_pool.h"

#include "boxes/diagnostics/diagnostics.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"

// The summary of `listed`: in each group one word a bin, one bit a SuperSlab.
static atomic_bitmap_word *summary(const struct page_arena_window *window, size_t slab,
                                   unsigned bin) {
    return &window->groups[slab / ARENA_GROUP_SLABS].user[bin];
}

static uint64_t summary_bit(size_t slab) {
    return UINT64_C(1) << (slab / ARENA_SUPERSLAB_SLABS % ARENA_GROUP_SUPERSLABS);
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

static void list(const struct page_arena_window *window, size_t slab, unsigned bin) {
    _Atomic(uint32_t) *listed = &superslab_at(window, slab)->listed[bin];
    if ((atomic_load(listed) & listed_bit(slab)) == 0) {
        atomic_fetch_or(listed, listed_bit(slab));
    }
    if ((atomic_load(summary(window, slab, bin)) & summary_bit(slab)) == 0) {
        atomic_fetch_or(summary(window, slab, bin), summary_bit(slab));
    }
}

// Takes a slab without free blocks off the list. Both levels are looked at again after the bit is
// cleared: whoever sets a lower level afterwards sees the cleared bit and sets it himself.
static void unlist(const struct page_arena_window *window, size_t slab, unsigned bin) {
    struct superslab *superslab = superslab_at(window, slab);
    uint32_t before = atomic_fetch_and(&superslab->listed[bin], ~listed_bit(slab));
    if ((before & ~listed_bit(slab)) == 0) {
        atomic_fetch_and(summary(window, slab, bin), ~summary_bit(slab));
        if (atomic_load(&superslab->listed[bin]) != 0) {
            atomic_fetch_or(summary(window, slab, bin), summary_bit(slab));
        }
    }
    if (is_tiny(window, slab, bin) && has_free(superslab_bits(window, slab, bin), bin)) {
        list(window, slab, bin);
    }
}

static size_t find_listed(const struct page_arena_window *window, unsigned bin) {
    size_t groups = (page_arena_high() + ARENA_GROUP_SLABS - 1) / ARENA_GROUP_SLABS;
    for (size_t g = 0; g < groups; g++) {
        uint64_t superslabs =
            atomic_load_explicit(&window->groups[g].user[bin], memory_order_relaxed);
        while (superslabs != 0) {
            size_t slab =
                g * ARENA_GROUP_SLABS + (size_t)__builtin_ctzll(superslabs) * ARENA_SUPERSLAB_SLABS;
            uint32_t slabs = atomic_load_explicit(&superslab_at(window, slab)->listed[bin],
                                                  memory_order_relaxed);
            if (slabs != 0) {
                return slab + (size_t)__builtin_ctz(slabs);
            }
            superslabs &= superslabs - 1;
        }
    }
    return ARENA_NONE;
}

// Every block of a slab seems to be free: takes them all, and if that works gives the slab away.
static void reclaim(const struct page_arena_window *window, size_t slab, unsigned bin);

static void put_bits(const struct page_arena_window *window, size_t slab, unsigned bin,
                     unsigned word, uint64_t mask) {
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    uint64_t before = atomic_bitmap_put(&bits[word], mask);
    if (HAK_UNLIKELY((before & mask) != 0)) {
        uint64_t twice = before & mask;
        size_t block = word * 64 + (size_t)__builtin_ctzll(twice);
        diag_misuse(DIAG_CALL_FREE,
                    (char *)page_arena_address(window, slab) + block * size_class_bins[bin].size,
                    "block freed twice");
    }
    list(window, slab, bin);
    if ((before | mask) == superslab_full_word(bin, word)) {
        for (unsigned w = 0; w < size_class_bins[bin].words; w++) {
            if (atomic_load_explicit(&bits[w], memory_order_relaxed) !=
                superslab_full_word(bin, w)) {
                return;
            }
        }
        reclaim(window, slab, bin);
    }
}

static void reclaim(const struct page_arena_window *window, size_t slab, unsigned bin) {
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned words = size_class_bins[bin].words;
    unsigned taken = 0;
    while (taken < words) {
        uint64_t full = superslab_full_word(bin, taken);
        uint64_t seen = full;
        if (!atomic_compare_exchange_strong(&bits[taken], &seen, 0)) {
            break;
        }
        taken++;
    }
    if (taken < words) {
        // Someone was faster. What we hold goes back, and the last one to put back tries again.
        for (unsigned w = 0; w < taken; w++) {
            put_bits(window, slab, bin, w, superslab_full_word(bin, w));
        }
        return;
    }
    struct slab *meta = superslab_slab(window, slab);
    ((_Atomic uint8_t *)window->base)[slab] = 0;
    atomic_store(&meta->kind, SLAB_NONE);
    unlist(window, slab, bin);
    page_arena_release(slab, 1, true);
}

static unsigned take_from(const struct page_arena_window *window, size_t slab, unsigned bin,
                          void **blocks, unsigned want) {
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    char *start = page_arena_address(window, slab);
    size_t size = size_class_bins[bin].size;
    unsigned words = size_class_bins[bin].words;
    unsigned got = 0;
    for (unsigned w = 0; w < words && got < want; w++) {
        uint64_t mask = atomic_bitmap_take(&bits[w], want - got);
        if (mask == 0) {
            continue;
        }
        if (HAK_UNLIKELY(!is_tiny(window, slab, bin))) {
            // The slab serves another bin by now, and cannot change again while we hold bits of it.
            unsigned now = atomic_load(&superslab_slab(window, slab)->bin);
            DIAG_ASSERT(atomic_load(&superslab_slab(window, slab)->kind) == SLAB_TINY);
            put_bits(window, slab, now, w, mask);
            return got;
        }
        for (; mask != 0; mask &= mask - 1) {
            size_t block = w * 64 + (size_t)__builtin_ctzll(mask);
            blocks[got++] = start + block * size;
        }
    }
    return got;
}

// Puts a fresh slab to use for `bin`. The first `want` blocks are the caller's.
static unsigned take_from_fresh(const struct page_arena_window *window, unsigned bin, void **blocks,
                                unsigned want, shared_pool_hint *hint) {
    bool zero;
    size_t slab = page_arena_claim(1, ARENA_SLAB, &zero);
    if (slab == ARENA_NONE) {
        return 0;
    }
    const struct size_class_bin *info = &size_class_bins[bin];
    struct slab *meta = superslab_slab(window, slab);
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned got = (unsigned)hak_min(want, info->blocks);
    atomic_store(&meta->bin, (uint8_t)bin);
    atomic_store(&meta->kind, SLAB_TINY);
    ((_Atomic uint8_t *)window->base)[slab] = (uint8_t)(bin * 2);
    char *start = page_arena_address(window, slab);
    for (unsigned i = 0; i < got; i++) {
        blocks[i] = start + (size_t)i * info->size;
    }
    bool left = false;
    for (unsigned w = 0; w < info->words; w++) {
        unsigned ours = w * 64 >= got ? 0 : (unsigned)hak_min(got - w * 64, 64);
        uint64_t rest = superslab_full_word(bin, w) & ~atomic_bitmap_mask(0, ours);
        if (rest != 0) {
            atomic_bitmap_put(&bits[w], rest);
            left = true;
        }
    }
    if (left) {
        list(window, slab, bin);
    }
    *hint = slab;
    return got;
}

unsigned shared_pool_take(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint) {
    if (HAK_UNLIKELY(!page_arena_init())) {
        return 0;
    }
    struct page_arena_window window = page_arena_get_window();
    unsigned got = 0;
    size_t slab = *hint;
    if (slab != ARENA_NONE && is_tiny(&window, slab, bin)) {
        got = take_from(&window, slab, bin, blocks, want);
        if (got == want) {
            return got;
        }
        unlist(&window, slab, bin);
    }
    while (got < want && (slab = find_listed(&window, bin)) != ARENA_NONE) {
        unsigned more = is_tiny(&window, slab, bin)
                            ? take_from(&window, slab, bin, blocks + got, want - got)
                            : 0;
        got += more;
        *hint = slab;
        if (got < want) {
            unlist(&window, slab, bin);
        }
    }
    if (got == 0) {
        got = take_from_fresh(&window, bin, blocks, want, hint);
    }
    return got;
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
                              : "the size given does not fit the block")
                : "block freed twice (its slab is gone)";
    }
    diag_misuse(DIAG_CALL_FREE, ptr, fault);
}

void shared_pool_put(unsigned bin, void *const *blocks, unsigned count) {
    struct page_arena_window window = page_arena_get_window();
    // Blocks of one word go back in one step; neighbours in a cache are often neighbours in a slab.
    size_t slab = ARENA_NONE;
    unsigned word = 0;
    uint64_t mask = 0;
    for (unsigned i = 0; i < count; i++) {
        void *ptr = blocks[i];
        uint32_t block = size_class_block_at(bin, (uint32_t)((uintptr_t)ptr & (ARENA_SLAB - 1)));
        if (HAK_UNLIKELY(shared_pool_block_start(bin, ptr) != ptr)) {
            diag_misuse(DIAG_CALL_FREE, ptr, "pointer into a block, not to its start");
        }
        size_t its_slab = page_arena_slab_of(&window, ptr);
        unsigned its_word = block / 64;
        uint64_t its_mask = UINT64_C(1) << (block % 64);
        if (its_slab != slab || its_word != word || (mask & its_mask) != 0) {
            if (mask != 0) {
                put_bits(&window, slab, bin, word, mask);
            }
            slab = its_slab;
            word = its_word;
            mask = 0;
            if (HAK_UNLIKELY(!superslab_known(&window, slab) || !is_tiny(&window, slab, bin))) {
                not_of_bin(&window, slab, ptr);
            }
        }
        mask |= its_mask;
    }
    if (mask != 0) {
        put_bits(&window, slab, bin, word, mask);
    }
}

void shared_pool_check(unsigned bin, void *const *blocks, unsigned count) {
    struct page_arena_window window = page_arena_get_window();
    for (unsigned i = 0; i < count; i++) {
        size_t slab = page_arena_slab_of(&window, blocks[i]);
        if (HAK_UNLIKELY(!superslab_known(&window, slab) || !is_tiny(&window, slab, bin))) {
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
