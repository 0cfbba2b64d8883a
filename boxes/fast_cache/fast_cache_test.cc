// SPDX-License-Identifier: Apache-2.0
#include "boxes/fast_cache/fast_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

class FastCache : public testing::Test {
  protected:
    FastCache() : slots(FAST_CACHE_SLOTS, nullptr) { init(true); }

    void init(bool zeroed) {
        fast_cache_init(bins, slots.data(), zeroed);
        for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
            bottoms[bin] = bins[bin].top;
        }
    }
    // Anything but NULL serves as a block: blocks are neither read nor written.
    static void *block(uintptr_t n) { return reinterpret_cast<void *>(n * 16); }
    void **bottom(unsigned bin) { return bottoms[bin]; }
    static int narrow(unsigned bin) {
        if (bin == 0) {
            return 0;
        }
        int fit = FAST_CACHE_NARROW_BYTES / static_cast<int>(size_class_bins[bin].size);
        return std::clamp(fit, 0, int{FAST_CACHE_NARROW});
    }
    bool widen(unsigned bin, fast_cache_width width = FAST_CACHE_WIDE) {
        return fast_cache_widen(&bins[bin], &bottoms[bin], slots.data(), bin, width);
    }
    // Pushes blocks `first` to first + count - 1, so that the first is popped first.
    void fill(unsigned bin, uintptr_t first, unsigned count) {
        unsigned most = count;
        void **room = fast_cache_room(&bins[bin], &most);
        ASSERT_EQ(most, count);
        for (unsigned i = 0; i < count; i++) {
            room[i] = block(first + i);
        }
        fast_cache_fill(&bins[bin], count);
    }
    unsigned held(unsigned bin) { return fast_cache_held(&bins[bin], &bottoms[bin], bin); }

    fast_bin bins[SIZE_CLASS_BINS];
    void **bottoms[SIZE_CLASS_BINS];
    std::vector<void *> slots;
};

TEST_F(FastCache, StartsEmptyAndNarrow) {
    for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
        EXPECT_EQ(fast_cache_pop(&bins[bin]), nullptr);
        EXPECT_EQ(held(bin), 0u);
        EXPECT_EQ(bins[bin].limit - bins[bin].top, narrow(bin));
        EXPECT_LT(bins[bin].limit - slots.data(), SIZE_CLASS_BINS * (FAST_CACHE_NARROW + 1))
            << "narrow stacks stand together";
    }
    EXPECT_FALSE(fast_cache_push(&bins[0], block(1))) << "bin 0 is always full";
    EXPECT_EQ(fast_cache_pop(&bins[0]), nullptr) << "and always empty";
}

TEST_F(FastCache, NarrowStacksOfBlocksAboveAPageHaveNoSlots) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        EXPECT_EQ(fast_cache_is_closed(&bins[bin], bottom(bin)), size_class_bins[bin].size > 4096);
        ASSERT_TRUE(widen(bin));
        EXPECT_FALSE(fast_cache_is_closed(&bins[bin], bottom(bin)));
        fast_cache_narrow(&bins[bin], &bottoms[bin], slots.data(), bin);
        EXPECT_EQ(fast_cache_is_closed(&bins[bin], bottom(bin)), size_class_bins[bin].size > 4096);
    }
}

TEST_F(FastCache, SlotsThatAreNotZeroBecomeEmptyStacks) {
    std::fill(slots.begin(), slots.end(), block(99));
    init(false);
    for (fast_bin &bin : bins) {
        EXPECT_EQ(fast_cache_pop(&bin), nullptr);
    }
}

TEST_F(FastCache, FullStacksOfAllBinsDoNotOverlap) {
    // All narrow ones full, then all wide ones, with the same blocks and more.
    for (bool wide : {false, true}) {
        for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
            int room = wide ? size_class_bins[bin].slots : narrow(bin);
            EXPECT_EQ(wide && widen(bin), wide && size_class_bins[bin].slots > narrow(bin));
            EXPECT_FALSE(wide && widen(bin)) << "it is wide by now";
            for (int i = static_cast<int>(held(bin)); i < room; i++) {
                ASSERT_TRUE(fast_cache_push(&bins[bin], block(bin * 1000 + i + 1)));
            }
            ASSERT_FALSE(fast_cache_push(&bins[bin], block(1)));
            ASSERT_LE(bins[bin].limit, &slots.back());
        }
    }
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        for (unsigned i = size_class_bins[bin].slots; i-- > 0;) {
            ASSERT_EQ(fast_cache_pop(&bins[bin]), block(bin * 1000 + i + 1));
        }
        ASSERT_EQ(fast_cache_pop(&bins[bin]), nullptr);
        ASSERT_EQ(fast_cache_pop(&bins[bin]), nullptr);
        fast_cache_narrow(&bins[bin], &bottoms[bin], slots.data(), bin);
        ASSERT_EQ(fast_cache_pop(&bins[bin]), nullptr);
        ASSERT_EQ(bins[bin].limit - bins[bin].top, narrow(bin));
    }
    EXPECT_FALSE(widen(0)) << "bin 0 has no slots, however wide";
}

TEST_F(FastCache, FromNarrowOverMiddleToWideNoBlockIsLost) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        const int wide = size_class_bins[bin].slots;
        const int middle =
            std::min(wide, static_cast<int>(FAST_CACHE_MIDDLE_BYTES / size_class_bins[bin].size));
        int room = narrow(bin);
        int pushed = 0;
        auto fill = [&] {
            while (fast_cache_push(&bins[bin], block(pushed + 1))) {
                pushed++;
            }
            EXPECT_EQ(pushed, room) << "bin " << bin;
        };
        fill();
        EXPECT_EQ(widen(bin, FAST_CACHE_MIDDLE), middle > room);
        room = std::max(room, middle);
        fill();
        EXPECT_EQ(widen(bin), wide > room);
        room = std::max(room, wide);
        fill();
        EXPECT_FALSE(widen(bin, FAST_CACHE_MIDDLE)) << "it does not shrink";
        while (pushed > 0) {
            ASSERT_EQ(fast_cache_pop(&bins[bin]), block(pushed));
            pushed--;
        }
        EXPECT_EQ(fast_cache_pop(&bins[bin]), nullptr);
    }
}

TEST_F(FastCache, DeepStacksHoldMoreAndDoNotOverlap) {
    std::vector<void *> deep(FAST_CACHE_DEEP_SLOTS + 1, block(99)); // whatever they held
    std::vector<int> room(SIZE_CLASS_BINS);
    int deeper = 0;
    for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
        const int wide = size_class_bins[bin].slots;
        const int size = static_cast<int>(size_class_bins[bin].size);
        // 8 B: 4096 blocks. Others take 64 KiB, or are 1024, or take 256 KiB.
        const int fit = bin == 0     ? 0
                        : size == 8  ? 4096
                        : size <= 64 ? 65536 / size
                                     : std::min(1024, 262144 / size);
        EXPECT_EQ(fast_cache_can_be_deep(bin), fit > wide) << "bin " << bin;
        room[bin] = fit > wide ? fit : 0;
        deeper += fit > wide;
    }
    EXPECT_GE(deeper, SIZE_CLASS_BINS / 4);
    // From narrow ones that hold a block or from wide ones that are full.
    for (bool from_wide : {false, true}) {
        for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
            if (room[bin] == 0) {
                continue;
            }
            int pushed = 0;
            auto push = [&] { return fast_cache_push(&bins[bin], block(bin * 2000 + ++pushed)); };
            if (narrow(bin) > 0) {
                ASSERT_TRUE(push());
            }
            if (from_wide) {
                ASSERT_TRUE(widen(bin));
                while (push()) {
                }
                pushed--;
            }
            ASSERT_TRUE(
                fast_cache_widen(&bins[bin], &bottoms[bin], deep.data(), bin, FAST_CACHE_DEEP));
            EXPECT_FALSE(
                fast_cache_widen(&bins[bin], &bottoms[bin], deep.data(), bin, FAST_CACHE_DEEP));
            EXPECT_FALSE(widen(bin)) << "it does not shrink";
            EXPECT_EQ(held(bin), static_cast<unsigned>(pushed));
            while (push()) {
            }
            pushed--;
            EXPECT_EQ(pushed, room[bin]);
            EXPECT_EQ(held(bin), static_cast<unsigned>(pushed));
            ASSERT_LE(bins[bin].limit, &deep[FAST_CACHE_DEEP_SLOTS - 1]);
        }
        EXPECT_EQ(deep.back(), block(99));
        for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
            for (int i = room[bin]; i > 0; i--) {
                ASSERT_EQ(fast_cache_pop(&bins[bin]), block(bin * 2000 + static_cast<unsigned>(i)));
            }
            ASSERT_EQ(fast_cache_pop(&bins[bin]), nullptr);
            fast_cache_narrow(&bins[bin], &bottoms[bin], slots.data(), bin);
            ASSERT_EQ(bins[bin].limit - bins[bin].top, narrow(bin));
        }
    }
}

TEST_F(FastCache, EverySizeOfTheHitPathFindsItsStack) {
    uint8_t table[SIZE_CLASS_TABLE];
    size_class_fill_table(table);
    for (size_t size = 1; size <= SIZE_CLASS_ALLOC_MAX; size++) {
        ASSERT_EQ(fast_cache_words(bins, size_class_hit_place(table, size)),
                  &bins[size_class_bin_of(size)].top)
            << size;
    }
    // Size 0 may find the bin that never holds anything.
    EXPECT_LE(size_class_hit_place(table, 0), 2u);
}

TEST_F(FastCache, FillKeepsTheOrder) {
    fast_bin *bin = &bins[3];
    ASSERT_TRUE(widen(3));
    for (unsigned count = 0; count <= 5; count++) {
        fill(3, 1, count);
        EXPECT_EQ(held(3), count);
        for (uintptr_t i = 1; i <= count; i++) {
            EXPECT_EQ(fast_cache_pop(bin), block(i));
        }
        EXPECT_EQ(fast_cache_pop(bin), nullptr);
    }
    unsigned most = 3;
    EXPECT_EQ(fast_cache_room(bin, &most), bin->top + 1);
    EXPECT_EQ(most, 3u);
    most = 100000;
    fast_cache_room(bin, &most);
    EXPECT_EQ(most, static_cast<unsigned>(bin->limit - bin->top));
    EXPECT_EQ(most, size_class_bins[3].slots);
}

TEST_F(FastCache, DetachTakesTheOldest) {
    fast_bin *bin = &bins[3];
    ASSERT_TRUE(widen(3));
    void **low = bottom(3);
    fill(3, 1, 10);
    EXPECT_EQ(fast_cache_pop(bin), block(1));
    EXPECT_EQ(fast_cache_pop(bin), block(2));
    ASSERT_TRUE(fast_cache_push(bin, block(100)));
    // Oldest first: 10, 9, ..., 3, and then 100.
    void **out = fast_cache_detach(bin, &bottoms[3], 3);
    EXPECT_EQ(out, low);
    EXPECT_THAT(std::vector<void *>(out, out + 3),
                testing::UnorderedElementsAre(block(10), block(9), block(8)));
    EXPECT_EQ(held(3), 6u);
    // The stack is whole meanwhile, and the blocks stay where they are.
    EXPECT_EQ(fast_cache_pop(bin), block(100));
    EXPECT_EQ(fast_cache_pop(bin), block(3));
    ASSERT_TRUE(fast_cache_push(bin, block(101)));
    void **more = fast_cache_detach(bin, &bottoms[3], 2);
    EXPECT_THAT(std::vector<void *>(more, more + 2),
                testing::UnorderedElementsAre(block(7), block(6)));
    EXPECT_THAT(std::vector<void *>(out, out + 3),
                testing::UnorderedElementsAre(block(10), block(9), block(8)));
    fast_cache_settle(bin, &bottoms[3], out);
    EXPECT_EQ(bottom(3), low);
    EXPECT_EQ(held(3), 3u);
    unsigned room = 100000;
    fast_cache_room(bin, &room);
    EXPECT_EQ(room, size_class_bins[3].slots - 3u);
    EXPECT_EQ(fast_cache_pop(bin), block(101));
    EXPECT_EQ(fast_cache_pop(bin), block(4));
    EXPECT_EQ(fast_cache_pop(bin), block(5));
    EXPECT_EQ(fast_cache_pop(bin), nullptr);
}

TEST_F(FastCache, DetachMayTakeAll) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        widen(bin);
        for (unsigned count : {1u, 2u, unsigned{size_class_bins[bin].slots}}) {
            count = std::min(count, unsigned{size_class_bins[bin].slots});
            fill(bin, 1, count);
            void **low = bottom(bin);
            void **out = fast_cache_detach(&bins[bin], &bottoms[bin], count);
            std::vector<void *> got(out, out + count);
            std::sort(got.begin(), got.end());
            for (unsigned i = 0; i < count; i++) {
                ASSERT_EQ(got[i], block(i + 1));
            }
            EXPECT_EQ(held(bin), 0u);
            EXPECT_EQ(fast_cache_pop(&bins[bin]), nullptr);
            if (count % 2 == 1) {
                fast_cache_narrow(&bins[bin], &bottoms[bin], slots.data(), bin);
                EXPECT_EQ(bins[bin].limit - bins[bin].top, narrow(bin));
                widen(bin);
            } else {
                fast_cache_settle(&bins[bin], &bottoms[bin], low);
            }
            EXPECT_EQ(held(bin), 0u);
            EXPECT_EQ(fast_cache_pop(&bins[bin]), nullptr);
        }
    }
}

// As after a spill that was left by longjmp().
TEST_F(FastCache, WideningMovesAStackThatWasNotSettled) {
    ASSERT_TRUE(widen(3, FAST_CACHE_MIDDLE));
    void **low = bottom(3);
    fill(3, 1, 10);
    fast_cache_detach(&bins[3], &bottoms[3], 2);
    ASSERT_TRUE(widen(3));
    EXPECT_EQ(bottom(3), low);
    EXPECT_EQ(held(3), 8u);
    for (uintptr_t i = 1; i <= 8; i++) {
        EXPECT_EQ(fast_cache_pop(&bins[3]), block(i));
    }
    EXPECT_EQ(fast_cache_pop(&bins[3]), nullptr);
}

TEST_F(FastCache, FillToTheLimit) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        widen(bin);
        fill(bin, 1, size_class_bins[bin].slots);
        EXPECT_FALSE(fast_cache_push(&bins[bin], block(1)));
    }
}

#if HAK_DEBUG
TEST_F(FastCache, DebugFlavourChecksTheCounts) {
    EXPECT_EXIT(fast_cache_fill(&bins[1], FAST_CACHE_NARROW + 1u), testing::KilledBySignal(SIGABRT),
                "broken invariant in fast_cache_fill");
    fast_cache_push(&bins[2], block(1));
    EXPECT_EXIT(fast_cache_narrow(&bins[2], &bottoms[2], slots.data(), 2),
                testing::KilledBySignal(SIGABRT), "broken invariant in fast_cache_narrow");
    EXPECT_EXIT(fast_cache_detach(&bins[1], &bottoms[1], 1), testing::KilledBySignal(SIGABRT),
                "broken invariant in fast_cache_detach");
}
#endif

// A child that is forked between any two instructions finds a whole stack.
struct Traced {
    fast_bin bin;
    void *slots[4];
};
Traced traced;

__attribute__((noinline)) void traced_push() {
    fast_cache_push(&traced.bin, &traced);
    __asm__ volatile("" ::: "memory");
}

TEST(FastCacheSteps, AfterEveryInstructionOfPushTheStackIsWhole) {
    void *stale = &traced.slots[3];
    traced = {{&traced.slots[1], &traced.slots[3]}, {nullptr, &traced.slots[0], stale, nullptr}};
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        raise(SIGSTOP);
        traced_push();
        _exit(traced.bin.top == &traced.slots[2] ? 0 : 1);
    }
    auto peek = [child](void *at) {
        return reinterpret_cast<void *>(ptrace(PTRACE_PEEKDATA, child, at, nullptr));
    };
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSTOPPED(status));
    int steps = 0;
    bool pushed = false;
    // The push is seen within the first thousands of instructions; then the child may run.
    for (; steps < 100000 && WIFSTOPPED(status) && !pushed; steps++) {
        pushed = peek(&traced.bin.top) == &traced.slots[2];
        if (pushed) {
            EXPECT_EQ(peek(&traced.slots[2]), &traced) << "the top stands on a stale pointer";
        }
        ASSERT_EQ(ptrace(pushed ? PTRACE_CONT : PTRACE_SINGLESTEP, child, nullptr, nullptr), 0);
        ASSERT_EQ(waitpid(child, &status, 0), child);
    }
    EXPECT_TRUE(pushed);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

} // namespace
