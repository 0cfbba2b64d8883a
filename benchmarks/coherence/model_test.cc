// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/coherence/model.h"

#include "gtest/gtest.h"

using namespace coherence;

namespace {

constexpr uintptr_t kAt = 0x10000;

TEST(Model, ALineThatOneCoreUsesMovesOnce) {
    Model model{Costs()};
    const Outcome first = model.access(0, kAt, Access::kRead, 0);
    EXPECT_TRUE(first.cold);
    EXPECT_FALSE(first.transfer());
    for (const Access access : {Access::kRead, Access::kWrite, Access::kAtomic, Access::kRead}) {
        const Outcome next = model.access(0, kAt + 63, access, first.done);
        EXPECT_FALSE(next.cold);
        EXPECT_FALSE(next.transfer());
        EXPECT_EQ(next.invalidations, 0u);
    }
}

TEST(Model, ALineThatTwoCoresWriteInTurnMovesEachTime) {
    Model model{Costs()};
    uint64_t now = model.access(1, kAt, Access::kWrite, 0).done;
    for (int i = 0; i < 100; i++) {
        const Outcome outcome = model.access(i % 2, kAt + 8, Access::kAtomic, now);
        EXPECT_TRUE(outcome.fetch);
        EXPECT_FALSE(outcome.upgrade);
        EXPECT_EQ(outcome.invalidations, 1u);
        EXPECT_EQ(outcome.done - now, Costs().hit + Costs().atomic + Costs().group);
        now = outcome.done;
    }
}

TEST(Model, AWriteTakesTheCopiesOfAllReaders) {
    Model model{Costs()};
    for (unsigned core = 0; core < kMostCores; core++) {
        EXPECT_EQ(model.access(core, kAt, Access::kRead, 0).fetch, core > 0);
    }
    const Outcome write = model.access(5, kAt, Access::kWrite, 1000000000);
    EXPECT_TRUE(write.upgrade);
    EXPECT_FALSE(write.fetch);
    EXPECT_EQ(write.invalidations, kMostCores - 1);
    EXPECT_TRUE(model.access(6, kAt, Access::kRead, write.done).fetch);
    EXPECT_FALSE(model.access(6, kAt, Access::kRead, write.done).transfer());
    EXPECT_EQ(model.access(5, kAt, Access::kWrite, 2000000000).invalidations, 1u);
}

TEST(Model, ALineComesFromTheNearestReaderAndIsTakenFromTheFarthest) {
    Costs costs;
    costs.cores_of_socket = 16;
    Model model{costs};
    uint64_t now = model.access(0, kAt, Access::kWrite, 0).done;
    const auto took = [&](unsigned core, Access access) {
        const uint64_t before = now;
        now = model.access(core, kAt, access, now).done;
        return now - before - costs.hit;
    };
    EXPECT_EQ(took(20, Access::kRead), costs.machine);
    EXPECT_EQ(took(8, Access::kRead), costs.socket);
    EXPECT_EQ(took(9, Access::kRead), costs.group);
    EXPECT_EQ(took(9, Access::kWrite), costs.machine);
    EXPECT_EQ(took(10, Access::kWrite), costs.group);
}

TEST(Model, CoresThatWantOneLineHaveItInTurn) {
    const Costs costs;
    Model model{costs};
    const uint64_t now = model.access(0, kAt, Access::kWrite, 0).done;
    const uint64_t later = now + 1000000;
    // The owner goes on with it until the first of the others has its turn.
    for (unsigned core = 1; core < 8; core++) {
        EXPECT_EQ(model.queue(core, kAt, Access::kWrite, later),
                  later + (core - 1) * (costs.group + costs.hold));
    }
    EXPECT_EQ(model.queue(0, kAt, Access::kWrite, later), later);
    EXPECT_FALSE(model.access(0, kAt, Access::kWrite, later).transfer());
    EXPECT_TRUE(model.access(1, kAt, Access::kWrite, later).fetch);
    EXPECT_EQ(model.queue(0, kAt, Access::kRead, later), later + 7 * (costs.group + costs.hold));
    // Another line is another matter.
    model.access(0, kAt + kLine, Access::kWrite, 0);
    EXPECT_EQ(model.queue(1, kAt + kLine, Access::kWrite, later), later);
}

TEST(Model, ReadersOfALineThatNobodyWritesDoNotWait) {
    Model model{Costs()};
    model.access(0, kAt, Access::kRead, 0);
    model.access(1, kAt, Access::kRead, 0);
    for (unsigned core = 2; core < kMostCores; core++) {
        EXPECT_EQ(model.queue(core, kAt, Access::kRead, 1000000), 1000000u);
        EXPECT_TRUE(model.access(core, kAt, Access::kRead, 1000000).fetch);
    }
}

TEST(Model, MemoryThatIsGivenBackIsColdAgain) {
    Model model{Costs()};
    model.access(0, kAt, Access::kWrite, 0);
    model.access(0, kAt + kPage, Access::kWrite, 0);
    model.forget(kAt, kPage);
    EXPECT_TRUE(model.access(1, kAt, Access::kWrite, 0).cold);
    EXPECT_TRUE(model.access(1, kAt + kPage, Access::kWrite, 0).fetch);
    model.forget(0, SIZE_MAX / 2);
    EXPECT_TRUE(model.access(1, kAt + kPage, Access::kWrite, 0).cold);
}

} // namespace
