// SPDX-License-Identifier: Apache-2.0
// rights: keeps, as bits, what the kernel lets the process do with each SuperSlab.
#include "boxes/page_arena/page_arena_internal.h"

#include "boxes/atomic_bitmap/atomic_bitmap.h"

// Returns how many SuperSlabs from `superslab` on have no rights, and none of them a slab that may
// be gone, up to `most`.
static size_t count_whole(const struct page_arena_window *window, size_t superslab, size_t most) {
    size_t count = 0;
    while (count < most) {
        size_t at = superslab + count;
        const struct page_arena_group *group = &window->groups[at / 64];
        uint64_t word = (atomic_load_explicit(&group->committed, memory_order_relaxed) |
                         atomic_load_explicit(&group->lost, memory_order_relaxed)) >>
                        at % 64;
        if (word != 0) {
            count += (size_t)__builtin_ctzll(word);
            break;
        }
        count += 64 - at % 64;
    }
    return hak_min(count, most);
}

// A run of slabs that are gone, in one word.
struct gone {
    size_t from, count; // count 0: there is none
};

// Returns the first such run in [from, end); an empty one at `end` if there is none.
static struct gone find_gone(const struct page_arena_window *window, size_t from, size_t end) {
    while (from < end) {
        uint64_t bits =
            atomic_load_explicit(gone_word(window, from / 64), memory_order_relaxed) >> from % 64;
        if (bits != 0) {
            size_t first = hak_min(from + (size_t)__builtin_ctzll(bits), end);
            bits >>= __builtin_ctzll(bits);
            size_t count = bits == ~UINT64_C(0) ? 64 : (size_t)__builtin_ctzll(~bits);
            return (struct gone){first, hak_min(count, end - first)};
        }
        from = (from / 64 + 1) * 64;
    }
    return (struct gone){end, 0};
}

bool arena_any_gone(const struct page_arena_window *window, size_t from, size_t slabs) {
    return find_gone(window, from, from + slabs).count != 0;
}

static enum os_result map_gone(const struct page_arena_window *window, struct gone gone) {
    char *start = page_arena_address(window, gone.from);
    enum os_result result = os_map(start, gone.count << ARENA_SLAB_SHIFT, NULL);
    if (result == OS_OK) {
        atomic_bitmap_clear_run(gone_word(window, gone.from / 64), gone.from % 64, gone.count);
    } else if (result == OS_TAKEN && gone.count > 1) {
        // Something else is mapped in a part of the range; the other slabs are good.
        for (size_t i = 0; i < gone.count; i++) {
            if (map_gone(window, (struct gone){gone.from + i, 1}) == OS_NO_MEMORY) {
                return OS_NO_MEMORY;
            }
        }
    }
    return result;
}

// Maps all slabs of [from, end) that are gone.
static enum os_result map_all_gone(const struct page_arena_window *window, size_t from,
                                   size_t end) {
    enum os_result result = OS_OK;
    struct gone gone = find_gone(window, from, end);
    while (gone.count != 0 && result == OS_OK) {
        result = map_gone(window, gone);
        gone = find_gone(window, gone.from + gone.count, end);
    }
    return result;
}

// As above, for those SuperSlabs of group `index` whose bits are set in `lost`. (Not inlined,
// because it is rarely called, and stacks of signals are small.)
static HAK_NOINLINE enum os_result map_lost_of(const struct page_arena_window *window, size_t index,
                                               uint64_t lost, size_t from, size_t end) {
    for (; lost != 0; lost &= lost - 1) {
        size_t superslab =
            index * ARENA_GROUP_SLABS + (size_t)__builtin_ctzll(lost) * ARENA_SUPERSLAB_SLABS;
        size_t start = hak_max(superslab, from);
        size_t stop = hak_min(superslab + ARENA_SUPERSLAB_SLABS, end);
        enum os_result result = map_all_gone(window, start, stop);
        if (result != OS_OK) {
            return result;
        }
        if (stop - start == ARENA_SUPERSLAB_SLABS) {
            atomic_fetch_and(&window->groups[index].lost, ~(lost & -lost));
        }
    }
    return OS_OK;
}

enum os_result arena_map_lost(const struct page_arena_window *window, size_t from, size_t slabs) {
    enum os_result result = OS_OK;
    for (size_t at = from, end = from + slabs; at < end && result == OS_OK; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        uint64_t lost = atomic_load_explicit(&part.group->lost, memory_order_relaxed) &
                        superslab_mask(part.first, part.count);
        if (HAK_UNLIKELY(lost != 0)) {
            result = map_lost_of(window, part.index, lost, from, end);
        }
    }
    return result;
}

void arena_mark_lost(const struct page_arena_window *window, size_t from, size_t slabs) {
    for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_ensure_run(part.group->gone, part.first, part.count);
        atomic_bitmap_put(&part.group->lost, superslab_mask(part.first, part.count));
    }
}

void arena_put_mapped(const struct page_arena_window *window, size_t from, size_t slabs) {
    for (size_t at = from, end = from + slabs; at < end;) {
        struct gone gone = find_gone(window, at, end);
        if (gone.from > at) {
            arena_put_avail(window, at, gone.from - at, true);
        }
        at = gone.from + gone.count;
    }
}

void arena_look_at_limits(void) {
    // Above, no run that a purge gives back (4 MiB at most) would be worth unmapping.
    const size_t most = (size_t)16 << 30;
    size_t limit = 0;
    if (!page_arena_is_tight()) {
        limit = hak_min(os_address_limit(), os_data_limit());
        bool limited = limit != SIZE_MAX;
        if (atomic_load_explicit(&arena_state.limited, memory_order_relaxed) != limited) {
            atomic_store_explicit(&arena_state.limited, limited, memory_order_relaxed);
        }
        limit = !HAK_HEADER && limit <= most ? limit : 0;
    }
    if (atomic_load_explicit(&arena_state.limit, memory_order_relaxed) != limit) {
        atomic_store_explicit(&arena_state.limit, limit, memory_order_relaxed);
    }
}

bool page_arena_is_spacious(size_t slabs) {
    enum { MANY = (16 << 20) / ARENA_SLAB };
    if (slabs >= MANY) {
        arena_look_at_limits();
    }
    return arena_is_spacious();
}

void arena_mark_huge(const struct page_arena_window *window, size_t from, size_t slabs) {
    for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_put(&part.group->huge, superslab_mask(part.first, part.count));
    }
}

void arena_mark_meta(const struct page_arena_window *window, size_t index, uint64_t superslabs) {
    atomic_bitmap_put(&window->groups[index].meta_used, superslabs);
    atomic_bitmap_ensure_run(&window->regions[index / ARENA_REGION_GROUPS].meta,
                             index % ARENA_REGION_GROUPS, 1);
}

void arena_mark_committed(const struct page_arena_window *window, size_t index,
                          uint64_t superslabs) {
    atomic_bitmap_put(&window->groups[index].committed, superslabs);
    if (is_charged()) { // so that a purge visits the SuperSlabs, and takes their rights
        arena_mark_meta(window, index, superslabs);
    }
}

// Gives the held slabs [from, end) of a SuperSlab without rights their rights back, if the kernel
// can do so only by a new mapping, which empties slabs that have rights already. If the rest of the
// SuperSlab can be held meanwhile, and is not gone, the whole SuperSlab gets rights. Otherwise the
// slabs of others are left alone and the SuperSlab is not marked, so the next claims of its slabs
// do the same.
static bool commit_held(const struct page_arena_window *window, size_t from, size_t end) {
    size_t superslab = from / ARENA_SUPERSLAB_SLABS;
    size_t first = superslab * ARENA_SUPERSLAB_SLABS;
    size_t last = first + ARENA_SUPERSLAB_SLABS;
    bool below = try_claim(window, first, from - first);
    bool rest = below && try_claim(window, end, last - end);
    // Where slabs are gone, another mapping may be by now, which must not be replaced.
    bool whole = rest && !arena_any_gone(window, first, ARENA_SUPERSLAB_SLABS);
    size_t start = whole ? first : from;
    size_t stop = whole ? last : end;
    bool done = os_commit_alone(page_arena_address(window, start),
                                (stop - start) << ARENA_SLAB_SHIFT) == OS_OK;
    if (done && whole) {
        arena_mark_committed(window, superslab / ARENA_GROUP_SUPERSLABS,
                             UINT64_C(1) << superslab % ARENA_GROUP_SUPERSLABS);
    }
    if (below && from > first) {
        arena_put_avail(window, first, from - first, true);
    }
    if (rest && last > end) {
        arena_put_avail(window, end, last - end, true);
    }
    return done;
}

// The slabs [from, end) of a claim.
struct held {
    size_t from, end;
};

// Gives held slabs of a SuperSlab without rights their rights back, and leaves its other slabs
// alone, which may be gone.
static bool commit_part(const struct page_arena_window *window, struct held part) {
    enum os_result result = os_commit(page_arena_address(window, part.from),
                                      (part.end - part.from) << ARENA_SLAB_SHIFT);
    return result == OS_TAKEN ? commit_held(window, part.from, part.end) : result == OS_OK;
}

// Gives `count` SuperSlabs without rights, in which the slabs `held` are, their rights back in one
// call, or only the first SuperSlab if that takes a new mapping. A count of 0 stands for a
// SuperSlab of which slabs may be gone. Returns how many SuperSlabs are done; 0 if the kernel
// refuses.
static size_t commit_some(const struct page_arena_window *window, size_t superslab, size_t count,
                          struct held held, bool huge) {
    size_t from = superslab * ARENA_SUPERSLAB_SLABS;
    size_t end = from + count * ARENA_SUPERSLAB_SLABS;
    char *start = page_arena_address(window, from);
    struct held part = {hak_max(from, held.from), hak_min(from + ARENA_SUPERSLAB_SLABS, held.end)};
    if (count == 0) {
        return commit_part(window, part) ? 1 : 0;
    }
    enum os_result result = os_commit(start, count * ARENA_SUPERSLAB);
    if (result == OS_TAKEN) {
        return commit_held(window, part.from, part.end) ? 1 : 0;
    }
    if (result != OS_OK) {
        return 0;
    }
    if (huge || settings_get(SETTING_THP) == 1) {
        os_huge_pages(start, count * ARENA_SUPERSLAB, true);
        arena_mark_huge(window, from, end - from);
    }
    for (size_t at = from; at < end; at = next_group(at)) {
        struct group_part one = group_part(window, at, end);
        arena_mark_committed(window, one.index, superslab_mask(one.first, one.count));
    }
    return count;
}

enum os_result arena_commit(const struct page_arena_window *window, size_t from, size_t slabs,
                            bool huge) {
    enum os_result result = arena_map_lost(window, from, slabs);
    if (result != OS_OK) {
        return result;
    }
    size_t last = (from + slabs - 1) / ARENA_SUPERSLAB_SLABS;
    for (size_t i = from / ARENA_SUPERSLAB_SLABS; i <= last;) {
        uint64_t has =
            atomic_load_explicit(&window->groups[i / 64].committed, memory_order_relaxed) >> i % 64;
        if ((has & 1) != 0) {
            i += has == ~UINT64_C(0) ? 64 : (size_t)__builtin_ctzll(~has);
            continue;
        }
        size_t most = count_whole(window, i, last - i + 1);
        size_t count = commit_some(window, i, most, (struct held){from, from + slabs}, huge);
        if (count == 0) {
            return OS_NO_MEMORY;
        }
        i += count;
    }
    return OS_OK;
}
