// SPDX-License-Identifier: Apache-2.0
#include "boxes/run_cache/run_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

namespace {

constexpr size_t kFar = (size_t{1} << 56) - 1; // the highest index that a run may start at

std::multiset<std::pair<size_t, size_t>> all() {
    std::multiset<std::pair<size_t, size_t>> runs;
    unsigned cursor = 0;
    for (run_cache_run run; (run = run_cache_take_any(&cursor)).slabs != 0;) {
        runs.emplace(run.from, run.slabs);
    }
    return runs;
}

class RunCache : public testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(all().empty()); }
    void TearDown() override {
        all();
        EXPECT_EQ(run_cache_slabs(), 0u);
    }
};

TEST_F(RunCache, GivesARunOfTheLengthAskedFor) {
    EXPECT_EQ(run_cache_take(1), RUN_CACHE_NONE);
    EXPECT_EQ(run_cache_put(0, 1).slabs, 0u);
    EXPECT_EQ(run_cache_put(70, 3).slabs, 0u);
    EXPECT_EQ(run_cache_put(kFar, RUN_CACHE_MOST).slabs, 0u);
    EXPECT_EQ(run_cache_slabs(), 4u + RUN_CACHE_MOST);
    EXPECT_EQ(run_cache_take(2), RUN_CACHE_NONE);
    EXPECT_EQ(run_cache_take(3), 70u);
    EXPECT_EQ(run_cache_take(3), RUN_CACHE_NONE);
    EXPECT_EQ(run_cache_take(1), 0u);
    EXPECT_EQ(run_cache_take(RUN_CACHE_MOST), kFar);
}

TEST_F(RunCache, NothingIsTheEmptyRun) {
    EXPECT_EQ(run_cache_take(0), RUN_CACHE_NONE);
    EXPECT_EQ(run_cache_take(SIZE_MAX), RUN_CACHE_NONE);
}

TEST_F(RunCache, ALongRunIsTheCallersAtOnce) {
    const run_cache_run back = run_cache_put(9, RUN_CACHE_MOST + 1);
    EXPECT_EQ(back.from, 9u);
    EXPECT_EQ(back.slabs, size_t{RUN_CACHE_MOST} + 1);
    EXPECT_EQ(run_cache_take(RUN_CACHE_MOST + 1), RUN_CACHE_NONE);
    EXPECT_EQ(run_cache_slabs(), 0u);
}

TEST_F(RunCache, EveryRunIsSomewhere) {
    std::multiset<std::pair<size_t, size_t>> in;
    for (size_t i = 0; i < 100; i++) {
        in.emplace(i * 20, i % RUN_CACHE_MOST + 1);
        const run_cache_run back = run_cache_put(i * 20, i % RUN_CACHE_MOST + 1);
        EXPECT_EQ(back.slabs != 0, i >= RUN_CACHE_WAYS) << i;
        if (back.slabs != 0) {
            const auto it = in.find({back.from, back.slabs});
            ASSERT_NE(it, in.end());
            in.erase(it);
        }
    }
    EXPECT_EQ(in.size(), size_t{RUN_CACHE_WAYS});
    EXPECT_EQ(all(), in);
}

TEST_F(RunCache, WhatAThreadLeavesCanBeTakenByAnyCursor) {
    for (size_t i = 0; i < RUN_CACHE_WAYS; i++) {
        // One after the other: all of them may well have the same line.
        std::thread([i] { EXPECT_EQ(run_cache_put(i, 1).slabs, 0u); }).join();
    }
    EXPECT_EQ(all().size(), size_t{RUN_CACHE_WAYS});
}

TEST_F(RunCache, TakeOwnLeavesTheOtherLines) {
    run_cache_put(7, 2);
    run_cache_put(9, 1);
    // Threads whose TLS lies elsewhere: of many, some have other lines.
    std::vector<std::thread> threads;
    std::atomic<unsigned> put{0};
    std::atomic<bool> leave{false};
    for (size_t i = 0; i < 16; i++) {
        threads.emplace_back([&, i] {
            run_cache_put(100 + i, 3);
            for (put++; !leave;) {
                std::this_thread::yield();
            }
        });
    }
    while (put < 16) {
        std::this_thread::yield();
    }
    leave = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    const size_t before = run_cache_slabs();
    size_t own = 0;
    unsigned cursor = 0;
    for (;;) {
        const run_cache_run run = run_cache_take_own(&cursor);
        if (run.slabs == 0) {
            break;
        }
        own += run.slabs;
    }
    EXPECT_LE(cursor, unsigned{RUN_CACHE_WAYS});
    EXPECT_GE(own, 1u);
    EXPECT_EQ(run_cache_slabs(), before - own);
    for (size_t slabs = 1; slabs <= RUN_CACHE_MOST; slabs++) {
        EXPECT_EQ(run_cache_take(slabs), RUN_CACHE_NONE) << "its own line is empty";
    }
    EXPECT_GT(before, own) << "others' runs stay";
    all();
}

// Each run has one owner at a time, who writes into it without an atomic step.
TEST_F(RunCache, ARunHasOneOwner) {
    constexpr unsigned kRuns = 24;
    constexpr unsigned kThreads = 4;
    constexpr unsigned kRounds = 50000;
    struct Run {
        std::atomic<int> owners{0};
        unsigned writes = 0;
    };
    std::vector<Run> runs(kRuns);
    std::atomic<unsigned> writes{0};
    auto use = [&](size_t i) {
        EXPECT_EQ(runs[i].owners.fetch_add(1), 0);
        runs[i].writes++;
        writes++;
        runs[i].owners.fetch_sub(1);
    };
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; t++) {
        threads.emplace_back([&, t] {
            std::vector<size_t> mine;
            for (size_t i = t; i < kRuns; i += kThreads) {
                mine.push_back(i);
            }
            for (unsigned round = 0; round < kRounds; round++) {
                if (round % 3 == t % 3 && !mine.empty()) {
                    const size_t i = mine.back();
                    mine.pop_back();
                    use(i);
                    const run_cache_run back = run_cache_put(i, i % 3 + 1);
                    if (back.slabs != 0) {
                        EXPECT_EQ(back.slabs, back.from % 3 + 1);
                        mine.push_back(back.from);
                    }
                } else if (round % 64 == 63) {
                    unsigned cursor = 0;
                    const run_cache_run run = run_cache_take_any(&cursor);
                    if (run.slabs != 0) {
                        use(run.from);
                        mine.push_back(run.from);
                    }
                } else {
                    const size_t i = run_cache_take(round % 3 + 1);
                    if (i != RUN_CACHE_NONE) {
                        EXPECT_EQ(i % 3, round % 3);
                        use(i);
                        mine.push_back(i);
                    }
                }
            }
            for (size_t i : mine) {
                use(i);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    unsigned sum = 0;
    for (const Run &run : runs) {
        sum += run.writes;
    }
    EXPECT_EQ(sum, writes.load());
    EXPECT_GT(sum, kRuns);
}

} // namespace
