// SPDX-License-Identifier: Apache-2.0
// thread_heap_internal: shared by the two files of the box.
#ifndef HAKMEM_BOXES_THREAD_HEAP_THREAD_HEAP_INTERNAL_H
#define HAKMEM_BOXES_THREAD_HEAP_THREAD_HEAP_INTERNAL_H

#include "boxes/thread_heap/thread_heap.h"

HAK_C_BEGIN

// Claims slabs that a heap keeps for itself. Sets *zero to true if every byte is zero. Returns
// their address, or NULL if there is no memory.
void *thread_heap_claim(size_t slabs, bool *zero);

// Gives such slabs back. `dirty`: they may hold other bytes than zero.
void thread_heap_give_back(void *memory, size_t slabs, bool dirty);

// Moves every block that a heap caches to the pool, and makes its stacks narrow. The heap is the
// calling thread's, or is a free heap whose bit the caller has claimed.
void thread_heap_flush_all(struct thread_heap *heap);
HAK_C_END

#endif
