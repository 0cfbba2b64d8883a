// SPDX-License-Identifier: Apache-2.0
// statistics: what the allocator holds and has done, as one C struct, as glibc's mallinfo has it,
// and as text.
//
// Numbers are gathered by a walk when asked for; nothing is counted on the hit path. Exact when no
// other thread allocates or frees meanwhile. Thread-safe; allocates nothing, and needs less than
// 1 KiB of stack: what it works with stands in static memory, or in a mapping of its own while
// another thread uses that. (Only where that mapping is refused it is the stack's, 4 KiB.)
#ifndef HAKMEM_BOXES_STATISTICS_STATISTICS_H
#define HAKMEM_BOXES_STATISTICS_STATISTICS_H

#include "boxes/base/base.h"
#include "boxes/size_class/size_class.h"

HAK_C_BEGIN

enum { HAK_STATS_BINS = 49 }; // the most that a flavour has

// Filled by hak_stats(). Bytes unless said otherwise.
struct hak_stats {
    size_t superslabs;   // SuperSlabs in use (count)
    size_t reserved;     // address range of the heap
    size_t committed;    // of it, readable and writable
    size_t tiny_live;    // in tiny blocks handed out, as rounded to bins
    size_t tiny_cached;  // in tiny blocks that threads' caches hold
    size_t tiny_free;    // in free tiny blocks of slabs in use
    size_t large_live;   // in large blocks, as asked for; of 16 GiB on they are not in `reserved`
    size_t large_blocks; // large blocks (count)
    size_t far;          // in large blocks that are mappings of their own, outside of `reserved`
    size_t private_live; // in blocks of private heaps, as rounded
    size_t dirty;        // in free slabs that still have pages
    size_t clean;        // in pages of slabs of tiny blocks that have no memory
    size_t metadata;     // of SuperSlabs in use, and thread heaps
    size_t tiny_slabs, large_slabs, private_slabs, heap_slabs; // slabs of 64 KiB by use (count)
    uint64_t returned;         // given back to the kernel by purges, so far
    uint64_t purges;           // (count)
    uint64_t purge_ns;         // time spent in them
    uint64_t purge_longest_ns; // the longest of them
    uint64_t moved;            // moved by the page table instead of copied
    uint64_t os_calls;         // system calls made for memory (count)
    uint64_t refills, refilled_blocks, spills, spilled_blocks; // (counts)
    size_t heaps, free_heaps; // thread heaps made; of them without a thread (count)
    struct {
        size_t size;                // of a block
        size_t slabs;               // (count)
        size_t live, cached, free_; // blocks (count)
    } bins[HAK_STATS_BINS];         // bins[0] is unused, and those whose size is 0
    size_t large_pages;             // in large blocks, in whole pages
    size_t mapped;                  // of these, in blocks of 128 KiB and more
    size_t mapped_blocks;           // (count)
    size_t large_slack;             // in slabs of large blocks, behind the blocks' last pages
};

static_assert((int)SIZE_CLASS_BINS <= (int)HAK_STATS_BINS, "room for every bin");

// Fills *stats.
#ifdef __cplusplus
// In C++ a function hides the type of its name: this is the same function, called as it is in C.
void hak_stats_fill(struct hak_stats *stats) __asm__("hak_stats");
#    define hak_stats(stats) hak_stats_fill(stats)
#else
void hak_stats(struct hak_stats *stats);
#endif

// hak_stats() of this very library: where several libraries of hakmem are in a process, hak_stats()
// is the first one's, which serves it.
void statistics_own(struct hak_stats *stats) __attribute__((visibility("hidden")));

// The name of the flavour that serves the process, as in tools/build/flavours.bzl.
const char *hak_flavour(void);

// The same in the terms of glibc's mallinfo: bytes, and counts of blocks. A block of 128 KiB or
// more counts as one that has a mapping of its own, as with glibc's M_MMAP_THRESHOLD; all else is
// the arena's. arena = used + free; what the program uses is used + mapped, what is held arena +
// mapped. Metadata and thread heaps are in neither. No block is in a fast bin: a cached block is a
// free block like any other, as glibc's mallinfo() does not count its own caches' as fast either.
struct statistics_heap {
    size_t arena;         // in slabs of blocks, and in free slabs that still have pages
    size_t used;          // of it, in blocks handed out
    size_t free_;         // of it, in free blocks, cached ones included, and in free slabs
    size_t free_blocks;   // (count) of these
    size_t mapped;        // in blocks of 128 KiB and more, in whole pages
    size_t mapped_blocks; // (count)
    size_t trimmable;     // of free_, in free slabs: what malloc_trim() gives back for sure
};
void statistics_get_heap(struct statistics_heap *heap);

// Where a text goes, in one piece but where no memory for it is to be had.
struct statistics_sink {
    void (*write)(void *to, const char *text, size_t size);
    void *to;
};

// The table that HAKMEM_STATS=1 prints; what malloc_stats prints, which is glibc's lines and the
// table; and what malloc_info writes, which is glibc's XML and an element with hakmem's own
// numbers.
void statistics_table(const struct statistics_sink *sink);
void statistics_lines(const struct statistics_sink *sink);
void statistics_xml(const struct statistics_sink *sink);
HAK_C_END

#endif
