// SPDX-License-Identifier: Apache-2.0
// The C interface as ISO C, POSIX and glibc describe it, on whatever flavour the test is linked to.
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "fronts/libc/extension.h"
#include "fronts/libc/test_util.h"
#include "gtest/gtest.h"

extern "C" {
void cfree(void *ptr);
}

namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kGiB = size_t{1} << 30;
constexpr size_t kPtrdiffMax = PTRDIFF_MAX;

// A failed realloc() leaves the block, which is what is tested; the compiler does not know.
#pragma GCC diagnostic ignored "-Wuse-after-free"

// The compiler warns about sizes that it can see are too large.
size_t Opaque(size_t n) {
    volatile size_t v = n;
    return v;
}

bool IsAligned(const void *p, size_t align) {
    return reinterpret_cast<uintptr_t>(p) % align == 0;
}

bool AllBytes(const void *p, size_t n, unsigned char value) {
    const unsigned char *bytes = static_cast<const unsigned char *>(p);
    return n == 0 || (bytes[0] == value && memcmp(bytes, bytes + 1, n - 1) == 0);
}

// A byte for place i of a block: differs from block to block and from place to place.
unsigned char Pattern(size_t seed, size_t i) {
    return static_cast<unsigned char>((seed * 131 + i) * 0x9e3779b1u >> 13);
}

void Fill(void *p, size_t n, size_t seed) {
    for (size_t i = 0; i < n; i++) {
        static_cast<unsigned char *>(p)[i] = Pattern(seed, i);
    }
}

bool Filled(const void *p, size_t n, size_t seed) {
    for (size_t i = 0; i < n; i++) {
        if (static_cast<const unsigned char *>(p)[i] != Pattern(seed, i)) {
            return false;
        }
    }
    return true;
}

using test_util::Stats;

// Bytes in live blocks, as the allocator sees it.
size_t Live() {
    struct hak_stats s = Stats();
    return s.tiny_live + s.large_live;
}

TEST(Malloc, EverySizeUpTo100000) {
    // A window of live blocks, so that blocks of neighbouring sizes would be seen to overlap.
    constexpr size_t kWindow = 32;
    void *blocks[kWindow] = {};
    for (size_t n = 0; n <= 100000 + kWindow; n++) {
        void *&slot = blocks[n % kWindow];
        if (slot != nullptr) {
            size_t old = n - kWindow;
            size_t head = old < 64 ? old : 64;
            ASSERT_TRUE(Filled(slot, head, old)) << old;
            ASSERT_TRUE(Filled(static_cast<char *>(slot) + old - head, head, old + 1)) << old;
            free(slot);
            slot = nullptr;
        }
        if (n > 100000) {
            continue;
        }
        void *p = malloc(n);
        ASSERT_NE(p, nullptr) << n;
        ASSERT_TRUE(IsAligned(p, 16)) << n;
        ASSERT_GE(malloc_usable_size(p), n);
        size_t head = n < 64 ? n : 64;
        if (n >= 128) { // both ends; below that they share bytes
            Fill(static_cast<char *>(p) + n - head, head, n + 1);
            Fill(p, head, n);
            slot = p;
        } else {
            memset(p, 0x5a, malloc_usable_size(p));
            free(p);
        }
    }
}

TEST(Malloc, SmallBlocksDoNotOverlap) {
    for (size_t n = 0; n <= 1100; n += 3) {
        std::vector<void *> blocks;
        for (size_t i = 0; i < 300; i++) {
            void *p = malloc(n);
            ASSERT_NE(p, nullptr);
            Fill(p, n, i + n);
            blocks.push_back(p);
        }
        for (size_t i = 0; i < blocks.size(); i++) {
            ASSERT_TRUE(Filled(blocks[i], n, i + n)) << n;
            free(blocks[i]);
        }
    }
}

TEST(Malloc, PowersOfTwoUpTo4GiB) {
    for (size_t power = 1; power <= 4 * kGiB; power *= 2) {
        for (size_t n : {power - 1, power, power + 1}) {
            char *p = static_cast<char *>(malloc(Opaque(n)));
            ASSERT_NE(p, nullptr) << n;
            ASSERT_TRUE(IsAligned(p, 16)) << n;
            ASSERT_GE(malloc_usable_size(p), n);
            if (n > 0) {
                p[0] = 1;
                p[n / 2] = 2;
                p[n - 1] = 3;
            }
            free(p);
        }
    }
}

TEST(Malloc, ZeroGivesDistinctBlocks) {
    void *a = malloc(0);
    void *b = malloc(0);
    ASSERT_NE(a, nullptr);
    ASSERT_NE(b, nullptr);
    EXPECT_NE(a, b);
    free(a);
    free(b);
    free(nullptr);
}

TEST(Malloc, TooLargeIsEnomem) {
    for (size_t n :
         {kPtrdiffMax, kPtrdiffMax - 1, kPtrdiffMax - 65535, kPtrdiffMax - 65536, kPtrdiffMax + 1,
          kPtrdiffMax + 2, SIZE_MAX - 65536, SIZE_MAX - 65535, SIZE_MAX - 4096, SIZE_MAX - 4095,
          SIZE_MAX - 17, SIZE_MAX - 16, SIZE_MAX - 15, SIZE_MAX - 1, SIZE_MAX}) {
        SCOPED_TRACE(n);
        size_t live = Live();
        struct {
            const char *name;
            void *(*call)(size_t);
        } calls[] = {
            {"malloc", [](size_t size) { return malloc(size); }},
            {"calloc", [](size_t size) { return calloc(1, size); }},
            {"calloc, other way", [](size_t size) { return calloc(size, 1); }},
            {"realloc", [](size_t size) { return realloc(nullptr, size); }},
            {"reallocarray", [](size_t size) { return reallocarray(nullptr, 1, size); }},
            {"aligned_alloc 16", [](size_t size) { return aligned_alloc(16, size); }},
            {"aligned_alloc 64", [](size_t size) { return aligned_alloc(64, size); }},
            {"memalign 1 MiB", [](size_t size) { return memalign(kMiB, size); }},
            {"valloc", [](size_t size) { return valloc(size); }},
            {"pvalloc", [](size_t size) { return pvalloc(size); }},
        };
        for (const auto &c : calls) {
            errno = 0;
            EXPECT_EQ(c.call(Opaque(n)), nullptr) << c.name;
            EXPECT_EQ(errno, ENOMEM) << c.name;
        }
        void *p = &live;
        errno = 1234;
        EXPECT_EQ(posix_memalign(&p, 64, Opaque(n)), ENOMEM);
        EXPECT_EQ(errno, ENOMEM);
        EXPECT_EQ(p, &live);
        EXPECT_EQ(Live(), live);
    }
    void *p = malloc(100); // and goes on
    EXPECT_NE(p, nullptr);
    free(p);
}

TEST(Calloc, ProductOverflowIsEnomem) {
    const size_t half = SIZE_MAX / 2 + 1;
    const size_t root = size_t{1} << 32;
    const struct {
        size_t count, size;
    } cases[] = {
        {SIZE_MAX, 2},    {2, SIZE_MAX},        {half, 2},         {2, half},          {root, root},
        {root, root + 1}, {SIZE_MAX, SIZE_MAX}, {SIZE_MAX / 3, 4}, {SIZE_MAX / 16, 17}};
    for (const auto &c : cases) {
        errno = 0;
        EXPECT_EQ(calloc(Opaque(c.count), Opaque(c.size)), nullptr) << c.count << " " << c.size;
        EXPECT_EQ(errno, ENOMEM);
        void *p = malloc(40);
        Fill(p, 40, 7);
        errno = 0;
        EXPECT_EQ(reallocarray(p, Opaque(c.count), Opaque(c.size)), nullptr);
        EXPECT_EQ(errno, ENOMEM);
        EXPECT_TRUE(Filled(p, 40, 7));
        free(p);
    }
    void *p = calloc(0, Opaque(SIZE_MAX)); // a product of 0 overflows nothing
    EXPECT_NE(p, nullptr);
    free(p);
}

TEST(Calloc, ZeroAfterDirtyReuse) {
    std::vector<size_t> sizes;
    for (size_t n = 0; n <= 100000; n += n < 2048 ? 1 : 257) {
        sizes.push_back(n);
    }
    for (size_t n = 128 * 1024; n <= 64 * kMiB; n *= 2) {
        sizes.insert(sizes.end(), {n - 1, n, n + 1});
    }
    for (size_t n : sizes) {
        void *dirty[3];
        for (void *&p : dirty) {
            p = malloc(n);
            ASSERT_NE(p, nullptr);
            memset(p, 0xff, malloc_usable_size(p));
        }
        for (void *p : dirty) {
            free(p);
        }
        for (void *&p : dirty) {
            p = calloc(1, n);
            ASSERT_NE(p, nullptr);
            ASSERT_TRUE(IsAligned(p, 16));
            ASSERT_TRUE(AllBytes(p, n, 0)) << n;
        }
        for (void *p : dirty) {
            free(p);
        }
    }
}

TEST(Calloc, ZeroAfterRunsWereSplitJoinedAndMoved) {
    // Dirty runs are cut, joined, grown at their place and moved by the page table in between.
    for (int round = 0; round < 20; round++) {
        void *a = malloc(3 * kMiB);
        void *b = malloc(5 * kMiB);
        memset(a, 0xff, 3 * kMiB);
        memset(b, 0xff, 5 * kMiB);
        a = realloc(a, 9 * kMiB);
        memset(a, 0xee, 9 * kMiB);
        b = realloc(b, kMiB);
        void *c = calloc(4, kMiB);
        EXPECT_TRUE(AllBytes(c, 4 * kMiB, 0));
        memset(c, 0xdd, 4 * kMiB);
        free(a);
        void *d = calloc(11, kMiB);
        EXPECT_TRUE(AllBytes(d, 11 * kMiB, 0));
        free(b);
        free(c);
        free(d);
        void *e = calloc(1, 64 * 1024 * (1 + round));
        EXPECT_TRUE(AllBytes(e, 64 * 1024 * (1 + round), 0));
        free(e);
    }
}

TEST(Realloc, NullIsMalloc) {
    void *p = realloc(nullptr, 100);
    ASSERT_NE(p, nullptr);
    EXPECT_GE(malloc_usable_size(p), 100u);
    free(p);
}

TEST(Realloc, ZeroFreesAndReturnsNull) {
    for (size_t n :
         {size_t{0}, size_t{1}, size_t{100}, size_t{5000}, 100 * size_t{1024}, 5 * kMiB}) {
        void *p = malloc(n);
        size_t live = Live();
        errno = 1234;
        EXPECT_EQ(realloc(p, 0), nullptr);
        EXPECT_LT(Live(), live) << n;
        EXPECT_EQ(errno, 1234);
    }
    void *p = realloc(nullptr, 0); // as malloc(0)
    EXPECT_NE(p, nullptr);
    size_t live = Live();
    EXPECT_EQ(reallocarray(p, 0, 10), nullptr);
    EXPECT_LT(Live(), live);
}

TEST(Realloc, KeepsContents) {
    const std::vector<size_t> sizes = {
        1,     15,     16,       17,   100,      128,      129,       256,      1000,
        1024,  1025,   4000,     8192, 32767,    32768,    32769,     65535,    65536,
        65537, 200000, kMiB - 1, kMiB, kMiB + 1, 3 * kMiB, 10 * kMiB, 33 * kMiB};
    for (size_t from : sizes) {
        for (size_t to : sizes) {
            char *p = static_cast<char *>(malloc(from));
            ASSERT_NE(p, nullptr);
            size_t keep = from < to ? from : to;
            size_t probe = keep < 4096 ? keep : 4096;
            Fill(p, probe, from);
            Fill(p + keep - probe, probe, from); // overwrites where they share bytes
            bool whole = keep <= 4096;
            char *q = static_cast<char *>(realloc(p, to));
            ASSERT_NE(q, nullptr) << from << " " << to;
            ASSERT_TRUE(IsAligned(q, 16));
            ASSERT_GE(malloc_usable_size(q), to);
            ASSERT_TRUE(Filled(q + keep - probe, probe, from)) << from << " " << to;
            if (!whole && keep >= 2 * probe) {
                ASSERT_TRUE(Filled(q, probe, from)) << from << " " << to;
            }
            memset(q, 1, to < 8192 ? to : 8192);
            q[to - 1] = 1;
            free(q);
        }
    }
}

TEST(Realloc, GrowsByDoublingTo1GiBWithoutLoss) {
    size_t n = 64;
    char *p = static_cast<char *>(malloc(n));
    Fill(p, 64, 1);
    while (n < kGiB) {
        // One word in every new half tells whether the pages came along.
        n *= 2;
        p = static_cast<char *>(realloc(p, n));
        ASSERT_NE(p, nullptr) << n;
        memcpy(p + n / 2, &n, sizeof n);
    }
    EXPECT_TRUE(Filled(p, 64, 1));
    for (size_t m = 128; m <= n; m *= 2) {
        size_t word;
        memcpy(&word, p + m / 2, sizeof word);
        EXPECT_EQ(word, m);
    }
    for (; n > 64; n /= 2) {
        p = static_cast<char *>(realloc(p, n / 2));
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(Filled(p, 64, 1));
    }
    free(p);
}

TEST(Realloc, NeighboursSurviveGrowthAndShrinkage) {
    constexpr size_t kBlocks = 8;
    char *p[kBlocks];
    size_t n[kBlocks];
    for (size_t i = 0; i < kBlocks; i++) {
        n[i] = 70000 * (i + 1);
        p[i] = static_cast<char *>(malloc(n[i]));
        Fill(p[i], n[i], i);
    }
    uint32_t random = 12345;
    for (int round = 0; round < 400; round++) {
        random = random * 1664525 + 1013904223;
        size_t i = random >> 8 & (kBlocks - 1);
        size_t to = 1 + (random >> 11) % 900000;
        char *q = static_cast<char *>(realloc(p[i], to));
        ASSERT_NE(q, nullptr);
        ASSERT_TRUE(Filled(q, n[i] < to ? n[i] : to, i)) << round;
        p[i] = q;
        n[i] = to;
        Fill(q, to, i);
        size_t other = (i + 1) & (kBlocks - 1);
        ASSERT_TRUE(Filled(p[other], n[other], other)) << round;
    }
    for (char *q : p) {
        free(q);
    }
}

TEST(Realloc, WhatAShrunkBlockLeavesIsUsedAgain) {
    malloc_trim(0);
    size_t superslabs = Stats().superslabs;
    for (int round = 0; round < 200; round++) {
        void *p = malloc(4 * kMiB);
        p = realloc(p, 100000);
        void *q = malloc(3 * kMiB); // behind it, where the block was
        free(p);
        free(q);
    }
    EXPECT_LE(Stats().superslabs, superslabs);
}

TEST(Realloc, FailureLeavesTheBlock) {
    for (size_t n : {size_t{10}, size_t{300}, size_t{20000}, 70 * size_t{1024}, 2 * kMiB}) {
        void *p = malloc(n);
        Fill(p, n, n);
        size_t usable = malloc_usable_size(p);
        for (size_t too_large : {kPtrdiffMax, kPtrdiffMax + 1, SIZE_MAX - 4096, SIZE_MAX}) {
            errno = 0;
            ASSERT_EQ(realloc(p, Opaque(too_large)), nullptr);
            EXPECT_EQ(errno, ENOMEM);
            ASSERT_EQ(malloc_usable_size(p), usable);
            ASSERT_TRUE(Filled(p, n, n));
        }
        free(p);
    }
}

TEST(Realloc, AlignedBlockMayBeResized) {
    for (size_t align : {size_t{64}, size_t{4096}, size_t{65536}, kMiB}) {
        void *p = aligned_alloc(align, 5000);
        Fill(p, 5000, align);
        p = realloc(p, 500000);
        ASSERT_NE(p, nullptr);
        EXPECT_TRUE(Filled(p, 5000, align));
        p = realloc(p, 100);
        EXPECT_TRUE(Filled(p, 100, align));
        free(p);
    }
}

TEST(Aligned, EveryAlignmentOfEveryEntryPoint) {
    for (size_t align = 1; align <= kGiB; align *= 2) {
        SCOPED_TRACE(align);
        for (size_t n : {size_t{0}, size_t{1}, size_t{24}, size_t{100}, size_t{1000}, size_t{5000},
                         size_t{40000}, size_t{100000}, align <= 64 * kMiB ? align : size_t{1},
                         align <= 64 * kMiB ? align + 1 : size_t{1},
                         align <= 64 * kMiB ? 3 * align : size_t{1}}) {
            void *blocks[6];
            size_t count = 0;
            blocks[count++] = aligned_alloc(align, n);
            blocks[count++] = memalign(align, n);
            if (align >= sizeof(void *)) {
                void *p = nullptr;
                errno = 1234;
                ASSERT_EQ(posix_memalign(&p, align, n), 0);
                EXPECT_EQ(errno, 1234);
                blocks[count++] = p;
            }
            for (size_t i = 0; i < count; i++) {
                char *p = static_cast<char *>(blocks[i]);
                ASSERT_NE(p, nullptr) << n;
                ASSERT_TRUE(IsAligned(p, align < 16 ? 16 : align)) << n;
                ASSERT_GE(malloc_usable_size(p), n);
                memset(p, static_cast<int>(i + 1), n < 5000 ? n : 5000);
                if (n > 0) {
                    p[n - 1] = static_cast<char>(i + 1);
                }
            }
            for (size_t i = 0; i < count; i++) {
                ASSERT_TRUE(
                    AllBytes(blocks[i], n < 5000 ? n : 5000, static_cast<unsigned char>(i + 1)));
            }
            free(blocks[0]);
            free_aligned_sized(blocks[1], align, n);
            if (count > 2) {
                free(blocks[2]);
            }
        }
    }
}

TEST(Aligned, ManySmallOfOneAlignment) {
    for (size_t align = 32; align <= 65536; align *= 2) {
        std::vector<void *> blocks;
        for (size_t i = 0; i < 200; i++) {
            void *p = memalign(align, 1 + i % 100);
            ASSERT_TRUE(p != nullptr && IsAligned(p, align));
            memset(p, static_cast<int>(i), 1 + i % 100);
            blocks.push_back(p);
        }
        for (size_t i = 0; i < blocks.size(); i++) {
            ASSERT_TRUE(AllBytes(blocks[i], 1 + i % 100, static_cast<unsigned char>(i)));
            free(blocks[i]);
        }
    }
}

TEST(Aligned, PageEntryPoints) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    for (size_t n : {size_t{0}, size_t{1}, page - 1, page, page + 1, 10 * page, kMiB + 1}) {
        void *v = valloc(n);
        ASSERT_TRUE(v != nullptr && IsAligned(v, page)) << n;
        EXPECT_GE(malloc_usable_size(v), n);
        void *pv = pvalloc(n);
        ASSERT_TRUE(pv != nullptr && IsAligned(pv, page)) << n;
        EXPECT_GE(malloc_usable_size(pv), (n + page - 1) / page * page);
        free(v);
        free(pv);
    }
}

// The next power of two, as glibc 2.36 has it for memalign and aligned_alloc.
TEST(Aligned, OddAlignmentIsRoundedUp) {
    const struct {
        size_t align, expected;
    } rows[] = {
        {0, 16},      {1, 16},      {2, 16},         {3, 16},          {15, 16},
        {17, 32},     {24, 32},     {48, 64},        {96, 128},        {100, 128},
        {4095, 4096}, {4097, 8192}, {65537, 131072}, {kMiB - 1, kMiB}, {kMiB + 1, 2 * kMiB}};
    for (const auto &row : rows) {
        SCOPED_TRACE(row.align);
        for (size_t n : {size_t{0}, size_t{1}, size_t{100}, size_t{5000}, size_t{100000}}) {
            for (auto *call : {&memalign, &aligned_alloc}) {
                errno = 1234;
                void *a = call(Opaque(row.align), n);
                void *b = call(Opaque(row.align), n);
                ASSERT_TRUE(a != nullptr && b != nullptr);
                EXPECT_TRUE(IsAligned(a, row.expected)) << a;
                EXPECT_TRUE(IsAligned(b, row.expected)) << b;
                EXPECT_GE(malloc_usable_size(a), n);
                memset(a, 1, n);
                memset(b, 2, n);
                EXPECT_TRUE(AllBytes(a, n, 1));
                free(a);
                free(b);
                EXPECT_EQ(errno, 1234);
            }
        }
    }
}

TEST(Aligned, BadAlignmentIsEinval) {
    // No power of two is as large.
    for (size_t align : {(size_t{1} << 63) + 1, SIZE_MAX - 7, SIZE_MAX}) {
        SCOPED_TRACE(align);
        errno = 0;
        EXPECT_EQ(aligned_alloc(Opaque(align), 64), nullptr);
        EXPECT_EQ(errno, EINVAL);
        errno = 0;
        EXPECT_EQ(memalign(Opaque(align), 64), nullptr);
        EXPECT_EQ(errno, EINVAL);
    }
    // posix_memalign also refuses what is no multiple of a pointer's size.
    for (size_t align : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{4}, size_t{12},
                         size_t{24}, SIZE_MAX}) {
        SCOPED_TRACE(align);
        int here;
        void *p = &here;
        errno = 1234;
        EXPECT_EQ(posix_memalign(&p, Opaque(align), 64), EINVAL);
        EXPECT_EQ(errno, 1234);
        EXPECT_EQ(p, &here);
    }
}

TEST(Aligned, AlignmentBeyondTheHeapIsEnomem) {
    const size_t align = size_t{1} << 63;
    for (size_t odd : {size_t{0}, size_t{1}, align / 2 - 1}) {
        errno = 0;
        EXPECT_EQ(aligned_alloc(Opaque(align - odd), 64), nullptr);
        EXPECT_EQ(errno, ENOMEM);
        errno = 0;
        EXPECT_EQ(memalign(Opaque(align - odd), 64), nullptr);
        EXPECT_EQ(errno, ENOMEM);
    }
    int here;
    void *p = &here;
    errno = 1234;
    EXPECT_EQ(posix_memalign(&p, Opaque(align), 64), ENOMEM);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(p, &here);
}

TEST(Free, KeepsErrno) {
    for (size_t n : {size_t{1}, size_t{100}, size_t{1000}, size_t{3000}, size_t{30000},
                     size_t{40000}, 2 * kMiB, 40 * kMiB, kGiB}) {
        // Enough of the small ones that caches spill and slabs empty.
        size_t count = n <= 3000 ? 4000 : 3;
        std::vector<void *> blocks(count);
        for (void *&p : blocks) {
            p = malloc(n);
            ASSERT_NE(p, nullptr);
        }
        for (void *p : blocks) {
            errno = 4321;
            free(p);
            ASSERT_EQ(errno, 4321) << n;
        }
    }
    errno = 4321;
    free(nullptr);
    EXPECT_EQ(errno, 4321);
    void *p = aligned_alloc(kMiB, 10);
    errno = 4321;
    free(p);
    EXPECT_EQ(errno, 4321);
}

TEST(Free, SizedForms) {
    size_t live = Live();
    for (size_t n :
         {size_t{0}, size_t{1}, size_t{100}, size_t{1024}, size_t{1025}, size_t{40000}, 2 * kMiB}) {
        free_sized(malloc(n), n);
        free_sized(calloc(1, n), n);
        void *p = malloc(n / 2 + 1);
        p = realloc(p, n + 1);
        free_sized(p, n + 1);
        p = malloc(2 * n + 2);
        p = realloc(p, n + 1);
        free_sized(p, n + 1);
        free_aligned_sized(aligned_alloc(256, n), 256, n);
        cfree(malloc(n));
    }
    free_sized(nullptr, 10);
    free_aligned_sized(nullptr, 16, 10);
    cfree(nullptr);
    EXPECT_EQ(Live(), live);
}

TEST(UsableSize, IsUsable) {
    EXPECT_EQ(malloc_usable_size(nullptr), 0u);
    for (size_t n = 0; n < 200000; n = n * 5 / 4 + 1) {
        void *a = malloc(n);
        void *b = malloc(n);
        size_t usable = malloc_usable_size(a);
        ASSERT_GE(usable, n);
        memset(b, 0x22, malloc_usable_size(b));
        memset(a, 0x11, usable);
        EXPECT_TRUE(AllBytes(b, malloc_usable_size(b), 0x22));
        // realloc() to the size that malloc_usable_size() returns keeps the block.
        a = realloc(a, usable);
        EXPECT_TRUE(AllBytes(a, usable, 0x11)) << n;
        free(a);
        free(b);
    }
}

// Programs that count their memory by malloc_usable_size(), or reserve by it, expect that two equal
// requests are equal, however the block came about and whatever was there before.
TEST(UsableSize, FollowsFromTheRequest) {
    std::vector<void *> walls; // so that some blocks grow at their place and others move
    for (size_t n = 1; n < 9 * kMiB; n = n < 2048 ? n + 7 : n * 17 / 16 + 5) {
        const size_t expected = hak_good_size(n, 1);
        for (int round = 0; round < 4; round++) {
            const size_t more = n * 3 / 2 + 100;
            std::vector<void *> blocks = {malloc(n), calloc(1, n), realloc(malloc(1), n),
                                          realloc(malloc(n / 2 + 1), n),
                                          reallocarray(nullptr, n, 1)};
            // A block that shrinks need not.
            if (n > 64 << 10) {
                blocks.push_back(realloc(malloc(more), n));
                blocks.push_back(realloc(realloc(calloc(1, n - 1), more), n));
            }
            for (void *block : blocks) {
                ASSERT_EQ(malloc_usable_size(block), expected) << n;
                static_cast<char *>(block)[expected - 1] = 1;
                free(block);
            }
            for (size_t align = 32; align <= 256 << 10; align *= 4) {
                void *block = nullptr;
                ASSERT_EQ(posix_memalign(&block, align, n), 0);
                ASSERT_EQ(malloc_usable_size(block), hak_good_size(n, align)) << n << " " << align;
                free(block);
                block = memalign(align, n);
                ASSERT_EQ(malloc_usable_size(block), hak_good_size(n, align)) << n << " " << align;
                free(block);
            }
            walls.push_back(malloc(n > kMiB ? 70000 : n));
        }
    }
    for (void *wall : walls) {
        free(wall);
    }
}

// Where zeroing all of a block costs no more, all of it is zero.
TEST(UsableSize, OfACallocIsZero) {
    for (size_t n : {40001u, 65500u, 200001u}) {
        for (int round = 0; round < 20; round++) {
            void *p = malloc(n + 4000);
            memset(p, 0x11, malloc_usable_size(p));
            free(p);
            p = calloc(1, n);
            EXPECT_TRUE(AllBytes(p, malloc_usable_size(p), 0)) << n;
            free(p);
        }
    }
}

TEST(Trim, GivesPagesBack) {
    malloc_trim(0);
    size_t before = test_util::ResidentBytes();
    std::vector<void *> blocks;
    blocks.reserve(100000);
    for (int i = 0; i < 100000; i++) {
        blocks.push_back(malloc(500));
        memset(blocks.back(), 1, 500);
    }
    void *large = malloc(20 * kMiB);
    memset(large, 1, 20 * kMiB);
    EXPECT_GT(test_util::ResidentBytes(), before + 60 * kMiB);
    free(large);
    for (void *p : blocks) {
        free(p);
    }
    blocks = std::vector<void *>();
    malloc_trim(0); // the decay may have given part of it back, or all, already
    EXPECT_EQ(Stats().dirty, 0u);
    EXPECT_EQ(malloc_trim(0), 0); // nothing left
    // (Slabs that stay their size's have metadata still, and so have their guards' mappings.)
    EXPECT_LT(test_util::ResidentBytes(), before + (HAK_HARDENED ? 3 : 2) * kMiB);
    malloc_trim(0);
    void *p = malloc(30000);
    memset(p, 1, 30000);
    free(p);
    p = malloc(kMiB);
    memset(p, 1, kMiB);
    free(p);
    EXPECT_EQ(malloc_trim(0), 1);
}

TEST(Trim, KeepsThePad) {
    if (HAK_HARDENED) {
        GTEST_SKIP() << "slabs stay their size's: what is freed in them is given back, too";
    }
    malloc_trim(0);
    size_t before = test_util::ResidentBytes();
    void *p = malloc(30 * kMiB);
    memset(p, 1, 30 * kMiB);
    free(p);
    EXPECT_EQ(malloc_trim(100 * kMiB), 0) << "less than that is free";
    EXPECT_GT(test_util::ResidentBytes(), before + 20 * kMiB) << "one free gives little back";
    EXPECT_EQ(malloc_trim(10 * kMiB), 1);
    EXPECT_EQ(Stats().dirty, 10 * kMiB);
    EXPECT_LT(test_util::ResidentBytes(), before + 15 * kMiB);
    EXPECT_EQ(malloc_trim(10 * kMiB), 0);
    EXPECT_EQ(malloc_trim(SIZE_MAX), 0);
    EXPECT_EQ(Stats().dirty, 10 * kMiB);
    EXPECT_EQ(malloc_trim(0), 1);
    EXPECT_EQ(Stats().dirty, 0u);
}

void ExpectSound(const struct mallinfo2 &m) {
    EXPECT_EQ(m.arena, m.uordblks + m.fordblks);
    EXPECT_LE(m.keepcost, m.fordblks);
    EXPECT_EQ(m.usmblks, 0u);
    EXPECT_EQ(m.smblks, 0u) << "there are no fast bins, whatever M_MXFAST says";
    EXPECT_EQ(m.fsmblks, 0u);
    EXPECT_EQ(m.hblks == 0, m.hblkhd == 0);
}

// Each field is as glibc's manual says, for blocks on both sides of M_MMAP_THRESHOLD.
TEST(Info, MallinfoCountsEachBlockOnce) {
    for (size_t size :
         {size_t{24}, size_t{1000}, size_t{5000}, size_t{30000}, size_t{40000}, size_t{100000},
          size_t{130000}, size_t{131072}, size_t{200000}, 3 * kMiB, 100 * kMiB}) {
        SCOPED_TRACE(size);
        constexpr size_t kBlocks = 8;
        void *blocks[kBlocks];
        struct mallinfo2 before = mallinfo2();
        ExpectSound(before);
        for (void *&p : blocks) {
            p = malloc(size);
        }
        struct mallinfo2 with = mallinfo2();
        ExpectSound(with);
        bool mapped = size >= 128 * 1024;
        EXPECT_EQ(with.hblks - before.hblks, mapped ? kBlocks : 0);
        EXPECT_GE(with.hblkhd - before.hblkhd, mapped ? kBlocks * size : 0);
        EXPECT_LE(with.hblkhd - before.hblkhd, mapped ? kBlocks * (size + 4096) : 0);
        // As much as the program uses, and no more than a quarter and a little more.
        size_t used = with.uordblks + with.hblkhd - before.uordblks - before.hblkhd;
        EXPECT_GE(used, kBlocks * size);
        size_t most = HAK_HEADER ? 2 * size + 32 : size + hak_max(size / 4, 4096);
        EXPECT_LE(used, kBlocks * most);
        size_t held = with.arena + with.hblkhd;
        EXPECT_GE(held, with.uordblks + with.hblkhd);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        struct mallinfo with32 = mallinfo();
#pragma GCC diagnostic pop
        EXPECT_EQ(static_cast<size_t>(with32.arena), with.arena);
        EXPECT_EQ(static_cast<size_t>(with32.ordblks), with.ordblks);
        EXPECT_EQ(static_cast<size_t>(with32.smblks), with.smblks);
        EXPECT_EQ(static_cast<size_t>(with32.hblks), with.hblks);
        EXPECT_EQ(static_cast<size_t>(with32.hblkhd), with.hblkhd);
        EXPECT_EQ(static_cast<size_t>(with32.usmblks), with.usmblks);
        EXPECT_EQ(static_cast<size_t>(with32.fsmblks), with.fsmblks);
        EXPECT_EQ(static_cast<size_t>(with32.uordblks), with.uordblks);
        EXPECT_EQ(static_cast<size_t>(with32.fordblks), with.fordblks);
        EXPECT_EQ(static_cast<size_t>(with32.keepcost), with.keepcost);
        for (void *p : blocks) {
            free(p);
        }
        struct mallinfo2 after = mallinfo2();
        ExpectSound(after);
        EXPECT_EQ(after.uordblks, before.uordblks);
        EXPECT_EQ(after.hblkhd, before.hblkhd);
        EXPECT_EQ(after.hblks, before.hblks);
    }
}

TEST(Info, MallinfoCountsFreeBlocks) {
    for (size_t size : {size_t{3}, size_t{100}, size_t{1500}}) {
        std::vector<void *> blocks(2000);
        for (void *&p : blocks) {
            p = malloc(size);
        }
        struct mallinfo2 before = mallinfo2();
        for (size_t i = 0; i < blocks.size(); i += 2) {
            free(blocks[i]);
        }
        struct mallinfo2 after = mallinfo2();
        ExpectSound(after);
        EXPECT_EQ(after.ordblks, before.ordblks + 1000) << size;
        EXPECT_EQ(after.fordblks - before.fordblks, before.uordblks - after.uordblks);
        EXPECT_EQ(after.arena, before.arena);
        for (size_t i = 1; i < blocks.size(); i += 2) {
            free(blocks[i]);
        }
    }
    malloc_trim(0);
    struct mallinfo2 trimmed = mallinfo2();
    EXPECT_EQ(trimmed.keepcost, 0u);
}

// The elements that stand directly under <malloc>, as those who read it look for them, and the
// heap's own. Fields as in glibc.
TEST(Info, MallocInfoSaysWhatMallinfoSays) {
    void *large = malloc(kMiB);
    void *some = malloc(1000);
    free(malloc(3));
    free(malloc(3000));
    char *text = nullptr;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    ASSERT_NE(stream, nullptr);
    struct mallinfo2 m = mallinfo2();
    EXPECT_EQ(malloc_info(0, stream), 0);
    fclose(stream);
    std::string xml(text, length);
    free(text);
    size_t fast_count = 0;
    size_t fast = 0;
    size_t rest_count = 0;
    size_t rest = 0;
    size_t mmap_count = 0;
    size_t mmap = 0;
    size_t current = 0;
    size_t max = 0;
    size_t total = 0;
    size_t mprotect = 0;
    size_t end = xml.find("</heap>\n");
    ASSERT_NE(end, std::string::npos) << xml;
    ASSERT_EQ(sscanf(&xml[end],
                     "</heap> <total type=\"fast\" count=\"%zu\" size=\"%zu\"/> "
                     "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/> "
                     "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/> "
                     "<system type=\"current\" size=\"%zu\"/> "
                     "<system type=\"max\" size=\"%zu\"/> "
                     "<aspace type=\"total\" size=\"%zu\"/> "
                     "<aspace type=\"mprotect\" size=\"%zu\"/> ",
                     &fast_count, &fast, &rest_count, &rest, &mmap_count, &mmap, &current, &max,
                     &total, &mprotect),
              10)
        << xml;
    EXPECT_EQ(mmap_count, m.hblks);
    EXPECT_EQ(mmap, m.hblkhd);
    // The stream's own buffer was allocated in between.
    EXPECT_NEAR(static_cast<double>(current), static_cast<double>(m.arena), 200000);
    EXPECT_NEAR(static_cast<double>(rest), static_cast<double>(m.fordblks), 200000);
    EXPECT_GE(max, current);
    EXPECT_GE(total, mprotect);
    EXPECT_GE(mprotect, current);
    // The sizes that are listed add up to the free blocks.
    size_t listed = 0;
    size_t listed_count = 0;
    for (size_t at = xml.find("<size "); at != std::string::npos; at = xml.find("<size ", at + 1)) {
        size_t from;
        size_t to;
        size_t bytes;
        size_t count;
        ASSERT_EQ(sscanf(&xml[at], "<size from=\"%zu\" to=\"%zu\" total=\"%zu\" count=\"%zu\"/>",
                         &from, &to, &bytes, &count),
                  4);
        EXPECT_LE(from * count, bytes);
        EXPECT_EQ(to * count, bytes);
        listed += bytes;
        listed_count += count;
    }
    EXPECT_LE(listed, rest);
    EXPECT_LE(listed_count, rest_count);
    EXPECT_EQ(fast_count, 0u);
    EXPECT_EQ(fast, 0u);
    // The heap has the same totals but that of mmap.
    size_t heap = xml.find("</sizes>\n") + strlen("</sizes>\n");
    std::string own = xml.substr(heap, end - heap);
    std::string all = xml.substr(end + strlen("</heap>\n"));
    size_t line = all.find("<total type=\"mmap\"");
    all.erase(line, all.find('\n', line) + 1 - line);
    EXPECT_EQ(all.substr(0, own.size()), own);
    free(some);
    free(large);
}

TEST(Info, MallocInfoWritesXml) {
    char *text = nullptr;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    ASSERT_NE(stream, nullptr);
    EXPECT_EQ(malloc_info(0, stream), 0);
    EXPECT_EQ(malloc_info(1, stream), EINVAL);
    fclose(stream);
    std::string xml(text, length);
    free(text);
    EXPECT_EQ(xml.rfind("<malloc version=\"1\">", 0), 0u) << xml;
    EXPECT_EQ(xml.substr(xml.size() - 10), "</malloc>\n");
    // Every element that is opened is closed.
    std::vector<std::string> open;
    for (size_t at = xml.find('<'); at != std::string::npos; at = xml.find('<', at + 1)) {
        size_t end = xml.find('>', at);
        ASSERT_NE(end, std::string::npos);
        std::string tag = xml.substr(at + 1, end - at - 1);
        if (tag[0] == '/') {
            ASSERT_FALSE(open.empty());
            EXPECT_EQ(open.back(), tag.substr(1));
            open.pop_back();
        } else if (tag.back() != '/') {
            open.push_back(tag.substr(0, tag.find(' ')));
        }
    }
    EXPECT_TRUE(open.empty());
}

TEST(Info, MallocStatsWritesToStderr) {
    void *large = malloc(10 * kMiB);
    struct mallinfo2 m = mallinfo2();
    testing::internal::CaptureStderr();
    malloc_stats();
    std::string text = testing::internal::GetCapturedStderr();
    size_t arena = 0;
    size_t used = 0;
    size_t all = 0;
    size_t all_used = 0;
    ASSERT_EQ(sscanf(text.c_str(),
                     "Arena 0: system bytes = %zu in use bytes = %zu Total (incl. mmap): system "
                     "bytes = %zu in use bytes = %zu",
                     &arena, &used, &all, &all_used),
              4)
        << text;
    EXPECT_NEAR(static_cast<double>(arena), static_cast<double>(m.arena), 200000);
    EXPECT_NEAR(static_cast<double>(used), static_cast<double>(m.uordblks), 200000);
    EXPECT_EQ(all, arena + m.hblkhd);
    EXPECT_EQ(all_used, used + m.hblkhd);
    EXPECT_NE(text.find("SuperSlabs"), std::string::npos) << text;
    EXPECT_EQ(text.back(), '\n');
    free(large);
}

// As glibc 2.36, which refuses fast bins of a size that it does not have, and nothing else.
TEST(Info, MalloptReturnsWhatGlibcReturns) {
    const int values[] = {INT_MIN,        -1,     0, 1, 79, 80, 160, 161, 65536, 32 << 20,
                          1 + (32 << 20), INT_MAX};
    for (int param = M_ARENA_MAX - 2; param <= 3; param++) {
        for (int value : values) {
            errno = 1234;
            bool refused = param == M_MXFAST && (value < 0 || value > 160);
            EXPECT_EQ(mallopt(param, value), refused ? 0 : 1) << param << " " << value;
            EXPECT_EQ(errno, 1234);
        }
    }
    EXPECT_EQ(mallopt(12345, 1), 1);
}

TEST(Info, FlavourTellsItsName) {
    EXPECT_STREQ(hak_flavour(), HAK_FLAVOUR);
}

TEST(Info, StatsCountExactly) {
    constexpr size_t kBlocks = 1000;
    void *blocks[kBlocks];
    for (size_t size : {size_t{16}, size_t{128}, size_t{256}, size_t{1024}, size_t{32768}}) {
        const size_t request = size - SIZE_CLASS_HEADER; // the most that such a block serves
        unsigned bin = size_class_bin_of(request);
        struct hak_stats before = Stats();
        for (void *&p : blocks) {
            p = malloc(request);
        }
        struct hak_stats with = Stats();
        EXPECT_EQ(with.bins[bin].size, size);
        EXPECT_EQ(with.bins[bin].live, before.bins[bin].live + kBlocks);
        EXPECT_EQ(with.tiny_live, before.tiny_live + kBlocks * size);
        EXPECT_GE(with.superslabs, 1u);
        EXPECT_GE(with.refilled_blocks + before.bins[bin].cached, before.refilled_blocks + kBlocks);
        for (void *p : blocks) {
            free(p);
        }
        struct hak_stats after = Stats();
        EXPECT_EQ(after.bins[bin].live, before.bins[bin].live);
        EXPECT_EQ(after.tiny_live, before.tiny_live);
    }
    struct hak_stats before = Stats();
    void *p = malloc(100001);
    struct hak_stats with = Stats();
    EXPECT_EQ(with.large_blocks, before.large_blocks + 1);
    EXPECT_EQ(with.large_live, before.large_live + 100001);
    free(p);
    EXPECT_EQ(Stats().large_live, before.large_live);
}

// A thread that has used many sizes once, and waits for good, keeps little.
TEST(Info, AThreadKeepsNoBlockAboveAPageOfASizeThatItHasUsedALittle) {
    if (HAK_HARDENED) {
        GTEST_SKIP() << "freed blocks wait in the quarantine";
    }
    auto cached = [](size_t from) {
        struct hak_stats stats = Stats();
        size_t bytes = 0;
        for (const auto &bin : stats.bins) {
            bytes += bin.size > from ? bin.size * bin.cached : 0;
        }
        return bytes;
    };
    const size_t before = cached(0);
    const size_t large_before = cached(4096);
    std::atomic<bool> used{false}, looked{false};
    std::thread thread([&] {
        for (size_t size = 16; size <= SIZE_CLASS_TINY_MAX; size += 512) {
            free(malloc(size));
        }
        used = true;
        while (!looked) {
            std::this_thread::yield();
        }
        for (int i = 0; i < 200; i++) { // much used: kept
            free(malloc(20000));
        }
        used = false;
        while (looked) {
            std::this_thread::yield();
        }
    });
    while (!used) {
        std::this_thread::yield();
    }
    EXPECT_LE(cached(4096), large_before);
    EXPECT_LE(cached(0), before + (100 << 10));
    looked = true;
    while (used) {
        std::this_thread::yield();
    }
    EXPECT_GE(cached(4096), large_before + 20000);
    looked = false;
    thread.join();
}

TEST(Info, EveryEntryPointIsServedHere) {
    // A call that went to another malloc would leave the number of live bytes as it is.
    struct {
        const char *name;
        void *(*call)();
    } calls[] = {
        {"malloc", [] { return malloc(100); }},
        {"calloc", [] { return calloc(10, 10); }},
        {"realloc", [] { return realloc(nullptr, 100); }},
        {"reallocarray", [] { return reallocarray(nullptr, 10, 10); }},
        {"aligned_alloc", [] { return aligned_alloc(64, 128); }},
        {"memalign", [] { return memalign(64, 128); }},
        {"posix_memalign",
         [] {
             void *p = nullptr;
             return posix_memalign(&p, 64, 128) == 0 ? p : nullptr;
         }},
        {"valloc", [] { return valloc(100); }},
        {"pvalloc", [] { return pvalloc(100); }},
        {"operator new", [] { return ::operator new(100); }},
        {"strdup", [] { return static_cast<void *>(strdup("a string of libc's")); }},
    };
    for (const auto &c : calls) {
        size_t live = Live();
        void *p = c.call();
        ASSERT_NE(p, nullptr) << c.name;
        size_t with = Live();
        if (HAK_HARDENED) { // what an aligned block has behind its user's bytes is not known
            EXPECT_GE(with, live + test_util::TinyBytes(p)) << c.name;
        } else {
            EXPECT_EQ(with, live + test_util::TinyBytes(p)) << c.name;
        }
        free(p);
        EXPECT_EQ(Live(), live) << c.name;
    }
}

// A process may go to sleep after its last free: no later call is there to give anything back.
TEST(Decay, AFreedPeakIsGivenBackByTheFrees) {
    constexpr size_t kHeap = size_t{128} << 20;
    constexpr size_t kLeft = size_t{38} << 20; // the ceiling, and what caches hold of slabs
    for (size_t size : {size_t{600}, size_t{20000}, size_t{200000}, size_t{5} << 20}) {
        malloc_trim(0);
        usleep(1100000); // more than two decay times: what was asked for before is forgotten
        std::vector<void *> blocks(kHeap / size);
        for (void *&p : blocks) {
            p = malloc(size);
            memset(p, 1, size);
        }
        size_t before = Stats().dirty;
        for (void *p : blocks) {
            free(p);
        }
        EXPECT_LT(before, kLeft) << size;
        EXPECT_LT(Stats().dirty, kLeft) << size;
    }
}

} // namespace
