// SPDX-License-Identifier: Apache-2.0
// larson: the server workload of Larson and Krishnan, "Memory Allocation for Long-Running Server
// Applications" (ISMM 1998).
//
// Each thread stands for a server's: it holds `blocks` blocks, and again and again replaces a
// random one by a new one of random size. After `rounds` x `blocks` replacements it ends, and
// leaves its blocks to a new thread that goes on with them; so most blocks are freed by another
// thread than the one that allocated them, one that is long gone. The first blocks come from the
// main thread.
//
// An operation is a replacement: a free and a malloc. The work is fixed (`generations` threads one
// after the other in each of `threads` lines) and the time is what is measured.
#include "benchmarks/workers/worker.h"

static uint64_t threads = 2, blocks = 5000, rounds = 100, generations = 20;
static uint64_t min_size = 8, max_size = 1000, seed = 42;

struct line {
    char **blocks;
    uint64_t random;
    uint64_t generation;
    double begin, end;
};

static pthread_barrier_t start;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_done = PTHREAD_COND_INITIALIZER;
static uint64_t done;

static char *new_block(uint64_t random) {
    size_t size = min_size + worker_below(random, max_size - min_size + 1);
    char *block = worker_check(malloc(size));
    block[0] = (char)size;
    block[size - 1] = (char)size;
    return block;
}

static void *serve(void *arg) {
    struct line *line = arg;
    if (line->generation == 0) {
        pthread_barrier_wait(&start);
        // Not in the main thread, which may wake when all is done.
        line->begin = worker_now_ns();
    }
    uint64_t state = line->random;
    for (uint64_t i = 0; i < rounds * blocks; i++) {
        uint64_t random = worker_random(&state);
        char **slot = &line->blocks[worker_below(random, blocks)];
        free(*slot);
        *slot = new_block(random >> 32);
    }
    line->random = state;
    if (++line->generation < generations) {
        pthread_t heir;
        worker_start(&heir, serve, line);
        pthread_detach(heir);
    } else {
        line->end = worker_now_ns();
        pthread_mutex_lock(&mutex);
        done++;
        pthread_cond_signal(&all_done);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"threads", 1, 1024, &threads},       {"blocks", 1, 1u << 24, &blocks},
        {"rounds", 1, 1u << 24, &rounds},     {"generations", 1, 1u << 24, &generations},
        {"min-size", 1, 1u << 30, &min_size}, {"max-size", 1, 1u << 30, &max_size},
        {"seed", 0, UINT64_MAX, &seed},       {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, "", 0);
    if (min_size > max_size) {
        worker_die("--min-size is above --max-size");
    }
    struct line *lines = worker_map(threads * sizeof *lines);
    uint64_t count = threads * blocks;
    char **all = worker_map(count * sizeof *all);
    uint64_t state = worker_random_seed(seed);
    for (uint64_t i = 0; i < count; i++) {
        all[i] = new_block(worker_random(&state));
    }
    // Shuffled, so that neighbours in memory belong to different threads.
    for (uint64_t i = count; i > 1; i--) {
        uint64_t other = worker_below(worker_random(&state), i);
        char *block = all[i - 1];
        all[i - 1] = all[other];
        all[other] = block;
    }
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (uint64_t t = 0; t < threads; t++) {
        lines[t] = (struct line){&all[t * blocks], worker_random_seed(seed + 1 + t), 0, 0, 0};
        pthread_t thread;
        worker_start(&thread, serve, &lines[t]);
        pthread_detach(thread);
    }
    pthread_mutex_lock(&mutex);
    while (done < threads) {
        pthread_cond_wait(&all_done, &mutex);
    }
    pthread_mutex_unlock(&mutex);
    double begin = lines[0].begin, end = lines[0].end;
    for (uint64_t t = 1; t < threads; t++) {
        begin = lines[t].begin < begin ? lines[t].begin : begin;
        end = lines[t].end > end ? lines[t].end : end;
    }
    double seconds = (end - begin) / 1e9;
    worker_report_allocator();
    double operations = (double)threads * (double)generations * (double)rounds * (double)blocks;
    printf("seconds %.6f\noperations %.0f\nops_per_second %.0f\n", seconds, operations,
           operations / seconds);
    return 0;
}
