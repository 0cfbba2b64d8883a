// SPDX-License-Identifier: Apache-2.0
// statistics: figures of the heap: as one C struct, in the terms of glibc's mallinfo, and as texts.
//
// The public header declares hak_stats(), and says how exact its figures are.
#ifndef HAKMEM_BOXES_STATISTICS_STATISTICS_H
#define HAKMEM_BOXES_STATISTICS_STATISTICS_H

#include "boxes/base/base.h"
#include "boxes/size_class/size_class.h"
#include "include/hakmem/hakmem.h"

HAK_C_BEGIN

static_assert((int)SIZE_CLASS_BINS <= (int)HAK_STATS_BINS, "room for every bin");

// The hak_stats() of this library. If a process has several libraries of hakmem, the exported name
// leads to that of the first one, which serves the process.
void statistics_own(struct hak_stats *stats) __attribute__((visibility("hidden")));

// The same in the terms of glibc's mallinfo: bytes, and counts of blocks. A block of 128 KiB or
// more counts as mapped, that is, as a mapping of its own, as with glibc's M_MMAP_THRESHOLD. All
// other blocks are in the arena. arena = used + free_. The program uses used + mapped; the heap
// holds arena + mapped. Metadata and thread heaps are in neither. No block is in a fast bin: a
// cached block counts as a free block, as glibc's mallinfo() counts blocks in its own caches.
struct statistics_heap {
    size_t arena;       // slabs of blocks, and free slabs that still have pages
    size_t used;        // the part of `arena` in live blocks
    size_t free_;       // the part of `arena` in free blocks, cached ones included, and free slabs
    size_t free_blocks; // free blocks (count)
    size_t mapped;      // blocks of 128 KiB and more, in whole pages
    size_t mapped_blocks; // these blocks (count)
    size_t trimmable;     // the part of `free_` in free slabs, which malloc_trim() gives back
};
void statistics_get_heap(struct statistics_heap *heap);

// The destination of a text. Gets the text in one piece, unless there is no memory for that.
struct statistics_sink {
    void (*write)(void *to, const char *text, size_t size);
    void *to;
};

// Sets the flavour and the version that texts name. Called once, at the start. Both must stay
// valid.
void statistics_start(const char *program, const char *flavour, const char *version);

// Writes the table or JSON that HAKMEM_STATS asks for to stderr or to a file. To be called at the
// process's end. In the file's name %p stands for the process's number and %% for a '%'. A child of
// fork() writes only to a file of its own, that is, with %p in the name. In a sandbox no file is
// written.
void statistics_finish(void);
void statistics_after_fork(void); // in the child

// Write the texts: the table of HAKMEM_STATS=1; hak_stats_json()'s JSON; malloc_stats()'s text,
// which is glibc's lines and the table; and malloc_info()'s text, which is glibc's XML and an
// element with hakmem's own numbers.
void statistics_table(const struct statistics_sink *sink);
void statistics_json(const struct statistics_sink *sink);
void statistics_lines(const struct statistics_sink *sink);
void statistics_xml(const struct statistics_sink *sink);
HAK_C_END

#endif
