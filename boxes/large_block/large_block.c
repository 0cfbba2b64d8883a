// SPDX-License-Identifier: Apache-2.0
#include "boxes/large_block/large_block.h"

#include "backends/os.h"
#include "boxes/base/alone.h"
#include "boxes/base/atomic.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/far_block/far_block.h"
#include "boxes/hardening/hardening.h"
#include "boxes/settings/settings.h"
#include "boxes/superslab/superslab.h"

#include <string.h>

// Build setting: 0 starts every block at the start of a slab. The header strategy needs that: it
// looks at the byte in front of a block, which is the block's own run where there is a colour.
#ifndef HAK_LARGE_COLOURS
#    define HAK_LARGE_COLOURS (HAK_HEADER == 0)
#endif

// Build setting: blocks that start at different lines, at most; those above start at a page.
#ifndef HAK_LARGE_COLOURED_MOST
#    define HAK_LARGE_COLOURED_MOST 1024
#endif

// Build setting: 0 gives blocks that grow no more addresses than they ask for.
#ifndef HAK_LARGE_ROOM
#    define HAK_LARGE_ROOM 1
#endif

// Build setting: what is behind the ends of blocks, in pages that may have memory, is at most one
// part in so many of what is held; pages are given back where it would be more. 0: never.
#ifndef HAK_LARGE_SLACK_SHARE
#    define HAK_LARGE_SLACK_SHARE 24
#endif

// Build setting: calloc does not clear a block of this many bytes whose pages are not zero, but
// gives the pages back: large tables are often used a little. SIZE_MAX: it clears all.
#ifndef HAK_LARGE_ZERO_PURGE
#    define HAK_LARGE_ZERO_PURGE ((size_t)1 << 20)
#endif

static size_t slabs_for(size_t size) {
    return (size + ARENA_SLAB - 1) >> ARENA_SLAB_SHIFT;
}

// Blocks that all start at the start of a page share a few sets of the processor's cache: a program
// that goes through many of them at once would have one line of each. So they start at different
// lines of their first page. A small block only does so where its run has room, unless it is one of
// those that grow; under HAKMEM_LIMIT, which counts whole slabs, none has more slabs for it.
enum { COLOURS_BYTES = HAK_PAGE - HAK_CACHE_LINE, ROOM_FROM = 256 << 10 };

void large_block_round_to_pages(void) {
    if (!HAK_HARDENED) {
        HAK_POKE(&superslab_grain, (size_t)HAK_PAGE);
    }
}

// Blocks in the arena's window. A block that starts within its first page costs a page more where
// only its first pages are used: where there are more blocks than a first-level cache has lines, a
// program does not go through all of them at once, and so few of them would gain from that.
static _Atomic(size_t) live;

static bool is_coloured(size_t align) {
    return align <= HAK_CACHE_LINE && HAK_LARGE_COLOURS != 0 &&
           atomic_load_explicit(&live, memory_order_relaxed) < HAK_LARGE_COLOURED_MOST;
}

size_t large_block_good_size(size_t size) {
    return superslab_usable(size);
}

static size_t colour_of(size_t slab, size_t room) {
    uint64_t hash = hak_hash(slab) >> 32;
    uint64_t lines = hak_min((size_t)COLOURS_BYTES, room) / HAK_CACHE_LINE + 1;
    return (hash * lines >> 32) * HAK_CACHE_LINE;
}

static size_t claim(size_t size, size_t run, size_t align, enum large_block_use use, bool *zero) {
    size_t slab = align <= ARENA_SLAB ? page_arena_reuse(run) : ARENA_NONE;
    if (slab != ARENA_NONE) {
        *zero = false;
        return slab;
    }
    // A block of one or more SuperSlabs may be a sparse table, one by calloc in particular; shorter
    // ones are filled, mostly. But those that do not fill their last slab leave the rest of it,
    // each of them.
    size_t bytes = run << ARENA_SLAB_SHIFT;
    bool whole = run >= ARENA_SUPERSLAB_SLABS;
    if (!whole && size >= bytes / 16 * 15) {
        return page_arena_claim_filled(run, align, zero);
    }
    return (whole ? use != LARGE_BLOCK_ZERO : size >= bytes / 4 * 3)
               ? page_arena_claim_again(run, align, zero)
               : page_arena_claim(run, align, zero);
}

// Bytes behind a block that are not its user's: in the hardened flavour they tell of writes there.
enum { TAIL = HAK_HARDENED ? 16 : 0 };

// What a block of `size` bytes takes up.
static size_t taken(size_t size) {
    return superslab_usable(size) + TAIL;
}

// --- Slack
//
// A block seldom fills its last slab. The pages behind its end have no memory if the run is fresh;
// those of a run that was in use before, or of a block that has shrunk, have. They are counted, and
// given back as soon as there are too many of them all together: a program with a few large blocks
// pays nothing for it, and one with many holds little more than they need.

//
// Threads count in lines of their own, and add up what has become worth it: the sum is less than
// SLACK_STEP pages a line off, and below 0 at times.

enum { SLACK_LINES = 16, SLACK_STEP = 64 };

static struct {
    _Atomic(uint64_t) pages; // an int64_t
    _Atomic(bool) refused;   // the kernel would not take some, of locked memory perhaps
    struct {
        alignas(HAK_CACHE_LINE) _Atomic(uint64_t) pages; // likewise, not in the sum yet
    } lines[SLACK_LINES];
} slack;

// Whether `pages` more would be too many.
static bool is_much_slack(size_t pages) {
    enum { LEAST = 256 }; // pages that may always be there
    int64_t sum = (int64_t)atomic_load_explicit(&slack.pages, memory_order_relaxed);
    size_t all = (size_t)(sum > 0 ? sum : 0) + pages;
    return HAK_LARGE_SLACK_SHARE != 0 && all > LEAST && settings_get(SETTING_DECAY_MS) >= 0 &&
           !atomic_load_explicit(&slack.refused, memory_order_relaxed) &&
           all * HAK_LARGE_SLACK_SHARE > page_arena_claimed() * (ARENA_SLAB / HAK_PAGE);
}

static void set_slack(struct slab *meta, size_t pages) {
    size_t before = atomic_load_explicit(&meta->slack, memory_order_relaxed);
    if (before != pages) {
        atomic_store_explicit(&meta->slack, (uint8_t)pages, memory_order_relaxed);
        _Atomic(uint64_t) *own = &slack.lines[hak_thread_mark() % SLACK_LINES].pages;
        hak_step_add(own, (uint64_t)pages - before);
        int64_t sum = (int64_t)atomic_load_explicit(own, memory_order_relaxed);
        if (sum >= SLACK_STEP || sum <= -SLACK_STEP) {
            hak_step_add(&slack.pages, atomic_exchange_explicit(own, 0, memory_order_relaxed));
        }
    }
}

// What is known of the pages behind a block whose size or run has changed.
enum tail {
    TAIL_CLEAN,  // they have no memory
    TAIL_WANTED, // the block grows, and will use them
    TAIL_UNUSED,
};

// To be called by a block's holder whenever its size or its run has changed.
static void settle_slack(const struct page_arena_window *window, size_t slab, enum tail tail) {
    enum { LITTLE = 16 }; // less than one part in so many of a block is not worth a count
    struct slab *meta = superslab_slab(window, slab);
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed) -
                 atomic_load_explicit(&meta->room, memory_order_relaxed);
    size_t used = hak_round_up(taken(atomic_load_explicit(&meta->size, memory_order_relaxed)) +
                                   atomic_load_explicit(&meta->colour, memory_order_relaxed),
                               HAK_PAGE);
    size_t pages =
        tail == TAIL_CLEAN ? 0 : hak_min(((run << ARENA_SLAB_SHIFT) - used) / HAK_PAGE, UINT8_MAX);
    if (pages * HAK_PAGE < used / LITTLE) {
        pages = 0;
    }
    if (tail == TAIL_UNUSED && pages * HAK_PAGE >= os_least_purge() && is_much_slack(pages)) {
        char *from = (char *)page_arena_address(window, slab) + used;
        if (os_purge(from, pages * HAK_PAGE) == OS_OK) {
            pages = 0;
        } else {
            atomic_store_explicit(&slack.refused, true, memory_order_relaxed);
        }
    }
    set_slack(meta, pages);
}

// To be called once by whoever ends a block, before its run is given back.
static void count_ended(struct slab *meta) {
    set_slack(meta, 0);
    hak_step_add(&live, (size_t)-1);
}

// Writes the tail of a block of `size` bytes.
static void write_tail(char *block, size_t size) {
#if HAK_HARDENED
    hardening_unaligned *tail = hardening_behind(block, size);
    tail[0] = tail[1] = hardening_hash(block);
#else
    (void)block, (void)size;
#endif
}

// Stops the program if the tail of a block is not as it was written.
static void check_tail(const char *call, const char *block, size_t size) {
#if HAK_HARDENED
    const hardening_unaligned *tail = hardening_behind(block, size);
    uint64_t hash = hardening_hash(block);
    if (HAK_UNLIKELY(((tail[0] ^ hash) | (tail[1] ^ hash)) != 0) &&
        hardening_has(HARDENING_CANARY)) {
        diag_misuse(call, block, "heap corruption: written past the end of the block");
    }
#else
    (void)call, (void)block, (void)size;
#endif
}

// Makes a block of a claimed run.
static char *begin(const struct page_arena_window *window, size_t slab, size_t run, size_t colour,
                   size_t asked) {
    struct slab *meta = superslab_slab(window, slab);
    hak_step_add(&live, 1);
    atomic_store_explicit(&meta->owner, hak_thread_mark(), memory_order_relaxed);
    atomic_store_explicit(&meta->colour, (uint16_t)colour, memory_order_relaxed);
    atomic_store_explicit(&meta->run, run, memory_order_relaxed);
    atomic_store_explicit(&meta->room, 0, memory_order_relaxed);
    atomic_store_explicit(&meta->size, asked, memory_order_relaxed);
    char *block = (char *)page_arena_address(window, slab) + colour;
    write_tail(block, asked);
    atomic_store_explicit(&meta->kind, SLAB_LARGE, memory_order_release);
    return block;
}

// A block in the arena's window. *is_zero: it was before it was claimed.
static void *alloc_near(size_t asked, size_t align, enum large_block_use use, bool *is_zero) {
    size_t size = taken(asked);
    struct page_arena_window window = page_arena_get_window();
    bool coloured = is_coloured(align);
    bool room = coloured && (size >= ROOM_FROM || use == LARGE_BLOCK_GROWN) &&
                settings_get(SETTING_LIMIT) == 0;
    size_t least = slabs_for(size);
    size_t run = slabs_for(room ? size + COLOURS_BYTES : size);
    size_t slab = claim(size, run, align, use, is_zero);
    if (slab == ARENA_NONE && run > least) {
        run = least;
        slab = claim(size, run, align, use, is_zero);
    }
    if (slab == ARENA_NONE) {
        return NULL;
    }
    size_t colour = coloured ? colour_of(slab, (run << ARENA_SLAB_SHIFT) - size) : 0;
    if (use == LARGE_BLOCK_ZERO && !*is_zero) {
        *is_zero = size >= HAK_LARGE_ZERO_PURGE && page_arena_clean(slab, run);
        if (!*is_zero) {
            memset((char *)page_arena_address(&window, slab) + colour, 0, size);
        }
    }
    if (use == LARGE_BLOCK_ZERO && *is_zero && size >= HAK_LARGE_ZERO_PURGE &&
        !page_arena_use_sparsely(slab, run)) {
        page_arena_release(slab, run, false);
        return NULL;
    }
    char *block = begin(&window, slab, run, colour, asked);
    settle_slack(&window, slab,
                 *is_zero                   ? TAIL_CLEAN
                 : use == LARGE_BLOCK_GROWN ? TAIL_WANTED
                                            : TAIL_UNUSED);
    return block;
}

// The heap is mapped without commitment, so blocks of GiBs are asked for first: a program that
// wants more than the machine has is to get NULL, and not to meet the OOM killer later. (Under a
// limit of address space the question is refused for blocks that fit into what is mapped.)
static bool is_granted(size_t size) {
    return size < LARGE_BLOCK_ASKED || os_would_grant(hak_round_up(size, HAK_PAGE)) == OS_OK ||
           os_address_limit() != SIZE_MAX;
}

void *large_block_alloc(size_t size, size_t align, enum large_block_use use) {
#if HAK_HARDENED
    hardening_prepare();
#endif
    if (HAK_UNLIKELY(size > (size_t)PTRDIFF_MAX - TAIL || !page_arena_init() ||
                     !is_granted(size))) {
        return NULL;
    }
    bool may_be_far = size >= FAR_BLOCK_LEAST && settings_get(SETTING_LIMIT) == 0;
    void *block = NULL;
    if (HAK_UNLIKELY(may_be_far && size >= LARGE_BLOCK_FAR)) {
        block = far_block_alloc(superslab_usable(size), align);
    }
    if (block == NULL) {
        bool is_zero;
        block = alloc_near(size, align, use, &is_zero);
    }
    // The window may have no room for it where the kernel has.
    if (HAK_UNLIKELY(block == NULL && may_be_far && size < LARGE_BLOCK_FAR)) {
        block = far_block_alloc(superslab_usable(size), align);
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

// Gives the room of a block back, in which nothing was ever written. Returns the slabs of its run
// that are left.
static size_t drop_room(struct slab *meta, size_t slab) {
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed);
    size_t room = atomic_load_explicit(&meta->room, memory_order_relaxed);
    if (HAK_UNLIKELY(room != 0)) {
        run -= room;
        atomic_store_explicit(&meta->room, 0, memory_order_relaxed);
        atomic_store_explicit(&meta->run, run, memory_order_relaxed);
        page_arena_release(slab + run, room, false);
    }
    return run;
}

// --- What was freed, in the hardened flavour
//
// Both ends of a freed block are made zero, and its run waits for a while in a queue of all
// threads; that the ends are zero still is seen when it leaves. What waits has little memory: a
// long run gives its pages back. Nobody may touch a run of HAKMEM_PROTECT bytes or more while it
// waits: it is a mapping of its own then, one of few.

#if HAK_HARDENED
enum { WAITING = 32, RUN_BITS = 24 };
static_assert(LARGE_BLOCK_FAR >> ARENA_SLAB_SHIFT < 1 << RUN_BITS, "any run fits");

static struct {
    _Atomic(uint32_t) next;
    _Atomic(size_t) dirty;           // slabs that may have pages
    _Atomic(uint64_t) runs[WAITING]; // slab, length and what it has; 0: none
} waiting;

// What a run that waits has.
enum { HAS_PAGES = 1, HAS_NO_RIGHTS = 2, HAS_BITS = 2 };

// Slabs with pages that may wait: 64 times what a size class has.
static size_t most_dirty(void) {
    return (size_t)settings_get(SETTING_QUARANTINE) * 64 >> ARENA_SLAB_SHIFT;
}

// Bytes of a block of `size` bytes that are made zero, or looked at.
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
        return; // Without rights it is of no use to anyone: it stays held.
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

// Takes the pages of a run, and of one that is to be protected the rights. Returns what it has
// then.
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

// True if the run of a block that was freed is not to be used again at once.
static bool retire(char *block, size_t size, size_t slab, size_t run) {
    if (hardening_has(HARDENING_ZERO)) {
        hardening_clear_many(block, bytes_to_clear(size));
    }
    if (!hardening_has(HARDENING_QUARANTINE) || settings_get(SETTING_LIMIT) != 0 ||
        page_arena_is_tight()) {
        return false;
    }
    size_t most = most_dirty();
    unsigned has = bare(slab, run, most);
    if ((has & HAS_PAGES) != 0) {
        atomic_fetch_add_explicit(&waiting.dirty, run, memory_order_relaxed);
    }
    uint32_t turn = atomic_fetch_add_explicit(&waiting.next, 1, memory_order_relaxed);
    release_waiting(turn, (uint64_t)slab << (RUN_BITS + HAS_BITS) | run << HAS_BITS | has);
    // The oldest ones, if there is too much memory in what waits.
    for (uint32_t i = 1;
         i < WAITING && atomic_load_explicit(&waiting.dirty, memory_order_relaxed) > most; i++) {
        release_waiting(turn + i, 0);
    }
    return true;
}
#endif

void large_block_flush(void) {
#if HAK_HARDENED
    for (unsigned i = 0; i < WAITING; i++) {
        if (atomic_load_explicit(&waiting.runs[i], memory_order_relaxed) != 0) {
            release_waiting(i, 0);
        }
    }
#endif
}

bool large_block_free(const struct page_arena_window *window, void *ptr, size_t slab) {
    struct slab *meta = find(window, ptr, slab);
    if (HAK_UNLIKELY(meta == NULL)) {
        return slab >= window->slabs && far_block_free(ptr);
    }
    check_tail(DIAG_CALL_FREE, ptr, atomic_load_explicit(&meta->size, memory_order_relaxed));
    if (!hak_step_swap_byte(&meta->kind, SLAB_LARGE, SLAB_NONE)) {
        return false;
    }
    count_ended(meta);
    // The run is read after that step, not before: where two threads free a block, the second may
    // meet the next block there, of another length.
    size_t run = drop_room(meta, slab);
#if HAK_HARDENED
    if (retire(ptr, atomic_load_explicit(&meta->size, memory_order_relaxed), slab, run)) {
        return true;
    }
#endif
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
    size_t room = atomic_load_explicit(&meta->room, memory_order_relaxed);
    size_t have = run - room;
    if (size > window->slabs << ARENA_SLAB_SHIFT) {
        return false;
    }
    size_t want =
        slabs_for(taken(size) + atomic_load_explicit(&meta->colour, memory_order_relaxed));
    bool zero;
    if (want > run && !page_arena_claim_at(slab + run, want - run, &zero)) {
        return false;
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
    settle_slack(window, slab, grows ? TAIL_WANTED : TAIL_UNUSED);
    write_tail(superslab_large_start(window, slab), size);
    return true;
}

// Slabs that a block of `run` slabs that has grown gets beside them, so that it need not be moved
// each time it grows. They are addresses and no more: nothing is given where these count.
static size_t room_for(size_t run) {
    const size_t most = (size_t)1 << (30 - ARENA_SLAB_SHIFT);
    return HAK_LARGE_ROOM != 0 && page_arena_is_spacious() ? hak_min(run, most) : 0;
}

// Claims *run slabs for a block to be moved to, and *room more, which are added to *run and clean.
// *zero says whether all are. ARENA_NONE if the kernel refuses memory.
static size_t claim_to_move(size_t *run, size_t *room, bool *zero) {
    *room = room_for(*run);
    size_t slab = page_arena_claim(*run + *room, ARENA_SLAB, zero);
    if (slab == ARENA_NONE && *room != 0) {
        *room = 0;
        slab = page_arena_claim(*run, ARENA_SLAB, zero);
    }
    // Pages that are free would be held by a room.
    if (slab != ARENA_NONE && !*zero && *room != 0 && !page_arena_clean(slab + *run, *room)) {
        page_arena_release(slab + *run, *room, false);
        *room = 0;
    }
    *run += *room;
    return slab;
}

static bool is_zero_page(const char *page) {
    const uint64_t *words = (const uint64_t *)page;
    uint64_t any = 0;
    for (size_t i = 0; i < HAK_PAGE / sizeof *words && any == 0; i += 8) {
        any = words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] |
              words[i + 6] | words[i + 7];
    }
    return any == 0;
}

enum { PART_SLABS = 16, PART_PAGES = PART_SLABS * (ARENA_SLAB / HAK_PAGE) };

// Copies up to PART_SLABS slabs to others. Where these are zero, what is zero is not copied: a
// block may have far more pages than were ever touched. Returns how many pages were copied.
static size_t copy_part(char *to, const char *from, size_t slabs, bool to_is_zero) {
    unsigned char touched[PART_PAGES];
    size_t pages = slabs * (ARENA_SLAB / HAK_PAGE);
    bool known = to_is_zero && os_touched(from, pages * HAK_PAGE, touched);
    size_t copied = 0;
    for (size_t i = 0; i < pages; i++) {
        const char *page = from + i * HAK_PAGE;
        if (to_is_zero && (known ? touched[i] == 0 : is_zero_page(page))) {
            continue;
        }
        memcpy(to + i * HAK_PAGE, page, HAK_PAGE);
        copied++;
    }
    return copied;
}

// Copies a run, and gives its pages back as it goes, so that both together take no more memory than
// one. True if the source is zero by then.
static bool copy_run(const struct page_arena_window *window, size_t from, size_t to, size_t slabs,
                     bool to_is_zero) {
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

// Moves a block too short to be moved by the page table. Blocks of SPARSE_FROM bytes are mappings
// of their own in libc's malloc, and growing them touches no page.
static void *copy_near(const struct page_arena_window *window, char *ptr, size_t slab,
                       size_t size) {
    enum { SPARSE_FROM = 128 << 10 };
    size_t bytes = superslab_large_usable(window, slab);
    bool is_zero;
    if (bytes < SPARSE_FROM || size >= LARGE_BLOCK_FAR ||
        size > window->slabs << ARENA_SLAB_SHIFT) {
        return NULL;
    }
    char *to = alloc_near(size, 1, LARGE_BLOCK_GROWN, &is_zero);
    if (to == NULL) {
        return NULL;
    }
    size_t copied = 0;
    for (size_t at = 0, part; at < bytes; at += part) {
        part = hak_min(HAK_PAGE - (uintptr_t)(ptr + at) % HAK_PAGE, bytes - at);
        if (!is_zero || part < HAK_PAGE || !is_zero_page(ptr + at)) {
            memcpy(to + at, ptr + at, part);
            copied += part;
        }
    }
    struct slab *meta = superslab_slab(window, slab);
    size_t run = drop_room(meta, slab);
    // A run with few pages would have to be filled for the next block that grows.
    if (copied < bytes / 2 && page_arena_clean(slab, run)) {
        count_ended(meta);
        atomic_store_explicit(&meta->kind, SLAB_NONE, memory_order_release);
        page_arena_release(slab, run, false);
    } else {
        large_block_free(window, ptr, slab);
    }
    return to;
}

// The same, at another place: by the page table if that can be, else as little as can be is copied.
static void *move_near(const struct page_arena_window *window, size_t slab, size_t size) {
    struct slab *meta = superslab_slab(window, slab);
    size_t run = atomic_load_explicit(&meta->run, memory_order_relaxed) -
                 atomic_load_explicit(&meta->room, memory_order_relaxed);
    size_t colour = atomic_load_explicit(&meta->colour, memory_order_relaxed);
    if (size > window->slabs << ARENA_SLAB_SHIFT || run << ARENA_SLAB_SHIFT < LARGE_BLOCK_MOVE) {
        return NULL;
    }
    size_t to_run = slabs_for(taken(size) + colour);
    size_t room;
    bool zero;
    size_t to = claim_to_move(&to_run, &room, &zero);
    if (to == ARENA_NONE) {
        return NULL;
    }
    bool clean = page_arena_move(slab, to, run);
    if (!clean) {
        zero = zero || page_arena_clean(to, run);
        clean = copy_run(window, slab, to, run, zero);
    }
    drop_room(meta, slab);
    count_ended(meta);
    atomic_store_explicit(&meta->kind, SLAB_NONE, memory_order_release);
    page_arena_release(slab, run, !clean);
    // Pages moved as they were, and so the block starts at the same line of its page.
    char *moved = begin(window, to, to_run, colour, size);
    atomic_store_explicit(&superslab_slab(window, to)->room, (uint32_t)room, memory_order_relaxed);
    settle_slack(window, to, TAIL_WANTED);
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
