// SPDX-License-Identifier: Apache-2.0
#include "boxes/base/alone.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace {

void expect_steps() {
    _Atomic(uint64_t) word{5};
    EXPECT_FALSE(hak_step_swap(&word, 4, 9));
    EXPECT_EQ(5u, word);
    EXPECT_TRUE(hak_step_swap(&word, 5, UINT64_MAX - 1));
    EXPECT_EQ(UINT64_MAX - 1, word);
    hak_step_add(&word, 3);
    EXPECT_EQ(1u, word);
    hak_step_set(&word, UINT64_C(1) << 63 | 3);
    EXPECT_EQ(UINT64_C(1) << 63 | 3, word);

    _Atomic(uint8_t) bytes[3] = {{7}, {2}, {7}};
    EXPECT_FALSE(hak_step_swap_byte(&bytes[1], 1, 9));
    EXPECT_EQ(2u, bytes[1]);
    EXPECT_TRUE(hak_step_swap_byte(&bytes[1], 2, 255));
    EXPECT_EQ(255u, bytes[1]);
    EXPECT_EQ(7u, bytes[0]);
    EXPECT_EQ(7u, bytes[2]);
}

TEST(Alone, AStepDoesTheSameWithAndWithoutThreads) {
    if (HAK_ALONE != 0) {
        ASSERT_TRUE(hak_alone());
    }
    expect_steps();
    std::thread([] {
        EXPECT_FALSE(hak_alone());
        expect_steps();
    }).join();
}

TEST(Alone, StepsOfManyThreadsAreAtomic) {
    constexpr unsigned kThreads = 4, kTimes = 100000;
    _Atomic(uint64_t) sum{0};
    _Atomic(uint64_t) swapped{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; t++) {
        threads.emplace_back([&] {
            for (unsigned i = 0; i < kTimes; i++) {
                hak_step_add(&sum, 1);
                for (uint64_t seen = swapped; !hak_step_swap(&swapped, seen, seen + 1);) {
                    seen = swapped;
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(kThreads * kTimes, sum);
    EXPECT_EQ(kThreads * kTimes, swapped);
}

} // namespace
