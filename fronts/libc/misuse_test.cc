// SPDX-License-Identifier: Apache-2.0
// Misuse of the interface: each fault ends the program with abort() and exactly one line on stderr
// that names the call, the pointer and the fault.
//
// The call itself catches faults that show in the pointer's kind, its alignment, or the mark of a
// freed block, and all faults of blocks above SIZE_CLASS_HIT_MAX. Faults that only a small block's
// bit shows (freed by another thread before, not the start of a block, wrong size) are caught when
// the thread's cache gives the block back: when the cache is full, on malloc_trim(), at the
// thread's exit or at the program's.
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <new>
#include <regex>
#include <string>
#include <vector>

#include "boxes/size_class/size_class.h"
#include "boxes/statistics/statistics.h"
#include "fronts/libc/document_table.h"
#include "fronts/libc/libc.h"
#include "fronts/libc/test_util.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// Misuse is the point.
#pragma GCC diagnostic ignored "-Wuse-after-free"
#pragma GCC diagnostic ignored "-Wfree-nonheap-object"

namespace {

using test_util::MisuseLine;
using testing::KilledBySignal;
using testing::StrEq;

constexpr char kForeign[] = "not a pointer of this heap";
constexpr char kInterior[] = "pointer into a block, not to its start";
constexpr char kTwice[] = "block freed twice";
constexpr char kFreed[] = "block was freed";
constexpr char kTwiceSlabGone[] = "block freed twice (its slab is gone)";
constexpr char kNoBlock[] = "no block there (freed twice, or never allocated)";
// The header flavour takes a block's bin from its header where no size is given, and cannot tell a
// wrong size from an overwritten header when the block goes back.
constexpr const char *kWrongSize =
    SIZE_CLASS_HEADER != 0 ? "heap corruption: header byte overwritten, or a wrong size given"
                           : "block freed twice, or the size given does not fit it";

constexpr char kNotItsSize[] =
    "the size given is not the block's"; // as the hardened flavour has it

// If a sized delete is given too small a size, the block goes back to its own bin.
constexpr bool kSmallerSizesPass = SIZE_CLASS_HEADER == 0 && !HAK_DEBUG;

// The statement aborts after it has written this line and nothing else.
#define EXPECT_MISUSE(statement, call, ptr, fault) \
    EXPECT_EXIT(statement, KilledBySignal(SIGABRT), StrEq(MisuseLine(call, ptr, fault)))

// A pointer that the compiler knows nothing of.
void *Hide(const void *p) {
    void *volatile v = const_cast<void *>(p);
    return v;
}

char *At(void *p, ptrdiff_t offset) {
    return static_cast<char *>(Hide(p)) + offset;
}

void InThread(void (*fn)(void *), void *arg) {
    struct Call {
        void (*fn)(void *);
        void *arg;
    } call = {fn, arg};
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void *c) -> void * {
            static_cast<Call *>(c)->fn(static_cast<Call *>(c)->arg);
            return nullptr;
        },
        &call);
    pthread_join(thread, nullptr);
}

// Frees by another thread bear another mark, and so do blocks that were written to: these are found
// when the cache gives them back.
void SpoilMark(void *p) {
    memset(At(p, 8), 'x', 4);
}

// Empties the caches, and makes those of `size` wide: after this, blocks go into them.
void UseCache(size_t size) {
    for (int i = 0; i < 2000; i++) {
        free(Hide(malloc(size)));
    }
}
// A stack of blocks above a page has no room before many have been used.
void OpenCache(size_t size) {
    if (size >= 4096) {
        UseCache(size);
    }
}
void UseCaches(size_t size) {
    malloc_trim(0);
    UseCache(size);
}

// A small block whose slab stays in use whatever happens to the block.
class SmallDeathTest : public testing::TestWithParam<size_t> {
  protected:
    void SetUp() override {
        size_ = GetParam();
        // Blocks of one slab, as one slab may end within the first few.
        std::vector<void *> blocks;
        for (int i = 0; i < 400 && p_ == nullptr; i++) {
            blocks.push_back(malloc(size_));
            for (void *other : blocks) {
                if (other != blocks.back() &&
                    reinterpret_cast<uintptr_t>(other) >> 16 ==
                        reinterpret_cast<uintptr_t>(blocks.back()) >> 16) {
                    p_ = blocks.back();
                    keep_ = other;
                }
            }
        }
        ASSERT_NE(p_, nullptr);
        for (void *block : blocks) {
            if (block != p_ && block != keep_) {
                free(block);
            }
        }
        UseCaches(size_); // of a size that is used a little none above a page is cached
    }
    void TearDown() override {
        free(p_);
        free(keep_);
    }
    size_t size_ = 0;
    void *p_ = nullptr;
    void *keep_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Sizes, SmallDeathTest,
                         testing::Values(16, 48, 100, 128, 256, 1000, 1024, 3000, 12000));

TEST_P(SmallDeathTest, DoubleFreeIsCaughtAtOnce) {
    EXPECT_MISUSE(
        {
            free(p_);
            free(Hide(p_));
            _exit(0);
        },
        "free", p_, kTwice);
    EXPECT_MISUSE(
        {
            ::operator delete(p_);
            ::operator delete(Hide(p_), size_);
            _exit(0);
        },
        "free", p_, kTwice);
    EXPECT_MISUSE(
        {
            ::operator delete(p_, size_);
            free_sized(Hide(p_), size_);
            _exit(0);
        },
        "free", p_, kTwice);
}

// Nobody gets the block twice, whatever comes between.
TEST_P(SmallDeathTest, DoubleFreeIsCaughtAtOnceAfterOtherCalls) {
    std::vector<void *> others(40);
    for (void *&other : others) {
        other = malloc(size_);
    }
    for (size_t between : {1, 2, 20, 40}) {
        EXPECT_MISUSE(
            {
                free(p_);
                for (size_t i = 0; i < between; i++) {
                    free(others[i]);
                }
                free(Hide(p_));
                _exit(0);
            },
            "free", p_, kTwice);
    }
    EXPECT_MISUSE(
        {
            free(p_);
            void *other = malloc(size_ * 2 + 40);
            free(malloc(size_ * 3 + 100));
            free(Hide(p_));
            free(other);
            _exit(0);
        },
        "free", p_, kTwice);
    // Handed out again, and freed by its new owner; or another one, where the next block is chosen
    // at random.
    EXPECT_MISUSE(
        {
            free(p_);
            void *same = malloc(size_);
            if (same != p_ && !HAK_HARDENED) {
                _exit(1);
            }
            memset(same, 1, size_);
            free(same);
            free(Hide(p_));
            _exit(0);
        },
        "free", p_, kTwice);
    // As calloc and realloc hand it out.
    EXPECT_MISUSE(
        {
            free(p_);
            free(calloc(1, size_));
            free(Hide(p_));
            _exit(0);
        },
        "free", p_, kTwice);
    for (void *other : others) {
        free(other);
    }
}

TEST_P(SmallDeathTest, DoubleFreeOfABlockThatWasWrittenToIsCaughtAtExit) {
    EXPECT_MISUSE(
        {
            free(p_);
            SpoilMark(p_);
            free(Hide(p_));
            exit(0);
        },
        "free", p_, kTwice);
}

// The mark alone is no fault.
TEST_P(SmallDeathTest, ABlockThatHoldsTheMarkByChanceIsFreed) {
    if (HAK_HARDENED) {
        GTEST_SKIP() << "freed blocks are zero there";
    }
    void *other = malloc(size_);
    char mark[16];
    free(other);
    memcpy(mark, Hide(other), sizeof mark); // as free() has left it
    for (int i = 0; i < 3; i++) {
        void *block = malloc(size_);
        memcpy(At(block, 8), mark + 8, 8 - SIZE_CLASS_HEADER);
        void *same = realloc(block, size_); // and may be asked for
        EXPECT_EQ(same, block);
        EXPECT_GE(malloc_usable_size(same), size_);
        free(same);
    }
    memcpy(At(p_, 8), mark + 8, 8 - SIZE_CLASS_HEADER);
    void *const was = p_;
    free(p_);
    p_ = malloc(size_);
    EXPECT_EQ(p_, was) << "lost";
    EXPECT_NE(memcmp(At(p_, 8), mark + 8, 8 - SIZE_CLASS_HEADER), 0) << "no mark is left in it";
}

TEST_P(SmallDeathTest, DoubleFreeIsCaughtByTrim) {
    EXPECT_MISUSE(
        {
            free(p_);
            SpoilMark(p_);
            free(Hide(p_));
            malloc_trim(0);
            _exit(0);
        },
        "free", p_, kTwice);
}

TEST_P(SmallDeathTest, DoubleFreeIsCaughtWhenTheCacheSpills) {
    std::vector<void *> others(1000);
    for (void *&other : others) {
        other = malloc(size_);
    }
    EXPECT_MISUSE(
        {
            free(p_);
            SpoilMark(p_);
            free(Hide(p_));
            for (void *other : others) {
                free(other);
            }
            _exit(0);
        },
        "free", p_, kTwice);
    // Delayed: the first one has long left the cache.
    EXPECT_MISUSE(
        {
            free(p_);
            for (void *other : others) {
                free(other);
            }
            free(Hide(p_));
            malloc_trim(0);
            _exit(0);
        },
        "free", p_, kTwice);
    for (void *other : others) {
        free(other);
    }
}

TEST_P(SmallDeathTest, DoubleFreeByAnotherThread) {
    // libc keeps a block that it allocates for a thread for the next one: that must not be the
    // freed block.
    InThread(free, nullptr);
    EXPECT_MISUSE(
        {
            free(p_);
            InThread(free, p_); // its exit gives it back
            malloc_trim(0);     // as this does
            _exit(0);
        },
        "free", p_, kTwice);
    EXPECT_MISUSE(
        {
            InThread(free, p_);
            InThread(free, p_);
            _exit(0);
        },
        "free", p_, kTwice);
}

TEST_P(SmallDeathTest, ReallocOfAFreedBlock) {
    EXPECT_MISUSE(
        {
            free(p_);
            malloc_trim(0);
            free(realloc(Hide(p_), 50000));
            _exit(0);
        },
        "realloc", p_, kFreed);
    for (size_t size : {size_t{50000}, size_, size_ + 1}) {
        EXPECT_MISUSE(
            {
                free(p_);
                free(realloc(Hide(p_), size));
                _exit(0);
            },
            "realloc", p_, kFreed);
    }
    // Without its mark it is found among the newest of its cache.
    EXPECT_MISUSE(
        {
            free(p_);
            SpoilMark(p_);
            free(realloc(Hide(p_), 50000));
            _exit(0);
        },
        "realloc", p_, kFreed);
}

TEST_P(SmallDeathTest, UsableSizeOfAFreedBlock) {
    EXPECT_MISUSE(
        {
            free(p_);
            _exit(malloc_usable_size(Hide(p_)) > 0);
        },
        "malloc_usable_size", p_, kFreed);
    EXPECT_MISUSE(
        {
            free(p_);
            malloc_trim(0);
            _exit(malloc_usable_size(Hide(p_)) > 0);
        },
        "malloc_usable_size", p_, kFreed);
}

TEST_P(SmallDeathTest, InteriorPointer) {
    for (ptrdiff_t offset : {1, 8, 15}) {
        char *inside = At(p_, offset);
        EXPECT_MISUSE(
            {
                free(inside);
                _exit(0);
            },
            "free", inside, kInterior);
        EXPECT_MISUSE(
            {
                ::operator delete(inside);
                _exit(0);
            },
            "free", inside, kInterior);
        EXPECT_MISUSE(
            {
                ::operator delete(inside, size_);
                _exit(0);
            },
            "free", inside, kInterior);
        EXPECT_MISUSE(free(realloc(inside, 10)), "realloc", inside, kInterior);
        EXPECT_MISUSE(_exit(malloc_usable_size(inside) > 0), "malloc_usable_size", inside,
                      kInterior);
    }
    if (size_ > 16) {
        char *inside = At(p_, 16);
        EXPECT_MISUSE(
            {
                free(inside);
                malloc_trim(0);
                _exit(0);
            },
            "free", inside, kInterior);
    }
    if (size_ > 1024) { // no hits, but for header blocks that have their header below
        char *inside = At(p_, 512);
        EXPECT_MISUSE(
            {
                free(inside);
                _exit(0);
            },
            "free", inside, kInterior);
    }
}

TEST_P(SmallDeathTest, SizedDeleteWithAWrongSize) {
    if (size_ > SIZE_CLASS_HIT_MAX) {
        return; // the size is not used there
    }
    // Too small and too large: a size of another bin.
    const size_t too_large = malloc_usable_size(p_) + 1;
    for (size_t wrong : {size_t{1}, too_large}) {
        if (size_class_bin_of(wrong) == size_class_bin_of(size_) || wrong > SIZE_CLASS_HIT_MAX) {
            continue;
        }
        if (wrong == 1 && kSmallerSizesPass) {
            continue; // below
        }
        // The block's address may by chance be no start of a block of the wrong bin: then that is
        // what is seen first. The size is used only where the cache it stands for has room, else
        // the block's own bin is, and nothing is wrong.
        EXPECT_EXIT(
            {
                UseCaches(size_);
                OpenCache(wrong);
                ::operator delete(p_, wrong);
                exit(0);
            },
            KilledBySignal(SIGABRT),
            testing::AnyOf(StrEq(MisuseLine("free", p_, kWrongSize)),
                           StrEq(MisuseLine("operator delete", p_, kNotItsSize)),
                           StrEq(MisuseLine("free", p_, kInterior))));
        EXPECT_EXIT(
            {
                UseCaches(size_);
                OpenCache(wrong);
                ::operator delete[](p_, wrong);
                malloc_trim(0);
                _exit(0);
            },
            KilledBySignal(SIGABRT),
            testing::AnyOf(StrEq(MisuseLine("free", p_, kWrongSize)),
                           StrEq(MisuseLine("operator delete", p_, kNotItsSize)),
                           StrEq(MisuseLine("free", p_, kInterior))));
    }
}

// Some programs delete an object as its base class: a block that is larger than the given size
// goes back where it came from, and may be a block of the smaller size in between.
TEST(SizedDelete, OfALargerBlockLosesNothing) {
    if (!kSmallerSizesPass) {
        GTEST_SKIP() << "this flavour stops";
    }
    const std::string ending = test_util::InChild([] {
        constexpr size_t kBlocks = 3000, kBlock = 112, kSaid = 24;
        static void *blocks[kBlocks];
        UseCaches(kBlock);
        UseCaches(kSaid);
        malloc_trim(0);
        hak_stats stats;
        hak_stats(&stats);
        const size_t before = stats.tiny_live;
        for (int round = 0; round < 20; round++) {
            for (void *&p : blocks) {
                p = ::operator new(kBlock);
                memset(p, round, kBlock);
            }
            for (void *p : blocks) {
                ::operator delete(p, kSaid);
            }
            for (void *&p : blocks) { // some of them are the blocks of before
                p = ::operator new(kSaid);
                memset(p, 0xff, kSaid);
            }
            for (void *p : blocks) {
                free(p);
            }
        }
        malloc_trim(0);
        hak_stats(&stats);
        return stats.tiny_live < before + 100 * kSaid ? 0 : 1;
    });
    EXPECT_EQ(ending, "exit 0");
}

// Such a block is not handed out either where more alignment is asked for than it has.
TEST(SizedDelete, OfALargerBlockLeavesAlignmentsAsTheyAre) {
    if (!kSmallerSizesPass) {
        GTEST_SKIP() << "this flavour stops";
    }
    const std::string ending = test_util::InChild([] {
        constexpr size_t kBlocks = 40, kBlock = 80, kSaid = 64;
        static void *others[kBlocks], *blocks[kBlocks];
        auto take = [](void *(&some)[kBlocks], size_t size) {
            for (void *&p : some) {
                p = ::operator new(size);
                memset(p, 0xff, size);
            }
        };
        take(others, kSaid);
        for (void *p : others) { // the cache gets room for so many, which is left free
            free(p);
        }
        take(others, kSaid);
        take(blocks, kBlock);
        for (void *p : blocks) {
            ::operator delete(p, kSaid);
        }
        for (void *&p : blocks) {
            p = aligned_alloc(kSaid, kSaid);
            if (reinterpret_cast<uintptr_t>(Hide(p)) % kSaid != 0) {
                return 1;
            }
            memset(p, 0xff, kSaid);
        }
        for (size_t i = 0; i < kBlocks; i++) {
            free(blocks[i]);
            free(others[i]);
        }
        return 0;
    });
    EXPECT_EQ(ending, "exit 0");
}

TEST(TinyDeathTest, DoubleFreeOfTheLastBlockOfASlab) {
    // Blocks of a size that nothing else here has: with this one free the slab is free.
    UseCaches(28000);
    void *p = malloc(28000);
    EXPECT_MISUSE(
        {
            free(p);
            SpoilMark(p);
            free(Hide(p));
            malloc_trim(0);
            _exit(0);
        },
        "free", p, HAK_HARDENED ? kTwice : kTwiceSlabGone);
    EXPECT_MISUSE(
        {
            free(p);
            malloc_trim(0);
            free(Hide(p));
            _exit(0);
        },
        "free", p, HAK_HARDENED ? kTwice : kNoBlock);
    EXPECT_MISUSE(
        {
            free(p);
            malloc_trim(0);
            _exit(malloc_usable_size(Hide(p)) > 0);
        },
        "malloc_usable_size", p, HAK_HARDENED ? kFreed : kNoBlock);
    free(p);
}

TEST(TinyDeathTest, BehindTheLastBlockOfASlab) {
    void *p = malloc(48); // 65536 is no multiple of 48
    char *tail = At(p, 65536 - 16 - static_cast<ptrdiff_t>(reinterpret_cast<uintptr_t>(p) % 65536));
    EXPECT_MISUSE(
        {
            free(tail);
            exit(0);
        },
        "free", tail, kInterior);
    free(p);
}

class LargeDeathTest : public testing::TestWithParam<size_t> {};

INSTANTIATE_TEST_SUITE_P(Sizes, LargeDeathTest,
                         testing::Values(32769, 65536, 100000, 2 << 20, 40 << 20));

TEST_P(LargeDeathTest, DoubleFree) {
    void *p = malloc(GetParam());
    EXPECT_MISUSE(
        {
            free(p);
            free(Hide(p));
        },
        "free", p, kNoBlock);
    EXPECT_MISUSE(
        {
            InThread(free, p);
            free(Hide(p));
        },
        "free", p, kNoBlock);
    EXPECT_MISUSE(
        {
            free(p);
            malloc_trim(0);
            free(Hide(p));
        },
        "free", p, kNoBlock);
    EXPECT_MISUSE(
        {
            void *q = realloc(p, 10);
            free(Hide(p));
            free(q);
        },
        "free", p, kNoBlock);
    free(p);
}

TEST_P(LargeDeathTest, ReallocAndUsableSizeOfAFreedBlock) {
    void *p = malloc(GetParam());
    EXPECT_MISUSE(
        {
            free(p);
            free(realloc(Hide(p), 10));
        },
        "realloc", p, kNoBlock);
    EXPECT_MISUSE(
        {
            free(p);
            free(reallocarray(Hide(p), 2, 50000));
        },
        "reallocarray", p, kNoBlock);
    EXPECT_MISUSE(
        {
            free(p);
            _exit(malloc_usable_size(Hide(p)) > 0);
        },
        "malloc_usable_size", p, kNoBlock);
    free(p);
}

TEST_P(LargeDeathTest, InteriorPointer) {
    const ptrdiff_t last = static_cast<ptrdiff_t>(GetParam()) - 1;
    void *p = malloc(GetParam());
    for (ptrdiff_t offset : {ptrdiff_t{1}, ptrdiff_t{16}, ptrdiff_t{4096}, last & ~ptrdiff_t{15},
                             last & ~ptrdiff_t{65535}, last}) {
        if (offset == 0) {
            continue;
        }
        char *inside = At(p, offset);
        EXPECT_MISUSE(free(inside), "free", inside, kInterior);
        EXPECT_MISUSE(free(realloc(inside, 100)), "realloc", inside, kInterior);
        EXPECT_MISUSE(_exit(malloc_usable_size(inside) > 0), "malloc_usable_size", inside,
                      kInterior);
    }
    free(p);
}

int a_static[16];
alignas(4096) char a_page[4096];

TEST(ForeignDeathTest, EveryCall) {
    int on_stack[16];
    void *mapped =
        mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(mapped, MAP_FAILED);
    void *ours = malloc(10);
    const void *pointers[] = {
        on_stack,
        a_static,
        a_page,
        At(a_static, 1),
        "a literal",
        reinterpret_cast<void *>(&free),
        mapped,
        At(mapped, 65536),
        reinterpret_cast<void *>(1),
        reinterpret_cast<void *>(16),
        reinterpret_cast<void *>(65536),
        reinterpret_cast<void *>(SIZE_MAX),
        reinterpret_cast<void *>(SIZE_MAX - 15),
        reinterpret_cast<void *>(0xdeadbeefdeadbee0),
        reinterpret_cast<void *>(0x8000000000000000),
        // Far above everything the heap has used, and below it.
        At(ours, ptrdiff_t{1} << 42),
        At(ours, -(ptrdiff_t{1} << 42)),
        At(ours, ptrdiff_t{1} << 33),
    };
    for (const void *ptr : pointers) {
        void *p = Hide(ptr);
        EXPECT_MISUSE(free(p), "free", p, kForeign);
        EXPECT_MISUSE(free(realloc(p, 100)), "realloc", p, kForeign);
        EXPECT_MISUSE(free(realloc(p, 0)), "realloc", p, kForeign);
        EXPECT_MISUSE(_exit(malloc_usable_size(p) > 0), "malloc_usable_size", p, kForeign);
        EXPECT_MISUSE(::operator delete(p), "free", p, kForeign);
        EXPECT_MISUSE(::operator delete[](p, size_t{5000}), "free", p, kForeign);
        EXPECT_MISUSE(::operator delete (p, std::align_val_t{64}), "free", p, kForeign);
    }
    free(ours);
    munmap(mapped, 1 << 20);
}

TEST(ForeignDeathTest, BeforeTheFirstAllocationOfAThread) {
    EXPECT_MISUSE(InThread(free, a_static), "free", a_static, kForeign);
}

TEST(ForeignDeathTest, SizedDelete) {
    // The bin follows from the size, but the pointer has to be one of the heap.
    void *p = a_page;
    EXPECT_MISUSE(
        {
            ::operator delete (p, size_t{64});
            _exit(0);
        },
        "free", p, kForeign);
    EXPECT_MISUSE(
        {
            for (int i = 0; i < 1000; i++) {
                ::operator delete (p, size_t{64});
            }
            _exit(0);
        },
        "free", p, kForeign);
}

// The heap's own bookkeeping lies below its first block: the nearest mapping below whose start is
// at a multiple of 2 MiB is the start of the window.
uintptr_t WindowStart(const void *block) {
    uintptr_t found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    uintptr_t from;
    uintptr_t to;
    while (maps != nullptr && fgets(line, sizeof line, maps) != nullptr) {
        if (sscanf(line, "%zx-%zx rw", &from, &to) == 2 &&
            from < reinterpret_cast<uintptr_t>(block) && from >= uintptr_t{64} << 40 &&
            from < uintptr_t{80} << 40 && found == 0) {
            found = from;
        }
    }
    fclose(maps);
    return found;
}

TEST(ForeignDeathTest, TheAllocatorsOwnData) {
    void *ours = malloc(10);
    uintptr_t start = WindowStart(ours);
    if (start == 0) {
        GTEST_SKIP() << "the kernel has placed the heap elsewhere";
    }
    for (uintptr_t offset : {0, 64, 4096, 1 << 16}) {
        void *p = reinterpret_cast<void *>(start + offset);
        EXPECT_MISUSE(free(p), "free", p, kForeign);
        EXPECT_MISUSE(free(realloc(p, 1)), "realloc", p, kForeign);
        EXPECT_MISUSE(_exit(malloc_usable_size(p) > 0), "malloc_usable_size", p, kForeign);
        EXPECT_MISUSE(
            {
                ::operator delete (p, size_t{64 - SIZE_CLASS_HEADER}); // blocks of 64 B
                _exit(0);
            },
            "free", p, kForeign);
    }
    free(ours);
}

// --- The table of docs/misuse.md

// Two zeroed blocks of usable size kTable, the one right behind the other and not at the start of a
// page.
constexpr size_t kTable = 128 - SIZE_CLASS_HEADER;
struct Pair {
    char *first;
    char *second;
};

Pair Neighbours() {
    std::vector<char *> blocks;
    for (;;) {
        blocks.push_back(static_cast<char *>(calloc(1, kTable)));
        char *last = blocks.back();
        for (char *block : blocks) {
            if (last - block == 128 && reinterpret_cast<uintptr_t>(last) % 4096 != 0) {
                return {block, last};
            }
        }
    }
}

void Overflow(size_t bytes) {
    Pair pair = Neighbours();
    memset(At(pair.first, kTable), 'x', bytes);
    free(Hide(pair.second));
}

// Frees a block twice, with `between` others of its size freed in between.
void FreeTwice(size_t size, size_t between) {
    std::vector<void *> others(between);
    void *p = malloc(size);
    for (void *&other : others) {
        other = malloc(size);
    }
    free(p);
    for (void *other : others) {
        free(other);
    }
    free(Hide(p));
}

// Live blocks in a heap of more than 2 MiB.
std::vector<void *> LargeHeap() {
    std::vector<void *> heap(50000);
    for (void *&block : heap) {
        block = memset(malloc(kTable), 1, kTable);
    }
    return heap;
}

// The row says "NULL" then: the call returns NULL and ENOMEM, and the block is as it was.
void ExpectNull(void *p) {
    if (p != nullptr || errno != ENOMEM) {
        _exit(1);
    }
    errno = 0;
}

// Each row's name and its program, of which a child runs what it does and then either _exit() or
// exit().
const std::map<std::string, std::function<void()>> kPrograms = {
    {"small block freed twice",
     [] {
         void *p = malloc(kTable);
         free(p);
         free(Hide(p));
     }},
    {"small block freed twice, with another between", [] { FreeTwice(kTable, 1); }},
    {"small block freed twice, with twenty others between", [] { FreeTwice(kTable, 20); }},
    {"small block freed twice, with two thousand others between", [] { FreeTwice(kTable, 2000); }},
    {"small block freed twice, handed out again in between",
     [] {
         void *p = malloc(kTable);
         free(p);
         void *same = malloc(kTable);
         memset(same, 1, kTable);
         free(same);
         free(Hide(p));
     }},
    {"small block freed twice, written to in between",
     [] {
         void *p = malloc(kTable);
         free(p);
         memset(Hide(p), 1, kTable);
         free(Hide(p));
     }},
    {"small block freed twice, in a heap of more than 2 MiB",
     [] {
         const std::vector<void *> heap = LargeHeap();
         free(heap[7]);
         free(Hide(heap[7]));
     }},
    {"small block freed twice, with another between, in a heap of more than 2 MiB",
     [] {
         const std::vector<void *> heap = LargeHeap();
         free(heap[7]);
         free(heap[9]);
         free(Hide(heap[7]));
     }},
    {"realloc of a freed small block, in a heap of more than 2 MiB",
     [] {
         const std::vector<void *> heap = LargeHeap();
         free(heap[7]);
         free(realloc(Hide(heap[7]), kTable / 2));
     }},
    {"4 KiB block freed twice", [] { FreeTwice(4096, 0); }},
    {"4 KiB block freed twice, with twenty others between", [] { FreeTwice(4096, 20); }},
    {"4 KiB block freed twice, by two threads",
     [] {
         void *keep[2] = {malloc(4096), malloc(4096)};
         free(keep[1]);
         InThread(free, Hide(keep[1]));
     }},
    {"free of a pointer into a 4 KiB block", [] { free(At(malloc(4096), 512)); }},
    {"free of an unaligned pointer into a 4 KiB block", [] { free(At(malloc(4096), 1)); }},
    {"`delete` of what `new[]` returned, with a cookie below",
     [] { ::operator delete(At(::operator new[](kTable), 8)); }},
    {"`delete[]` of what `new` returned, a cookie above",
     [] { ::operator delete[](At(Neighbours().second, -8)); }},
    {"realloc of an unaligned pointer", [] { free(realloc(At(malloc(kTable), 8), 1000)); }},
    {"small block freed twice, by two threads",
     [] {
         void *p = Neighbours().first;
         free(p);
         InThread(free, Hide(p));
     }},
    {"large block freed twice",
     [] {
         void *p = malloc(100000);
         free(p);
         free(Hide(p));
     }},
    {"large block freed twice, by two threads",
     [] {
         void *p = malloc(100000);
         InThread(free, p);
         free(Hide(p));
     }},
    {"free of a pointer into a small block", [] { free(At(Neighbours().first, 16)); }},
    {"free of an unaligned pointer", [] { free(At(Neighbours().first, 1)); }},
    {"free of a pointer into a large block", [] { free(At(malloc(100000), 65536)); }},
    {"free of a pointer to the stack",
     [] {
         int on_stack[16];
         free(Hide(on_stack));
     }},
    {"free of a pointer to static data", [] { free(Hide(a_static)); }},
    {"free of memory from mmap",
     [] {
         free(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
     }},
    {"free of a wild pointer", [] { free(reinterpret_cast<void *>(0xdeadbeefdeadbee0)); }},
    {"realloc of a freed small block",
     [] {
         void *p = malloc(kTable);
         free(p);
         free(realloc(Hide(p), 50000));
     }},
    {"realloc of a freed large block",
     [] {
         void *p = malloc(100000);
         free(p);
         free(realloc(Hide(p), 50000));
     }},
    {"`malloc_usable_size` of a freed small block",
     [] {
         void *p = Neighbours().first;
         free(p);
         malloc_usable_size(Hide(p));
     }},
    {"the same, once its cache has spilled",
     [] {
         void *p = Neighbours().first;
         free(p);
         malloc_trim(0);
         malloc_usable_size(Hide(p));
     }},
    {"`malloc_usable_size` of a freed large block",
     [] {
         void *p = malloc(100000);
         free(p);
         malloc_usable_size(Hide(p));
     }},
    {"write of 1 byte past the end of a block, free of the next", [] { Overflow(1); }},
    {"write of 100 bytes past the end of a block, free of the next", [] { Overflow(100); }},
    {"C++ sized delete with too small a size",
     [] { ::operator delete(Hide(Neighbours().first), kTable / 2); }},
    {"C++ sized delete with too large a size",
     [] { ::operator delete(Hide(Neighbours().first), kTable * 2); }},
    {"C++ sized delete of a pointer to static data",
     [] { ::operator delete(Hide(a_static), kTable); }},
    {"C++ aligned delete with a wrong alignment",
     [] { ::operator delete (Neighbours().second, std::align_val_t{4096}); }},
    {"`free_sized`, `free_aligned_sized` with a wrong size or alignment",
     [] {
         free_sized(malloc(kTable), 1);
         free_aligned_sized(malloc(kTable), 4096, kTable);
     }},
    {"malloc, calloc, realloc, aligned_alloc of a huge size",
     [] {
         void *p = malloc(kTable);
         for (size_t huge : {size_t{1} << 48, SIZE_MAX / 2, SIZE_MAX - 4096, SIZE_MAX}) {
             ExpectNull(malloc(huge));
             ExpectNull(calloc(1, huge));
             ExpectNull(calloc(huge, 16));
             ExpectNull(aligned_alloc(4096, huge));
             ExpectNull(realloc(p, huge));
         }
         free(p);
         const char null[] = "NULL\n";
         _exit(write(STDERR_FILENO, null, strlen(null)) == 5 ? 0 : 1);
     }},
};

// What a child writes that runs `program` and then ends, orderly or at once; "" if it goes on to
// its end, "NULL" as the program says, "stops" for a misuse's line and abort().
std::string End(const std::function<void()> &program, bool orderly) {
    FILE *written = tmpfile();
    std::string ending = test_util::InChild([&] {
        dup2(fileno(written), STDERR_FILENO);
        UseCaches(kTable);
        program();
        if (orderly) {
            exit(0);
        }
        return 0;
    });
    char text[1000];
    rewind(written);
    std::string said(text, fread(text, 1, sizeof text, written));
    fclose(written);
    static const std::regex kLine("hakmem: [a-z_ ]+\\(0x[0-9a-f]+\\): [^\n]+\n");
    if (ending == "signal 6" && std::regex_match(said, kLine)) {
        return "stops";
    }
    return ending == "exit 0" && (said.empty() || said == "NULL\n") ? said.substr(0, 4)
                                                                    : ending + ": " + said;
}

// The word that the table is to have.
std::string Observed(const std::function<void()> &program) {
    std::string soon = End(program, false);
    std::string late = End(program, true);
    return soon == "stops" && late == soon   ? "at once"
           : soon.empty() && late == "stops" ? "spill"
           : soon.empty() && late.empty()    ? "no"
           : soon == "NULL" && late == soon  ? soon
                                             : soon + " / " + late;
}

TEST(MisuseTable, SaysWhatTheProgramsGet) {
    const std::vector<document_table::Row> table =
        document_table::Below("What misuse gets", "docs/misuse.md");
    ASSERT_GT(table.size(), 2u);
    const std::string mine = "`" + std::string(HAK_FLAVOUR) + "`";
    const auto found = std::find(table[0].begin(), table[0].end(), mine);
#ifdef HAK_FOR_TESTS
    GTEST_SKIP() << "not for programs";
#endif
    ASSERT_NE(found, table[0].end()) << mine << " has no column";
    const size_t column = static_cast<size_t>(found - table[0].begin());
    std::map<std::string, std::string> rows;
    for (size_t i = 2; i < table.size(); i++) { // below the names and the rule
        ASSERT_EQ(table[i].size(), table[0].size()) << table[i][0];
        EXPECT_TRUE(rows.emplace(table[i][0], table[i][column]).second) << table[i][0] << " twice";
    }
    for (const auto &[name, program] : kPrograms) {
        EXPECT_EQ(rows[name], Observed(program)) << name;
        rows.erase(name);
    }
    EXPECT_THAT(rows, testing::IsEmpty()) << "rows without a program";
}

TEST(NoMisuse, LookAlikesPass) {
    // These are no faults: a block freed by another thread, one that was handed out
    // again, an aligned one, a shrunk one.
    for (int round = 0; round < 2000; round++) {
        void *p = malloc(64);
        free(p);
        p = malloc(64);
        free(p);
    }
    void *p = malloc(100);
    InThread(free, p);
    p = malloc(5000);
    p = realloc(p, 3000);
    ::operator delete (p, size_t{3000});
    p = memalign(1024, 100);
    free(p);
    malloc_trim(0);
}

} // namespace
