// SPDX-License-Identifier: Apache-2.0
// short_slab: slabs of a tight process (page_arena_is_tight()), which begin with a part of their
// pages.
//
// A slab begins with the pages of its first block, and gets more when its bin runs out. The bits of
// the blocks on other pages are clear, as if these blocks were live: no thread takes them, and the
// slab is not free as a whole before it has all its pages.
#include "boxes/shared_pool/shared_pool_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"

// Returns the pages that the first `blocks` blocks of a slab take.
static unsigned pages_for(unsigned bin, unsigned blocks) {
    return (unsigned)((blocks * size_class_bins[bin].size + HAK_PAGE - 1) >> HAK_PAGE_SHIFT);
}

// Returns the value for the field `pages` of a slab with that many pages.
static uint8_t pages_value(unsigned bin, unsigned pages) {
    return superslab_blocks_on(bin, pages) == size_class_bins[bin].blocks ? 0 : (uint8_t)pages;
}

// Adds pages to a short slab of the bin: as many as it has, or those of one block. Returns false if
// the slab is not short or not of this bin, another thread is adding pages, or the kernel refuses.
static bool lengthen(const struct page_arena_window *window, size_t slab, unsigned bin) {
    struct slab *meta = superslab_slab(window, slab);
    uint8_t pages = atomic_load(&meta->pages);
    if (pages == 0 || pages == SUPERSLAB_PAGES_HELD ||
        !atomic_compare_exchange_strong(&meta->pages, &pages, SUPERSLAB_PAGES_HELD)) {
        return false;
    }
    // While this thread holds `pages`, no other one gives the slab away. The hint may be old, so
    // the slab may serve another bin.
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
    pool_list(window, slab, bin);
    return true;
}

unsigned pool_take_short(unsigned bin, void **blocks, unsigned want, shared_pool_hint *hint) {
    const struct page_arena_window window = page_arena_get_window();
    if (*hint != ARENA_NONE && lengthen(&window, *hint, bin)) {
        bool more;
        unsigned got = pool_take_from(&window, *hint, bin, blocks, 0, want, &more);
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
    return pool_format(slab, zero, bin, blocks, want, pages_value(bin, pages));
}

// Gives a short slab away if all of its blocks are free.
static void give_short(const struct page_arena_window *window, size_t slab) {
    struct slab *meta = superslab_slab(window, slab);
    uint8_t pages = atomic_load(&meta->pages);
    if (pages == 0 || pages == SUPERSLAB_PAGES_HELD ||
        !atomic_compare_exchange_strong(&meta->pages, &pages, SUPERSLAB_PAGES_HELD)) {
        return;
    }
    // The slab is short, and stays so.
    unsigned bin = atomic_load(&meta->bin);
    unsigned last = superslab_blocks_on(bin, pages) - 1;
    atomic_bitmap_word *bits = superslab_bits(window, slab, bin);
    unsigned owed = 0; // stays 0, because the slab is not free as a whole
    // If the slab has a guard, the guard's page gets its rights back for the next owner.
    if (pool_are_free(bits, 0, last) &&
        (page_arena_is_tight() ||
         page_arena_give_rights(slab, GUARDED_PAGES, SLAB_PAGES - GUARDED_PAGES)) &&
        pool_hold_blocks(window, slab, bin, 0, last, &owed)) {
        atomic_store(&meta->pages, 0);
        pool_give_away(window, slab, bin);
        return;
    }
    atomic_store(&meta->pages, pages);
}

void pool_give_kept(const struct page_arena_window *window, size_t slab) {
    struct slab *meta = superslab_slab(window, slab);
    if (atomic_load(&meta->pages) != 0) {
        give_short(window, slab);
    } else if (atomic_load(&meta->kind) == SLAB_TINY) {
        pool_give_if_free(window, slab, atomic_load(&meta->bin), 0);
    }
}

static void for_each_slab(void (*give)(const struct page_arena_window *window, size_t slab)) {
    struct page_arena_window window;
    size_t high = page_arena_walk(&window);
    for (size_t slab = 0; slab < high;) {
        size_t next = pool_skip_unknown(&window, slab);
        if (next == slab) {
            give(&window, slab);
            next = slab + 1;
        }
        slab = next;
    }
}

void shared_pool_give_short(void) {
    if (HAK_UNLIKELY(page_arena_is_tight()) && !stays()) {
        for_each_slab(give_short);
    }
}

void shared_pool_give_kept(void) {
    if (stays()) {
        for_each_slab(pool_give_kept);
    }
}
