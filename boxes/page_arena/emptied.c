// SPDX-License-Identifier: Apache-2.0
// emptied: estimates how full each SuperSlab was when its pages went back to the kernel.
//
// The count of a SuperSlab begins anew when the SuperSlab is put to use again as a whole. If two
// threads count at the same time, one count may be lost, which an estimate can bear.
#include "boxes/page_arena/page_arena_internal.h"

enum {
    SLAB_PAGES = ARENA_SLAB / HAK_PAGE,
    EMPTIED_SHIFT = 16, // above: slabs given back; below: pages of these that were in memory
    EMPTIED_LEAST = ARENA_SUPERSLAB_SLABS / 2, // a SuperSlab is judged by so many slabs or more
};

static _Atomic(uint32_t) *emptied_of(const struct page_arena_window *window, size_t superslab) {
    return &window->groups[superslab / ARENA_GROUP_SUPERSLABS]
                .emptied[superslab % ARENA_GROUP_SUPERSLABS];
}

// Counts the slabs [from, from + slabs) of a SuperSlab, and their pages in memory, by a look at one
// slab in `each`. Returns 0 if there are fewer than `each` slabs, or if the kernel does not tell.
static uint32_t count_of(const struct page_arena_window *window, size_t from, size_t slabs,
                         size_t each) {
    // One slab at a time, so that the list of pages fits on a signal's stack. A hash chooses the
    // slab: blocks whose sizes are powers of two all begin at the same slab of `each`, and a
    // program may use only their beginnings.
    uint64_t in[SLAB_PAGES / 8]; // one byte for each page
    uint32_t count = 0;
    for (size_t end = from + slabs; from + each <= end; from += each) {
        size_t at = from + (hak_hash(from) >> 32) % each;
        if (os_in_memory(page_arena_address(window, at), ARENA_SLAB, (unsigned char *)in)) {
            uint32_t pages = 0;
            for (size_t i = 0; i < SLAB_PAGES / 8; i++) {
                const uint64_t in_memory = UINT64_C(0x0101010101010101);
                pages += (uint32_t)__builtin_popcountll(in[i] & in_memory);
            }
            count += (uint32_t)each * (UINT32_C(1) << EMPTIED_SHIFT | pages);
        }
    }
    return count;
}

// Returns the number of slabs, a power of two, of which one is looked at when `slabs` slabs are
// emptied at a time. A look takes a system call: of a long run, only one slab in each
// SuperSlab is looked at.
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
        // When a part of a huge page goes back, the kernel leaves a table of small pages, which
        // would keep a huge page out. Such a SuperSlab counts as full.
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
