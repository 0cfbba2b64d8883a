// SPDX-License-Identifier: Apache-2.0
// guarded_block: a few blocks beside guard pages, which have no access rights.
//
// About one allocation in `every`, chosen by chance, gets a guarded block while the budget lasts:
// 512 slots of 4 pages between guard pages, 8 MiB at most. Chance also decides whether a block ends
// where its slot ends or starts where its slot starts. An access beyond that side faults at once. A
// write to the rest of the block's pages is found when the block is freed. The pages of a freed
// block have no access rights, and its slot is the last to be used again. Each slot keeps the calls
// that allocated and freed its block.
//
// Thread-safe, lock-free; a forked child goes on. Nothing here touches errno.
#ifndef HAKMEM_BOXES_GUARDED_BLOCK_GUARDED_BLOCK_H
#define HAKMEM_BOXES_GUARDED_BLOCK_GUARDED_BLOCK_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

enum {
    GUARDED_BLOCK_SLOTS = 512,
    GUARDED_BLOCK_PAGES = 4,
    GUARDED_BLOCK_DEPTH = 32, // the most calls that a slot keeps of an allocation or a free
    GUARDED_BLOCK_SIZE_MOST = GUARDED_BLOCK_PAGES * HAK_PAGE,
};

// Twice the number of allocations until the thread's next guarded block, plus 1 if chance has drawn
// the number. Negative: guarded_block_decides() is to be called.
extern __thread int64_t guarded_block_left __attribute__((tls_model("initial-exec")));

// From now on about one allocation in `every` gets a guarded block. Returns false if there is no
// memory.
bool guarded_block_start(uint64_t every);

// guarded_block_counts() counts an allocation. Returns true if guarded_block_decides() is to be
// called at once, which returns true if the allocation is to get a guarded block.
HAK_INLINE bool guarded_block_counts(void) {
    guarded_block_left -= 2;
    return HAK_UNLIKELY(guarded_block_left < 0);
}
bool guarded_block_decides(void);

// Returns a guarded block at a multiple of `align`. Returns NULL if `size` is above
// GUARDED_BLOCK_SIZE_MOST, if `align` is above a page, if the next slots are all in use, or if the
// kernel refuses.
void *guarded_block_alloc(size_t size, size_t align);

enum guarded_state {
    GUARDED_BLOCK_NEVER, // the slot has had no block
    GUARDED_BLOCK_BUSY,  // a block is being made or freed
    GUARDED_BLOCK_LIVE,
    GUARDED_BLOCK_FREED,
};

struct guarded_calls {
    int thread; // the thread's number in the kernel; 0: not known
    unsigned depth;
    uintptr_t pcs[GUARDED_BLOCK_DEPTH];
};

struct guarded_block {
    _Atomic(int) state; // enum guarded_state
    char *start;        // of the block
    size_t size;        // the requested bytes
    struct guarded_calls allocated, freed;
};

// Returns a block's state, which another thread may change at any time.
HAK_INLINE enum guarded_state guarded_block_state(const struct guarded_block *block) {
    return (enum guarded_state)atomic_load((_Atomic(int) *)&block->state);
}

// Returns the block that an address is in. For an address in a guard page returns the nearer one of
// the two blocks beside the page. Returns NULL if the address is not in this box's range.
const struct guarded_block *guarded_block_near(const void *at);

// Frees the block at `ptr`, which is in this box's range. Returns NULL if it did. Otherwise returns
// what is wrong, such as "block freed twice".
const char *guarded_block_free(void *ptr);

// Returns true if an address is in this box's range.
HAK_INLINE bool guarded_block_owns(const void *ptr) {
    extern uintptr_t guarded_block_base;
    extern size_t guarded_block_bytes;
    return (uintptr_t)ptr - HAK_PEEK(&guarded_block_base) < HAK_PEEK(&guarded_block_bytes);
}

// Sets *made to the number of guarded blocks made so far, and *live to the number of live ones.
void guarded_block_count(uint64_t *made, size_t *live);

// For readers outside of the process, see layout.h.
extern const struct hak_layout guarded_block_layout;
HAK_C_END

#endif
