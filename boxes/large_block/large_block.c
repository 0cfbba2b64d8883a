// SPDX-License-Identifier: Apache-2.0
// large_block: claims a block's run, chooses the line that the block starts at, and frees it.
#include "boxes/large_block/large_block_internal.h"

#include "backends/os.h"
#include "boxes/base/alone.h"
#include "boxes/far_block/far_block.h"
#include "boxes/settings/settings.h"

// Build setting: 0 starts every block at the start of a slab. The header strategy needs that: it
// would take the byte in front of a block, which belongs to the block's run, for a header.
#ifndef HAK_LARGE_COLOURS
#    define HAK_LARGE_COLOURS (HAK_HEADER == 0)
#endif

// Build setting: as long as there are at most so many blocks, they start at different lines;
// further blocks start at a page.
#ifndef HAK_LARGE_COLOURED_MOST
#    define HAK_LARGE_COLOURED_MOST 1024
#endif

// Build setting: 0: if another thread than the one that allocated a block frees it, its slabs are
// released and not set aside.
#ifndef HAK_LARGE_TO_OWNER
#    define HAK_LARGE_TO_OWNER 1
#endif

// If all blocks started at a page, their first lines would share a few sets of the processor's
// cache, and a program that uses many blocks at once would keep only few of these lines. So blocks
// start at different lines of their first page, where their run has bytes to spare. Blocks of
// ROOM_FROM bytes or more, and blocks that grow, get a slab more for that if they need it; but not
// under HAKMEM_LIMIT, which counts whole slabs.
enum { COLOURS_BYTES = HAK_PAGE - HAK_CACHE_LINE, ROOM_FROM = 256 << 10 };

void large_block_round_to_pages(void) {
    if (!HAK_HARDENED) {
        HAK_POKE(&superslab_grain, (size_t)HAK_PAGE);
    }
}

// Returns true if a block is to start at a line of its own. That costs a page more if only the
// block's first pages are used. If there are more blocks than a first-level cache has lines, a
// program does not use all of them at once, and few of them would gain.
static bool is_coloured(size_t align) {
    return align <= HAK_CACHE_LINE && HAK_LARGE_COLOURS != 0 &&
           large_live() < HAK_LARGE_COLOURED_MOST;
}

size_t large_block_good_size(size_t size) {
    return superslab_usable(size);
}

static size_t colour_of(size_t slab, size_t room) {
    uint64_t hash = hak_hash(slab) >> 32;
    uint64_t lines = hak_min((size_t)COLOURS_BYTES, room) / HAK_CACHE_LINE + 1;
    return (hash * lines >> 32) * HAK_CACHE_LINE;
}

// Claims a run that was not set aside.
static HAK_NOINLINE size_t claim(size_t size, size_t run, size_t align, enum large_block_use use,
                                 bool *zero) {
    // A block of one or more SuperSlabs may be a sparse table, in particular one of calloc's.
    // Shorter blocks are mostly filled, but a block that does not fill its last slab leaves the
    // rest of that slab unused.
    size_t bytes = run << ARENA_SLAB_SHIFT;
    bool whole = run >= ARENA_SUPERSLAB_SLABS;
    if (!whole && size >= bytes / 16 * 15) {
        return page_arena_claim_filled(run, align, zero);
    }
    return (whole ? use != LARGE_BLOCK_ZERO : size >= bytes / 4 * 3)
               ? page_arena_claim_again(run, align, zero)
               : page_arena_claim(run, align, zero);
}

// Takes a run that was set aside for the thread, or else claims one.
static size_t take(size_t size, size_t run, size_t align, enum large_block_use use, bool *zero) {
    size_t slab = align <= ARENA_SLAB ? page_arena_reuse(run) : ARENA_NONE;
    *zero = false;
    return HAK_LIKELY(slab != ARENA_NONE) ? slab : claim(size, run, align, use, zero);
}

void *large_alloc_near(size_t asked, size_t align, enum large_block_use use, bool *is_zero) {
    size_t size = taken(asked);
    bool coloured = is_coloured(align);
    bool room = coloured && (size >= ROOM_FROM || use == LARGE_BLOCK_GROWN) &&
                settings_get(SETTING_LIMIT) == 0;
    size_t guard = large_guard_bytes(asked);
    size_t run = slabs_for(size + guard + (room ? COLOURS_BYTES : 0));
    size_t least = slabs_for(size);
    size_t slab = take(size, run, align, use, is_zero);
    if (HAK_UNLIKELY(slab == ARENA_NONE && run > least)) {
        run = least;
        slab = take(size, run, align, use, is_zero);
    }
    if (HAK_UNLIKELY(slab == ARENA_NONE)) {
        return NULL;
    }
    struct page_arena_window room_for_one;
    const struct page_arena_window *window = page_arena_the_window(&room_for_one);
    size_t rest = (run << ARENA_SLAB_SHIFT) - size;
    size_t colour = coloured ? colour_of(slab, rest - hak_min(rest, guard)) : 0;
    if (use == LARGE_BLOCK_ZERO &&
        !large_make_zero((char *)page_arena_address(window, slab) + colour, size, slab, run,
                         is_zero)) {
        return NULL;
    }
    struct slab *meta = superslab_slab(window, slab);
    unsigned slot = hak_thread_slot();
    char *block =
        large_begin(window, slab, meta, run, 0, colour, asked, slot, use == LARGE_BLOCK_GROWN);
    large_count_begun(window, slab, meta, slot,
                      *is_zero                   ? TAIL_CLEAN
                      : use == LARGE_BLOCK_GROWN ? TAIL_WANTED
                                                 : TAIL_UNUSED);
    large_set_guard(window, slab);
    return block;
}

// The heap is mapped without commitment, so the kernel is asked for blocks of GiBs first: a program
// that wants more than the machine has should get NULL, and not meet the OOM killer later. (Under a
// limit on address space that question would be refused even for blocks that fit into what is
// mapped.)
bool large_is_granted(size_t size) {
    return size < LARGE_BLOCK_ASKED || os_would_grant(hak_round_up(size, HAK_PAGE)) == OS_OK ||
           os_address_limit() != SIZE_MAX;
}

// Allocates a block of FAR_BLOCK_LEAST bytes or more.
static HAK_NOINLINE void *alloc_huge(size_t size, size_t align, enum large_block_use use) {
    if (size > (size_t)PTRDIFF_MAX - TAIL || !large_is_granted(size)) {
        return NULL;
    }
    bool may_be_far = settings_get(SETTING_LIMIT) == 0;
    void *block = NULL;
    if (may_be_far && size >= LARGE_BLOCK_FAR) {
        block = far_block_alloc(superslab_usable(size), align);
    }
    if (block == NULL) {
        bool is_zero;
        block = large_alloc_near(size, align, use, &is_zero);
    }
    // The kernel may have room for the block even if the window has none.
    if (block == NULL && may_be_far && size < LARGE_BLOCK_FAR) {
        block = far_block_alloc(superslab_usable(size), align);
    }
    return block;
}

void *large_block_alloc(size_t size, size_t align, enum large_block_use use) {
#if HAK_HARDENED
    hardening_prepare();
#endif
    if (HAK_UNLIKELY(!page_arena_init())) {
        return NULL;
    }
    static_assert((size_t)FAR_BLOCK_LEAST <= (size_t)LARGE_BLOCK_ASKED, "the kernel is asked");
    if (HAK_UNLIKELY(size >= FAR_BLOCK_LEAST)) {
        return alloc_huge(size, align, use);
    }
    bool is_zero;
    return large_alloc_near(size, align, use, &is_zero);
}

static struct slab *find(const struct page_arena_window *window, const void *ptr, size_t slab) {
    return slab < window->slabs && page_arena_reaches(slab) ? find_reached(window, ptr, slab)
                                                            : NULL;
}

bool large_block_free(const struct page_arena_window *window, void *ptr, size_t slab) {
    if (HAK_UNLIKELY(slab >= window->slabs)) {
        return far_block_free(ptr);
    }
    return page_arena_reaches(slab) && large_block_free_reached(ptr, slab);
}

bool large_block_free_reached(void *ptr, size_t slab) {
    struct page_arena_window room;
    struct slab *meta = find_reached(page_arena_the_window(&room), ptr, slab);
    if (HAK_UNLIKELY(meta == NULL)) {
        return false;
    }
    check_tail(DIAG_CALL_FREE, ptr, atomic_load_explicit(&meta->size, memory_order_relaxed));
    if (!hak_step_swap_byte(&meta->kind, SLAB_LARGE, SLAB_NONE)) {
        return false;
    }
    unsigned slot = hak_thread_slot();
    large_count_ended(meta, slot);
    // The run is read after the exchange, not before: if two threads free a block, the second one
    // may meet the next block there, of another length.
    size_t run = drop_room(meta, slab);
    if (large_retire(ptr, atomic_load_explicit(&meta->size, memory_order_relaxed), slab, run)) {
        return true;
    }
    // The thread that allocated the block is more likely than this thread to ask for a block of
    // that size again. If they are two threads, they share only one cache line, that of the run
    // cache.
    unsigned owner = atomic_load_explicit(&meta->owner, memory_order_relaxed);
    if (run << ARENA_SLAB_SHIFT >= LARGE_BLOCK_EAGER) {
        page_arena_discard(slab, run);
    } else if (HAK_LARGE_TO_OWNER != 0 || owner == slot) {
        page_arena_set_aside(slab, run, owner);
    } else {
        page_arena_release(slab, run, true);
    }
    return true;
}

size_t large_block_usable(const struct page_arena_window *window, const void *ptr, size_t slab) {
    if (HAK_UNLIKELY(slab >= window->slabs)) {
        return far_block_usable(ptr);
    }
    return find(window, ptr, slab) == NULL ? 0 : superslab_large_usable(window, slab);
}
