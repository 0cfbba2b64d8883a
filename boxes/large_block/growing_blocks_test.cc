// SPDX-License-Identifier: Apache-2.0
// Large blocks that grow: how many mappings they leave, what is copied, and how much memory that
// takes.
#include "boxes/large_block/large_block.h"

#include "backends/os.h"
#include "boxes/large_block/large_block_fixture.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <vector>

extern "C" int64_t settings_values[SETTING_COUNT];

static bool refuse_move, refuse_look;
extern "C" enum os_result __real_os_move(void *from, void *to, size_t size);
extern "C" enum os_result __wrap_os_move(void *from, void *to, size_t size) {
    return refuse_move ? OS_NO_MEMORY : __real_os_move(from, to, size);
}
extern "C" bool __real_os_touched(const void *at, size_t size, unsigned char *pages);
extern "C" bool __wrap_os_touched(const void *at, size_t size, unsigned char *pages) {
    return !refuse_look && __real_os_touched(at, size, pages);
}
static size_t address_limit = SIZE_MAX;
extern "C" size_t __wrap_os_address_limit(void) {
    return address_limit;
}

namespace {

class GrowingBlocks : public LargeBlockFixture {};

size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    return static_cast<size_t>(std::count(std::istreambuf_iterator<char>(maps), {}, '\n'));
}
// Bytes of the process in memory.
size_t resident() {
    std::ifstream statm("/proc/self/statm");
    size_t pages;
    statm >> pages >> pages;
    return pages * HAK_PAGE;
}

TEST_F(GrowingBlocks, ManyThatMoveAreFewMappings) {
    constexpr size_t kBlocks = 2500; // a page of each is touched
    constexpr size_t kAt = LARGE_BLOCK_MOVE / 2;
    std::vector<char *> blocks;
    for (size_t i = 0; i < kBlocks; i++) {
        blocks.push_back(alloc(LARGE_BLOCK_MOVE, 1));
        blocks[i][kAt] = static_cast<char>(i);
    }
    const size_t before = mappings();
    size_t size = LARGE_BLOCK_MOVE;
    for (int round = 0; round < 3; round++) {
        size = size * 5 / 2;
        for (size_t i = 0; i < kBlocks; i++) {
            blocks[i] = resize(blocks[i], size);
            ASSERT_NE(blocks[i], nullptr);
            EXPECT_EQ(blocks[i][kAt], static_cast<char>(i));
            blocks[i][size - 1] = 1;
        }
        EXPECT_LE(mappings(), before + 1850);
    }
    EXPECT_LE(resident(), kBlocks * 16 * HAK_PAGE) << "what was never touched is not copied";
    for (char *block : blocks) {
        EXPECT_EQ(block[kAt - HAK_PAGE] | block[kAt + HAK_PAGE], 0);
        EXPECT_TRUE(release(block));
    }
    purge();
    EXPECT_EQ(stats().moved_runs, 0u);
    EXPECT_LE(mappings(), before + 4);
}

TEST_F(GrowingBlocks, WhatCannotBeMovedIsCopiedPieceByPiece) {
    constexpr size_t kSize = size_t{64} << 20;
    for (bool no_look : {false, true}) {
        for (bool dirty : {false, true}) {
            if (dirty) { // what free slabs still hold is nothing of the block's
                char *other = alloc(kSize * 5 / 8);
                memset(other, 0xff, kSize * 5 / 8);
                EXPECT_TRUE(release(other));
            }
            char *ptr = alloc(kSize / 2, kSlab, LARGE_BLOCK_ZERO);
            char *wall = alloc(kSlab);
            for (size_t at = 0; at < kSize / 4; at += HAK_PAGE) {
                ptr[at + at % 4093] = static_cast<char>(at >> HAK_PAGE_SHIFT | 1);
            }
            refuse_move = true;
            refuse_look = no_look;
            const size_t before = resident();
            char *to = resize(ptr, kSize / 2 + 1);
            const size_t after = resident();
            refuse_move = refuse_look = false;
            ASSERT_NE(to, nullptr);
            ASSERT_NE(to, ptr);
            EXPECT_LE(after, before + (size_t{4} << 20));
            size_t wrong = 0;
            for (size_t at = 0; at < kSize / 2; at++) {
                size_t page = at & ~static_cast<size_t>(HAK_PAGE - 1);
                bool mark = page < kSize / 4 && at == page + page % 4093;
                wrong += to[at] != (mark ? static_cast<char>(page >> HAK_PAGE_SHIFT | 1) : 0);
            }
            EXPECT_EQ(wrong, 0u) << no_look << dirty;
            EXPECT_TRUE(release(to));
            EXPECT_TRUE(release(wall));
            purge();
        }
    }
}

TEST_F(GrowingBlocks, ShortOnesWithFewPagesGrowWithoutMore) {
    constexpr size_t kBlocks = 400;
    constexpr size_t kSize = 200000;
    constexpr size_t kMark = kSize / 3; // on a page that is not looked at first
    for (bool no_look : {false, true}) {
        for (bool dirty : {false, true}) { // what free slabs still hold is nothing of the block's
            std::vector<char *> blocks;
            for (size_t i = 0; i < kBlocks; i++) {
                blocks.push_back(alloc(kSize, 1, LARGE_BLOCK_ZERO));
                blocks[i][kMark] = static_cast<char>(i | 1);
            }
            for (int part = 0; part < 2 && dirty; part++) {
                char *other = alloc(kBlocks * kSize / 2);
                memset(other, 0xff, kBlocks * kSize / 2);
                EXPECT_TRUE(release(other));
            }
            const size_t before = resident();
            refuse_look = no_look;
            for (size_t i = 0; i < kBlocks; i++) {
                blocks[i] = resize(blocks[i], 2 * kSize);
                ASSERT_NE(blocks[i], nullptr);
            }
            refuse_look = false;
            EXPECT_LE(resident(), before + kBlocks * kSize / 4);
            for (size_t i = 0; i < kBlocks; i++) {
                size_t wrong = 0;
                for (size_t at = 0; at < kSize; at++) {
                    wrong += blocks[i][at] != (at == kMark ? static_cast<char>(i | 1) : 0);
                }
                EXPECT_EQ(wrong, 0u) << no_look << dirty;
                EXPECT_TRUE(release(blocks[i]));
            }
            purge();
        }
    }
}

TEST_F(GrowingBlocks, ShortOnesWithContentGrowWithAllOfIt) {
    constexpr size_t kSize = 600000;
    for (size_t zeros = 0; zeros <= 4; zeros++) { // pages of zeros at several places
        char *ptr = alloc(kSize);
        for (size_t at = 0; at < kSize; at++) {
            bool zero = zeros != 0 && at / HAK_PAGE % (zeros * 3) == 1;
            ptr[at] = zero ? 0 : static_cast<char>(at % 251 + 1);
        }
        char *wall = alloc(kSlab);
        char *to = resize(ptr, 3 * kSize / 2);
        ASSERT_NE(to, nullptr);
        size_t wrong = 0;
        for (size_t at = 0; at < kSize; at++) {
            bool zero = zeros != 0 && at / HAK_PAGE % (zeros * 3) == 1;
            wrong += to[at] != (zero ? 0 : static_cast<char>(at % 251 + 1));
        }
        EXPECT_EQ(wrong, 0u) << zeros;
        EXPECT_TRUE(release(to));
        EXPECT_TRUE(release(wall));
    }
}

// Blocks that grow side by side by a slab at a time. Returns how often the first one was moved.
int grow_in_turn(const std::function<char *(void *, size_t)> &resize, std::vector<char *> &blocks,
                 size_t from, size_t to) {
    int moves = 0;
    for (size_t size = from + kSlab; size <= to; size += kSlab) {
        for (size_t i = 0; i < blocks.size(); i++) {
            char *now = resize(blocks[i], size);
            if (now == nullptr) {
                return -1;
            }
            now[size - 1] = static_cast<char>(i);
            moves += i == 0 && now != blocks[i];
            blocks[i] = now;
        }
    }
    return moves;
}

TEST_F(GrowingBlocks, ThoseThatGrowGetRoomWhereAddressesCostNothing) {
    constexpr size_t kFrom = LARGE_BLOCK_MOVE;
    constexpr size_t kTo = 16 * LARGE_BLOCK_MOVE;
    auto grow = [&] {
        size_t cursor = 0; // what is set aside from the last time may lie anywhere
        page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
        std::vector<char *> blocks;
        for (int i = 0; i < 8; i++) {
            blocks.push_back(alloc(kFrom));
        }
        int moves =
            grow_in_turn([&](void *p, size_t n) { return resize(p, n); }, blocks, kFrom, kTo);
        size_t held = 0;
        for (char *block : blocks) {
            EXPECT_EQ(usable(block), kTo) << "room is no part of the block";
            held += kTo / kSlab;
            // Back to a part of it: the rest, and the room, are free.
            EXPECT_EQ(resize(block, kFrom), block);
            held -= (kTo - kFrom) / kSlab;
        }
        EXPECT_EQ(stats().held_slabs, held);
        for (char *block : blocks) {
            EXPECT_TRUE(release(block));
        }
        EXPECT_EQ(stats().held_slabs, 0u);
        return moves;
    };
    int with_room = grow();
    EXPECT_GE(with_room, 1);
    EXPECT_LE(with_room, 5);
    address_limit = size_t{1} << 40;
    EXPECT_GT(grow(), with_room);
    address_limit = SIZE_MAX;
    EXPECT_LE(grow(), 5);
    settings_values[SETTING_LIMIT] = INT64_MAX;
    EXPECT_GT(grow(), with_room);
    settings_values[SETTING_LIMIT] = 0;
}

} // namespace
