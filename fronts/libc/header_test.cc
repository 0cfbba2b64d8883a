// SPDX-License-Identifier: Apache-2.0
// The promises of the header strategy, in the flavour that has it: if an overflow has changed a
// header byte, that is reported as heap corruption, and no pointer whatsoever makes free() touch
// memory that cannot be read.
//
// The byte below a block is 0xA0 plus the block's bin. Of the 255 wrong values, 244 are the header
// of no bin, and free() reports them at once. Eleven are the header of another bin, which the byte
// alone does not show. A block with such a header goes into that bin's cache, if there is room; if
// not, free() takes the slow path and reports the block at once. Otherwise the block is reported at
// the latest when it leaves the cache for the pool (when the cache spills, on malloc_trim(), at the
// exit of the thread or of the program), because the pool knows the block's bin from its slab.
// Until then the cache may hand the block out as one of the wrong bin: that is the price of the
// strategy.
#include <malloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "fronts/libc/test_util.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace {

using testing::AnyOf;
using testing::KilledBySignal;
using testing::StartsWith;
using testing::StrEq;

constexpr char kOverwritten[] = "heap corruption: header byte overwritten by the block before";
constexpr char kOtherBin[] = "heap corruption: header byte overwritten, or a wrong size given";
constexpr char kInterior[] = "pointer into a block, not to its start";
constexpr char kForeign[] = "not a pointer of this heap";
constexpr char kNoBlock[] = "no block there (freed twice, or never allocated)";
constexpr int kMagic = 0xA0;
constexpr int kBins = 12;

std::string Line(const void *ptr, const char *fault) {
    return test_util::MisuseLine("free", ptr, fault);
}

// Found in the cache of another bin, or on the way there.
auto OtherBin(const void *ptr) {
    return AnyOf(StrEq(Line(ptr, kOtherBin)), StrEq(Line(ptr, kOverwritten)));
}

// The statement aborts after it has written this line and nothing else.
#define EXPECT_FAULT(statement, ptr, fault) \
    EXPECT_EXIT(statement, KilledBySignal(SIGABRT), StrEq(Line(ptr, fault)))

// Two neighbours: `before` ends where the header of `block` stands.
struct Pair {
    unsigned char *before;
    unsigned char *block;
};

// Blocks of a page or more have no header: they start at a page.
size_t BlockOf(void *p) {
    return malloc_usable_size(p) + 1;
}

Pair Neighbours(size_t size) {
    std::vector<unsigned char *> all;
    for (int i = 0; i < 2000; i++) {
        all.push_back(static_cast<unsigned char *>(malloc(size)));
        unsigned char *block = all.back();
        unsigned char *before = block - BlockOf(block);
        bool same_page = reinterpret_cast<uintptr_t>(block) % 4096 != 0;
        for (unsigned char *other : all) {
            if (same_page && other == before) {
                return {before, block}; // the others stay, so that the slab does
            }
        }
    }
    return {nullptr, nullptr};
}

class HeaderDeathTest : public testing::TestWithParam<size_t> {
  protected:
    void SetUp() override {
        pair_ = Neighbours(GetParam());
        ASSERT_NE(pair_.block, nullptr);
        header_ = pair_.block[-1];
        size_t bin = 1;
        while ((size_t{8} << bin) < BlockOf(pair_.block)) {
            bin++;
        }
        ASSERT_EQ(header_, kMagic | bin);
    }
    // Overwrites the header as an overflow does. Returns false for the value that is right.
    bool Overflow(int value) {
        if (value == header_) {
            return false;
        }
        pair_.before[BlockOf(pair_.before) - 1] = static_cast<unsigned char>(value);
        return true;
    }
    static bool IsOfABin(int value) { return value > kMagic && value <= kMagic + kBins; }

    Pair pair_;
    int header_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Sizes, HeaderDeathTest, testing::Values(10, 24, 100, 200, 1000, 2000));

TEST_P(HeaderDeathTest, WhatIsNoHeaderIsReportedAtOnce) {
    int count = 0;
    for (int value = 0; value < 256; value++) {
        if (!IsOfABin(value) && Overflow(value)) {
            count++;
            EXPECT_FAULT(
                {
                    free(pair_.block);
                    _exit(0);
                },
                pair_.block, kOverwritten)
                << value;
        }
    }
    EXPECT_EQ(count, 255 - (kBins - 1));
}

TEST_P(HeaderDeathTest, AnotherBinsHeaderIsReportedWhenTheCacheSpills) {
    int count = 0;
    for (int bin = 1; bin <= kBins; bin++) {
        if (!Overflow(kMagic | bin)) {
            continue;
        }
        count++;
        // At the end of the program.
        EXPECT_EXIT(
            {
                free(pair_.block);
                exit(0);
            },
            KilledBySignal(SIGABRT), OtherBin(pair_.block))
            << bin;
        EXPECT_EXIT(
            {
                free(pair_.block);
                malloc_trim(0);
                _exit(0);
            },
            KilledBySignal(SIGABRT), OtherBin(pair_.block))
            << bin;
        // When the cache of the header's bin is full.
        std::vector<void *> others;
        for (int i = 0; i < 10000; i++) {
            others.push_back(malloc((size_t{8} << bin) - 1));
        }
        EXPECT_EXIT(
            {
                free(pair_.block);
                for (void *other : others) {
                    free(other);
                }
                _exit(0);
            },
            KilledBySignal(SIGABRT), OtherBin(pair_.block))
            << bin;
        for (void *other : others) {
            free(other);
        }
    }
    EXPECT_EQ(count, kBins - 1);
}

// The front is chosen at the start of a program. The classic one, which links its lists through the
// blocks, looks at each before it does.
TEST(HeaderClassicDeathTest, TheClassicFrontReportsTheSame) {
    EXPECT_EXIT(
        {
            setenv("HAKMEM_TINY_FRONT_C23_SIMPLE", "0", 1);
            execl("/proc/self/exe", "header_test",
                  "--gtest_filter=*HeaderDeathTest.AnotherBinsHeader*", nullptr);
            _exit(127);
        },
        testing::ExitedWithCode(0), "");
}

TEST_P(HeaderDeathTest, ARestoredHeaderIsNoFault) {
    ASSERT_TRUE(Overflow(0));
    pair_.before[BlockOf(pair_.before) - 1] = static_cast<unsigned char>(header_);
    free(pair_.block);
    malloc_trim(0);
}

TEST_P(HeaderDeathTest, AllOfABlockMayBeWritten) {
    // The byte behind the last usable one is the neighbour's header; the user's end before it.
    memset(pair_.before, 0xA3, malloc_usable_size(pair_.before));
    memset(pair_.block, 0xA3, malloc_usable_size(pair_.block));
    EXPECT_EQ(pair_.block[-1], header_);
    free(pair_.block);
    free(pair_.before);
    malloc_trim(0);
}

// A pointer into a block, below which the program itself has written a byte that looks like a
// header.
TEST_P(HeaderDeathTest, AnInteriorPointerBehindALookAlike) {
    size_t size = malloc_usable_size(pair_.block);
    for (size_t at : {size_t{1}, size_t{8}, size / 2 & ~size_t{15}, size - 1}) {
        if (at == 0) {
            continue;
        }
        unsigned char *inside = pair_.block + at;
        inside[-1] = 0;
        EXPECT_FAULT(
            {
                free(inside);
                _exit(0);
            },
            inside, kInterior);
        for (int bin = 1; bin <= kBins; bin++) {
            inside[-1] = static_cast<unsigned char>(kMagic | bin);
            EXPECT_EXIT(
                {
                    free(inside);
                    exit(0);
                },
                KilledBySignal(SIGABRT),
                AnyOf(StrEq(Line(inside, kInterior)), StrEq(Line(inside, kOtherBin))))
                << bin;
        }
    }
}

TEST(HeaderForeignDeathTest, LookAlikesElsewhereAreForeign) {
    alignas(16) unsigned char on_stack[64];
    static unsigned char in_data[64];
    auto *mapped = static_cast<unsigned char *>(
        mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(mapped, MAP_FAILED);
    for (unsigned char *p : {on_stack + 16, in_data + 16, mapped + 16, mapped + 4096}) {
        for (int bin = 0; bin <= kBins; bin++) {
            p[-1] = static_cast<unsigned char>(kMagic | bin);
            EXPECT_FAULT(
                {
                    free(p);
                    _exit(0);
                },
                p, kForeign);
        }
    }
    munmap(mapped, 8192);
}

// Nothing is read below a pointer that starts a page: the page below may not be there.
TEST(HeaderForeignDeathTest, NothingBelowAPageIsRead) {
    auto *mapped = static_cast<unsigned char *>(
        mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(mapped, MAP_FAILED);
    ASSERT_EQ(mprotect(mapped, 4096, PROT_NONE), 0);
    EXPECT_FAULT(free(mapped + 4096), mapped + 4096, kForeign);
    EXPECT_FAULT(free(mapped + 16), mapped + 16, kForeign); // nor what is no memory of ours
    munmap(mapped, 8192);
    // Large blocks and tiny ones of a page and more are such pointers every day.
    for (size_t size : {4000, 8000, 16000, 32000, 100000, 5 << 20}) {
        auto *p = static_cast<unsigned char *>(malloc(size));
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 4096, 0u);
        memset(p, 0xA1, size);
        free(p);
    }
    malloc_trim(0);
}

bool EndedInOrder(int status) {
    return (WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
           (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

// Addresses of the heap's window that hold no memory, or none any more, or somebody else's.
TEST(HeaderForeignDeathTest, NoAddressOfTheWindowFaults) {
    auto *ours = static_cast<unsigned char *>(malloc(100));
    const uintptr_t at = reinterpret_cast<uintptr_t>(ours);
    std::vector<uintptr_t> addresses;
    for (int shift = 12; shift < 46; shift++) {
        for (uintptr_t base : {at & ~uintptr_t{0xffff}, at & ~uintptr_t{0x1fffff}}) {
            for (uintptr_t offset : {uintptr_t{0}, uintptr_t{1}, uintptr_t{16}, uintptr_t{4095}}) {
                addresses.push_back(base + (uintptr_t{1} << shift) + offset);
                addresses.push_back(base - (uintptr_t{1} << shift) + offset);
            }
        }
    }
    for (uintptr_t address : addresses) {
        void *p = reinterpret_cast<void *>(address);
        // Some are by chance the start of a live block: its owner must not use it any more.
        EXPECT_EXIT(
            {
                free(p);
                malloc_trim(0); // what the cache has been given is looked at
                _exit(0);
            },
            EndedInOrder, AnyOf(StrEq(""), StartsWith(Line(p, "").substr(0, 20))));
    }
    free(ours);
}

TEST(HeaderForeignDeathTest, PagesThatWereGivenBack) {
    // Headers and blocks are gone with their pages, and read as zero.
    std::vector<unsigned char *> blocks;
    for (int i = 0; i < 3000; i++) {
        blocks.push_back(static_cast<unsigned char *>(malloc(200)));
        memset(blocks.back(), 0xA5, 200);
    }
    unsigned char *keep = blocks[0];
    for (unsigned char *block : blocks) {
        if (block != keep) {
            free(block);
        }
    }
    malloc_trim(0);
    for (unsigned char *block : {blocks[1], blocks[100], blocks[1500], blocks[2999]}) {
        void *volatile p = block;
        EXPECT_EXIT(
            {
                free(p);
                exit(0);
            },
            KilledBySignal(SIGABRT),
            AnyOf(StrEq(Line(block, kNoBlock)), StrEq(Line(block, kOverwritten)),
                  StrEq(Line(block, "block freed twice"))));
    }
    free(keep);
    // The headers are right again when the blocks come back.
    for (unsigned char *&block : blocks) {
        block = static_cast<unsigned char *>(malloc(200));
    }
    for (unsigned char *block : blocks) {
        free(block);
    }
    malloc_trim(0);
}

} // namespace
