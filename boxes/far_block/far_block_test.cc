// SPDX-License-Identifier: Apache-2.0
#include "boxes/far_block/far_block.h"

#include "backends/os.h"

#include <gtest/gtest.h>

#include <atomic>
#include <sys/mman.h>
#include <thread>
#include <vector>

static std::atomic<bool> refuse_map{false}, refuse_extend{false}, refuse_move{false};

extern "C" {
enum os_result __real_os_map(void *at, size_t size, void **got);
enum os_result __real_os_move(void *from, void *to, size_t size);
enum os_result __wrap_os_map(void *at, size_t size, void **got) {
    return refuse_map || (refuse_extend && at != nullptr) ? OS_NO_MEMORY
                                                          : __real_os_map(at, size, got);
}
enum os_result __wrap_os_move(void *from, void *to, size_t size) {
    return refuse_move ? OS_NO_MEMORY : __real_os_move(from, to, size);
}
}

namespace {

class FarBlock : public testing::Test {
  protected:
    void TearDown() override { refuse_map = refuse_extend = refuse_move = false; }
    static constexpr size_t kSize = FAR_BLOCK_LEAST + 12345;
    static bool mapped(const char *at) {
        unsigned char resident;
        auto page = reinterpret_cast<uintptr_t>(at) & ~uintptr_t{HAK_PAGE - 1};
        return mincore(reinterpret_cast<void *>(page), 1, &resident) == 0;
    }
};

TEST_F(FarBlock, IsZeroAndWritableAndGoesAsAWhole) {
    EXPECT_EQ(far_block_usable(this), 0u);
    EXPECT_FALSE(far_block_free(nullptr));
    auto *block = static_cast<char *>(far_block_alloc(kSize, 1));
    ASSERT_NE(block, nullptr);
    size_t usable = far_block_usable(block);
    EXPECT_EQ(usable, kSize);
    EXPECT_EQ(far_block_get_stats().blocks, 1u);
    EXPECT_EQ(far_block_get_stats().bytes, hak_round_up(kSize, HAK_PAGE));
    EXPECT_EQ(block[0] | block[usable - 1], 0);
    block[0] = block[usable - 1] = 1;
    EXPECT_EQ(far_block_usable(block + HAK_PAGE), 0u) << "not its start";
    EXPECT_FALSE(far_block_free(block + HAK_PAGE));
    EXPECT_TRUE(far_block_free(block));
    EXPECT_FALSE(mapped(block));
    EXPECT_FALSE(mapped(block + usable - 1));
    EXPECT_FALSE(far_block_free(block)) << "freed twice";
    EXPECT_EQ(far_block_get_stats().blocks + far_block_get_stats().bytes, 0u);
    EXPECT_EQ(far_block_usable(block), 0u);
}

TEST_F(FarBlock, Alignment) {
    for (size_t align = 1; align <= size_t{1} << 40; align *= 8) {
        void *block = far_block_alloc(kSize, align);
        ASSERT_NE(block, nullptr) << align;
        EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % align, 0u);
        static_cast<char *>(block)[far_block_usable(block) - 1] = 1;
        EXPECT_TRUE(far_block_free(block));
    }
}

TEST_F(FarBlock, WhatCannotBeIsRefused) {
    EXPECT_EQ(far_block_alloc(FAR_BLOCK_LEAST - 1, 1), nullptr);
    EXPECT_EQ(far_block_alloc(SIZE_MAX, 1), nullptr);
    EXPECT_EQ(far_block_alloc(PTRDIFF_MAX, 1), nullptr);
    EXPECT_EQ(far_block_alloc(kSize, size_t{1} << 63), nullptr);
    EXPECT_EQ(far_block_alloc(kSize, size_t{1} << 62), nullptr);
    refuse_map = true;
    // More often than there are entries: a refusal keeps none.
    for (int i = 0; i <= FAR_BLOCK_MOST; i++) {
        ASSERT_EQ(far_block_alloc(kSize, 1), nullptr);
    }
    refuse_map = false;
    std::vector<void *> blocks;
    for (int i = 0; i < FAR_BLOCK_MOST; i++) {
        blocks.push_back(far_block_alloc(FAR_BLOCK_LEAST, 1));
        ASSERT_NE(blocks.back(), nullptr) << i;
    }
    EXPECT_EQ(far_block_alloc(FAR_BLOCK_LEAST, 1), nullptr) << "the table is full";
    for (void *block : blocks) {
        EXPECT_TRUE(far_block_free(block));
    }
}

TEST_F(FarBlock, Resize) {
    for (bool in_place : {true, false}) {
        refuse_extend = !in_place;
        auto *block = static_cast<char *>(far_block_alloc(kSize, 1));
        ASSERT_NE(block, nullptr);
        block[0] = 1;
        block[kSize - 1] = 2;
        EXPECT_EQ(far_block_resize(block, FAR_BLOCK_LEAST - 1), nullptr) << "not one of these";
        size_t was = far_block_usable(block);
        auto *grown = static_cast<char *>(far_block_resize(block, 3 * kSize));
        ASSERT_NE(grown, nullptr);
        if (grown != block) {
            EXPECT_FALSE(far_block_free(block));
            EXPECT_FALSE(mapped(block));
            EXPECT_FALSE(mapped(block + was - 1));
        }
        EXPECT_EQ(far_block_usable(grown), 3 * kSize);
        EXPECT_EQ(grown[0], 1);
        EXPECT_EQ(grown[kSize - 1], 2);
        EXPECT_EQ(grown[3 * kSize - 1], 0);
        grown[3 * kSize - 1] = 3;
        EXPECT_EQ(far_block_resize(grown, 2 * kSize), grown);
        EXPECT_FALSE(mapped(grown + 3 * kSize - 1));
        EXPECT_EQ(grown[kSize - 1], 2);
        EXPECT_TRUE(far_block_free(grown));
        EXPECT_EQ(far_block_resize(grown, kSize), nullptr);
    }
}

TEST_F(FarBlock, AResizeThatTheKernelRefusesChangesNothing) {
    auto *block = static_cast<char *>(far_block_alloc(kSize, 1));
    ASSERT_NE(block, nullptr);
    block[kSize - 1] = 2;
    size_t usable = far_block_usable(block);
    refuse_extend = refuse_move = true;
    EXPECT_EQ(far_block_resize(block, 2 * kSize), nullptr);
    refuse_map = true;
    EXPECT_EQ(far_block_resize(block, 2 * kSize), nullptr);
    EXPECT_EQ(far_block_usable(block), usable);
    EXPECT_EQ(block[kSize - 1], 2);
    EXPECT_TRUE(far_block_free(block));
}

TEST_F(FarBlock, OnlyOneThreadFreesABlock) {
    constexpr int kRounds = 500;
    std::vector<void *> blocks(kRounds);
    for (void *&block : blocks) {
        block = far_block_alloc(FAR_BLOCK_LEAST, 1);
        ASSERT_NE(block, nullptr);
    }
    std::atomic<int> freed{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([&] {
            for (void *block : blocks) {
                freed += far_block_free(block);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(freed, kRounds);
}

} // namespace
