#include "boxes/tls_sll/tls_sll.h"

#include <gtest/gtest.h>

#include <cstring>
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

TEST(TlsSllDeathTest, BlockListedTwice) {
    alignas(16) char memory[3][16] = {};
    void *blocks[3] = {memory[0], memory[1], memory[2]};
    tls_sll list = {};
    tls_sll_push(&list, blocks, 3);
    EXPECT_DEATH(tls_sll_push(&list, &blocks[1], 1),
                 "^hakmem: free\\(0x[0-9a-f]+\\): block freed twice");
}

TEST(TlsSll, AKeyLeftInABlockThatIsNotListedIsNoFault) {
    alignas(16) char memory[2][16] = {};
    void *blocks[2] = {memory[0], memory[1]};
    tls_sll list = {};
    tls_sll_push(&list, &blocks[0], 1);
    std::memcpy(memory[1], memory[0], 16);
    tls_sll_push(&list, &blocks[1], 1);
    EXPECT_EQ(list.count, 2u);
}

} // namespace
