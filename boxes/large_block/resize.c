// SPDX-License-Identifier: Apache-2.0
// resize: resizes a block at its place, moves its pages, or copies those that were touched.
#include "boxes/large_block/large_block_internal.h"

#include "backends/os.h"
#include "boxes/far_block/far_block.h"

#include <string.h>

// Build setting: 0 gives blocks that grow no more addresses than they ask for.
#ifndef HAK_LARGE_ROOM
#    define HAK_LARGE_ROOM 1
#endif

static bool is_resize_granted(const struct page_arena_window *window, const void *ptr, size_t slab,
                              size_t size) {
    if (HAK_LIKELY(size < LARGE_BLOCK_ASKED)) {
        return true;
    }
    size_t usable = large_block_usable(window, ptr, slab);
    return size <= usable || large_is_granted(size - usable);
}

// Returns the pages that a block of `size` bytes in the slabs of `meta` touches.
HAK_INLINE size_t pages_for(const struct slab *meta, size_t size) {
    size_t colour = atomic_load_explicit(&meta->colour, memory_order_relaxed);
    return (taken(size) + colour + HAK_PAGE - 1) >> HAK_PAGE_SHIFT;
}

bool large_block_stays(void *ptr, size_t slab, size_t size) {
    const struct page_arena_window window = page_arena_get_window();
    struct slab *meta = find_reached(&window, ptr, slab);
    if (meta == NULL || size > (size_t)PTRDIFF_MAX - TAIL) {
        return false;
    }
    size_t before = atomic_load_explicit(&meta->size, memory_order_relaxed);
    if (pages_for(meta, before) != pages_for(meta, size)) {
        return false;
    }
    atomic_store_explicit(&meta->size, size, memory_order_relaxed);
    write_tail(ptr, size);
    return true;
}

// Resizes a block in the arena's window at its place. This succeeds for every block that
// shrinks.
static bool resize_near(const struct page_arena_window *window, size_t slab, size_t size) {
    struct slab *meta = superslab_slab(window, slab);
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed);
    size_t room = atomic_load_explicit(&meta->room, memory_order_relaxed);
    size_t have = run - room;
    if (size > window->slabs << ARENA_SLAB_SHIFT) {
        return false;
    }
    size_t bytes = taken(size) + atomic_load_explicit(&meta->colour, memory_order_relaxed);
    size_t want = slabs_for(bytes + large_guard_bytes(size));
    if (want > have && slabs_for(bytes) <= run) {
        want = hak_max(have, slabs_for(bytes)); // The run does not grow for a guard alone.
    }
    bool zero;
    if (want > run && !page_arena_claim_at(slab + run, want - run, &zero)) {
        return false;
    }
    if (!(want == have ? large_shrink_guard(window, slab, bytes)
                       : large_drop_guard(window, slab))) {
        if (want > run) {
            page_arena_release(slab + run, want - run, !zero);
        }
        if (want >= have) {
            return false;
        }
        want = have; // A block that shrinks keeps the slabs that its guard is in.
    }
    if (want < have) {
        drop_room(meta, slab);
        run = want;
    }
    run = hak_max(run, want);
    room = want < have ? 0 : run - want;
    atomic_store_explicit(&meta->room, (uint32_t)room, memory_order_relaxed);
    atomic_store_explicit(&meta->run, run, memory_order_relaxed);
    if (want < have) {
        page_arena_release(slab + want, have - want, true);
    }
    bool grows = size >= atomic_load_explicit(&meta->size, memory_order_relaxed);
    atomic_store_explicit(&meta->size, size, memory_order_relaxed);
    large_settle_slack(window, slab, grows ? TAIL_WANTED : TAIL_UNUSED);
    write_tail(superslab_large_start(window, slab), size);
    large_set_guard(window, slab);
    return true;
}

// Returns the room, in slabs, of a block that has grown to `run` slabs: addresses without memory,
// so that the block need not be moved each time it grows. Returns 0 where addresses are scarce.
static size_t room_for(size_t run) {
    const size_t most = (size_t)1 << (30 - ARENA_SLAB_SHIFT);
    size_t room = hak_min(run, most);
    return HAK_LARGE_ROOM != 0 && page_arena_is_spacious(room) ? room : 0;
}

// Claims *run slabs to move a block to. If the block has grown before (`again`), also claims *room
// clean slabs behind them, and adds their number to *run. A block that grows for the first time
// gets no room, because many blocks that grow once would then lie far apart. Sets *zero if all
// slabs are zero. Returns ARENA_NONE if the kernel refuses memory.
static size_t claim_to_move(size_t *run, size_t *room, bool *zero, bool again) {
    *room = again ? room_for(*run) : 0;
    size_t slab = page_arena_claim(*run + *room, ARENA_SLAB, zero);
    if (slab == ARENA_NONE && *room != 0) {
        *room = 0;
        slab = page_arena_claim(*run, ARENA_SLAB, zero);
    }
    // Room with pages would hold these pages for nothing. The claim may have found a new limit.
    if (slab != ARENA_NONE && *room != 0 &&
        (!page_arena_is_spacious(0) || (!*zero && !page_arena_clean(slab + *run, *room)))) {
        page_arena_release(slab + *run, *room, false);
        *room = 0;
    }
    *run += *room;
    return slab;
}

// Copies up to PART_SLABS slabs to others. If the others are zero, pages of zeros are not copied,
// because a block may have far more pages than were ever touched. Returns how many pages were
// copied.
static size_t copy_part(char *to, const char *from, size_t slabs, bool to_is_zero) {
    unsigned char touched[PART_PAGES];
    size_t pages = slabs * (ARENA_SLAB / HAK_PAGE);
    bool known = to_is_zero && os_touched(from, pages * HAK_PAGE, touched);
    size_t copied = 0;
    for (size_t i = 0; i < pages; i++) {
        const char *page = from + i * HAK_PAGE;
        if (to_is_zero && ((known && touched[i] == 0) || hak_is_zero_page(page))) {
            continue;
        }
        memcpy(to + i * HAK_PAGE, page, HAK_PAGE);
        copied++;
    }
    return copied;
}

// Copies a run, and gives back the pages of each part once it is copied, so that the two runs
// together take hardly more memory than one. Returns true if the source is zero afterwards.
static HAK_NOINLINE bool copy_run(const struct page_arena_window *window, size_t from, size_t to,
                                  size_t slabs, bool to_is_zero) {
    bool cleaned = true;
    for (size_t at = 0; at < slabs; at += PART_SLABS) {
        size_t part = hak_min(slabs - at, (size_t)PART_SLABS);
        size_t copied = copy_part((char *)page_arena_address(window, to + at),
                                  (char *)page_arena_address(window, from + at), part, to_is_zero);
        if (copied != 0 || !to_is_zero) {
            cleaned &= page_arena_clean(from + at, part);
        }
    }
    return cleaned;
}

// Copies a block to a place that is zero, except for pages of zeros. The kernel is asked which
// pages were ever touched, but only after a page of zeros has been met. So a filled block costs no
// call, and in a sparse block no fault is taken to read an untouched page. Returns how many bytes
// were copied.
static HAK_NOINLINE size_t copy_content(char *to, const char *from, size_t bytes) {
    unsigned char touched[PART_PAGES];
    size_t known = 0, end = 0; // the bytes that `touched` is about
    bool tells = true;
    size_t copied = 0;
    for (size_t at = 0, part; at < bytes; at += part) {
        part = hak_min(HAK_PAGE - (uintptr_t)(from + at) % HAK_PAGE, bytes - at);
        bool whole = part == HAK_PAGE;
        if (whole && at < end && touched[(at - known) / HAK_PAGE] == 0) {
            continue;
        }
        if (!whole || !hak_is_zero_page(from + at)) {
            memcpy(to + at, from + at, part);
            copied += part;
        } else if (tells && at >= end && bytes - at >= 2 * HAK_PAGE) {
            known = at + HAK_PAGE;
            size_t pages = hak_min((bytes - known) / HAK_PAGE, (size_t)PART_PAGES);
            tells = os_touched(from + known, pages * HAK_PAGE, touched);
            end = tells ? known + pages * HAK_PAGE : 0;
        }
    }
    return copied;
}

// Looks at some pages of a block, from its end, which a program fills last. Returns true if all of
// these pages are zero.
static bool looks_sparse(const char *block, size_t bytes) {
    enum { LOOKS = 4 };
    const char *last = (const char *)(((uintptr_t)block + bytes) / HAK_PAGE * HAK_PAGE) - HAK_PAGE;
    size_t step = bytes / (LOOKS + 1) / HAK_PAGE * HAK_PAGE;
    bool sparse = true;
    for (size_t i = 0; i < LOOKS && sparse; i++) {
        sparse = hak_is_zero_page(last - i * step);
    }
    return sparse;
}

// Gives back the pages of a block that was just allocated. Returns true if the block is zero then.
static bool clean_new(const struct page_arena_window *window, char *block) {
    size_t slab = page_arena_slab_of(window, block);
    struct slab *meta = superslab_slab(window, slab);
    if (!page_arena_clean(slab, atomic_load_explicit(&meta->run, memory_order_relaxed))) {
        return false;
    }
    large_settle_slack(window, slab, TAIL_CLEAN);
    write_tail(block, atomic_load_explicit(&meta->size, memory_order_relaxed));
    return true;
}

// Moves a block that is too short to be moved by the page table, by a copy that leaves out pages of
// zeros. Returns NULL if the block is shorter than SPARSE_FROM (the front then copies all of it),
// or if there is no memory. In glibc's malloc, blocks of SPARSE_FROM bytes and more are mappings of
// their own, and growing them touches no page.
static void *copy_near(const struct page_arena_window *window, char *ptr, size_t slab,
                       size_t size) {
    enum { SPARSE_FROM = 128 << 10 };
    size_t bytes = superslab_large_usable(window, slab);
    bool is_zero;
    if (bytes < SPARSE_FROM || size >= LARGE_BLOCK_FAR ||
        size > window->slabs << ARENA_SLAB_SHIFT) {
        return NULL;
    }
    char *to = large_alloc_near(size, 1, LARGE_BLOCK_GROWN, &is_zero);
    if (to == NULL) {
        return NULL;
    }
    size_t copied = bytes;
    if (is_zero || (looks_sparse(ptr, bytes) && clean_new(window, to))) {
        copied = copy_content(to, ptr, bytes);
    } else {
        memcpy(to, ptr, bytes);
    }
    struct slab *meta = superslab_slab(window, slab);
    size_t run = drop_room(meta, slab);
    // If most of the block was zeros, the pages of its run are given back. A block that moved into
    // a run with pages would have to copy its own zeros as well.
    if (copied < bytes / 2 && large_drop_guard(window, slab) && page_arena_clean(slab, run)) {
        large_count_ended(meta, hak_thread_slot());
        atomic_store_explicit(&meta->kind, SLAB_NONE, memory_order_release);
        if (!large_retire_moved(slab, run)) {
            page_arena_release(slab, run, false);
        }
    } else {
        large_block_free(window, ptr, slab);
    }
    return to;
}

// Resizes a block in the arena's window by moving it: by the page table if the kernel can, else by
// a copy that leaves out pages of zeros.
static void *move_near(const struct page_arena_window *window, size_t slab, size_t size) {
    struct slab *meta = superslab_slab(window, slab);
    size_t run = used_slabs(meta);
    size_t colour = atomic_load_explicit(&meta->colour, memory_order_relaxed);
    if (size > window->slabs << ARENA_SLAB_SHIFT || run << ARENA_SLAB_SHIFT < LARGE_BLOCK_MOVE) {
        return NULL;
    }
    size_t to_run = slabs_for(taken(size) + colour + large_guard_bytes(size));
    size_t room;
    bool zero;
    bool again = (atomic_load_explicit(&meta->flags, memory_order_relaxed) & SLAB_GROWN) != 0;
    size_t to = claim_to_move(&to_run, &room, &zero, again);
    if (to == ARENA_NONE) {
        return NULL;
    }
    if (!large_drop_guard(window, slab)) {
        page_arena_release(to, to_run, !zero);
        return NULL;
    }
    bool clean = page_arena_move(slab, to, run);
    if (!clean) {
        zero = zero || page_arena_clean(to, run);
        clean = copy_run(window, slab, to, run, zero);
    }
    drop_room(meta, slab);
    unsigned slot = hak_thread_slot();
    large_count_ended(meta, slot);
    atomic_store_explicit(&meta->kind, SLAB_NONE, memory_order_release);
    if (!clean || !large_retire_moved(slab, run)) {
        page_arena_release(slab, run, !clean);
    }
    // The pages are moved as they are, so the block starts at the same line of its page.
    struct slab *moved_meta = superslab_slab(window, to);
    char *moved = large_begin(window, to, moved_meta, to_run, room, colour, size, slot, true);
    large_count_begun(window, to, moved_meta, slot, TAIL_WANTED);
    large_set_guard(window, to);
    return moved;
}

void *large_block_resize(const struct page_arena_window *window, void *ptr, size_t slab,
                         size_t size) {
    if (HAK_UNLIKELY(!is_resize_granted(window, ptr, slab, size))) {
        return NULL;
    }
    if (HAK_UNLIKELY(slab >= window->slabs)) {
        return far_block_resize(ptr, superslab_usable(size));
    }
    check_tail("realloc", ptr, superslab_large_usable(window, slab));
    if (resize_near(window, slab, size)) {
        return ptr;
    }
    void *moved = move_near(window, slab, size);
    return moved != NULL ? moved : copy_near(window, ptr, slab, size);
}

bool large_block_resize_here(const struct page_arena_window *window, void *ptr, size_t slab,
                             size_t size) {
    return is_resize_granted(window, ptr, slab, size) && slab < window->slabs &&
           resize_near(window, slab, size);
}
