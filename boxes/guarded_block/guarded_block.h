// SPDX-License-Identifier: Apache-2.0
// guarded_block: a few blocks that stand against pages nobody may touch.
//
// Of the allocations about one in `every` gets such a block, by chance, while the budget lasts: 512
// slots of 4 pages between guard pages, 8 MiB at most. A block ends where its slot ends, or starts
// where it starts, by chance, so that one of its sides stops what runs over it at once; what is
// written to the rest of its pages is seen when it is freed. The pages of a freed block are taken
// away, and its slot is the last to be used again. Each slot remembers the calls that allocated and
// freed its block.
//
// Thread-safe, lock-free; a forked child goes on. Nothing here touches errno.
#ifndef HAKMEM_BOXES_GUARDED_BLOCK_GUARDED_BLOCK_H
#define HAKMEM_BOXES_GUARDED_BLOCK_GUARDED_BLOCK_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

enum {
    GUARDED_SLOTS = 512,
    GUARDED_PAGES = 4,
    GUARDED_DEPTH = 32, // calls that are remembered
    GUARDED_SIZE_MOST = GUARDED_PAGES * HAK_PAGE,
};

// Allocations until the thread's next one that gets a guarded block; negative:
// guarded_block_decides() is to be asked.
extern __thread int64_t guarded_block_left __attribute__((tls_model("initial-exec")));

// One allocation in about `every` is to get one, from now on. False if there is no memory.
bool guarded_block_start(uint64_t every);

// Counts an allocation. True if guarded_block_decides() is to be asked at once.
HAK_INLINE bool guarded_block_counts(void) {
    return HAK_UNLIKELY(--guarded_block_left < 0);
}
bool guarded_block_decides(void);

// A guarded block. NULL if it is too large, or the budget is spent.
void *guarded_block_alloc(size_t size, size_t align);

enum guarded_state {
    GUARDED_NEVER, // no block has been there
    GUARDED_BUSY,  // one is being made
    GUARDED_LIVE,
    GUARDED_FREED,
};

struct guarded_calls {
    int thread; // its number in the kernel, 0: not known
    unsigned depth;
    uintptr_t pcs[GUARDED_DEPTH];
};

struct guarded_block {
    _Atomic(int) state; // enum guarded_state
    char *start;        // of the block
    size_t size;        // as asked for
    struct guarded_calls allocated, freed;
};

// A block's state may change at any time, for another thread's doing.
HAK_INLINE enum guarded_state guarded_block_state(const struct guarded_block *block) {
    return (enum guarded_state)atomic_load((_Atomic(int) *)&block->state);
}

// The block that an address is in, or, for one in a guard page, the nearer of the two beside it.
// NULL if the address is none of this box's.
const struct guarded_block *guarded_block_near(const void *at);

// Frees the block at `ptr`, which is in the range. NULL if that was done, else what is wrong:
// "block freed twice" and so on.
const char *guarded_block_free(void *ptr);

// True if an address is in this box's range.
HAK_INLINE bool guarded_block_owns(const void *ptr) {
    extern uintptr_t guarded_block_base;
    extern size_t guarded_block_bytes;
    return (uintptr_t)ptr - HAK_PEEK(&guarded_block_base) < HAK_PEEK(&guarded_block_bytes);
}

// Guarded blocks made so far, and how many of them live.
void guarded_block_count(uint64_t *made, size_t *live);

// For readers outside of the process, see layout.h.
extern const struct hak_layout guarded_block_layout;
HAK_C_END

#endif
