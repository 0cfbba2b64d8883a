// SPDX-License-Identifier: Apache-2.0
// Kernels of threads and of forked children.
#include "benchmarks/workers/kernels/kernels.h"

#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

void *hundred_blocks(void *) {
    void *blocks[100];
    for (void *&block : blocks) {
        block = touch(malloc(100));
    }
    for (void *block : blocks) {
        free(block);
    }
    return nullptr;
}

void *three_thousand_blocks(void *) {
    void *blocks[1000];
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 1000; i++) {
            blocks[i] = touch(malloc(i + 1));
        }
        for (void *block : blocks) {
            free(block);
        }
    }
    return nullptr;
}

uint64_t start_and_join(uint64_t count, uint64_t at_a_time, void *(*body)(void *)) {
    uint64_t done = 0;
    for (; done < count; done += at_a_time) {
        pthread_t threads[4];
        for (uint64_t i = 0; i < at_a_time; i++) {
            worker_start(&threads[i], body, nullptr);
        }
        for (uint64_t i = 0; i < at_a_time; i++) {
            pthread_join(threads[i], nullptr);
        }
    }
    return done;
}

uint64_t thread(Run &run) {
    return start_and_join(run.count, 1, hundred_blocks);
}

uint64_t threads_4(Run &run) {
    return start_and_join(run.count, 4, three_thousand_blocks);
}

// Two batches, one of which a thread fills while another thread frees the blocks of the other. Who
// waits sleeps, so waiting takes no CPU time.
struct HandOver {
    static constexpr size_t kMost = 1024;
    void *blocks[2][kMost];
    sem_t full[2], empty[2];
    size_t length;
    uint64_t batches;
};
HandOver hand_over;

void wait_for(sem_t *semaphore) {
    while (sem_wait(semaphore) != 0) {
    }
}

void *free_batches(void *) {
    for (uint64_t batch = 0; batch < hand_over.batches; batch++) {
        wait_for(&hand_over.full[batch % 2]);
        for (size_t i = 0; i < hand_over.length; i++) {
            free(hand_over.blocks[batch % 2][i]);
        }
        sem_post(&hand_over.empty[batch % 2]);
    }
    return nullptr;
}

uint64_t hand_batches_over(const Run &run, size_t length, size_t size) {
    hand_over.length = length;
    hand_over.batches = (run.count + length - 1) / length;
    for (int i = 0; i < 2; i++) {
        sem_init(&hand_over.full[i], 0, 0);
        sem_init(&hand_over.empty[i], 0, 1);
    }
    pthread_t other;
    worker_start(&other, free_batches, nullptr);
    for (uint64_t batch = 0; batch < hand_over.batches; batch++) {
        wait_for(&hand_over.empty[batch % 2]);
        for (size_t i = 0; i < length; i++) {
            hand_over.blocks[batch % 2][i] = touch(malloc(size));
        }
        sem_post(&hand_over.full[batch % 2]);
    }
    pthread_join(other, nullptr);
    return hand_over.batches * length;
}

uint64_t hand_over_64(Run &run) {
    return hand_batches_over(run, HandOver::kMost, 64);
}

uint64_t hand_over_40k(Run &run) {
    return hand_batches_over(run, 128, 40000);
}

void *mixed_blocks(void *argument) {
    constexpr size_t kSlots = 4096;
    Run run = *static_cast<const Run *>(argument);
    auto **slots = static_cast<void **>(worker_map(kSlots * sizeof(void *)));
    for (uint64_t i = 0; i < run.count; i++) {
        void **slot = &slots[below(run, kSlots)];
        free(*slot);
        *slot = touch(malloc(1 + below(run, 1000)));
    }
    for (size_t i = 0; i < kSlots; i++) {
        free(slots[i]);
    }
    munmap(slots, kSlots * sizeof(void *));
    return nullptr;
}

uint64_t two_threads(Run &run) {
    Run halves[2] = {run, run};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        halves[i].count = run.count / 2 + 1;
        halves[i].random = worker_random_seed(run.random + static_cast<uint64_t>(i));
        worker_start(&threads[i], mixed_blocks, &halves[i]);
    }
    for (pthread_t each : threads) {
        pthread_join(each, nullptr);
    }
    return 2 * halves[0].count;
}

uint64_t forked(Run &run) {
    constexpr size_t kBlocks = 200000;
    constexpr size_t kFreed = 2000;
    static void *blocks[kBlocks];
    for (void *&block : blocks) {
        block = touch(malloc(200));
    }
    starts_now(run);
    for (uint64_t i = 0; i < run.count; i++) {
        const pid_t child = fork();
        if (child == 0) {
            for (size_t at = 0; at < kFreed; at++) {
                free(blocks[2 * at + below(run, 2)]);
            }
            _exit(0);
        }
        int status = 1;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            worker_die("a forked child failed");
        }
    }
    return run.count;
}

} // namespace

const Kernel kThreadKernels[] = {
    {"thread", "a thread starts, allocates and frees 100 blocks of 100 B, and ends", 3000, thread},
    {"threads-4", "the same, 4 at a time, 3 times 1000 blocks of 1 to 1000 B", 2000, threads_4},
    {"hand-over-64", "malloc of 64 B; free by another thread, 1024 at a time", 2000000,
     hand_over_64},
    {"hand-over-40k", "the same of 40 000 B, 128 at a time", 200000, hand_over_40k},
    {"two-threads", "malloc of 1 to 1000 B; free; by 2 threads, each on blocks of its own", 4000000,
     two_threads},
    {"fork", "a fork of 200 000 blocks of 200 B; the child frees 2000", 50, forked},
    {nullptr, nullptr, 0, nullptr},
};
