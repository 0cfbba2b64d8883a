// SPDX-License-Identifier: Apache-2.0
// emptied: estimates how full each SuperSlab was when its pages went back to the kernel.
//
// The count of a SuperSlab begins anew when the SuperSlab is mapped afresh. Threads that count at
// the same time may lose some of it, which an estimate can bear.
#include "boxes/page_arena/page_arena_internal.h"

enum {
    SLAB_PAGES = ARENA_SLAB / HAK_PAGE,
    EMPTIED_SHIFT = 16,                        // slabs above the pages of them that were in memory
    EMPTIED_LEAST = ARENA_SUPERSLAB_SLABS / 2, // slabs by which a SuperSlab is judged
};

static _Atomic(uint32_t) *emptied_of(const struct page_arena_window *window, size_t superslab) {
    return &window->groups[superslab / ARENA_GROUP_SUPERSLABS]
                .emptied[superslab % ARENA_GROUP_SUPERSLABS];
}

// Counts the slabs [from, from + slabs) of a SuperSlab, and their pages in memory, by a look at one
// slab of `each`. Returns 0 if the slabs are not worth the look, or if the kernel does not tell.
static uint32_t count_of(const struct page_arena_window *window, size_t from, size_t slabs,
                         size_t each) {
    // One slab at a time, so that the list of pages fits on a signal's stack. A hash chooses which:
    // blocks whose sizes are powers of two all begin at the same slab of `each`, and a program may
    // use only their beginnings.
    uint64_t touched[SLAB_PAGES / 8]; // a byte a page
    uint32_t count = 0;
    for (size_t end = from + slabs; from + each <= end; from += each) {
        size_t at = from + (hak_hash(from) >> 32) % each;
        if (os_touched(page_arena_address(window, at), ARENA_SLAB, (unsigned char *)touched)) {
            uint32_t pages = 0;
            for (size_t i = 0; i < SLAB_PAGES / 8; i++) {
                const uint64_t in_memory = UINT64_C(0x0101010101010101);
                pages += (uint32_t)__builtin_popcountll(touched[i] & in_memory);
            }
            count += (uint32_t)each * (UINT32_C(1) << EMPTIED_SHIFT | pages);
        }
    }
    return count;
}

// Returns of how many slabs one is looked at, where `slabs` slabs are emptied at a time: a power of
// two. A look takes three system calls. For a block of many SuperSlabs one in each must do.
static size_t looked_at(size_t slabs) {
    enum { EACH = 4, LOOKS = 32 };
    size_t each = EACH;
    while (each < ARENA_SUPERSLAB_SLABS && each * LOOKS < slabs) {
        each *= 2;
    }
    return each;
}

void arena_note_emptied(const struct page_arena_window *window, size_t from, size_t slabs) {
    enum { SLABS_MOST = 1024 };
    if (PAGE_ARENA_HUGE_AGAIN == 0 || !may_be_huge()) {
        return;
    }
    size_t each = looked_at(slabs);
    for (size_t at = from, next; at < from + slabs; at = next) {
        next = hak_min(hak_round_up(at + 1, ARENA_SUPERSLAB_SLABS), from + slabs);
        size_t superslab = at / ARENA_SUPERSLAB_SLABS;
        _Atomic(uint32_t) *emptied = emptied_of(window, superslab);
        uint32_t seen = atomic_load_explicit(emptied, memory_order_relaxed);
        if (seen >> EMPTIED_SHIFT >= SLABS_MOST) {
            continue;
        }
        // When a part of a huge page goes back, the kernel leaves a table of small pages.
        const uint32_t torn = EMPTIED_LEAST << EMPTIED_SHIFT | EMPTIED_LEAST * SLAB_PAGES;
        uint32_t count = !is_huge(window, superslab)         ? count_of(window, at, next - at, each)
                         : next - at < ARENA_SUPERSLAB_SLABS ? torn
                                                             : 0;
        if (count != 0) {
            atomic_store_explicit(emptied, seen + count, memory_order_relaxed);
        }
    }
}

bool arena_is_judged(const struct page_arena_window *window, size_t superslab) {
    return atomic_load_explicit(emptied_of(window, superslab), memory_order_relaxed) >>
           EMPTIED_SHIFT >= EMPTIED_LEAST;
}

bool arena_take_was_filled(const struct page_arena_window *window, size_t superslab) {
    _Atomic(uint32_t) *emptied = emptied_of(window, superslab);
    uint32_t seen = atomic_load_explicit(emptied, memory_order_relaxed);
    atomic_store_explicit(emptied, 0, memory_order_relaxed);
    uint32_t slabs = seen >> EMPTIED_SHIFT;
    uint32_t pages = seen & ((UINT32_C(1) << EMPTIED_SHIFT) - 1);
    return slabs >= EMPTIED_LEAST && pages * 16 >= slabs * SLAB_PAGES * 13;
}
