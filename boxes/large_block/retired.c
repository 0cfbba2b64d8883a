// SPDX-License-Identifier: Apache-2.0
// retired: freed blocks that wait before they are used again, in the hardened flavour.
//
// A freed block is made zero, and its run waits in a queue that all threads share. A run of
// HAKMEM_PROTECT bytes or more has no access rights while it waits. It is a mapping of its own
// then, but there are few of these, because the queue is short. Any other run must still be zero
// when it leaves the queue.
//
// Waiting runs hold little memory. Long runs, and runs with few pages, give their pages back at
// once; the others do so when they have waited for long. A shorter run without rights keeps its
// pages, because fetching them again takes forty times as long as the system calls for the rights.
// If there are too many runs with pages, some leave the queue early.
#include "boxes/large_block/large_block_internal.h"

#include "backends/os.h"
#include "boxes/settings/settings.h"

// Build setting: so many runs wait (a power of two).
#ifndef HAK_LARGE_WAITING
#    define HAK_LARGE_WAITING 32
#endif

#if HAK_HARDENED
enum { WAITING = HAK_LARGE_WAITING, RUN_BITS = 24 };
static_assert(LARGE_BLOCK_FAR >> ARENA_SLAB_SHIFT < 1 << RUN_BITS, "any run fits");

// What memory and rights a waiting run has.
enum { HAS_PAGES = 1, HAS_NO_RIGHTS = 2, HAS_BITS = 2 };

static struct {
    _Atomic(uint32_t) next;
    _Atomic(uint32_t) old;           // value of `next` when the ages were looked at last
    _Atomic(size_t) dirty[2];        // slabs that may have pages: with rights, and without
    _Atomic(uint64_t) runs[WAITING]; // entries (see entry_of()); 0: none
} waiting;

HAK_LAYOUT(large_block_layout, HAK_ROWS(HAK_VARIABLE("waiting.runs", waiting.runs)),
           HAK_ROWS(HAK_NUMBER("waiting.run_bits", RUN_BITS),
                    HAK_NUMBER("waiting.has_bits", HAS_BITS),
                    HAK_NUMBER("waiting.has_pages", HAS_PAGES)));

static size_t slab_of(uint64_t entry) {
    return entry >> (RUN_BITS + HAS_BITS);
}
static size_t length_of(uint64_t entry) {
    return entry >> HAS_BITS & ((1 << RUN_BITS) - 1);
}
static uint64_t entry_of(size_t slab, size_t run, unsigned has) {
    return (uint64_t)slab << (RUN_BITS + HAS_BITS) | run << HAS_BITS | has;
}

static _Atomic(size_t) *dirty_of(uint64_t entry) {
    return &waiting.dirty[(entry & HAS_NO_RIGHTS) != 0];
}

// Counts a run that begins to wait, or no longer counts one that has left the queue.
static void count(uint64_t entry, bool begins) {
    if ((entry & HAS_PAGES) != 0) {
        size_t run = length_of(entry);
        atomic_fetch_add_explicit(dirty_of(entry), begins ? run : 0 - run, memory_order_relaxed);
    }
}

// Returns how many slabs with pages may wait: with access rights, 64 times what may wait of a size
// class (HAKMEM_QUARANTINE); without them, those of HAKMEM_PROTECT_KEEP.
static size_t most_dirty(bool rights) {
    size_t bytes = rights ? (size_t)settings_get(SETTING_QUARANTINE) * 64
                   : settings_get(SETTING_DECAY_MS) == 0
                       ? 0
                       : (size_t)settings_get(SETTING_PROTECT_KEEP);
    return bytes >> ARENA_SLAB_SHIFT;
}

// Returns how many bytes of a block of `size` bytes are made zero, or checked.
static size_t bytes_to_clear(size_t size) {
    return hak_round_up(size + TAIL, HAK_MIN_ALIGN);
}

// Stops the program unless the block whose run starts at `slab` is as it was when it began to wait.
static void check_clear(const struct page_arena_window *window, size_t slab) {
    char *block = superslab_large_start(window, slab);
    size_t size = atomic_load_explicit(&superslab_slab(window, slab)->size, memory_order_relaxed);
    if (hardening_has(HARDENING_CHECK_ZERO) &&
        !hardening_is_clear_many(block, bytes_to_clear(size) - HAK_MIN_ALIGN)) {
        hardening_refuse_written(DIAG_CALL_FREE, block);
    }
}

// Gives a run that has left the queue to the arena.
static void release(uint64_t entry) {
    if (entry == 0) {
        return;
    }
    const struct page_arena_window window = page_arena_get_window();
    size_t slab = slab_of(entry);
    size_t slabs = length_of(entry);
    count(entry, false);
    if ((entry & HAS_NO_RIGHTS) != 0) {
        if (os_commit_alone(page_arena_address(&window, slab), slabs << ARENA_SLAB_SHIFT) !=
            OS_OK) {
            return; // A run without rights is of no use to anyone: it stays held.
        }
    } else if ((entry & HAS_PAGES) != 0) {
        check_clear(&window, slab);
    }
    page_arena_release(slab, slabs, entry & HAS_PAGES);
}

static void release_waiting(size_t place, uint64_t entry) {
    release(atomic_exchange(&waiting.runs[place % WAITING], entry));
}

// Returns true if less than half of a block's pages seem to be in memory. (No array of answers: a
// free on a signal's stack comes here.)
static bool is_sparse(const char *block, size_t size) {
    enum { LOOKS = 8, LEAST = 256 << 10 }; // of shorter blocks the look takes longer than it saves
    size_t absent = 0;
    const char *first = block - (uintptr_t)block % HAK_PAGE;
    for (size_t i = 0; size >= LEAST && i < LOOKS; i++) {
        absent += os_is_absent(first + (2 * i + 1) * (size / HAK_PAGE) / (2 * LOOKS) * HAK_PAGE);
    }
    return absent > LOOKS / 2;
}

// Returns true if a run is to keep its pages while it waits. A run with many pages does not,
// because they are too much memory; nor does a run with few, which are not worth keeping.
static bool keeps_pages(const char *block, size_t size, size_t run, bool hide) {
    enum { SHARE = 2 }; // of the memory without rights, one run has at most one part in so many
    size_t most = hide ? most_dirty(false) / SHARE : most_dirty(true);
    return run <= most && !is_sparse(block, size);
}

// Returns true if a run of so many bytes is long enough to wait without access rights.
static bool is_protected(size_t bytes) {
    int64_t protect = settings_get(SETTING_PROTECT);
    return protect != 0 && bytes >= (size_t)protect;
}

// Removes the access rights of a run that begins to wait, if the run is long enough, and its pages,
// if it is not to keep them. Returns what the run has then (HAS_PAGES, HAS_NO_RIGHTS).
static unsigned bare(char *block, size_t size, size_t slab, size_t run) {
    const struct page_arena_window window = page_arena_get_window();
    char *start = page_arena_address(&window, slab);
    size_t bytes = run << ARENA_SLAB_SHIFT;
    bool hide = is_protected(bytes);
    if (!keeps_pages(block, size, run, hide) && page_arena_clean(slab, run)) {
        return hide && os_forbid(start, bytes) == OS_OK ? HAS_NO_RIGHTS : 0;
    }
    if (hardening_has(HARDENING_ZERO)) {
        hardening_clear_many(block, bytes_to_clear(size));
    }
    // The kernel may refuse halfway. If the rights do not come back now, the run counts as one
    // without rights, and they are asked for again when it leaves the queue.
    bool hidden =
        hide && (os_hide(start, bytes) == OS_OK || os_commit_alone(start, bytes) != OS_OK);
    return HAS_PAGES | (hidden ? HAS_NO_RIGHTS : 0);
}

// Puts a run into the queue. Releases the runs that have waited longest if the waiting ones hold
// too much memory.
static void enqueue(uint64_t entry) {
    count(entry, true);
    uint32_t turn = atomic_fetch_add_explicit(&waiting.next, 1, memory_order_relaxed);
    release_waiting(turn, entry);
    bool rights = (entry & HAS_NO_RIGHTS) == 0;
    size_t most = most_dirty(rights);
    for (uint32_t i = 1;
         i < WAITING && atomic_load_explicit(dirty_of(entry), memory_order_relaxed) > most; i++) {
        uint64_t other =
            atomic_load_explicit(&waiting.runs[(turn + i) % WAITING], memory_order_relaxed);
        if ((other & HAS_PAGES) != 0 && ((other & HAS_NO_RIGHTS) == 0) == rights) {
            release_waiting(turn + i, 0);
        }
    }
}

static bool may_wait(void) {
    return hardening_has(HARDENING_QUARANTINE) && settings_get(SETTING_LIMIT) == 0 &&
           !page_arena_is_tight();
}

// Clears a block whose run does not wait. Returns true if the run cannot be used any more, because
// its guard stays.
static HAK_NOINLINE bool clear_only(char *block, size_t size, size_t slab) {
    const struct page_arena_window window = page_arena_get_window();
    if (hardening_has(HARDENING_ZERO)) {
        hardening_clear_many(block, bytes_to_clear(size));
    }
    return !large_drop_guard(&window, slab);
}

// Makes a run ready to wait. Returns its entry for the queue. Returns 0 if its guard stays: the run
// then stays held, and is not used any more. (A frame of its own, because the queue releases other
// runs, and a signal's stack has to have room for that.)
static HAK_NOINLINE uint64_t make_wait(char *block, size_t size, size_t slab, size_t run) {
    const struct page_arena_window window = page_arena_get_window();
    unsigned has = bare(block, size, slab, run);
    if ((has & HAS_NO_RIGHTS) != 0) {
        large_forget_guard(superslab_slab(&window, slab));
    } else if (!large_drop_guard(&window, slab)) {
        return 0;
    }
    return entry_of(slab, run, has);
}

bool large_retire(char *block, size_t size, size_t slab, size_t run) {
    if (!may_wait()) {
        return clear_only(block, size, slab);
    }
    uint64_t entry = make_wait(block, size, slab, run);
    if (entry != 0) {
        enqueue(entry);
    }
    return true;
}

bool large_retire_moved(size_t slab, size_t run) {
    if (!may_wait()) {
        return false;
    }
    const struct page_arena_window window = page_arena_get_window();
    size_t bytes = run << ARENA_SLAB_SHIFT;
    bool forbidden =
        is_protected(bytes) && os_forbid(page_arena_address(&window, slab), bytes) == OS_OK;
    enqueue(entry_of(slab, run, forbidden ? HAS_NO_RIGHTS : 0));
    return true;
}

// Gives back the pages of a waiting run. Returns its new entry for the queue.
static uint64_t strip(const struct page_arena_window *window, uint64_t entry) {
    size_t slab = slab_of(entry);
    if ((entry & HAS_NO_RIGHTS) == 0) {
        check_clear(window, slab);
    }
    if (!page_arena_clean(slab, length_of(entry))) {
        return entry;
    }
    uint64_t bare = entry & ~(uint64_t)HAS_PAGES;
    count(entry, false);
    count(bare, true);
    return bare;
}

void large_block_age(bool all) {
    uint32_t next = atomic_load_explicit(&waiting.next, memory_order_relaxed);
    uint32_t old = all ? next : atomic_exchange_explicit(&waiting.old, next, memory_order_relaxed);
    const struct page_arena_window window = page_arena_get_window();
    // Runs that began to wait after the last look stay as they are.
    for (uint32_t turn = next - WAITING; (int32_t)(turn - old) < 0; turn++) {
        _Atomic(uint64_t) *place = &waiting.runs[turn % WAITING];
        uint64_t entry = atomic_load_explicit(place, memory_order_relaxed);
        if ((entry & HAS_PAGES) == 0 || !atomic_compare_exchange_strong(place, &entry, 0)) {
            continue;
        }
        uint64_t bare = strip(&window, entry);
        uint64_t none = 0;
        if (!atomic_compare_exchange_strong(place, &none, bare)) {
            release(bare); // Another run has taken the place.
        }
    }
}
#else
HAK_LAYOUT(large_block_layout, HAK_ROWS(), HAK_ROWS());

void large_block_age(bool all) {
    (void)all;
}
#endif

size_t large_block_quarantined(void) {
#if HAK_HARDENED
    return (atomic_load_explicit(&waiting.dirty[0], memory_order_relaxed) +
            atomic_load_explicit(&waiting.dirty[1], memory_order_relaxed))
           << ARENA_SLAB_SHIFT;
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
