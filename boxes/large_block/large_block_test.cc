// SPDX-License-Identifier: Apache-2.0
#include "boxes/large_block/large_block.h"

#include "backends/os.h"
#include "boxes/large_block/large_block_fixture.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <thread>
#include <unistd.h>
#include <vector>

extern "C" int64_t settings_values[SETTING_COUNT];

// The machine that the tests run on may have less memory than the blocks that they ask for.
static size_t granted = SIZE_MAX;
static size_t asked;
extern "C" enum os_result __wrap_os_would_grant(size_t size) {
    asked = size;
    return size <= granted ? OS_OK : OS_NO_MEMORY;
}

static uint64_t clock_ms; // 0: the kernel's
static size_t purges;
extern "C" uint64_t __real_os_now_ms();
extern "C" uint64_t __wrap_os_now_ms() {
    return clock_ms != 0 ? clock_ms : __real_os_now_ms();
}
extern "C" enum os_result __real_os_purge(void *at, size_t size);
extern "C" enum os_result __wrap_os_purge(void *at, size_t size) {
    purges++;
    return __real_os_purge(at, size);
}

namespace {

class LargeBlock : public LargeBlockFixture {
  protected:
    // A pattern that tells every page of every block apart.
    static void fill(char *ptr, size_t size, unsigned seed) {
        for (size_t at = 0; at < size; at += 512) {
            ptr[at] = static_cast<char>(at / 512 * 31 + at / 131072 + seed);
        }
        ptr[size - 1] = static_cast<char>(seed);
    }
    static bool filled(const char *ptr, size_t size, unsigned seed, size_t whole) {
        for (size_t at = 0; at < size; at += 512) {
            if (at != whole - 1 &&
                ptr[at] != static_cast<char>(at / 512 * 31 + at / 131072 + seed)) {
                return false;
            }
        }
        return size < whole || ptr[whole - 1] == static_cast<char>(seed);
    }
    static bool is_zero(const char *ptr, size_t size) {
        return ptr[0] == 0 && memcmp(ptr, ptr + 1, size - 1) == 0;
    }
};

// Calls fn in a thread with another slot than `slot`; few threads have the same one.
void in_another_thread(unsigned slot, const std::function<void()> &fn) {
    std::thread([&] {
        if (hak_thread_slot() != slot) {
            fn();
        } else {
            in_another_thread(slot, fn); // while this one has its place
        }
    }).join();
}

TEST_F(LargeBlock, WhatItsThreadFreesIsSetAsideForItsNext) {
    char *ptr = alloc(40000, 1);
    fill(ptr, 40000, 3);
    ASSERT_TRUE(release(ptr));
    EXPECT_EQ(stats().aside_slabs, 1u);
    EXPECT_FALSE(release(ptr)) << "freed twice";
    ASSERT_EQ(alloc(50000, 1), ptr);
    EXPECT_EQ(stats().aside_slabs, 0u);
    EXPECT_GE(usable(ptr), 50000u);
    ASSERT_TRUE(release(ptr));
    ASSERT_EQ(alloc(60000, 1, LARGE_BLOCK_ZERO), ptr);
    EXPECT_TRUE(is_zero(ptr, 60000));
    // Another thread frees it: this one is likely to ask for such a run again, and that one not.
    in_another_thread(hak_thread_slot(), [&] {
        EXPECT_TRUE(release(ptr));
        char *other = alloc(60000, 1);
        EXPECT_NE(other, ptr);
        EXPECT_TRUE(release(other));
    });
    EXPECT_EQ(stats().aside_slabs, 2u);
    ASSERT_EQ(alloc(60000, 1), ptr);
    EXPECT_EQ(stats().aside_slabs, 1u);
    ASSERT_TRUE(release(ptr));
}

TEST_F(LargeBlock, SizesAndAlignments) {
    for (size_t size : {size_t{1}, size_t{32769}, kSlab - 1, kSlab, kSlab + 1, 31 * kSlab,
                        size_t{5} << 20, size_t{100} << 20}) {
        for (size_t align = 1; align <= size_t{1} << 30; align *= 32) {
            char *ptr = alloc(size, align);
            ASSERT_NE(ptr, nullptr) << size << " " << align;
            const size_t least =
                align <= HAK_CACHE_LINE ? size_t{HAK_CACHE_LINE} : std::max(align, kSlab);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(ptr) % least, 0u);
            EXPECT_EQ(usable(ptr), large_block_good_size(size));
            ptr[0] = ptr[size - 1] = ptr[usable(ptr) - 1] = 1;
            EXPECT_TRUE(release(ptr));
        }
    }
}

TEST_F(LargeBlock, UsableSizesAreMultiplesOfACacheLine) {
    for (size_t size = kSlab - 200; size <= kSlab + 200; size++) {
        char *ptr = alloc(size, 1);
        EXPECT_EQ(usable(ptr), hak_round_up(size, HAK_CACHE_LINE));
        const auto end = reinterpret_cast<uintptr_t>(ptr) + usable(ptr);
        EXPECT_LE(end, hak_round_up(reinterpret_cast<uintptr_t>(ptr) + size, kSlab));
        EXPECT_TRUE(release(ptr));
    }
}

TEST_F(LargeBlock, BlocksOfOneSizeStartAtManyLinesOfTheirPages) {
    struct {
        size_t size;
        large_block_use use;
        size_t lines; // of the 64 of a page, and of 64 blocks
    } const cases[] = {
        {40000, LARGE_BLOCK_ANY, 28},
        {63 << 10, LARGE_BLOCK_ANY, 15}, // of the 17 that there is room for
        {kSlab, LARGE_BLOCK_ANY, 1},
        {kSlab, LARGE_BLOCK_GROWN, 28},
        {2 * kSlab, LARGE_BLOCK_GROWN, 28},
        {4 * kSlab, LARGE_BLOCK_ANY, 28},
        {16 * kSlab, LARGE_BLOCK_ANY, 28},
    };
    for (const auto &[size, use, expected] : cases) {
        std::vector<char *> blocks;
        std::set<size_t> lines;
        for (int i = 0; i < 64; i++) {
            blocks.push_back(alloc(size, 16, use));
            ASSERT_NE(blocks.back(), nullptr);
            size_t offset = reinterpret_cast<uintptr_t>(blocks.back()) % kSlab;
            EXPECT_LT(offset, size_t{HAK_PAGE});
            EXPECT_EQ(offset % HAK_CACHE_LINE, 0u);
            EXPECT_EQ(usable(blocks.back()), large_block_good_size(size)) << "at any line";
            lines.insert(offset / HAK_CACHE_LINE);
        }
        EXPECT_GE(lines.size(), expected) << size;
        for (char *block : blocks) {
            char *slab = block - reinterpret_cast<uintptr_t>(block) % kSlab;
            EXPECT_EQ(slab != block && release(slab), false) << "the start of its run";
            EXPECT_TRUE(release(block));
        }
    }
}

// A program that uses the first page of each of many blocks pays for no second one.
TEST_F(LargeBlock, ManyBlocksStartAtAPage) {
    constexpr size_t kSize = 40000;
    constexpr size_t kFew = 1000;
    std::vector<char *> blocks;
    const auto at_a_page = [&](size_t count) {
        size_t sum = 0;
        for (size_t i = 0; i < count; i++) {
            blocks.push_back(alloc(kSize, 1));
            sum += reinterpret_cast<uintptr_t>(blocks.back()) % HAK_PAGE == 0 ? 1 : 0;
        }
        return sum;
    };
    EXPECT_LT(at_a_page(kFew), kFew / 4);
    at_a_page(kFew / 10);
    EXPECT_EQ(at_a_page(kFew), kFew);
    for (size_t i = 0; i < blocks.size(); i++) {
        // Blocks that move end in other ways.
        for (size_t size = 200 << 10; i < 50 && size <= size_t{2} << 20; size *= 10) {
            if (char *moved = resize(blocks[i], size); moved != nullptr) {
                blocks[i] = moved;
            }
        }
        EXPECT_TRUE(release(blocks[i]));
    }
    blocks.clear();
    EXPECT_LT(at_a_page(kFew), kFew / 20) << "all that was is gone";
    for (char *block : blocks) {
        EXPECT_TRUE(release(block));
    }
}

TEST_F(LargeBlock, ResizeKeepsTheLine) {
    size_t size = LARGE_BLOCK_MOVE;
    char *ptr = alloc(size, 1);
    while (reinterpret_cast<uintptr_t>(ptr) % kSlab == 0) {
        char *next = alloc(size, 1);
        EXPECT_TRUE(release(ptr));
        ptr = next;
    }
    const size_t offset = reinterpret_cast<uintptr_t>(ptr) % HAK_PAGE;
    fill(ptr, size, 9);
    std::vector<char *> walls;
    for (int round = 0; round < 4; round++) {
        walls.push_back(alloc(kSlab));
        char *now = resize(ptr, size * 2);
        if (now == nullptr) {
            break; // a kernel that cannot move it
        }
        EXPECT_EQ(reinterpret_cast<uintptr_t>(now) % HAK_PAGE, offset);
        EXPECT_EQ(usable(now), large_block_good_size(size * 2));
        EXPECT_TRUE(filled(now, size, 9, size));
        ptr = now;
        size *= 2;
        fill(ptr, size, 9);
    }
    ptr = resize(ptr, 1);
    EXPECT_EQ(usable(ptr), large_block_good_size(1));
    EXPECT_TRUE(release(ptr));
    for (char *wall : walls) {
        EXPECT_TRUE(release(wall));
    }
}

TEST_F(LargeBlock, WhatCannotBeIsRefused) {
    EXPECT_EQ(alloc(SIZE_MAX), nullptr);
    EXPECT_EQ(alloc(size_t{PTRDIFF_MAX} + 1), nullptr);
    EXPECT_EQ(alloc(PTRDIFF_MAX), nullptr);
    EXPECT_EQ(alloc(SIZE_MAX - kSlab + 1), nullptr);
    EXPECT_EQ(alloc(1, size_t{1} << 63), nullptr);
    char *ptr = alloc(kSlab);
    fill(ptr, kSlab, 1);
    EXPECT_EQ(resize(ptr, SIZE_MAX), nullptr);
    EXPECT_EQ(resize(ptr, PTRDIFF_MAX), nullptr);
    EXPECT_EQ(usable(ptr), kSlab);
    EXPECT_TRUE(filled(ptr, kSlab, 1, kSlab));
    EXPECT_TRUE(release(ptr));
}

TEST_F(LargeBlock, WhatTheWindowHasNoRoomForIsFar) {
    // The largest are so from the start.
    size_t high = page_arena_high();
    char *first = alloc(LARGE_BLOCK_FAR);
    ASSERT_NE(first, nullptr);
    EXPECT_GE(slab_of(first), window.slabs);
    EXPECT_EQ(page_arena_high(), high);
    EXPECT_TRUE(release(first));
    size_t size = window.slabs << ARENA_SLAB_SHIFT;
    char *ptr = alloc(size, kSlab, LARGE_BLOCK_ZERO);
    ASSERT_NE(ptr, nullptr);
    EXPECT_GE(slab_of(ptr), window.slabs);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(ptr) % kSlab, 0u);
    EXPECT_EQ(usable(ptr), size);
    EXPECT_EQ(ptr[0] | ptr[size - 1], 0);
    ptr[0] = ptr[size - 1] = 1;
    EXPECT_EQ(resize(ptr, size / 2), ptr);
    EXPECT_EQ(usable(ptr), size / 2);
    EXPECT_EQ(ptr[0], 1);
    EXPECT_FALSE(release(ptr + HAK_PAGE));
    EXPECT_TRUE(release(ptr));
    EXPECT_FALSE(release(ptr));
    EXPECT_EQ(usable(ptr), 0u);
    // A limit counts what the window has given out: there it is the window or nothing.
    settings_values[SETTING_LIMIT] = INT64_MAX;
    EXPECT_EQ(alloc(size), nullptr);
    settings_values[SETTING_LIMIT] = 0;
    // The kernel does not have all of the memory either.
    EXPECT_EQ(alloc(size_t{1} << 60), nullptr);
}

TEST_F(LargeBlock, OnlyTheStartOfALiveBlockIsFreed) {
    char *ptr = alloc(3 * kSlab);
    for (char *wrong :
         {ptr + 1, ptr + 16, ptr + kSlab, ptr + 2 * kSlab, ptr + 3 * kSlab, ptr - kSlab,
          static_cast<char *>(nullptr), reinterpret_cast<char *>(&ptr)}) {
        EXPECT_FALSE(release(wrong));
        EXPECT_EQ(usable(wrong), 0u);
    }
    EXPECT_EQ(usable(ptr), 3 * kSlab);
    EXPECT_TRUE(release(ptr));
    EXPECT_FALSE(release(ptr));
    EXPECT_EQ(usable(ptr), 0u);
}

TEST_F(LargeBlock, ZeroMeansZeroOnDirtyRunsToo) {
    for (size_t size : {kSlab, 3 * kSlab - 100, size_t{2} << 20}) {
        char *dirty = alloc(size);
        memset(dirty, 0xff, usable(dirty));
        EXPECT_TRUE(release(dirty));
        char *ptr = alloc(size, kSlab, LARGE_BLOCK_ZERO);
        EXPECT_EQ(ptr, dirty) << "the dirty run comes first";
        EXPECT_TRUE(is_zero(ptr, size));
        EXPECT_TRUE(release(ptr));
    }
    char *fresh = alloc(size_t{80} << 20, kSlab, LARGE_BLOCK_ZERO);
    EXPECT_TRUE(is_zero(fresh, size_t{80} << 20));
    EXPECT_TRUE(release(fresh));
}

TEST_F(LargeBlock, VeryLargeOnesGiveTheirPagesBackAtOnce) {
    char *ptr = alloc(LARGE_BLOCK_EAGER);
    memset(ptr, 1, LARGE_BLOCK_EAGER);
    size_t dirty = stats().dirty_slabs;
    EXPECT_TRUE(release(ptr));
    EXPECT_EQ(stats().dirty_slabs, dirty);
    ptr = alloc(LARGE_BLOCK_EAGER - kSlab);
    memset(ptr, 1, LARGE_BLOCK_EAGER - kSlab);
    dirty = stats().dirty_slabs;
    EXPECT_TRUE(release(ptr));
    // Slabs above the arena's ceiling are the exception.
    EXPECT_GE(stats().dirty_slabs, dirty + LARGE_BLOCK_EAGER / kSlab / 2);
}

// Pages with memory among those that [from, from + size) lies on.
size_t resident(const char *from, size_t size) {
    const auto start = reinterpret_cast<uintptr_t>(from) & ~uintptr_t{HAK_PAGE - 1};
    const size_t pages =
        (reinterpret_cast<uintptr_t>(from) + size - start + HAK_PAGE - 1) / HAK_PAGE;
    std::vector<unsigned char> in(pages);
    EXPECT_EQ(mincore(reinterpret_cast<void *>(start), pages * HAK_PAGE, in.data()), 0);
    return static_cast<size_t>(std::count_if(in.begin(), in.end(), [](int c) { return c & 1; }));
}

TEST_F(LargeBlock, ManyBlocksHoldLittleBehindTheirEnds) {
    // While this runs, the kernel is not to make a huge page of pages that it finds beside each
    // other: it would bring what was given back into memory again.
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    constexpr size_t kBlocks = 400;
    constexpr size_t kRun = 2 * kSlab;
    constexpr size_t kSize = kSlab + 1000; // fills a little more than half of its run
    constexpr size_t kNeeds = kSize / HAK_PAGE + 2;
    std::vector<char *> blocks;
    auto held = [&] {
        size_t pages = 0;
        for (const char *block : blocks) {
            pages += resident(block, kRun - HAK_PAGE);
        }
        return pages;
    };
    clock_ms = __real_os_now_ms() + 1000;
    // Where blocks shrink.
    for (size_t i = 0; i < kBlocks; i++) {
        blocks.push_back(alloc(kRun, 1));
        fill(blocks[i], kRun, static_cast<unsigned>(i));
    }
    for (size_t i = 0; i < kBlocks; i++) {
        ASSERT_TRUE(large_block_resize_here(&window, blocks[i],
                                            page_arena_slab_of(&window, blocks[i]), kSize));
        EXPECT_TRUE(filled(blocks[i], kSize, static_cast<unsigned>(i), kRun));
    }
    EXPECT_LE(held(), kBlocks * kNeeds * 9 / 8);
    // Where they are in the place of others, which filled it.
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < kBlocks; i++) {
            ASSERT_TRUE(release(blocks[i]));
            blocks[i] = alloc(kRun - round, 1);
            memset(blocks[i], 1, kRun - round);
            ASSERT_TRUE(release(blocks[i]));
            blocks[i] = alloc(kSize, 1);
            memset(blocks[i], 1, kSize);
            clock_ms++; // The program does something else, too.
        }
        EXPECT_LE(held(), kBlocks * kNeeds * 9 / 8);
    }
    // One alone gives nothing back.
    for (char *block : blocks) {
        ASSERT_TRUE(release(block));
    }
    char *only = alloc(kRun, 1);
    memset(only, 1, kRun);
    ASSERT_TRUE(release(only));
    const size_t slab = slab_of(only);
    only = alloc(kSize, 1);
    ASSERT_EQ(slab_of(only), slab);
    EXPECT_GE(resident(only, kRun - HAK_PAGE), kRun / HAK_PAGE - 2);
    ASSERT_TRUE(release(only));
    clock_ms = 0;
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
}

TEST_F(LargeBlock, ALargeTableOfZeroesHasThePagesThatAreUsed) {
    constexpr size_t kSize = 4 << 20;
    settings_values[SETTING_DECAY_MS] = -1; // what is freed keeps its pages
    char *ptr = alloc(kSize, 1);
    char *page = ptr - reinterpret_cast<uintptr_t>(ptr) % HAK_PAGE;
    madvise(page, kSize + kSlab, MADV_NOHUGEPAGE);
    memset(ptr, 1, kSize / 4); // more, and the run would be taken for one that is filled
    ASSERT_TRUE(release(ptr));
    char *table = static_cast<char *>(large_block_alloc(kSize, 1, LARGE_BLOCK_ZERO));
    EXPECT_EQ(table, ptr);
    table[kSize / 2] = 1;
    EXPECT_LE(resident(table, kSize), 2u);
    table[kSize / 2] = 0;
    EXPECT_TRUE(is_zero(table, kSize));
    ASSERT_TRUE(release(table));
    settings_values[SETTING_DECAY_MS] = 500;
}

// A program whose blocks come and go quickly does not pay for their ends each time.
TEST_F(LargeBlock, EndsGoBackAtABoundedRate) {
    constexpr size_t kBlocks = 300;
    settings_values[SETTING_DECAY_MS] = 500;
    std::vector<char *> blocks(kBlocks);
    auto churn = [&](size_t times) {
        for (size_t i = 0; i < times; i++) {
            char *&block = blocks[i % kBlocks];
            if (block != nullptr) {
                ASSERT_TRUE(release(block));
            }
            block = alloc(kSlab + i * 7919 % kSlab, 1);
            ASSERT_NE(block, nullptr);
        }
    };
    clock_ms = __real_os_now_ms() + 1000;
    churn(kBlocks);
    purges = 0;
    churn(20000);
    EXPECT_GE(purges, 100u);
    EXPECT_LE(purges, 2000u);
    purges = 0;
    churn(20000);
    EXPECT_LE(purges, 1000u) << "one of many";
    clock_ms += 10;
    purges = 0;
    churn(20000);
    EXPECT_GE(purges, 30u);
    EXPECT_LE(purges, 1100u);
    for (char *block : blocks) {
        ASSERT_TRUE(release(block));
    }
    clock_ms = 0;
}

// Only the pages that were used are cleared, and no other gets memory, also where the block starts
// and ends within a page.
TEST_F(LargeBlock, ATableThatWasUsedALittleIsClearedALittle) {
    settings_values[SETTING_DECAY_MS] = -1; // what is freed keeps its pages
    for (size_t size : {size_t{300} << 10, size_t{900} << 10, (size_t{5} << 20) + 100}) {
        purge();
        char *ptr = static_cast<char *>(large_block_alloc(size, 1, LARGE_BLOCK_ZERO));
        ASSERT_NE(ptr, nullptr);
        // A huge page would bring all that is near into memory.
        char *page = ptr - reinterpret_cast<uintptr_t>(ptr) % HAK_PAGE;
        madvise(page, hak_round_up(size, kSlab), MADV_NOHUGEPAGE);
        for (size_t at : {size_t{0}, size / 3, size / 2, size - 1}) {
            ptr[at] = 1;
        }
        size_t used = resident(ptr, size);
        EXPECT_LE(used, 5u) << size;
        ASSERT_TRUE(release(ptr));
        char *again = static_cast<char *>(large_block_alloc(size, 1, LARGE_BLOCK_ZERO));
        ASSERT_EQ(again, ptr);
        EXPECT_LE(resident(again, size), used) << size;
        EXPECT_TRUE(is_zero(again, size)) << size;
        ASSERT_TRUE(release(again));
        // All of it has pages: they are cleared, or go back.
        ASSERT_EQ(alloc(size, 1), ptr);
        memset(ptr, 1, size);
        ASSERT_TRUE(release(ptr));
        again = static_cast<char *>(large_block_alloc(size, 1, LARGE_BLOCK_ZERO));
        EXPECT_TRUE(is_zero(again, size)) << size;
        ASSERT_TRUE(release(again));
    }
    settings_values[SETTING_DECAY_MS] = 500;
}

// Bytes of the process's mappings that are advised huge pages.
size_t advised() {
    std::ifstream smaps("/proc/self/smaps");
    std::string line;
    size_t kib = 0;
    size_t sum = 0;
    while (std::getline(smaps, line)) {
        if (line.rfind("Size:", 0) == 0) {
            kib = std::stoul(line.substr(5));
        } else if (line.rfind("VmFlags:", 0) == 0 && line.find(" hg") != std::string::npos) {
            sum += kib * 1024;
        }
    }
    return sum;
}

TEST_F(LargeBlock, WhatLeavesMuchOfItsSlabIsNotPutOnHugePages) {
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) {
        GTEST_SKIP() << "this kernel has none";
    }
    constexpr int kBlocks = 4000; // more than the tests before have left
    page_arena_mark_dense(true);
    std::vector<void *> blocks;
    auto grown_by = [&](size_t size) {
        const size_t before = advised();
        for (int i = 0; i < kBlocks; i++) {
            blocks.push_back(large_block_alloc(size, 1, LARGE_BLOCK_ANY));
            EXPECT_NE(blocks.back(), nullptr);
        }
        return advised() - before;
    };
    EXPECT_EQ(grown_by(ARENA_SLAB / 4 * 3 - HAK_CACHE_LINE), 0u);
    EXPECT_EQ(grown_by(ARENA_SLAB + ARENA_SLAB / 8), 0u);
    EXPECT_GE(grown_by(ARENA_SLAB / 16 * 15), kBlocks / 2 * size_t{ARENA_SLAB});
    page_arena_mark_dense(false);
    for (void *block : blocks) {
        EXPECT_TRUE(large_block_free(&window, block, page_arena_slab_of(&window, block)));
    }
}

TEST_F(LargeBlock, StaysWhileItsPagesDo) {
    char *ptr = alloc(100 * HAK_PAGE, 2 * kSlab); // starts at a page
    const size_t slab = slab_of(ptr);
    fill(ptr, 100 * HAK_PAGE, 7);
    for (size_t size : {size_t{99 * HAK_PAGE}, size_t{100 * HAK_PAGE + 1}, size_t{1}, SIZE_MAX}) {
        EXPECT_FALSE(large_block_stays(ptr, slab, size)) << size;
        EXPECT_EQ(usable(ptr), 100u * HAK_PAGE);
    }
    EXPECT_TRUE(large_block_stays(ptr, slab, 99 * HAK_PAGE + 1));
    EXPECT_EQ(usable(ptr), large_block_good_size(99 * HAK_PAGE + 1));
    EXPECT_TRUE(large_block_stays(ptr, slab, 100 * HAK_PAGE));
    EXPECT_TRUE(filled(ptr, 100 * HAK_PAGE, 7, 100 * HAK_PAGE));
    EXPECT_FALSE(large_block_stays(ptr + 64, slab, 100 * HAK_PAGE)) << "no start";
    EXPECT_FALSE(large_block_stays(ptr + kSlab, slab + 1, 100 * HAK_PAGE)) << "no start";
    ASSERT_TRUE(release(ptr));
    EXPECT_FALSE(large_block_stays(ptr, slab, 100 * HAK_PAGE)) << "free";
}

TEST_F(LargeBlock, ResizeInPlace) {
    size_t size = 10 * kSlab;
    char *ptr = alloc(size);
    fill(ptr, size, 3);
    EXPECT_EQ(resize(ptr, size - 1), ptr) << "within the same slabs";
    EXPECT_EQ(resize(ptr, 4 * kSlab + 1), ptr);
    EXPECT_EQ(usable(ptr), large_block_good_size(4 * kSlab + 1));
    EXPECT_EQ(stats().held_slabs, 5u);
    EXPECT_TRUE(filled(ptr, 4 * kSlab, 3, size));
    EXPECT_EQ(resize(ptr, 20 * kSlab), ptr) << "what follows is free";
    EXPECT_EQ(usable(ptr), 20 * kSlab);
    EXPECT_TRUE(filled(ptr, 4 * kSlab, 3, size));
    EXPECT_EQ(resize(ptr, 1), ptr);
    EXPECT_EQ(stats().held_slabs, 1u);
    EXPECT_TRUE(release(ptr));
}

TEST_F(LargeBlock, ResizeOfASmallOneThatCannotGrowIsRefused) {
    char *ptr = alloc(kSlab);
    char *wall = alloc(kSlab);
    ASSERT_EQ(wall, ptr + kSlab);
    fill(ptr, kSlab, 4);
    EXPECT_EQ(resize(ptr, 2 * kSlab), nullptr);
    EXPECT_EQ(usable(ptr), kSlab);
    EXPECT_TRUE(filled(ptr, kSlab, 4, kSlab));
    EXPECT_EQ(stats().held_slabs, 2u);
    EXPECT_TRUE(release(wall));
    EXPECT_EQ(resize(ptr, 2 * kSlab), ptr);
    EXPECT_TRUE(release(ptr));
}

TEST_F(LargeBlock, ResizeMovesThePages) {
    // Move, grow in place (by then it is of several mappings), and move again.
    std::vector<char *> walls;
    size_t size = LARGE_BLOCK_MOVE;
    char *ptr = alloc(size);
    fill(ptr, size, 5);
    for (int round = 0; round < 6; round++) {
        walls.push_back(alloc(kSlab)); // most likely right behind it
        size_t bigger = size + LARGE_BLOCK_MOVE;
        char *old = ptr;
        char *now = resize(ptr, bigger);
        if (now == nullptr) {
            // A kernel that cannot move it: what realloc() does then.
            now = alloc(bigger);
            memcpy(now, ptr, size);
            EXPECT_TRUE(release(ptr));
        }
        EXPECT_TRUE(filled(now, size, 5, size)) << round;
        EXPECT_EQ(usable(now), bigger);
        if (now != old) {
            EXPECT_EQ(usable(old), 0u);
            EXPECT_FALSE(release(old));
        }
        ptr = now;
        size = bigger;
        fill(ptr, size, 5);
        if (char *same = resize(ptr, size + 3 * kSlab)) {
            ptr = same;
            EXPECT_TRUE(filled(ptr, size, 5, size));
            size += 3 * kSlab;
            fill(ptr, size, 5);
        }
    }
    EXPECT_TRUE(release(ptr));
    for (char *wall : walls) {
        EXPECT_TRUE(release(wall));
    }
    // The runs that moves left behind are as good as new.
    char *all = alloc(size_t{30} << 20, kSlab, LARGE_BLOCK_ZERO);
    EXPECT_TRUE(is_zero(all, size_t{30} << 20));
    EXPECT_TRUE(release(all));
}

TEST_F(LargeBlock, Storm) {
    constexpr int kThreads = 4;
    constexpr int kRounds = 1500;
    struct Held {
        char *ptr;
        size_t size;
        unsigned seed;
    };
    std::atomic<int> faults{0};
    auto work = [&](unsigned me) {
        std::mt19937_64 random(me);
        std::vector<Held> held;
        for (int round = 0; round < kRounds; round++) {
            size_t size = 1 + random() % (random() % 8 == 0 ? 40 * kSlab : 4 * kSlab);
            unsigned what = random() % 8;
            if (what < 3 || held.empty()) {
                auto use = static_cast<large_block_use>(random() % 3);
                char *ptr = alloc(size, random() % 2 == 0 ? 1 : kSlab << random() % 4, use);
                if (ptr == nullptr) {
                    faults++;
                    continue;
                }
                faults += use == LARGE_BLOCK_ZERO && !is_zero(ptr, size);
                held.push_back({ptr, size, static_cast<unsigned>(round) * 7 + me});
                fill(ptr, size, held.back().seed);
            } else if (what < 5) {
                Held &one = held[random() % held.size()];
                char *now = resize(one.ptr, size);
                if (now != nullptr) {
                    faults += !filled(now, std::min(size, one.size), one.seed, one.size);
                    one.ptr = now;
                    one.size = size;
                    fill(now, size, one.seed);
                }
            } else {
                size_t keep = random() % 8;
                while (held.size() > keep) {
                    Held one = held.back();
                    held.pop_back();
                    faults += !filled(one.ptr, one.size, one.seed, one.size);
                    faults += !release(one.ptr);
                }
            }
        }
        for (const Held &one : held) {
            faults += !release(one.ptr);
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
}

// Last: it leaves much of the window committed.
TEST_F(LargeBlock, BlocksOfGiBsAreAskedFor) {
    asked = 0;
    char *ptr = alloc(LARGE_BLOCK_ASKED - 1);
    ASSERT_NE(ptr, nullptr);
    EXPECT_EQ(asked, 0u);
    // Refused: the block is as it was.
    granted = LARGE_BLOCK_ASKED;
    ptr[0] = 1;
    EXPECT_EQ(resize(ptr, 4 * LARGE_BLOCK_ASKED), nullptr);
    EXPECT_GE(asked, 2 * LARGE_BLOCK_ASKED);
    EXPECT_EQ(ptr[0], 1);
    EXPECT_TRUE(release(ptr));
    EXPECT_EQ(alloc(LARGE_BLOCK_ASKED + 1), nullptr);
    EXPECT_EQ(alloc(LARGE_BLOCK_FAR), nullptr);
    ptr = alloc(LARGE_BLOCK_ASKED);
    ASSERT_NE(ptr, nullptr);
    EXPECT_EQ(asked, LARGE_BLOCK_ASKED);
    EXPECT_TRUE(release(ptr));
    granted = SIZE_MAX;
}

} // namespace
