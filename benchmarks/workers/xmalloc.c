// SPDX-License-Identifier: Apache-2.0
// xmalloc: producers allocate, consumers free, after the malloc test of Lever and Boreham,
// "malloc() Performance in a Multithreaded Linux Environment" (USENIX 2000).
//
// Half of the threads allocate batches of small blocks and put them into a bounded queue; the other
// half take batches out and free their blocks, and the batches.
#include "benchmarks/workers/worker.h"

enum { BATCH = 512, QUEUE = 32 };

static uint64_t threads = 2, batches = 40000, seed = 42;

struct batch {
    void *blocks[BATCH];
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t filled, emptied;
    struct batch *ring[QUEUE];
    uint64_t first, count;
    uint64_t left; // batches that consumers have still to take
} queue = {.mutex = PTHREAD_MUTEX_INITIALIZER,
           .filled = PTHREAD_COND_INITIALIZER,
           .emptied = PTHREAD_COND_INITIALIZER};

static void *produce(void *arg) {
    uint64_t state = worker_random_seed(seed + (uintptr_t)arg);
    uint64_t pairs = threads / 2;
    uint64_t mine = batches / pairs + ((uintptr_t)arg < batches % pairs);
    for (uint64_t n = 0; n < mine; n++) {
        struct batch *batch = worker_check(malloc(sizeof *batch));
        for (int i = 0; i < BATCH; i++) {
            uint64_t random = worker_random(&state);
            // 8 to 511 bytes, each power of two as often as the others.
            size_t least = (size_t)8 << worker_below(random, 6);
            char *block = worker_check(malloc(least + worker_below(random >> 32, least)));
            *block = (char)i;
            batch->blocks[i] = block;
        }
        pthread_mutex_lock(&queue.mutex);
        while (queue.count == QUEUE) {
            pthread_cond_wait(&queue.emptied, &queue.mutex);
        }
        queue.ring[(queue.first + queue.count++) % QUEUE] = batch;
        pthread_cond_signal(&queue.filled);
        pthread_mutex_unlock(&queue.mutex);
    }
    return NULL;
}

static void *consume(void *arg) {
    (void)arg;
    for (;;) {
        pthread_mutex_lock(&queue.mutex);
        while (queue.count == 0 && queue.left > 0) {
            pthread_cond_wait(&queue.filled, &queue.mutex);
        }
        if (queue.left == 0) {
            pthread_cond_broadcast(&queue.filled);
            pthread_mutex_unlock(&queue.mutex);
            return NULL;
        }
        struct batch *batch = queue.ring[queue.first];
        queue.first = (queue.first + 1) % QUEUE;
        queue.count--;
        queue.left--;
        pthread_cond_signal(&queue.emptied);
        pthread_mutex_unlock(&queue.mutex);
        for (int i = 0; i < BATCH; i++) {
            free(batch->blocks[i]);
        }
        free(batch);
    }
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"threads", 2, 256, &threads},
        {"batches", 1, 1u << 30, &batches},
        {"seed", 0, UINT64_MAX, &seed},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, "", 0);
    pthread_t ids[256];
    threads -= threads % 2;
    queue.left = batches;
    for (uint64_t t = 0; t < threads; t++) {
        worker_start(&ids[t], t % 2 == 0 ? produce : consume, (void *)(uintptr_t)(t / 2));
    }
    for (uint64_t t = 0; t < threads; t++) {
        pthread_join(ids[t], NULL);
    }
    worker_report_allocator();
    return 0;
}
