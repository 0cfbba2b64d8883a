// SPDX-License-Identifier: Apache-2.0
#include "boxes/free_mark/free_mark.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace {

constexpr uintptr_t kHeap = 0x4123'4567'0000;

const void *heap(uintptr_t address) {
    return reinterpret_cast<const void *>(address);
}

TEST(FreeMark, IsTheHeapsThatSetItUntilItIsCleared) {
    alignas(16) char block[16] = {};
    EXPECT_FALSE(free_mark_is_set(block, heap(kHeap)));
    free_mark_set(block, heap(kHeap));
    EXPECT_TRUE(free_mark_is_set(block, heap(kHeap)));
    EXPECT_FALSE(free_mark_is_set(block, heap(kHeap + 65536))) << "of the next slab's";
    free_mark_clear(block);
    EXPECT_FALSE(free_mark_is_set(block, heap(kHeap)));
}

TEST(FreeMark, ABlockOfZerosBearsNone) {
    alignas(16) char block[16] = {};
    for (uintptr_t address = uintptr_t{1} << 16; address < uintptr_t{1} << 47; address <<= 1) {
        EXPECT_FALSE(free_mark_is_set(block, heap(address))) << address;
    }
}

TEST(FreeMark, LeavesTheRestOfTheSmallestBlockAlone) {
    alignas(16) char block[32];
    std::memset(block, 0x5a, sizeof block);
    free_mark_set(block, heap(kHeap));
    EXPECT_EQ(std::string(block, 8), std::string(8, 0x5a));
    // With headers the last byte is the header of the block behind.
    const size_t end = 16 - HAK_HEADER;
    EXPECT_EQ(std::string(block + end, 32 - end), std::string(32 - end, 0x5a));
}

} // namespace
