// SPDX-License-Identifier: Apache-2.0
// The thread heaps' own source, compiled for the model checker. See thread_heap_model_test.cc.
#ifndef HAKMEM_BOXES_THREAD_HEAP_THREAD_HEAP_MODEL_H
#define HAKMEM_BOXES_THREAD_HEAP_THREAD_HEAP_MODEL_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// The directory's variables. Of `free`, `cold` and `heaps` only the first 64 heaps take part.
struct model_directory {
    volatile uint64_t *key, *free, *cold;
    volatile uint32_t *made;
    volatile int32_t *idle;
    void *volatile *heaps;
};

// Starts anew, with an empty directory that counts `idle` heaps without a thread.
struct model_directory model_start(int32_t idle);

// Calls `ignore(at, bytes)` for each other variable.
void model_ignored(void (*ignore)(volatile void *at, size_t bytes));

// Set and return a thread's state between its operations: its heap in TLS. NULL: a new thread.
void model_set_thread(void *heap);
void *model_thread(void);

// The destructor that the C library calls at a thread's end with the value of its key.
void model_exit(void *heap);

// Take the place of the C library's functions.
int model_key_create(unsigned *key, void (*at_exit)(void *));
int model_key_delete(unsigned key);
int model_set_specific(unsigned key, const void *value);
HAK_C_END

#endif
