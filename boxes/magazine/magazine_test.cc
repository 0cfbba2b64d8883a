// SPDX-License-Identifier: Apache-2.0
#include "boxes/magazine/magazine.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace {

// Loads blocks[0..count); returns how many had room.
unsigned load(magazine *m, void *const *blocks, unsigned count) {
    void **room = magazine_room(m, &count);
    std::copy_n(blocks, count, room);
    magazine_load(m, count);
    return count;
}

TEST(Magazine, TakesWhatFitsAndSaysHowMuch) {
    magazine m = {};
    char memory[MAGAZINE_BLOCKS + 8];
    void *blocks[MAGAZINE_BLOCKS + 8];
    for (int i = 0; i < MAGAZINE_BLOCKS + 8; i++) {
        blocks[i] = &memory[i];
    }
    EXPECT_EQ(load(&m, blocks, 10), 10u);
    EXPECT_EQ(load(&m, blocks + 10, MAGAZINE_BLOCKS), unsigned{MAGAZINE_BLOCKS} - 10);
    EXPECT_EQ(load(&m, blocks, 1), 0u);
    EXPECT_EQ(m.count, unsigned{MAGAZINE_BLOCKS});
    unsigned most = MAGAZINE_BLOCKS + 8;
    void *const *out = magazine_unload(&m, &most);
    ASSERT_EQ(most, unsigned{MAGAZINE_BLOCKS});
    EXPECT_TRUE(std::equal(out, out + most, blocks));
}

TEST(Magazine, GivesTheLastLoadedFirstInTheOrderOfTheLoad) {
    magazine m = {};
    char memory[3];
    void *blocks[3] = {&memory[0], &memory[1], &memory[2]};
    ASSERT_EQ(load(&m, blocks, 3), 3u);
    unsigned most = 2;
    void *const *out = magazine_unload(&m, &most);
    ASSERT_EQ(most, 2u);
    EXPECT_EQ(out[0], &memory[1]);
    EXPECT_EQ(out[1], &memory[2]);
    out = magazine_unload(&m, &most);
    ASSERT_EQ(most, 1u);
    EXPECT_EQ(out[0], &memory[0]);
    magazine_unload(&m, &most);
    EXPECT_EQ(most, 0u);
}

TEST(Magazine, HoldsWhatIsLoadedAndNothingElse) {
    magazine m = {};
    char memory[3] = {};
    void *blocks[2] = {&memory[0], &memory[1]};
    EXPECT_FALSE(magazine_holds(&m, &memory[0]));
    ASSERT_EQ(load(&m, blocks, 2), 2u);
    EXPECT_TRUE(magazine_holds(&m, &memory[0]));
    EXPECT_TRUE(magazine_holds(&m, &memory[1]));
    EXPECT_FALSE(magazine_holds(&m, &memory[2]));
    unsigned most = 1;
    magazine_unload(&m, &most);
    EXPECT_FALSE(magazine_holds(&m, &memory[1]));
}

} // namespace
