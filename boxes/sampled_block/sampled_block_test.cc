// SPDX-License-Identifier: Apache-2.0
#include "boxes/sampled_block/sampled_block.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "boxes/size_class/size_class.h"

extern "C" size_t sampled_block_bytes;

namespace {

size_t Live() {
    size_t live, held;
    sampled_block_count(&live, &held);
    return live;
}

enum sampled_block_look Look(const void *ptr, size_t *usable = nullptr, void **start = nullptr) {
    size_t some;
    void *other;
    return sampled_block_look(ptr, usable != nullptr ? usable : &some,
                              start != nullptr ? start : &other);
}

TEST(SampledBlock, EverySizeAndAlignmentOfABin) {
    size_t before = Live();
    std::vector<void *> blocks;
    for (size_t size = 0; size <= SIZE_CLASS_TINY_MAX; size = size * 5 / 4 + 1) {
        for (size_t align : {size_t{1}, size_t{16}, size_t{64}, size_t{4096}}) {
            void *block = sampled_block_alloc(size, align);
            if (block == nullptr) {
                EXPECT_EQ(size_class_aligned_bin(size, align), 0u);
                continue;
            }
            size_t usable = 0;
            EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % align, 0u);
            EXPECT_EQ(Look(block, &usable), SAMPLED_BLOCK_LIVE);
            EXPECT_GE(usable, size);
            memset(block, 0x5a, usable);
            blocks.push_back(block);
        }
    }
    for (void *block : blocks) {
        EXPECT_TRUE(sampled_block_free(block));
        EXPECT_EQ(Look(block), SAMPLED_BLOCK_FREE);
        EXPECT_FALSE(sampled_block_free(block));
    }
    EXPECT_EQ(Live(), before);
    EXPECT_EQ(sampled_block_alloc(SIZE_CLASS_TINY_MAX + 1, 1), nullptr);
    EXPECT_EQ(sampled_block_alloc(16, size_t{1} << 20), nullptr);
}

TEST(SampledBlock, AnyPointerGetsAnAnswer) {
    int other = 0;
    EXPECT_EQ(Look(&other), SAMPLED_BLOCK_NONE);
    EXPECT_FALSE(sampled_block_free(&other));
    EXPECT_EQ(Look(nullptr), SAMPLED_BLOCK_NONE);
    char *block = static_cast<char *>(sampled_block_alloc(100, 1));
    void *start = nullptr;
    EXPECT_EQ(Look(block + 1, nullptr, &start), SAMPLED_BLOCK_INTERIOR);
    EXPECT_EQ(start, block);
    EXPECT_FALSE(sampled_block_free(block + 16));
    // In the same range, far behind all blocks in use.
    EXPECT_EQ(Look(block + (size_t{1} << 21)), SAMPLED_BLOCK_FREE);
    EXPECT_FALSE(sampled_block_free(block + (size_t{1} << 21)));
    EXPECT_TRUE(sampled_block_free(block));
}

TEST(SampledBlock, FreeBlocksAreUsedAgain) {
    std::vector<void *> blocks(20000);
    size_t held[2];
    for (size_t &bytes : held) {
        for (void *&block : blocks) {
            block = sampled_block_alloc(48, 1);
        }
        EXPECT_EQ(std::set<void *>(blocks.begin(), blocks.end()).size(), blocks.size());
        for (void *block : blocks) {
            EXPECT_TRUE(sampled_block_free(block));
        }
        size_t live;
        sampled_block_count(&live, &bytes);
    }
    EXPECT_EQ(held[0], held[1]);
}

// Blocks go from thread to thread. Each has a number in it that no other thread may overwrite.
TEST(SampledBlock, ManyThreads) {
    constexpr int kThreads = 4, kPlaces = 512, kSteps = 40000;
    static std::atomic<uint64_t *> places[kPlaces];
    std::atomic<int> faults{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; t++) {
        threads.emplace_back([&faults, t] {
            std::mt19937 random(static_cast<unsigned>(t));
            for (int i = 0; i < kSteps; i++) {
                size_t size = 8 << random() % 8;
                auto *block = static_cast<uint64_t *>(sampled_block_alloc(size, 1));
                if (block == nullptr) {
                    faults++;
                    return;
                }
                *block = reinterpret_cast<uintptr_t>(block);
                block = places[random() % kPlaces].exchange(block);
                if (block != nullptr) {
                    faults += *block != reinterpret_cast<uintptr_t>(block);
                    *block = 0;
                    faults += !sampled_block_free(block);
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (auto &place : places) {
        faults += place != nullptr && !sampled_block_free(place);
    }
    EXPECT_EQ(faults, 0);
    EXPECT_EQ(Live(), 0u);
}

// Returns the flags of the mapping that an address is in, as /proc/self/smaps has them.
std::string MappingFlags(const void *at) {
    std::ifstream in("/proc/self/smaps");
    bool there = false;
    for (std::string line; std::getline(in, line);) {
        uintptr_t from, end;
        if (sscanf(line.c_str(), "%zx-%zx ", &from, &end) == 2) {
            there = reinterpret_cast<uintptr_t>(at) - from < end - from;
        } else if (there && line.compare(0, 8, "VmFlags:") == 0) {
            return line + " ";
        }
    }
    return "";
}

// Of the rest, which is up to 16 GiB without access rights, a debugger would write each page.
TEST(SampledBlock, OnlyWhatIsInUseIsInCoreFiles) {
    void *block = sampled_block_alloc(100, 1);
    ASSERT_NE(block, nullptr);
    const auto *last = reinterpret_cast<char *>(sampled_block_range()) + sampled_block_bytes - 1;
    EXPECT_NE(MappingFlags(last).find(" dd "), std::string::npos);
    EXPECT_EQ(MappingFlags(block).find(" dd "), std::string::npos);
    EXPECT_NE(MappingFlags(block).find(" wr "), std::string::npos);
    EXPECT_TRUE(sampled_block_free(block));
}

} // namespace
