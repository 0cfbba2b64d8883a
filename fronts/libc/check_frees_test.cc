// SPDX-License-Identifier: Apache-2.0
// Which misuse is still stopped at once with HAKMEM_CHECK_FREES=0, as in a large heap, and which
// waits until the cache spills.
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <new>
#include <vector>

#include "boxes/base/base.h"
#include "fronts/libc/test_util.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// Misuse is the point.
#pragma GCC diagnostic ignored "-Wuse-after-free"
#pragma GCC diagnostic ignored "-Wfree-nonheap-object"

namespace {

using test_util::MisuseLine;
using testing::ExitedWithCode;
using testing::KilledBySignal;
using testing::StrEq;

constexpr char kTwice[] = "block freed twice";
constexpr char kFreed[] = "block was freed";
constexpr char kInterior[] = "pointer into a block, not to its start";

char *Hide(void *p) {
    void *volatile v = p;
    return static_cast<char *>(v);
}

void FreeTwice(void *p, const std::vector<void *> &between) {
    free(p);
    for (void *other : between) {
        free(other);
    }
    free(Hide(p));
}

// The cache of `size` is wide, and the thread has seen the setting.
void Warm(size_t size) {
    std::vector<void *> blocks(300);
    for (void *&block : blocks) {
        block = malloc(size);
    }
    for (void *block : blocks) {
        free(block);
    }
}

TEST(WithoutLooksDeathTest, ASmallBlockFreedTwiceIsTheNewest) {
    for (size_t size : {1, 64, 1000}) {
        Warm(size);
        void *p = malloc(size);
        EXPECT_EXIT(FreeTwice(p, {}), KilledBySignal(SIGABRT),
                    StrEq(MisuseLine("free", p, kTwice)));
        EXPECT_EXIT(
            {
                ::operator delete(p, size);
                ::operator delete(Hide(p), size);
            },
            KilledBySignal(SIGABRT), StrEq(MisuseLine("free", p, kTwice)));
        for (size_t wanted : {size, size * 3, size_t{50000}}) {
            EXPECT_EXIT(
                {
                    free(p);
                    free(realloc(Hide(p), wanted));
                },
                KilledBySignal(SIGABRT), StrEq(MisuseLine("realloc", p, kFreed)));
        }
        EXPECT_EXIT(
            {
                free(p);
                _exit(malloc_usable_size(Hide(p)) > 0);
            },
            KilledBySignal(SIGABRT), StrEq(MisuseLine("malloc_usable_size", p, kFreed)));
        free(p);
    }
}

TEST(WithoutLooksDeathTest, AnOlderSmallBlockFreedTwiceIsFoundWhenTheCacheGivesItBack) {
    Warm(64);
    void *keep = malloc(64);
    void *p = malloc(64);
    const bool looks = HAK_DEBUG || HAK_HEADER; // whatever the setting says
    if (!looks) {
        EXPECT_EXIT(
            {
                FreeTwice(p, {keep});
                _exit(0);
            },
            ExitedWithCode(0), "");
    }
    EXPECT_EXIT(
        {
            FreeTwice(p, {keep});
            exit(0);
        },
        KilledBySignal(SIGABRT), StrEq(MisuseLine("free", p, kTwice)));
    free(p);
    free(keep);
}

TEST(WithoutLooksDeathTest, ABlockAbove1KiBFreedTwiceIsAmongTheNewest) {
    for (size_t size : {1500, 4096, 16000}) {
        Warm(size);
        void *p = malloc(size);
        std::vector<void *> others(8);
        for (void *&other : others) {
            other = malloc(size);
        }
        for (int between : {0, 1, size > 8192 ? 2 : 7}) { // all of them fit in the cache
            EXPECT_EXIT(
                {
                    FreeTwice(p, {others.begin(), others.begin() + between});
                    _exit(0);
                },
                KilledBySignal(SIGABRT), StrEq(MisuseLine("free", p, kTwice)))
                << size << ", " << between << " others between";
        }
        for (void *other : others) {
            free(other);
        }
        free(p);
    }
}

// While the block is the newest of its cache, and once it has left the cache.
TEST(WithoutLooksDeathTest, UsableSizeOfAFreedBlock) {
    for (size_t size : {16, 64, 1000, 1500, 4096, 16000}) {
        Warm(size);
        void *p = malloc(size);
        void *other = malloc(size); // keeps the slab
        EXPECT_GE(malloc_usable_size(p), size);
        for (bool spills : {false, true}) {
            EXPECT_EXIT(
                {
                    free(p);
                    if (spills) {
                        malloc_trim(0);
                    }
                    _exit(malloc_usable_size(Hide(p)) > 0);
                },
                KilledBySignal(SIGABRT), StrEq(MisuseLine("malloc_usable_size", p, kFreed)))
                << size << ", " << spills;
        }
        EXPECT_EXIT(_exit(malloc_usable_size(Hide(p) + 8) > 0), KilledBySignal(SIGABRT),
                    StrEq(MisuseLine("malloc_usable_size", Hide(p) + 8, kInterior)));
        free(other);
        free(p);
    }
}

// Once the block has left the cache, and is to be moved, or is to stay (16 B).
TEST(WithoutLooksDeathTest, ReallocThatShrinksAFreedBlock) {
    for (size_t size : {16, 64, 1000, 1500, 4096, 16000}) {
        Warm(size);
        void *p = malloc(size);
        void *other = malloc(size); // keeps the slab
        EXPECT_EXIT(
            {
                free(p);
                malloc_trim(0);
                _exit(realloc(Hide(p), size / 3) == nullptr);
            },
            KilledBySignal(SIGABRT), StrEq(MisuseLine("realloc", p, kFreed)))
            << size;
        free(other);
        free(p);
    }
}

TEST(WithoutLooksDeathTest, PointersThatAreNoStartAreSeen) {
    Warm(64);
    char *small = Hide(malloc(64));
    char *page = Hide(malloc(4096));
    EXPECT_EXIT(free(small + 8), KilledBySignal(SIGABRT),
                StrEq(MisuseLine("free", small + 8, kInterior)));
    EXPECT_EXIT(::operator delete (small + 1, size_t{63}), KilledBySignal(SIGABRT),
                StrEq(MisuseLine("free", small + 1, kInterior)));
    EXPECT_EXIT(free(page + 1), KilledBySignal(SIGABRT),
                StrEq(MisuseLine("free", page + 1, kInterior)));
    EXPECT_EXIT(free(page + 512), KilledBySignal(SIGABRT),
                StrEq(MisuseLine("free", page + 512, kInterior)));
    free(small);
    free(page);
}

TEST(WithoutLooks, WhatIsFreedOnceIsHandedOutAgain) {
    for (size_t size : {16, 100, 1024, 1500, 4096, 32767}) {
        for (int i = 0; i < 2000; i++) {
            void *p = malloc(size);
            void *q = malloc(size);
            ASSERT_NE(p, q);
            memset(p, i, size);
            memset(q, i, size);
            free(p);
            free(q);
        }
    }
}

} // namespace
