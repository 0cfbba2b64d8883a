// SPDX-License-Identifier: Apache-2.0
#include "boxes/medium_block/medium_block.h"

#include "backends/os.h"
#include "boxes/base/alone.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"
#include "boxes/superslab/superslab.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

extern "C" int64_t settings_values[SETTING_COUNT];

static bool refuses; // to take pages back
extern "C" enum os_result __real_os_purge(void *at, size_t size);
extern "C" enum os_result __wrap_os_purge(void *at, size_t size) {
    return refuses ? OS_NO_MEMORY : __real_os_purge(at, size);
}

namespace {

constexpr size_t kPage = HAK_PAGE;
constexpr size_t kLeast = (32 << 10) + 1;
constexpr size_t kMost = 128 << 10;
constexpr size_t kChunk = SUPERSLAB_CHUNK_PAGES * kPage;

class MediumBlock : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(page_arena_init());
        window = page_arena_get_window();
    }
    void TearDown() override {
        medium_block_flush();
        EXPECT_EQ(page_arena_held(), 0u) << "a chunk without a block goes back";
        trim();
    }

    static void trim() {
        size_t cursor = 0;
        do {
            page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
        } while (cursor != 0);
    }
    static size_t purge(bool all = true) {
        medium_block_walk walk = {0, 0, all, false};
        do {
            medium_block_purge(&walk, SIZE_MAX, SIZE_MAX);
        } while (walk.cursor != 0);
        return walk.pages;
    }
    static char *alloc(size_t size, size_t align = 1, bool zero = false) {
        return static_cast<char *>(medium_block_alloc(size, align, zero));
    }
    size_t slab_of(const void *ptr) const { return page_arena_slab_of(&window, ptr); }
    bool release(const void *ptr) const { return medium_block_free(&window, ptr, slab_of(ptr)); }
    size_t size_of(const void *ptr) const { return medium_block_size(&window, ptr, slab_of(ptr)); }
    bool resize(const void *ptr, size_t size) const {
        return medium_block_resize(&window, ptr, slab_of(ptr), size);
    }
    bool stays(const void *ptr, size_t size) const {
        return medium_block_stays(&window, ptr, slab_of(ptr), size);
    }
    static bool is_zero(const char *ptr, size_t size) {
        return ptr[0] == 0 && memcmp(ptr, ptr + 1, size - 1) == 0;
    }
    static uintptr_t page_of(const void *ptr) {
        return reinterpret_cast<uintptr_t>(ptr) / kPage * kPage;
    }

    page_arena_window window;
};

TEST_F(MediumBlock, TakesNoPageMoreThanItNeeds) {
    char *first = alloc(10 * kPage);
    char *second = alloc(9 * kPage + 1);
    char *third = alloc(32 * kPage);
    EXPECT_EQ(page_of(second) - page_of(first), 10 * kPage);
    EXPECT_EQ(page_of(third) - page_of(second), 10 * kPage);
    EXPECT_EQ(page_arena_held(), size_t{SUPERSLAB_CHUNK_SLABS});
    for (char *ptr : {first, second, third}) {
        EXPECT_TRUE(medium_block_owns_any(&window, slab_of(ptr)));
        EXPECT_TRUE(release(ptr));
    }
}

TEST_F(MediumBlock, OnlySizesAndAlignmentsThatFit) {
    EXPECT_EQ(alloc(kMost + 1), nullptr);
    EXPECT_EQ(alloc(kLeast, 2 * kPage), nullptr);
    for (size_t size : {kLeast, size_t{40000}, size_t{65536}, kMost - 1, kMost}) {
        for (size_t align = 1; align <= kPage; align *= 2) {
            char *ptr = alloc(size, align);
            ASSERT_NE(ptr, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(ptr) % std::max(align, size_t{64}), 0u);
            EXPECT_EQ(size_of(ptr), size);
            memset(ptr, 1, superslab_usable(size));
            EXPECT_TRUE(release(ptr));
        }
    }
}

TEST_F(MediumBlock, NoneUnderALimit) {
    settings_values[SETTING_LIMIT] = 64 << 20;
    EXPECT_EQ(alloc(kLeast), nullptr);
    settings_values[SETTING_LIMIT] = 0;
}

TEST_F(MediumBlock, OnlyAStartIsFreed) {
    char *ptr = alloc(50000);
    memset(ptr, 1, 50000);
    for (ptrdiff_t off : {-64, 1, 16, 64, 4096, 8192, 49999, 65536}) {
        if (!medium_block_owns_any(&window, slab_of(ptr + off))) {
            continue; // the block starts where its chunk does
        }
        EXPECT_FALSE(release(ptr + off)) << off;
        EXPECT_EQ(size_of(ptr + off), 0u) << off;
    }
    EXPECT_TRUE(release(ptr));
    EXPECT_FALSE(release(ptr)) << "freed twice";
    EXPECT_EQ(size_of(ptr), 0u);
    EXPECT_FALSE(stays(ptr, 50000));
    EXPECT_FALSE(resize(ptr, 60000));
}

TEST_F(MediumBlock, StartsAtDifferentLinesWhileThereAreFew) {
    std::vector<char *> ptrs;
    std::map<uintptr_t, int> offsets;
    for (int i = 0; i < 100; i++) {
        ptrs.push_back(alloc(40000));
        offsets[reinterpret_cast<uintptr_t>(ptrs.back()) % kPage]++;
    }
    EXPECT_GT(offsets.size(), 10u);
    for (char *ptr : ptrs) {
        EXPECT_TRUE(release(ptr));
    }
}

TEST_F(MediumBlock, AroundFindsTheBlockOfAByte) {
    char *first = alloc(50000);
    char *second = alloc(40000);
    auto around = [this](const char *ptr) {
        return medium_block_around(&window, ptr, slab_of(ptr));
    };
    EXPECT_EQ(around(first), first);
    EXPECT_EQ(around(first + 49999), first);
    // The next block may begin there, at the start of its page.
    EXPECT_NE(around(first + superslab_usable(50000)), first);
    EXPECT_EQ(around(second + 1), second);
    EXPECT_EQ(around(second + 4096 * 30), nullptr);
    EXPECT_TRUE(release(first));
    EXPECT_EQ(around(first + 4096), nullptr);
    EXPECT_TRUE(release(second));
}

TEST_F(MediumBlock, HolesAreFilledBeforeTheHeapGrows) {
    std::vector<char *> ptrs(2000);
    std::mt19937 random(1);
    for (char *&ptr : ptrs) {
        ptr = alloc(kLeast + random() % (kMost - kLeast));
    }
    const size_t held = page_arena_held();
    std::vector<size_t> sizes;
    for (size_t i = 0; i < ptrs.size(); i += 2) {
        sizes.push_back(size_of(ptrs[i]));
        EXPECT_TRUE(release(ptrs[i]));
    }
    std::shuffle(sizes.begin(), sizes.end(), random);
    for (size_t i = 0; i < ptrs.size(); i += 2) {
        ptrs[i] = alloc(sizes[i / 2]);
    }
    // Most holes fit another block than the one that left.
    EXPECT_LE(page_arena_held(), held + held / 8);
    for (char *ptr : ptrs) {
        EXPECT_TRUE(release(ptr));
    }
}

TEST_F(MediumBlock, NeighboursThatAreFreeAreOneRun) {
    std::vector<char *> ptrs(800);
    for (char *&ptr : ptrs) {
        ptr = alloc(16 * kPage);
    }
    const size_t held = page_arena_held();
    for (char *ptr : ptrs) {
        EXPECT_TRUE(release(ptr));
    }
    for (char *&ptr : ptrs) {
        ptr = alloc(32 * kPage);
        if (&ptr - ptrs.data() == 390) {
            break;
        }
    }
    EXPECT_LE(page_arena_held(), held);
    for (size_t i = 0; i <= 390; i++) {
        EXPECT_TRUE(release(ptrs[i]));
    }
}

TEST_F(MediumBlock, ZeroIsZero) {
    std::mt19937 random(2);
    for (int i = 0; i < 2000; i++) {
        const size_t size = kLeast + random() % (kMost - kLeast);
        char *ptr = alloc(size, 1, i % 2 == 0);
        if (i % 2 == 0) {
            ASSERT_TRUE(is_zero(ptr, size)) << i;
        }
        memset(ptr, 1, superslab_usable(size));
        EXPECT_TRUE(release(ptr));
        if (i % 100 == 0) {
            purge();
        }
        if (i % 300 == 0) {
            medium_block_flush();
            trim();
        }
    }
}

TEST_F(MediumBlock, ResizesAtItsPlace) {
    char *ptr = alloc(20 * kPage, kPage);
    char *wall = alloc(kLeast, kPage);
    ASSERT_EQ(wall, ptr + 20 * kPage);
    memset(ptr, 1, 20 * kPage);
    EXPECT_TRUE(resize(ptr, 12 * kPage));
    EXPECT_EQ(size_of(ptr), 12 * kPage);
    char *next = alloc(kLeast, kPage);
    EXPECT_EQ(next, wall + 9 * kPage) << "8 pages are too few";
    EXPECT_TRUE(resize(ptr, 20 * kPage)) << "they are still free";
    EXPECT_FALSE(resize(ptr, 20 * kPage + 1)) << "the next page is not";
    EXPECT_EQ(size_of(ptr), 20 * kPage);
    EXPECT_TRUE(resize(ptr, 11 * kPage));
    char *between = alloc(9 * kPage, kPage);
    EXPECT_EQ(between, ptr + 11 * kPage);
    EXPECT_FALSE(resize(ptr, 12 * kPage));
    EXPECT_EQ(ptr[11 * kPage - 1], 1);
    EXPECT_FALSE(resize(ptr, kMost + 1));
    EXPECT_TRUE(resize(ptr, 1)) << "a small size is the front's business";
    EXPECT_TRUE(stays(ptr, 2));
    EXPECT_FALSE(stays(ptr, 2 * kPage));
    for (char *each : {ptr, wall, next, between}) {
        EXPECT_TRUE(release(each));
    }
}

TEST_F(MediumBlock, PurgeGivesBackPagesWithoutABlock) {
    std::vector<char *> ptrs(64);
    for (char *&ptr : ptrs) {
        ptr = alloc(16 * kPage);
        memset(ptr, 1, 16 * kPage);
    }
    for (size_t i = 0; i < ptrs.size(); i += 2) {
        EXPECT_TRUE(release(ptrs[i]));
    }
    EXPECT_EQ(purge(false), 0u) << "the chunks were used a moment ago";
    EXPECT_EQ(purge(false), 32u * 16);
    EXPECT_EQ(purge(), 0u) << "they are gone already";
    for (size_t i = 1; i < ptrs.size(); i += 2) {
        EXPECT_EQ(ptrs[i][0], 1);
        EXPECT_EQ(ptrs[i][16 * kPage - 1], 1);
        EXPECT_TRUE(release(ptrs[i]));
    }
}

TEST_F(MediumBlock, ARefusedPurgeLosesNothing) {
    char *keeps = alloc(16 * kPage);
    char *ptr = alloc(16 * kPage);
    memset(ptr, 1, 16 * kPage);
    EXPECT_TRUE(release(ptr));
    refuses = true;
    medium_block_walk walk = {0, 0, true, false};
    medium_block_purge(&walk, SIZE_MAX, SIZE_MAX);
    EXPECT_TRUE(walk.refused);
    EXPECT_EQ(walk.pages, 0u);
    refuses = false;
    char *again = alloc(16 * kPage, 1, true);
    EXPECT_TRUE(is_zero(again, 16 * kPage));
    EXPECT_TRUE(release(again));
    EXPECT_TRUE(release(keeps));
}

TEST_F(MediumBlock, TheHeapShrinksWithItsBlocks) {
    std::vector<char *> ptrs(3000);
    std::mt19937 random(3);
    for (char *&ptr : ptrs) {
        ptr = alloc(kLeast + random() % (kMost - kLeast));
    }
    std::shuffle(ptrs.begin(), ptrs.end(), random);
    for (char *ptr : ptrs) {
        EXPECT_TRUE(release(ptr));
    }
    // What threads keep holds few chunks: nobody has asked for it back.
    EXPECT_LE(page_arena_held() * ARENA_SLAB, 4 * kChunk);
}

TEST_F(MediumBlock, StatisticsCountThem) {
    char *first = alloc(40000);
    char *second = alloc(kMost);
    superslab_stats stats;
    superslab_get_stats(&stats);
    EXPECT_EQ(stats.large_blocks, 2u);
    EXPECT_EQ(stats.large_bytes, 40000 + kMost);
    EXPECT_EQ(stats.large_slabs, size_t{SUPERSLAB_CHUNK_SLABS});
    EXPECT_EQ(stats.large_pages, 10 * kPage + kMost);
    EXPECT_EQ(stats.mapped_blocks, 1u);
    EXPECT_TRUE(release(first));
    EXPECT_TRUE(release(second));
}

// Threads allocate, resize, and free their own blocks and each other's, while another one purges.
TEST_F(MediumBlock, ManyThreads) {
    constexpr int kThreads = 6, kSteps = 40000, kSlots = 200;
    struct Slot {
        std::atomic<char *> ptr{nullptr};
    };
    static Slot slots[kSlots];
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    auto check = [&](char *ptr) {
        // The first word says how long the block is, and all its pages have a mark.
        size_t size;
        memcpy(&size, ptr, sizeof size);
        const char mark = ptr[sizeof size];
        bool good = size == size_of(ptr);
        for (size_t at = kPage; good && at < size; at += kPage) {
            good = ptr[at] == mark;
        }
        wrong += !good;
    };
    auto fill = [](char *ptr, size_t size, char mark) {
        memcpy(ptr, &size, sizeof size);
        ptr[sizeof size] = mark;
        for (size_t at = kPage; at < size; at += kPage) {
            ptr[at] = mark;
        }
    };
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; t++) {
        threads.emplace_back([&, t] {
            std::mt19937 random(100 + t);
            for (int i = 0; i < kSteps; i++) {
                const size_t size = kLeast + random() % (kMost - kLeast);
                char *fresh = nullptr;
                if (random() % 8 != 0) {
                    const bool zero = random() % 4 == 0;
                    fresh = alloc(size, 1, zero);
                    wrong += zero && !is_zero(fresh, size);
                    fill(fresh, size, static_cast<char>(random()));
                    const size_t other = kLeast + random() % (kMost - kLeast);
                    if (random() % 4 == 0 && resize(fresh, other)) {
                        fill(fresh, other, static_cast<char>(random()));
                    }
                }
                char *old = slots[random() % kSlots].ptr.exchange(fresh);
                if (old != nullptr) {
                    check(old);
                    wrong += !release(old);
                }
            }
        });
    }
    std::thread purger([&] {
        while (!stop) {
            purge();
            medium_block_flush();
            std::this_thread::yield();
        }
    });
    for (std::thread &thread : threads) {
        thread.join();
    }
    stop = true;
    purger.join();
    for (Slot &slot : slots) {
        char *ptr = slot.ptr.exchange(nullptr);
        if (ptr != nullptr) {
            check(ptr);
            wrong += !release(ptr);
        }
    }
    EXPECT_EQ(wrong, 0);
}

} // namespace
