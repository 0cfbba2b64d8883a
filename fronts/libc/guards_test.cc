// SPDX-License-Identifier: Apache-2.0
// The guard pages behind large blocks in the hardened flavour: where they are, and that blocks
// come, grow, shrink and go as without guards.
#include <gtest/gtest.h>
#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "include/hakmem/hakmem.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kMib = size_t{1} << 20;

sigjmp_buf on_fault;

// Returns true if a byte can be written.
bool Writable(char *at) {
    struct sigaction now = {}, before;
    now.sa_handler = [](int) { siglongjmp(on_fault, 1); };
    sigaction(SIGSEGV, &now, &before);
    bool good = sigsetjmp(on_fault, 1) == 0;
    if (good) {
        char *volatile p = at;
        *static_cast<volatile char *>(p) = *static_cast<volatile char *>(p);
    }
    sigaction(SIGSEGV, &before, nullptr);
    return good;
}

// Returns true if all of a block can be written, and a page behind its last one cannot.
bool Guarded(void *block, size_t size) {
    char *p = static_cast<char *>(block);
    for (size_t at = 0; at < size; at += kPage) {
        if (!Writable(p + at)) {
            return false;
        }
    }
    // The tail may be on one page more.
    return Writable(p + size - 1) && !Writable(p + size + kPage + 16);
}

size_t Guards() {
    struct hak_stats stats;
    hak_stats(&stats);
    return stats.large_guards;
}

TEST(Guards, EveryKindOfLargeBlockHasOne) {
    const size_t before = Guards();
    for (size_t size : {512 << 10, 700000, 1 << 20, (1 << 20) + 1, 5000000, 70 << 20}) {
        SCOPED_TRACE(size);
        void *p = malloc(size);
        EXPECT_TRUE(Guarded(p, size));
        EXPECT_EQ(Guards(), before + 1);
        free(p);
        EXPECT_EQ(Guards(), before);
        p = calloc(1, size);
        EXPECT_TRUE(Guarded(p, size));
        EXPECT_EQ(std::count(static_cast<char *>(p), static_cast<char *>(p) + size, 0),
                  static_cast<ptrdiff_t>(size));
        free(p);
        for (size_t align : {size_t{64}, kPage, kMib, 4 * kMib}) {
            p = aligned_alloc(align, size);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
            EXPECT_TRUE(Guarded(p, size));
            free(p);
        }
    }
    void *small = malloc((512 << 10) - 1);
    EXPECT_EQ(Guards(), before);
    free(small);
}

TEST(Guards, GoWithBlocksThatAreResized) {
    const size_t before = Guards();
    for (size_t start : {600000, 1 << 20, 3 << 20}) {
        // At its place within a page, a slab and a run; in others' way; moved; and back.
        size_t size = start;
        char *p = static_cast<char *>(malloc(size));
        memset(p, 'A', size);
        for (size_t now : {size + 1, size + 9000, size + 70000, size - 9000, size - 70000, 2 * size,
                           9 * size, 3 * size, size + 1, size}) {
            SCOPED_TRACE(now);
            void *wall = malloc(600000);
            p = static_cast<char *>(realloc(p, now));
            EXPECT_TRUE(Guarded(p, now));
            size_t left = std::min(now, size);
            EXPECT_EQ(std::count(p, p + left, 'A'), static_cast<ptrdiff_t>(left));
            memset(p, 'A', now);
            size = now;
            free(wall);
        }
        // Below the least size, and up again.
        for (size_t now : {100000, 40000, 90000, 2 << 20, 20000}) {
            SCOPED_TRACE(now);
            p = static_cast<char *>(realloc(p, now));
            EXPECT_TRUE(now < 512 << 10 || Guarded(p, now));
            size_t left = std::min(now, size);
            EXPECT_EQ(std::count(p, p + left, 'A'), static_cast<ptrdiff_t>(left));
            memset(p, 'A', now);
            size = now;
        }
        free(p);
    }
    EXPECT_EQ(Guards(), before);
}

// Whatever becomes of the blocks, their contents stay.
void Mill(unsigned seed, int steps) {
    auto next = [&](unsigned most) { return (seed = seed * 1103515245 + 12345) / 65536 % most; };
    std::vector<std::pair<char *, size_t>> blocks(60);
    for (int step = 0; step < steps; step++) {
        auto &[p, size] = blocks[next(static_cast<unsigned>(blocks.size()))];
        for (size_t at = 0; at < size; at += kPage) {
            ASSERT_EQ(p[at], static_cast<char>(at / kPage)) << size;
        }
        size_t want = next(12) == 0 ? 0 : 300000 + next(32768) * size_t{61};
        if (want == 0) {
            free(p);
            p = nullptr;
        } else {
            want = next(3) == 0 ? size + next(70000) + 1 : want;
            p = static_cast<char *>(p == nullptr && next(2) == 0 ? calloc(1, want)
                                                                 : realloc(p, want));
            ASSERT_EQ(malloc_usable_size(p), want);
            for (size_t at = 0; at < want; at += kPage) {
                p[at] = static_cast<char>(at / kPage);
            }
        }
        size = want;
    }
    for (auto &[p, size] : blocks) {
        free(p);
    }
}

TEST(Guards, LeaveBlocksAsTheyAre) {
    const size_t before = Guards();
    Mill(1, 4000);
    EXPECT_EQ(Guards(), before);
}

TEST(Guards, OfSeveralThreads) {
    const size_t before = Guards();
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 4; i++) {
        threads.emplace_back([i] { Mill(i + 2, 1500); });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(Guards(), before);
}

TEST(Guards, AreAChildsTooAfterFork) {
    char *p = static_cast<char *>(malloc(kMib));
    memset(p, 'A', kMib);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        bool good = Guarded(p, kMib) && p[kMib - 1] == 'A';
        p = static_cast<char *>(realloc(p, 3 * kMib));
        good = good && Guarded(p, 3 * kMib) && p[kMib - 1] == 'A';
        p = static_cast<char *>(realloc(p, kMib));
        good = good && Guarded(p, kMib) && p[kMib - 1] == 'A';
        free(p);
        Mill(9, 300);
        _exit(good && !::testing::Test::HasFailure() ? 0 : 1);
    }
    int status;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(Guarded(p, kMib));
    free(p);
}

TEST(Guards, AreBounded) {
    const size_t before = Guards();
    std::vector<void *> blocks(1000);
    for (void *&block : blocks) {
        block = malloc(kMib);
    }
    EXPECT_EQ(Guards(), before + 128);
    for (void *&block : blocks) {
        block = realloc(block, kMib + 300000);
        *static_cast<char *>(block) = 1;
    }
    EXPECT_LE(Guards(), before + 128);
    for (void *block : blocks) {
        free(block);
    }
    EXPECT_EQ(Guards(), before);
    void *again = malloc(kMib);
    EXPECT_TRUE(Guarded(again, kMib));
    free(again);
}

// The program has taken all mappings that the kernel grants, except for a few. Blocks still come,
// grow, shrink and go.
TEST(Guards, AreNotMadeWhereMappingsAreFew) {
    long most = 0;
    std::ifstream("/proc/sys/vm/max_map_count") >> most;
    if (most <= 0 || most > 300000) {
        GTEST_SKIP() << most << " mappings";
    }
    const size_t size = static_cast<size_t>(most + 2) * kPage;
    char *own =
        static_cast<char *>(mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(own, MAP_FAILED);
    void *guarded = malloc(kMib);
    memset(guarded, 'A', kMib);
    for (size_t at = 0; at < size && mprotect(own + at, kPage, PROT_NONE) == 0; at += 2 * kPage) {
    }
    Mill(3, 1000);
    void *more = malloc(kMib);
    ASSERT_NE(more, nullptr);
    memset(more, 'B', kMib);
    guarded = realloc(guarded, kMib - 100000);
    ASSERT_NE(guarded, nullptr);
    EXPECT_EQ(static_cast<char *>(guarded)[kMib - 100001], 'A');
    guarded = realloc(guarded, 3 * kMib);
    ASSERT_NE(guarded, nullptr);
    EXPECT_EQ(static_cast<char *>(guarded)[kMib - 100001], 'A');
    memset(guarded, 'C', 3 * kMib);
    free(more);
    free(guarded);
    munmap(own, size);
    std::vector<void *> blocks(200); // those that get none after a refusal, and more
    for (void *&block : blocks) {
        block = malloc(kMib);
    }
    EXPECT_GT(Guards(), 0u);
    for (void *block : blocks) {
        free(block);
    }
}

// --- What is freed

size_t Quarantined() {
    struct hak_stats stats;
    hak_stats(&stats);
    return stats.large_quarantined;
}

TEST(Freed, LongBlocksKeepSomeMemoryWithoutRights) {
    malloc_trim(0);
    EXPECT_EQ(Quarantined(), 0u);
    std::vector<char *> blocks(40);
    for (char *&block : blocks) {
        block = static_cast<char *>(malloc(kMib));
        memset(block, 'S', kMib);
    }
    for (char *block : blocks) {
        free(block);
        EXPECT_LE(Quarantined(), 4 * kMib);
        EXPECT_FALSE(Writable(block + kMib / 2));
    }
    EXPECT_GT(Quarantined(), 2 * kMib);
    // Whoever is next there finds no trace.
    for (char *&block : blocks) {
        block = static_cast<char *>(malloc(kMib));
        EXPECT_EQ(memchr(block, 'S', kMib), nullptr);
    }
    for (char *block : blocks) {
        free(block);
    }
    char *last = static_cast<char *>(malloc(kMib));
    memset(last, 'S', kMib);
    free(last);
    EXPECT_GT(Quarantined(), 0u);
    malloc_trim(0);
    EXPECT_EQ(Quarantined(), 0u);
}

TEST(Freed, BlocksThatWereTouchedALittleKeepNone) {
    malloc_trim(0);
    char *p = static_cast<char *>(malloc(kMib));
    p[kMib / 2] = 'S';
    free(p);
    EXPECT_EQ(Quarantined(), 0u);
    EXPECT_FALSE(Writable(p + kMib / 2));
}

TEST(Freed, MemoryThatHasWaitedForLongGoesBack) {
    char *p = static_cast<char *>(malloc(kMib));
    memset(p, 'S', kMib);
    free(p);
    EXPECT_GT(Quarantined(), 0u);
    for (int i = 0; i < 500 && Quarantined() != 0; i++) {
        usleep(20000);
        free(malloc(1000));
        std::vector<void *> small(2000);
        for (void *&block : small) {
            block = malloc(200);
        }
        for (void *block : small) {
            free(block);
        }
    }
    EXPECT_EQ(Quarantined(), 0u);
    EXPECT_FALSE(Writable(p + kMib / 2));
}

TEST(Freed, WhatReallocHasMovedCannotBeTouched) {
    char *p = static_cast<char *>(malloc(kMib));
    memset(p, 'A', kMib);
    void *wall = malloc(kMib);
    char *q = static_cast<char *>(realloc(p, 40 * kMib));
    ASSERT_NE(q, nullptr);
    if (q != p) {
        EXPECT_FALSE(Writable(p + kMib / 2));
    }
    EXPECT_EQ(std::count(q, q + kMib, 'A'), static_cast<ptrdiff_t>(kMib));
    free(q);
    free(wall);
}

} // namespace
