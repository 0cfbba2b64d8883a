// SPDX-License-Identifier: Apache-2.0
// page_arena_internal: shared by the files of the arena. A file calls only files above it:
//
//   window.c       the window's place, and the control area, which grows with the heap
//   slab_bits.c    the bits of free and of dirty slabs, and the summaries of their runs
//   rights.c       the bits of SuperSlabs: with rights, advised huge pages, lost
//   growth.c       new slabs from the kernel
//   search.c       the search for the lowest run of free slabs
//   release.c      slabs that become free
//   emptied.c      how full SuperSlabs were when their pages went back
//   moved.c        runs that mremap() moved pages to
//   refilled.c     huge pages for SuperSlabs that are filled again
//   purge.c        pages that go back to the kernel
//   page_arena.c   claims, which use all of the above, and the figures
//
// What is ordered, and by what:
//
// - What a holder did with a slab comes before what the next holder does: putting the slab's bit
//   into `avail` releases, claiming the bit acquires. `dirty` is written between the two, by the
//   holder.
// - `config`, `arena_control.open` and `high` publish mapped metadata: they are stored by a
//   read-modify-write and loaded with acquire.
// - A thread that takes a SuperSlab in order to map slabs of it counts the mapped ones after it has
//   taken the SuperSlab: from then on no other thread can add any.
// - A release sets a bit and then looks at `lowest`; a search raises `lowest` and then looks at the
//   bits that it has passed. One of the two must see the other: all four are sequentially
//   consistent.
// - A release sets a bit and then looks at the summaries above it (raise()); a survey marks a
//   summary and then looks at the bits (arena_survey()). One of the two sees the other, as above.
// - A claim clears bits and then looks at `top`; lower_top() lowers `top` and then looks at the
//   bits again. Likewise a claim sets `meta_used` and then looks at the region's `meta`; a purge
//   clears the bit of `meta` and then looks at `meta_used` again.
// - `committed` stands for rights that the kernel gave before the bit was set. Rights are not data
//   of this process: a relaxed look is enough, as it is for hints and counts. The thread that
//   clears the bit holds the whole SuperSlab, and the thread that sets `lost` holds the slabs: both
//   do so before they put the slabs into `avail`.
#ifndef HAKMEM_BOXES_PAGE_ARENA_PAGE_ARENA_INTERNAL_H
#define HAKMEM_BOXES_PAGE_ARENA_PAGE_ARENA_INTERNAL_H

#include "backends/os.h"
#include "boxes/base/alone.h"
#include "boxes/moved_runs/moved_runs.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"

// Build setting: 1 advises huge pages to SuperSlabs that were filled before; 0 does not.
#ifndef PAGE_ARENA_HUGE_AGAIN
#    define PAGE_ARENA_HUGE_AGAIN 1
#endif

// The window is placed between the random hints of JavaScript engines (below 64 TiB) and the
// addresses that the kernel gives programs (above 85 TiB).
#if !defined(__SANITIZE_THREAD__)
#    define ZONE_START   ((uintptr_t)64 << 40)
#    define ZONE_SIZE    ((uintptr_t)16 << 40)
#    define WINDOW_MOST  ((size_t)4 << 40)
#    define WINDOW_USUAL ((size_t)1 << 40)
#else
// ThreadSanitizer has no shadow memory for those addresses. It has shadow memory for the topmost
// 1.5 TiB, of which the kernel uses the upper 1 TiB.
#    define ZONE_START   ((uintptr_t)0x7e8000000000)
#    define ZONE_SIZE    ((uintptr_t)512 << 30)
#    define WINDOW_MOST  ((size_t)256 << 30)
#    define WINDOW_USUAL WINDOW_MOST
#endif

// Slabs that a heap grows by.
enum {
    STEP_FIRST = 4, // an empty heap
    STEP_LEAST = 1, // after the kernel has refused more
    STEP_MOST = ARENA_SUPERSLAB_SLABS,
};

// Fields that threads write often are on other cache lines than fields that all threads read.
struct arena_state {
    alignas(HAK_CACHE_LINE) _Atomic size_t high;     // see page_arena_high()
    _Atomic size_t top;                              // see page_arena_top()
    _Atomic size_t reserved;                         // bytes
    _Atomic size_t readable_end;                     // slab index, see page_arena_readable()
    _Atomic size_t step;                             // most slabs to grow by, see extend_rounded()
    _Atomic size_t growths;                          // see page_arena_growths()
    _Atomic size_t limit;                            // see arena_look_at_limits()
    _Atomic bool tight;                              // see page_arena_is_tight()
    _Atomic bool dense;                              // see page_arena_mark_dense()
    _Atomic bool charged;                            // see is_charged()
    _Atomic bool limited;                            // see arena_is_spacious()
    alignas(HAK_CACHE_LINE) _Atomic size_t lowest;   // no slab below this word index is avail
    alignas(HAK_CACHE_LINE) _Atomic uint64_t counts; // see count_slabs()
    uint32_t peak;                                   // most slabs held at a time, about
    alignas(HAK_CACHE_LINE) _Atomic uint64_t purged_slabs;
    _Atomic uint64_t moved_slabs;
    _Atomic size_t sparse;     // see page_arena_count_sparse()
    _Atomic size_t given_word; // see give_back()
    _Atomic size_t settled;    // see settle_one()
    _Atomic size_t pieces;     // see refresh_huge()
    _Atomic uint64_t refilled; // how often refresh_huge() advised a SuperSlab huge pages
};
extern struct arena_state arena_state;

HAK_INLINE size_t load_max(_Atomic size_t *at, size_t value) {
    size_t seen = atomic_load_explicit(at, memory_order_relaxed);
    while (seen < value && !atomic_compare_exchange_weak(at, &seen, value)) {
    }
    return seen;
}

HAK_INLINE void lower(_Atomic size_t *at, size_t value) {
    size_t seen = atomic_load(at);
    while (seen > value && !atomic_compare_exchange_weak(at, &seen, value)) {
    }
}

// Returns true if the kernel charges the process for all memory that can be written, touched or not
// (vm.overcommit_memory is 2). Then a purge takes the rights of SuperSlabs that are not in use.
HAK_INLINE bool is_charged(void) {
    return atomic_load_explicit(&arena_state.charged, memory_order_relaxed);
}

HAK_INLINE size_t limit_slabs(void) {
    size_t limit = (size_t)settings_get(SETTING_LIMIT);
    return limit == 0 ? 0 : hak_max(limit >> ARENA_SLAB_SHIFT, 1);
}

HAK_INLINE uint32_t now_ms(void) {
    return (uint32_t)os_now_ms();
}

// --- window.c: the control area
//
// The control area is mapped as the heap grows, so that a small process maps little of it: limits
// on address space, data and locked memory count what is mapped, touched or not. A piece of the
// window is the slabs whose bytes fill one page of the page map; their groups fill a page each.
// Only the regions are reserved from the start, for a window has few of them. Regions get rights
// in order, the first one before the window is published.
//
// The thread that sets a piece's bit in `begun` maps the piece. Other threads grow elsewhere
// meanwhile, so no thread waits. If a foreign mapping is in the way, the bit stays set and the
// piece is never used; likewise in a child that was forked before the piece was mapped.
enum {
    PIECE_SLABS = HAK_PAGE,
    PIECE_GROUPS = PIECE_SLABS / ARENA_GROUP_SLABS,
    PIECES_MOST = (WINDOW_MOST >> ARENA_SLAB_SHIFT) / PIECE_SLABS,
};
static_assert(sizeof(struct page_arena_group) == HAK_PAGE, "a group has a page of its own");
static_assert(ARENA_REGION_GROUPS % PIECE_GROUPS == 0, "a piece is in one region");

struct arena_control {
    atomic_bitmap_word begun[PIECES_MOST / 64];
    atomic_bitmap_word open[PIECES_MOST / 64]; // mapped
    _Atomic size_t more_regions;               // regions with rights after the first one
    _Atomic bool adding;                       // see add_alone()
    _Atomic size_t pieces;                     // all pieces below are open; may be behind
};
extern struct arena_control arena_control;

HAK_INLINE bool is_open(size_t piece) {
    return (atomic_load_explicit(&arena_control.open[piece / 64], memory_order_acquire) >>
                piece % 64 &
            1) != 0;
}

HAK_INLINE bool is_group_open(size_t group) {
    return is_open(group / PIECE_GROUPS);
}

// Returns the first SuperSlab behind the control area. The SuperSlabs that the area covers stay out
// of use.
size_t arena_first_superslab(const struct page_arena_window *window);

// Maps a piece of the control area, if it is not mapped. Returns OS_TAKEN if another thread is
// mapping the piece, or if a foreign mapping is in the way.
enum os_result arena_open_piece(const struct page_arena_window *window, size_t piece);

// --- slab_bits.c: free and dirty slabs

// Return the word for 64 slabs; index is slab / 64.
HAK_INLINE atomic_bitmap_word *avail_word(const struct page_arena_window *window, size_t word) {
    return &window->groups[word / 32].avail[word % 32];
}

HAK_INLINE atomic_bitmap_word *dirty_word(const struct page_arena_window *window, size_t word) {
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

// Returns the first slab of the group after that of slab `at`.
HAK_INLINE size_t next_group(size_t at) {
    return (at / ARENA_GROUP_SLABS + 1) * ARENA_GROUP_SLABS;
}

// Summaries bound the runs of free slabs from above, so that a search can pass a group or a region
// whose runs are too short without reading its bits. A region's summary bounds its longest run; a
// group's summary also bounds the runs at its start and at its end.
//
// A release raises the summaries above its slabs to the most there can be. A claim changes none. A
// search that has read a group in vain surveys the group: it marks the summary, counts the runs,
// and writes the result if the mark is still there. A release removes the mark, and so wins against
// every survey that may have missed its bits. Each mark has a tag. A tag comes again after 2^27
// surveys; a run that a survey hid for that reason is seen after the next release in its group.
enum {
    RUN_BITS = 12, // a group's longest run, the one at its start and the one at its end
    FIELD_BITS = 3 * RUN_BITS,
};
static const uint64_t fields_mask = (UINT64_C(1) << FIELD_BITS) - 1;

struct runs {
    size_t longest, first, last; // slabs
};

HAK_INLINE struct runs unpack(uint64_t word) {
    const uint64_t mask = (1 << RUN_BITS) - 1;
    return (struct runs){word & mask, word >> RUN_BITS & mask, word >> 2 * RUN_BITS & mask};
}

HAK_INLINE struct page_arena_runs *runs_of(const struct page_arena_window *window, size_t group,
                                           bool dirty) {
    struct page_arena_region *region = &window->regions[group / ARENA_REGION_GROUPS];
    return dirty ? &region->dirty : &region->free;
}

HAK_INLINE struct runs group_runs(const struct page_arena_window *window, size_t group,
                                  bool dirty) {
    return unpack(atomic_load(&runs_of(window, group, dirty)->group[group % ARENA_REGION_GROUPS]));
}

HAK_INLINE size_t region_longest(const struct page_arena_window *window, size_t group, bool dirty) {
    return atomic_load(&runs_of(window, group, dirty)->all) & fields_mask;
}

// Returns the length of the run that ends at the end of a group, if the run that ends right before
// the group has `carry` slabs.
HAK_INLINE size_t carry_over(size_t carry, struct runs runs) {
    return runs.first == ARENA_GROUP_SLABS ? carry + ARENA_GROUP_SLABS : runs.last;
}

// Counts the runs of a group, and lowers its summary to the counts. Returns the counts.
struct runs arena_survey(const struct page_arena_window *window, size_t group, bool dirty);

// The same for the region of `group`, by the summaries of its groups. Returns its longest run.
size_t arena_survey_region(const struct page_arena_window *window, size_t group, bool dirty);

// Lowers the summaries of a group to "no free slab". The caller holds all slabs of the group.
void arena_hold_group(const struct page_arena_window *window, size_t group);

// Makes held slabs available. dirty: some of them may be dirty.
void arena_put_avail(const struct page_arena_window *window, size_t from, size_t count, bool dirty);

// Claims all of the slabs. Returns false, and claims none, if one of them is not available.
bool arena_claim_avail(const struct page_arena_window *window, size_t from, size_t count);

// Returns true if all of the slabs are available. Changes nothing: to be called before a claim that
// would mostly fail.
bool arena_all_avail(const struct page_arena_window *window, size_t from, size_t count);

HAK_INLINE bool try_claim(const struct page_arena_window *window, size_t from, size_t count) {
    return arena_all_avail(window, from, count) && arena_claim_avail(window, from, count);
}

// Returns how many of the slabs are dirty. Exact for held slabs.
size_t arena_count_dirty(const struct page_arena_window *window, size_t from, size_t count);

// Marks held slabs as clean.
void arena_clear_dirty(const struct page_arena_window *window, size_t from, size_t slabs);

// --- rights.c: SuperSlabs

// Returns the SuperSlabs, as bits, that slabs [first, first + count) of a group lie in.
HAK_INLINE uint64_t superslab_mask(size_t first, size_t count) {
    unsigned from = (unsigned)(first / ARENA_SUPERSLAB_SLABS);
    unsigned last = (unsigned)((first + count - 1) / ARENA_SUPERSLAB_SLABS);
    return atomic_bitmap_mask(from, last - from + 1);
}

HAK_INLINE bool is_huge(const struct page_arena_window *window, size_t superslab) {
    return atomic_bitmap_test(&window->groups[superslab / ARENA_GROUP_SUPERSLABS].huge,
                              superslab % ARENA_GROUP_SUPERSLABS);
}

// Returns true if the arena itself may choose SuperSlabs to advise huge pages to (HAKMEM_THP=2).
// Under HAKMEM_LIMIT it may not: of a huge page, slabs that nobody holds are in memory, too.
HAK_INLINE bool may_be_huge(void) {
    return settings_get(SETTING_THP) == 2 && limit_slabs() == 0 && !page_arena_is_tight();
}

// Returns the word of 64 slabs, some of which may be gone.
HAK_INLINE atomic_bitmap_word *gone_word(const struct page_arena_window *window, size_t word) {
    return &window->groups[word / 32].gone[word % 32];
}

// Returns true if some of the slabs are gone. Exact for held slabs.
bool arena_any_gone(const struct page_arena_window *window, size_t from, size_t slabs);

// Maps again those of the held slabs that are gone. Clears the mark of each SuperSlab all of whose
// slabs are held. Returns OS_NO_MEMORY if the kernel refuses. Returns OS_TAKEN if something else
// has been mapped there; the slabs that are still gone are to be left alone for good.
enum os_result arena_map_lost(const struct page_arena_window *window, size_t from, size_t slabs);

// Marks held slabs as gone, and their SuperSlabs as having such slabs.
void arena_mark_lost(const struct page_arena_window *window, size_t from, size_t slabs);

// After OS_TAKEN: makes those held slabs available that are not gone.
void arena_put_mapped(const struct page_arena_window *window, size_t from, size_t slabs);

// Asks the kernel for the limits on address space and data, and notes the lower one, in bytes, in
// arena_state.limit: 0 if a purge need not unmap for its sake (see page_arena_purge()). Notes in
// arena_state.limited whether there is any limit.
void arena_look_at_limits(void);

// Returns true if address space cost the process nothing when the limits were last looked at.
HAK_INLINE bool arena_is_spacious(void) {
    return limit_slabs() == 0 && !page_arena_is_tight() && !is_charged() &&
           !atomic_load_explicit(&arena_state.limited, memory_order_relaxed);
}

// Marks the SuperSlabs of slabs as advised huge pages.
void arena_mark_huge(const struct page_arena_window *window, size_t from, size_t slabs);

// Marks SuperSlabs, the bits `superslabs` of group `index`, as readable and writable.
void arena_mark_committed(const struct page_arena_window *window, size_t index,
                          uint64_t superslabs);

// Gives the SuperSlabs of held slabs the rights back that a purge took, and maps again those of the
// slabs that are gone. Returns what arena_map_lost() returns. Only a thread that holds all of a
// SuperSlab takes its rights, so the rights of the caller's SuperSlabs stay.
enum os_result arena_commit(const struct page_arena_window *window, size_t from, size_t slabs,
                            bool huge);

// Mark metadata as in use, so that the purge visits it: arena_mark_meta() that of SuperSlabs, the
// bits `superslabs` of group `index`, and arena_use_meta() that of a slab's SuperSlab.
void arena_mark_meta(const struct page_arena_window *window, size_t index, uint64_t superslabs);
HAK_INLINE void arena_use_meta(const struct page_arena_window *window, size_t slab) {
    size_t index = slab / ARENA_GROUP_SLABS;
    uint64_t bit = UINT64_C(1) << (slab / ARENA_SUPERSLAB_SLABS) % ARENA_GROUP_SUPERSLABS;
    if (HAK_UNLIKELY((atomic_load_explicit(&window->groups[index].meta_used, memory_order_relaxed) &
                      bit) == 0)) {
        arena_mark_meta(window, index, bit);
    }
}

// --- growth.c

// Returns how many of a SuperSlab's slabs are mapped.
HAK_INLINE size_t mapped_in(const struct page_arena_window *window, size_t superslab) {
    size_t group = superslab / ARENA_GROUP_SUPERSLABS;
    if (!is_group_open(group)) {
        return 0;
    }
    size_t in_group = superslab % ARENA_GROUP_SUPERSLABS;
    uint64_t word = atomic_load(&window->groups[group].mapped[in_group / 2]);
    uint32_t bits = (uint32_t)(word >> in_group % 2 * ARENA_SUPERSLAB_SLABS);
    return bits == 0 ? 0 : hak_log2(bits) + 1u;
}

// Maps as many new slabs as are missing for a run of `slabs` aligned slabs, and makes the new ones
// available. Returns OS_NO_MEMORY if the kernel refuses or no address is left. After OS_TAKEN the
// caller tries again.
enum os_result arena_grow(const struct page_arena_window *window, size_t slabs, size_t align,
                          bool huge);

// Maps those of the slabs [from, from + slabs) that are not mapped, and makes them available, if
// the others are available. Returns false if one of the others is held, or if the kernel refuses.
bool arena_grow_at(const struct page_arena_window *window, size_t from, size_t slabs, bool huge);

// --- search.c

// Claims the lowest run of available slabs; of available dirty slabs if `dirty`. Returns its first
// slab, or ARENA_NONE if there is no such run.
size_t arena_find_run(const struct page_arena_window *window, size_t slabs, size_t align,
                      bool dirty);

// --- release.c

// Adds to the counts of claimed slabs (lower half of the word) and of free dirty slabs (upper half)
// in one step. Neither count is ever below 0: slabs count as dirty before they are available.
HAK_INLINE void count_slabs(ptrdiff_t held, ptrdiff_t dirty) {
    hak_step_add(&arena_state.counts, (uint64_t)held + ((uint64_t)dirty << 32));
    if (held > 0) {
        // For statistics only: if two threads write `peak` at once, the lower value may win.
        uint32_t now = __atomic_load_n((uint32_t *)&arena_state.counts, __ATOMIC_RELAXED);
        if (now > __atomic_load_n(&arena_state.peak, __ATOMIC_RELAXED)) {
            __atomic_store_n(&arena_state.peak, now, __ATOMIC_RELAXED);
        }
    }
}

HAK_INLINE size_t counted_held(void) {
    return (uint32_t)atomic_load_explicit(&arena_state.counts, memory_order_relaxed);
}

HAK_INLINE size_t counted_dirty(void) {
    return atomic_load_explicit(&arena_state.counts, memory_order_relaxed) >> 32;
}

// Makes held slabs available. `dirty`: they may hold other bytes than zero. Returns how many of the
// slabs have pages; if that is not 0, sets *now to the clock.
size_t arena_release(size_t from, size_t slabs, bool dirty, uint32_t *now);

// Releases the slabs that are set aside: those of all threads, or of the calling thread's slot
// alone. Returns true if there were any. Leaves the ceiling of dirty memory to the next
// page_arena_release(), because the purges for many runs would add up in one call.
bool arena_release_aside(bool all);

// --- emptied.c

// Counts the pages in memory of held slabs that are about to be given back.
void arena_note_emptied(const struct page_arena_window *window, size_t from, size_t slabs);

// Returns true if enough of a SuperSlab was given back to say how full it was.
bool arena_is_judged(const struct page_arena_window *window, size_t superslab);

// Returns true if nearly all pages of a SuperSlab that were given back had been in memory. Begins
// its count anew.
bool arena_take_was_filled(const struct page_arena_window *window, size_t superslab);

// --- moved.c

// Maps held slabs without pages afresh, with the advice that their SuperSlabs have. Returns
// OS_NO_MEMORY, and changes nothing, if the kernel refuses or if the slabs include a part of a
// moved run. Returns OS_LOST if the kernel unmapped the slabs and did not map them again; the next
// claim does.
enum os_result arena_refresh(const struct page_arena_window *window, size_t from, size_t slabs);

// Gives back the pages of a run that the caller keeps. Returns false if the kernel refuses.
bool arena_purge_held(const struct page_arena_window *window, size_t from, size_t slabs);

// For a run that the caller holds and releases next: unmaps the run if a limit makes that worth
// while. Returns true if the run was unmapped.
bool arena_unmap(const struct page_arena_window *window, size_t from, size_t slabs);

// As arena_purge_held(), for a run that the caller releases next. The run may be gone after the
// call: unmapped because of a limit, or lost by the kernel when a moved run was mapped afresh. The
// next claim maps the run again.
bool arena_purge_for_good(const struct page_arena_window *window, size_t from, size_t slabs);

// Maps free and clean moved runs afresh, from note *note on, while done->looks is below `looks`.
// Returns false if all notes have been looked at; otherwise *note is where to go on.
bool arena_settle(const struct page_arena_window *window, size_t *note, size_t looks,
                  struct page_arena_purged *done);

// --- refilled.c

// Advises huge pages to those SuperSlabs of claimed slabs that were filled before and have no page
// in use. Slabs may be gone after the call.
void arena_make_huge_again(const struct page_arena_window *window, size_t from, size_t slabs);

#endif
