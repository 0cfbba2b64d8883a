// SPDX-License-Identifier: Apache-2.0
// plan: what each thread of a trace has to do, so that a replay takes no thought.
//
// A block is a slot, a place for its address. A thread that frees a block waits until its slot is
// full, one that allocates until it is empty: what the order of all says is kept where it matters,
// and threads run side by side otherwise, at most some thousand steps apart. Every wait is for a
// step that comes earlier in the order of all, so that none is for ever.
//
// Nothing here uses malloc: memory is mapped.
#ifndef HAKMEM_TOOLS_REPLAY_PLAN_H
#define HAKMEM_TOOLS_REPLAY_PLAN_H

#include "tools/replay/trace.h"

HAK_C_BEGIN

enum plan_kind {
    PLAN_MORE,    // the steps go on at `next`
    PLAN_END,     // of the thread
    PLAN_MALLOC,  // `size` bytes into the slot
    PLAN_CALLOC,  // likewise
    PLAN_ALIGNED, // likewise, to 1 << align
    PLAN_FREE,    // the block of the slot
    PLAN_RESIZE,  // the block of the slot, to `size` bytes; it stays the slot's
    PLAN_START,   // the thread `slot`, whose first step is at the place `size`; also a mark
    PLAN_MARK,    // here the thread is at the place `size` of the order of all
    PLAN_WAIT,    // until `size` ms after the start, for a replay that keeps to the clock
};

struct plan_step {
    uint32_t slot;
    uint8_t kind;
    uint8_t align;
    union {
        uint64_t size;
        const struct plan_step *next;
    };
};

// Steps that threads may be apart, and at least so often is a thread's mark. While there is one
// thread it has none.
enum { PLAN_APART = 1 << 14, PLAN_MARKS = 1 << 10 };

struct plan {
    const struct plan_step **threads; // each thread's first step; 0 is the first one's
    uint32_t thread_count;
    uint32_t slots;
    size_t bytes; // that all of it takes
    // What the trace holds.
    uint64_t events, mallocs, callocs, aligned, frees, resizes, failed;
    uint64_t unknown;          // frees and resizes of blocks that were not seen allocated
    uint64_t allocated;        // bytes asked for by all of them
    uint64_t live, live_bytes; // at the end
    uint64_t peak_bytes;       // of live blocks
    uint64_t ms;
};

// Makes the plan of a trace. False if there is no memory for it.
bool plan_make(struct plan *plan, struct trace *trace);
HAK_C_END

#endif
