// SPDX-License-Identifier: Apache-2.0
// page_arena: one range of addresses, from which SuperSlabs and large blocks get their pages.
//
// The range, called the window, is cut into slabs of 64 KiB and SuperSlabs of 2 MiB, and used from
// the bottom up. Slabs are mapped when they are needed: a fresh process has reserved a few hundred
// KiB at most. The heap grows by a SuperSlab at a time, a small heap by less, at fixed addresses,
// and skips foreign mappings there. The arena's metadata grows with the heap. So limits on address
// space, data and locked memory leave a process as much as with any other allocator, and may change
// while the process runs. If no limit counts address space, the heap is mapped ahead of its need,
// by an eighth of its size and 64 MiB at most.
//
// A run is a number of adjacent slabs. Runs are claimed first-fit, lowest address first; runs that
// still have pages ("dirty") come before fresh ones. Splitting and joining runs takes no work,
// because a free slab is just a bit. The first bytes of the window belong to the page map
// (page_map.h): one byte for each slab.
//
// The life of a slab, as the arena sees it (avail, dirty and committed are bits):
//
//                    +------ claim ------> held ------ claim -----------+
//                    |                     |  |                         |
//       unmapped --grow--> avail,clean <---+  +--- release(dirty) ---> avail,dirty
//                              ^     release(clean)                     |
//                              +---------------- purge -----------------+
//
// If a slab was dirty before it was claimed, and is released as clean, it is avail,dirty again.
// Held slabs can be set aside instead of released: then they are neither held nor avail (see
// page_arena_set_aside()).
//
// Thread-safe, lock-free; callable from anywhere. Nothing here allocates or touches errno.
#ifndef HAKMEM_BOXES_PAGE_ARENA_PAGE_ARENA_H
#define HAKMEM_BOXES_PAGE_ARENA_PAGE_ARENA_H

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

enum {
    ARENA_SLAB_SHIFT = 16,
    ARENA_SLAB = 1 << ARENA_SLAB_SHIFT,
    ARENA_SUPERSLAB_SHIFT = 21,
    ARENA_SUPERSLAB = 1 << ARENA_SUPERSLAB_SHIFT,
    ARENA_SUPERSLAB_SLABS = ARENA_SUPERSLAB / ARENA_SLAB,
    ARENA_GROUP_SUPERSLABS = 64,
    ARENA_GROUP_SLABS = ARENA_GROUP_SUPERSLABS * ARENA_SUPERSLAB_SLABS,
    ARENA_GROUP_USER_WORDS = 88, // words that a group keeps for the boxes above (superslab.h)
    ARENA_REGION_GROUPS = 64,
    ARENA_REGION_SLABS = ARENA_REGION_GROUPS * ARENA_GROUP_SLABS,
    ARENA_SUPERSLAB_META = 5 * HAK_PAGE, // bytes of out-of-line metadata of a SuperSlab
};

#define ARENA_NONE SIZE_MAX

// Bookkeeping of 64 SuperSlabs (128 MiB), in one place so that a small heap touches few pages.
struct page_arena_group {
    alignas(HAK_CACHE_LINE) atomic_bitmap_word avail[ARENA_GROUP_SLABS / 64]; // free to claim
    atomic_bitmap_word dirty[ARENA_GROUP_SLABS / 64]; // may have pages; a slab's holder writes it
    _Atomic(uint32_t)
        freed_at[ARENA_GROUP_SUPERSLABS]; // ms clock of the last release of dirty slabs
    // Every look-up of a pointer reads the words below, every release writes the words above: they
    // are on different cache lines.
    alignas(HAK_CACHE_LINE) atomic_bitmap_word committed; // SuperSlabs with read and write rights
    atomic_bitmap_word meta_used; // SuperSlabs whose metadata may hold pages
    atomic_bitmap_word huge;      // SuperSlabs that were advised huge pages
    atomic_bitmap_word lost;      // SuperSlabs with slabs that may be gone
    atomic_bitmap_word whole;     // SuperSlabs that are mapped to their end; never cleared
    alignas(HAK_CACHE_LINE) atomic_bitmap_word user[ARENA_GROUP_USER_WORDS]; // of the boxes above
    atomic_bitmap_word mapped[ARENA_GROUP_SLABS / 64]; // mapped now or before; never cleared
    // What each SuperSlab has given back since it was last free and clean: the upper half counts
    // slabs, the lower half those of their pages that were in memory. An estimate for emptied.c.
    _Atomic(uint32_t) emptied[ARENA_GROUP_SUPERSLABS];
    atomic_bitmap_word gone[ARENA_GROUP_SLABS / 64]; // not mapped now; a slab's holder writes it
    // Each group has a page of its own.
    char pad_[HAK_PAGE - 4 * (ARENA_GROUP_SLABS / 8) - 2 * (ARENA_GROUP_SUPERSLABS * 4) -
              HAK_CACHE_LINE - ARENA_GROUP_USER_WORDS * 8];
};

// Upper bounds of the longest runs of free slabs (or of free dirty slabs) of a region and of each
// of its groups. Only the arena's files use them.
struct page_arena_runs {
    alignas(HAK_CACHE_LINE) atomic_bitmap_word all;
    atomic_bitmap_word group[ARENA_REGION_GROUPS];
};

// A region is 64 groups (8 GiB). Its summaries let a search pass all of them at once. The last
// region of a small window has fewer groups.
struct page_arena_region {
    struct page_arena_runs free, dirty;
    atomic_bitmap_word meta; // groups that may have a SuperSlab in meta_used
    // A word for each group, with a bit for each SuperSlab. While the bit is set, only the thread
    // that set it may map slabs of the SuperSlab. Only growth.c uses the words.
    alignas(HAK_CACHE_LINE) atomic_bitmap_word taken[ARENA_REGION_GROUPS];
    // Of the boxes above: bit g of user[i] stands for word user[i] of group g of the region.
    alignas(HAK_CACHE_LINE) atomic_bitmap_word user[ARENA_GROUP_USER_WORDS];
};

// The window, once page_arena_init() has succeeded. Constant from then on. Page map, groups and
// regions can be read and written where page_arena_reaches() says so, metadata where a SuperSlab is
// committed.
struct page_arena_window {
    char *base;                        // address of slab 0 and of the page map; 2 MiB aligned
    size_t slabs;                      // slabs in the window, a power of two
    struct page_arena_group *groups;   // slabs / ARENA_GROUP_SLABS of them
    struct page_arena_region *regions; // slabs / ARENA_REGION_SLABS of them, at least one
    char *meta;                        // ARENA_SUPERSLAB_META bytes for each SuperSlab
};

// For page_arena_init() and page_arena_get_window() alone, which are inline because nearly all
// other calls begin with one of them: the window, and what the two do until its place is known.
struct page_arena_known {
    struct page_arena_window window;
    bool ready; // set once, when `window` has been written
};
extern struct page_arena_known page_arena_known __attribute__((visibility("hidden")));
struct page_arena_window page_arena_work_out_window(void);
const struct page_arena_window *page_arena_write_window(struct page_arena_window *room);
bool page_arena_find_place(void);

HAK_INLINE bool page_arena_is_known(void) {
    return HAK_LIKELY(__atomic_load_n(&page_arena_known.ready, __ATOMIC_ACQUIRE));
}

// Finds a place for the window, unless there is a window. Returns true if there is one now. Returns
// false if the kernel refuses memory, after a few system calls. Any thread may call at any time.
HAK_INLINE bool page_arena_init(void) {
    return page_arena_is_known() || page_arena_find_place();
}

// Returns the window. Its base is NULL and its slabs are 0 before page_arena_init().
HAK_INLINE struct page_arena_window page_arena_get_window(void) {
    return page_arena_is_known() ? page_arena_known.window : page_arena_work_out_window();
}

// As above, without a copy of the window if that can be: *room is for one.
HAK_INLINE const struct page_arena_window *page_arena_the_window(struct page_arena_window *room) {
    return page_arena_is_known() ? &page_arena_known.window : page_arena_write_window(room);
}

// Claims `slabs` (>= 1) adjacent slabs whose address is a multiple of `align` (a power of two; the
// slab size is the least). The slabs are readable and writable. Sets *zero if every byte is zero.
// Returns the first slab's index, or ARENA_NONE if the kernel refuses memory.
size_t page_arena_claim(size_t slabs, size_t align, bool *zero);

// As page_arena_claim(), for slabs that will be filled. While the heap is marked dense, a SuperSlab
// that is put to use for them is advised huge pages.
size_t page_arena_claim_filled(size_t slabs, size_t align, bool *zero);

// As page_arena_claim(), for slabs that may be filled or not. If a SuperSlab was filled when it was
// last given back, this call and the one above advise it huge pages when they put it to use again,
// whether the heap is dense or not (build setting PAGE_ARENA_HUGE_AGAIN; 0: never).
size_t page_arena_claim_again(size_t slabs, size_t align, bool *zero);

// page_arena_is_tight() returns true if RLIMIT_DATA was below 16 MiB when the window was placed. In
// a tight process slabs can be written only while they are held, and a slab of blocks need not be
// writable as a whole: page_arena_claim_bare() claims one without rights, and
// page_arena_give_rights() makes `pages` of its pages, from `page` on, readable and writable.
// Returns false if the kernel refuses.
bool page_arena_is_tight(void);
size_t page_arena_claim_bare(bool *zero);
bool page_arena_give_rights(size_t slab, unsigned page, unsigned pages);

// For held slabs without pages that will be used sparsely: withdraws the advice of huge pages from
// those of their SuperSlabs that have no page in use. Returns false if the kernel unmapped some of
// the slabs meanwhile and refuses to map them again. Then the slabs can only be released, as clean.
bool page_arena_use_sparsely(size_t from, size_t slabs);

// page_arena_mark_dense() notes whether the heap is dense, that is, large and nearly full. A hint.
// page_arena_is_dense() returns what was noted last.
void page_arena_mark_dense(bool dense);
bool page_arena_is_dense(void);

// page_arena_count_sparse() adds `slabs` (a negative number: subtracts) to the count of claimed
// slabs that stay mostly empty. page_arena_sparse() returns the count.
void page_arena_count_sparse(ptrdiff_t slabs);
size_t page_arena_sparse(void);

// Claims the `slabs` slabs from index `from` (at most page_arena_high()) on, which will be filled.
// Returns false unless all of them are free, or are where the heap can grow. Sets *zero as
// page_arena_claim() does.
bool page_arena_claim_at(size_t from, size_t slabs, bool *zero);

// Gives slabs back. `dirty`: they may hold other bytes than zero.
void page_arena_release(size_t from, size_t slabs, bool dirty);

// page_arena_set_aside() keeps held slabs, with their contents, where the threads of that
// hak_thread_slot() find them when they want as many or fewer. page_arena_reuse() returns such
// slabs, with their contents. Returns ARENA_NONE if no run of `slabs` or more is set aside for the
// slot of the calling thread. Neither call reads the clock or the bits of free slabs.
//
// The slabs set aside are bounded. While one thread alone sets runs aside, it keeps 4 MiB. Of
// several threads each keeps half a MiB to 8 MiB, and all together a quarter of what is held, or
// 2.5 MiB if that is more. Under HAKMEM_LIMIT nothing is set aside. If there is no room for a run,
// the run is released as dirty. The runs of the calling thread's slot are released as dirty when a
// claim finds no other slabs with pages, or when page_arena_claim_at() would fail. All runs are
// released when a claim would need more address space, or when a purge starts at 0 (their age
// counts from then on). Slabs set aside count as free and dirty.
void page_arena_set_aside(size_t from, size_t slabs, unsigned slot);
size_t page_arena_reuse(size_t slabs);

// Moves the pages of `slabs` held slabs to other held slabs without copying; the source is clean
// afterwards. Returns false, and moves nothing, if the kernel cannot move pages, or if as many runs
// have been moved as may be (see moved_runs.h): a moved run is a mapping of its own until it is
// free as a whole and its pages are given back.
bool page_arena_move(size_t from, size_t to, size_t slabs);

// Returns true if `slabs` more slabs of address space cost the process nothing: neither
// HAKMEM_LIMIT, nor a limit on address space or data, nor commit charge counts them. Asks the
// kernel for these limits (two system calls) only if the slabs take 16 MiB or more; otherwise the
// answer is that of the last look at the limits, such as when the heap grew.
bool page_arena_is_spacious(size_t slabs);

// Gives the pages of held slabs back to the kernel; the slabs read as zero afterwards. Returns
// false if the kernel refuses.
bool page_arena_clean(size_t from, size_t slabs);

// Gives slabs back, and their pages to the kernel. If the kernel does not take the pages, the slabs
// are released as dirty.
void page_arena_discard(size_t from, size_t slabs);

// The outcome of a step that gives pages back.
struct page_arena_purged {
    size_t slabs; // given back
    size_t looks; // work done, in words read; a system call counts as ARENA_PURGE_CALL words
    bool failed;  // the kernel would not take pages back, and the step ended there
};
enum { ARENA_PURGE_CALL = 256 };

// Takes one step of a walk that gives the pages of free dirty slabs back to the kernel, of those
// freed `age_ms` milliseconds (less than 2^31) or longer ago. Metadata of a SuperSlab without a
// slab in use is given back too, and is all zero afterwards.
//
// The step starts at *cursor (0: the start of the heap), and passes groups and regions that have
// nothing to give back. It ends when it has given back `budget` slabs, when its `looks` reach about
// `looks` (both 1 or more), when the kernel refuses, or at the end of the heap, where it sets
// *cursor to 0. After a refusal *cursor is behind the place that failed, which fails again if it is
// a locked mapping. So a caller should end its walk there, and begin the next one there: then each
// walk meets one refusal at most.
//
// If a limit on address space or data (RLIMIT_AS, RLIMIT_DATA) is 16 GiB or less, the slabs given
// back are unmapped, so that the program's own mappings, such as its threads' stacks, find room
// after a peak. The next claim maps the slabs again. (Not with the header strategy, which reads in
// front of any pointer into the heap.)
struct page_arena_purged page_arena_purge(size_t *cursor, uint32_t age_ms, size_t budget,
                                          size_t looks);

// Returns the limit under which a purge unmaps what it gives back, in slabs, as it was when the
// kernel was asked last; 0 if there is none.
size_t page_arena_limit(void);

// Gives back the pages of up to `most` free dirty slabs, from the highest address down, however
// recently the slabs were freed. Returns the number of slabs. The number is below `most` if there
// are fewer, if the kernel refuses, or if the slabs are far apart: the call looks at about `most` +
// 4096 words at most.
size_t page_arena_purge_highest(size_t most);

// Return the number of free slabs that have pages, and the number of claimed slabs. Both take tens
// of loads, and are exact when no other thread uses the arena.
size_t page_arena_dirty(void);
size_t page_arena_held(void);

// Returns the number of slabs that are claimed or set aside, in one load.
size_t page_arena_claimed(void);

// Returns one past the highest slab index that was ever available, rounded up to 64. Never falls.
size_t page_arena_high(void);

// Returns true if the page map, the group and the region of a slab can be read and written. Returns
// false if `slab` is outside of the window, or in 256 MiB of it that the heap has not grown to.
bool page_arena_reaches(size_t slab);

// A bound for callers that ask often: page_arena_reaches() is true of all slabs below the returned
// index.
size_t page_arena_mapped(void);

// A bound for walks over the heap: no slab from the returned index (a multiple of
// ARENA_GROUP_SLABS) on is held or dirty. The bound may fall after a purge. A walk may miss a slab
// that another thread claims above the bound meanwhile; the next walk does not.
size_t page_arena_top(void);

// As page_arena_top(), and sets *window, which is read after the bound: a window that the caller
// got earlier may be empty, because there was none yet.
size_t page_arena_walk(struct page_arena_window *window);

// Returns how often the heap has grown. A caller that reads this count first may keep the values
// of page_arena_mapped() and page_arena_readable() for as long as the count stays the same.
size_t page_arena_growths(void);

// Returns the start, and sets *length to the bytes, of the part of the heap that can be read
// anywhere: from its first slab up to the first slab that was not mapped. The part only grows:
// slabs that are decommitted later can still be read. (Slabs that the kernel lost in an attempt to
// map them afresh cannot, until they are claimed.) Empty in a tight process.
char *page_arena_readable(size_t *length);

struct page_arena_stats {
    size_t reserved_bytes;  // addresses of slabs that were ever available
    size_t committed_bytes; // those of them that are mapped with read and write rights
    size_t held_slabs;      // claimed
    size_t peak_slabs;      // the most that were claimed at a time, about
    size_t dirty_slabs;     // free, with pages
    size_t aside_slabs;     // those of the dirty slabs that are set aside
    uint64_t purged_slabs;  // slabs whose pages a purge gave back, so far
    uint64_t moved_slabs;   // slabs that page_arena_move() moved, so far
    size_t moved_runs;      // moved runs that may still be mappings of their own
    // How often a SuperSlab was advised huge pages because it was filled before.
    uint64_t refilled_superslabs;
};

// Takes a snapshot; exact when no other thread uses the arena.
void page_arena_get_stats(struct page_arena_stats *stats);

HAK_INLINE void *page_arena_address(const struct page_arena_window *window, size_t slab) {
    return window->base + (slab << ARENA_SLAB_SHIFT);
}

// Returns the slab index of an address; a number >= window->slabs for every address outside of the
// window.
HAK_INLINE size_t page_arena_slab_of(const struct page_arena_window *window, const void *ptr) {
    return ((uintptr_t)ptr - (uintptr_t)window->base) >> ARENA_SLAB_SHIFT;
}

// For readers outside of the process, see layout.h.
extern const struct hak_layout page_arena_layout;
HAK_C_END

#endif
