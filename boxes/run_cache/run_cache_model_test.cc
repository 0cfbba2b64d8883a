// SPDX-License-Identifier: Apache-2.0
// Model checking of the run cache: every interleaving of threads that share a line, and every fork
// in between. Whatever the threads do, and however runs are cut and joined, a slab belongs to one
// thread or is in one place of the line.
#include "boxes/run_cache/run_cache.h"

#include "boxes/run_cache/run_cache_model.h"
#include "tools/model_checker/model_checker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace {

using model::Op;
using model::Program;

// Slabs are numbers from 1 on. A thread's slabs, and the places of the line, are sets of them.
constexpr unsigned kSlabs = 40;

constexpr uint64_t bits_of(size_t from, size_t slabs) {
    return ((uint64_t{1} << slabs) - 1) << from;
}

enum Kind { PUT, TAKE, TAKE_ANY, EVICT };

// Puts a run that starts at the thread's lowest slab: all its adjacent slabs, but no more than
// `slabs`. The line is to have no more than `most` slabs then.
Op put(unsigned slabs = 63, unsigned most = 63) {
    return {PUT, slabs, most};
}
const Op kPut = put();
Op take(unsigned slabs) {
    return {TAKE, slabs};
}
Op evict(unsigned most) {
    return {EVICT, most};
}
const Op kTakeAny = {TAKE_ANY};    // and then all others
const Op kTakeOwn = {TAKE_ANY, 1}; // and then all others of the line

class Cache : public model::Checker {
  public:
    explicit Cache(std::vector<Program> programs) : Checker(std::move(programs)) {
        size_t bytes;
        volatile void *lines = model_lines(&bytes);
        memset(const_cast<void *>(lines), 0, bytes);
        cells(model_own_line(), sizeof(uint64_t), RUN_CACHE_WAYS, "way");
        ignore(lines, bytes);                                 // the other lines are empty
        ignore(model_used(), sizeof(uint64_t), ~uint64_t{0}); // each bit is set once
        data(&has_, sizeof has_);
        data(&giving_, sizeof giving_);
    }

    // Thread t has these slabs at the start.
    void has(size_t t, std::initializer_list<unsigned> slabs) {
        for (unsigned slab : slabs) {
            has_[t] |= uint64_t{1} << slab;
        }
    }
    // Thread 0 puts such a run into the cache.
    void fill(unsigned from, unsigned slabs = 1) {
        uint64_t others = has_[0];
        has_[0] = bits_of(from, slabs);
        before(0, kPut);
        has_[0] = others;
    }

    // All slabs are now where they are to start.
    void start() {
        for (size_t t = 0; t < threads(); t++) {
            all_ |= has_[t];
        }
        for (unsigned way = 0; way < RUN_CACHE_WAYS; way++) {
            uint64_t word = model_own_line()[way];
            all_ |= word == 0 ? 0 : bits_of(model_run(word).from, model_run(word).slabs);
        }
    }

    // At the end nothing may be in the cache.
    void is_left_empty() { is_left_empty_ = true; }

  protected:
    void perform(const Op &op) override {
        uint64_t &mine = has_[running()];
        switch (op.kind) {
        case PUT: {
            run_cache_run &giving = giving_[running()];
            if (first()) { // another may take it before the call ends
                giving = lowest(mine, op.a);
                mine &= ~bits_of(giving.from, giving.slabs);
            }
            if (giving.slabs == 0) {
                break;
            }
            run_cache_run out = run_cache_put(hak_thread_slot(), giving.from, giving.slabs, op.b);
            giving = {0, 0};
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
        case EVICT:
            own(run_cache_evict(hak_thread_slot(), op.a));
            break;
        default:
            count_ = 0;
            for (unsigned cursor = op.a == 0 ? model_own_place() : 0;;) {
                run_cache_run out =
                    op.a == 0 ? run_cache_take_any(&cursor) : run_cache_take_own(&cursor);
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
        return op.kind == PUT     ? "puts"
               : op.kind == TAKE  ? "takes a run of " + std::to_string(op.a)
               : op.kind == EVICT ? "evicts"
               : op.a == 0        ? "takes all"
                                  : "takes all of the line";
    }

    void at_end(bool is_child) override {
        uint64_t seen = 0;
        for (size_t t = 0; t < threads(); t++) {
            seen |= has_[t];
        }
        for (unsigned way = 0; way < RUN_CACHE_WAYS; way++) {
            uint64_t word = model_own_line()[way];
            if (word == 0) {
                continue;
            }
            if (is_left_empty_) {
                note("a thread that takes all has left a run");
            }
            see(model_run(word).from, model_run(word).slabs, "what is in the cache is no run",
                "a slab is twice in the world", &seen);
        }
        if (!is_child && seen != all_) {
            note("a slab is lost");
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
    static run_cache_run lowest(uint64_t slabs, unsigned most) {
        if (slabs == 0) {
            return {0, 0};
        }
        auto from = static_cast<unsigned>(__builtin_ctzll(slabs));
        return {from, std::min(static_cast<unsigned>(__builtin_ctzll(~(slabs >> from))), most)};
    }
    void see(size_t from, size_t slabs, const char *no_run, const char *twice, uint64_t *seen) {
        if (from == 0 || slabs == 0 || from + slabs > kSlabs) {
            note(no_run);
            return;
        }
        if ((*seen & bits_of(from, slabs)) != 0) {
            note(twice);
        }
        *seen |= bits_of(from, slabs);
    }
    void own(run_cache_run run) {
        if (run.slabs == 0) {
            return;
        }
        uint64_t all = 0;
        for (size_t t = 0; t < threads(); t++) {
            all |= has_[t];
        }
        see(run.from, run.slabs, "what came out is no run", "a slab is in two pairs of hands",
            &all);
        has_[running()] |= bits_of(run.from, run.slabs);
    }

    std::array<uint64_t, 3> has_ = {};         // slabs of each thread, a bit each
    std::array<run_cache_run, 3> giving_ = {}; // what each thread is putting
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
    cache.fill(3);
    expect_sound(cache, 500);
}

TEST(RunCacheModel, ThreeTakeTwo) {
    Cache cache({{take(1)}, {take(1)}, {take(1)}});
    cache.fill(1);
    cache.fill(3);
    expect_sound(cache, 100);
}

TEST(RunCacheModel, ThreeCutOneRun) {
    Cache cache({{take(1), kPut}, {take(2), kPut}, {take(3)}});
    cache.fill(1, 5);
    expect_sound(cache, 500);
}

// A run that a thread has looked at may have gone and come back by the time that it takes it.
TEST(RunCacheModel, ARunGoesAndComesBack) {
    Cache cache({{take(1)}, {take(1), kPut, take(1)}});
    cache.fill(1);
    expect_sound(cache, 50);
}

// Or it has come back longer, or cut at the other end.
TEST(RunCacheModel, ARunComesBackAsAnotherOne) {
    Cache cache({{take(2)}, {take(3), put(2), kPut}, {kPut}});
    cache.fill(2, 4);
    cache.has(2, {1});
    expect_sound(cache, 500);
}

TEST(RunCacheModel, TwoJoinTheSameRun) {
    Cache cache({{kPut, take(3)}, {kPut}});
    cache.fill(2);
    cache.has(0, {1});
    cache.has(1, {3});
    expect_sound(cache, 100);
}

TEST(RunCacheModel, ARunIsJoinedWhileItIsTaken) {
    Cache cache({{kPut}, {take(1), kPut}, {take(2)}});
    cache.fill(2);
    cache.fill(4);
    cache.has(0, {3});
    expect_sound(cache, 500);
}

TEST(RunCacheModel, AFullLineMakesRoom) {
    Cache cache({{kPut, take(2)}, {kPut}});
    for (unsigned way = 0; way < RUN_CACHE_WAYS; way++) {
        cache.fill(1 + 3 * way, way == 0 ? 1 : 2);
    }
    cache.has(0, {30, 31});
    cache.has(1, {34});
    expect_sound(cache, 100);
}

TEST(RunCacheModel, TwoMakeRoomInOnePlace) {
    Cache cache({{put(2), kPut}, {put(2)}});
    for (unsigned way = 0; way + 1 < RUN_CACHE_WAYS; way++) {
        cache.fill(1 + 3 * way);
    }
    cache.has(0, {28, 29, 31, 32});
    cache.has(1, {35, 36});
    expect_sound(cache, 100);
}

TEST(RunCacheModel, TwoEvictTheSameRun) {
    Cache cache({{evict(2), take(1)}, {put(63, 3)}, {take(2)}});
    cache.fill(1, 3);
    cache.fill(5);
    cache.has(1, {8, 9});
    expect_sound(cache, 500);
}

TEST(RunCacheModel, AllAreTakenWhileOthersPutAndTake) {
    Cache cache({{kTakeAny}, {kPut, take(1)}, {take(2)}});
    cache.fill(1, 2);
    cache.fill(4);
    cache.has(1, {3});
    expect_sound(cache, 500);
}

TEST(RunCacheModel, TwoTakeAllWhileAnotherPuts) {
    Cache cache({{kTakeAny}, {kTakeAny}, {kPut}});
    cache.fill(1);
    cache.fill(5, 2);
    cache.has(2, {3});
    expect_sound(cache, 500);
}

TEST(RunCacheModel, TwoTakeAllAndLeaveNothing) {
    Cache cache({{kTakeAny}, {kTakeAny}, {take(2)}});
    cache.fill(1);
    cache.fill(3, 2);
    cache.fill(6);
    cache.is_left_empty();
    expect_sound(cache, 300);
}

TEST(RunCacheModel, OneTakesAllOfTheLineWhileAnotherTakesSome) {
    Cache cache({{kTakeOwn}, {take(1)}});
    cache.fill(1);
    cache.fill(3, 2);
    cache.fill(6);
    cache.is_left_empty();
    expect_sound(cache, 30);
}

TEST(RunCacheModel, AChildHasNoSlabTwice) {
    Cache cache({{kPut, take(1)}, {take(1), kPut}});
    cache.fill(1);
    cache.fill(3, 2);
    cache.has(0, {2});
    cache.with_forks({take(1), kPut, kTakeAny});
    expect_sound(cache, 300);
}

} // namespace
