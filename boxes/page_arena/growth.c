// SPDX-License-Identifier: Apache-2.0
// growth: maps more slabs when the heap has too few.
//
// New slabs are readable and writable. The heap grows by a SuperSlab at a time, and by less while
// it is small or after the kernel has refused memory. The slabs of a SuperSlab are mapped in order,
// and its metadata with the first one. A thread that maps slabs takes their SuperSlabs, and leaves
// them afterwards. A SuperSlab stays taken for good once all of it is available, or if a foreign
// mapping is in the way.
//
// If address space costs the process nothing, a large heap is mapped ahead of its need, an eighth
// of its size at a time, because a system call for each SuperSlab would take longer than the rest
// of a growth. SuperSlabs that are mapped ahead have no pages and are not available. A growth makes
// them available, one at a time, as if it had mapped them.
#include "boxes/page_arena/page_arena_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"

// Build setting: the most SuperSlabs that are mapped ahead. 0: none.
#ifndef PAGE_ARENA_AHEAD
#    define PAGE_ARENA_AHEAD 32
#endif
enum { AHEAD_SHARE = 8 }; // one part in so many of the heap is mapped ahead

static atomic_bitmap_word *taken_word(const struct page_arena_window *window, size_t group) {
    return &window->regions[group / ARENA_REGION_GROUPS].taken[group % ARENA_REGION_GROUPS];
}

// Returns the SuperSlabs of a group that are taken, as bits.
static uint64_t taken_in(const struct page_arena_window *window, size_t group) {
    if (is_group_open(group)) {
        return atomic_load(taken_word(window, group));
    }
    return atomic_bitmap_test(arena_control.begun, group / PIECE_GROUPS) ? ~UINT64_C(0) : 0;
}

static void leave_superslabs(const struct page_arena_window *window, size_t first, size_t end) {
    for (size_t s = first; s < end; s++) {
        atomic_fetch_and(taken_word(window, s / ARENA_GROUP_SUPERSLABS),
                         ~(UINT64_C(1) << s % ARENA_GROUP_SUPERSLABS));
    }
}

// Takes the SuperSlabs [first, last] in order to map slabs of them, from slab `from` on. Returns
// false, and takes none, if one of them is taken already, or if other slabs of one are mapped than
// those below `from`.
static bool take_superslabs(const struct page_arena_window *window, size_t from, size_t first,
                            size_t last) {
    for (size_t s = first; s <= last; s++) {
        uint64_t bit = UINT64_C(1) << s % ARENA_GROUP_SUPERSLABS;
        if ((atomic_bitmap_put(taken_word(window, s / ARENA_GROUP_SUPERSLABS), bit) & bit) != 0) {
            leave_superslabs(window, first, s); // another thread was faster
            return false;
        }
        if (mapped_in(window, s) != (s == first ? from % ARENA_SUPERSLAB_SLABS : 0)) {
            leave_superslabs(window, first, s + 1);
            return false;
        }
    }
    return true;
}

// Returns true if all slabs of a SuperSlab are mapped, whether they are available or not.
static bool is_whole(const struct page_arena_window *window, size_t superslab) {
    size_t group = superslab / ARENA_GROUP_SUPERSLABS;
    return is_group_open(group) &&
           atomic_bitmap_test(&window->groups[group].whole, superslab % ARENA_GROUP_SUPERSLABS);
}

// Returns the first slab in [from, end) for whose SuperSlab is_whole() returns `whole`, or `end`.
static size_t find_whole(const struct page_arena_window *window, size_t from, size_t end,
                         bool whole) {
    while (from < end && is_whole(window, from / ARENA_SUPERSLAB_SLABS) != whole) {
        from = (from / ARENA_SUPERSLAB_SLABS + 1) * ARENA_SUPERSLAB_SLABS;
    }
    return hak_min(from, end);
}

// Maps the slabs [from, end) of SuperSlabs that the caller has taken.
static enum os_result ask_for(const struct page_arena_window *window, size_t from, size_t end) {
    size_t fresh = hak_round_up(from, ARENA_SUPERSLAB_SLABS) / ARENA_SUPERSLAB_SLABS;
    size_t last = hak_round_up(end, ARENA_SUPERSLAB_SLABS) / ARENA_SUPERSLAB_SLABS;
    char *meta = window->meta + fresh * ARENA_SUPERSLAB_META;
    size_t meta_bytes = (last - fresh) * ARENA_SUPERSLAB_META;
    enum os_result result = meta_bytes == 0 ? OS_OK : os_map(meta, meta_bytes, NULL);
    if (result != OS_OK) {
        return result;
    }
    char *start = page_arena_address(window, from);
    size_t bytes = (end - from) << ARENA_SLAB_SHIFT;
    result = page_arena_is_tight() ? os_reserve(start, bytes, NULL) : os_map(start, bytes, NULL);
    if (result != OS_OK) {
        if (meta_bytes != 0) {
            os_release(meta, meta_bytes);
        }
        return result;
    }
    for (size_t s = from / ARENA_SUPERSLAB_SLABS; s < end / ARENA_SUPERSLAB_SLABS; s++) {
        atomic_bitmap_put(&window->groups[s / ARENA_GROUP_SUPERSLABS].whole,
                          UINT64_C(1) << s % ARENA_GROUP_SUPERSLABS);
    }
    return OS_OK;
}

// Maps those of the slabs [from, end) that are not mapped ahead. The caller has taken their
// SuperSlabs.
static HAK_NOINLINE enum os_result map_rest(const struct page_arena_window *window, size_t from,
                                            size_t end) {
    enum os_result result = OS_OK;
    for (size_t at = find_whole(window, from, end, false); at < end && result == OS_OK;) {
        size_t stop = find_whole(window, at, end, true);
        result = ask_for(window, at, stop);
        at = find_whole(window, stop, end, false);
    }
    return result;
}

// Makes mapped slabs available. (Not inlined, so that its locals are not on the stack during the
// system calls of the caller.)
static HAK_NOINLINE void make_available(const struct page_arena_window *window, size_t from,
                                        size_t end, bool huge) {
    if (huge || settings_get(SETTING_THP) == 1) {
        os_huge_pages(page_arena_address(window, from), (end - from) << ARENA_SLAB_SHIFT, true);
        arena_mark_huge(window, from, end - from);
    }
    atomic_fetch_add_explicit(&arena_state.reserved, (end - from) << ARENA_SLAB_SHIFT,
                              memory_order_relaxed);
    for (size_t at = from; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_put_run(part.group->mapped, part.first, part.count);
        arena_mark_committed(window, part.index, superslab_mask(part.first, part.count));
    }
    load_max(&arena_state.high, hak_round_up(end, 64));
    atomic_fetch_add_explicit(&arena_state.growths, 1, memory_order_release);
    arena_put_avail(window, from, end - from, false);
}

// Maps the slabs [from, end) of SuperSlabs that the caller has taken, and makes them available.
static enum os_result map_slabs(const struct page_arena_window *window, size_t from, size_t end,
                                bool huge) {
    enum os_result result = map_rest(window, from, end);
    if (result == OS_OK) {
        make_available(window, from, end, huge);
    }
    return result;
}

// Maps the slabs [from, end); `from` is the first slab of its SuperSlab that is not mapped. Returns
// OS_NO_MEMORY if the kernel refuses; some of the slabs may be available then. Returns OS_TAKEN if
// another thread or a foreign mapping was in the way. The caller then searches again: a SuperSlab
// with a foreign mapping stays taken, so that the search passes it.
static enum os_result extend(const struct page_arena_window *window, size_t from, size_t end,
                             bool huge) {
    for (size_t piece = from / PIECE_SLABS; piece <= (end - 1) / PIECE_SLABS; piece++) {
        enum os_result opened = arena_open_piece(window, piece);
        if (opened != OS_OK) {
            return opened;
        }
    }
    // Pieces that an alignment skipped are opened too, so that page_arena_mapped() covers the new
    // slabs.
    for (size_t piece = page_arena_mapped() / PIECE_SLABS; piece < from / PIECE_SLABS; piece++) {
        arena_open_piece(window, piece);
    }
    size_t first = from / ARENA_SUPERSLAB_SLABS;
    size_t last = (end - 1) / ARENA_SUPERSLAB_SLABS;
    if (!take_superslabs(window, from, first, last)) {
        return OS_TAKEN;
    }
    enum os_result result = map_slabs(window, from, end, huge);
    if (result == OS_TAKEN && first != last) {
        // Something is in the way of one SuperSlab. Map the others one by one.
        for (size_t s = first; s <= last; s++) {
            size_t start = hak_max(from, s * ARENA_SUPERSLAB_SLABS);
            size_t stop = hak_min(end, (s + 1) * ARENA_SUPERSLAB_SLABS);
            enum os_result one = map_slabs(window, start, stop, huge);
            if (one == OS_NO_MEMORY) {
                leave_superslabs(window, s, last + 1);
                return OS_NO_MEMORY;
            }
            if (one == OS_OK && stop % ARENA_SUPERSLAB_SLABS != 0) {
                leave_superslabs(window, s, s + 1);
            }
        }
    } else if (result == OS_NO_MEMORY) {
        leave_superslabs(window, first, last + 1);
    } else if (result == OS_OK && end % ARENA_SUPERSLAB_SLABS != 0) {
        leave_superslabs(window, last, last + 1);
    }
    return result;
}

// Returns true if no slab of a SuperSlab is mapped, and no thread is about to map any.
static bool is_untouched(const struct page_arena_window *window, size_t superslab) {
    size_t group = superslab / ARENA_GROUP_SUPERSLABS;
    return superslab < window->slabs / ARENA_SUPERSLAB_SLABS && is_group_open(group) &&
           (taken_in(window, group) >> superslab % ARENA_GROUP_SUPERSLABS & 1) == 0 &&
           mapped_in(window, superslab) == 0 && !is_whole(window, superslab);
}

// Maps SuperSlabs ahead, from slab `end` on, which the heap has just grown to. Maps none if the
// kernel gives new mappings their pages at once (mlockall(MCL_FUTURE)).
static HAK_NOINLINE void map_ahead(const struct page_arena_window *window, size_t end) {
    size_t most = atomic_load_explicit(&arena_state.reserved, memory_order_relaxed) / AHEAD_SHARE;
    size_t first = end / ARENA_SUPERSLAB_SLABS;
    size_t count = 0;
    most = hak_min(most >> ARENA_SUPERSLAB_SHIFT, PAGE_ARENA_AHEAD);
    while (count < most && is_untouched(window, first + count)) {
        count++;
    }
    if (count == 0) {
        return;
    }
    arena_look_at_limits(); // A growth into SuperSlabs that were mapped ahead has not looked.
    if (arena_is_spacious() && os_is_absent((char *)page_arena_address(window, end) - HAK_PAGE) &&
        take_superslabs(window, end, first, first + count - 1)) {
        // If the kernel refuses, the growth that needs the SuperSlabs asks again.
        ask_for(window, end, end + count * ARENA_SUPERSLAB_SLABS);
        leave_superslabs(window, first, first + count);
    }
}

// Returns where a growth to `end` should end instead: at the end of the last SuperSlab, but no more
// than a step further than is needed. The step is a quarter of the heap, or the share of the heap
// that may be mapped ahead. `most` bounds the quarter.
static HAK_NOINLINE size_t round_growth(const struct page_arena_window *window, size_t from,
                                        size_t end, size_t most) {
    if (find_whole(window, from, end, false) != end) {
        arena_look_at_limits();
    }
    size_t mapped =
        atomic_load_explicit(&arena_state.reserved, memory_order_relaxed) >> ARENA_SLAB_SHIFT;
    size_t step = hak_min(hak_max(mapped / 4, STEP_FIRST), most);
    bool ahead = most == STEP_MOST && arena_is_spacious();
    size_t bound = hak_max(from + step, ahead ? end + mapped / AHEAD_SHARE : end);
    return hak_min(hak_round_up(end, ARENA_SUPERSLAB_SLABS), bound);
}

// As extend(), to an end that is rounded up. A refusal makes the step small, so that the next
// growth does not ask in vain for memory that the heap does not need yet.
static enum os_result extend_rounded(const struct page_arena_window *window, size_t from,
                                     size_t end, bool huge) {
    size_t most = atomic_load_explicit(&arena_state.step, memory_order_relaxed);
    size_t more = round_growth(window, from, end, most);
    enum os_result result = extend(window, from, more, huge);
    if (result == OS_OK && most < STEP_MOST) {
        atomic_store_explicit(&arena_state.step, most * 2, memory_order_relaxed);
    } else if (result == OS_NO_MEMORY) {
        atomic_store_explicit(&arena_state.step, STEP_LEAST, memory_order_relaxed);
        if (more > end) {
            result = extend(window, from, end, huge);
        }
    }
    if (result == OS_OK && most == STEP_MOST && more % ARENA_SUPERSLAB_SLABS == 0 &&
        arena_is_spacious()) {
        map_ahead(window, more);
    }
    return result;
}

// Counts the available slabs right before `slab`, up to `most`.
static size_t free_below(const struct page_arena_window *window, size_t slab, size_t most) {
    size_t count = 0;
    while (count < most && slab > count && page_arena_reaches(slab - count - 1)) {
        size_t last = slab - count - 1;
        uint64_t bits = atomic_load(avail_word(window, last / 64)) << (63 - last % 64);
        size_t ones = bits == ~UINT64_C(0) ? 64 : (size_t)__builtin_clzll(~bits);
        count += ones;
        if (ones < last % 64 + 1) {
            break;
        }
    }
    return hak_min(count, most);
}

// Slabs [from, end) to be mapped.
struct room {
    size_t from, end;
};

// Finds the lowest slabs to map so that there are `slabs` adjacent, aligned available slabs. None
// of them is below the SuperSlab in which that run starts, however large the alignment. Returns
// false if the window has no such room.
static bool find_room(const struct page_arena_window *window, size_t slabs, size_t align,
                      struct room *room) {
    enum { EACH = ARENA_SUPERSLAB_SLABS };
    size_t step = align >> ARENA_SLAB_SHIFT;
    size_t origin = ((uintptr_t)window->base >> ARENA_SLAB_SHIFT) & (step - 1);
    size_t superslabs = window->slabs / EACH;
    size_t end = 0; // the SuperSlab behind the run, if all before it can be taken; 0: no run yet
    for (size_t s = arena_first_superslab(window); s < superslabs; s++) {
        uint64_t taken = taken_in(window, s / ARENA_GROUP_SUPERSLABS);
        if (s % ARENA_GROUP_SUPERSLABS == 0 && taken == ~UINT64_C(0)) {
            end = 0;
            s += ARENA_GROUP_SUPERSLABS - 1;
            continue;
        }
        if ((taken >> s % ARENA_GROUP_SUPERSLABS & 1) != 0) {
            end = 0;
            continue;
        }
        size_t mapped = mapped_in(window, s);
        if (end == 0 || mapped != 0) {
            size_t from = hak_round_up(s * EACH + mapped + origin, step) - origin;
            if (from >= window->slabs || slabs > window->slabs - from) {
                break;
            }
            if (from / EACH > s) { // The search goes on at that SuperSlab, which may be taken.
                end = 0;
                s = from / EACH - 1;
                continue;
            }
            size_t below = step == 1 ? free_below(window, from, slabs - 1) : 0;
            *room = (struct room){s * EACH + mapped, from + slabs - below};
            end = (room->end + EACH - 1) / EACH;
        }
        if (s + 1 == end) {
            return true;
        }
    }
    return false;
}

enum os_result arena_grow(const struct page_arena_window *window, size_t slabs, size_t align,
                          bool huge) {
    struct room room = {0, 0};
    return find_room(window, slabs, align, &room)
               ? extend_rounded(window, room.from, room.end, huge)
               : OS_NO_MEMORY;
}

bool arena_grow_at(const struct page_arena_window *window, size_t from, size_t slabs, bool huge) {
    size_t end = from + slabs;
    size_t start = from;
    while (start < end) {
        size_t superslab = start / ARENA_SUPERSLAB_SLABS;
        size_t stop = superslab * ARENA_SUPERSLAB_SLABS + mapped_in(window, superslab);
        if (stop <= start) {
            break;
        }
        start = stop;
        if (stop % ARENA_SUPERSLAB_SLABS != 0) {
            break;
        }
    }
    start = hak_min(start, end);
    return start < end && arena_all_avail(window, from, start - from) &&
           extend_rounded(window, start, end, huge) == OS_OK;
}
