// SPDX-License-Identifier: Apache-2.0
// purge: gives pages without a live block back to the kernel. Holds their blocks meanwhile.
#include "boxes/shared_pool/shared_pool_internal.h"

#include "backends/os.h"

bool pool_are_free(atomic_bitmap_word *bits, size_t first, size_t last) {
    for (size_t w = first / 64; w <= last / 64; w++) {
        uint64_t need = blocks_in_word(first, last, w);
        if ((atomic_load_explicit(&bits[w], memory_order_relaxed) & need) != need) {
            return false;
        }
    }
    return true;
}

// Puts blocks of a word back. If slabs stay, leaves the slab alone even if all of its blocks are
// free: this purge may have been started by the slab's becoming empty, and if the program has a
// madvise() of its own that uses the heap, the slab would become empty again and again.
static void put_some(const struct page_arena_window *window, size_t slab, unsigned bin, size_t w,
                     uint64_t mask) {
    atomic_bitmap_word *at = superslab_bits(window, slab, bin) + w;
    if (put_mask(window, slab, bin, at, (unsigned)w, mask, false) && !stays()) {
        pool_reclaim_if_free(window, slab, bin, (unsigned)w);
    }
}

// Puts the blocks [first, last] back. The caller holds all of them.
static HAK_NOINLINE void put_blocks(const struct page_arena_window *window, size_t slab,
                                    unsigned bin, size_t first, size_t last) {
    for (size_t w = first / 64; w <= last / 64; w++) {
        put_some(window, slab, bin, w, blocks_in_word(first, last, w));
    }
}

bool pool_hold_blocks(const struct page_arena_window *window, size_t slab, unsigned bin,
                      size_t first, size_t last, unsigned *owed) {
    for (size_t w = first / 64; w <= last / 64; w++) {
        uint64_t need = blocks_in_word(first, last, w);
        uint64_t got = pool_hold(window, slab, bin, (unsigned)w, need, owed);
        if (got == need) {
            continue;
        }
        if (got != 0) {
            put_some(window, slab, bin, w, got);
        }
        if (w > first / 64) {
            put_blocks(window, slab, bin, first, w * 64 - 1);
        }
        return false;
    }
    return true;
}

// Returns those of `pages` that form ranges long enough for os_purge().
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

// Gives the memory of `pages` back to the kernel. All of their blocks are held. Returns the number
// of pages, or 0 if the kernel refuses.
static HAK_NOINLINE size_t purge_pages(const struct page_arena_window *window, size_t slab,
                                       uint16_t pages) {
    char *at = page_arena_address(window, slab);
    // Purges one range after the other, without a list of them, because a free on a signal's stack
    // may come here.
    bool done = true;
    for (uint32_t rest = pages; rest != 0;) {
        size_t from = (unsigned)__builtin_ctz(rest);
        size_t end = from + (unsigned)__builtin_ctz(~(rest >> from));
        void *run = at + (from << HAK_PAGE_SHIFT);
        done = os_purge(run, (end - from) << HAK_PAGE_SHIFT) == OS_OK && done;
        rest &= ~((UINT32_C(1) << end) - 1);
    }
    if (!done) {
        return 0;
    }
    struct slab *meta = superslab_slab(window, slab);
    pool_leave_empty(meta);
    uint16_t before = atomic_fetch_or(&meta->clean, pages);
    pool_count_clean(pages & (uint16_t)~before, 0);
    if (before != UINT16_MAX && (before | pages) == UINT16_MAX) {
        pool_count_bare(true);
    }
    return (size_t)__builtin_popcount(pages);
}

// Return the numbers of the first and of the last block on pages [from, end) of a slab.
static size_t first_on(unsigned bin, unsigned from) {
    return size_class_block_at(bin, (uint32_t)from << HAK_PAGE_SHIFT);
}

static size_t last_on(unsigned bin, unsigned end, unsigned blocks) {
    return hak_min(size_class_block_at(bin, ((uint32_t)end << HAK_PAGE_SHIFT) - 1), blocks - 1u);
}

// Puts those of the first `blocks` blocks back that are on `pages`. A block may be on more than one
// page. (`blocks` is the number from before the purge: a slab that is about to lose its guard seems
// to have the blocks on the guard, too.)
static void put_pages(const struct page_arena_window *window, size_t slab, unsigned bin,
                      unsigned blocks, uint32_t pages) {
    size_t next = 0; // the blocks below have been put back
    while (pages != 0) {
        unsigned from = (unsigned)__builtin_ctz(pages);
        unsigned end = from + (unsigned)__builtin_ctz(~(pages >> from));
        size_t first = hak_max(first_on(bin, from), next);
        size_t last = last_on(bin, end, blocks);
        if (first <= last) {
            put_blocks(window, slab, bin, first, last);
            next = last + 1;
        }
        pages &= ~((UINT32_C(1) << end) - 1);
    }
}

bool pool_purge_slab(const struct page_arena_window *window, size_t slab, unsigned bin,
                     size_t *given) {
    uint16_t held = 0; // pages whose blocks are held
    size_t next = 0;   // the lowest block behind the last of these pages
    struct slab *meta = superslab_slab(window, slab);
    uint16_t clean = atomic_load(&meta->clean);
    unsigned blocks = blocks_of(meta, bin);
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned owed = 0;
    for (unsigned page = 0; page < SLAB_PAGES; page++) {
        size_t first = first_on(bin, page);
        size_t last = last_on(bin, page + 1, blocks);
        if ((clean >> page & 1) != 0 || first > last) {
            continue;
        }
        first = hak_max(first, next); // the blocks below are held
        if (first <= last) {
            if (!pool_are_free(bits, first, last)) {
                continue;
            }
            if (!pool_hold_blocks(window, slab, bin, first, last, &owed)) {
                break; // Another thread takes blocks of this slab, or has put it to another use.
            }
        }
        held |= (uint16_t)(1u << page);
        next = last + 1;
    }
    uint16_t pages = worthwhile(held);
    size_t count = pages == 0 ? 0 : purge_pages(window, slab, pages);
    *given += count;
    put_pages(window, slab, bin, blocks, held);
    if (HAK_UNLIKELY(owed != 0)) {
        pool_reclaim_if_free(window, slab, owed, 0);
    }
    return pages == 0 || count != 0;
}

// Returns true if a slab may have idle pages. Marks the slab as not used from now on. A slab
// without a free block is left out first, because in a heap that grows most slabs are full.
static bool is_quiet(const struct page_arena_window *window, size_t slab, bool all) {
    struct slab *meta = superslab_slab(window, slab);
    if (atomic_load_explicit(&meta->kind, memory_order_relaxed) != SLAB_TINY) {
        return false;
    }
    if (atomic_load_explicit(&meta->active, memory_order_relaxed) != 0) {
        atomic_store_explicit(&meta->active, 0, memory_order_relaxed);
        if (!all) {
            return false;
        }
    }
    unsigned bin = atomic_load_explicit(&meta->bin, memory_order_relaxed);
    return (all || atomic_load_explicit(&meta->clean, memory_order_relaxed) != UINT16_MAX) &&
           has_free(superslab_bits(window, slab, bin), bin);
}

size_t pool_skip_unknown(const struct page_arena_window *window, size_t slab) {
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

void shared_pool_purge(struct shared_pool_walk *walk, size_t look, size_t budget) {
    struct page_arena_window window;
    size_t high = page_arena_walk(&window);
    size_t slab = walk->cursor;
    size_t most = budget < SIZE_MAX - walk->pages ? walk->pages + budget : SIZE_MAX;
    walk->refused = false;
    for (; slab < high && look > 0 && walk->pages < most && !walk->refused; look--) {
        size_t next = pool_skip_unknown(&window, slab);
        if (next != slab) {
            slab = next;
            continue;
        }
        if (slab % ARENA_SUPERSLAB_SLABS == 0 && is_home(&window, slab)) {
            if (walk->apart) {
                slab += ARENA_SUPERSLAB_SLABS;
                continue;
            }
            pool_visit_home(&window, slab, walk->all);
        }
        if (is_quiet(&window, slab, walk->all)) {
            struct slab *meta = superslab_slab(&window, slab);
            unsigned bin = atomic_load_explicit(&meta->bin, memory_order_relaxed);
            walk->refused = !pool_purge_slab(&window, slab, bin, &walk->pages);
            // The thread that had to list the slab may have stayed in the parent process.
            if (has_free(superslab_bits(&window, slab, bin), bin) && is_tiny(&window, slab, bin)) {
                pool_list(&window, slab, bin);
            }
            // Holding blocks and putting them back does not count as use of the slab.
            atomic_store_explicit(&meta->active, 0, memory_order_relaxed);
        }
        slab++;
    }
    walk->cursor = slab < high ? slab : 0;
}
