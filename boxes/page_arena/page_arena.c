// SPDX-License-Identifier: Apache-2.0
#include "boxes/page_arena/page_arena.h"

#include "backends/os.h"
#include "boxes/base/alone.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/dirty_ceiling/dirty_ceiling.h"
#include "boxes/moved_runs/moved_runs.h"
#include "boxes/run_cache/run_cache.h"
#include "boxes/settings/settings.h"

// The window is placed between the random hints of JavaScript engines (below 64 TiB) and the
// addresses that the kernel gives programs (above 85 TiB).
#if !defined(__SANITIZE_THREAD__)
#    define ZONE_START   ((uintptr_t)64 << 40)
#    define ZONE_SIZE    ((uintptr_t)16 << 40)
#    define WINDOW_MOST  ((size_t)4 << 40)
#    define WINDOW_USUAL ((size_t)1 << 40)
#else
// ThreadSanitizer has no shadow for the addresses there. It has for the topmost 1.5 TiB, of which
// the kernel uses the upper 1 TiB.
#    define ZONE_START   ((uintptr_t)0x7e8000000000)
#    define ZONE_SIZE    ((uintptr_t)512 << 30)
#    define WINDOW_MOST  ((size_t)256 << 30)
#    define WINDOW_USUAL WINDOW_MOST
#endif
#define WINDOW_LEAST ((size_t)ARENA_REGION_SLABS << ARENA_SLAB_SHIFT)

// What is ordered, and by what:
//
// - What a holder did with a slab comes before what the next one does: putting the bit into `avail`
//   releases, claiming it acquires. `dirty` is written between the two, by the holder.
// - `config`, `control.open` and `high` publish what lies behind them: mapped metadata. Stored by a
//   read-modify-write, loaded with acquire.
// - Who takes a SuperSlab to map slabs of it looks afterwards how many it has: nobody else can add
//   any as long as it is taken.
// - A release sets a bit and then looks at `lowest`; a search raises `lowest` and then looks at the
//   bits that it has passed. One of the two must see the other: all four are sequentially
//   consistent.
// - A release sets a bit and then looks at the summaries above it (raise()); a survey marks a
//   summary and then looks at the bits (survey()). One of the two sees the other, as above.
// - A claim clears bits and then looks at `top`; lower_top() lowers `top` and then looks at the
//   bits again. Likewise `meta_used` and the region's `meta`.
// - `committed` stands for rights that the kernel gave before the bit was set. They are not data of
//   this process: a relaxed look is enough, as it is for hints and counts. The bit is cleared by
//   someone who holds all of the SuperSlab, and `lost` is set by someone who holds the slabs: both
//   before these are put into `avail`.

// The whole configuration in one word, so that it is published by one compare-and-swap: the base
// (2 MiB aligned), and log2 of the window's slabs in bits 0..7.
static _Atomic uintptr_t config;

// Slabs that a heap grows by if it has none, if the kernel has refused more, and at most.
enum { STEP_FIRST = 4, STEP_LEAST = 1, STEP_MOST = ARENA_SUPERSLAB_SLABS };

// A process that may have less data than this is tight.
static const size_t data_tight = (size_t)16 << 20;

// What all threads write stands apart from what all read.
static struct {
    alignas(HAK_CACHE_LINE) _Atomic size_t high;     // see page_arena_high()
    _Atomic size_t top;                              // see page_arena_top()
    _Atomic size_t reserved;                         // bytes
    _Atomic size_t readable_end;                     // see page_arena_readable(), a slab's index
    _Atomic size_t step;                             // most slabs to grow by, see extend_rounded()
    _Atomic bool tight;                              // see page_arena_is_tight()
    _Atomic bool dense;                              // see page_arena_mark_dense()
    _Atomic bool charged;                            // see is_charged()
    alignas(HAK_CACHE_LINE) _Atomic size_t lowest;   // no slab below this word index is avail
    alignas(HAK_CACHE_LINE) _Atomic uint64_t counts; // see count_slabs()
    uint32_t peak;                                   // most slabs held at a time, about
    alignas(HAK_CACHE_LINE) _Atomic uint64_t purged_slabs;
    _Atomic uint64_t moved_slabs;
    _Atomic size_t sparse;     // see page_arena_count_sparse()
    _Atomic size_t given_word; // see give_back()
    _Atomic size_t settled;    // see settle()
} state = {.step = STEP_MOST};

static size_t window_slabs(uintptr_t word) {
    return (size_t)1 << (word & 0xff);
}

// What lies at the start of the window: page map, groups and regions.
static size_t groups_offset(size_t slabs) {
    return hak_round_up(slabs, HAK_PAGE);
}

static size_t regions_offset(size_t slabs) {
    size_t groups = slabs / ARENA_GROUP_SLABS;
    return groups_offset(slabs) + hak_round_up(groups * sizeof(struct page_arena_group), HAK_PAGE);
}

static size_t regions_size(size_t slabs) {
    size_t regions = (slabs + ARENA_REGION_SLABS - 1) / ARENA_REGION_SLABS;
    return hak_round_up(regions * sizeof(struct page_arena_region), HAK_PAGE);
}

static struct page_arena_window window_of(uintptr_t word) {
    struct page_arena_window window = {0};
    if (word != 0) {
        size_t slabs = window_slabs(word);
        window.base = (char *)(word & ~(uintptr_t)(ARENA_SUPERSLAB - 1));
        window.slabs = slabs;
        window.groups = (struct page_arena_group *)(window.base + groups_offset(slabs));
        window.regions = (struct page_arena_region *)(window.base + regions_offset(slabs));
        window.meta = window.base + (slabs << ARENA_SLAB_SHIFT);
    }
    return window;
}

// The window of `config`, worked out once: every call of the arena wants it.
static struct {
    struct page_arena_window window;
    _Atomic bool ready;
} known;

struct page_arena_window page_arena_get_window(void) {
    if (HAK_LIKELY(atomic_load_explicit(&known.ready, memory_order_acquire))) {
        return known.window;
    }
    return window_of(atomic_load_explicit(&config, memory_order_acquire));
}

// The SuperSlabs that the control area lies in stay out of use.
static size_t first_superslab(const struct page_arena_window *window) {
    size_t control = regions_offset(window->slabs) + regions_size(window->slabs);
    return hak_round_up(control, ARENA_SUPERSLAB) / ARENA_SUPERSLAB;
}

// Reserves the regions of a window at `at`, which is thereby the arena's, and gives the first one
// rights.
static enum os_result take_place(uintptr_t at, size_t slabs) {
    char *regions = (char *)at + regions_offset(slabs);
    enum os_result result = os_reserve(regions, regions_size(slabs), NULL);
    if (result == OS_OK) {
        size_t first = hak_round_up(sizeof(struct page_arena_region), HAK_PAGE);
        result = os_commit_alone(regions, first);
        if (result != OS_OK) {
            os_release(regions, regions_size(slabs));
        }
    }
    return result;
}

static void leave_place(uintptr_t at, size_t slabs) {
    os_release((char *)at + regions_offset(slabs), regions_size(slabs));
}

// Finds a place for a window of *slabs slabs, or fewer where the kernel has its say; 0 if it has no
// memory at all.
static uintptr_t place_window(size_t *slabs) {
    enum { PLACES = 16 };
    uint64_t seed = os_random();
    enum os_result result = OS_TAKEN;
    for (int i = 0; i < PLACES && result == OS_TAKEN; i++) {
        size_t bytes = *slabs << ARENA_SLAB_SHIFT;
        size_t whole = bytes + bytes / ARENA_SUPERSLAB * ARENA_SUPERSLAB_META;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uintptr_t at = ZONE_START + (seed >> 16) % ((ZONE_SIZE - whole) >> ARENA_SUPERSLAB_SHIFT) *
                                        ARENA_SUPERSLAB;
        result = take_place(at, *slabs);
        if (result == OS_OK) {
            return at;
        }
    }
    // No memory, or no such address on this kernel? Then a range of its choice is a hint for ours.
    void *range;
    if (os_reserve(NULL, regions_size(*slabs), &range) != OS_OK) {
        return 0;
    }
    os_release(range, regions_size(*slabs));
    for (; *slabs << ARENA_SLAB_SHIFT >= WINDOW_LEAST; *slabs /= 2) {
        size_t bytes = *slabs << ARENA_SLAB_SHIFT;
        size_t whole = bytes + bytes / ARENA_SUPERSLAB * ARENA_SUPERSLAB_META;
        if (os_reserve(NULL, whole + ARENA_SUPERSLAB, &range) == OS_OK) {
            os_release(range, whole + ARENA_SUPERSLAB);
            uintptr_t at = hak_round_up((uintptr_t)range, ARENA_SUPERSLAB);
            if (take_place(at, *slabs) == OS_OK) {
                return at;
            }
        }
    }
    return 0;
}

// True where the kernel charges for all that can be written, touched or not (overcommit_memory 2):
// there, SuperSlabs out of use are decommitted.
static bool is_charged(void) {
    return atomic_load_explicit(&state.charged, memory_order_relaxed);
}

bool page_arena_is_tight(void) {
    return atomic_load_explicit(&state.tight, memory_order_relaxed);
}

bool page_arena_init(void) {
    if (atomic_load_explicit(&config, memory_order_acquire) != 0) {
        return true;
    }
    // Four times the memory there is, and 1 TiB at least: addresses, of which few are mapped.
    size_t bytes = WINDOW_USUAL;
    size_t memory = os_physical_memory();
    while (bytes < WINDOW_MOST && bytes / 4 < memory) {
        bytes *= 2;
    }
    size_t slabs = bytes >> ARENA_SLAB_SHIFT;
    uintptr_t at = place_window(&slabs);
    if (at == 0) {
        return false;
    }
    // Where the process is tight, slabs have rights while they are in use.
    bool tight = os_data_limit() < data_tight;
    atomic_store_explicit(&state.tight, tight, memory_order_relaxed);
    char policy;
    if (!tight && os_read_file("/proc/sys/vm/overcommit_memory", &policy, 1) == 1 &&
        policy == '2') {
        atomic_store_explicit(&state.charged, true, memory_order_relaxed);
    }
    uintptr_t word = at | hak_log2(slabs);
    uintptr_t none = 0;
    if (!atomic_compare_exchange_strong(&config, &none, word)) {
        leave_place(at, slabs);
        return true;
    }
    known.window = window_of(word);
    atomic_store_explicit(&known.ready, true, memory_order_release);
    return true;
}

static size_t load_max(_Atomic size_t *at, size_t value) {
    size_t seen = atomic_load_explicit(at, memory_order_relaxed);
    while (seen < value && !atomic_compare_exchange_weak(at, &seen, value)) {
    }
    return seen;
}

static void lower(_Atomic size_t *at, size_t value) {
    size_t seen = atomic_load(at);
    while (seen > value && !atomic_compare_exchange_weak(at, &seen, value)) {
    }
}

// --- The control area
//
// It is mapped as the heap grows, so that a small process has little of it: limits on address
// space, data or locked memory count what is mapped, touched or not. A piece of the window is as
// many slabs as have a page of the page map; their groups have a page too. Only the regions, of
// which a window has few, are reserved from the start, and get rights in order: the first one
// before the window is known.
//
// Who sets a piece's bit in `begun` maps it; others grow elsewhere meanwhile, so nobody waits. The
// bit stays where something of others' is in the way, and in a child that is forked in between:
// such a piece is not used.
enum {
    PIECE_SLABS = HAK_PAGE,
    PIECE_GROUPS = PIECE_SLABS / ARENA_GROUP_SLABS,
    PIECES_MOST = (WINDOW_MOST >> ARENA_SLAB_SHIFT) / PIECE_SLABS,
};
static_assert(sizeof(struct page_arena_group) * PIECE_GROUPS == HAK_PAGE, "a page of groups");
static_assert(ARENA_REGION_GROUPS % PIECE_GROUPS == 0, "a piece is in one region");

static struct {
    atomic_bitmap_word begun[PIECES_MOST / 64];
    atomic_bitmap_word open[PIECES_MOST / 64]; // mapped
    _Atomic size_t more_regions;               // regions with rights after the first one
    _Atomic bool adding;                       // see add_alone()
    _Atomic size_t pieces;                     // all below are open; may be behind
} control;

static bool is_open(size_t piece) {
    return (atomic_load_explicit(&control.open[piece / 64], memory_order_acquire) >> piece % 64 &
            1) != 0;
}

static bool is_group_open(size_t group) {
    return is_open(group / PIECE_GROUPS);
}

bool page_arena_reaches(size_t slab) {
    // No piece is open that is not in the window.
    return slab / PIECE_SLABS < PIECES_MOST && is_open(slab / PIECE_SLABS);
}

size_t page_arena_mapped(void) {
    size_t pieces = atomic_load_explicit(&control.pieces, memory_order_relaxed);
    size_t seen = pieces;
    while (pieces < PIECES_MOST && is_open(pieces)) {
        pieces++;
    }
    if (pieces != seen) {
        load_max(&control.pieces, pieces);
    }
    return pieces * PIECE_SLABS;
}

// Gives the regions up to `region` rights, `call` says how, and perhaps a few behind, which share
// their last page.
static enum os_result add_regions(const struct page_arena_window *window, size_t region,
                                  enum os_result (*call)(void *, size_t)) {
    size_t have = 1 + atomic_load(&control.more_regions);
    char *from = (char *)hak_round_up((uintptr_t)&window->regions[have], HAK_PAGE);
    char *end = (char *)hak_round_up((uintptr_t)&window->regions[region + 1], HAK_PAGE);
    enum os_result result = from < end ? call(from, (size_t)(end - from)) : OS_OK;
    if (result == OS_OK) {
        load_max(&control.more_regions, region);
    }
    return result;
}

// Gives rights to what has none yet where that empties what has some. So it is for one thread at a
// time, which looks whether another has done it; who comes meanwhile is refused and does not wait.
static enum os_result add_alone(const struct page_arena_window *window, size_t what,
                                enum os_result (*add)(const struct page_arena_window *, size_t)) {
    if (atomic_exchange(&control.adding, true)) {
        return OS_NO_MEMORY;
    }
    enum os_result result = add(window, what);
    atomic_store(&control.adding, false);
    return result;
}

static enum os_result add_regions_alone(const struct page_arena_window *window, size_t region) {
    return region <= atomic_load(&control.more_regions)
               ? OS_OK
               : add_regions(window, region, os_commit_alone);
}

static enum os_result open_regions(const struct page_arena_window *window, size_t region) {
    if (region <= atomic_load(&control.more_regions)) {
        return OS_OK;
    }
    enum os_result result = add_regions(window, region, os_commit);
    return result == OS_TAKEN ? add_alone(window, region, add_regions_alone) : result;
}

static enum os_result map_piece(const struct page_arena_window *window, size_t piece) {
    char *map = window->base + piece * HAK_PAGE;
    enum os_result result = open_regions(window, piece / (ARENA_REGION_GROUPS / PIECE_GROUPS));
    if (result == OS_OK) {
        result = os_map(map, HAK_PAGE, NULL);
    }
    if (result == OS_OK) {
        result = os_map(&window->groups[piece * PIECE_GROUPS], HAK_PAGE, NULL);
        if (result != OS_OK) {
            os_release(map, HAK_PAGE);
        }
    }
    return result;
}

// OS_TAKEN: another thread is at it, or something of others' is in the way.
static enum os_result open_piece(const struct page_arena_window *window, size_t piece) {
    if (is_open(piece)) {
        return OS_OK;
    }
    uint64_t bit = UINT64_C(1) << piece % 64;
    if ((atomic_bitmap_put(&control.begun[piece / 64], bit) & bit) != 0) {
        return OS_TAKEN;
    }
    enum os_result result = map_piece(window, piece);
    if (result == OS_OK) {
        atomic_bitmap_put(&control.open[piece / 64], bit);
    } else if (result == OS_NO_MEMORY) {
        atomic_fetch_and(&control.begun[piece / 64], ~bit);
    }
    return result;
}

static atomic_bitmap_word *avail_word(const struct page_arena_window *window, size_t word) {
    return &window->groups[word / 32].avail[word % 32];
}

static atomic_bitmap_word *dirty_word(const struct page_arena_window *window, size_t word) {
    return &window->groups[word / 32].dirty[word % 32];
}

// The part of the slabs [at, end) that lies in the group of slab `at`.
struct group_part {
    struct page_arena_group *group;
    size_t index;        // the group's
    size_t first, count; // the part's slabs within the group
};

HAK_INLINE struct group_part group_part(const struct page_arena_window *window, size_t at,
                                        size_t end) {
    size_t index = at / ARENA_GROUP_SLABS;
    size_t first = at % ARENA_GROUP_SLABS;
    return (struct group_part){&window->groups[index], index, first,
                               hak_min(end - at, ARENA_GROUP_SLABS - first)};
}

// The first slab of the group after that of slab `at`.
HAK_INLINE size_t next_group(size_t at) {
    return (at / ARENA_GROUP_SLABS + 1) * ARENA_GROUP_SLABS;
}

// --- Summaries
//
// A summary says how long the longest run of a group or region is, and of a group also how many
// slabs at its start and at its end are one run: bounds from above, so that a search may pass by
// what is too short without a look at it. Who makes slabs available raises the summaries above them
// to the most there can be; a claim changes none. A search that has looked at a group in vain
// surveys it: it marks the summary, counts, and writes the result if the mark is still there. Who
// raises a summary takes the mark away, and so wins against every survey that may not have seen its
// bits. The tag tells marks apart (2^27 surveys later a mark may be taken for another one; a run
// that were hidden so would be seen again after the next release in its group).
enum {
    RUN_BITS = 12, // a group's longest run, the one at its start and the one at its end
    FIELD_BITS = 3 * RUN_BITS,
};
static const uint64_t fields_mask = (UINT64_C(1) << FIELD_BITS) - 1;
static const uint64_t survey_mark = UINT64_C(1) << FIELD_BITS;
static const uint64_t survey_tag = UINT64_C(2) << FIELD_BITS;

struct runs {
    size_t longest, first, last; // slabs
};

static uint64_t pack(struct runs runs) {
    return runs.longest | (uint64_t)runs.first << RUN_BITS | (uint64_t)runs.last << 2 * RUN_BITS;
}
static struct runs unpack(uint64_t word) {
    const uint64_t mask = (1 << RUN_BITS) - 1;
    return (struct runs){word & mask, word >> RUN_BITS & mask, word >> 2 * RUN_BITS & mask};
}

static const uint64_t group_most = ARENA_GROUP_SLABS | (uint64_t)ARENA_GROUP_SLABS << RUN_BITS |
                                   (uint64_t)ARENA_GROUP_SLABS << 2 * RUN_BITS;
static const uint64_t region_most = ARENA_REGION_SLABS; // the longest run is all there is of it

static struct page_arena_runs *runs_of(const struct page_arena_window *window, size_t group,
                                       bool dirty) {
    struct page_arena_region *region = &window->regions[group / ARENA_REGION_GROUPS];
    return dirty ? &region->dirty : &region->free;
}

static struct runs group_runs(const struct page_arena_window *window, size_t group, bool dirty) {
    return unpack(atomic_load(&runs_of(window, group, dirty)->group[group % ARENA_REGION_GROUPS]));
}
static size_t region_longest(const struct page_arena_window *window, size_t group, bool dirty) {
    return atomic_load(&runs_of(window, group, dirty)->all) & fields_mask;
}

// A run that goes on into a group, or through it, after one of `carry` slabs that ends before it.
static size_t carry_over(size_t carry, struct runs runs) {
    return runs.first == ARENA_GROUP_SLABS ? carry + ARENA_GROUP_SLABS : runs.last;
}

static void raise(atomic_bitmap_word *summary, uint64_t most) {
    uint64_t seen = atomic_load(summary);
    while ((seen & (fields_mask | survey_mark)) != most &&
           !atomic_compare_exchange_weak(summary, &seen,
                                         (seen & ~(fields_mask | survey_mark)) | most)) {
    }
}

// To be called after slabs of the group have become available (or dirty ones have).
static void raise_runs(const struct page_arena_window *window, size_t group, bool dirty) {
    struct page_arena_runs *runs = runs_of(window, group, dirty);
    raise(&runs->group[group % ARENA_REGION_GROUPS], group_most);
    raise(&runs->all, region_most);
}

// Marks a summary; 0 if someone changed it meanwhile: then there is no mark.
static uint64_t begin_survey(atomic_bitmap_word *summary) {
    uint64_t seen = atomic_load(summary);
    uint64_t marked = ((seen | survey_mark) + survey_tag);
    return atomic_compare_exchange_strong(summary, &seen, marked) ? marked : 0;
}

static void end_survey(atomic_bitmap_word *summary, uint64_t marked, uint64_t fields) {
    if (marked != 0) {
        uint64_t tag = marked & ~(fields_mask | survey_mark);
        atomic_compare_exchange_strong(summary, &marked, tag | fields);
    }
}

static unsigned longest_ones(uint64_t bits) {
    unsigned n = 0;
    for (; bits != 0; bits &= bits >> 1) {
        n++;
    }
    return n;
}

// Counts the runs of a group, and brings its summary down to them.
static struct runs survey(const struct page_arena_window *window, size_t group, bool dirty) {
    atomic_bitmap_word *summary =
        &runs_of(window, group, dirty)->group[group % ARENA_REGION_GROUPS];
    uint64_t marked = begin_survey(summary);
    struct runs runs = {0, ARENA_GROUP_SLABS, 0};
    for (size_t i = 0; i < ARENA_GROUP_SLABS / 64; i++) {
        uint64_t bits = atomic_load(&window->groups[group].avail[i]);
        if (dirty && bits != 0) {
            bits &= atomic_load(&window->groups[group].dirty[i]);
        }
        if (bits == ~UINT64_C(0)) {
            runs.last += 64;
            continue;
        }
        size_t head = runs.last + (size_t)__builtin_ctzll(~bits);
        runs.first = runs.first == ARENA_GROUP_SLABS ? head : runs.first;
        runs.longest = hak_max(runs.longest, head);
        if ((size_t)__builtin_popcountll(bits) > runs.longest) {
            runs.longest = hak_max(runs.longest, longest_ones(bits));
        }
        runs.last = (size_t)__builtin_clzll(~bits);
    }
    runs.longest = hak_max(runs.longest, runs.last);
    end_survey(summary, marked, pack(runs));
    return runs;
}

// The same for a region, by the summaries of its groups.
static size_t survey_region(const struct page_arena_window *window, size_t group, bool dirty) {
    struct page_arena_runs *summary = runs_of(window, group, dirty);
    uint64_t marked = begin_survey(&summary->all);
    size_t longest = 0;
    size_t carry = 0;
    for (size_t i = 0; i < ARENA_REGION_GROUPS; i++) {
        struct runs runs = unpack(atomic_load(&summary->group[i]));
        longest = hak_max(longest, hak_max(runs.longest, carry + runs.first));
        carry = carry_over(carry, runs);
    }
    end_survey(&summary->all, marked, longest);
    return longest;
}

// Says that a group has no free slab. Only by someone who holds them all.
static void hold_group(const struct page_arena_window *window, size_t group) {
    for (int dirty = 0; dirty <= 1; dirty++) {
        atomic_bitmap_word *summary =
            &runs_of(window, group, dirty)->group[group % ARENA_REGION_GROUPS];
        end_survey(summary, begin_survey(summary), 0);
    }
}

// `dirty`: some of the slabs may be dirty.
static void put_avail(const struct page_arena_window *window, size_t from, size_t count,
                      bool dirty) {
    for (size_t at = from, end = from + count; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_put_run(part.group->avail, part.first, part.count);
        raise_runs(window, part.index, false);
        if (dirty) {
            raise_runs(window, part.index, true);
        }
    }
    lower(&state.lowest, from / 64);
}

static bool claim_avail(const struct page_arena_window *window, size_t from, size_t count) {
    bool ok = true;
    size_t done = 0;
    for (size_t at = from, end = from + count; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        if (ok && atomic_bitmap_claim_run(part.group->avail, part.first, part.count)) {
            done += part.count;
        } else if (ok) {
            ok = false;
            if (part.first % 64 + part.count > 64) {
                // Words of it may have been claimed, and put back: a survey may have missed them,
                // and a search passed them by.
                raise_runs(window, part.index, false);
                raise_runs(window, part.index, true);
                lower(&state.lowest, from / 64);
            }
        }
    }
    if (!ok && done > 0) {
        put_avail(window, from, done, true);
    }
    return ok;
}

// True if none of the slabs is in use: a look, before a claim that mostly fails.
static bool all_avail(const struct page_arena_window *window, size_t from, size_t count) {
    while (count > 0) {
        unsigned bit = (unsigned)(from % 64);
        unsigned here = (unsigned)hak_min(count, 64 - bit);
        uint64_t mask = atomic_bitmap_mask(bit, here);
        if (!is_open(from / PIECE_SLABS) ||
            (~atomic_load_explicit(avail_word(window, from / 64), memory_order_relaxed) & mask) !=
                0) {
            return false;
        }
        from += here;
        count -= here;
    }
    return true;
}

static size_t count_dirty(const struct page_arena_window *window, size_t from, size_t count) {
    uint64_t mask;
    if (HAK_LIKELY(atomic_bitmap_is_short(from, count, &mask))) {
        uint64_t bits =
            atomic_load_explicit(dirty_word(window, from / 64), memory_order_relaxed) & mask;
        // All of them, or none, mostly: no need to count.
        return bits == mask ? count : bits == 0 ? 0 : (size_t)__builtin_popcountll(bits);
    }
    size_t sum = 0;
    for (size_t at = from, end = from + count; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        sum += atomic_bitmap_count_run(part.group->dirty, part.first, part.count);
    }
    return sum;
}

static size_t limit_slabs(void) {
    size_t limit = (size_t)settings_get(SETTING_LIMIT);
    return limit == 0 ? 0 : hak_max(limit >> ARENA_SLAB_SHIFT, 1);
}

// Bits of the SuperSlabs of a group that slabs [first, first + count) of it lie in.
static uint64_t superslab_mask(size_t first, size_t count) {
    unsigned from = (unsigned)(first / ARENA_SUPERSLAB_SLABS);
    unsigned last = (unsigned)((first + count - 1) / ARENA_SUPERSLAB_SLABS);
    return atomic_bitmap_mask(from, last - from + 1);
}

// SuperSlabs without rights from `superslab` on, `most` at most.
static size_t count_uncommitted(const struct page_arena_window *window, size_t superslab,
                                size_t most) {
    size_t count = 0;
    while (count < most) {
        size_t at = superslab + count;
        uint64_t word =
            atomic_load_explicit(&window->groups[at / 64].committed, memory_order_relaxed) >>
            at % 64;
        if (word != 0) {
            count += (size_t)__builtin_ctzll(word);
            break;
        }
        count += 64 - at % 64;
    }
    return hak_min(count, most);
}

// Maps those of held slabs again that the kernel has unmapped and would not map at once.
static bool map_lost(const struct page_arena_window *window, size_t from, size_t slabs) {
    enum os_result result =
        os_map(page_arena_address(window, from), slabs << ARENA_SLAB_SHIFT, NULL);
    // "Taken" by those that are mapped: one after the other, then.
    for (size_t i = 0; i < slabs && result == OS_TAKEN; i++) {
        if (os_map(page_arena_address(window, from + i), ARENA_SLAB, NULL) == OS_NO_MEMORY) {
            result = OS_NO_MEMORY;
        }
    }
    return result != OS_NO_MEMORY;
}

// The same for the slabs of a claim. A SuperSlab that they make up is not marked any longer.
static bool find_lost(const struct page_arena_window *window, size_t from, size_t slabs) {
    for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        uint64_t lost = atomic_load_explicit(&part.group->lost, memory_order_relaxed) &
                        superslab_mask(part.first, part.count);
        size_t base = part.index * ARENA_GROUP_SLABS;
        for (; lost != 0; lost &= lost - 1) {
            size_t superslab = base + (size_t)__builtin_ctzll(lost) * ARENA_SUPERSLAB_SLABS;
            size_t start = hak_max(superslab, from);
            size_t stop = hak_min(superslab + ARENA_SUPERSLAB_SLABS, end);
            if (!map_lost(window, start, stop - start)) {
                return false;
            }
            if (stop - start == ARENA_SUPERSLAB_SLABS) {
                atomic_fetch_and(&part.group->lost, ~(lost & -lost));
            }
        }
    }
    return true;
}

static void mark_lost(const struct page_arena_window *window, size_t from, size_t slabs) {
    for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_put(&part.group->lost, superslab_mask(part.first, part.count));
    }
}

static void mark_huge(const struct page_arena_window *window, size_t from, size_t slabs) {
    for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_put(&part.group->huge, superslab_mask(part.first, part.count));
    }
}

static void mark_meta(const struct page_arena_window *window, size_t index, uint64_t superslabs) {
    atomic_bitmap_put(&window->groups[index].meta_used, superslabs);
    atomic_bitmap_ensure_run(&window->regions[index / ARENA_REGION_GROUPS].meta,
                             index % ARENA_REGION_GROUPS, 1);
}

static void mark_committed(const struct page_arena_window *window, size_t index,
                           uint64_t superslabs) {
    atomic_bitmap_put(&window->groups[index].committed, superslabs);
    if (is_charged()) { // so that the purge comes by
        mark_meta(window, index, superslabs);
    }
}

// A SuperSlab that was decommitted gets its rights back.
static enum os_result commit_alone(const struct page_arena_window *window, size_t superslab) {
    size_t index = superslab / ARENA_GROUP_SUPERSLABS;
    uint64_t bit = UINT64_C(1) << superslab % ARENA_GROUP_SUPERSLABS;
    if ((atomic_load(&window->groups[index].committed) & bit) != 0) {
        return OS_OK;
    }
    enum os_result result = os_commit_alone(
        page_arena_address(window, superslab * ARENA_SUPERSLAB_SLABS), ARENA_SUPERSLAB);
    if (result == OS_OK) {
        mark_committed(window, index, bit);
    }
    return result;
}

// Gives `count` SuperSlabs that were decommitted, of held slabs, their rights back in one call; or
// the first of them alone, where the kernel has to map it anew. Returns how many have rights now;
// 0: the kernel refuses.
static size_t commit_some(const struct page_arena_window *window, size_t superslab, size_t count,
                          bool huge) {
    size_t from = superslab * ARENA_SUPERSLAB_SLABS;
    size_t end = from + count * ARENA_SUPERSLAB_SLABS;
    char *start = page_arena_address(window, from);
    enum os_result result = os_commit(start, count * ARENA_SUPERSLAB);
    if (result == OS_TAKEN) {
        return add_alone(window, superslab, commit_alone) == OS_OK ? 1 : 0;
    }
    if (result != OS_OK) {
        return 0;
    }
    if (huge || settings_get(SETTING_THP) == 1) {
        os_huge_pages(start, count * ARENA_SUPERSLAB, true);
        mark_huge(window, from, end - from);
    }
    for (size_t at = from; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        mark_committed(window, part.index, superslab_mask(part.first, part.count));
    }
    return count;
}

// Gives SuperSlabs of held slabs that were decommitted their rights back. A SuperSlab is only ever
// decommitted by someone who holds all of it, so the bits of these cannot be cleared meanwhile.
static bool commit(const struct page_arena_window *window, size_t from, size_t slabs, bool huge) {
    if (!find_lost(window, from, slabs)) {
        return false;
    }
    size_t last = (from + slabs - 1) / ARENA_SUPERSLAB_SLABS;
    for (size_t i = from / ARENA_SUPERSLAB_SLABS; i <= last;) {
        uint64_t has =
            atomic_load_explicit(&window->groups[i / 64].committed, memory_order_relaxed) >> i % 64;
        if ((has & 1) != 0) {
            i += has == ~UINT64_C(0) ? 64 : (size_t)__builtin_ctzll(~has);
            continue;
        }
        size_t count = commit_some(window, i, count_uncommitted(window, i, last - i + 1), huge);
        if (count == 0) {
            return false;
        }
        i += count;
    }
    return true;
}

static void use_meta(const struct page_arena_window *window, size_t slab) {
    size_t index = slab / ARENA_GROUP_SLABS;
    struct page_arena_group *group = &window->groups[index];
    uint64_t bit = superslab_mask(slab % ARENA_GROUP_SLABS, 1);
    if ((atomic_load_explicit(&group->meta_used, memory_order_relaxed) & bit) == 0) {
        mark_meta(window, index, bit);
    }
}

// Claimed slabs in the lower half of a word and free dirty slabs in its upper half, so that one
// step counts both. Neither is ever below 0: slabs are counted as dirty before they are available.
static void count_slabs(ptrdiff_t held, ptrdiff_t dirty) {
    hak_step_add(&state.counts, (uint64_t)held + ((uint64_t)dirty << 32));
    if (held > 0) {
        // For statistics only: of two threads that write it, one may win with a little less.
        uint32_t now = __atomic_load_n((uint32_t *)&state.counts, __ATOMIC_RELAXED);
        if (now > __atomic_load_n(&state.peak, __ATOMIC_RELAXED)) {
            __atomic_store_n(&state.peak, now, __ATOMIC_RELAXED);
        }
    }
}
static size_t counted_held(void) {
    return (uint32_t)atomic_load_explicit(&state.counts, memory_order_relaxed);
}
static size_t counted_dirty(void) {
    return atomic_load_explicit(&state.counts, memory_order_relaxed) >> 32;
}

// True if nothing is to be done before slabs can be used: a look at all that concerns their
// SuperSlabs, for runs that lie in one group.
static bool is_ready(const struct page_arena_window *window, size_t from, size_t slabs) {
    size_t first = from % ARENA_GROUP_SLABS;
    if (page_arena_is_tight() || slabs > ARENA_GROUP_SLABS - first) {
        return false;
    }
    struct page_arena_group *group = &window->groups[from / ARENA_GROUP_SLABS];
    uint64_t ready = atomic_load_explicit(&group->committed, memory_order_relaxed) &
                     atomic_load_explicit(&group->meta_used, memory_order_relaxed) &
                     ~atomic_load_explicit(&group->lost, memory_order_relaxed);
    uint64_t mask = superslab_mask(first, slabs);
    return (ready & mask) == mask;
}

// What else there is to know of a claim.
struct wish {
    bool huge;    // advise huge pages
    bool bare;    // without rights, if the process is tight
    bool counted; // its slabs are counted as held already
};

// For a tight process that was refused something: free slabs that have pages lose them, and with
// them their rights. True if there were some.
static bool give_rights_back(void) {
    size_t cursor = 0;
    size_t given = 0;
    do {
        given += page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX).slabs;
    } while (cursor != 0);
    return given != 0;
}

static bool give_rights(void *at, size_t bytes) {
    return os_commit_alone(at, bytes) == OS_OK ||
           (give_rights_back() && os_commit_alone(at, bytes) == OS_OK);
}

static HAK_NOINLINE bool make_ready(const struct page_arena_window *window, size_t from,
                                    size_t slabs, const struct wish *wish) {
    if (!commit(window, from, slabs, wish->huge)) {
        return false;
    }
    if (page_arena_is_tight() && !wish->bare &&
        !give_rights(page_arena_address(window, from), slabs << ARENA_SLAB_SHIFT)) {
        return false;
    }
    use_meta(window, from);
    size_t last = from + slabs - 1;
    if (last / ARENA_SUPERSLAB_SLABS != from / ARENA_SUPERSLAB_SLABS) {
        use_meta(window, last);
    }
    return true;
}

// Ends a claim: counts, commits, and answers whether every page of the run is untouched.
static HAK_NOINLINE bool finish_claim(const struct page_arena_window *window, size_t from,
                                      size_t slabs, const struct wish *wish, bool *zero) {
    size_t end = hak_round_up(from + slabs, ARENA_GROUP_SLABS);
    if (atomic_load(&state.top) < end) {
        load_max(&state.top, end);
    }
    if (HAK_UNLIKELY(!is_ready(window, from, slabs)) && !make_ready(window, from, slabs, wish)) {
        put_avail(window, from, slabs, true);
        return false;
    }
    size_t dirty = count_dirty(window, from, slabs);
    size_t held = wish->counted ? 0 : slabs;
    if (dirty + held > 0) {
        count_slabs((ptrdiff_t)held, -(ptrdiff_t)dirty);
    }
    dirty_ceiling_count_claimed(slabs, dirty);
    *zero = dirty == 0;
    return true;
}

// --- Growth
//
// The heap grows by slabs that are mapped with all rights: by a SuperSlab at a time where nothing
// else is asked for, and by less as long as it is small or if the kernel refuses. Slabs of a
// SuperSlab are mapped in order; its metadata is mapped with the first. A SuperSlab is taken while
// a thread maps slabs of it, and from then on if all of it is mapped or something of others' is in
// the way.

static atomic_bitmap_word *taken_word(const struct page_arena_window *window, size_t group) {
    return &window->regions[group / ARENA_REGION_GROUPS].taken[group % ARENA_REGION_GROUPS];
}

// The SuperSlabs of a group that nobody else may map slabs of, as bits.
static uint64_t taken_in(const struct page_arena_window *window, size_t group) {
    if (is_group_open(group)) {
        return atomic_load(taken_word(window, group));
    }
    return atomic_bitmap_test(control.begun, group / PIECE_GROUPS) ? ~UINT64_C(0) : 0;
}

static void leave_superslabs(const struct page_arena_window *window, size_t first, size_t end) {
    for (size_t s = first; s < end; s++) {
        atomic_fetch_and(taken_word(window, s / ARENA_GROUP_SUPERSLABS),
                         ~(UINT64_C(1) << s % ARENA_GROUP_SUPERSLABS));
    }
}

// How many of a SuperSlab's slabs are mapped.
static size_t mapped_in(const struct page_arena_window *window, size_t superslab) {
    size_t group = superslab / ARENA_GROUP_SUPERSLABS;
    if (!is_group_open(group)) {
        return 0;
    }
    size_t in_group = superslab % ARENA_GROUP_SUPERSLABS;
    uint64_t word = atomic_load(&window->groups[group].mapped[in_group / 2]);
    uint32_t bits = (uint32_t)(word >> in_group % 2 * ARENA_SUPERSLAB_SLABS);
    return bits == 0 ? 0 : hak_log2(bits) + 1u;
}

// Takes the SuperSlabs [first, last] in order to map slabs of them, from slab `from` of the first
// on. False if one of them is not to be had, or has other slabs by now than the caller has seen.
static bool take_superslabs(const struct page_arena_window *window, size_t from, size_t first,
                            size_t last) {
    for (size_t s = first; s <= last; s++) {
        uint64_t bit = UINT64_C(1) << s % ARENA_GROUP_SUPERSLABS;
        if ((atomic_bitmap_put(taken_word(window, s / ARENA_GROUP_SUPERSLABS), bit) & bit) != 0) {
            leave_superslabs(window, first, s); // someone else was faster
            return false;
        }
        if (mapped_in(window, s) != (s == first ? from % ARENA_SUPERSLAB_SLABS : 0)) {
            leave_superslabs(window, first, s + 1);
            return false;
        }
    }
    return true;
}

// Maps the slabs [from, end) of SuperSlabs that the caller has taken, and makes them available.
static enum os_result map_slabs(const struct page_arena_window *window, size_t from, size_t end,
                                bool huge) {
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
    if (huge || settings_get(SETTING_THP) == 1) {
        os_huge_pages(start, bytes, true);
        mark_huge(window, from, end - from);
    }
    atomic_fetch_add_explicit(&state.reserved, bytes, memory_order_relaxed);
    for (size_t at = from; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_put_run(part.group->mapped, part.first, part.count);
        mark_committed(window, part.index, superslab_mask(part.first, part.count));
    }
    load_max(&state.high, hak_round_up(end, 64));
    put_avail(window, from, end - from, false);
    return OS_OK;
}

// Maps the slabs [from, end), whose first one is the first of its SuperSlab that is not mapped.
// OS_NO_MEMORY: the kernel refuses; a part of them may have become available. After OS_TAKEN the
// caller looks again: what stood in the way does so no more, or is out of the set by then.
static enum os_result extend(const struct page_arena_window *window, size_t from, size_t end,
                             bool huge) {
    for (size_t piece = from / PIECE_SLABS; piece <= (end - 1) / PIECE_SLABS; piece++) {
        enum os_result opened = open_piece(window, piece);
        if (opened != OS_OK) {
            return opened;
        }
    }
    // Those that an alignment has left out, so that page_arena_mapped() covers these.
    for (size_t piece = page_arena_mapped() / PIECE_SLABS; piece < from / PIECE_SLABS; piece++) {
        open_piece(window, piece);
    }
    size_t first = from / ARENA_SUPERSLAB_SLABS;
    size_t last = (end - 1) / ARENA_SUPERSLAB_SLABS;
    if (!take_superslabs(window, from, first, last)) {
        return OS_TAKEN;
    }
    enum os_result result = map_slabs(window, from, end, huge);
    if (result == OS_TAKEN && first != last) {
        // Find which of them it was; the others are good.
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

// As extend(), with what is left of the last SuperSlab, up to a step in all: a quarter of the heap.
// A refusal makes the step small, so that the next growth does not ask in vain for what it need not
// have.
static enum os_result extend_rounded(const struct page_arena_window *window, size_t from,
                                     size_t end, bool huge) {
    size_t most = atomic_load_explicit(&state.step, memory_order_relaxed);
    size_t mapped = atomic_load_explicit(&state.reserved, memory_order_relaxed) >> ARENA_SLAB_SHIFT;
    size_t step = hak_min(hak_max(mapped / 4, STEP_FIRST), most);
    size_t more = hak_min(hak_round_up(end, ARENA_SUPERSLAB_SLABS), from + step);
    more = hak_max(more, end);
    enum os_result result = extend(window, from, more, huge);
    if (result == OS_OK && most < STEP_MOST) {
        atomic_store_explicit(&state.step, most * 2, memory_order_relaxed);
    } else if (result == OS_NO_MEMORY) {
        atomic_store_explicit(&state.step, STEP_LEAST, memory_order_relaxed);
        if (more > end) {
            result = extend(window, from, end, huge);
        }
    }
    return result;
}

// Free slabs that end before `slab`, `most` at most.
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

// The lowest slabs, none of them mapped, with which there are `slabs` aligned slabs: nothing below
// the SuperSlab of the first of those, however large the alignment. False if there are none.
static bool find_room(const struct page_arena_window *window, size_t slabs, size_t align,
                      struct room *room) {
    enum { EACH = ARENA_SUPERSLAB_SLABS };
    size_t step = align >> ARENA_SLAB_SHIFT;
    size_t origin = ((uintptr_t)window->base >> ARENA_SLAB_SHIFT) & (step - 1);
    size_t superslabs = window->slabs / EACH;
    size_t end = 0; // SuperSlabs up to this one are not taken, and hold what is asked for
    for (size_t s = first_superslab(window); s < superslabs; s++) {
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
            if (from / EACH > s) { // is that one taken?
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

// Makes `slabs` more adjacent, aligned slabs available; OS_NO_MEMORY if the kernel refuses or no
// address is left. After OS_TAKEN the caller tries again.
static HAK_NOINLINE enum os_result grow(const struct page_arena_window *window, size_t slabs,
                                        size_t align, bool huge) {
    struct room room = {0, 0};
    return find_room(window, slabs, align, &room)
               ? extend_rounded(window, room.from, room.end, huge)
               : OS_NO_MEMORY;
}

// Makes those of the slabs [from, from + slabs) available that are not mapped, if the others are
// free. False if that cannot be.
static bool grow_at(const struct page_arena_window *window, size_t from, size_t slabs, bool huge) {
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
    return start < end && all_avail(window, from, start - from) &&
           extend_rounded(window, start, end, huge) == OS_OK;
}

// The first word with a free slab in [word, end), or `end`.
static size_t first_word(const struct page_arena_window *window, size_t word, size_t end) {
    while (word < end) {
        size_t group = word / 32;
        if (word % (ARENA_REGION_SLABS / 64) == 0 && region_longest(window, group, false) == 0) {
            word += ARENA_REGION_SLABS / 64;
        } else if (word % 32 == 0 && group_runs(window, group, false).longest == 0) {
            word += 32;
        } else if (is_group_open(group) && atomic_load(avail_word(window, word)) != 0) {
            return word;
        } else {
            word++;
        }
    }
    return end;
}

// Where searches may start, a word's index; `words` if nothing is free.
static size_t raise_lowest(const struct page_arena_window *window, size_t words) {
    size_t lowest = atomic_load(&state.lowest);
    if (lowest >= words ||
        (is_group_open(lowest / 32) && atomic_load(avail_word(window, lowest)) != 0)) {
        return hak_min(lowest, words);
    }
    size_t word = first_word(window, lowest, words);
    size_t was = lowest;
    if (word > was && atomic_compare_exchange_strong(&state.lowest, &lowest, word)) {
        // A release below may have looked at the old value before it was raised.
        size_t missed = first_word(window, was, word);
        if (missed < word) {
            lower(&state.lowest, missed);
        }
    }
    return word;
}

// What a search looks for.
struct search {
    const struct page_arena_window *window;
    size_t slabs;
    size_t step;   // the start is aligned to so many slabs
    size_t origin; // the slab index that address 0 would have, negated
    bool dirty;    // of dirty slabs only
};

static size_t align_up(const struct search *search, size_t slab) {
    return hak_round_up(slab + search->origin, search->step) - search->origin;
}

HAK_INLINE uint64_t search_word(const struct search *search, size_t word) {
    struct page_arena_group *group = &search->window->groups[word / 32];
    uint64_t bits = atomic_load_explicit(&group->avail[word % 32], memory_order_relaxed);
    if (search->dirty && bits != 0) {
        bits &= atomic_load_explicit(&group->dirty[word % 32], memory_order_relaxed);
    }
    return bits;
}

// Bit i is set if `count` (1..64) bits from i on are.
static uint64_t starts_of_runs(uint64_t bits, size_t count) {
    for (size_t have = 1; bits != 0 && have < count;) {
        size_t more = hak_min(have, count - have);
        bits &= bits >> more;
        have += more;
    }
    return bits;
}

// The lowest run in [from, end) that will do wherever it starts; ARENA_NONE if there is none.
static size_t find_within(const struct search *search, size_t from, size_t end) {
    const struct search wanted = *search; // in registers
    size_t carry = 0;                     // slabs at the end of the words before
    uint64_t mask = ~UINT64_C(0) << from % 64;
    for (size_t w = from / 64; w < end / 64; w++, mask = ~UINT64_C(0)) {
        uint64_t bits = search_word(&wanted, w) & mask;
        if (bits == 0) {
            carry = 0;
            continue;
        }
        size_t head = bits == ~UINT64_C(0) ? 64 : (size_t)__builtin_ctzll(~bits);
        if (carry + head >= wanted.slabs) {
            return w * 64 - carry;
        }
        if (head == 64) {
            carry += 64;
            continue;
        }
        uint64_t starts = wanted.slabs > 64 ? 0 : starts_of_runs(bits, wanted.slabs);
        if (starts != 0) {
            return w * 64 + (size_t)__builtin_ctzll(starts);
        }
        carry = (size_t)__builtin_clzll(~bits);
    }
    return ARENA_NONE;
}

static HAK_NOINLINE size_t claim_anywhere_within(const struct search *search, size_t from,
                                                 size_t end) {
    while ((from = find_within(search, from, end)) != ARENA_NONE) {
        if (claim_avail(search->window, from, search->slabs)) {
            return from;
        }
        from += search->slabs; // Lost to another thread: the search goes on behind.
        if (from >= end) {
            break;
        }
    }
    return ARENA_NONE;
}

// The first free slab in [at, end), or `end`.
static size_t next_free(const struct search *search, size_t at, size_t end) {
    while (at < end) {
        uint64_t bits = search_word(search, at / 64) >> at % 64;
        if (bits != 0) {
            return at + (size_t)__builtin_ctzll(bits);
        }
        at = (at / 64 + 1) * 64;
    }
    return end;
}

// How many slabs of [at, end) are free from `at` on. Counts no further than the search needs.
static size_t free_from(const struct search *search, size_t at, size_t end) {
    size_t count = 0;
    while (count < search->slabs && at + count < end) {
        size_t bit = (at + count) % 64;
        uint64_t held = ~search_word(search, (at + count) / 64) >> bit;
        if (held != 0) {
            count += (size_t)__builtin_ctzll(held);
            break;
        }
        count += 64 - bit;
    }
    return hak_min(count, search->slabs);
}

static HAK_NOINLINE size_t claim_aligned_within(const struct search *search, size_t from,
                                                size_t end) {
    size_t at = align_up(search, next_free(search, from, end));
    while (at < end) {
        size_t count = free_from(search, at, end);
        if (count == search->slabs && claim_avail(search->window, at, count)) {
            return at;
        }
        // Too short, or lost to another thread: the search goes on behind.
        at = align_up(search, next_free(search, at + count, end));
    }
    return ARENA_NONE;
}

// Claims the lowest run in [from, end) that will do; ARENA_NONE if there is none.
static size_t claim_within(const struct search *search, size_t from, size_t end) {
    return HAK_LIKELY(search->step == 1) ? claim_anywhere_within(search, from, end)
                                         : claim_aligned_within(search, from, end);
}

// Surveys the groups before `group` that a run of `carry` slabs lies in, as its summaries have it.
// Returns how long the run at their end is.
static size_t survey_carry(const struct search *search, size_t group, size_t carry) {
    size_t counted = 0;
    for (size_t g = group; counted < carry && g-- > 0;) {
        struct runs runs = survey(search->window, g, search->dirty);
        counted += runs.last;
        if (runs.last < ARENA_GROUP_SLABS) {
            break;
        }
    }
    return counted;
}

// Claims the lowest run whose last slab is in the group; ARENA_NONE if there is none. *carry: a
// bound of the run that ends before the group, and then of the one at its end.
static size_t claim_in_group(const struct search *search, size_t group, size_t least,
                             size_t *carry) {
    struct runs runs = group_runs(search->window, group, search->dirty);
    size_t cross = hak_min(*carry, search->slabs - 1);
    bool crossing = cross + runs.first >= search->slabs;
    size_t first = group * ARENA_GROUP_SLABS;
    if (crossing || runs.longest >= search->slabs) {
        size_t start = hak_max(crossing ? first - cross : first, least);
        size_t end = first + ARENA_GROUP_SLABS;
        if (align_up(search, start) + search->slabs <= end) {
            size_t from = claim_within(search, start, end);
            if (from != ARENA_NONE) {
                return from;
            }
            // Not where only the alignment is in the way: the summary has no word of that.
            if (search->step == 1 || runs.longest == ARENA_GROUP_SLABS) {
                *carry = crossing ? survey_carry(search, group, *carry) : *carry;
                runs = survey(search->window, group, search->dirty);
            }
        }
    }
    *carry = carry_over(*carry, runs);
    return ARENA_NONE;
}

static HAK_NOINLINE size_t claim_in_only_group(const struct search *search, size_t least) {
    struct runs runs = group_runs(search->window, 0, search->dirty);
    size_t from = ARENA_NONE;
    if (runs.longest >= search->slabs && least < ARENA_GROUP_SLABS) {
        from = claim_within(search, least, ARENA_GROUP_SLABS);
        if (from == ARENA_NONE && (search->step == 1 || runs.longest == ARENA_GROUP_SLABS)) {
            survey(search->window, 0, search->dirty);
        } else if (from == 0 && search->slabs == ARENA_GROUP_SLABS) {
            hold_group(search->window, 0);
        }
    }
    return from;
}

// The same of a region. By its groups: the bound of the region says nothing of where its run lies,
// and those at its end may not be mapped.
static size_t carry_over_region(const struct page_arena_window *window, size_t region_end,
                                bool dirty, size_t carry) {
    size_t at_end = 0;
    for (size_t i = 1; i <= ARENA_REGION_GROUPS; i++) {
        struct runs runs = group_runs(window, region_end - i, dirty);
        at_end += runs.last;
        if (runs.first != ARENA_GROUP_SLABS) {
            return at_end;
        }
    }
    return carry + at_end;
}

// Passes regions and groups by that have no run of that length.
static HAK_NOINLINE size_t claim_in_groups(const struct search *search, size_t least,
                                           size_t groups) {
    const struct page_arena_window *window = search->window;
    size_t slabs = search->slabs;
    bool dirty = search->dirty;
    size_t carry = 0;
    for (size_t group = least / ARENA_GROUP_SLABS; group < groups;) {
        size_t next = (group / ARENA_REGION_GROUPS + 1) * ARENA_REGION_GROUPS;
        size_t longest = region_longest(window, group, dirty);
        if (carry + longest < slabs) {
            carry = carry_over_region(window, next, dirty, carry);
            group = next;
            continue;
        }
        size_t in_region = group;
        for (; group < next && group < groups; group++) {
            size_t from = claim_in_group(search, group, least, &carry);
            if (from != ARENA_NONE) {
                size_t whole = hak_round_up(from, ARENA_GROUP_SLABS) / ARENA_GROUP_SLABS;
                for (; (whole + 1) * ARENA_GROUP_SLABS <= from + slabs; whole++) {
                    hold_group(window, whole);
                }
                return from;
            }
        }
        if (longest == ARENA_REGION_SLABS || (search->step == 1 && longest >= slabs)) {
            survey_region(window, in_region, dirty);
        }
    }
    return ARENA_NONE;
}

// The lowest run of free slabs (of free dirty ones: `dirty`), or ARENA_NONE. Claims it.
static HAK_NOINLINE size_t find_run(const struct page_arena_window *window, size_t slabs,
                                    size_t align, bool dirty) {
    size_t step = align >> ARENA_SLAB_SHIFT;
    size_t origin = ((uintptr_t)window->base >> ARENA_SLAB_SHIFT) & (step - 1);
    const struct search search = {window, slabs, step, origin, dirty};
    size_t high = page_arena_high();
    size_t least = raise_lowest(window, high / 64) * 64;
    size_t groups = (high + ARENA_GROUP_SLABS - 1) / ARENA_GROUP_SLABS;
    // A heap of up to 128 MiB has nothing to pass by.
    return groups == 1 ? claim_in_only_group(&search, least)
                       : claim_in_groups(&search, least, groups);
}

// Under HAKMEM_LIMIT counts slabs that are about to be claimed, and makes room for them of what is
// free but has pages; false if that is not enough. Without one the end of the claim counts them.
static bool take_quota(size_t slabs, struct wish *wish) {
    size_t limit = limit_slabs();
    wish->counted = limit != 0;
    if (HAK_LIKELY(limit == 0)) {
        return true;
    }
    // One step, so that a request that fits never meets what one that does not has added.
    uint64_t counts = atomic_load(&state.counts);
    size_t held;
    do {
        held = (uint32_t)counts;
        if (held > limit || slabs > limit - held) {
            return false;
        }
    } while (!atomic_compare_exchange_weak(&state.counts, &counts, counts + slabs));
    held += slabs;
    size_t cursor = 0;
    while (held + page_arena_dirty() > limit) {
        size_t over = held + page_arena_dirty() - limit;
        if (page_arena_purge(&cursor, 0, over, SIZE_MAX).failed || cursor == 0) {
            break; // others are at it, or have taken them
        }
    }
    return true;
}

static void give_quota(size_t slabs, const struct wish *wish) {
    if (wish->counted) {
        count_slabs(-(ptrdiff_t)slabs, 0);
    }
}

static size_t claim(const struct page_arena_window *window, size_t slabs, size_t align, bool huge);

static size_t claim_held(size_t slabs, size_t align, bool huge, bool *zero) {
    struct page_arena_window window = page_arena_get_window();
    struct wish wish = {.huge = huge};
    if (slabs > window.slabs || !take_quota(slabs, &wish)) {
        return ARENA_NONE;
    }
    size_t from = claim(&window, slabs, hak_max(align, ARENA_SLAB), huge);
    if (from != ARENA_NONE && finish_claim(&window, from, slabs, &wish, zero)) {
        return from;
    }
    give_quota(slabs, &wish);
    return ARENA_NONE;
}

size_t page_arena_claim(size_t slabs, size_t align, bool *zero) {
    return claim_held(slabs, align, false, zero);
}

void page_arena_mark_dense(bool dense) {
    if (atomic_load_explicit(&state.dense, memory_order_relaxed) != dense) {
        atomic_store_explicit(&state.dense, dense, memory_order_relaxed);
    }
}

bool page_arena_is_dense(void) {
    return atomic_load_explicit(&state.dense, memory_order_relaxed);
}

void page_arena_count_sparse(ptrdiff_t slabs) {
    atomic_fetch_add_explicit(&state.sparse, (size_t)slabs, memory_order_relaxed);
}

size_t page_arena_sparse(void) {
    return atomic_load_explicit(&state.sparse, memory_order_relaxed);
}

static bool wants_huge(void) {
    // Under a limit nothing is advised: it may be in memory without being held.
    return page_arena_is_dense() && settings_get(SETTING_THP) == 2 && limit_slabs() == 0;
}

size_t page_arena_claim_filled(size_t slabs, size_t align, bool *zero) {
    return claim_held(slabs, align, wants_huge(), zero);
}

size_t page_arena_claim_bare(bool *zero) {
    struct page_arena_window window = page_arena_get_window();
    struct wish wish = {.bare = true};
    if (!take_quota(1, &wish)) {
        return ARENA_NONE;
    }
    size_t from = claim(&window, 1, ARENA_SLAB, false);
    if (from != ARENA_NONE && finish_claim(&window, from, 1, &wish, zero)) {
        return from;
    }
    give_quota(1, &wish);
    return ARENA_NONE;
}

bool page_arena_give_rights(size_t slab, unsigned page, unsigned pages) {
    struct page_arena_window window = page_arena_get_window();
    return give_rights((char *)page_arena_address(&window, slab) + ((size_t)page << HAK_PAGE_SHIFT),
                       (size_t)pages << HAK_PAGE_SHIFT);
}

static size_t release(size_t from, size_t slabs, bool dirty, uint32_t *now);

// What is set aside in all places, or in the thread's own. True if there was something. The ceiling
// is left to the next release: the purges of many runs would add up in one call.
static bool release_aside(bool all) {
    unsigned cursor = 0;
    uint32_t now;
    bool any = false;
    for (;;) {
        struct run_cache_run run = all ? run_cache_take_any(&cursor) : run_cache_take_own(&cursor);
        if (run.slabs == 0) {
            return any;
        }
        release(run.from, run.slabs, true, &now);
        any = true;
    }
}

size_t page_arena_reuse(size_t slabs) {
    static_assert(RUN_CACHE_NONE == ARENA_NONE, "no run is no slab");
    return run_cache_take(slabs);
}

void page_arena_set_aside(size_t from, size_t slabs) {
    // Under a limit what is set aside would be missing elsewhere.
    struct run_cache_run run = {from, slabs};
    if (HAK_LIKELY(limit_slabs() == 0)) {
        run = run_cache_put(from, slabs);
    }
    if (run.slabs != 0) {
        page_arena_release(run.from, run.slabs, true);
    }
}

// The lowest run that will do, of slabs that there are or of new ones; ARENA_NONE if the kernel
// refuses these. The claim has yet to be finished.
static HAK_NOINLINE size_t claim(const struct page_arena_window *window, size_t slabs, size_t align,
                                 bool huge) {
    if (align > window->slabs << ARENA_SLAB_SHIFT) {
        return ARENA_NONE;
    }
    bool looked_aside = false;
    bool looked_everywhere = false;
    for (;;) {
        size_t from = ARENA_NONE;
        if (counted_dirty() >= slabs) {
            from = find_run(window, slabs, align, true);
        }
        if (from == ARENA_NONE) {
            // What has pages comes before what has none. Once: others may set aside all the time.
            if (!looked_aside) {
                looked_aside = true;
                if (release_aside(false)) {
                    continue;
                }
            }
            from = find_run(window, slabs, align, false);
        }
        if (from != ARENA_NONE) {
            return from;
        }
        if (!looked_everywhere) {
            looked_everywhere = true;
            if (release_aside(true)) {
                continue;
            }
        }
        if (grow(window, slabs, align, huge) == OS_NO_MEMORY &&
            !(page_arena_is_tight() && give_rights_back())) {
            return ARENA_NONE;
        }
    }
}

static bool try_claim(const struct page_arena_window *window, size_t from, size_t slabs) {
    return all_avail(window, from, slabs) && claim_avail(window, from, slabs);
}

bool page_arena_claim_at(size_t from, size_t slabs, bool *zero) {
    struct page_arena_window window = page_arena_get_window();
    if (from > page_arena_high() || slabs > window.slabs - from) {
        return false;
    }
    struct wish wish = {.huge = wants_huge()};
    if (!take_quota(slabs, &wish)) {
        return false;
    }
    if ((try_claim(&window, from, slabs) ||
         (release_aside(false) && try_claim(&window, from, slabs)) ||
         (grow_at(&window, from, slabs, wish.huge) && try_claim(&window, from, slabs))) &&
        finish_claim(&window, from, slabs, &wish, zero)) {
        return true;
    }
    give_quota(slabs, &wish);
    return false;
}

static uint32_t now_ms(void) {
    return (uint32_t)os_now_ms();
}

// Gives back up to `most` free slabs with pages: those that have been free for a while, or else the
// highest, which are the last that a claim would take. What has just been freed at the top of a
// fragmented heap may be all that large claims can use.
static size_t give_back(size_t most) {
    enum { WHILE_MS = 50, LOOKS = 32 * ARENA_PURGE_CALL };
    size_t word = hak_max(atomic_load_explicit(&state.given_word, memory_order_relaxed), 1);
    size_t got = page_arena_purge(&word, WHILE_MS, most, LOOKS).slabs;
    atomic_store_explicit(&state.given_word, word, memory_order_relaxed);
    return got == most ? got : got + page_arena_purge_highest(most - got);
}

// `freed` slabs with pages have become free: what there are too many of goes back to the kernel.
static void keep_ceiling(size_t freed, uint32_t now) {
    int64_t decay = settings_get(SETTING_DECAY_MS);
    if (decay < 0 || settings_get(SETTING_BACKGROUND) != 0) {
        return;
    }
    size_t dirty = counted_dirty();
    size_t held = counted_held();
    if (HAK_HARDENED) { // slabs that stay their bin's are held without a page
        held -= hak_min(held, page_arena_sparse());
    }
    size_t surplus =
        dirty_ceiling_surplus(dirty, held, freed, now, (uint32_t)hak_max((size_t)decay, 1));
    if (HAK_UNLIKELY(surplus != 0)) {
        dirty_ceiling_count_given(dirty, surplus, give_back(surplus));
    }
}

// Returns how many of the slabs have pages; *now is the clock then.
static size_t release(size_t from, size_t slabs, bool dirty, uint32_t *now) {
    struct page_arena_window window = page_arena_get_window();
    dirty = dirty || HAK_UNLIKELY(page_arena_is_tight()); // the purge takes rights, too
    if (dirty) {
        for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
            struct group_part part = group_part(&window, at, end);
            atomic_bitmap_ensure_run(part.group->dirty, part.first, part.count);
        }
    }
    size_t added = dirty ? slabs : count_dirty(&window, from, slabs);
    if (added > 0) {
        *now = now_ms();
        for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
            struct group_part part = group_part(&window, at, end);
            size_t last = (part.first + part.count - 1) / ARENA_SUPERSLAB_SLABS;
            for (size_t s = part.first / ARENA_SUPERSLAB_SLABS; s <= last; s++) {
                atomic_store_explicit(&part.group->freed_at[s], *now, memory_order_relaxed);
            }
        }
    }
    // Under a limit a slab is room for others only once they can have it.
    bool at_once = limit_slabs() == 0;
    if (at_once || added > 0) {
        count_slabs(at_once ? -(ptrdiff_t)slabs : 0, (ptrdiff_t)added);
    }
    put_avail(&window, from, slabs, added > 0);
    if (!at_once) {
        count_slabs(-(ptrdiff_t)slabs, 0);
    }
    return added;
}

void page_arena_release(size_t from, size_t slabs, bool dirty) {
    uint32_t now;
    size_t added = release(from, slabs, dirty, &now);
    if (added > 0) {
        keep_ceiling(added, now);
    }
}

static void clear_dirty(const struct page_arena_window *window, size_t from, size_t slabs) {
    for (size_t at = from, end = from + slabs; at < end; at = next_group(at)) {
        struct group_part part = group_part(window, at, end);
        atomic_bitmap_clear_run(part.group->dirty, part.first, part.count);
    }
}

// Gives back the pages of a run that the caller holds and goes on holding. False if the kernel
// would not.
static bool purge_held(const struct page_arena_window *window, size_t from, size_t slabs) {
    if (os_purge(page_arena_address(window, from), slabs << ARENA_SLAB_SHIFT) != OS_OK) {
        return false;
    }
    clear_dirty(window, from, slabs);
    return true;
}

// --- Moved runs
//
// A run that pages were moved to is a mapping of its own, for the kernel remembers where its pages
// come from. Mapped afresh it merges with what is around it; a part of it would leave more mappings
// than before. So a run that is noted is mapped afresh as a whole, with its pages given back, when
// nobody needs it: by a purge or a holder that discards it, or by settle(). As long as this is done
// to whole runs alone, a heap has two more mappings for each run noted, and no more.

static const struct moved_run no_run = {0, 0};

static bool is_same(struct moved_run a, struct moved_run b) {
    return a.from == b.from && a.slabs == b.slabs;
}
static bool overlaps(struct moved_run a, struct moved_run b) {
    return a.from < b.from + b.slabs && b.from < a.from + a.slabs;
}
static bool is_within(struct moved_run inner, struct moved_run outer) {
    return inner.from >= outer.from && inner.from + inner.slabs <= outer.from + outer.slabs;
}

// What lies in held slabs of the runs that are noted: none of them, all of some, or a part of one.
enum noted { NOTED_NONE, NOTED_WHOLE, NOTED_PART };

static enum noted noted_in(struct moved_run held) {
    size_t end = moved_runs_count() == 0 ? 0 : moved_runs_end();
    enum noted noted = NOTED_NONE;
    for (size_t i = 0; i < end; i++) {
        struct moved_run run = moved_runs_at(i);
        if (run.slabs != 0 && overlaps(run, held)) {
            if (!is_within(run, held)) {
                return NOTED_PART;
            }
            noted = NOTED_WHOLE;
        }
    }
    return noted;
}

// What is mapped afresh is advised as what is around it, or it would not merge with that.
static void advise_again(const struct page_arena_window *window, struct moved_run run) {
    for (size_t at = run.from, next; at < run.from + run.slabs; at = next) {
        next = hak_min(hak_round_up(at + 1, ARENA_SUPERSLAB_SLABS), run.from + run.slabs);
        size_t superslab = at / ARENA_SUPERSLAB_SLABS;
        if (atomic_bitmap_test(&window->groups[superslab / ARENA_GROUP_SUPERSLABS].huge,
                               superslab % ARENA_GROUP_SUPERSLABS)) {
            os_huge_pages(page_arena_address(window, at), (next - at) << ARENA_SLAB_SHIFT, true);
        }
    }
}

// Maps held slabs afresh, with all the runs that are noted in them.
static enum os_result refresh(const struct page_arena_window *window, struct moved_run held) {
    enum os_result result =
        os_refresh(page_arena_address(window, held.from), held.slabs << ARENA_SLAB_SHIFT);
    if (result == OS_LOST) {
        mark_lost(window, held.from, held.slabs);
    } else if (result == OS_OK) {
        advise_again(window, held);
    }
    size_t end = result == OS_NO_MEMORY ? 0 : moved_runs_end();
    for (size_t i = 0; i < end; i++) {
        struct moved_run run = moved_runs_at(i);
        if (run.slabs != 0 && is_within(run, held)) {
            moved_runs_change(i, run, no_run);
        }
    }
    return result;
}

// As purge_held(), before a release. Runs that were moved are mapped afresh; they may come out of
// that lost, which the next claim sees to.
static bool purge_for_good(const struct page_arena_window *window, size_t from, size_t slabs) {
    struct moved_run held = {from, slabs};
    bool tight = page_arena_is_tight();
    enum os_result result = OS_NO_MEMORY;
    if (tight) {
        result = os_decommit(page_arena_address(window, from), slabs << ARENA_SLAB_SHIFT);
        if (result == OS_LOST) {
            mark_lost(window, from, slabs);
        }
    } else if (noted_in(held) == NOTED_WHOLE) {
        result = refresh(window, held);
    }
    if (result == OS_NO_MEMORY) {
        return purge_held(window, from, slabs);
    }
    clear_dirty(window, from, slabs);
    return true;
}

// Maps a run afresh that is noted as entry `index`, and those that overlap with it, if all of that
// is free, and clean unless `dirty`. True if it did.
static bool settle_run(const struct page_arena_window *window, size_t index, bool dirty) {
    struct moved_run run = moved_runs_at(index);
    size_t end = moved_runs_end();
    if (run.slabs == 0 || !all_avail(window, run.from, run.slabs)) {
        return false;
    }
    for (size_t i = 0; i < end; i++) {
        struct moved_run other = moved_runs_at(i);
        if (other.slabs != 0 && overlaps(other, run) && !is_within(other, run)) {
            size_t last = hak_max(run.from + run.slabs, other.from + other.slabs);
            run.from = hak_min(run.from, other.from);
            run.slabs = last - run.from;
            i = (size_t)-1; // what is wider may overlap with what has been looked at
        }
    }
    if (!all_avail(window, run.from, run.slabs) ||
        (!dirty && count_dirty(window, run.from, run.slabs) != 0) ||
        !claim_avail(window, run.from, run.slabs)) {
        return false;
    }
    size_t pages = count_dirty(window, run.from, run.slabs);
    bool done = (dirty || pages == 0) && noted_in(run) == NOTED_WHOLE &&
                refresh(window, run) != OS_NO_MEMORY;
    if (done && pages != 0) {
        clear_dirty(window, run.from, run.slabs);
        count_slabs(0, -(ptrdiff_t)pages);
        atomic_fetch_add_explicit(&state.purged_slabs, pages, memory_order_relaxed);
    }
    put_avail(window, run.from, run.slabs, !done);
    return done;
}

// Looks at up to `looks` entries, from where the last call has ended. True if a run was settled.
static HAK_NOINLINE bool settle(const struct page_arena_window *window, size_t looks, bool dirty) {
    size_t end = moved_runs_end();
    size_t at = atomic_load_explicit(&state.settled, memory_order_relaxed);
    bool any = false;
    for (size_t i = 0; i < hak_min(looks, end) && !page_arena_is_tight(); i++, at++) {
        at = at < end ? at : 0;
        any |= settle_run(window, at, dirty);
    }
    atomic_store_explicit(&state.settled, at, memory_order_relaxed);
    return any;
}

// Brings the notes up to date after pages have been moved from `from` to `to`, which is noted. What
// was several mappings is so at its new place; where it was it is mapped afresh, to merge there.
static void note_move(const struct page_arena_window *window, struct moved_run from,
                      struct moved_run to) {
    bool noted = false;
    bool is_source = noted_in(from) == NOTED_WHOLE;
    size_t end = moved_runs_end();
    for (size_t i = 0; i < end; i++) {
        struct moved_run run = moved_runs_at(i);
        if (run.slabs == 0) {
            continue;
        }
        if (is_same(run, to) && !noted) {
            noted = true;
        } else if (is_within(run, to)) {
            moved_runs_change(i, run, no_run);
        } else if (is_source && is_within(run, from) && !is_same(run, from)) {
            moved_runs_change(i, run,
                              (struct moved_run){run.from - from.from + to.from, run.slabs});
        }
    }
    if (is_source) {
        refresh(window, from);
    }
}

static void forget(struct moved_run run) {
    size_t end = moved_runs_end();
    size_t i = 0;
    while (i < end && !(is_same(moved_runs_at(i), run) && moved_runs_change(i, run, no_run))) {
        i++;
    }
}

bool page_arena_move(size_t from, size_t to, size_t slabs) {
    enum { LOOKS = 64 };
    struct page_arena_window window = page_arena_get_window();
    struct moved_run source = {from, slabs};
    struct moved_run run = {to, slabs};
    // The mappings that a part of another run makes of the source would go along, and nothing would
    // be noted of them.
    if (noted_in(source) == NOTED_PART) {
        return false;
    }
    if (!moved_runs_add(run) && !(settle(&window, LOOKS, true) && moved_runs_add(run))) {
        return false;
    }
    enum os_result result = os_move(page_arena_address(&window, from),
                                    page_arena_address(&window, to), slabs << ARENA_SLAB_SHIFT);
    if (result == OS_LOST) {
        diag_broken(__func__, "the kernel took a part of the heap and would not give it back");
    }
    if (result != OS_OK) {
        forget(run);
        return false;
    }
    clear_dirty(&window, from, slabs);
    note_move(&window, source, run);
    atomic_fetch_add_explicit(&state.moved_slabs, slabs, memory_order_relaxed);
    return true;
}

bool page_arena_is_spacious(void) {
    return limit_slabs() == 0 && !page_arena_is_tight() && !is_charged() &&
           os_address_limit() == SIZE_MAX && os_data_limit() == SIZE_MAX;
}

bool page_arena_clean(size_t from, size_t slabs) {
    struct page_arena_window window = page_arena_get_window();
    return purge_held(&window, from, slabs);
}

void page_arena_discard(size_t from, size_t slabs) {
    struct page_arena_window window = page_arena_get_window();
    page_arena_release(from, slabs, !purge_for_good(&window, from, slabs));
}

// A release may be newer than a look at the clock that came first: by less than this.
enum { CLOCK_SLACK_MS = 1 << 24 };

static bool is_old(_Atomic uint32_t *freed_at, uint32_t now, uint32_t age_ms) {
    uint32_t age = now - atomic_load_explicit(freed_at, memory_order_relaxed);
    return age_ms == 0 || (age + CLOCK_SLACK_MS >= age_ms + CLOCK_SLACK_MS);
}

// Gives back what is free and dirty among `bits` of one word (4 MiB), up to `budget` slabs, from
// the top down or from the bottom up.
static void purge_bits(const struct page_arena_window *window, size_t word, uint64_t bits,
                       size_t budget, bool down, struct page_arena_purged *done) {
    while (bits != 0 && done->slabs < budget && !done->failed) {
        size_t most = budget - done->slabs;
        unsigned from;
        unsigned count;
        if (down) {
            unsigned end = 64 - (unsigned)__builtin_clzll(bits);
            uint64_t above = ~(bits << (64 - end)); // the first zero below `end`
            count = above == 0 ? 64 : (unsigned)__builtin_clzll(above);
            count = (unsigned)hak_min(count, most);
            from = end - count;
        } else {
            from = (unsigned)__builtin_ctzll(bits);
            uint64_t rest = bits >> from;
            count = rest == ~UINT64_C(0) ? 64 : (unsigned)__builtin_ctzll(~rest);
            count = (unsigned)hak_min(count, most);
        }
        bits &= ~atomic_bitmap_mask(from, count);
        if (!atomic_bitmap_claim_run(avail_word(window, word), from, count)) {
            continue; // in use again
        }
        // A slab may have been purged by another thread since the look: count what is dirty now.
        size_t dirty = atomic_bitmap_count_run(dirty_word(window, word), from, count);
        if (dirty > 0) {
            done->looks += ARENA_PURGE_CALL;
            if (purge_for_good(window, word * 64 + from, count)) {
                count_slabs(0, -(ptrdiff_t)dirty);
                done->slabs += count;
            } else {
                done->failed = true;
            }
        }
        put_avail(window, word * 64 + from, count, done->failed);
    }
}

static uint64_t free_dirty(const struct page_arena_window *window, size_t word) {
    uint64_t bits = atomic_load_explicit(avail_word(window, word), memory_order_relaxed);
    return bits == 0 ? 0
                     : bits & atomic_load_explicit(dirty_word(window, word), memory_order_relaxed);
}

static HAK_NOINLINE void purge_word(const struct page_arena_window *window, size_t word,
                                    uint32_t now, uint32_t age_ms, size_t budget,
                                    struct page_arena_purged *done) {
    uint64_t bits = free_dirty(window, word);
    for (unsigned half = 0; half < 2 && bits != 0; half++) {
        if (!is_old(&window->groups[word / 32].freed_at[word % 32 * 2 + half], now, age_ms)) {
            bits &= half == 0 ? ~UINT64_C(0) << 32 : UINT64_C(0xffffffff);
        }
    }
    done->looks++;
    purge_bits(window, word, bits, budget, false, done);
}

// Gives back what a SuperSlab has that is free and clean, and held by the caller: its metadata,
// which other threads may look at all the same, and, where it is charged, its rights. False if the
// kernel would not.
static bool purge_superslab(const struct page_arena_window *window, size_t first) {
    struct page_arena_group *group = &window->groups[first / ARENA_GROUP_SLABS];
    uint64_t bit = superslab_mask(first % ARENA_GROUP_SLABS, 1);
    char *meta = window->meta + first / ARENA_SUPERSLAB_SLABS * ARENA_SUPERSLAB_META;
    if ((os_purges_in_place() && os_purge(meta, ARENA_SUPERSLAB_META) != OS_OK) ||
        !find_lost(window, first, ARENA_SUPERSLAB_SLABS)) {
        return false;
    }
    // Rights that are taken away are to be had again, by several threads at a time.
    if (is_charged() && os_commits() &&
        (atomic_load_explicit(&group->committed, memory_order_relaxed) & bit) != 0) {
        enum os_result result = os_decommit(page_arena_address(window, first), ARENA_SUPERSLAB);
        if (result == OS_NO_MEMORY) {
            return false;
        }
        if (result == OS_LOST) {
            mark_lost(window, first, ARENA_SUPERSLAB_SLABS);
        }
        atomic_fetch_and(&group->huge, ~bit);
        atomic_fetch_and(&group->committed, ~bit);
    }
    atomic_fetch_and(&group->meta_used, ~bit);
    return true;
}

// The same for the SuperSlabs of a word none of whose slabs is in use or dirty.
static HAK_NOINLINE void purge_meta(const struct page_arena_window *window, size_t word,
                                    struct page_arena_purged *done) {
    struct page_arena_group *group = &window->groups[word / 32];
    for (unsigned half = 0; half < 2 && !done->failed; half++) {
        uint64_t bit = UINT64_C(1) << (word % 32 * 2 + half);
        if ((atomic_load_explicit(&group->meta_used, memory_order_relaxed) & bit) == 0) {
            continue;
        }
        uint64_t slabs = UINT64_C(0xffffffff) << (half * 32);
        uint64_t seen = atomic_load_explicit(avail_word(window, word), memory_order_relaxed);
        if ((~seen & slabs) != 0 || (free_dirty(window, word) & slabs) != 0) {
            continue;
        }
        size_t first = word * 64 + half * 32;
        if (claim_avail(window, first, ARENA_SUPERSLAB_SLABS)) {
            // It may have been in use since the look.
            bool clean = count_dirty(window, first, ARENA_SUPERSLAB_SLABS) == 0;
            if (clean) {
                done->looks += ARENA_PURGE_CALL;
                done->failed = !purge_superslab(window, first);
            }
            put_avail(window, first, ARENA_SUPERSLAB_SLABS, !clean);
        }
    }
}

// Whether there is something to give back in a group: of free dirty slabs, or metadata of free
// SuperSlabs. Brings the summaries down to what there is.
static HAK_NOINLINE bool group_has_idle(const struct page_arena_window *window, size_t group,
                                        struct page_arena_purged *done) {
    struct page_arena_region *region = &window->regions[group / ARENA_REGION_GROUPS];
    uint64_t bit = UINT64_C(1) << group % ARENA_REGION_GROUPS;
    if (group_runs(window, group, true).longest > 0) {
        done->looks += ARENA_GROUP_SLABS / 64;
        if (survey(window, group, true).longest > 0) {
            return true;
        }
    }
    if ((atomic_load(&region->meta) & bit) == 0) {
        return false;
    }
    if (atomic_load(&window->groups[group].meta_used) == 0) {
        atomic_fetch_and(&region->meta, ~bit);
        if (atomic_load(&window->groups[group].meta_used) != 0) {
            atomic_bitmap_put(&region->meta, bit); // used again before that: nobody else says so
        }
        return false;
    }
    if (group_runs(window, group, false).longest < ARENA_SUPERSLAB_SLABS) {
        return false;
    }
    done->looks += ARENA_GROUP_SLABS / 64;
    return survey(window, group, false).longest >= ARENA_SUPERSLAB_SLABS;
}

static HAK_NOINLINE bool region_has_idle(const struct page_arena_window *window, size_t group,
                                         struct page_arena_purged *done) {
    if (region_longest(window, group, true) > 0) {
        done->looks += ARENA_REGION_GROUPS;
        if (survey_region(window, group, true) > 0) {
            return true;
        }
    }
    return atomic_load(&window->regions[group / ARENA_REGION_GROUPS].meta) != 0;
}

// True if no slab of a group is held or dirty, and no metadata of it used. What is not mapped is
// none of that.
static bool is_unused(const struct page_arena_window *window, size_t group) {
    if (!is_group_open(group)) {
        return true;
    }
    if (atomic_load(&window->groups[group].meta_used) != 0) {
        return false;
    }
    for (size_t word = group * 32; word < (group + 1) * 32; word++) {
        uint64_t bits = atomic_load(avail_word(window, word));
        if ((atomic_load(&window->groups[group].mapped[word % 32]) & ~bits) != 0) {
            return false;
        }
        if ((bits & atomic_load(dirty_word(window, word))) != 0) {
            return false;
        }
    }
    return true;
}

// Brings `top` down past groups that are not used.
static HAK_NOINLINE void lower_top(const struct page_arena_window *window, size_t looks,
                                   struct page_arena_purged *done) {
    size_t top = atomic_load(&state.top);
    while (top > 0 && done->looks < looks) {
        size_t group = top / ARENA_GROUP_SLABS - 1;
        done->looks += ARENA_GROUP_SLABS / 64;
        size_t below = group * ARENA_GROUP_SLABS;
        if (!is_unused(window, group) || !atomic_compare_exchange_strong(&state.top, &top, below)) {
            return;
        }
        // A claim in the group may have looked at the old value before it was lowered.
        if (!is_unused(window, group)) {
            load_max(&state.top, top);
            return;
        }
        top = below;
    }
}

struct page_arena_purged page_arena_purge(size_t *cursor, uint32_t age_ms, size_t budget,
                                          size_t looks) {
    enum { GROUP_WORDS = ARENA_GROUP_SLABS / 64, REGION_WORDS = ARENA_REGION_SLABS / 64 };
    struct page_arena_window window;
    struct page_arena_purged done = {0};
    uint32_t now = now_ms();
    size_t word = *cursor;
    if (word == 0) {
        release_aside(true);
    }
    size_t words = page_arena_walk(&window) / 64;
    while (word < words && done.slabs < budget && done.looks < looks && !done.failed) {
        done.looks++;
        if (word % REGION_WORDS == 0 && !region_has_idle(&window, word / GROUP_WORDS, &done)) {
            word += REGION_WORDS;
        } else if (word % GROUP_WORDS == 0 && !group_has_idle(&window, word / GROUP_WORDS, &done)) {
            word += GROUP_WORDS;
        } else if (!is_group_open(word / GROUP_WORDS)) { // the cursor may be anywhere
            word = (word / GROUP_WORDS + 1) * GROUP_WORDS;
        } else {
            purge_word(&window, word, now, age_ms, budget, &done);
            if (done.slabs == budget) {
                break; // there may be more in this word
            }
            if (!done.failed) {
                purge_meta(&window, word, &done);
            }
            word++;
        }
    }
    if (word >= words) {
        word = 0;
        if (window.base != NULL && moved_runs_count() > 0 && !done.failed) {
            settle(&window, SIZE_MAX, false);
        }
        if (words > 0) {
            lower_top(&window, looks, &done);
        }
    }
    *cursor = word;
    atomic_fetch_add_explicit(&state.purged_slabs, done.slabs, memory_order_relaxed);
    return done;
}

// Of their own for the sake of the stack: what they keep would lie below each purge.
static HAK_NOINLINE void lower_runs(const struct page_arena_window *window, size_t group) {
    survey(window, group, true);
}
static HAK_NOINLINE void lower_region(const struct page_arena_window *window, size_t group) {
    survey_region(window, group, true);
}

size_t page_arena_purge_highest(size_t most) {
    enum { LOOKS = 4096, GROUP_WORDS = ARENA_GROUP_SLABS / 64 };
    struct page_arena_window window;
    struct page_arena_purged done = {0};
    size_t group = page_arena_walk(&window) / ARENA_GROUP_SLABS;
    while (group > 0 && done.slabs < most && done.looks < most + LOOKS && !done.failed) {
        done.looks++;
        if (group % ARENA_REGION_GROUPS == 0 && region_longest(&window, group - 1, true) == 0) {
            group -= ARENA_REGION_GROUPS;
            continue;
        }
        group--;
        if (group_runs(&window, group, true).longest > 0) {
            for (size_t word = (group + 1) * GROUP_WORDS; word-- > group * GROUP_WORDS;) {
                done.looks++;
                purge_bits(&window, word, free_dirty(&window, word), most, true, &done);
                if (done.slabs == most || done.failed) {
                    break;
                }
            }
            if (done.slabs < most && !done.failed) {
                done.looks += GROUP_WORDS;
                lower_runs(&window, group);
            }
        }
        if (group % ARENA_REGION_GROUPS == 0 && done.slabs < most && !done.failed) {
            done.looks += ARENA_REGION_GROUPS;
            lower_region(&window, group);
        }
    }
    atomic_fetch_add_explicit(&state.purged_slabs, done.slabs, memory_order_relaxed);
    return done.slabs;
}

// What is set aside is still held as the arena's own books have it.
size_t page_arena_dirty(void) {
    return counted_dirty() + run_cache_slabs();
}

size_t page_arena_held(void) {
    size_t held = counted_held();
    return held - hak_min(held, run_cache_slabs());
}

size_t page_arena_claimed(void) {
    return counted_held();
}

size_t page_arena_high(void) {
    return atomic_load_explicit(&state.high, memory_order_acquire);
}

size_t page_arena_top(void) {
    return atomic_load_explicit(&state.top, memory_order_acquire);
}

size_t page_arena_walk(struct page_arena_window *window) {
    size_t top = page_arena_top();
    *window = page_arena_get_window();
    return top;
}

char *page_arena_readable(size_t *length) {
    struct page_arena_window window = page_arena_get_window();
    *length = 0;
    if (window.base == NULL || page_arena_is_tight()) {
        return NULL;
    }
    size_t first = first_superslab(&window) * ARENA_SUPERSLAB_SLABS;
    size_t end = hak_max(first, atomic_load_explicit(&state.readable_end, memory_order_relaxed));
    while (page_arena_reaches(end)) {
        struct page_arena_group *group = &window.groups[end / ARENA_GROUP_SLABS];
        uint64_t bits = atomic_load(&group->mapped[end % ARENA_GROUP_SLABS / 64]) >> end % 64;
        size_t ones = bits == ~UINT64_C(0) ? 64 : (size_t)__builtin_ctzll(~bits);
        end += ones;
        if (ones == 0 || end % 64 != 0) {
            break;
        }
    }
    load_max(&state.readable_end, end);
    *length = (end - first) << ARENA_SLAB_SHIFT;
    return page_arena_address(&window, first);
}

void page_arena_get_stats(struct page_arena_stats *stats) {
    size_t high = page_arena_high(); // before the window, as in page_arena_walk()
    struct page_arena_window window = page_arena_get_window();
    *stats = (struct page_arena_stats){
        .reserved_bytes = atomic_load(&state.reserved),
        .held_slabs = page_arena_held(),
        .peak_slabs = __atomic_load_n(&state.peak, __ATOMIC_RELAXED),
        .dirty_slabs = page_arena_dirty(),
        .aside_slabs = run_cache_slabs(),
        .purged_slabs = atomic_load(&state.purged_slabs),
        .moved_slabs = atomic_load(&state.moved_slabs),
        .moved_runs = moved_runs_count(),
    };
    size_t groups = (high + ARENA_GROUP_SLABS - 1) / ARENA_GROUP_SLABS;
    for (size_t g = 0; g < groups; g++) {
        if (is_group_open(g)) {
            for (size_t i = 0; i < ARENA_GROUP_SUPERSLABS; i++) {
                bool committed = atomic_bitmap_test(&window.groups[g].committed, i);
                size_t mapped = mapped_in(&window, g * ARENA_GROUP_SUPERSLABS + i);
                stats->committed_bytes += committed ? mapped << ARENA_SLAB_SHIFT : 0;
            }
        }
    }
}

HAK_LAYOUT(page_arena_layout,
           HAK_ROWS(HAK_VARIABLE("window.base", known.window.base),
                    HAK_VARIABLE("window.slabs", known.window.slabs),
                    HAK_VARIABLE("window.groups", known.window.groups),
                    HAK_VARIABLE("window.meta", known.window.meta),
                    HAK_VARIABLE("arena.open", control.open), HAK_VARIABLE("arena.top", state.top),
                    HAK_VARIABLE("arena.reserved", state.reserved),
                    HAK_VARIABLE("arena.counts", state.counts),
                    HAK_VARIABLE("arena.peak", state.peak),
                    HAK_VARIABLE("arena.purged_slabs", state.purged_slabs),
                    HAK_VARIABLE("arena.moved_slabs", state.moved_slabs)),
           HAK_ROWS(HAK_NUMBER("arena.piece_slabs", PIECE_SLABS), HAK_NUMBER("page", HAK_PAGE),
                    HAK_NUMBER("slab_bytes", ARENA_SLAB),
                    HAK_NUMBER("superslab_slabs", ARENA_SUPERSLAB_SLABS),
                    HAK_NUMBER("superslab_meta", ARENA_SUPERSLAB_META),
                    HAK_NUMBER("group_slabs", ARENA_GROUP_SLABS),
                    HAK_NUMBER("group", sizeof(struct page_arena_group)),
                    HAK_FIELD("group.avail", struct page_arena_group, avail),
                    HAK_FIELD("group.dirty", struct page_arena_group, dirty),
                    HAK_FIELD("group.committed", struct page_arena_group, committed),
                    HAK_FIELD("group.mapped", struct page_arena_group, mapped)));
