// SPDX-License-Identifier: Apache-2.0
// guarded_block: a few blocks that stand against guard pages, which have no access rights.
//
// About one allocation in `every`, chosen by chance, gets a guarded block while the budget lasts:
// 512 slots of 4 pages between guard pages, 8 MiB at most. Chance also decides whether a block ends
// where its slot ends or starts where its slot starts. An access beyond that side faults at once; a
// write to the rest of the slot is found when the block is freed. Nobody may touch the pages of a
// freed block, and its slot is the last to be used again. Each slot remembers the calls that
// allocated and freed its block.
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

// Twice the number of allocations until the thread's next guarded block, and 1 if chance has drawn
// it; negative: guarded_block_decides() is to be asked.
extern __thread int64_t guarded_block_left __attribute__((tls_model("initial-exec")));

// From now on about one allocation in `every` gets a guarded block. Returns false if there is no
// memory.
bool guarded_block_start(uint64_t every);

// Counts an allocation. Returns true if guarded_block_decides() is to be asked at once.
HAK_INLINE bool guarded_block_counts(void) {
    guarded_block_left -= 2;
    return HAK_UNLIKELY(guarded_block_left < 0);
}
bool guarded_block_decides(void);

// Returns a guarded block. Returns NULL if `size` is too large for a slot, or the budget is spent.
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

// Returns the block that an address is in. For an address in a guard page returns the nearer one of
// the two blocks beside the page. Returns NULL if the address is not in this box's range.
const struct guarded_block *guarded_block_near(const void *at);

// Frees the block at `ptr`, which is in the range. Returns NULL, or, if the block cannot be freed,
// what is wrong: "block freed twice" and so on.
const char *guarded_block_free(void *ptr);

// Returns true if an address is in this box's range.
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
