// statistics: what the allocator holds and has done, as one C struct and as a readable table.
//
// Numbers are gathered by a walk when asked for; nothing is counted on the hit path. Exact when no
// other thread allocates or frees meanwhile. Thread-safe; allocates nothing.
#ifndef HAKMEM_BOXES_STATISTICS_STATISTICS_H
#define HAKMEM_BOXES_STATISTICS_STATISTICS_H

#include "boxes/base/base.h"
#include "boxes/size_class/size_class.h"

HAK_C_BEGIN

enum { HAK_STATS_BINS = 49 }; // the most that a flavour has

// Returned by hak_stats(). Bytes unless said otherwise.
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
};

static_assert((int)SIZE_CLASS_BINS <= (int)HAK_STATS_BINS, "room for every bin");

void hak_stats(struct hak_stats *stats);

// hak_stats() of this very library: where several libraries of hakmem are in a process, hak_stats()
// is the first one's, which serves it.
void statistics_own(struct hak_stats *stats) __attribute__((visibility("hidden")));

// The name of the flavour that serves the process, as in tools/build/flavours.bzl.
const char *hak_flavour(void);

// Writes into buf (at most size bytes, NUL included) as printf does; the tables below grow by it.
struct statistics_text {
    char *buf;
    size_t size, length;
};

// The table that HAKMEM_STATS=1 prints, and what malloc_info writes.
void statistics_table(struct statistics_text *text);
void statistics_xml(struct statistics_text *text);
HAK_C_END

#endif
