// SPDX-License-Identifier: Apache-2.0
// The example front at work in the flavour that links it: every batch is a page's worth. That it
// serves programs as well as any other front is what the flavour's share of the suite shows.
#include "fronts/libc/test_util.h"

#include <malloc.h>
#include <stdlib.h>

#include <vector>

#include <gtest/gtest.h>

namespace {

using test_util::Stats;

class TinyFrontExample : public testing::TestWithParam<size_t> {};

INSTANTIATE_TEST_SUITE_P(Sizes, TinyFrontExample, testing::Values(64, 128, 256, 1024, 2048, 4096));

TEST_P(TinyFrontExample, MovesAPageOfBlocksAtATime) {
    ASSERT_STREQ(hak_flavour(), "hakmem_example");
    const size_t size = GetParam();
    const size_t page = 4096 / size;
    std::vector<void *> blocks(4000);
    // A cache begins narrow, and is given less at first.
    for (size_t i = 0; i < 200; i++) {
        blocks[i] = malloc(size);
    }
    ASSERT_EQ(malloc_usable_size(blocks[0]), size);

    size_t refills = 0;
    size_t whole = 0;
    for (size_t i = 200; i < blocks.size(); i++) {
        const uint64_t before = Stats().refills;
        const uint64_t blocks_before = Stats().refilled_blocks;
        blocks[i] = malloc(size);
        if (Stats().refills != before) {
            refills++;
            ASSERT_EQ(Stats().refills, before + 1);
            ASSERT_LE(Stats().refilled_blocks, blocks_before + page);
            whole += Stats().refilled_blocks == blocks_before + page;
        }
    }
    // Less than a page's worth only where a slab runs out.
    const size_t slabs = blocks.size() * size / 65536 + 1;
    EXPECT_GE(whole, (blocks.size() - 200) / page - slabs);
    EXPECT_LE(refills - whole, slabs);

    size_t spills = 0;
    for (void *block : blocks) {
        const uint64_t before = Stats().spills;
        const uint64_t blocks_before = Stats().spilled_blocks;
        free(block);
        if (Stats().spills != before) {
            spills++;
            ASSERT_EQ(Stats().spills, before + 1);
            ASSERT_EQ(Stats().spilled_blocks, blocks_before + page);
        }
    }
    EXPECT_GT(spills, blocks.size() / page / 2);
}

} // namespace
