// SPDX-License-Identifier: Apache-2.0
// tiny_front: the interface of a front plug-in, and which front serves which group in this flavour.
//
// A front owns the miss (refill) and the overflow (spill) of the classes it serves, never the hit:
// every front shares fast_cache's hit path, so choosing one costs nothing there. The flavour's
// table tiny_fronts[] is made from the flavour's entry in tools/build/flavours.bzl.
#ifndef HAKMEM_FRONTS_TINY_FRONT_TINY_FRONT_H
#define HAKMEM_FRONTS_TINY_FRONT_TINY_FRONT_H

#include "boxes/base/layout.h"
#include "boxes/size_class/size_class.h"
#include "boxes/thread_heap/thread_heap.h"

HAK_C_BEGIN

struct tiny_front {
    const char *name;
    // Called when the stack of `bin` is empty: puts blocks into it. Returns how many, 0 only if
    // there is no memory.
    unsigned (*refill)(struct thread_heap *heap, unsigned bin);
    // Called when the stack of `bin` is full: makes it wider or takes blocks out of it, so that
    // there is room, unless the stack can have no slots.
    void (*spill)(struct thread_heap *heap, unsigned bin);
    // Called when the heap's thread ends or its memory is wanted: what the front itself holds of
    // `bin` goes to the pool. NULL for a front that holds nothing.
    void (*flush)(struct thread_heap *heap, unsigned bin);
    // Returns true if the front itself holds this block of `bin`. NULL for a front that holds
    // nothing.
    bool (*holds)(const struct thread_heap *heap, unsigned bin, const void *block);
    // Describes heap->front_state to readers outside of the process. NULL for a front without such
    // a state.
    const struct hak_layout *layout;
};

// By class, C0..C7. Written by tiny_front_start() only.
extern const struct tiny_front *tiny_fronts[SIZE_CLASS_CLASSES];

// The front of C2 and C3 when HAKMEM_TINY_FRONT_C23_SIMPLE is 0; NULL if the flavour has no other
// one.
extern const struct tiny_front *const tiny_front_alternative;

// The flavour's name.
extern const char tiny_front_flavour[];

// For readers outside of the process, see layout.h.
extern const struct hak_layout tiny_front_layout;

// Applies the settings. Called once, from the library's constructor. Another library's constructor
// may have started threads before.
void tiny_front_start(void);

HAK_INLINE const struct tiny_front *tiny_front_of(unsigned bin) {
    return HAK_PEEK(&tiny_fronts[size_class_of_bin(bin)]);
}

// Parts to make a front of; thread_heap.h has those for the heap's stacks.

// Takes up to `want` blocks from the pool, ready for a user, and counts them. Returns how many; 0
// means out of memory.
unsigned tiny_front_take(struct thread_heap *heap, unsigned bin, void **blocks, unsigned want);

// Gives blocks to the pool, checks each of them, and counts them.
void tiny_front_give(struct thread_heap *heap, unsigned bin, void *const *blocks, unsigned count);

// Aborts with a line on stderr if one of the blocks does not start a block of `bin`, or is free.
void tiny_front_check(unsigned bin, void *const *blocks, unsigned count);

// Returns true if a block of `bin` is free: in the heap's cache, in what its front holds, or in the
// pool. A block in another heap's cache is not found. This searches the cache, so it is meant for
// blocks that bear the heap's mark.
bool tiny_front_is_free(const struct thread_heap *heap, unsigned bin, const void *block);

// Take one block from the pool (NULL if there is no memory) and give one block to it, past the
// heap's cache: for a bin whose stack has no slots yet.
void *tiny_front_take_one(struct thread_heap *heap, unsigned bin);
void tiny_front_give_one(struct thread_heap *heap, unsigned bin, void *block);

// Refill and spill of a front without a layer between cache and pool: move a batch of the caller's
// choice in one step (at least 1 block, at most SHARED_POOL_BATCH_MOST).
unsigned tiny_front_refill_direct(struct thread_heap *heap, unsigned bin, unsigned want);
void tiny_front_spill_direct(struct thread_heap *heap, unsigned bin, unsigned count);
HAK_C_END

#endif
