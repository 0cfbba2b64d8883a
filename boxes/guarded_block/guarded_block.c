// SPDX-License-Identifier: Apache-2.0
#include "boxes/guarded_block/guarded_block.h"

#include "backends/os.h"
#include "boxes/stack_trace/stack_trace.h"

#include <string.h>

__thread int64_t guarded_block_left __attribute__((tls_model("initial-exec")));

uintptr_t guarded_block_base;
size_t guarded_block_bytes;

enum {
    STRIDE = (GUARDED_BLOCK_PAGES + 1) * HAK_PAGE, // a slot with the guard page before it
    RANGE = GUARDED_BLOCK_SLOTS * STRIDE + HAK_PAGE,
    FILL = 0xb5, // the value of bytes that are on a block's pages but not the block's
};

static struct guarded_block *slots;
static _Atomic(uint64_t) every_now; // 0: off
static _Atomic(uint64_t) chances;
static _Atomic(uint32_t) turn; // the slot that is tried next
static _Atomic(uint64_t) made_count;

bool guarded_block_start(uint64_t every) {
    void *range;
    void *beside;
    size_t size = hak_round_up(GUARDED_BLOCK_SLOTS * sizeof *slots, HAK_PAGE);
    if (os_map(NULL, size, &beside) != OS_OK) {
        return false;
    }
    if (os_reserve(NULL, RANGE, &range) != OS_OK) {
        os_release(beside, size);
        return false;
    }
    slots = beside;
    HAK_POKE(&guarded_block_base, (uintptr_t)range);
    __atomic_store_n(&guarded_block_bytes, (size_t)RANGE, __ATOMIC_RELEASE);
    atomic_store(&every_now, every);
    guarded_block_left = 0;
    return true;
}

// Returns splitmix64 of a counter: a different number at each call.
static uint64_t chance(void) {
    return hak_mix(os_random() + atomic_fetch_add(&chances, 1) * HAK_GOLDEN);
}

// Draws the number of allocations until the thread's next guarded block, without the current one: 1
// to 2 * every - 1, all equally likely.
static void draw(uint64_t every) {
    guarded_block_left = (int64_t)(chance() % (2 * every - 1)) * 2 + 1;
}

bool guarded_block_decides(void) {
    enum { LOOK_AGAIN = 1 << 16 };
    uint64_t every = atomic_load_explicit(&every_now, memory_order_relaxed);
    if (every == 0) {
        guarded_block_left = LOOK_AGAIN;
        return false;
    }
    // An even countdown is not drawn: without this, the first allocation of each thread would get a
    // guarded block.
    if (guarded_block_left % 2 == 0) {
        draw(every);
        if (!guarded_block_counts()) {
            return false;
        }
    }
    draw(every);
    return true;
}

static char *slot_start(size_t slot) {
    return (char *)guarded_block_base + slot * STRIDE + HAK_PAGE;
}

static void note_calls(struct guarded_calls *calls) {
    calls->thread = os_thread();
    calls->depth = stack_trace(calls->pcs, GUARDED_BLOCK_DEPTH);
}

// Returns a slot that the caller then holds, or GUARDED_BLOCK_SLOTS if none of the next few is
// free.
static size_t take_slot(void) {
    enum { LOOKS = 64 };
    for (unsigned i = 0; i < LOOKS; i++) {
        size_t slot = atomic_fetch_add(&turn, 1) % GUARDED_BLOCK_SLOTS;
        int state = atomic_load(&slots[slot].state);
        if ((state == GUARDED_BLOCK_NEVER || state == GUARDED_BLOCK_FREED) &&
            atomic_compare_exchange_strong(&slots[slot].state, &state, GUARDED_BLOCK_BUSY)) {
            return slot;
        }
    }
    return GUARDED_BLOCK_SLOTS;
}

// Return the bounds of a block's pages, and the end of the block.
static char *first_page(const struct guarded_block *block) {
    return (char *)((uintptr_t)block->start & ~(uintptr_t)(HAK_PAGE - 1));
}
static char *block_end(const struct guarded_block *block) {
    return block->start + hak_max(block->size, 1);
}
static char *last_end(const struct guarded_block *block) {
    return (char *)hak_round_up((uintptr_t)block_end(block), HAK_PAGE);
}

void *guarded_block_alloc(size_t size, size_t align) {
    if (size > GUARDED_BLOCK_SIZE_MOST || align > HAK_PAGE) {
        return NULL;
    }
    size_t slot = take_slot();
    if (slot == GUARDED_BLOCK_SLOTS) {
        return NULL;
    }
    struct guarded_block *block = &slots[slot];
    block->size = size;
    block->start = slot_start(slot);
    if (chance() % 2 == 0) {
        uintptr_t end = (uintptr_t)slot_start(slot) + GUARDED_BLOCK_SIZE_MOST;
        align = hak_max(align, HAK_MIN_ALIGN);
        block->start = (char *)((end - hak_max(size, 1)) & ~(uintptr_t)(align - 1));
    }
    char *from = first_page(block), *end = last_end(block);
    if (os_commit(from, (size_t)(end - from)) != OS_OK) {
        atomic_store(&block->state, GUARDED_BLOCK_FREED);
        return NULL;
    }
    memset(from, FILL, (size_t)(block->start - from));
    memset(block_end(block), FILL, (size_t)(end - block_end(block)));
    note_calls(&block->allocated);
    block->freed.depth = 0;
    atomic_fetch_add(&made_count, 1);
    atomic_store(&block->state, GUARDED_BLOCK_LIVE);
    return block->start;
}

static bool is_filled(const char *at, const char *end) {
    while (at < end && (unsigned char)*at == FILL) {
        at++;
    }
    return at == end;
}

static struct guarded_block *block_at(const void *ptr) {
    size_t slot = ((uintptr_t)ptr - guarded_block_base) / STRIDE;
    return slot < GUARDED_BLOCK_SLOTS ? &slots[slot] : NULL;
}

const char *guarded_block_free(void *ptr) {
    struct guarded_block *block = block_at(ptr);
    int live = GUARDED_BLOCK_LIVE;
    if (block == NULL || block->start != ptr || atomic_load(&block->state) == GUARDED_BLOCK_NEVER) {
        return "pointer into a block, not to its start";
    }
    // Notes the calls that free the block, for the report of an access to it or of a second free.
    struct guarded_calls calls;
    note_calls(&calls);
    if (!atomic_compare_exchange_strong(&block->state, &live, GUARDED_BLOCK_BUSY)) {
        return "block freed twice";
    }
    block->freed = calls;
    char *from = first_page(block), *end = last_end(block);
    const char *fault = NULL;
    if (!is_filled(from, block->start)) {
        fault = "written to before its start";
    } else if (!is_filled(block_end(block), end)) {
        fault = "written to past its end";
    }
    if (fault != NULL) {
        atomic_store(&block->state, GUARDED_BLOCK_LIVE);
        return fault;
    }
    // os_forbid() takes the pages away, too, and takes twice as long.
    if (os_hide(from, (size_t)(end - from)) != OS_OK) {
        os_forbid(from, (size_t)(end - from));
    }
    atomic_store(&block->state, GUARDED_BLOCK_FREED);
    return NULL;
}

// Returns how far an address is from a block, or SIZE_MAX if the slot has had no block.
static size_t distance(const struct guarded_block *block, uintptr_t at) {
    uintptr_t start = (uintptr_t)block->start;
    if (guarded_block_state(block) == GUARDED_BLOCK_NEVER) {
        return SIZE_MAX;
    }
    return at < start ? start - at : at < start + block->size ? 0 : at - start - block->size;
}

const struct guarded_block *guarded_block_near(const void *ptr) {
    if (!guarded_block_owns(ptr)) {
        return NULL;
    }
    uintptr_t offset = (uintptr_t)ptr - guarded_block_base;
    size_t slot = offset / STRIDE;
    const struct guarded_block *block = slot < GUARDED_BLOCK_SLOTS ? &slots[slot] : NULL;
    if (offset % STRIDE < HAK_PAGE && slot > 0) {
        const struct guarded_block *before = &slots[slot - 1];
        if (block == NULL || distance(before, (uintptr_t)ptr) < distance(block, (uintptr_t)ptr)) {
            block = before;
        }
    }
    return block;
}

void guarded_block_count(uint64_t *made, size_t *live) {
    *made = atomic_load(&made_count);
    *live = 0;
    for (size_t i = 0; slots != NULL && i < GUARDED_BLOCK_SLOTS; i++) {
        *live += atomic_load(&slots[i].state) == GUARDED_BLOCK_LIVE;
    }
}

HAK_LAYOUT(guarded_block_layout,
           HAK_ROWS(HAK_VARIABLE("guarded.base", guarded_block_base),
                    HAK_VARIABLE("guarded.bytes", guarded_block_bytes),
                    HAK_VARIABLE("guarded.slots", slots)),
           HAK_ROWS(HAK_NUMBER("guarded.stride", STRIDE),
                    HAK_NUMBER("guarded", sizeof(struct guarded_block)),
                    HAK_FIELD("guarded.state", struct guarded_block, state),
                    HAK_FIELD("guarded.start", struct guarded_block, start),
                    HAK_FIELD("guarded.size", struct guarded_block, size),
                    HAK_FIELD("guarded.allocated", struct guarded_block, allocated),
                    HAK_FIELD("guarded.freed", struct guarded_block, freed),
                    HAK_NUMBER("guarded.is_live", GUARDED_BLOCK_LIVE),
                    HAK_NUMBER("guarded.is_freed", GUARDED_BLOCK_FREED),
                    HAK_FIELD("calls.thread", struct guarded_calls, thread),
                    HAK_FIELD("calls.depth", struct guarded_calls, depth),
                    HAK_FIELD("calls.pcs", struct guarded_calls, pcs)));
