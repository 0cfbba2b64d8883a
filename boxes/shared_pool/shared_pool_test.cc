// SPDX-License-Identifier: Apache-2.0
#include "boxes/shared_pool/shared_pool.h"

#include "backends/os.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/page_map/page_map.h"
#include "boxes/superslab/superslab.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

namespace {

constexpr unsigned kLastBin = SIZE_CLASS_BINS - 1;

class SharedPool : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(page_arena_init());
        window = page_arena_get_window();
        ASSERT_EQ(slabs_in_use(), 0u);
    }
    void TearDown() override {
        EXPECT_EQ(slabs_in_use(), 0u) << "a slab whose blocks are all back was not given back";
    }

    static size_t slabs_in_use() {
        page_arena_stats stats;
        page_arena_get_stats(&stats);
        return stats.held_slabs;
    }

    static std::vector<void *> take(unsigned bin, unsigned want, shared_pool_hint &hint) {
        std::vector<void *> blocks(want);
        blocks.resize(shared_pool_take(bin, blocks.data(), want, &hint));
        if (size_class_bins[bin].size < HAK_CACHE_LINE) {
            std::sort(blocks.begin(), blocks.end()); // BlocksOfALineDoNotFollowEachOther
        }
        return blocks;
    }
    static std::vector<void *> take(unsigned bin, unsigned want) {
        shared_pool_hint hint = ARENA_NONE;
        return take(bin, want, hint);
    }
    static void put(unsigned bin, const std::vector<void *> &blocks) {
        for (size_t i = 0; i < blocks.size(); i += SHARED_POOL_BATCH_MOST) {
            shared_pool_put(
                bin, &blocks[i],
                static_cast<unsigned>(std::min(blocks.size() - i, size_t{SHARED_POOL_BATCH_MOST})));
        }
    }
    size_t slab_of(const void *ptr) const { return page_arena_slab_of(&window, ptr); }

    // Expects that every slab with free blocks is listed, in both levels, that no slab in use has
    // only free blocks, and that the totals are the sums over all slabs.
    void expect_listed() {
        size_t slabs = 0;
        size_t clean = 0;
        for (size_t i = 0; i < page_arena_high(); i++) {
            if (!superslab_known(&window, i) || superslab_slab(&window, i)->kind != SLAB_TINY) {
                continue;
            }
            unsigned bin = superslab_slab(&window, i)->bin;
            size_t free_blocks = atomic_bitmap_count_run(superslab_bits(&window, i, bin), 0,
                                                         size_class_bins[bin].blocks);
            slabs++;
            clean += static_cast<size_t>(__builtin_popcount(superslab_slab(&window, i)->clean));
            EXPECT_LT(free_blocks, size_class_bins[bin].blocks) << "an empty slab stays in use";
            EXPECT_EQ(page_map_get(&window, i), size_class_place(bin)) << "page map";
            if (free_blocks > 0) {
                EXPECT_NE(superslab_at(&window, i)->listed[bin] >> i % ARENA_SUPERSLAB_SLABS & 1,
                          0u);
                size_t superslab = i / ARENA_SUPERSLAB_SLABS;
                if (superslab_at(&window, i)->owner != 0) {
                    continue; // in no summary
                }
                EXPECT_NE(window.groups[superslab / 64].user[bin] >> superslab % 64 & 1, 0u);
            }
        }
        shared_pool_totals totals = shared_pool_get_totals();
        EXPECT_EQ(totals.slabs, slabs * ARENA_SLAB);
        EXPECT_EQ(totals.clean, clean * HAK_PAGE);
    }

    page_arena_window window;
};

// A heap is advised huge pages while it consists mostly of small blocks, and no longer.
TEST_F(SharedPool, AHeapIsDenseAsLongAsItIsOfSmallBlocks) {
    constexpr unsigned kSlabs = 200;
    for (size_t size : {size_t{64}, size_t{16384} - SIZE_CLASS_HEADER}) {
        const unsigned bin = size_class_bin_of(size);
        EXPECT_FALSE(page_arena_is_dense());
        const std::vector<void *> blocks = [&] {
            std::vector<void *> all;
            shared_pool_hint hint = ARENA_NONE;
            while (all.size() < kSlabs * size_t{size_class_bins[bin].blocks}) {
                const std::vector<void *> some = take(bin, SHARED_POOL_BATCH_MOST, hint);
                EXPECT_FALSE(some.empty());
                all.insert(all.end(), some.begin(), some.end());
            }
            return all;
        }();
        EXPECT_EQ(page_arena_is_dense(), size == 64);
        put(bin, blocks);
    }
    EXPECT_FALSE(page_arena_is_dense());
}

TEST_F(SharedPool, BlocksOfALineDoNotFollowEachOther) {
    auto apart = [](const std::vector<void *> &blocks) {
        for (size_t i = 0; i + 1 < blocks.size(); i++) {
            if (reinterpret_cast<uintptr_t>(blocks[i]) / HAK_CACHE_LINE ==
                reinterpret_cast<uintptr_t>(blocks[i + 1]) / HAK_CACHE_LINE) {
                return false;
            }
        }
        return true;
    };
    for (unsigned bin = 1; size_class_bins[bin].size < HAK_CACHE_LINE; bin++) {
        shared_pool_hint hint = ARENA_NONE;
        std::vector<void *> blocks(32);
        ASSERT_EQ(shared_pool_take(bin, blocks.data(), 32, &hint), 32u);
        EXPECT_TRUE(apart(blocks)) << "of a fresh slab, bin " << bin;
        void *rest;
        ASSERT_EQ(shared_pool_take(bin, &rest, 1, &hint), 1u);
        put(bin, blocks);
        ASSERT_EQ(shared_pool_take(bin, blocks.data(), 32, &hint), 32u);
        EXPECT_TRUE(apart(blocks)) << "of one in use, bin " << bin;
        put(bin, blocks);
        put(bin, {rest});
    }
}

TEST_F(SharedPool, ManyBlocksComeInAddressOrder) {
    for (unsigned bin = 1; size_class_bins[bin].size < HAK_CACHE_LINE; bin++) {
        shared_pool_hint hint = ARENA_NONE;
        std::vector<void *> blocks(64);
        ASSERT_EQ(shared_pool_take(bin, blocks.data(), 64, &hint), 64u);
        EXPECT_TRUE(std::is_sorted(blocks.begin(), blocks.end())) << "of a fresh slab, bin " << bin;
        // Every third block is not put back.
        std::vector<void *> out;
        std::vector<void *> back;
        for (size_t i = 0; i < blocks.size(); i++) {
            (i % 3 == 0 ? out : back).push_back(blocks[i]);
        }
        put(bin, back);
        ASSERT_EQ(shared_pool_take(bin, back.data(), static_cast<unsigned>(back.size()), &hint),
                  back.size());
        EXPECT_TRUE(std::is_sorted(back.begin(), back.end())) << "of one in use, bin " << bin;
        put(bin, back);
        put(bin, out);
    }
}

// A word of 64 blocks is not split to fill up a batch, and the next call finds the blocks that are
// left.
TEST_F(SharedPool, ABatchThatHasSomeTakesWholeWordsOnly) {
    constexpr unsigned kBin = 4;
    shared_pool_hint hint = ARENA_NONE;
    std::vector<void *> all = take(kBin, 256, hint);
    ASSERT_EQ(all.size(), 256u);
    const size_t slabs = slabs_in_use();
    // 40, 40, 10 and 64 blocks of the four words are free.
    std::vector<void *> back;
    for (size_t i = 0; i < all.size(); i++) {
        const size_t kFree[] = {40, 40, 10, 64};
        if (i % 64 < kFree[i / 64]) {
            back.push_back(all[i]);
        }
    }
    put(kBin, back);
    std::vector<void *> got;
    for (size_t size : {40, 50, 64}) {
        std::vector<void *> batch = take(kBin, 64, hint);
        EXPECT_EQ(batch.size(), size);
        got.insert(got.end(), batch.begin(), batch.end());
    }
    EXPECT_EQ(got, back);
    put(kBin, got);
    // A batch that is smaller than a word is cut out of it.
    got.clear();
    for (size_t size : {30, 10, 30, 20, 30, 30, 4}) {
        std::vector<void *> batch = take(kBin, 30, hint);
        EXPECT_EQ(batch.size(), size);
        got.insert(got.end(), batch.begin(), batch.end());
    }
    EXPECT_EQ(got, back);
    EXPECT_EQ(slabs_in_use(), slabs);
    put(kBin, all);
}

TEST_F(SharedPool, BlocksOfEveryBinAreApartAndAscending) {
    for (unsigned bin = 1; bin <= kLastBin; bin++) {
        const size_class_bin &info = size_class_bins[bin];
        shared_pool_hint hint = ARENA_NONE;
        std::vector<void *> all;
        // More than two slabs full.
        while (all.size() < 2u * info.blocks + 1) {
            std::vector<void *> batch = take(bin, SHARED_POOL_BATCH_MOST, hint);
            ASSERT_FALSE(batch.empty());
            for (size_t i = 1; i < batch.size(); i++) {
                if (slab_of(batch[i]) == slab_of(batch[i - 1])) {
                    ASSERT_LT(batch[i - 1], batch[i]) << bin;
                }
            }
            EXPECT_EQ(hint, slab_of(batch.back()));
            all.insert(all.end(), batch.begin(), batch.end());
        }
        std::sort(all.begin(), all.end());
        for (size_t i = 0; i < all.size(); i++) {
            uintptr_t offset = reinterpret_cast<uintptr_t>(all[i]) % ARENA_SLAB;
            ASSERT_EQ(offset % info.size, 0u);
            ASSERT_LE(offset + info.size, size_t{ARENA_SLAB});
            ASSERT_TRUE(i == 0 || static_cast<char *>(all[i]) - static_cast<char *>(all[i - 1]) >=
                                      static_cast<ptrdiff_t>(info.size));
            ASSERT_FALSE(shared_pool_is_free(bin, all[i]));
        }
        EXPECT_EQ(slabs_in_use(), (all.size() + info.blocks - 1) / info.blocks);
        expect_listed();
        shared_pool_check(bin, all.data(), 1);
        put(bin, all);
        ASSERT_EQ(slabs_in_use(), 0u) << bin;
    }
}

TEST_F(SharedPool, BlockStart) {
    for (unsigned bin = 1; bin <= kLastBin; bin++) {
        const size_class_bin &info = size_class_bins[bin];
        void *block = take(bin, 1)[0];
        char *slab = static_cast<char *>(page_arena_address(&window, slab_of(block)));
        for (uint32_t offset = 0; offset < ARENA_SLAB; offset++) {
            uint32_t number = offset / info.size;
            ASSERT_EQ(shared_pool_block_start(bin, slab + offset),
                      number < info.blocks ? slab + number * info.size : nullptr)
                << bin << " " << offset;
        }
        shared_pool_put(bin, &block, 1);
    }
}

TEST_F(SharedPool, PutBlocksAreFoundAgainLowestFirst) {
    constexpr unsigned kBin = 4;
    std::vector<void *> blocks = take(kBin, 256);
    ASSERT_EQ(blocks.size(), 256u);
    std::vector<void *> back = {blocks[200], blocks[3], blocks[70], blocks[64], blocks[2]};
    put(kBin, back);
    for (void *block : back) {
        EXPECT_TRUE(shared_pool_is_free(kBin, block));
    }
    std::sort(back.begin(), back.end());
    EXPECT_EQ(take(kBin, 5), back);
    expect_listed();
    put(kBin, blocks);
}

TEST_F(SharedPool, LowestSlabIsUsedFirstAndTheHintBeforeIt) {
    constexpr unsigned kBin = kLastBin;
    std::vector<void *> blocks;
    while (blocks.size() < 8) {
        std::vector<void *> more = take(kBin, 1);
        blocks.insert(blocks.end(), more.begin(), more.end());
    }
    put(kBin, {blocks[7], blocks[1]});
    shared_pool_hint hint = slab_of(blocks[7]);
    EXPECT_EQ(take(kBin, 1, hint), std::vector<void *>{blocks[7]});
    put(kBin, {blocks[7]});
    EXPECT_EQ(take(kBin, 1), std::vector<void *>{blocks[1]});
    // A stale hint (a slab of another bin, or no slab at all) costs nothing but a look.
    hint = slab_of(blocks[0]);
    std::vector<void *> other = take(kBin - 1, 1, hint);
    EXPECT_NE(slab_of(other[0]), slab_of(blocks[0]));
    EXPECT_EQ(hint, slab_of(other[0]));
    put(kBin - 1, other);
    hint = page_arena_high() - 1;
    other = take(kBin, 1, hint);
    EXPECT_EQ(other, std::vector<void *>{blocks[7]});
    put(kBin, blocks);
}

TEST_F(SharedPool, BatchComesFromSeveralSlabs) {
    constexpr unsigned kBin = kLastBin; // 2 blocks a slab
    std::vector<void *> first = take(kBin, 1);
    std::vector<void *> second = take(kBin, 1);
    put(kBin, {}); // an empty batch
    ASSERT_EQ(slab_of(first[0]), slab_of(second[0]));
    std::vector<void *> third = take(kBin, 1);
    put(kBin, second);
    // One block in each of two slabs.
    std::vector<void *> two = take(kBin, 2);
    EXPECT_EQ(two.size(), 2u);
    EXPECT_NE(slab_of(two[0]), slab_of(two[1]));
    EXPECT_EQ(slabs_in_use(), 2u);
    put(kBin, {first[0], third[0], two[0], two[1]});
}

TEST_F(SharedPool, EmptySlabGoesBackAndServesAnotherBin) {
    std::vector<void *> blocks = take(5, 100);
    size_t slab = slab_of(blocks[0]);
    EXPECT_EQ(page_map_get(&window, slab), 10);
    put(5, blocks);
    EXPECT_EQ(slabs_in_use(), 0u);
    EXPECT_EQ(page_map_get(&window, slab), 0);
    EXPECT_EQ(superslab_slab(&window, slab)->kind, SLAB_NONE);
    std::vector<void *> other = take(40 % kLastBin + 1, 1);
    EXPECT_EQ(slab_of(other[0]), slab) << "the dirty slab comes first";
    put(40 % kLastBin + 1, other);
}

// Puts back pieces of the bitmap's words, of every length, upwards and downwards, beside blocks
// that are kept.
TEST_F(SharedPool, RunsOfNeighboursComeBackAndNoOtherBlock) {
    std::mt19937 random(1);
    for (unsigned bin = 1; bin <= kLastBin; bin++) {
        std::vector<void *> blocks = take(bin, 3 * size_class_bins[bin].blocks);
        std::sort(blocks.begin(), blocks.end());
        std::vector<void *> kept;
        std::vector<void *> back;
        for (size_t at = 0; at < blocks.size();) {
            size_t length = std::min<size_t>(1 + random() % 100, blocks.size() - at);
            auto run = blocks.begin() + static_cast<ptrdiff_t>(at);
            auto end = run + static_cast<ptrdiff_t>(length);
            if (random() % 2 != 0) {
                std::reverse(run, end);
            }
            if (random() % 4 == 0 && end != blocks.end()) {
                kept.push_back(*--end);
            }
            back.insert(back.end(), run, end);
            at += length;
        }
        put(bin, back);
        for (void *block : back) {
            if (page_map_get(&window, slab_of(block)) == size_class_place(bin)) {
                ASSERT_TRUE(shared_pool_is_free(bin, block)) << bin;
            }
        }
        for (void *block : kept) {
            ASSERT_FALSE(shared_pool_is_free(bin, block)) << bin;
        }
        expect_listed();
        put(bin, kept);
        ASSERT_EQ(slabs_in_use(), 0u) << bin;
    }
}

TEST_F(SharedPool, EmptySlabGoesBackInWhateverOrderItsBlocksDo) {
    std::mt19937 random(1);
    for (unsigned bin = 1; bin <= kLastBin; bin++) {
        const unsigned whole = size_class_bins[bin].blocks;
        for (int order = 0; order < 4; order++) {
            std::vector<void *> blocks = take(bin, whole);
            std::sort(blocks.begin(), blocks.end());
            if (order == 1) {
                std::reverse(blocks.begin(), blocks.end());
            } else if (order == 2) {
                std::shuffle(blocks.begin(), blocks.end(), random);
            } else if (order == 3) { // first the middle
                std::rotate(blocks.begin(), blocks.begin() + whole / 2, blocks.end());
            }
            void *last = blocks.back();
            blocks.pop_back();
            put(bin, blocks);
            EXPECT_EQ(slabs_in_use(), 1u) << bin << " " << order;
            expect_listed();
            shared_pool_put(bin, &last, 1);
            EXPECT_EQ(slabs_in_use(), 0u) << bin << " " << order;
        }
    }
}

class SharedPoolPurge : public SharedPool {
  protected:
    static constexpr unsigned kBin = HAK_HEADER ? 3 : 4; // 64 B: 64 blocks a page
    static constexpr size_t kPerPage = 64;

    static size_t purge(bool all) {
        shared_pool_walk walk = {};
        walk.all = all;
        do {
            shared_pool_purge(&walk, 1, SIZE_MAX);
        } while (walk.cursor != 0);
        EXPECT_FALSE(walk.refused);
        return walk.pages;
    }
    size_t resident_pages(size_t slab) {
        unsigned char pages[ARENA_SLAB / HAK_PAGE];
        EXPECT_EQ(mincore(page_arena_address(&window, slab), ARENA_SLAB, pages), 0);
        return static_cast<size_t>(
            std::count_if(pages, pages + 16, [](unsigned char page) { return (page & 1) != 0; }));
    }
};

TEST_F(SharedPoolPurge, PagesWithoutALiveBlockGoBackAndOthersStay) {
    std::vector<void *> blocks;
    shared_pool_hint hint = ARENA_NONE;
    while (blocks.size() < 16 * kPerPage) {
        std::vector<void *> more = take(kBin, 256, hint);
        blocks.insert(blocks.end(), more.begin(), more.end());
    }
    ASSERT_EQ(blocks.size(), 16 * kPerPage);
    size_t slab = slab_of(blocks[0]);
    for (void *block : blocks) {
        memset(block, 0x5a, 63);
    }
    EXPECT_EQ(resident_pages(slab), 16u);
    // Pages 1, 2, 3 and 9 lose all their live blocks; page 5 loses all but its last block.
    std::vector<void *> back;
    std::set<void *> live(blocks.begin(), blocks.end());
    for (size_t page : {1, 2, 3, 9, 5}) {
        for (size_t i = 0; i < kPerPage - (page == 5); i++) {
            back.push_back(blocks[page * kPerPage + i]);
            live.erase(back.back());
        }
    }
    put(kBin, back);
    EXPECT_EQ(purge(false), 0u) << "just used: marked only";
    EXPECT_EQ(resident_pages(slab), 16u);
    EXPECT_EQ(purge(false), 4u);
    EXPECT_EQ(resident_pages(slab), 12u);
    EXPECT_EQ(purge(false), 0u);
    EXPECT_EQ(purge(true), 0u);
    for (void *block : live) {
        EXPECT_EQ(*static_cast<char *>(block), 0x5a);
    }
    expect_listed();
    // The same blocks come back, and their pages count as used again.
    hint = slab;
    std::vector<void *> again = take(kBin, 64, hint);
    std::vector<void *> more = take(kBin, 6, hint);
    again.insert(again.end(), more.begin(), more.end());
    EXPECT_EQ(again, std::vector<void *>(back.begin(), back.begin() + 70));
    for (void *block : again) {
        memset(block, 0x5a, 63);
    }
    put(kBin, again);
    EXPECT_EQ(purge(true), 2u);
    EXPECT_EQ(resident_pages(slab), 12u);
    put(kBin, {live.begin(), live.end()});
}

TEST_F(SharedPoolPurge, StepsStopAtTheirBounds) {
    // One live block in each of four slabs; the other 15 pages of each can go.
    std::vector<void *> kept;
    std::vector<void *> back;
    shared_pool_hint hint = ARENA_NONE;
    for (int slab = 0; slab < 4; slab++) {
        for (size_t i = 0; i < 16 * kPerPage;) {
            std::vector<void *> more = take(kBin, 256, hint);
            for (void *block : more) {
                memset(block, 1, 63);
                (i++ == 0 ? kept : back).push_back(block);
            }
        }
    }
    put(kBin, back);
    shared_pool_walk walk = {};
    walk.all = true;
    shared_pool_purge(&walk, SIZE_MAX, 1);
    EXPECT_EQ(walk.pages, 15u) << "one slab is the smallest step";
    EXPECT_EQ(walk.cursor, slab_of(kept[0]) + 1);
    shared_pool_purge(&walk, 2, SIZE_MAX);
    EXPECT_EQ(walk.pages, 45u);
    EXPECT_EQ(walk.cursor, slab_of(kept[2]) + 1);
    shared_pool_purge(&walk, SIZE_MAX, SIZE_MAX);
    EXPECT_EQ(walk.pages, 60u);
    EXPECT_EQ(walk.cursor, 0u);
    put(kBin, kept);
}

TEST_F(SharedPoolPurge, OfEveryBinOnlyWholePagesGo) {
    for (unsigned bin = 1; bin <= kLastBin; bin++) {
        const size_class_bin &info = size_class_bins[bin];
        std::vector<void *> blocks;
        shared_pool_hint hint = ARENA_NONE;
        while (blocks.size() < info.blocks) {
            std::vector<void *> more =
                take(bin, std::min(256u, info.blocks - static_cast<unsigned>(blocks.size())), hint);
            blocks.insert(blocks.end(), more.begin(), more.end());
        }
        char *slab = static_cast<char *>(page_arena_address(&window, slab_of(blocks[0])));
        for (void *block : blocks) {
            memset(block, static_cast<int>(bin), info.size - HAK_HEADER);
        }
        // Every third block stays.
        std::vector<void *> back;
        std::vector<void *> kept;
        for (size_t i = 0; i < blocks.size(); i++) {
            (i % 3 == 1 ? kept : back).push_back(blocks[i]);
        }
        put(bin, back);
        size_t expected = 0;
        for (size_t page = 0; page < ARENA_SLAB; page += HAK_PAGE) {
            bool live = page >= size_t{info.blocks} * info.size; // behind the last block
            for (size_t i = 1; i < blocks.size(); i += 3) {
                live |= i * info.size < page + HAK_PAGE && (i + 1) * info.size > page;
            }
            expected += !live;
        }
        EXPECT_EQ(purge(true), expected) << bin;
        for (void *block : kept) {
            char *bytes = static_cast<char *>(block);
            EXPECT_EQ(std::count(bytes, bytes + info.size - HAK_HEADER, static_cast<char>(bin)),
                      info.size - HAK_HEADER)
                << bin << " " << (bytes - slab);
        }
        put(bin, kept);
    }
}

// While the process has one thread, the pool sets bits without atomic steps.
enum Threads { kAlone, kBesideAnother };

class SharedPoolDeathTest : public SharedPool, public testing::WithParamInterface<Threads> {};

void be(Threads threads) {
    if (threads == kBesideAnother) {
        std::thread([] { pause(); }).detach();
    }
}

std::string line(const void *ptr, const char *fault) {
    char text[200];
    snprintf(text, sizeof text, "hakmem: free(0x%lx): %s\n", reinterpret_cast<unsigned long>(ptr),
             fault);
    return text;
}

#define EXPECT_MISUSE(statement, ptr, fault)                                   \
    EXPECT_EXIT((be(GetParam()), statement), testing::KilledBySignal(SIGABRT), \
                testing::Eq(line(ptr, fault)))

// In a tight process slabs get their pages as blocks are asked for.
TEST(SharedPoolTightDeathTest, SlabsAreAsLongAsTheyNeedToBe) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizer needs more data than the limit allows";
#endif
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        auto data = [] {
            std::ifstream status("/proc/self/status");
            size_t kib = 0;
            for (std::string text; std::getline(status, text);) {
                if (text.rfind("VmData:", 0) == 0) {
                    kib = strtoul(text.c_str() + 7, nullptr, 10);
                }
            }
            return kib << 10;
        };
        data();
        rlimit limit = {size_t{14} << 20, RLIM_INFINITY};
        setrlimit(RLIMIT_DATA, &limit);
        bool ok = page_arena_init() && page_arena_is_tight();
        size_t before = data();
        std::set<char *> out;
        struct Run {
            unsigned bin;
            std::vector<void *> blocks;
            shared_pool_hint hint;
        };
        std::vector<Run> runs;
        size_t pages = 0;
        for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
            void *block;
            Run run = {bin, {}, ARENA_NONE};
            ok = ok && shared_pool_take(bin, &block, 1, &run.hint) == 1;
            memset(block, static_cast<int>(bin), size_class_bins[bin].size);
            run.blocks.push_back(block);
            runs.push_back(run);
            pages += (size_class_bins[bin].size + HAK_PAGE - 1) / HAK_PAGE;
        }
        // The pages of the slabs, and the metadata of the SuperSlabs.
        ok = ok && data() - before <= pages * HAK_PAGE + (size_t{200} << 10);
        superslab_stats stats;
        superslab_get_stats(&stats);
        for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
            ok = ok && stats.bin_slabs[bin] == 1 &&
                 stats.bin_free[bin] + stats.bin_absent[bin] == size_class_bins[bin].blocks - 1u;
        }
        // Two slabs of each bin, block by block and in batches: every block comes once.
        for (Run &run : runs) {
            while (run.blocks.size() < 2u * size_class_bins[run.bin].blocks) {
                void *some[20];
                unsigned most = run.bin % 2 == 0 ? 1 : 20;
                unsigned got = shared_pool_take(run.bin, some, most, &run.hint);
                if (got == 0) {
                    ok = false; // there is room for all of them
                    break;
                }
                for (unsigned i = 0; i < got; i++) {
                    memset(some[i], static_cast<int>(run.bin), size_class_bins[run.bin].size);
                    ok = ok && out.insert(static_cast<char *>(some[i])).second;
                    run.blocks.push_back(some[i]);
                }
            }
            superslab_get_stats(&stats);
            size_t all = stats.bin_slabs[run.bin] * size_class_bins[run.bin].blocks;
            ok = ok &&
                 all - stats.bin_free[run.bin] - stats.bin_absent[run.bin] == run.blocks.size();
            for (void *block : run.blocks) {
                ok = ok && *static_cast<unsigned char *>(block) == run.bin;
            }
            out.clear();
            // Slabs that are whole go back when they are free.
            shared_pool_put(run.bin, run.blocks.data(), static_cast<unsigned>(run.blocks.size()));
            superslab_get_stats(&stats);
            ok = ok && stats.bin_slabs[run.bin] <= 1;
        }
        shared_pool_give_short();
        superslab_get_stats(&stats);
        ok = ok && stats.tiny_slabs == 0;
        _exit(ok ? 0 : 1);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

// In the sandbox of a forked process with much memory, only many pages in a row are worth a system
// call.
TEST(SharedPoolSandboxDeathTest, PurgesLoseNoBlock) {
    auto check = [] {
        os_start(OS_SANDBOXED);
        os_forked();
        bool ok = page_arena_init();
        bool zero;
        constexpr size_t kSlabs = (size_t{128} << 20) / ARENA_SLAB;
        size_t large = page_arena_claim(kSlabs, ARENA_SLAB, &zero); // never written to
        ok = ok && large != ARENA_NONE && os_least_purge() > HAK_PAGE &&
             os_least_purge() < ARENA_SLAB / 2;
        constexpr unsigned kBin = 5;
        unsigned count = size_class_bins[kBin].blocks;
        std::vector<void *> all(count);
        shared_pool_hint hint = ARENA_NONE;
        for (unsigned got = 0; ok && got < count;) {
            unsigned more = shared_pool_take(kBin, &all[got], std::min(count - got, 64u), &hint);
            ok = more > 0;
            got += more;
        }
        std::sort(all.begin(), all.end());
        for (void *block : all) {
            memset(block, 1, size_class_bins[kBin].size);
        }
        // One page is not worth a system call; half of the slab is.
        auto offset = [&](void *block) { return (uintptr_t)block % ARENA_SLAB; };
        auto is_kept = [&](void *block) {
            return offset(block) < ARENA_SLAB / 2 && offset(block) / HAK_PAGE % 2 == 0;
        };
        auto end = std::stable_partition(all.begin(), all.end(), is_kept);
        shared_pool_put(kBin, &*end, static_cast<unsigned>(all.end() - end));
        shared_pool_walk walk = {};
        walk.all = true;
        shared_pool_purge(&walk, SIZE_MAX, SIZE_MAX);
        ok = ok && walk.pages >= ARENA_SLAB / HAK_PAGE / 2 - 1 && walk.pages < 12;
        superslab_stats stats;
        superslab_get_stats(&stats);
        ok = ok && stats.bin_free[kBin] == static_cast<size_t>(all.end() - end);
        shared_pool_put(kBin, all.data(), static_cast<unsigned>(end - all.begin()));
        superslab_get_stats(&stats);
        _exit(ok && stats.tiny_slabs == 0 ? 0 : 1);
    };
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

TEST_P(SharedPoolDeathTest, MisuseIsReported) {
    constexpr unsigned kBin = 5;
    const char *wrong_bin = HAK_HEADER
                                ? "heap corruption: header byte overwritten, or a wrong size given"
                                : "block freed twice, or the size given does not fit it";
    std::vector<void *> blocks = take(kBin, 70);
    void *twice[] = {blocks[1], blocks[2], blocks[1]};
    void *in_word[] = {blocks[66], blocks[65], blocks[66]};
    void *in_order[] = {blocks[9], blocks[10], blocks[11], blocks[12], blocks[10]};
    void *inside = static_cast<char *>(blocks[4]) + 16;
    void *foreign = &foreign;
    void *first = *std::min_element(blocks.begin(), blocks.end()); // starts a block of any bin
    ASSERT_EQ(reinterpret_cast<uintptr_t>(first) % ARENA_SLAB, 0u);
    void *gone = take(6, 1)[0];
    shared_pool_put(6, &gone, 1);
    for (auto *call : {+[](unsigned bin, void **ptr) { shared_pool_put(bin, ptr, 1); },
                       +[](unsigned bin, void **ptr) { shared_pool_check(bin, ptr, 1); }}) {
        EXPECT_MISUSE(call(kBin, &inside), inside, "pointer into a block, not to its start");
        EXPECT_MISUSE(call(kBin + 1, &first), first, wrong_bin);
        if (HAK_HEADER || HAK_DEBUG) {
            EXPECT_MISUSE(call(1, &blocks[4]), blocks[4], wrong_bin);
        }
        EXPECT_MISUSE(call(6, &gone), gone, "block freed twice (its slab is gone)");
        foreign = reinterpret_cast<void *>(0x10000);
        EXPECT_MISUSE(call(1, &foreign), foreign, "not a pointer of this heap");
        foreign = reinterpret_cast<void *>(0x7fff12340000);
        EXPECT_MISUSE(call(1, &foreign), foreign, "not a pointer of this heap");
        // In the window: in the arena's own control area, and where nothing is mapped yet.
        foreign = window.base;
        EXPECT_MISUSE(call(1, &foreign), foreign, "not a pointer of this heap");
        foreign = page_arena_address(&window, page_arena_high());
        EXPECT_MISUSE(call(1, &foreign), foreign, "not a pointer of this heap");
        foreign = page_arena_address(&window, window.slabs - 1);
        EXPECT_MISUSE(call(1, &foreign), foreign, "not a pointer of this heap");
    }
    EXPECT_MISUSE(shared_pool_put(kBin, twice, 3), blocks[1], "block freed twice");
    EXPECT_MISUSE(shared_pool_put(kBin, in_word, 3), blocks[66], "block freed twice");
    EXPECT_MISUSE(shared_pool_put(kBin, in_order, 5), blocks[10], "block freed twice");
    shared_pool_put(kBin, twice, 1);
    EXPECT_MISUSE(shared_pool_put(kBin, twice, 1), blocks[1], "block freed twice");
    EXPECT_MISUSE(shared_pool_check(kBin, twice, 1), blocks[1], "block freed twice");
    blocks.erase(blocks.begin() + 1);
    shared_pool_check(kBin, blocks.data(), 69);
    put(kBin, blocks);
}

// A block that is put back for a smaller bin, as when C++'s sized delete was told a smaller size,
// goes back to its own bin.
TEST_P(SharedPoolDeathTest, ABlockOfALargerBinIsPutBackAsThat) {
    if (HAK_HEADER || HAK_DEBUG) {
        GTEST_SKIP() << "that is reported";
    }
    constexpr unsigned kBin = 5;
    std::vector<void *> blocks = take(kBin, 70);
    std::vector<void *> small = take(1, 8);
    // Beside blocks of the smaller bin, in the order in which they are gathered and in another.
    void *mixed[] = {small[0], small[1], blocks[3], blocks[4], small[2], blocks[9], small[3]};
    shared_pool_check(1, mixed, 7);
    shared_pool_put(1, mixed, 7);
    for (void *block : {blocks[3], blocks[4], blocks[9]}) {
        EXPECT_TRUE(shared_pool_is_free(kBin, block));
        EXPECT_MISUSE(shared_pool_put(1, &block, 1), block,
                      "block freed twice, or the size given does not fit it");
        blocks.erase(std::find(blocks.begin(), blocks.end(), block));
    }
    for (int i = 0; i < 4; i++) {
        EXPECT_TRUE(shared_pool_is_free(1, small[i]));
    }
    void *inside = static_cast<char *>(blocks[5]) + 16;
    EXPECT_MISUSE(shared_pool_put(1, &inside, 1), inside,
                  "block freed twice, or the size given does not fit it");
    put(kBin, blocks);
    put(1, {small.begin() + 4, small.end()});
}

INSTANTIATE_TEST_SUITE_P(, SharedPoolDeathTest, testing::Values(kAlone, kBesideAnother),
                         [](const testing::TestParamInfo<Threads> &threads) {
                             return threads.param == kAlone ? "Alone" : "BesideAnother";
                         });

// A storm: threads take and put blocks of a few bins, their own and each other's. A shadow table
// and the blocks' contents both say who owns each block, which shows overlaps.
class SharedPoolStorm : public SharedPool,
                        public testing::WithParamInterface<std::vector<unsigned>> {};

TEST_P(SharedPoolStorm, NoBlockIsOwnedTwiceAndNoneIsLost) {
    constexpr int kThreads = 4;
    constexpr int kRounds = 60000;
    constexpr size_t kMostHeld = 300;
    constexpr size_t kSlabs = 8192;
    constexpr size_t kGranules = SIZE_CLASS_SLAB / SIZE_CLASS_STEP;
    const std::vector<unsigned> bins = GetParam();
    struct Held {
        unsigned bin;
        void *block;
    };
    // By the 16 B granule that a block starts at.
    std::unique_ptr<std::atomic<uint8_t>[]> owner(new std::atomic<uint8_t>[kSlabs * kGranules]());
    std::atomic<int> faults{0};
    std::mutex mailbox_lock;
    std::vector<Held> mailbox;

    auto shadow = [&](void *block) -> std::atomic<uint8_t> & {
        size_t granule = static_cast<size_t>(static_cast<char *>(block) - window.base) / 16;
        if (granule >= kSlabs * kGranules) {
            faults++;
            granule = 0;
        }
        return owner[granule];
    };
    // The ends and the middle of a block say whose it is.
    auto stamp = [&](const Held &held, uint64_t value) {
        auto *words = static_cast<uint64_t *>(held.block);
        size_t count = size_class_bins[held.bin].size / 8 - HAK_HEADER;
        words[0] = words[count / 2] = words[count - 1] = value;
    };
    auto stamped = [&](const Held &held, uint64_t value) {
        auto *words = static_cast<uint64_t *>(held.block);
        size_t count = size_class_bins[held.bin].size / 8 - HAK_HEADER;
        return words[0] == value && words[count / 2] == value && words[count - 1] == value;
    };
    auto work = [&](unsigned me) {
        std::mt19937_64 random(me);
        std::vector<Held> held;
        std::vector<shared_pool_hint> hints(SIZE_CLASS_BINS, ARENA_NONE);
        void *blocks[SHARED_POOL_BATCH_MOST];
        auto own = [&](const Held &one) {
            faults += shadow(one.block).exchange(static_cast<uint8_t>(me)) != 0;
            stamp(one, reinterpret_cast<uintptr_t>(one.block) ^ me);
            held.push_back(one);
        };
        auto disown = [&](size_t i) {
            Held one = held[i];
            held[i] = held.back();
            held.pop_back();
            faults += !stamped(one, reinterpret_cast<uintptr_t>(one.block) ^ me);
            faults += shadow(one.block).exchange(0) != me;
            return one;
        };
        for (int round = 0; round < kRounds; round++) {
            unsigned bin = bins[random() % bins.size()];
            switch (random() % 4) {
            case 0: {
                unsigned most = random() % 4 == 0 ? 64 : 4;
                unsigned got = shared_pool_take(bin, blocks, 1 + random() % most, &hints[bin]);
                faults += got == 0;
                for (unsigned i = 0; i < got; i++) {
                    own({bin, blocks[i]});
                }
                break;
            }
            case 1: { // some of one bin, in any order
                unsigned count = 0;
                for (size_t i = held.size(); i-- > 0 && count < 32;) {
                    if (held[i].bin == bin && random() % 2 == 0) {
                        blocks[count++] = disown(i).block;
                    }
                }
                shared_pool_put(bin, blocks, count);
                break;
            }
            case 2: { // a block to another thread, or from one
                std::lock_guard<std::mutex> lock(mailbox_lock);
                if (!mailbox.empty() && random() % 2 == 0) {
                    Held one = mailbox.back();
                    mailbox.pop_back();
                    own(one);
                } else if (!held.empty()) {
                    mailbox.push_back(disown(random() % held.size()));
                }
                break;
            }
            default:
                if (random() % 32 == 0) { // gives back no page of a block that a thread holds
                    shared_pool_walk walk = {};
                    walk.all = random() % 2 == 0;
                    shared_pool_purge(&walk, SIZE_MAX, SIZE_MAX);
                }
                if (held.size() > kMostHeld || random() % 64 == 0) {
                    size_t keep = random() % 16;
                    while (held.size() > keep) {
                        Held one = disown(random() % held.size());
                        shared_pool_put(one.bin, &one.block, 1);
                    }
                }
            }
        }
        while (!held.empty()) {
            Held one = disown(held.size() - 1);
            // One block in 16 stays in use over the end, for expect_listed().
            if (random() % 16 == 0) {
                std::lock_guard<std::mutex> lock(mailbox_lock);
                mailbox.push_back(one);
            } else {
                shared_pool_put(one.bin, &one.block, 1);
            }
        }
    };
    std::vector<std::thread> threads;
    for (unsigned i = 1; i <= kThreads; i++) {
        threads.emplace_back(work, i);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(faults.load(), 0);
    expect_listed();
    std::set<void *> left;
    size_t free_blocks = 0;
    size_t all_blocks = 0;
    for (const Held &one : mailbox) {
        EXPECT_TRUE(left.insert(one.block).second);
    }
    superslab_stats stats;
    superslab_get_stats(&stats);
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        free_blocks += stats.bin_free[bin];
        all_blocks += stats.bin_slabs[bin] * size_class_bins[bin].blocks;
    }
    EXPECT_EQ(free_blocks + left.size(), all_blocks) << "a block was lost";
    for (const Held &one : mailbox) {
        shared_pool_put(one.bin, &one.block, 1);
    }
}

INSTANTIATE_TEST_SUITE_P(
    Bins, SharedPoolStorm,
    testing::Values(
        // Two blocks a slab: slabs change their bin all the time.
        std::vector<unsigned>{kLastBin, kLastBin - 1},
        // Bitmaps of many words and of one, in line and not, in turn in the same slabs.
        std::vector<unsigned>{1, kLastBin, kLastBin - 2}, std::vector<unsigned>{2, 5, kLastBin / 2},
        std::vector<unsigned>{kLastBin / 2}));

TEST_F(SharedPool, ProducerAndConsumerNeedNoMoreSlabs) {
    // One thread takes, another puts: blocks that come back are used before fresh slabs are.
    constexpr unsigned kBin = 4;
    constexpr int kRounds = 3000;
    std::mutex lock;
    std::vector<std::vector<void *>> queue;
    std::atomic<bool> done{false};
    std::thread consumer([&] {
        for (;;) {
            bool last = done;
            std::vector<std::vector<void *>> work;
            {
                std::lock_guard<std::mutex> guard(lock);
                work.swap(queue);
            }
            for (const std::vector<void *> &blocks : work) {
                put(kBin, blocks);
            }
            if (work.empty()) {
                if (last) {
                    return;
                }
                std::this_thread::yield();
            }
        }
    });
    shared_pool_hint hint = ARENA_NONE;
    size_t peak = 0;
    for (int round = 0; round < kRounds;) {
        {
            std::lock_guard<std::mutex> guard(lock);
            if (queue.size() < 8) {
                queue.push_back(take(kBin, 64, hint));
                peak = std::max(peak, slabs_in_use());
                round++;
                continue;
            }
        }
        std::this_thread::yield();
    }
    done = true;
    consumer.join();
    // All blocks together fill 188 slabs; at most 17 batches, or 2 slabs, were in flight at once. A
    // few more for blocks that no taker sees while a slab is being reclaimed.
    EXPECT_LE(peak, 8u);
}

class SharedPoolHomes : public SharedPool {
  protected:
    void SetUp() override {
        SharedPool::SetUp();
        // No home is made while other tests' slabs have pages.
        size_t cursor = 0;
        do {
            page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
        } while (cursor != 0);
    }
    void TearDown() override {
        shared_pool_leave_homes();
        SharedPool::TearDown();
    }
    // The company of a thread that has met others often enough.
    static shared_pool_company met(uint8_t group) {
        shared_pool_company some = {};
        some.met = UINT8_MAX;
        some.group = group;
        return some;
    }
    static std::vector<void *> take_home(unsigned bin, unsigned want, shared_pool_company &of) {
        shared_pool_hint hint = ARENA_NONE;
        std::vector<void *> blocks(want);
        blocks.resize(shared_pool_take_home(bin, blocks.data(), want, &hint, &of));
        return blocks;
    }
    size_t superslab_of(const void *ptr) const { return slab_of(ptr) / ARENA_SUPERSLAB_SLABS; }
    static superslab_stats stats() {
        superslab_stats some;
        superslab_get_stats(&some);
        return some;
    }

    shared_pool_company company = met(1);
};

TEST_F(SharedPoolHomes, AThreadThatMeetsNoOthersHasNone) {
    company = {};
    std::vector<void *> blocks = take_home(9, 8, company);
    EXPECT_EQ(company.met, 0u);
    EXPECT_EQ(stats().homes, 0u);
    put(9, blocks);
}

// Threads leave free blocks in slabs that they take from, and meet each other there. If there are
// enough processors, they get homes.
TEST_F(SharedPoolHomes, AThreadThatMeetsOthersOftenGetsOne) {
    constexpr unsigned kBin = 9;
    constexpr size_t kThreads = 12;
    std::vector<std::vector<void *>> blocks(kThreads);
    std::atomic<size_t> ready{0};
    std::mutex turn;
    size_t in_groups = 0;
    auto one = [&](size_t t) {
        ready++;
        while (ready != kThreads) { // All run at the same time, so that their marks differ.
            std::this_thread::yield();
        }
        shared_pool_company mine = {};
        shared_pool_hint hint = ARENA_NONE;
        for (int i = 0; i < 40; i++) {
            std::lock_guard<std::mutex> lock(turn);
            void *some[64];
            unsigned got = shared_pool_take_home(kBin, some, 64, &hint, &mine);
            shared_pool_put(kBin, some, got - 1); // one block is not put back
            blocks[t].push_back(some[got - 1]);
            hint = ARENA_NONE;
        }
        std::lock_guard<std::mutex> lock(turn);
        in_groups += mine.met >= 4;
    };
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; t++) {
        threads.emplace_back(one, t);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    expect_listed();
    if (os_processors() < SHARED_POOL_HOMES_CORES) {
        EXPECT_EQ(in_groups, 0u);
        EXPECT_EQ(stats().homes, 0u);
    }
    for (size_t t = 0; t < kThreads; t++) {
        put(kBin, blocks[t]);
    }
    shared_pool_leave_homes();
    EXPECT_EQ(stats().homes, 0u);
    EXPECT_EQ(stats().spare_slabs, 0u);
}

TEST_F(SharedPoolHomes, AllSlabsOfAThreadAreFromItsHome) {
    constexpr unsigned kBins = std::min(30u, kLastBin);
    std::vector<std::vector<void *>> all;
    for (unsigned bin = 1; bin <= kBins; bin++) {
        all.push_back(take_home(bin, 1, company));
        ASSERT_EQ(all.back().size(), 1u);
        EXPECT_EQ(superslab_of(all.back()[0]), superslab_of(all[0][0])) << bin;
    }
    EXPECT_EQ(slabs_in_use(), size_t{ARENA_SUPERSLAB_SLABS});
    EXPECT_EQ(stats().homes, 1u);
    EXPECT_EQ(stats().spare_slabs, ARENA_SUPERSLAB_SLABS - kBins);
    expect_listed();
    // Only the thread finds the free blocks there.
    std::vector<void *> own = take_home(7, 1, company);
    EXPECT_EQ(slab_of(own[0]), slab_of(all[6][0]));
    std::vector<void *> other = take(7, 1);
    EXPECT_NE(superslab_of(other[0]), superslab_of(own[0]));
    put(7, own);
    put(7, other);
    for (unsigned bin = 1; bin <= kBins; bin++) {
        put(bin, all[bin - 1]);
    }
}

// Threads of a group share its homes, and take from different slabs if there are several.
TEST_F(SharedPoolHomes, AGroupSharesItsHomes) {
    constexpr unsigned kBin = 7;
    shared_pool_company same = met(1);
    shared_pool_company other = met(2);
    std::vector<void *> a = take_home(kBin, 1, company);
    std::vector<void *> b = take_home(kBin, 1, same);
    std::vector<void *> c = take_home(kBin, 1, other);
    EXPECT_EQ(slab_of(a[0]), slab_of(b[0]));
    EXPECT_NE(superslab_of(a[0]), superslab_of(c[0]));
    EXPECT_EQ(stats().homes, 2u);
    put(kBin, a);
    put(kBin, b);
    put(kBin, c);
}

TEST_F(SharedPoolHomes, AHomeThatIsLeftIsEverybodys) {
    constexpr unsigned kBin = 7;
    std::vector<void *> own = take_home(kBin, 2, company);
    EXPECT_EQ(slabs_in_use(), size_t{ARENA_SUPERSLAB_SLABS});
    shared_pool_leave_homes();
    EXPECT_EQ(slabs_in_use(), 1u);
    expect_listed();
    std::vector<void *> other = take(kBin, 1);
    EXPECT_EQ(slab_of(other[0]), slab_of(own[0]));
    put(kBin, own);
    put(kBin, other);
}

// A few slabs that become free stay in the thread's home.
TEST_F(SharedPoolHomes, AFewFreeSlabsStay) {
    const unsigned bin = size_class_bin_of(size_t{16384} - SIZE_CLASS_HEADER);
    std::vector<void *> all;
    while (stats().spare_slabs != 0 || all.empty()) {
        std::vector<void *> some = take_home(bin, 4, company);
        all.insert(all.end(), some.begin(), some.end());
    }
    EXPECT_EQ(stats().homes, 1u);
    put(bin, all);
    EXPECT_EQ(stats().spare_slabs, 2u);
    EXPECT_EQ(slabs_in_use(), 2u);
    std::vector<void *> again = take_home(bin, 1, company);
    EXPECT_EQ(superslab_of(again[0]), superslab_of(all[0])) << "what has pages comes first";
    put(bin, again);
}

TEST_F(SharedPoolHomes, AHomeThatIsNotUsedIsLeftByTheWalk) {
    constexpr unsigned kBin = 7;
    std::vector<void *> own = take_home(kBin, 2, company);
    auto walk = [] {
        shared_pool_walk some = {};
        do {
            shared_pool_purge(&some, SIZE_MAX, SIZE_MAX);
        } while (some.cursor != 0);
    };
    for (int i = 0; i < 20; i++) {
        walk();
        EXPECT_EQ(stats().homes, 1u) << "used between two visits";
        put(kBin, take_home(kBin, 1, company));
    }
    for (int i = 0; i < 20; i++) {
        walk();
    }
    EXPECT_EQ(stats().homes, 0u);
    EXPECT_EQ(slabs_in_use(), 1u);
    expect_listed();
    // The thread gets another home when it wants a slab again.
    std::vector<void *> more = take_home(kBin + 1, 1, company);
    EXPECT_EQ(stats().homes, 1u);
    put(kBin, own);
    put(kBin + 1, more);
}

TEST_F(SharedPoolHomes, AGroupHasNoMoreThanItMayHave) {
    const unsigned bin = size_class_bin_of(size_t{16384} - SIZE_CLASS_HEADER);
    std::vector<void *> all;
    while (all.size() < size_t{SHARED_POOL_HOMES + 3} * ARENA_SUPERSLAB_SLABS * 4) {
        std::vector<void *> some = take_home(bin, 4, company);
        ASSERT_FALSE(some.empty());
        all.insert(all.end(), some.begin(), some.end());
    }
    EXPECT_EQ(stats().homes, size_t{SHARED_POOL_HOMES});
    expect_listed();
    put(bin, all);
}

// Threads take and put blocks in homes while one thread leaves the homes again and again, and
// another one walks.
TEST_F(SharedPoolHomes, HomesOfManyThreads) {
    constexpr unsigned kThreads = 4;
    std::mutex exchange_lock;
    std::vector<std::pair<unsigned, void *>> exchange;
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; t++) {
        threads.emplace_back([&, t] {
            shared_pool_company mine = met(static_cast<uint8_t>(t / 2));
            std::vector<shared_pool_hint> hints(SIZE_CLASS_BINS, ARENA_NONE);
            std::minstd_rand random(t + 1);
            for (int i = 0; i < 4000; i++) {
                unsigned bin = random() % 8 * (kLastBin / 8) + 1;
                void *blocks[16];
                unsigned got =
                    shared_pool_take_home(bin, blocks, 1 + random() % 16, &hints[bin], &mine);
                ASSERT_GT(got, 0u);
                {
                    std::lock_guard<std::mutex> lock(exchange_lock);
                    for (unsigned b = 0; b < got; b++) {
                        exchange.emplace_back(bin, blocks[b]);
                        std::swap(exchange.back(), exchange[random() % exchange.size()]);
                    }
                }
                for (unsigned b = 0; b < got; b++) {
                    std::pair<unsigned, void *> block;
                    {
                        std::lock_guard<std::mutex> lock(exchange_lock);
                        if (exchange.size() < 500) {
                            break;
                        }
                        block = exchange.back();
                        exchange.pop_back();
                    }
                    shared_pool_put(block.first, &block.second, 1);
                }
                if (t == 0 && i % 50 == 0) {
                    shared_pool_leave_homes();
                }
                if (t == 1 && i % 100 == 0) {
                    shared_pool_walk walk = {};
                    shared_pool_purge(&walk, SIZE_MAX, SIZE_MAX);
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    expect_listed();
    for (auto &block : exchange) {
        shared_pool_put(block.first, &block.second, 1);
    }
    shared_pool_leave_homes();
    EXPECT_EQ(stats().spare_slabs, 0u);
}

} // namespace
