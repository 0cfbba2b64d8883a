// SPDX-License-Identifier: Apache-2.0
// superslab: 2 MiB of 32 slabs of 64 KiB, and the metadata of each slab, kept out of line.
//
// Slabs of any mix of bins share a SuperSlab; a slab gets its bin when it is put to use. The set
// bits of an atomic bitmap are a slab's free blocks. Blocks themselves are never read or written.
// The fields are atomics; where a comment names a writer, no other thread may change the field.
#ifndef HAKMEM_BOXES_SUPERSLAB_SUPERSLAB_H
#define HAKMEM_BOXES_SUPERSLAB_SUPERSLAB_H

#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/base/layout.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/size_class/size_class.h"

HAK_C_BEGIN

enum slab_kind {
    SLAB_NONE = 0,    // free, or not the first slab of a run
    SLAB_TINY = 1,    // blocks of slab->bin
    SLAB_LARGE = 2,   // first slab of a large block
    SLAB_HEAP = 3,    // a thread heap, or a private one
    SLAB_PRIVATE = 4, // first slab of a private heap's run
    SLAB_CHUNK = 5,   // first slab of a chunk of medium blocks
};

enum slab_flags {
    SLAB_GUARD = 127, // mask of a number: so many pages at the end of the run have no rights
    SLAB_GROWN = 128, // realloc made the block
};

enum { SLAB_INLINE_WORDS = 4 }; // bitmaps of blocks of 256 B and more live beside the other fields

struct slab {
    // Files named below are shared_pool's.
    _Atomic(uint8_t) kind;    // enum slab_kind; the slab's holder writes it
    _Atomic(uint8_t) bin;     // SLAB_TINY: its bin, from 1; the holder writes it
    _Atomic(uint8_t) active;  // SLAB_TINY: a hint that blocks have moved since the decay looked
    _Atomic(uint8_t) owner;   // SLAB_LARGE: slot of the thread that allocated the block
    _Atomic(uint16_t) clean;  // SLAB_TINY: a bit for each page without memory; see purge.c
    _Atomic(uint16_t) colour; // SLAB_LARGE: bytes in front of the block; its holder writes it
    _Atomic(uint64_t) run;    // SLAB_LARGE, SLAB_PRIVATE: slabs in the run
    _Atomic(uint64_t) size;   // SLAB_LARGE: bytes asked for
    _Atomic(uint8_t) pages;   // SLAB_TINY: pages that the slab has, 0: all; see short_slab.c
    _Atomic(uint8_t) slack;   // SLAB_LARGE: pages behind the block that may have memory; holder
    _Atomic(uint8_t) empty;   // SLAB_TINY: 1: counted as without a live block; see put.c
    _Atomic(uint8_t) flags;   // SLAB_LARGE: SLAB_GUARD and SLAB_GROWN; its holder writes them
    _Atomic(uint32_t) room;   // SLAB_LARGE: slabs at the run's end that the block does not have yet
    atomic_bitmap_word bits[SLAB_INLINE_WORDS]; // free blocks; any thread sets, takers clear
};

// A chunk is 8 slabs that hold medium blocks (see medium_block.h). Its bitmaps have a bit for each
// of its pages. The bitmaps are used for nothing else, because a slow thread may still try to take
// pages when the slabs serve another purpose: then `avail` is 0.
enum {
    SUPERSLAB_CHUNK_SLABS = 8,
    SUPERSLAB_CHUNKS = ARENA_SUPERSLAB_SLABS / SUPERSLAB_CHUNK_SLABS,
    SUPERSLAB_CHUNK_PAGES = SUPERSLAB_CHUNK_SLABS * (ARENA_SLAB / HAK_PAGE),
    SUPERSLAB_CHUNK_WORDS = SUPERSLAB_CHUNK_PAGES / 64,
    SUPERSLAB_CHUNK_FITS = 8, // words of groups and regions behind those of the bins
};
struct superslab_chunk {
    alignas(HAK_CACHE_LINE) atomic_bitmap_word avail[SUPERSLAB_CHUNK_WORDS]; // pages free to take
    atomic_bitmap_word touched[SUPERSLAB_CHUNK_WORDS]; // may have memory; a page's holder writes
};

// The entry of a medium block is the one of its first page. From the lowest bit on: the number of
// the block's pages, the slot of the thread that allocated it, the bytes in front of the block, and
// the bytes that were asked for. 0: no block starts at the page.
enum { SUPERSLAB_ENTRY_SLOT = 8, SUPERSLAB_ENTRY_COLOUR = 16, SUPERSLAB_ENTRY_SIZE = 32 };

struct superslab {
    // A bit for each slab and bin: if it is clear, the slab has no free blocks of that bin, or a
    // thread is about to set it. A thread that frees blocks sets the bit, a thread that finds no
    // free block clears it.
    _Atomic(uint32_t) listed[ARENA_GROUP_USER_WORDS];
    // The thread that took blocks of the slab last (its hak_thread_mark()); 0: none. A hint.
    _Atomic(uint8_t) taker[ARENA_SUPERSLAB_SLABS];
    struct slab slabs[ARENA_SUPERSLAB_SLABS];
    // For shared_pool's home.c. On different lines, because all threads read `owner` and few write.
    alignas(HAK_CACHE_LINE) _Atomic(uint32_t) owner; // the group whose home it is; 0: no home
    alignas(HAK_CACHE_LINE) _Atomic(uint32_t) spare; // slabs that are held and not in use, as bits
    _Atomic(uint32_t) idle; // visits of the decay since the owner took blocks
    // A byte for each chunk: the length of its longest free run. See medium_block's fit.c.
    atomic_bitmap_word longest;
    struct superslab_chunk chunks[SUPERSLAB_CHUNKS];
    char pad_[HAK_PAGE - ARENA_GROUP_USER_WORDS * 4 - ARENA_SUPERSLAB_SLABS -
              ARENA_SUPERSLAB_SLABS * 64 - (2 + SUPERSLAB_CHUNKS) * HAK_CACHE_LINE];
    // Of slabs whose blocks are smaller than 256 B, the bitmaps; of the slabs of a chunk, the
    // entries of its blocks. On pages of their own: a SuperSlab of other blocks never touches them.
    atomic_bitmap_word bits[ARENA_SUPERSLAB_SLABS][SIZE_CLASS_MAX_BLOCKS / 64];
};

static_assert(sizeof(struct slab) == HAK_CACHE_LINE, "a slab's metadata is one cache line");
static_assert(offsetof(struct superslab, slabs) % HAK_CACHE_LINE == 0, "and starts at one");
static_assert(offsetof(struct superslab, bits) == HAK_PAGE, "bitmaps start at the second page");
static_assert(sizeof(struct superslab) == ARENA_SUPERSLAB_META, "what the arena sets aside");
static_assert((int)SIZE_CLASS_SLAB == (int)ARENA_SLAB, "a slab of blocks is a slab of the arena");
static_assert((int)ARENA_GROUP_USER_WORDS >= (int)SIZE_CLASS_BINS + SUPERSLAB_CHUNK_FITS + 1,
              "a word for each bin, those of the chunks' free runs, and one for all chunks");
static_assert((int)SUPERSLAB_CHUNK_PAGES <=
                  (int)SUPERSLAB_CHUNK_SLABS * (int)SIZE_CLASS_MAX_BLOCKS / 64,
              "the entries of a chunk fit into the bitmaps of its slabs");

HAK_INLINE struct superslab *superslab_at(const struct page_arena_window *window, size_t slab) {
    return (struct superslab *)(window->meta + slab / ARENA_SUPERSLAB_SLABS * ARENA_SUPERSLAB_META);
}

HAK_INLINE struct slab *superslab_slab(const struct page_arena_window *window, size_t slab) {
    return &superslab_at(window, slab)->slabs[slab % ARENA_SUPERSLAB_SLABS];
}

// The summaries that lead to a SuperSlab: word `word` of its group, with a bit for each SuperSlab,
// and the same word of its region, with a bit for each group. As in `listed`, a bin's word has the
// number of the bin; the words of the lists of chunks are behind those.
HAK_INLINE atomic_bitmap_word *superslab_group_word(const struct page_arena_window *window,
                                                    size_t slab, unsigned word) {
    return &window->groups[slab / ARENA_GROUP_SLABS].user[word];
}
HAK_INLINE uint64_t superslab_group_bit(size_t slab) {
    return UINT64_C(1) << (slab / ARENA_SUPERSLAB_SLABS % ARENA_GROUP_SUPERSLABS);
}
HAK_INLINE atomic_bitmap_word *superslab_region_word(const struct page_arena_window *window,
                                                     size_t slab, unsigned word) {
    return &window->regions[slab / ARENA_REGION_SLABS].user[word];
}
HAK_INLINE uint64_t superslab_region_bit(size_t slab) {
    return UINT64_C(1) << (slab / ARENA_GROUP_SLABS % ARENA_REGION_GROUPS);
}

// superslab_bits() returns the bitmap of a slab that holds (or is to hold) blocks of `bin`.
// superslab_bits_beside() returns true if that bitmap is beside the slab's other fields.
// superslab_bits_where() is for callers that know `beside`, the answer of the latter.
HAK_INLINE bool superslab_bits_beside(unsigned bin) {
    return size_class_bins[bin].words <= SLAB_INLINE_WORDS;
}
HAK_INLINE atomic_bitmap_word *superslab_bits_where(const struct page_arena_window *window,
                                                    size_t slab, bool beside) {
    // The address is linear in the number of the slab and in that of the SuperSlab. To compute it
    // like this takes fewer instructions than to find the SuperSlab first.
    size_t superslab = slab / ARENA_SUPERSLAB_SLABS;
    struct superslab *first = (struct superslab *)window->meta;
    char *at = beside ? (char *)first->slabs[0].bits + slab * sizeof first->slabs[0]
                      : (char *)first->bits[0] + slab * sizeof first->bits[0];
    size_t each = beside ? sizeof first->slabs : sizeof first->bits;
    return (atomic_bitmap_word *)(at + superslab * (ARENA_SUPERSLAB_META - each));
}
HAK_INLINE atomic_bitmap_word *superslab_bits(const struct page_arena_window *window, size_t slab,
                                              unsigned bin) {
    return superslab_bits_where(window, slab, superslab_bits_beside(bin));
}

// superslab_entry() returns the entry of page `page` (0..SUPERSLAB_CHUNK_PAGES - 1) of the chunk
// that starts with `slab`. The functions below return the parts of an entry.
HAK_INLINE atomic_bitmap_word *superslab_entry(const struct page_arena_window *window, size_t slab,
                                               size_t page) {
    return superslab_at(window, slab)->bits[slab % ARENA_SUPERSLAB_SLABS] + page;
}
HAK_INLINE unsigned superslab_entry_pages(uint64_t entry) {
    return (uint8_t)entry;
}
HAK_INLINE unsigned superslab_entry_slot(uint64_t entry) {
    return (uint8_t)(entry >> SUPERSLAB_ENTRY_SLOT);
}
HAK_INLINE size_t superslab_entry_colour(uint64_t entry) {
    return (uint16_t)(entry >> SUPERSLAB_ENTRY_COLOUR);
}
HAK_INLINE size_t superslab_entry_size(uint64_t entry) {
    return entry >> SUPERSLAB_ENTRY_SIZE;
}

// The usable bytes of a large block are a multiple of this (a power of two, up to a page). It is 1
// in the hardened flavour, where they are the requested bytes.
extern size_t superslab_grain __attribute__((visibility("hidden")));

// Returns the usable bytes of a large block for which `size` bytes were requested. Most runs have
// more room, by an amount that depends on where the block starts. This room is not counted, so that
// programs which add up malloc_usable_size() get the same sum for the same requests.
HAK_INLINE size_t superslab_usable(size_t size) {
    return hak_round_up(size, HAK_PEEK(&superslab_grain));
}

// Return the start, and the usable bytes, of the large block whose run starts with `slab`.
HAK_INLINE char *superslab_large_start(const struct page_arena_window *window, size_t slab) {
    struct slab *meta = superslab_slab(window, slab);
    return (char *)page_arena_address(window, slab) +
           atomic_load_explicit(&meta->colour, memory_order_relaxed);
}
HAK_INLINE size_t superslab_large_usable(const struct page_arena_window *window, size_t slab) {
    return superslab_usable(
        atomic_load_explicit(&superslab_slab(window, slab)->size, memory_order_relaxed));
}

// superslab_blocks_on() returns the number of blocks of `bin` that fit on the first `pages` pages
// of a slab. superslab_absent() returns the number of blocks for which the slab lacks pages.
enum { SUPERSLAB_PAGES_HELD = 0xff }; // `pages` while a thread adds some
HAK_INLINE unsigned superslab_blocks_on(unsigned bin, unsigned pages) {
    const struct size_class_bin *info = &size_class_bins[bin];
    return (unsigned)hak_min(((size_t)pages << HAK_PAGE_SHIFT) / info->size, info->blocks);
}
HAK_INLINE unsigned superslab_absent(struct slab *slab, unsigned bin) {
    unsigned pages = atomic_load_explicit(&slab->pages, memory_order_relaxed);
    bool all = pages == 0 || pages == SUPERSLAB_PAGES_HELD;
    return all ? 0 : size_class_bins[bin].blocks - superslab_blocks_on(bin, pages);
}

// Returns the value of word `word` of a slab's bitmap when all blocks are free and the slab has all
// its pages.
HAK_INLINE uint64_t superslab_full_word(unsigned bin, unsigned word) {
    unsigned left = size_class_bins[bin].blocks - word * 64;
    return left >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
}

// Returns true if the metadata of `slab` may be read. page_arena_reaches() is true of `slab`. The
// metadata is mapped with the first slab of its SuperSlab. Returns false in a SuperSlab without
// rights, of which no slab is in use. If rights are given slab by slab (see page_arena's rights.c),
// `committed` is not set, but `meta_used` is.
HAK_INLINE bool superslab_known_reached(const struct page_arena_window *window, size_t slab) {
    struct page_arena_group *group = &window->groups[slab / ARENA_GROUP_SLABS];
    uint64_t known = atomic_load_explicit(&group->committed, memory_order_relaxed) |
                     atomic_load_explicit(&group->meta_used, memory_order_relaxed);
    return (known >> slab / ARENA_SUPERSLAB_SLABS % ARENA_GROUP_SUPERSLABS & 1) != 0;
}

// As above, for any `slab`.
HAK_INLINE bool superslab_known(const struct page_arena_window *window, size_t slab) {
    return slab < window->slabs && page_arena_reaches(slab) &&
           superslab_known_reached(window, slab);
}

// From here on glibc's malloc gives a block a mapping of its own.
enum { SUPERSLAB_MAPPED = 128 << 10 };

// Counts of slabs by use, over the whole heap.
struct superslab_stats {
    size_t superslabs; // SuperSlabs with at least one slab in use
    size_t tiny_slabs, large_slabs, heap_slabs, private_slabs;
    size_t homes;                       // SuperSlabs that a few threads have for themselves
    size_t spare_slabs;                 // slabs of homes that are held and not in use
    size_t bin_slabs[SIZE_CLASS_BINS];  // slabs of each bin
    size_t bin_free[SIZE_CLASS_BINS];   // their free blocks, without blocks in caches
    size_t bin_absent[SIZE_CLASS_BINS]; // their blocks that have no pages yet
    // Medium blocks count as large ones here.
    size_t large_blocks;
    size_t large_guards;  // large blocks with SLAB_GUARD
    size_t large_bytes;   // requested bytes of large blocks
    size_t large_pages;   // the same, each request rounded up to whole pages (bytes)
    size_t mapped_blocks; // large blocks of SUPERSLAB_MAPPED bytes or more
    size_t mapped_pages;  // their part of large_pages
};

// Counts by a walk over all metadata; exact when no other thread uses the heap.
void superslab_get_stats(struct superslab_stats *stats);

// For readers outside of the process, see layout.h.
extern const struct hak_layout superslab_layout;
HAK_C_END

#endif
