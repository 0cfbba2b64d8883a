// SPDX-License-Identifier: Apache-2.0
#include "boxes/tls_sll/tls_sll.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

namespace {

TEST(TlsSll, EmptyGivesNothing) {
    tls_sll list = {};
    void *out[4];
    EXPECT_EQ(tls_sll_pop(&list, out, 4), 0u);
    EXPECT_EQ(list.count, 0u);
}

TEST(TlsSll, FirstOfABatchComesOutFirstAndTheLastBatchBeforeEarlierOnes) {
    alignas(16) char memory[6][16];
    void *first[3] = {memory[0], memory[1], memory[2]};
    void *second[3] = {memory[3], memory[4], memory[5]};
    tls_sll list = {};
    tls_sll_push(&list, first, 3);
    tls_sll_push(&list, second, 3);
    EXPECT_EQ(list.count, 6u);
    void *out[6];
    ASSERT_EQ(tls_sll_pop(&list, out, 4), 4u);
    EXPECT_EQ(std::vector<void *>(out, out + 4),
              (std::vector<void *>{memory[3], memory[4], memory[5], memory[0]}));
    ASSERT_EQ(tls_sll_pop(&list, out, 6), 2u);
    EXPECT_EQ(out[0], memory[1]);
    EXPECT_EQ(out[1], memory[2]);
    EXPECT_EQ(list.head, nullptr);
    EXPECT_EQ(list.count, 0u);
}

TEST(TlsSll, HoldsWhatIsListedAndNothingElse) {
    alignas(16) char memory[4][16] = {};
    void *blocks[3] = {memory[0], memory[1], memory[2]};
    tls_sll list = {};
    EXPECT_FALSE(tls_sll_holds(&list, memory[0]));
    tls_sll_push(&list, blocks, 3);
    for (void *block : blocks) {
        EXPECT_TRUE(tls_sll_holds(&list, block));
    }
    EXPECT_FALSE(tls_sll_holds(&list, memory[3]));
    EXPECT_FALSE(tls_sll_holds(&list, memory[1] + 1));
    void *out[2];
    ASSERT_EQ(tls_sll_pop(&list, out, 2), 2u);
    EXPECT_FALSE(tls_sll_holds(&list, memory[1]));
    EXPECT_TRUE(tls_sll_holds(&list, memory[2]));
}

TEST(TlsSll, FindsWhatIsTwice) {
    alignas(16) char memory[200][16] = {};
    std::vector<void *> blocks;
    for (auto &block : memory) {
        blocks.push_back(block);
    }
    tls_sll list = {};
    EXPECT_EQ(tls_sll_find_twice(&list, blocks.data(), 200), nullptr);
    tls_sll_push(&list, blocks.data(), 100);
    EXPECT_EQ(tls_sll_find_twice(&list, blocks.data() + 100, 100), nullptr);
    EXPECT_EQ(tls_sll_find_twice(&list, blocks.data() + 99, 100), blocks[99]);
    blocks[150] = blocks[120];
    EXPECT_EQ(tls_sll_find_twice(&list, blocks.data() + 100, 100), blocks[120]);
}

TEST(TlsSll, LeavesAllButTheFirstWordAlone) {
    alignas(16) char memory[2][16];
    std::memset(memory, 0x5a, sizeof memory);
    void *blocks[2] = {memory[0], memory[1]};
    tls_sll list = {};
    tls_sll_push(&list, blocks, 2);
    ASSERT_EQ(tls_sll_pop(&list, blocks, 2), 2u);
    const std::string kept(8, 0x5a);
    EXPECT_EQ(std::string(memory[0] + 8, 8), kept);
    EXPECT_EQ(std::string(memory[1] + 8, 8), kept);
}

} // namespace
