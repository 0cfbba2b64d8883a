// SPDX-License-Identifier: Apache-2.0
// tls_sll: a thread's singly linked list of free blocks of one size class ("bin"), linked through
// the blocks.
//
// The traditional layer behind FastCache. The first 8 bytes of a listed block hold the next one. A
// block that is listed twice makes the list a ring: the caller makes sure that none is. Not
// thread-safe: a list belongs to one thread. All zero is an empty list.
#ifndef HAKMEM_BOXES_TLS_SLL_TLS_SLL_H
#define HAKMEM_BOXES_TLS_SLL_TLS_SLL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

struct tls_sll {
    void *head;     // the block listed last, or NULL
    uint32_t count; // blocks in the list
};

// Lists blocks[0..count), of 8 bytes or more each, none of which is listed; blocks[0] is taken out
// first.
void tls_sll_push(struct tls_sll *list, void *const *blocks, unsigned count);

// Takes up to `most` blocks out into blocks[]; returns how many.
unsigned tls_sll_pop(struct tls_sll *list, void **blocks, unsigned most);

// Returns the first of blocks[0..count) that is listed, or that is among them twice; NULL if there
// is none. Reads each block of the list once, and again for blocks whose hash is that of a listed
// one.
void *tls_sll_find_twice(const struct tls_sll *list, void *const *blocks, unsigned count);

// Returns true if the block is listed. Reads each block of the list.
bool tls_sll_holds(const struct tls_sll *list, const void *block);
HAK_C_END

#endif
