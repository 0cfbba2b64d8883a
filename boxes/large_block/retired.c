// SPDX-License-Identifier: Apache-2.0
// Freed blocks that wait before they are used again, in the hardened flavour.
//
// Both ends of a freed block are made zero, and its run waits in a queue that all threads share.
// When the run leaves the queue its ends must still be zero. Runs that wait hold little memory: a
// long run gives its pages back. A run of HAKMEM_PROTECT bytes or more has no access rights while
// it waits; it is a mapping of its own then, and the queue is short, so there are few of those.
#include "boxes/large_block/large_block_internal.h"

#include "backends/os.h"
#include "boxes/settings/settings.h"

#if HAK_HARDENED
enum { WAITING = 32, RUN_BITS = 24 };
static_assert(LARGE_BLOCK_FAR >> ARENA_SLAB_SHIFT < 1 << RUN_BITS, "any run fits");

static struct {
    _Atomic(uint32_t) next;
    _Atomic(size_t) dirty;           // slabs that may have pages
    _Atomic(uint64_t) runs[WAITING]; // slab, length and what it has; 0: none
} waiting;

// What memory and rights a waiting run has.
enum { HAS_PAGES = 1, HAS_NO_RIGHTS = 2, HAS_BITS = 2 };

HAK_LAYOUT(large_block_layout, HAK_ROWS(HAK_VARIABLE("waiting.runs", waiting.runs)),
           HAK_ROWS(HAK_NUMBER("waiting.run_bits", RUN_BITS),
                    HAK_NUMBER("waiting.has_bits", HAS_BITS),
                    HAK_NUMBER("waiting.has_pages", HAS_PAGES)));

// Slabs with pages that may wait: 64 times what a size class has.
static size_t most_dirty(void) {
    return (size_t)settings_get(SETTING_QUARANTINE) * 64 >> ARENA_SLAB_SHIFT;
}

// Returns how many bytes of a block of `size` bytes are made zero, or checked.
static size_t bytes_to_clear(size_t size) {
    return hak_round_up(size + TAIL, HAK_MIN_ALIGN);
}

static void release_waiting(size_t place, uint64_t entry) {
    uint64_t run = atomic_exchange(&waiting.runs[place % WAITING], entry);
    if (run == 0) {
        return;
    }
    const struct page_arena_window window = page_arena_get_window();
    size_t slab = run >> (RUN_BITS + HAS_BITS);
    size_t slabs = run >> HAS_BITS & ((1 << RUN_BITS) - 1);
    if ((run & HAS_PAGES) != 0) {
        atomic_fetch_sub_explicit(&waiting.dirty, slabs, memory_order_relaxed);
    }
    if ((run & HAS_NO_RIGHTS) != 0 &&
        os_commit_alone(page_arena_address(&window, slab), slabs << ARENA_SLAB_SHIFT) != OS_OK) {
        return; // A run without rights is of no use to anyone: it stays held.
    }
    if ((run & HAS_PAGES) != 0 && hardening_has(HARDENING_CHECK_ZERO)) {
        char *block = superslab_large_start(&window, slab);
        size_t size =
            atomic_load_explicit(&superslab_slab(&window, slab)->size, memory_order_relaxed);
        if (!hardening_is_clear_many(block, bytes_to_clear(size) - HAK_MIN_ALIGN)) {
            hardening_refuse_written(DIAG_CALL_FREE, block);
        }
    }
    page_arena_release(slab, slabs, run & HAS_PAGES);
}

// Takes the pages of a run, and its rights if it is to be protected. Returns what the run has then.
static unsigned bare(size_t slab, size_t run, size_t most) {
    size_t bytes = run << ARENA_SLAB_SHIFT;
    int64_t protect = settings_get(SETTING_PROTECT);
    bool forbid = protect != 0 && bytes >= (size_t)protect;
    if ((run <= most && !forbid) || !page_arena_clean(slab, run)) {
        return HAS_PAGES;
    }
    const struct page_arena_window window = page_arena_get_window();
    return forbid && os_forbid(page_arena_address(&window, slab), bytes) == OS_OK ? HAS_NO_RIGHTS
                                                                                  : 0;
}

bool large_retire(char *block, size_t size, size_t slab, size_t run) {
    if (hardening_has(HARDENING_ZERO)) {
        hardening_clear_many(block, bytes_to_clear(size));
    }
    const struct page_arena_window window = page_arena_get_window();
    if (!hardening_has(HARDENING_QUARANTINE) || settings_get(SETTING_LIMIT) != 0 ||
        page_arena_is_tight()) {
        return !large_drop_guard(&window, slab);
    }
    size_t most = most_dirty();
    unsigned has = bare(slab, run, most);
    if (has == HAS_NO_RIGHTS) {
        large_forget_guard(superslab_slab(&window, slab));
    } else if (!large_drop_guard(&window, slab)) {
        return true; // as above: it stays held
    }
    if ((has & HAS_PAGES) != 0) {
        atomic_fetch_add_explicit(&waiting.dirty, run, memory_order_relaxed);
    }
    uint32_t turn = atomic_fetch_add_explicit(&waiting.next, 1, memory_order_relaxed);
    release_waiting(turn, (uint64_t)slab << (RUN_BITS + HAS_BITS) | run << HAS_BITS | has);
    // Releases the oldest runs, if the waiting runs hold too much memory.
    for (uint32_t i = 1;
         i < WAITING && atomic_load_explicit(&waiting.dirty, memory_order_relaxed) > most; i++) {
        release_waiting(turn + i, 0);
    }
    return true;
}
#else
HAK_LAYOUT(large_block_layout, HAK_ROWS(), HAK_ROWS());
#endif

size_t large_block_quarantined(void) {
#if HAK_HARDENED
    return atomic_load_explicit(&waiting.dirty, memory_order_relaxed) << ARENA_SLAB_SHIFT;
#else
    return 0;
#endif
}

void large_block_flush(void) {
#if HAK_HARDENED
    for (unsigned i = 0; i < WAITING; i++) {
        if (atomic_load_explicit(&waiting.runs[i], memory_order_relaxed) != 0) {
            release_waiting(i, 0);
        }
    }
#endif
}
