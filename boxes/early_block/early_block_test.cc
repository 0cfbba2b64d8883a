// SPDX-License-Identifier: Apache-2.0
#include "boxes/early_block/early_block.h"

#include <stdint.h>
#include <string.h>

#include <vector>

#include "backends/os.h"
#include "gtest/gtest.h"

namespace {

bool refuse = false;

} // namespace

extern "C" void *__real_os_map_early(size_t size);
extern "C" void *__wrap_os_map_early(size_t size) {
    return refuse ? nullptr : __real_os_map_early(size);
}

namespace {

bool IsZero(const void *block, size_t size) {
    const char *bytes = static_cast<const char *>(block);
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

TEST(EarlyBlock, HasZeroedAlignedBlocksThatDoNotOverlap) {
    struct Block {
        char *at;
        size_t size;
    };
    std::vector<Block> blocks;
    for (size_t size : {0, 1, 15, 16, 17, 100, 1000, 5000, 40000, 1 << 21}) {
        for (size_t align : {1, 16, 32, 64, 4096, 65536}) {
            char *at = static_cast<char *>(early_block_alloc(size, align));
            ASSERT_NE(at, nullptr) << size << " " << align;
            EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % (align < 16 ? 16 : align), 0u);
            EXPECT_TRUE(IsZero(at, size));
            EXPECT_GE(early_block_usable(at), size);
            EXPECT_TRUE(early_block_owns(at));
            memset(at, static_cast<int>(blocks.size() + 1), early_block_usable(at));
            blocks.push_back({at, early_block_usable(at)});
        }
    }
    for (size_t i = 0; i < blocks.size(); i++) {
        for (size_t j = 0; j < blocks[i].size; j++) {
            ASSERT_EQ(blocks[i].at[j], static_cast<char>(i + 1)) << i << " " << j;
        }
        EXPECT_EQ(early_block_usable(blocks[i].at + 16), 0u) << "no block starts there";
        EXPECT_FALSE(early_block_free(blocks[i].at + 8));
    }
    for (const Block &block : blocks) {
        EXPECT_TRUE(early_block_free(block.at));
        EXPECT_EQ(early_block_usable(block.at), 0u);
        EXPECT_FALSE(early_block_free(block.at)) << "freed twice";
        EXPECT_TRUE(early_block_owns(block.at));
    }
}

TEST(EarlyBlock, GrowsAndKeepsTheContents) {
    char *block = static_cast<char *>(early_block_alloc(10, 1));
    ASSERT_NE(block, nullptr);
    memcpy(block, "123456789", 10);
    EXPECT_EQ(early_block_resize(block, 5), block);
    char *grown = static_cast<char *>(early_block_resize(block, 100000));
    ASSERT_NE(grown, nullptr);
    EXPECT_STREQ(grown, "123456789");
    EXPECT_EQ(early_block_usable(block), 0u);
    EXPECT_TRUE(early_block_free(grown));
    EXPECT_EQ(early_block_resize(grown, 5), nullptr);
}

TEST(EarlyBlock, OwnsNothingOfOthers) {
    int local = 0;
    for (const void *ptr : {static_cast<const void *>(nullptr), static_cast<const void *>(&local),
                            static_cast<const void *>("text")}) {
        EXPECT_FALSE(early_block_owns(ptr));
        EXPECT_EQ(early_block_usable(ptr), 0u);
        EXPECT_FALSE(early_block_free(const_cast<void *>(ptr)));
    }
}

TEST(EarlyBlock, SaysNoWhenTheKernelDoes) {
    refuse = true;
    EXPECT_EQ(early_block_alloc(size_t{1} << 24, 16), nullptr);
    EXPECT_EQ(early_block_alloc(SIZE_MAX, 16), nullptr);
    EXPECT_EQ(early_block_alloc(SIZE_MAX - 100, 4096), nullptr);
    EXPECT_EQ(early_block_alloc(16, size_t{1} << 63), nullptr);
    refuse = false;
    EXPECT_NE(early_block_alloc(size_t{1} << 24, 16), nullptr);
}

} // namespace
