// SPDX-License-Identifier: Apache-2.0
// The allocator beside the program's own malloc, from many threads. Threads write to, resize and
// free blocks of other threads, while threads start and end, caches are flushed, memory goes back
// to the kernel and the statistics are read. Under --config=tsan, ThreadSanitizer sees every access
// of the allocator and of its users: if a block is handed on, and the old owner's last use is not
// ordered before the new owner's first use, that is a race.
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <thread>
#include <vector>

#include "fronts/libc/direct.h"
#include "fronts/libc/test_random.h"
#include "gtest/gtest.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow" // a struct and a function of one name
#include "boxes/statistics/statistics.h"
#pragma GCC diagnostic pop

namespace {

using test_util::Random;

constexpr unsigned kThreads = 8;
constexpr size_t kBoard = 512;

// The start of each block; the block's other bytes are `mark`.
struct Block {
    size_t size;
    unsigned char mark;

    unsigned char *bytes() { return reinterpret_cast<unsigned char *>(this); }
    void Fill(size_t n, unsigned char m) {
        size = n;
        mark = m;
        memset(bytes() + sizeof(Block), m, n - sizeof(Block));
    }
    bool Good(size_t n) {
        for (size_t i = sizeof(Block); i < n; i++) {
            if (bytes()[i] != mark) {
                return false;
            }
        }
        return true;
    }
};

std::atomic<Block *> board[kBoard];
std::atomic<unsigned> faults;

void Expect(bool good) {
    faults += !good;
}

// Mostly small, of all bins, some large; and a few that realloc moves by their pages.
size_t SizeOf(uint32_t r) {
    size_t n = r % 1000 == 0 ? 2000000 : r % 100 == 0 ? 200000 : r % 16 == 0 ? 30000 : 600;
    return sizeof(Block) + r / 1000 % n;
}

Block *Allocate(Random &random) {
    size_t size = SizeOf(random());
    void *p = nullptr;
    switch (random() % 8) {
    case 0:
        p = hak_calloc(1, size);
        for (size_t i = 0; i < size; i++) {
            if (static_cast<unsigned char *>(p)[i] != 0) {
                faults++;
                break;
            }
        }
        break;
    case 1: {
        size_t align = size_t{16} << random() % 13;
        Expect(hak_posix_memalign(&p, align, size) == 0 &&
               reinterpret_cast<uintptr_t>(p) % align == 0);
        break;
    }
    default:
        p = hak_malloc(size);
    }
    Expect(hak_malloc_usable_size(p) >= size);
    Block *block = static_cast<Block *>(p);
    block->Fill(size, static_cast<unsigned char>(random()));
    return block;
}

void Give(Block *block, Random &random) {
    if (block == nullptr) {
        return;
    }
    Expect(block->Good(block->size));
    if (random() % 4 == 0) {
        size_t size = SizeOf(random());
        size_t kept = block->size < size ? block->size : size;
        block = static_cast<Block *>(hak_realloc(block, size));
        Expect(block->Good(kept));
        block->Fill(size, static_cast<unsigned char>(random()));
        block = board[random() % kBoard].exchange(block);
    }
    hak_free(block);
}

void LookAtStatistics() {
    struct hak_stats stats;
    hak_stats(&stats);
    for (const auto &bin : stats.bins) {
        Expect(bin.cached < stats.heaps * 1000 + 1);
        Expect(bin.live <= bin.slabs * 4096);
    }
}

void Work(uint64_t seed, unsigned steps) {
    Random random = {seed};
    for (unsigned i = 0; i < steps; i++) {
        Give(board[random() % kBoard].exchange(Allocate(random)), random);
        if (random() % 500 == 0) {
            LookAtStatistics();
        }
        if (random() % 1000 == 0) {
            hak_malloc_trim(0);
        }
    }
}

TEST(Direct, ThreadsComeAndGoAndFreeEachOthersBlocks) {
    constexpr unsigned kLives = 6;
    constexpr unsigned kSteps = 1500;
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; t++) {
        threads.emplace_back([t] {
            // Short lives, that end at different times: heaps go from thread to thread.
            for (unsigned life = 0; life < kLives; life++) {
                std::thread(Work, t * 100 + life, kSteps + t * 10).join();
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (auto &place : board) {
        Block *block = place.exchange(nullptr);
        if (block != nullptr) {
            Expect(block->Good(block->size));
            hak_free(block);
        }
    }
    EXPECT_EQ(faults, 0u);
    hak_malloc_trim(0);
    struct hak_stats stats;
    hak_stats(&stats);
    EXPECT_EQ(stats.tiny_live, 0u);
    EXPECT_EQ(stats.tiny_cached, 0u);
    EXPECT_EQ(stats.large_blocks, 0u);
    EXPECT_GE(stats.refills, 1000u);
    EXPECT_GE(stats.spills, 1000u);
}

// One block, back and forth: the least that must be ordered.
TEST(Direct, ABlockGoesFromThreadToThread) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; t++) {
        threads.emplace_back([&stop, t] {
            while (!stop) {
                char *p = static_cast<char *>(hak_malloc(30000));
                p[0] = static_cast<char>(t);
                std::this_thread::yield();
                Expect(p[0] == static_cast<char>(t));
                hak_free(p);
                hak_malloc_trim(0); // out of the cache, for the next
            }
        });
    }
    for (int i = 0; i < 300; i++) {
        LookAtStatistics();
        std::this_thread::yield();
    }
    stop = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(faults, 0u);
}

} // namespace
