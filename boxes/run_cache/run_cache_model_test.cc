// SPDX-License-Identifier: Apache-2.0
// Model checking of the run cache: every interleaving of threads that share a line, and every fork
// in between. Whatever they do, a run is in one pair of hands or in one place.
#include "boxes/run_cache/run_cache.h"

#include "boxes/run_cache/run_cache_model.h"
#include "tools/model_checker/model_checker.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace {

using model::Op;
using model::Program;

// Runs are numbers from 1 on, which are their first slabs. The odd ones have one slab, the others
// two.
constexpr unsigned kRuns = 13;
constexpr size_t slabs_of(size_t run) {
    return run % 2 == 1 ? 1 : 2;
}

enum Kind { PUT, TAKE, TAKE_ANY };

const Op kPut = {PUT}; // the lowest run that the thread has
Op take(unsigned slabs) {
    return {TAKE, slabs};
}
const Op kTakeAny = {TAKE_ANY}; // and then all others

class Cache : public model::Checker {
  public:
    explicit Cache(std::vector<Program> programs) : Checker(std::move(programs)) {
        size_t bytes;
        volatile void *lines = model_lines(&bytes);
        memset(const_cast<void *>(lines), 0, bytes);
        cells(model_own_line(), sizeof(uint64_t), RUN_CACHE_WAYS, "way");
        ignore(lines, bytes); // the other lines are empty
        data(&has_, sizeof has_);
    }

    // Thread t has these runs at the start.
    void has(size_t t, std::initializer_list<unsigned> runs) {
        for (unsigned run : runs) {
            has_[t] |= 1u << run;
        }
    }
    // Thread 0 puts these into the cache.
    void fill(std::initializer_list<unsigned> runs) {
        for (unsigned run : runs) {
            uint64_t others = has_[0];
            has_[0] = 1u << run;
            before(0, kPut);
            has_[0] = others;
        }
    }

    // All runs are now where they are to start.
    void start() {
        for (size_t t = 0; t < threads(); t++) {
            all_ |= has_[t];
        }
        for (unsigned way = 0; way < RUN_CACHE_WAYS; way++) {
            uint64_t word = model_own_line()[way];
            all_ |= word == 0 ? 0 : uint64_t{1} << (word >> 8);
        }
    }

    // At the end nothing may be in the cache.
    void is_left_empty() { is_left_empty_ = true; }

  protected:
    void perform(const Op &op) override {
        uint64_t &mine = has_[running()];
        switch (op.kind) {
        case PUT: {
            if (mine == 0) {
                break;
            }
            auto run = static_cast<unsigned>(__builtin_ctzll(mine));
            run_cache_run out = run_cache_put(run, slabs_of(run));
            mine &= ~(uint64_t{1} << run);
            own(out);
            break;
        }
        case TAKE: {
            size_t from = run_cache_take(op.a);
            if (from != RUN_CACHE_NONE) {
                own({from, op.a});
            }
            break;
        }
        default:
            count_ = 0;
            for (unsigned cursor = model_own_place();;) {
                run_cache_run out = run_cache_take_any(&cursor);
                if (out.slabs == 0) {
                    break;
                }
                taken_[count_++] = out;
            }
            for (unsigned i = 0; i < count_; i++) {
                own(taken_[i]);
            }
            break;
        }
    }

    std::string name_of(const Op &op) const override {
        return op.kind == PUT    ? "puts"
               : op.kind == TAKE ? "takes a run of " + std::to_string(op.a)
                                 : "takes all";
    }

    void at_end(bool is_child) override {
        uint64_t seen = 0;
        for (size_t t = 0; t < threads(); t++) {
            seen |= has_[t];
        }
        for (unsigned way = 0; way < RUN_CACHE_WAYS; way++) {
            uint64_t word = model_own_line()[way];
            uint64_t run = word >> 8;
            if (word == 0) {
                continue;
            }
            if (is_left_empty_) {
                note("a thread that takes all has left a run");
            }
            if (run > kRuns || (word & 0xff) != slabs_of(run)) {
                note("what is in the cache is no run");
            } else if ((seen >> run & 1) != 0) {
                note("a run is twice in the world");
            }
            seen |= uint64_t{1} << run;
        }
        if (!is_child && seen != all_) {
            note("a run is lost");
        }
    }

    std::string describe() const override {
        std::string text;
        for (size_t t = 0; t < threads(); t++) {
            text += "thread " + std::to_string(t) + " has " + std::to_string(has_[t]) + "\n";
        }
        return text;
    }

  private:
    void own(run_cache_run run) {
        if (run.slabs == 0) {
            return;
        }
        if (run.from == 0 || run.from > kRuns || run.slabs != slabs_of(run.from)) {
            note("what came out is no run");
            return;
        }
        for (size_t t = 0; t < threads(); t++) {
            if ((has_[t] >> run.from & 1) != 0) {
                note("a run is in two pairs of hands");
            }
        }
        has_[running()] |= uint64_t{1} << run.from;
    }

    std::array<uint64_t, 3> has_ = {}; // runs of each thread
    uint64_t all_ = 0;
    bool is_left_empty_ = false;
    run_cache_run taken_[RUN_CACHE_WAYS];
    unsigned count_ = 0;
};

void expect_sound(Cache &cache, size_t least_states) {
    cache.start();
    ASSERT_TRUE(cache.check()) << cache.report();
    EXPECT_GE(cache.states(), least_states);
    EXPECT_GE(cache.ends(), 1u);
    printf("%zu states, %zu ends, %zu forks\n", cache.states(), cache.ends(), cache.children());
}

TEST(RunCacheModel, TwoPutAndTake) {
    Cache cache({{kPut, take(1)}, {kPut, take(1)}});
    cache.has(0, {1});
    cache.has(1, {3});
    expect_sound(cache, 50);
}

TEST(RunCacheModel, ThreePutAndTakeTheSameLength) {
    Cache cache({{kPut, take(1)}, {take(1), kPut}, {take(1)}});
    cache.has(0, {1});
    cache.fill({3});
    expect_sound(cache, 1000);
}

TEST(RunCacheModel, ThreeTakeTwo) {
    Cache cache({{take(1)}, {take(1)}, {take(1)}});
    cache.fill({1, 2, 3});
    expect_sound(cache, 100);
}

TEST(RunCacheModel, LengthsAreNotMixed) {
    Cache cache({{take(1), kPut}, {take(2), kPut}, {take(2)}});
    cache.fill({1, 2, 3});
    expect_sound(cache, 1000);
}

// A run that a thread has looked at may have gone and come back by the time that it takes it.
TEST(RunCacheModel, ARunGoesAndComesBack) {
    Cache cache({{take(1)}, {take(1), kPut, take(1)}});
    cache.fill({1});
    expect_sound(cache, 90);
}

TEST(RunCacheModel, AFullLineMakesRoom) {
    Cache cache({{kPut, take(2)}, {kPut, take(1)}, {take(1)}});
    cache.fill({1, 2, 3, 4, 5, 6, 7, 8});
    cache.has(0, {9});
    cache.has(1, {11});
    expect_sound(cache, 1000);
}

TEST(RunCacheModel, TwoMakeRoomInOnePlace) {
    Cache cache({{kPut, kPut}, {kPut, kPut}});
    cache.fill({1, 2, 3, 4, 5, 6, 7});
    cache.has(0, {8, 9});
    cache.has(1, {10, 12});
    expect_sound(cache, 500);
}

TEST(RunCacheModel, AllAreTakenWhileOthersPutAndTake) {
    Cache cache({{kTakeAny}, {kPut, take(1)}, {take(2)}});
    cache.fill({1, 2, 4});
    cache.has(1, {3});
    expect_sound(cache, 1000);
}

TEST(RunCacheModel, TwoTakeAllWhileAnotherPuts) {
    Cache cache({{kTakeAny}, {kTakeAny}, {kPut}});
    cache.fill({1, 2});
    cache.has(2, {3});
    expect_sound(cache, 1000);
}

TEST(RunCacheModel, TwoTakeAllAndLeaveNothing) {
    Cache cache({{kTakeAny}, {kTakeAny}, {take(1)}});
    cache.fill({1, 2, 3});
    cache.is_left_empty();
    expect_sound(cache, 500);
}

TEST(RunCacheModel, AChildHasNoRunTwice) {
    Cache cache({{kPut, take(1)}, {take(1), kPut}, {kTakeAny}});
    cache.fill({1, 2});
    cache.has(0, {3});
    cache.with_forks({take(1), kPut, kTakeAny});
    expect_sound(cache, 1000);
}

} // namespace
