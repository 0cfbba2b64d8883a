#include "boxes/large_block/large_block.h"

#include "backends/os.h"
#include "boxes/base/alone.h"
#include "boxes/base/atomic.h"
#include "boxes/far_block/far_block.h"
#include "boxes/settings/settings.h"
#include "boxes/superslab/superslab.h"

#include <string.h>

// Build setting: 0 starts every block at the start of a slab. The header strategy needs that: it
// looks at the byte in front of a block, which is the block's own run where there is a colour.
#ifndef HAK_LARGE_COLOURS
#    define HAK_LARGE_COLOURS (HAK_HEADER == 0)
#endif

static size_t slabs_for(size_t size) {
    return (size + ARENA_SLAB - 1) >> ARENA_SLAB_SHIFT;
}

// Blocks that all start at the start of a page share a few sets of the processor's cache: a program
// that goes through many of them at once would have one line of each. So they start at different
// lines of their first page. A small block only does so where its run has room, unless it is one of
// those that grow; under HAKMEM_LIMIT, which counts whole slabs, none has more slabs for it.
enum { COLOURS_BYTES = HAK_PAGE - HAK_CACHE_LINE, ROOM_FROM = 256 << 10 };

void large_block_exact(void) {
    HAK_POKE(&superslab_exact, true);
}

static bool is_coloured(size_t align) {
    return align <= HAK_CACHE_LINE && HAK_LARGE_COLOURS != 0;
}

size_t large_block_good_size(size_t size, size_t align) {
    if (HAK_PEEK(&superslab_exact)) {
        return hak_round_up(size, HAK_PAGE);
    }
    return hak_round_up(size, is_coloured(align) ? HAK_CACHE_LINE : ARENA_SLAB);
}

static size_t colour_of(size_t slab, size_t room) {
    uint64_t hash = slab * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    uint64_t lines = hak_min((size_t)COLOURS_BYTES, room) / HAK_CACHE_LINE + 1;
    return (hash * lines >> 32) * HAK_CACHE_LINE;
}

static size_t claim(size_t size, size_t run, size_t align, bool *zero) {
    size_t slab = align <= ARENA_SLAB ? page_arena_reuse(run) : ARENA_NONE;
    if (slab != ARENA_NONE) {
        *zero = false;
        return slab;
    }
    // A block of one or more SuperSlabs may be a sparse table; shorter ones are filled, mostly. But
    // those of a little more than half a slab leave the rest of it, each of them.
    bool filled = run < ARENA_SUPERSLAB_SLABS && size >= ARENA_SLAB / 8 * 5;
    return filled ? page_arena_claim_filled(run, align, zero) : page_arena_claim(run, align, zero);
}

// What a block of `size` bytes takes up: its usable bytes at least.
static size_t taken(size_t size) {
    return HAK_PEEK(&superslab_exact) ? hak_round_up(size, HAK_PAGE) : size;
}

// A block in the arena's window.
static void *alloc_near(size_t asked, size_t align, enum large_block_use use) {
    size_t size = taken(asked);
    struct page_arena_window window = page_arena_get_window();
    bool coloured = is_coloured(align);
    bool room = coloured && (size >= ROOM_FROM || use == LARGE_BLOCK_GROWN) &&
                settings_get(SETTING_LIMIT) == 0;
    size_t least = slabs_for(size);
    size_t run = slabs_for(room ? size + COLOURS_BYTES : size);
    bool is_zero;
    size_t slab = claim(size, run, align, &is_zero);
    if (slab == ARENA_NONE && run > least) {
        run = least;
        slab = claim(size, run, align, &is_zero);
    }
    if (slab == ARENA_NONE) {
        return NULL;
    }
    struct slab *meta = superslab_slab(&window, slab);
    size_t colour = coloured ? colour_of(slab, (run << ARENA_SLAB_SHIFT) - size) : 0;
    char *ptr = (char *)page_arena_address(&window, slab) + colour;
    if (use == LARGE_BLOCK_ZERO && !is_zero) {
        memset(ptr, 0, size);
    }
    atomic_store_explicit(&meta->owner, hak_thread_mark(), memory_order_relaxed);
    atomic_store_explicit(&meta->colour, (uint16_t)colour, memory_order_relaxed);
    atomic_store_explicit(&meta->run, run, memory_order_relaxed);
    atomic_store_explicit(&meta->size, asked, memory_order_relaxed);
    atomic_store_explicit(&meta->kind, SLAB_LARGE, memory_order_release);
    return ptr;
}

// The heap is mapped without commitment, so blocks of GiBs are asked for first: a program that
// wants more than the machine has is to get NULL, and not to meet the OOM killer later. (Under a
// limit of address space the question is refused for blocks that fit into what is mapped.)
static bool is_granted(size_t size) {
    return size < LARGE_BLOCK_ASKED || os_would_grant(hak_round_up(size, HAK_PAGE)) == OS_OK ||
           os_address_limit() != SIZE_MAX;
}

void *large_block_alloc(size_t size, size_t align, enum large_block_use use) {
    if (HAK_UNLIKELY(size > (size_t)PTRDIFF_MAX || !page_arena_init() || !is_granted(size))) {
        return NULL;
    }
    bool may_be_far = size >= FAR_BLOCK_LEAST && settings_get(SETTING_LIMIT) == 0;
    void *block = NULL;
    if (HAK_UNLIKELY(may_be_far && size >= LARGE_BLOCK_FAR)) {
        block = far_block_alloc(size, align);
    }
    if (block == NULL) {
        block = alloc_near(size, align, use);
    }
    // The window may have no room for it where the kernel has.
    if (HAK_UNLIKELY(block == NULL && may_be_far && size < LARGE_BLOCK_FAR)) {
        block = far_block_alloc(size, align);
    }
    return block;
}

static struct slab *find(const struct page_arena_window *window, const void *ptr, size_t slab) {
    if (!superslab_known(window, slab)) {
        return NULL;
    }
    struct slab *meta = superslab_slab(window, slab);
    return atomic_load_explicit(&meta->kind, memory_order_acquire) == SLAB_LARGE &&
                   superslab_large_start(window, slab) == ptr
               ? meta
               : NULL;
}

bool large_block_free(const struct page_arena_window *window, void *ptr, size_t slab) {
    struct slab *meta = find(window, ptr, slab);
    if (HAK_UNLIKELY(meta == NULL)) {
        return slab >= window->slabs && far_block_free(ptr);
    }
    if (!hak_step_swap_byte(&meta->kind, SLAB_LARGE, SLAB_NONE)) {
        return false;
    }
    // The run is read after that step, not before: where two threads free a block, the second may
    // meet the next block there, of another length.
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed);
    // What another thread allocated would not be asked for again here. Marks tell most threads
    // apart.
    bool mine = atomic_load_explicit(&meta->owner, memory_order_relaxed) == hak_thread_mark();
    if (run << ARENA_SLAB_SHIFT >= LARGE_BLOCK_EAGER) {
        page_arena_discard(slab, run);
    } else if (mine) {
        page_arena_set_aside(slab, run);
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

static bool is_resize_granted(const struct page_arena_window *window, const void *ptr, size_t slab,
                              size_t size) {
    if (HAK_LIKELY(size < LARGE_BLOCK_ASKED)) {
        return true;
    }
    size_t usable = large_block_usable(window, ptr, slab);
    return size <= usable || is_granted(size - usable);
}

// A block in the arena's window, at its place.
static bool resize_near(const struct page_arena_window *window, size_t slab, size_t size) {
    struct slab *meta = superslab_slab(window, slab);
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed);
    if (size > window->slabs << ARENA_SLAB_SHIFT) {
        return false;
    }
    size_t want =
        slabs_for(taken(size) + atomic_load_explicit(&meta->colour, memory_order_relaxed));
    bool zero;
    if (want > run && !page_arena_claim_at(slab + run, want - run, &zero)) {
        return false;
    }
    atomic_store_explicit(&meta->run, want, memory_order_relaxed);
    if (want < run) {
        page_arena_release(slab + want, run - want, true);
    }
    atomic_store_explicit(&meta->size, size, memory_order_relaxed);
    return true;
}

// The same, at another place.
static void *move_near(const struct page_arena_window *window, size_t slab, size_t size) {
    struct slab *meta = superslab_slab(window, slab);
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed);
    size_t colour = atomic_load_explicit(&meta->colour, memory_order_relaxed);
    if (size > window->slabs << ARENA_SLAB_SHIFT || run << ARENA_SLAB_SHIFT < LARGE_BLOCK_MOVE) {
        return NULL;
    }
    char *to = alloc_near(taken(size) + colour, ARENA_SLAB, LARGE_BLOCK_ANY);
    if (to == NULL) {
        return NULL;
    }
    size_t to_slab = page_arena_slab_of(window, to);
    if (!page_arena_move(slab, to_slab, run)) {
        large_block_free(window, to, to_slab);
        return NULL;
    }
    atomic_store_explicit(&meta->kind, SLAB_NONE, memory_order_release);
    page_arena_release(slab, run, false);
    // Pages moved as they were, and so the block starts at the same line of its page.
    struct slab *to_meta = superslab_slab(window, to_slab);
    atomic_store_explicit(&to_meta->colour, (uint16_t)colour, memory_order_relaxed);
    atomic_store_explicit(&to_meta->size, size, memory_order_relaxed);
    return to + colour;
}

void *large_block_resize(const struct page_arena_window *window, void *ptr, size_t slab,
                         size_t size) {
    if (HAK_UNLIKELY(!is_resize_granted(window, ptr, slab, size))) {
        return NULL;
    }
    if (HAK_UNLIKELY(slab >= window->slabs)) {
        return far_block_resize(ptr, size);
    }
    return resize_near(window, slab, size) ? ptr : move_near(window, slab, size);
}

bool large_block_resize_here(const struct page_arena_window *window, void *ptr, size_t slab,
                             size_t size) {
    return is_resize_granted(window, ptr, slab, size) && slab < window->slabs &&
           resize_near(window, slab, size);
}
