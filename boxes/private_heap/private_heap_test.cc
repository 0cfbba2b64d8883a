// SPDX-License-Identifier: Apache-2.0
#include "boxes/private_heap/private_heap.h"

#include "boxes/base/base.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"

#include <gtest/gtest.h>
#include <string.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace {

struct Look {
    enum private_heap_look what;
    size_t usable;
};

Look LookAt(const void *ptr) {
    page_arena_window window = page_arena_get_window();
    size_t usable = 0;
    enum private_heap_look what = private_heap_look(&window, ptr, &usable);
    return {what, usable};
}

bool Free(void *ptr) {
    page_arena_window window = page_arena_get_window();
    return private_heap_free(&window, ptr);
}

private_heap *HeapOf(const void *ptr) {
    page_arena_window window = page_arena_get_window();
    return private_heap_of(&window, ptr);
}

superslab_stats Slabs() {
    superslab_stats stats;
    superslab_get_stats(&stats);
    return stats;
}

TEST(PrivateHeap, BlocksHaveTheSizeAndAlignmentAskedFor) {
    private_heap *heap = private_heap_new();
    ASSERT_NE(heap, nullptr);
    for (size_t align = 1; align <= size_t{4} << 20; align *= 2) {
        for (size_t size : {size_t{0}, size_t{1}, size_t{17}, size_t{100}, size_t{1000},
                            size_t{8192}, size_t{8193}, size_t{70000}, size_t{3} << 20}) {
            void *block = private_heap_alloc(heap, size, align, false);
            ASSERT_NE(block, nullptr) << size << " at " << align;
            EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % hak_max(align, 16), 0u);
            Look look = LookAt(block);
            EXPECT_EQ(look.what, PRIVATE_HEAP_LIVE) << size << " at " << align;
            EXPECT_GE(look.usable, size);
            EXPECT_EQ(look.usable, private_heap_good_size(size, align)) << size << " at " << align;
            EXPECT_EQ(HeapOf(block), heap);
            memset(block, 0xA5, look.usable);
            EXPECT_TRUE(Free(block));
        }
    }
    private_heap_destroy(heap);
}

TEST(PrivateHeap, AnotherByteThanTheFirstCanBeAligned) {
    private_heap *heap = private_heap_new();
    for (size_t align : {size_t{16}, size_t{64}, size_t{4096}, size_t{1} << 20}) {
        for (size_t offset : {size_t{1}, size_t{8}, size_t{24}, size_t{100}}) {
            auto *block =
                static_cast<char *>(private_heap_alloc_at(heap, 200, align, offset, true));
            ASSERT_NE(block, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(block + offset) % align, 0u);
            EXPECT_EQ(LookAt(block).what, PRIVATE_HEAP_LIVE);
            EXPECT_EQ(std::string(block, 200), std::string(200, '\0'));
            EXPECT_TRUE(Free(block));
        }
    }
    EXPECT_EQ(private_heap_alloc_at(heap, 10, 64, 11, false), nullptr);
    private_heap_destroy(heap);
}

TEST(PrivateHeap, ZeroedBlocksAreZeroWhateverWasThere) {
    private_heap *heap = private_heap_new();
    for (size_t size : {size_t{40}, size_t{5000}, size_t{300000}}) {
        for (int i = 0; i < 3; i++) {
            auto *block = static_cast<char *>(private_heap_alloc(heap, size, 1, true));
            ASSERT_EQ(std::string(block, size), std::string(size, '\0'));
            memset(block, 0xFF, size);
            EXPECT_TRUE(Free(block));
        }
    }
    private_heap_destroy(heap);
}

TEST(PrivateHeap, WhatCannotBeIsRefused) {
    private_heap *heap = private_heap_new();
    EXPECT_EQ(private_heap_alloc(heap, SIZE_MAX, 1, false), nullptr);
    EXPECT_EQ(private_heap_alloc(heap, size_t{1} << 60, 1, false), nullptr);
    EXPECT_EQ(private_heap_alloc(heap, 1, size_t{1} << 62, false), nullptr);
    EXPECT_EQ(private_heap_good_size(SIZE_MAX, 1), 0u);
    EXPECT_EQ(private_heap_get_stats(heap).live, 0u);
    private_heap_destroy(heap);
}

TEST(PrivateHeap, BlocksAreDistinctAndCounted) {
    private_heap *heap = private_heap_new();
    size_t all = private_heap_live();
    std::set<void *> blocks;
    size_t bytes = 0;
    for (int i = 0; i < 20000; i++) {
        size_t size = static_cast<size_t>(i) % 600 + (i % 1000 == 0 ? 50000 : 0);
        void *block = private_heap_alloc(heap, size, 1, false);
        ASSERT_TRUE(blocks.insert(block).second);
        bytes += LookAt(block).usable;
    }
    EXPECT_EQ(private_heap_get_stats(heap).live, bytes);
    EXPECT_EQ(private_heap_live() - all, bytes);
    EXPECT_GE(private_heap_get_stats(heap).held, bytes);
    std::set<void *> visited;
    auto visit = [](void *block, size_t, void *arg) {
        return static_cast<std::set<void *> *>(arg)->insert(block).second;
    };
    EXPECT_TRUE(private_heap_visit(heap, visit, &visited));
    EXPECT_EQ(visited.size(), blocks.size());
    EXPECT_TRUE(visited == blocks);
    for (void *block : blocks) {
        EXPECT_TRUE(Free(block));
    }
    EXPECT_EQ(private_heap_get_stats(heap).live, 0u);
    EXPECT_EQ(private_heap_live(), all);
    private_heap_destroy(heap);
}

TEST(PrivateHeap, FreedBlocksAreUsedAgain) {
    private_heap *heap = private_heap_new();
    size_t held = 0;
    for (int round = 0; round < 50; round++) {
        std::vector<void *> blocks;
        for (int i = 0; i < 5000; i++) {
            blocks.push_back(private_heap_alloc(heap, 64, 1, false));
        }
        blocks.push_back(private_heap_alloc(heap, 1000000, 1, false));
        size_t now = private_heap_get_stats(heap).held;
        EXPECT_LE(now, round == 0 ? now : held);
        held = hak_max(held, now);
        for (void *block : blocks) {
            ASSERT_TRUE(Free(block));
        }
    }
    private_heap_destroy(heap);
}

TEST(PrivateHeap, DestroyAndResetLeaveNothing) {
    superslab_stats before = Slabs();
    size_t live = private_heap_live();
    private_heap *heap = private_heap_new();
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 9000; i++) {
            // More large blocks than the heap's first table can note.
            ASSERT_NE(private_heap_alloc(heap, i < 8500 ? 33000 : i % 2000, 1, false), nullptr);
        }
        EXPECT_GT(Slabs().private_slabs, before.private_slabs + 8500);
        private_heap_reset(heap);
        EXPECT_EQ(Slabs().private_slabs, before.private_slabs);
        EXPECT_EQ(private_heap_get_stats(heap).live, 0u);
        EXPECT_EQ(private_heap_get_stats(heap).held, 0u);
        EXPECT_EQ(private_heap_live(), live);
    }
    void *block = private_heap_alloc(heap, 10, 1, false);
    private_heap_destroy(heap);
    EXPECT_EQ(LookAt(block).what, PRIVATE_HEAP_NONE);
    EXPECT_EQ(Slabs().private_slabs, before.private_slabs);
    EXPECT_EQ(Slabs().heap_slabs, before.heap_slabs);
}

TEST(PrivateHeap, BlocksOutliveADeletedHeap) {
    superslab_stats before = Slabs();
    private_heap *heap = private_heap_new();
    std::vector<char *> blocks;
    for (size_t i = 0; i < 3000; i++) {
        size_t size = i % 100 == 0 ? 40000 : 100;
        blocks.push_back(static_cast<char *>(private_heap_alloc(heap, size, 1, false)));
        memset(blocks.back(), static_cast<int>(i), size);
    }
    private_heap_delete(heap);
    for (size_t i = 0; i < blocks.size(); i++) {
        ASSERT_EQ(blocks[i][99], static_cast<char>(i));
        EXPECT_EQ(LookAt(blocks[i]).what, PRIVATE_HEAP_LIVE);
        EXPECT_EQ(HeapOf(blocks[i]), nullptr);
        EXPECT_TRUE(Free(blocks[i]));
    }
    // The last block takes all that the heap had with it.
    EXPECT_EQ(Slabs().private_slabs, before.private_slabs);
    EXPECT_EQ(Slabs().heap_slabs, before.heap_slabs);
}

TEST(PrivateHeap, OtherPointersAreNotBlocks) {
    private_heap *heap = private_heap_new();
    auto *small = static_cast<char *>(private_heap_alloc(heap, 100, 1, false));
    auto *large = static_cast<char *>(private_heap_alloc(heap, 200000, 1, false));
    auto *aligned = static_cast<char *>(private_heap_alloc(heap, 10, 1 << 20, false));
    EXPECT_EQ(LookAt(small + 8).what, PRIVATE_HEAP_INTERIOR);
    EXPECT_EQ(LookAt(large + 100000).what, PRIVATE_HEAP_INTERIOR);
    EXPECT_EQ(LookAt(large - 64).what, PRIVATE_HEAP_INTERIOR);
    EXPECT_EQ(LookAt(aligned - 16).what, PRIVATE_HEAP_INTERIOR);
    EXPECT_EQ(LookAt(&heap).what, PRIVATE_HEAP_NONE);
    EXPECT_EQ(LookAt(nullptr).what, PRIVATE_HEAP_NONE);
    EXPECT_EQ(LookAt(heap).what, PRIVATE_HEAP_NONE);
    EXPECT_FALSE(Free(small + 8));
    EXPECT_FALSE(Free(large + 64));
    EXPECT_FALSE(Free(&heap));
    EXPECT_TRUE(Free(small));
    EXPECT_EQ(LookAt(small).what, PRIVATE_HEAP_FREE);
    EXPECT_FALSE(Free(small));
    EXPECT_TRUE(Free(large));
    EXPECT_FALSE(Free(large));
    private_heap_destroy(heap);
}

// The block before a chunk may have been written past its end.
TEST(PrivateHeap, ABrokenChunkIsNone) {
    private_heap *heap = private_heap_new();
    auto *block = static_cast<char *>(private_heap_alloc(heap, 100, 1, false));
    char *chunk = reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(block) / 65536 * 65536);
    char was = *chunk;
    *chunk = static_cast<char>(~was);
    EXPECT_EQ(LookAt(block).what, PRIVATE_HEAP_NONE);
    EXPECT_FALSE(Free(block));
    *chunk = was;
    EXPECT_TRUE(Free(block));
    private_heap_destroy(heap);
}

// Blocks are handed from thread to thread, and have the content that their maker gave them.
TEST(PrivateHeap, ThreadsShareAHeap) {
    constexpr int kThreads = 4;
    constexpr size_t kPlaces = 512;
    private_heap *heap = private_heap_new();
    struct Block {
        size_t size;
        uint64_t tag;
    };
    std::vector<std::atomic<Block *>> places(kPlaces);
    std::atomic<int> faults{0};
    auto check = [&](Block *block) {
        auto *bytes = reinterpret_cast<unsigned char *>(block + 1);
        for (size_t i = 0; i < block->size - sizeof *block; i++) {
            faults += bytes[i] != static_cast<unsigned char>(block->tag);
        }
        faults += !Free(block);
    };
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; t++) {
        threads.emplace_back([&, t] {
            std::mt19937_64 random(static_cast<uint64_t>(t));
            for (int i = 0; i < 40000; i++) {
                uint64_t draw = random();
                size_t size =
                    sizeof(Block) + (draw % 64 == 0 ? draw / 64 % 60000 : draw / 64 % 500);
                auto *block = static_cast<Block *>(private_heap_alloc(heap, size, 1, false));
                if (block == nullptr) {
                    faults++;
                    return;
                }
                *block = {size, draw};
                memset(block + 1, static_cast<unsigned char>(draw), size - sizeof *block);
                Block *other = places[draw >> 32 & (kPlaces - 1)].exchange(block);
                if (other != nullptr) {
                    check(other);
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (auto &place : places) {
        if (place.load() != nullptr) {
            check(place.load());
        }
    }
    EXPECT_EQ(faults, 0);
    EXPECT_EQ(private_heap_get_stats(heap).live, 0u);
    private_heap_destroy(heap);
}

// A heap may be deleted while other threads free its blocks.
TEST(PrivateHeap, DeleteMeetsFrees) {
    superslab_stats before = Slabs();
    for (int round = 0; round < 200; round++) {
        private_heap *heap = private_heap_new();
        std::vector<void *> blocks;
        for (int i = 0; i < 400; i++) {
            blocks.push_back(private_heap_alloc(heap, i % 100 == 0 ? 40000 : 700, 1, false));
        }
        std::thread other([&] {
            for (void *block : blocks) {
                EXPECT_TRUE(Free(block));
            }
        });
        private_heap_delete(heap);
        other.join();
    }
    EXPECT_EQ(Slabs().private_slabs, before.private_slabs);
    EXPECT_EQ(Slabs().heap_slabs, before.heap_slabs);
}

} // namespace
