// SPDX-License-Identifier: Apache-2.0
#include "boxes/moved_runs/moved_runs.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

static size_t mappings = 65530;
static std::atomic<size_t> questions;
extern "C" size_t __wrap_os_most_mappings(void) {
    questions++;
    return mappings;
}

namespace {

bool same(moved_run a, moved_run b) {
    return a.from == b.from && a.slabs == b.slabs;
}

void remove_all() {
    for (size_t i = 0; i < moved_runs_end(); i++) {
        moved_run run = moved_runs_at(i);
        EXPECT_EQ(run.slabs != 0, moved_runs_change(i, run, {0, 0}));
    }
    EXPECT_EQ(moved_runs_count(), 0u);
}

TEST(MovedRuns, AreNotedChangedAndForgotten) {
    constexpr moved_run kRun = {0xffffffff, 0xffffffff};
    constexpr moved_run kOther = {1, 1};
    ASSERT_TRUE(moved_runs_add(kRun));
    ASSERT_TRUE(moved_runs_add(kOther));
    EXPECT_EQ(moved_runs_count(), 2u);
    ASSERT_EQ(moved_runs_end(), 2u);
    EXPECT_TRUE(same(moved_runs_at(0), kRun));
    EXPECT_TRUE(same(moved_runs_at(1), kOther));
    EXPECT_FALSE(moved_runs_change(1, kRun, {5, 5})) << "it is another";
    EXPECT_TRUE(moved_runs_change(1, kOther, {5, 5}));
    EXPECT_EQ(moved_runs_count(), 2u);
    EXPECT_TRUE(moved_runs_change(0, kRun, {0, 0}));
    EXPECT_FALSE(moved_runs_change(0, kRun, {0, 0}));
    EXPECT_EQ(moved_runs_count(), 1u);
    ASSERT_TRUE(moved_runs_add(kOther)) << "in the place of the first";
    EXPECT_TRUE(same(moved_runs_at(0), kOther));
    EXPECT_EQ(moved_runs_end(), 2u);
    remove_all();
}

TEST(MovedRuns, OfManyThereIsAMost) {
    size_t added = 0;
    while (moved_runs_add({added + 1, 1})) {
        added++;
    }
    EXPECT_EQ(added, static_cast<size_t>(MOVED_RUNS_MOST));
    remove_all();
    // The less the kernel grants, the fewer; the limit may change. A few are not asked about.
    questions = 0;
    mappings = 72 * 100 + 71;
    added = 0;
    while (moved_runs_add({added + 1, 1})) {
        EXPECT_EQ(questions > 0, added >= 8);
        added++;
    }
    EXPECT_EQ(added, 100u);
    remove_all();
    mappings = 10;
    added = 0;
    while (moved_runs_add({added + 1, 1})) {
        added++;
    }
    EXPECT_EQ(added, 8u);
    remove_all();
    mappings = 65530;
}

TEST(MovedRuns, ThreadsNeverNoteMoreThanTheMost) {
    constexpr size_t kThreads = 4;
    std::atomic<size_t> live{0};
    std::atomic<int> faults{0};
    std::vector<std::thread> threads;
    for (size_t me = 0; me < kThreads; me++) {
        threads.emplace_back([&, me] {
            for (size_t round = 0; round < 300; round++) {
                size_t mine = 0;
                while (mine < 400 && moved_runs_add({me + 1, round + 1})) {
                    faults += live++ >= MOVED_RUNS_MOST;
                    mine++;
                }
                for (size_t i = 0; mine > 0; i = (i + 1) % moved_runs_end()) {
                    live--;
                    if (moved_runs_change(i, {me + 1, round + 1}, {0, 0})) {
                        mine--;
                    } else {
                        live++;
                    }
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(moved_runs_count(), 0u);
    EXPECT_EQ(live.load(), 0u);
    EXPECT_EQ(faults.load(), 0);
}

} // namespace
