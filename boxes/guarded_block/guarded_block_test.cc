// SPDX-License-Identifier: Apache-2.0
#include "boxes/guarded_block/guarded_block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

namespace {

char *Alloc(size_t size, size_t align = 1) {
    return static_cast<char *>(guarded_block_alloc(size, align));
}

size_t Live() {
    uint64_t made;
    size_t live;
    guarded_block_count(&made, &live);
    return live;
}

class GuardedBlock : public testing::Test {
  protected:
    static void SetUpTestSuite() { ASSERT_TRUE(guarded_block_start(10)); }
};
using GuardedBlockDeathTest = GuardedBlock;

TEST_F(GuardedBlock, BlocksAreAlignedAndEndOrStartAtAGuardPage) {
    for (size_t size = 0; size <= GUARDED_BLOCK_SIZE_MOST; size = size * 3 / 2 + 1) {
        for (size_t align : {1, 16, 64, 4096}) {
            bool at_start = false, at_end = false;
            for (int i = 0; i < 40; i++) {
                char *block = Alloc(size, align);
                ASSERT_NE(block, nullptr);
                EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % align, 0u);
                EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 16, 0u);
                memset(block, i, size == 0 ? 1 : size);
                auto start = reinterpret_cast<uintptr_t>(block);
                size_t slack = (4096 - (start + std::max<size_t>(size, 1)) % 4096) % 4096;
                at_start |= start % 4096 == 0;
                at_end |= slack < (align < 16 ? 16 : align);
                EXPECT_TRUE(start % 4096 == 0 || slack < (align < 16 ? 16 : align));
                EXPECT_EQ(guarded_block_near(block)->start, block);
                EXPECT_EQ(guarded_block_free(block), nullptr);
            }
            EXPECT_TRUE(at_start && at_end) << size;
        }
    }
    EXPECT_EQ(Alloc(GUARDED_BLOCK_SIZE_MOST + 1), nullptr);
    EXPECT_EQ(Alloc(16, 8192), nullptr);
    EXPECT_EQ(Live(), 0u);
}

TEST_F(GuardedBlockDeathTest, AFreedBlockCannotBeTouched) {
    char *volatile block = Alloc(100);
    EXPECT_EQ(guarded_block_free(block), nullptr);
    EXPECT_EXIT(
        {
            signal(SIGSEGV, SIG_DFL); // a sanitizer's handler would exit
            *block = 1;
        },
        testing::KilledBySignal(SIGSEGV), "");
    EXPECT_STREQ(guarded_block_free(block), "block freed twice");
    EXPECT_STREQ(guarded_block_free(block + 16), "pointer into a block, not to its start");
}

TEST_F(GuardedBlock, WhatIsWrittenBesideABlockIsSeenWhenItIsFreed) {
    for (int i = 0; i < 20; i++) {
        char *block = Alloc(100);
        bool at_start = reinterpret_cast<uintptr_t>(block) % 4096 == 0;
        char *beside = at_start ? block + 100 : block - 1;
        char before = *beside;
        *beside = 0;
        EXPECT_STREQ(guarded_block_free(block),
                     at_start ? "written to past its end" : "written to before its start");
        *beside = before;
        EXPECT_EQ(guarded_block_free(block), nullptr);
    }
}

TEST_F(GuardedBlock, ABudgetIsKept) {
    std::vector<char *> blocks;
    for (int i = 0; i < 2 * GUARDED_BLOCK_SLOTS; i++) {
        char *block = Alloc(16);
        if (block != nullptr) {
            blocks.push_back(block);
        }
    }
    EXPECT_EQ(blocks.size(), static_cast<size_t>(GUARDED_BLOCK_SLOTS));
    for (char *block : blocks) {
        EXPECT_EQ(guarded_block_free(block), nullptr);
    }
}

TEST_F(GuardedBlock, ASlotRestsBeforeItIsUsedAgain) {
    std::set<char *> pages;
    for (int i = 0; i < GUARDED_BLOCK_SLOTS; i++) {
        char *block = Alloc(4096 * 4);
        EXPECT_TRUE(pages.insert(block).second);
        EXPECT_EQ(guarded_block_free(block), nullptr);
    }
}

TEST_F(GuardedBlock, OneInSoManyIsChosen) {
    constexpr int kTimes = 100000;
    int chosen = 0;
    for (int i = 0; i < kTimes; i++) {
        chosen += guarded_block_counts() && guarded_block_decides();
    }
    // The distance is uniform in 1..19: its standard deviation is 5.5, that of the count 55.
    EXPECT_NEAR(chosen, kTimes / 10, 300);
}

// A thread's first allocation is as likely as any other.
TEST_F(GuardedBlock, OneInSoManyThreadsHasItsFirstBlockChosen) {
    constexpr int kThreads = 1000;
    int chosen = 0;
    for (int i = 0; i < kThreads; i++) {
        std::thread([&] { chosen += guarded_block_counts() && guarded_block_decides(); }).join();
    }
    // One of the 19 distances that are equally likely: 53 of 1000, with a standard deviation of 7.
    EXPECT_NEAR(chosen, kThreads / 19, 50);
}

TEST_F(GuardedBlock, ManyThreads) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([t] {
            for (int i = 0; i < 2000; i++) {
                char *block = Alloc(64);
                if (block != nullptr) {
                    memset(block, t, 64);
                    EXPECT_EQ(block[63], t);
                    EXPECT_EQ(guarded_block_free(block), nullptr);
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(Live(), 0u);
}

} // namespace
