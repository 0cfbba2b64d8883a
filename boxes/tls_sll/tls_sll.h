// tls_sll: a thread's singly linked list of free blocks of one bin, linked through the blocks.
//
// The traditional layer behind FastCache. The first 8 bytes of a listed block hold the next one,
// the second 8 a key: a block that has the key when it is to be listed is looked for in the list,
// and if it is there the program stops, as a block freed twice would make the list a ring. Not
// thread-safe: a list belongs to one thread. All zero is an empty list.
#ifndef HAKMEM_BOXES_TLS_SLL_TLS_SLL_H
#define HAKMEM_BOXES_TLS_SLL_TLS_SLL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

struct tls_sll {
    void *head;     // the block listed last, or NULL
    uint32_t count; // blocks in the list
};

// Lists blocks[0..count), of 16 bytes or more each; blocks[0] is taken out first. Aborts with a
// line on stderr on a block that is listed already.
void tls_sll_push(struct tls_sll *list, void *const *blocks, unsigned count);

// Takes up to `most` blocks out into blocks[]; returns how many.
unsigned tls_sll_pop(struct tls_sll *list, void **blocks, unsigned most);
HAK_C_END

#endif
