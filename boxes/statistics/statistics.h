// SPDX-License-Identifier: Apache-2.0
// statistics: what the allocator holds and has done: as one C struct, in the terms of glibc's
// mallinfo, and as texts.
//
// The public header declares hak_stats(), and says how exact the figures are that its walk gathers.
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

// Write three texts: the table of HAKMEM_STATS=1; what malloc_stats() prints, which is glibc's
// lines and the table; and what malloc_info() writes, which is glibc's XML and an element with
// hakmem's own numbers.
void statistics_table(const struct statistics_sink *sink);
void statistics_json(const struct statistics_sink *sink);
void statistics_lines(const struct statistics_sink *sink);
void statistics_xml(const struct statistics_sink *sink);
HAK_C_END

#endif
