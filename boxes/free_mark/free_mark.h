// SPDX-License-Identifier: Apache-2.0
// free_mark: the mark that a freed block carries in its second word, by which a block freed twice
// is noticed.
//
// The mark is derived from the address of the heap to whose cache the block went. That address is
// random from process to process, and no program writes it. If a block that is freed has its heap's
// mark, it is searched for among the free blocks of that heap. If it is found, it was freed twice,
// and the program stops. If not, its contents equal the mark by chance, and it is freed as any
// other. malloc clears the mark, so that a block to which the program wrote nothing is not searched
// for.
//
// The word lies in the cache line that free and the next malloc of the block touch anyway. Not
// thread-safe: the caller owns the block.
#ifndef HAKMEM_BOXES_FREE_MARK_FREE_MARK_H
#define HAKMEM_BOXES_FREE_MARK_FREE_MARK_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Build setting: 0 leaves freed blocks as they are, and finds a block freed twice when the cache
// spills.
#ifndef FREE_MARK
#    define FREE_MARK 1
#endif

// With headers, the last byte of the smallest block is the header of the next block.
#if HAK_HEADER
typedef uint32_t free_mark __attribute__((may_alias));
#else
typedef uint64_t free_mark __attribute__((may_alias));
#endif

// Returns the place of the mark in a block of 16 bytes or more, aligned to 16.
HAK_INLINE free_mark *free_mark_at(const void *block) {
    return (free_mark *)((uintptr_t)block + sizeof(uint64_t));
}

// Returns the mark of a heap, which is not 0. A heap starts a slab: the low bits say nothing.
HAK_INLINE free_mark free_mark_of(const void *heap) {
    return HAK_HEADER ? (free_mark)((uintptr_t)heap >> 15 | 1) : (free_mark)(uintptr_t)heap;
}

HAK_INLINE bool free_mark_is_set(const void *block, const void *heap) {
    return FREE_MARK != 0 && *free_mark_at(block) == free_mark_of(heap);
}
HAK_INLINE void free_mark_set(void *block, const void *heap) {
    if (FREE_MARK != 0) {
        *free_mark_at(block) = free_mark_of(heap);
    }
}
HAK_INLINE void free_mark_clear(void *block) {
    if (FREE_MARK != 0) {
        *free_mark_at(block) = 0;
    }
}
HAK_C_END

#endif
