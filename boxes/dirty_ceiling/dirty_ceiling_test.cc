// SPDX-License-Identifier: Apache-2.0
#include "boxes/dirty_ceiling/dirty_ceiling.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace {

constexpr size_t kLeast = DIRTY_CEILING_LEAST;
constexpr uint32_t kPeriod = 500;

// A heap as the arena would count it, and time, which does not go back from test to test.
class DirtyCeiling : public testing::Test {
  protected:
    void SetUp() override { now += 100 * kPeriod; }

    // Claims slabs: those with pages first.
    void claim(size_t slabs) {
        size_t with_pages = std::min(dirty, slabs);
        dirty -= with_pages;
        held += slabs;
        fresh += slabs - with_pages;
        dirty_ceiling_count_claimed(slabs, with_pages);
    }
    // Frees slabs, `each` at a time.
    void release(size_t slabs, size_t each) {
        for (size_t i = 0; i < slabs; i += each) {
            held -= each;
            dirty += each;
            size_t give = dirty_ceiling_surplus(dirty, held, each, now, kPeriod);
            ASSERT_LE(give, dirty);
            ASSERT_LE(give, size_t{DIRTY_CEILING_MOST});
            ASSERT_TRUE(give == 0 || give >= DIRTY_CEILING_STEP);
            freed += each;
            gone += give;
            ASSERT_LE(gone, 2 * freed);
            dirty -= give;
            given += give;
            dirty_ceiling_count_given(dirty, give, give);
        }
    }

    static uint32_t now;
    size_t dirty = 0, held = 0;
    size_t fresh = 0; // slabs claimed that had no pages
    size_t given = 0;
    size_t freed = DIRTY_CEILING_MOST / 2, gone = 0; // what a test before this one may have left
};
uint32_t DirtyCeiling::now = 0xffff0000; // it wraps in the course of the tests

TEST_F(DirtyCeiling, AFreedPeakLeavesTheLeast) {
    for (size_t each : {1, 5, 50}) {
        claim(4000);
        release(4000, each);
        EXPECT_LT(dirty, kLeast + 2 * DIRTY_CEILING_STEP) << each;
        EXPECT_GE(dirty, kLeast) << each;
        now += 10 * kPeriod;
        dirty = 0;
    }
}

TEST_F(DirtyCeiling, WhatIsHeldRaisesIt) {
    claim(100000);
    release(10000, 1);
    EXPECT_EQ(given, 0u);
    release(10000, 1);
    EXPECT_LT(dirty, held / DIRTY_CEILING_SHARE + 2 * DIRTY_CEILING_STEP + 100);
    EXPECT_GE(dirty, held / DIRTY_CEILING_SHARE);
}

TEST_F(DirtyCeiling, ASmallHeapKeepsAQuarter) {
    claim(2000);
    release(1600, 1); // 400 are held
    EXPECT_GE(dirty, 400u / 4);
    EXPECT_LT(dirty, 400u / 4 + 2 * DIRTY_CEILING_STEP);
    release(400, 1);
    EXPECT_GE(dirty, kLeast);
    EXPECT_LT(dirty, kLeast + 2 * DIRTY_CEILING_STEP);
}

TEST_F(DirtyCeiling, PhasesPayOnce) {
    claim(4000);
    release(4000, 1);
    EXPECT_GE(given, 4000 - kLeast - 2 * DIRTY_CEILING_STEP);
    size_t once = given;
    claim(4000);
    fresh = 0;
    for (int phase = 0; phase < 50; phase++) {
        now += kPeriod / 3;
        release(4000, 1);
        claim(4000);
    }
    EXPECT_EQ(given, once);
    EXPECT_EQ(fresh, 0u);
}

TEST_F(DirtyCeiling, PhasesWithLongRestsAreForgotten) {
    claim(4000);
    release(4000, 1);
    claim(4000);
    now += 3 * kPeriod;
    size_t before = given;
    for (int i = 0; i < 2000; i++) { // a claim or two in between bring nothing back to mind
        release(1, 1);
        release(1, 1);
        claim(1);
    }
    release(2000, 1);
    EXPECT_GE(given - before, 4000 - kLeast - 2 * DIRTY_CEILING_STEP);
    EXPECT_LT(dirty, kLeast + 2 * DIRTY_CEILING_STEP);
}

TEST_F(DirtyCeiling, WhatCannotBeGivenBackIsNotAskedForAgainAtOnce) {
    size_t first = dirty_ceiling_surplus(4000, 0, 100, now, kPeriod);
    ASSERT_GT(first, 0u);
    int asked = 0;
    for (int i = 0; i < 1000; i++) {
        size_t surplus = dirty_ceiling_surplus(4000, 0, 100, now, kPeriod);
        if (surplus != 0) {
            asked++;
            dirty_ceiling_count_given(4000, surplus, 0);
        }
    }
    EXPECT_LE(asked, DIRTY_CEILING_MISSES);
    now += 3 * kPeriod;
    EXPECT_GT(dirty_ceiling_surplus(4000, 0, 100, now, kPeriod), 0u);
}

// Threads that free at the same time find less than they are asked for, as others hold runs of free
// slabs while they give these back. What they miss is asked for again.
TEST_F(DirtyCeiling, WhatOtherThreadsWereGivingBackIsAskedForAgain) {
    claim(4000);
    size_t there = 4000;
    for (int i = 0; i < 4000 && there > kLeast + DIRTY_CEILING_STEP; i++) {
        size_t surplus = dirty_ceiling_surplus(there, 0, 1, now, kPeriod);
        if (surplus != 0) {
            size_t found = i % 3 == 0 ? surplus : i % 3 == 1 ? surplus / 2 : 0;
            there -= found;
            dirty_ceiling_count_given(there, surplus, found);
        }
    }
    EXPECT_LE(there, kLeast + DIRTY_CEILING_STEP);
}

TEST_F(DirtyCeiling, TurnoverIsNoPhase) {
    claim(4000);
    for (int i = 0; i < 100000; i++) {
        release(5, 5);
        claim(5);
    }
    release(4000, 5);
    EXPECT_LT(dirty, kLeast + 2 * DIRTY_CEILING_STEP);
}

TEST_F(DirtyCeiling, GrowthIsNoPhase) {
    claim(4000);
    release(2000, 1); // gives some back
    ASSERT_GT(given, 0u);
    size_t back = given;
    // Far more than was given back: no more than that is drawn.
    claim(50000);
    held = 0;
    EXPECT_GT(dirty_ceiling_surplus(20000, 0, 100, now, kPeriod), 0u);
    EXPECT_EQ(dirty_ceiling_surplus(std::min(back, kLeast), 0, 100, now, kPeriod), 0u);
}

} // namespace
