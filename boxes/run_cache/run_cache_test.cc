// SPDX-License-Identifier: Apache-2.0
#include "boxes/run_cache/run_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <set>
#include <thread>
#include <vector>

namespace {

constexpr size_t kFar = (size_t{1} << 46) - 1; // the highest index that a run may start at

std::multiset<std::pair<size_t, size_t>> all() {
    std::multiset<std::pair<size_t, size_t>> runs;
    unsigned cursor = 0;
    for (run_cache_run run; (run = run_cache_take_any(&cursor)).slabs != 0;) {
        runs.emplace(run.from, run.slabs);
    }
    return runs;
}

run_cache_run put(size_t from, size_t slabs) {
    return run_cache_put(hak_thread_slot(), from, slabs, SIZE_MAX);
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
    EXPECT_EQ(put(0, 1).slabs, 0u);
    EXPECT_EQ(put(70, 3).slabs, 0u);
    EXPECT_EQ(put(kFar, 5).slabs, 0u);
    EXPECT_EQ(run_cache_slabs(), 9u);
    EXPECT_EQ(run_cache_take(6), RUN_CACHE_NONE);
    EXPECT_EQ(run_cache_take(3), 70u);
    EXPECT_EQ(run_cache_take(1), 0u);
    EXPECT_EQ(run_cache_take(5), kFar);
    EXPECT_EQ(run_cache_take(1), RUN_CACHE_NONE);
}

TEST_F(RunCache, ALongerRunIsCut) {
    put(100, 9);
    put(200, 4);
    EXPECT_EQ(run_cache_take(3), 200u) << "the shortest that is long enough";
    EXPECT_EQ(run_cache_take(3), 100u);
    EXPECT_EQ(run_cache_take(1), 203u);
    EXPECT_EQ(run_cache_slabs(), 6u);
    EXPECT_EQ(all(), (std::multiset<std::pair<size_t, size_t>>{{103, 6}}));
}

TEST_F(RunCache, AdjacentRunsBecomeOne) {
    put(10, 2);
    put(14, 3);
    put(20, 1);
    EXPECT_EQ(put(12, 2).slabs, 0u);
    EXPECT_EQ(run_cache_slabs(), 8u);
    EXPECT_EQ(run_cache_take(7), 10u);
    EXPECT_EQ(all(), (std::multiset<std::pair<size_t, size_t>>{{20, 1}}));
    put(0, RUN_CACHE_MOST);
    put(RUN_CACHE_MOST, 1);
    EXPECT_EQ(all().size(), 2u) << "together they are too long";
}

TEST_F(RunCache, NothingIsTheEmptyRun) {
    EXPECT_EQ(run_cache_take(0), RUN_CACHE_NONE);
    EXPECT_EQ(run_cache_take(SIZE_MAX), RUN_CACHE_NONE);
}

TEST_F(RunCache, ALongRunIsTheCallersAtOnce) {
    for (size_t most : {size_t{5}, size_t{RUN_CACHE_MOST}}) {
        const run_cache_run back = run_cache_put(hak_thread_slot(), 9, most + 1, most);
        EXPECT_EQ(back.from, 9u);
        EXPECT_EQ(back.slabs, most + 1);
        EXPECT_EQ(run_cache_take(most + 1), RUN_CACHE_NONE);
        EXPECT_EQ(run_cache_slabs(), 0u);
    }
}

TEST_F(RunCache, EveryRunIsSomewhere) {
    std::multiset<std::pair<size_t, size_t>> in;
    for (size_t i = 0; i < 100; i++) {
        const size_t slabs = i * 7 % 11 + 1;
        in.emplace(i * 20, slabs);
        const run_cache_run back = put(i * 20, slabs);
        EXPECT_EQ(back.slabs != 0, i >= RUN_CACHE_WAYS) << i;
        if (back.slabs != 0) {
            EXPECT_EQ(back.slabs,
                      std::min_element(in.begin(), in.end(),
                                       [](auto a, auto b) { return a.second < b.second; })
                          ->second)
                << "the shortest makes room";
            const auto it = in.find({back.from, back.slabs});
            ASSERT_NE(it, in.end());
            in.erase(it);
        }
    }
    EXPECT_EQ(in.size(), size_t{RUN_CACHE_WAYS});
    EXPECT_EQ(all(), in);
}

TEST_F(RunCache, ALineHasNoMoreThanItsCallerAllows) {
    EXPECT_EQ(run_cache_put(hak_thread_slot(), 0, 6, 10).slabs, 0u);
    EXPECT_EQ(run_cache_put(hak_thread_slot(), 20, 4, 10).slabs, 0u);
    run_cache_run back = run_cache_put(hak_thread_slot(), 40, 2, 10);
    EXPECT_EQ(back.from, 0u) << "the longest goes";
    EXPECT_EQ(back.slabs, 6u);
    EXPECT_EQ(run_cache_evict(hak_thread_slot(), 6).slabs, 0u);
    back = run_cache_evict(hak_thread_slot(), 5);
    EXPECT_EQ(back.from, 20u);
    EXPECT_EQ(run_cache_slabs(), 2u);
}

TEST_F(RunCache, CountsTheLinesInUse) {
    put(1, 1);
    const unsigned lines = run_cache_lines();
    EXPECT_GE(lines, 1u);
    EXPECT_LE(lines, unsigned{RUN_CACHE_LINES});
    put(5, 1);
    EXPECT_EQ(run_cache_lines(), lines);
}

TEST_F(RunCache, WhatAThreadLeavesCanBeTakenByAnyCursor) {
    for (size_t i = 0; i < RUN_CACHE_WAYS; i++) {
        // One after the other: all of them may well have the same line.
        std::thread([i] { EXPECT_EQ(put(3 * i, 1).slabs, 0u); }).join();
    }
    EXPECT_EQ(all().size(), size_t{RUN_CACHE_WAYS});
}

TEST_F(RunCache, TakeOwnLeavesTheOtherLines) {
    put(7, 2);
    put(20, 1);
    // Threads whose TLS lies elsewhere: of many, some have other lines.
    std::vector<std::thread> threads;
    std::atomic<unsigned> done{0};
    std::atomic<bool> leave{false};
    for (size_t i = 0; i < 16; i++) {
        threads.emplace_back([&, i] {
            put(100 + 10 * i, 3);
            for (done++; !leave;) {
                std::this_thread::yield();
            }
        });
    }
    while (done < 16) {
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
    EXPECT_EQ(run_cache_take(1), RUN_CACHE_NONE) << "its own line is empty";
    EXPECT_GT(before, own) << "others' runs stay";
    all();
}

// Each slab has one owner at a time, who writes into it without an atomic step, however runs are
// cut and joined.
TEST_F(RunCache, ASlabHasOneOwner) {
    constexpr size_t kSlabs = 96;
    constexpr unsigned kThreads = 4;
    constexpr unsigned kRounds = 50000;
    struct Slab {
        std::atomic<int> owners{0};
        unsigned writes = 0;
    };
    std::vector<Slab> slabs(kSlabs);
    std::atomic<unsigned> writes{0};
    auto use = [&](run_cache_run run) {
        ASSERT_LE(run.from + run.slabs, kSlabs);
        for (size_t i = run.from; i < run.from + run.slabs; i++) {
            EXPECT_EQ(slabs[i].owners.fetch_add(1), 0);
            slabs[i].writes++;
            writes++;
            slabs[i].owners.fetch_sub(1);
        }
    };
    std::vector<std::thread> threads;
    std::array<std::vector<run_cache_run>, kThreads> have;
    for (unsigned t = 0; t < kThreads; t++) {
        for (size_t i = t * kSlabs / kThreads; i < (t + 1) * kSlabs / kThreads; i += 3) {
            have[t].push_back({i, 3});
        }
        threads.emplace_back([&, t] {
            std::vector<run_cache_run> &mine = have[t];
            const auto own = [&](run_cache_run run) {
                if (run.slabs != 0) {
                    use(run);
                    mine.push_back(run);
                }
            };
            for (unsigned round = 0; round < kRounds; round++) {
                if (round % 3 == t % 3 && !mine.empty()) {
                    const run_cache_run run = mine.back();
                    mine.pop_back();
                    use(run);
                    own(run_cache_put(hak_thread_slot(), run.from, run.slabs,
                                      round % 5 == 0 ? 8 : 24));
                } else if (round % 64 == 63) {
                    unsigned cursor = 0;
                    own(run_cache_take_any(&cursor));
                } else {
                    const size_t count = round % 5 + 1;
                    const size_t from = run_cache_take(count);
                    if (from != RUN_CACHE_NONE) {
                        own({from, count});
                    }
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    // Each slab belongs to one thread, or is in the cache.
    std::set<size_t> seen;
    const auto see = [&](size_t from, size_t count) {
        for (size_t i = from; i < from + count; i++) {
            EXPECT_TRUE(seen.insert(i).second) << i;
        }
    };
    for (const std::vector<run_cache_run> &mine : have) {
        for (const run_cache_run run : mine) {
            see(run.from, run.slabs);
        }
    }
    for (const auto &[from, count] : all()) {
        see(from, count);
    }
    EXPECT_EQ(seen.size(), kSlabs);
    unsigned sum = 0;
    for (const Slab &slab : slabs) {
        sum += slab.writes;
    }
    EXPECT_EQ(sum, writes.load());
    EXPECT_GT(sum, kSlabs);
}

} // namespace
