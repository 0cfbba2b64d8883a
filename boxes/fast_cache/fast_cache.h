// SPDX-License-Identifier: Apache-2.0
// fast_cache: a thread's stacks of ready blocks, one for each size class ("bin"). This is the hit
// path.
//
// A stack is {top, limit} over an array whose slot 0 holds NULL. Pop loads *top: a NULL there means
// that the stack is empty. Push compares top with limit. A thread without a cache has the static
// empty cache, whose stacks are empty and full at once (top = limit = a slot that holds NULL), so
// neither path asks whether there is a cache. Blocks are neither read nor written here. A freed
// block may be prefetched, because it is the next to be handed out, and a store to a line that is
// far away would hold up the stores behind it.
//
// Not thread-safe: a cache belongs to one thread.
#ifndef HAKMEM_BOXES_FAST_CACHE_FAST_CACHE_H
#define HAKMEM_BOXES_FAST_CACHE_FAST_CACHE_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/cpu/cpu.h"
#include "boxes/size_class/size_class.h"

HAK_C_BEGIN

struct fast_bin {
    void **top;   // the topmost block, or the NULL in slot 0; others may HAK_PEEK
    void **limit; // the last slot
};

static_assert(sizeof(struct fast_bin) == SIZE_CLASS_STACK_WORDS * sizeof(void **),
              "see size_class_alloc_place()");

// A stack starts narrow, and all narrow stacks lie close together: a thread that uses few blocks of
// a size class touches no page for its stack and keeps next to nothing. A narrow stack of blocks
// larger than FAST_CACHE_NARROW_BYTES has no slots, and is empty and full at once. Once enough
// blocks have gone through a stack, it becomes wide, or of middle width in a thread that only
// frees. A stack becomes deep, in slots of its own, once many blocks have gone to the pool and come
// back: a program that allocates and frees in phases then keeps the blocks of a phase.
enum {
    FAST_CACHE_NARROW = 8,          // blocks in a narrow stack at most,
    FAST_CACHE_NARROW_BYTES = 4096, // and bytes,
    FAST_CACHE_MIDDLE_BYTES = 8192, // bytes in one of middle width
    FAST_CACHE_DEEP_MOST = 1024,    // blocks in a deep stack at most, or
    FAST_CACHE_SMALL_MOST = 4096,   // if they take no more than FAST_CACHE_SMALL_BYTES,
    FAST_CACHE_SLOTS = 7000,        // room for both stacks of all bins, each one's NULL included
    FAST_CACHE_DEEP_SLOTS = 32768,  // room for the deep stacks of all bins
};

// Build setting: the most bytes of blocks in a deep stack. 0: no stack becomes deep.
#ifndef FAST_CACHE_DEEP_BYTES
#    define FAST_CACHE_DEEP_BYTES 262144
#endif

// Build setting: the bytes of blocks up to which a deep stack holds more than FAST_CACHE_DEEP_MOST.
// Phases of many thousand small blocks are common, and such blocks cost little memory.
#ifndef FAST_CACHE_SMALL_BYTES
#    define FAST_CACHE_SMALL_BYTES 65536
#endif

// Build setting: the least number of slots in a narrow stack. 1: each thread keeps a block of each
// large size that it has used.
#ifndef FAST_CACHE_NARROW_LEAST
#    define FAST_CACHE_NARROW_LEAST 0
#endif

// Build setting: 0 does not prefetch freed blocks.
#ifndef FAST_CACHE_PREFETCH
#    define FAST_CACHE_PREFETCH 1
#endif

// How much room a stack has, from the least to the most.
enum fast_cache_width { FAST_CACHE_UNWIDENED, FAST_CACHE_MIDDLE, FAST_CACHE_WIDE, FAST_CACHE_DEEP };

// Returns the two words of the stack at `place` (size_class_place()): its top, then its limit.
HAK_INLINE void ***fast_cache_words(struct fast_bin *bins, size_t place) {
    return &bins->top + place;
}

// Pops a block. Returns NULL if there is none.
HAK_INLINE void *fast_cache_pop_at(struct fast_bin *bins, size_t place) {
    void **top = fast_cache_words(bins, place)[0];
    void *block = *top;
    CPU_RESULT(block);
    if (HAK_LIKELY(block != NULL)) {
        CPU_STEP_DOWN(&bins->top, place, top);
    }
    return block;
}

// Pushing a block takes two steps with nothing between them. The first returns false if the stack
// is full, and sets *top for the second.
HAK_INLINE bool fast_cache_has_room_at(struct fast_bin *bins, size_t place, void ***top) {
    *top = (void **)cpu_load_word(&bins->top, place);
    return HAK_LIKELY(*top != fast_cache_words(bins, place)[1]);
}
HAK_INLINE void fast_cache_push_at(struct fast_bin *bins, size_t place, void **top, void *block) {
    // In this order, because a child that is forked between the two stores then has a stack without
    // the block, and not a stack with whatever the slot held before.
    top[1] = block;
    CPU_STEP_UP(&bins->top, place, top);
}

// Fetches a block that has been pushed into the processor's cache.
HAK_INLINE void fast_cache_fetch(const void *block) {
    if (FAST_CACHE_PREFETCH != 0) {
        __builtin_prefetch(block);
    }
}

HAK_INLINE void *fast_cache_pop(struct fast_bin *bin) {
    return fast_cache_pop_at(bin, 0);
}
// Returns false if the stack is full.
HAK_INLINE bool fast_cache_push(struct fast_bin *bin, void *block) {
    void **top;
    if (HAK_UNLIKELY(!fast_cache_has_room_at(bin, 0, &top))) {
        return false;
    }
    fast_cache_push_at(bin, 0, top, block);
    return true;
}

// Lays empty narrow stacks of all bins out over slots[FAST_CACHE_SLOTS]: each one's top is its slot
// 0, which the caller keeps as the stack's bottom. Bin 0 has no slots: it is always empty and full.
// `zeroed`: the slots are known to hold NULL, so they are not touched.
void fast_cache_init(struct fast_bin *bins, void **slots, bool zeroed);

// In the calls below `bin` is a stack, *bottom its bottom, and `number` the bin's number.

// Makes a stack wider, with the blocks that it has. Returns false if the stack was as wide already.
// For a deep stack `slots` is slots[FAST_CACHE_DEEP_SLOTS], whose contents do not matter.
bool fast_cache_widen(struct fast_bin *bin, void ***bottom, void **slots, unsigned number,
                      enum fast_cache_width width);

// Returns true if a stack has no slots.
HAK_INLINE bool fast_cache_is_closed(const struct fast_bin *bin, void **bottom) {
    return bin->limit == bottom;
}

// Returns true if a deep stack of the bin has more room than a wide one.
bool fast_cache_can_be_deep(unsigned number);

// Makes an empty stack narrow again.
void fast_cache_narrow(struct fast_bin *bin, void ***bottom, void **slots, unsigned number);

// Returns the free slots of a stack, at most *most of them, and sets *most to their number. The
// caller writes blocks there and calls fast_cache_fill(), with no push or pop in between.
void **fast_cache_room(struct fast_bin *bin, unsigned *most);

// Pushes the `count` blocks in the first of these slots so that the first of them is popped first.
void fast_cache_fill(struct fast_bin *bin, unsigned count);

// Returns the number of blocks in a stack. A guess while another thread uses the stack.
unsigned fast_cache_held(const struct fast_bin *bin, void **const *bottom, unsigned number);

// Detaches the `count` oldest blocks (1 or more, and at most as many as there are) from the stack
// that starts at *bottom, and raises *bottom to the new start. Returns the slots of these blocks,
// which keep them until fast_cache_settle() gives the slots back to the stack. `low` is the pointer
// that this call returned; after several calls, the first one. A stack that is empty by then may
// become narrow instead.
void **fast_cache_detach(struct fast_bin *bin, void ***bottom, unsigned count);
void fast_cache_settle(struct fast_bin *bin, void ***bottom, void **low);
HAK_C_END

#endif
