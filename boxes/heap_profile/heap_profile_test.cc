// SPDX-License-Identifier: Apache-2.0
#include "boxes/heap_profile/heap_profile.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <thread>
#include <vector>

#include "boxes/sampler/sampler.h"

namespace {

struct Sum {
    double objects = 0, bytes = 0;
};
struct Sums {
    Sum allocated, freed;
    size_t stacks = 0;
};

Sums Total() {
    Sums sums;
    heap_profile_each_stack(
        [](void *to, struct heap_profile_stack *stack) {
            auto *s = static_cast<Sums *>(to);
            constexpr double kOne = 1 << SAMPLER_FRACTION;
            s->allocated.objects += static_cast<double>(stack->allocated.objects) / kOne;
            s->allocated.bytes += static_cast<double>(stack->allocated.bytes);
            s->freed.objects += static_cast<double>(stack->freed.objects) / kOne;
            s->freed.bytes += static_cast<double>(stack->freed.bytes);
            s->stacks++;
        },
        &sums);
    return sums;
}

std::map<const void *, size_t> Live() {
    std::map<const void *, size_t> live;
    heap_profile_each_live(
        [](void *to, const struct heap_profile_sample *sample) {
            (*static_cast<std::map<const void *, size_t> *>(to))[sample->ptr] = sample->size;
        },
        &live);
    return live;
}

const void *Address(size_t i) {
    return reinterpret_cast<const void *>(0x100000 + i * 16);
}

bool Forget(const void *ptr) {
    struct heap_profile_sample sample;
    if (!heap_profile_take(ptr, &sample)) {
        return false;
    }
    heap_profile_drop(&sample);
    return true;
}

class HeapProfile : public testing::Test {
    void SetUp() override { sampler_start(1); }
};

TEST_F(HeapProfile, WhatIsNotedIsFoundOnce) {
    Sums before = Total();
    std::map<const void *, size_t> truth = Live();
    constexpr size_t kBlocks = 50000; // several levels of the table
    size_t bytes = 0;
    for (size_t i = 0; i < kBlocks; i++) {
        heap_profile_note(Address(i), i);
        truth[Address(i)] = i;
        bytes += i;
    }
    EXPECT_EQ(Live(), truth);
    Sums after = Total();
    EXPECT_EQ(after.allocated.objects - before.allocated.objects, kBlocks);
    EXPECT_EQ(after.allocated.bytes - before.allocated.bytes, bytes);
    EXPECT_LE(after.stacks - before.stacks, 2u);
    EXPECT_FALSE(Forget(Address(kBlocks)));
    for (size_t i = 0; i < kBlocks; i++) {
        struct heap_profile_sample sample;
        EXPECT_TRUE(heap_profile_take(Address(i), &sample));
        EXPECT_EQ(sample.size, i);
        EXPECT_FALSE(heap_profile_take(Address(i), &sample));
        heap_profile_put_back(&sample);
        EXPECT_TRUE(Forget(Address(i)));
    }
    after = Total();
    EXPECT_EQ(after.freed.objects - before.freed.objects, kBlocks);
    EXPECT_EQ(after.freed.bytes - before.freed.bytes, bytes);
}

TEST_F(HeapProfile, AFreedSampleLeavesNothingAtAnyRate) {
    for (uint64_t rate : {3ull, 1000ull, 524288ull}) {
        sampler_start(rate);
        Sums before = Total();
        for (size_t size : {0, 1, 17, 1000, 99999, 10000000}) {
            heap_profile_note(Address(7), size);
            EXPECT_TRUE(Forget(Address(7)));
        }
        Sums after = Total();
        EXPECT_EQ(after.allocated.bytes - before.allocated.bytes,
                  after.freed.bytes - before.freed.bytes);
        EXPECT_GT(after.allocated.bytes - before.allocated.bytes, 10000000);
        EXPECT_EQ(after.allocated.objects - before.allocated.objects,
                  after.freed.objects - before.freed.objects);
    }
}

__attribute__((noinline)) void NoteFromHere(const void *ptr) {
    heap_profile_note(ptr, 1);
    __asm__ volatile("");
}

TEST_F(HeapProfile, StacksAreThoseOfTheCalls) {
    NoteFromHere(Address(1));
    NoteFromHere(Address(2));
    struct heap_profile_sample first, second;
    ASSERT_TRUE(heap_profile_take(Address(1), &first));
    ASSERT_TRUE(heap_profile_take(Address(2), &second));
    EXPECT_NE(first.stack, second.stack);
    EXPECT_GT(first.stack->depth, 4u);
    EXPECT_EQ(first.stack->depth, second.stack->depth);
    bool inside = false;
    for (unsigned i = 0; i < 3; i++) {
        inside |= first.stack->pcs[i] - reinterpret_cast<uintptr_t>(&NoteFromHere) < 100;
    }
    EXPECT_TRUE(inside);
}

TEST_F(HeapProfile, ManyThreads) {
    Sums before = Total();
    constexpr size_t kThreads = 4, kEach = 30000;
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; t++) {
        threads.emplace_back([t] {
            for (size_t i = 0; i < kEach; i++) {
                const void *ptr = Address(t + kThreads * (i % 5000));
                if (i >= 5000) {
                    EXPECT_TRUE(Forget(ptr));
                }
                heap_profile_note(ptr, 10);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    Sums after = Total();
    EXPECT_EQ(after.allocated.objects - before.allocated.objects, kThreads * kEach);
    EXPECT_EQ(after.freed.objects - before.freed.objects, kThreads * (kEach - 5000));
    EXPECT_EQ(Live().size(), kThreads * 5000);
    struct heap_profile_stats stats;
    heap_profile_get_stats(&stats);
    EXPECT_EQ(stats.untracked, 0u);
    EXPECT_EQ(stats.stackless, 0u);
}

} // namespace
