#include "boxes/large_block/large_block.h"

#include "backends/os.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/superslab/superslab.h"

#include <string.h>

static size_t slabs_for(size_t size) {
    return size > (size_t)PTRDIFF_MAX ? SIZE_MAX : (size + ARENA_SLAB - 1) >> ARENA_SLAB_SHIFT;
}

void *large_block_alloc(size_t size, size_t align, bool zero) {
    if (HAK_UNLIKELY(!page_arena_init())) {
        return NULL;
    }
    size_t run = slabs_for(size);
    bool is_zero;
    size_t slab = page_arena_claim(run, align, &is_zero);
    if (slab == ARENA_NONE) {
        return NULL;
    }
    struct page_arena_window window = page_arena_get_window();
    struct slab *meta = superslab_slab(&window, slab);
    char *ptr = page_arena_address(&window, slab);
    if (zero && !is_zero) {
        memset(ptr, 0, size);
    }
    atomic_store_explicit(&meta->run, run, memory_order_relaxed);
    atomic_store_explicit(&meta->size, size, memory_order_relaxed);
    atomic_store_explicit(&meta->kind, SLAB_LARGE, memory_order_release);
    return ptr;
}

static struct slab *find(const struct page_arena_window *window, const void *ptr, size_t slab) {
    if (!superslab_known(window, slab) || page_arena_address(window, slab) != ptr) {
        return NULL;
    }
    struct slab *meta = superslab_slab(window, slab);
    return atomic_load_explicit(&meta->kind, memory_order_acquire) == SLAB_LARGE ? meta : NULL;
}

bool large_block_free(void *ptr, size_t slab) {
    struct page_arena_window window = page_arena_get_window();
    struct slab *meta = find(&window, ptr, slab);
    if (meta == NULL) {
        return false;
    }
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed);
    uint8_t kind = SLAB_LARGE;
    if (!atomic_compare_exchange_strong(&meta->kind, &kind, SLAB_NONE)) {
        return false;
    }
    bool dirty = true;
    if (run << ARENA_SLAB_SHIFT >= LARGE_BLOCK_EAGER) {
        dirty = !page_arena_clean(slab, run);
    }
    page_arena_release(slab, run, dirty);
    return true;
}

size_t large_block_usable(const void *ptr, size_t slab) {
    struct page_arena_window window = page_arena_get_window();
    struct slab *meta = find(&window, ptr, slab);
    return meta == NULL
               ? 0
               : atomic_load_explicit(&meta->run, memory_order_relaxed) << ARENA_SLAB_SHIFT;
}

void *large_block_resize(void *ptr, size_t slab, size_t size) {
    struct page_arena_window window = page_arena_get_window();
    struct slab *meta = superslab_slab(&window, slab);
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed);
    size_t want = slabs_for(size);
    if (want > window.slabs) {
        return NULL;
    }
    bool zero;
    if (want < run) {
        atomic_store_explicit(&meta->run, want, memory_order_relaxed);
        page_arena_release(slab + want, run - want, true);
    } else if (want > run) {
        if (page_arena_claim_at(slab + run, want - run, &zero)) {
            atomic_store_explicit(&meta->run, want, memory_order_relaxed);
        } else {
            if (run << ARENA_SLAB_SHIFT < LARGE_BLOCK_MOVE) {
                return NULL;
            }
            char *to = large_block_alloc(size, ARENA_SLAB, false);
            if (to == NULL) {
                return NULL;
            }
            size_t to_slab = page_arena_slab_of(&window, to);
            if (!page_arena_move(slab, to_slab, run)) {
                large_block_free(to, to_slab);
                return NULL;
            }
            atomic_store_explicit(&meta->kind, SLAB_NONE, memory_order_release);
            page_arena_release(slab, run, false);
            return to;
        }
    }
    atomic_store_explicit(&meta->size, size, memory_order_relaxed);
    return ptr;
}
