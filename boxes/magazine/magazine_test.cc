#include "boxes/magazine/magazine.h"

#include <gtest/gtest.h>

namespace {

TEST(Magazine, TakesWhatFitsAndSaysHowMuch) {
    magazine m = {};
    char memory[MAGAZINE_BLOCKS + 8];
    void *blocks[MAGAZINE_BLOCKS + 8];
    for (int i = 0; i < MAGAZINE_BLOCKS + 8; i++) {
        blocks[i] = &memory[i];
    }
    EXPECT_EQ(magazine_load(&m, blocks, 10), 10u);
    EXPECT_EQ(magazine_load(&m, blocks + 10, MAGAZINE_BLOCKS), unsigned{MAGAZINE_BLOCKS} - 10);
    EXPECT_EQ(magazine_load(&m, blocks, 1), 0u);
    EXPECT_EQ(m.count, unsigned{MAGAZINE_BLOCKS});
}

TEST(Magazine, GivesTheLastLoadedFirst) {
    magazine m = {};
    char memory[3];
    void *blocks[3] = {&memory[0], &memory[1], &memory[2]};
    ASSERT_EQ(magazine_load(&m, blocks, 3), 3u);
    void *out[3];
    ASSERT_EQ(magazine_unload(&m, out, 2), 2u);
    EXPECT_EQ(out[0], &memory[2]);
    EXPECT_EQ(out[1], &memory[1]);
    ASSERT_EQ(magazine_unload(&m, out, 2), 1u);
    EXPECT_EQ(out[0], &memory[0]);
    EXPECT_EQ(magazine_unload(&m, out, 2), 0u);
}

} // namespace
