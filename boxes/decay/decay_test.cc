// SPDX-License-Identifier: Apache-2.0
#include "boxes/decay/decay.h"

#include "backends/os.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/size_class/size_class.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

// The linker (--wrap) puts these in the place of the backend's: time passes when the test says so,
// and by one us with every look at the fine clock.
static std::atomic<uint64_t> clock_ms{100000};
static std::atomic<uint64_t> looked_us{0};
static std::atomic<uint64_t> us_a_look{1};
static int looks_left = 0; // looks at the clock up to the one that does not return; 0: all return
static jmp_buf left_step;
extern "C" {
uint64_t __wrap_os_now_ms(void) {
    return clock_ms;
}
uint64_t __wrap_os_now_ns(void) {
    if (looks_left > 0 && --looks_left == 0) {
        longjmp(left_step, 1);
    }
    return clock_ms * 1000000 + (looked_us += us_a_look) * 1000;
}
extern int64_t settings_values[SETTING_COUNT];

// The next `creates_left` threads cannot be started.
static int creates_left = 0;
static int create_error = 0;
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg) {
    if (creates_left > 0) {
        creates_left--;
        return create_error;
    }
    return __real_pthread_create(thread, attr, run, arg);
}
}

namespace {

constexpr int kDecay = 400;

// The background thread, once started, reads the settings for ever.
void set(setting which, int64_t value) {
    HAK_POKE(&settings_values[which], value);
}

class Decay : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(page_arena_init());
        decay_all(0);
        set(SETTING_DECAY_MS, kDecay);
        clock_ms += 10 * kDecay;
    }
    void TearDown() override {
        EXPECT_EQ(page_arena_held(), 0u);
        set(SETTING_DECAY_MS, settings_table[SETTING_DECAY_MS].preset);
        set(SETTING_BACKGROUND, 0);
    }

    // Makes `slabs` free slabs with pages. The release gives none of them back, however many.
    static void make_dirty(size_t slabs) {
        bool zero;
        size_t run = page_arena_claim(slabs, 1, &zero);
        ASSERT_NE(run, ARENA_NONE);
        int64_t decay = settings_get(SETTING_DECAY_MS);
        set(SETTING_DECAY_MS, -1);
        page_arena_release(run, slabs, true);
        set(SETTING_DECAY_MS, decay);
    }

    // Misses every ms until `done`, for `ms` at most. Returns how long that took.
    template <typename Done> static uint64_t tick_until(Done done, uint64_t ms) {
        uint64_t begin = clock_ms;
        while (!done() && clock_ms < begin + ms) {
            decay_tick(++clock_ms);
        }
        return clock_ms - begin;
    }
    static bool clean() { return page_arena_dirty() == 0; }

    // Leaves the next step that is due in the middle of it.
    static void jump_out_of_a_step() {
        bool out = false;
        while (!out) {
            looks_left = 2; // The first look is not the one at which a step begins.
            if (setjmp(left_step) == 0) {
                decay_tick(++clock_ms);
            } else {
                out = true;
            }
        }
        looks_left = 0;
    }

    // Runs fn() in a child. Returns 0 if no expectation failed there.
    template <typename Function> static int in_child(pid_t (*make)(), Function fn) {
        pid_t pid = make();
        if (pid == 0) {
            fn();
            _exit(HasFailure());
        }
        int status = -1;
        waitpid(pid, &status, 0);
        return status;
    }
};

class DecayUptime : public Decay, public testing::WithParamInterface<uint64_t> {};

TEST_P(DecayUptime, FreeSlabsGoBackAfterTheSetTime) {
    clock_ms = ((clock_ms >> 32) + 1) << 32 | GetParam(); // never back
    tick_until([] { return false; }, 2 * kDecay);         // ends a round that is under way
    make_dirty(500);
    EXPECT_EQ(tick_until([] { return page_arena_dirty() < 500; }, kDecay - 1), kDecay - 1u)
        << "too early";
    // The next round begins within half a decay time; it takes a few steps.
    EXPECT_LE(tick_until(clean, 10 * kDecay), kDecay / 2 + 100u);
    EXPECT_TRUE(clean());
    // Weeks go by without a miss, and then the same happens again.
    clock_ms += 0x90000000;
    make_dirty(5);
    EXPECT_LE(tick_until(clean, 10 * kDecay), kDecay + kDecay / 2 + 100u);
    EXPECT_TRUE(clean());
}

// The arena keeps the low half of the clock: 2^31 and 2^32 ms are 25 and 50 days.
INSTANTIATE_TEST_SUITE_P(Since, DecayUptime,
                         testing::Values(0, 200000, 0x7ffffe00, 0x80000000, 0xfffffe00));

TEST_F(Decay, PagesInsideSlabsGoBackWhenTheSlabHasBeenQuiet) {
    const unsigned kBin = size_class_bin_of(32768); // 2 blocks a slab
    tick_until([] { return false; }, 2 * kDecay);
    shared_pool_hint hint = ARENA_NONE;
    std::vector<void *> blocks(2);
    ASSERT_EQ(shared_pool_take(kBin, blocks.data(), 2, &hint), 2u);
    memset(blocks[0], 1, 32768);
    memset(blocks[1], 2, 32768);
    shared_pool_put(kBin, &blocks[1], 1);
    auto returned = [] {
        decay_stats stats;
        decay_get_stats(&stats);
        return stats.pages;
    };
    uint64_t before = returned();
    // One round marks the slab, and a later one gives the pages back.
    uint64_t took = tick_until([&] { return returned() != before; }, 10 * kDecay);
    EXPECT_GE(took, kDecay / 2u);
    EXPECT_LE(took, kDecay + 100u);
    EXPECT_EQ(returned() - before, 8u);
    EXPECT_EQ(static_cast<char *>(blocks[0])[32767], 1);
    // A slab in use all the time is left alone.
    hint = ARENA_NONE;
    ASSERT_EQ(shared_pool_take(kBin, &blocks[1], 1, &hint), 1u);
    before = returned();
    tick_until(
        [&] {
            shared_pool_put(kBin, &blocks[1], 1);
            EXPECT_EQ(shared_pool_take(kBin, &blocks[1], 1, &hint), 1u);
            return false;
        },
        4 * kDecay);
    EXPECT_EQ(returned(), before);
    shared_pool_put(kBin, blocks.data(), 2);
}

// If the kernel refuses, the round ends; the next one goes on behind that place.
TEST_F(Decay, APageThatTheKernelWillNotTakeIsInNobodysWay) {
    const unsigned kBin = size_class_bin_of(32768); // 2 blocks a slab
    shared_pool_hint hint = ARENA_NONE;
    std::vector<void *> blocks(4);
    for (void *&block : blocks) {
        ASSERT_EQ(shared_pool_take(kBin, &block, 1, &hint), 1u);
        memset(block, 1, 32768);
    }
    // The system call itself: sanitizers make mlock() do nothing.
    if (syscall(SYS_mlock, blocks[1], HAK_PAGE) != 0) {
        GTEST_SKIP() << "no memory may be locked";
    }
    decay_stats before;
    decay_get_stats(&before);
    shared_pool_put(kBin, &blocks[1], 1);
    shared_pool_put(kBin, &blocks[3], 1);
    decay_stats after;
    tick_until(
        [&] {
            decay_get_stats(&after);
            return after.pages != before.pages;
        },
        20 * kDecay);
    EXPECT_EQ(after.pages - before.pages, 8u) << "of the second slab";
    syscall(SYS_munlock, blocks[1], HAK_PAGE);
    shared_pool_put(kBin, &blocks[0], 1);
    shared_pool_put(kBin, &blocks[2], 1);
}

TEST_F(Decay, OneStepIsBounded) {
    tick_until([] { return false; }, 2 * kDecay);
    make_dirty(4000);
    tick_until([] { return page_arena_dirty() < 4000; }, 10 * kDecay);
    // While the round goes on, each step gives something back, and none gives all of it back.
    size_t steps = 0;
    for (size_t last = page_arena_dirty(); last > 0 && steps < 1000; steps++) {
        tick_until([last] { return page_arena_dirty() < last; }, 100);
        size_t now = page_arena_dirty();
        ASSERT_LT(now, last);
        // At one us a look, the least step of 100 us is 100 slices of 16 slabs.
        ASSERT_LE(last - now, (DECAY_STEP_MOST_US + 1) * size_t{16});
        last = now;
    }
    EXPECT_TRUE(clean());
    decay_stats stats;
    decay_get_stats(&stats);
    EXPECT_LE(stats.longest, (DECAY_STEP_MOST_US + 1) * uint64_t{1000});
    EXPECT_GE(stats.ns, stats.longest);
    EXPECT_GE(stats.steps, 2u);
}

TEST_F(Decay, NeverAndAtOnce) {
    make_dirty(10);
    set(SETTING_DECAY_MS, -1);
    EXPECT_EQ(decay_idle_ms(), UINT64_MAX);
    tick_until([] { return false; }, 5000);
    EXPECT_EQ(page_arena_dirty(), 10u);
    set(SETTING_DECAY_MS, 0);
    EXPECT_EQ(decay_idle_ms(), 0u);
    EXPECT_LE(tick_until(clean, 1000), 5u);
    EXPECT_TRUE(clean());
}

TEST_F(Decay, AllGivesAllBackNow) {
    const unsigned bin = size_class_bin_of(3072);
    shared_pool_hint hint = ARENA_NONE;
    void *blocks[4];
    ASSERT_EQ(shared_pool_take(bin, blocks, 4, &hint), 4u);
    for (void *block : blocks) {
        memset(block, 1, size_class_bins[bin].size);
    }
    shared_pool_put(bin, blocks + 1, 3);
    make_dirty(7);
    EXPECT_GE(decay_all(0), 7u * 16);
    EXPECT_TRUE(clean());
    EXPECT_EQ(decay_all(0), 0u);
    shared_pool_put(bin, blocks, 1);
    EXPECT_EQ(decay_all(0), 16u);
}

uint64_t rounds() {
    decay_stats stats;
    decay_get_stats(&stats);
    return stats.rounds;
}

TEST_F(Decay, ARoundThatFoundNothingIsFollowedByARest) {
    tick_until([] { return false; }, 4 * kDecay);
    uint64_t begin = rounds();
    auto until_round = [begin](uint64_t n) {
        return tick_until([begin, n] { return rounds() == begin + n; }, 1000 * kDecay);
    };
    until_round(1);
    uint64_t before = looked_us;
    until_round(2);
    // Each look takes so long that a round takes about 40 ms.
    us_a_look = 40000 / (looked_us - before) + 1;
    until_round(3);
    us_a_look = 1;
    uint64_t rest = until_round(4);
    EXPECT_GE(rest, 20u * DECAY_REST);
    EXPECT_LE(rest, 100u * DECAY_REST);
    // A short round is followed by the next one after half a decay time.
    EXPECT_LE(until_round(5), kDecay / 2 + 5u);
}

// Calls fn in a thread with another mark than `mark`; few threads have the same one.
void in_another_thread(uint8_t mark, const std::function<void()> &fn) {
    std::thread([&] {
        if (hak_thread_mark() != mark) {
            fn();
        } else {
            in_another_thread(mark, fn); // while this thread still has the unwanted mark
        }
    }).join();
}

TEST_F(Decay, AThreadThatNeverComesBackFromAStepEndsNothing) {
    make_dirty(10);
    // Another thread can do steps after a while,
    jump_out_of_a_step();
    uint64_t took = 0;
    in_another_thread(hak_thread_mark(),
                      [&] { took = tick_until(clean, 10 * kDecay + DECAY_LEASE_MS); });
    EXPECT_TRUE(clean());
    EXPECT_GE(took, DECAY_LEASE_MS - 10u);
    // and the same one at once.
    make_dirty(10);
    jump_out_of_a_step();
    tick_until(clean, 2 * kDecay);
    EXPECT_TRUE(clean());
}

TEST_F(Decay, AllButWhatIsToBeKept) {
    make_dirty(10);
    EXPECT_EQ(decay_all(20 * ARENA_SLAB), 0u);
    EXPECT_EQ(page_arena_dirty(), 10u);
    EXPECT_EQ(decay_all(SIZE_MAX), 0u);
    EXPECT_EQ(decay_all(7 * ARENA_SLAB), 3u * 16);
    EXPECT_EQ(page_arena_dirty(), 7u);
    EXPECT_EQ(decay_all(2 * ARENA_SLAB + 1), 4u * 16) << "a part of a slab is a slab";
    EXPECT_EQ(page_arena_dirty(), 3u);
    // Slabs that are set aside count as free.
    bool zero;
    page_arena_set_aside(page_arena_claim(3, ARENA_SLAB, &zero), 3, hak_thread_slot());
    EXPECT_EQ(page_arena_dirty(), 3u);
    EXPECT_EQ(decay_all(1), 2u * 16);
    EXPECT_EQ(decay_all(0), 1u * 16);
    EXPECT_TRUE(clean());
}

TEST_F(Decay, BackgroundThreadThatCannotStartGetsOneLine) {
    set(SETTING_BACKGROUND, 1);
    for (int error : {EAGAIN, EPERM, EINVAL}) {
        create_error = error;
        creates_left = 1000;
        testing::internal::CaptureStderr();
        decay_start();
        EXPECT_EQ(testing::internal::GetCapturedStderr(),
                  "hakmem: warning: HAKMEM_BACKGROUND=1: no thread could be started; memory goes "
                  "back on cache misses\n");
        EXPECT_EQ(creates_left < 999, error == EINVAL) << "only a stack too small is tried larger";
    }
    creates_left = 0;
    make_dirty(10);
    tick_until(clean, 10 * kDecay);
    EXPECT_TRUE(clean()) << "misses do the steps";
    // A few refusals of a stack's size do not keep the thread from being started.
    EXPECT_EQ(in_child(fork,
                       [] {
                           set(SETTING_BACKGROUND, 1);
                           create_error = EINVAL;
                           creates_left = 3;
                           decay_start();
                           make_dirty(10);
                           while (!clean()) {
                               clock_ms++;
                               std::this_thread::yield();
                           }
                       }),
              0);
}

TEST_F(Decay, BackgroundThreadDoesTheSteps) {
    decay_start();
    make_dirty(10);
    tick_until(clean, 10 * kDecay);
    EXPECT_TRUE(clean()) << "not asked for: misses do them";
    // In a process of its own: the thread never ends.
    EXPECT_EQ(in_child(fork,
                       [] {
                           set(SETTING_BACKGROUND, 1);
                           decay_start();
                           make_dirty(10);
                           uint64_t freed = clock_ms;
                           while (!clean()) {
                               clock_ms++;
                               std::this_thread::yield();
                           }
                           EXPECT_GE(clock_ms, freed + kDecay);
                           EXPECT_EQ(in_child(fork,
                                              [] {
                                                  decay_after_fork();
                                                  make_dirty(10);
                                                  tick_until(clean, 10 * kDecay);
                                                  EXPECT_TRUE(clean()) << "misses do them again";
                                              }),
                                     0);
                           // _Fork() calls no handler.
                           EXPECT_EQ(in_child(_Fork,
                                              [] {
                                                  make_dirty(10);
                                                  tick_until(clean, 100 * kDecay);
                                                  EXPECT_TRUE(clean())
                                                      << "misses do them in the end";
                                              }),
                                     0);
                       }),
              0);
}

// Blocks of one size after the other come, and few stay. Time does not pass.
TEST_F(Decay, AHeapThatGrowsGivesBackWhatIsIdleInItsSlabs) {
    constexpr size_t kSlabs = 400;
    shared_pool_hint hints[SIZE_CLASS_BINS];
    std::fill(std::begin(hints), std::end(hints), ARENA_NONE);
    std::vector<std::pair<unsigned, void *>> kept;
    for (size_t size : {512, 640, 768, 896, 1024}) {
        const unsigned bin = size_class_bin_of(size);
        std::vector<void *> blocks;
        while (blocks.size() < kSlabs * ARENA_SLAB / size) {
            void *block = nullptr;
            ASSERT_EQ(shared_pool_take(bin, &block, 1, &hints[bin]), 1u);
            memset(block, 1, size);
            blocks.push_back(block);
            decay_tick(clock_ms);
        }
        for (size_t i = 0; i < blocks.size(); i++) {
            if (i % 50 == 0) {
                kept.emplace_back(bin, blocks[i]);
            } else {
                shared_pool_put(bin, &blocks[i], 1);
            }
        }
    }
    // All idle pages but those that the last size has left.
    const shared_pool_totals totals = shared_pool_get_totals();
    EXPECT_GE(totals.slabs, 5 * (kSlabs - 5) * ARENA_SLAB);
    EXPECT_LE(totals.slabs - totals.clean, totals.slabs / 3 * 2);
    for (auto [bin, block] : kept) {
        shared_pool_put(bin, &block, 1);
    }
}

} // namespace
