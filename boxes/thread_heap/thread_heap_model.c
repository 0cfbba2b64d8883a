// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/atomics.h"

#include <pthread.h>

#include "boxes/thread_heap/thread_heap_model.h"

#define pthread_key_create  model_key_create
#define pthread_key_delete  model_key_delete
#define pthread_setspecific model_set_specific

#include "boxes/atomic_bitmap/atomic_bitmap.c"

#include "boxes/thread_heap/thread_heap.c"
#include "boxes/thread_heap/thread_heap_caches.c"

struct model_directory model_start(int32_t idle) {
    memset((void *)&directory, 0, sizeof directory);
    memcpy((void *)&directory.idle, &idle, sizeof idle);
    return (struct model_directory){
        (volatile uint64_t *)&directory.key, (volatile uint64_t *)directory.free,
        (volatile uint64_t *)directory.cold, (volatile uint32_t *)&directory.made,
        (volatile int32_t *)&directory.idle, (void *volatile *)directory.first};
}

void model_ignored(void (*ignore)(volatile void *at, size_t bytes)) {
    ignore(&retired, sizeof retired);
    ignore(&flush_front, sizeof flush_front);
    ignore(&sizes_closed, sizeof sizes_closed); // No test of the model sets it.
    ignore(directory.slabs, sizeof directory.slabs);
}

void model_set_thread(void *heap) {
    thread_heap_tls =
        (struct thread_heap_link){.heap = heap == NULL ? (struct thread_heap *)&empty_heap : heap};
}

void *model_thread(void) {
    return thread_heap_tls.heap == &empty_heap ? NULL : thread_heap_tls.heap;
}

void model_exit(void *heap) {
    on_thread_exit(heap);
}
