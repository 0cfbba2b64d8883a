// SPDX-License-Identifier: Apache-2.0
// toy: an allocator for two threads whose transfers are known. A malloc waits for its turn, by
// reads of a word that the other thread has written last: one fetch. Then it writes the word, of
// which both have a copy now: one upgrade. free does nothing.
#include <stddef.h>

#include <stdatomic.h>

// How far apart the two threads' blocks are, in bytes: on one line or not.
#ifndef TOY_APART
#    define TOY_APART 64
#endif

static struct {
    _Alignas(64) _Atomic unsigned turn;
    _Alignas(64) _Atomic unsigned threads;
    _Alignas(64) char blocks[3 * TOY_APART];
} toy;

static __thread unsigned me; // 1, 2

void *malloc(size_t size) {
    (void)size;
    if (me == 0) {
        me = atomic_fetch_add(&toy.threads, 1) + 1;
    }
    while (atomic_load_explicit(&toy.turn, memory_order_acquire) % 2 != me % 2) {
    }
    atomic_store_explicit(&toy.turn, me + 1, memory_order_release);
    return toy.blocks + me * TOY_APART;
}

void free(void *block) {
    (void)block;
}
