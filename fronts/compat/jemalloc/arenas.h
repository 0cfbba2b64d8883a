// SPDX-License-Identifier: Apache-2.0
// arenas: jemalloc's arena numbers. 0 is the heap that malloc uses. The others are private heaps:
// mallctl("arenas.create") makes one, mallctl("arena.<i>.destroy") ends it, after which its number
// is used again. Thread-safe, lock-free.
#ifndef HAKMEM_FRONTS_COMPAT_JEMALLOC_ARENAS_H
#define HAKMEM_FRONTS_COMPAT_JEMALLOC_ARENAS_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum {
    ARENAS_MOST = 4095,      // numbers that fit into the flags of mallocx()
    ARENAS_ALL = 4096,       // stands for all arenas in names of mallctl()
    ARENAS_DESTROYED = 4097, // and for those that are gone
};

struct hak_heap;

// Returns the heap of arena `number` (1 or more), or NULL if there is no such arena.
struct hak_heap *arenas_heap(size_t number);

// Returns one more than the highest number that was ever in use.
unsigned arenas_count(void);

// Makes an arena. Returns 0 if there is no memory, or no number left.
unsigned arenas_create(void);

// Removes an arena, whose number may be used again. Returns its heap, which is the caller's from
// then on; NULL if there is no such arena.
struct hak_heap *arenas_remove(size_t number);

// Returns the number of the arena that the live block at `ptr` belongs to.
unsigned arenas_of(const void *ptr);
HAK_C_END

#endif
