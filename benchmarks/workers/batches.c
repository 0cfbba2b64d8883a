// SPDX-License-Identifier: Apache-2.0
// batches: many blocks at once and many frees at once, in the manner of MicroQuill's sh6bench and
// sh8bench.
//
// A pass allocates a batch, small sizes more often than large ones, and frees the batch before it:
// one part in the order of allocation, one against it, one that skips, and one part only two passes
// later. With --shared, every fourth block is freed by the next thread (sh8bench's "other threads'
// blocks").
#include "benchmarks/workers/worker.h"

#include <stdatomic.h>

enum { BATCH = 8192, MAIL = 1024 };

static uint64_t threads = 1, passes = 2000, shared = 0, seed = 42;

// A mailbox of each thread; a full place means its owner has not come by yet.
static void *_Atomic (*mail)[MAIL];

struct thread {
    uint64_t index;
    void *batch[2][BATCH];
    void *kept[2][BATCH / 4];
};

static size_t pick_size(uint64_t random) {
    // Uniform up to a bound that is itself uniform: density falls with the size.
    uint64_t bound = 1 + worker_below(random, 1000);
    return 1 + worker_below(random >> 32, bound);
}

static void take_mail(uint64_t index) {
    for (int i = 0; i < MAIL; i++) {
        free(atomic_exchange_explicit(&mail[index][i], NULL, memory_order_acquire));
    }
}

// The third quarter's blocks stay for two more passes.
static void release(struct thread *thread, void **batch, void **kept) {
    enum { QUARTER = BATCH / 4 };
    for (int i = 0; i < QUARTER; i++) {
        if (shared != 0 && threads > 1 && i % 2 == 0) {
            void *_Atomic *place = &mail[(thread->index + 1) % threads][i / 2];
            free(atomic_exchange_explicit(place, batch[i], memory_order_acq_rel));
        } else {
            free(batch[i]);
        }
    }
    for (int i = 2 * QUARTER; i-- > QUARTER;) {
        free(batch[i]);
    }
    for (int i = 0; i < QUARTER; i++) {
        free(kept[i]);
        kept[i] = batch[2 * QUARTER + i];
    }
    for (int odd = 0; odd < 2; odd++) {
        for (int i = 3 * QUARTER + odd; i < BATCH; i += 2) {
            free(batch[i]);
        }
    }
}

static void *run(void *arg) {
    struct thread *thread = arg;
    uint64_t state = worker_random_seed(seed + thread->index);
    for (uint64_t pass = 0; pass < passes; pass++) {
        void **batch = thread->batch[pass % 2];
        for (int i = 0; i < BATCH; i++) {
            char *block = worker_check(malloc(pick_size(worker_random(&state))));
            *block = (char)i;
            batch[i] = block;
        }
        if (pass > 0) {
            release(thread, thread->batch[(pass + 1) % 2], thread->kept[pass % 2]);
        }
        if (shared != 0) {
            take_mail(thread->index);
        }
    }
    release(thread, thread->batch[(passes + 1) % 2], thread->kept[passes % 2]);
    for (int i = 0; i < BATCH / 4; i++) {
        free(thread->kept[0][i]);
        free(thread->kept[1][i]);
    }
    return NULL;
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"threads", 1, 256, &threads},
        {"passes", 1, 1u << 30, &passes},
        {"shared", 0, 1, &shared},
        {"seed", 0, UINT64_MAX, &seed},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, "", 0);
    pthread_t ids[256];
    struct thread *all = worker_map(threads * sizeof *all);
    mail = worker_map(threads * sizeof *mail);
    for (uint64_t t = 0; t < threads; t++) {
        all[t].index = t;
        worker_start(&ids[t], run, &all[t]);
    }
    for (uint64_t t = 0; t < threads; t++) {
        pthread_join(ids[t], NULL);
    }
    for (uint64_t t = 0; t < threads; t++) {
        take_mail(t);
    }
    worker_report_allocator();
    return 0;
}
