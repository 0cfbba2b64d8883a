// SPDX-License-Identifier: Apache-2.0
// jemalloc's interface as a program sees it that is linked to libjemalloc.so.2. The expected errors
// are those of jemalloc 5.3.0.
#include "fronts/libc/test_util.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

extern "C" {
void *mallocx(size_t size, int flags);
void *rallocx(void *ptr, size_t size, int flags);
size_t xallocx(void *ptr, size_t size, size_t extra, int flags);
size_t sallocx(const void *ptr, int flags);
void dallocx(void *ptr, int flags);
void sdallocx(void *ptr, size_t size, int flags);
size_t nallocx(size_t size, int flags);
int mallctl(const char *name, void *oldp, size_t *oldlenp, void *newp, size_t newlen);
int mallctlnametomib(const char *name, size_t *mibp, size_t *miblenp);
int mallctlbymib(const size_t *mib, size_t miblen, void *oldp, size_t *oldlenp, void *newp,
                 size_t newlen);
void malloc_stats_print(void (*write)(void *, const char *), void *arg, const char *opts);
extern void (*malloc_message)(void *, const char *);
// The program's own: read as the library starts.
const char *malloc_conf = "narenas:2,dirty_decay_ms:1234,lg_tcache_max:16";
}

namespace {

constexpr int kZero = 0x40;
constexpr int LgAlign(int lg) {
    return lg;
}
constexpr int Cache(int cache) {
    return (cache + 2) << 8;
}
constexpr int Arena(unsigned arena) {
    return static_cast<int>((arena + 1) << 20);
}

template <typename T> T Read(const std::string &name) {
    T value{};
    size_t length = sizeof value;
    EXPECT_EQ(mallctl(name.c_str(), &value, &length, nullptr, 0), 0) << name;
    EXPECT_EQ(length, sizeof value);
    return value;
}

template <typename T> int Write(const std::string &name, T value) {
    return mallctl(name.c_str(), nullptr, nullptr, &value, sizeof value);
}

int Do(const std::string &name) {
    return mallctl(name.c_str(), nullptr, nullptr, nullptr, 0);
}

void Refresh() {
    ASSERT_EQ(Write<uint64_t>("epoch", 1), 0);
}

TEST(Jemalloc, TheFlavourServesTheProcess) {
    EXPECT_STREQ(hak_flavour(), HAK_FLAVOUR);
    EXPECT_EQ(Read<const char *>("version"), "5.3.0-" + std::string(HAK_FLAVOUR));
    size_t before = test_util::Stats().large_live;
    void *block = mallocx(size_t{3} << 20, 0);
    EXPECT_EQ(test_util::Stats().large_live - before, size_t{3} << 20);
    free(block); // the same heap
    EXPECT_EQ(test_util::Stats().large_live, before);
}

TEST(Jemalloc, TheRealSizeFollowsFromTheSizeAsked) {
    for (size_t size : {1ul, 16ul, 17ul, 100ul, 1000ul, 5000ul, 32767ul, 32768ul, 32769ul, 100000ul,
                        65536ul, 1048576ul, 5000000ul}) {
        for (int lg = 0; lg <= 21; lg++) {
            size_t good = nallocx(size, LgAlign(lg));
            ASSERT_GE(good, size);
            if (size > 32768) {
                EXPECT_LT(good, size + 4096); // programs count what they use by it
            }
            EXPECT_GE(nallocx(good, LgAlign(lg)), good);
            for (int flags : {0, kZero, Cache(-1), Cache(7)}) {
                void *block = mallocx(size, flags | LgAlign(lg));
                ASSERT_NE(block, nullptr);
                EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % (size_t{1} << lg), 0u);
                EXPECT_EQ(sallocx(block, flags), good) << size << " " << lg;
                EXPECT_EQ(malloc_usable_size(block), good);
                if (flags == kZero) {
                    EXPECT_TRUE(test_util::IsAll(block, 0, good)) << size << " " << lg;
                }
                memset(block, 0xA5, good);
                dallocx(block, flags);
            }
        }
        void *block = malloc(size);
        EXPECT_EQ(nallocx(size, 0), malloc_usable_size(block)) << size;
        sdallocx(block, size, 0);
    }
}

TEST(Jemalloc, WhatCannotBeIsNullAndKeepsErrno) {
    errno = 77;
    EXPECT_EQ(mallocx(SIZE_MAX / 2 + 1, 0), nullptr);
    EXPECT_EQ(mallocx(1, LgAlign(62)), nullptr);
    EXPECT_EQ(nallocx(SIZE_MAX, 0), 0u);
    EXPECT_EQ(nallocx(1, LgAlign(63)), 0u);
    EXPECT_EQ(mallocx(1, Arena(900)), nullptr);
    EXPECT_EQ(nallocx(1, Arena(900)), 0u);
    void *block = mallocx(10, 0);
    EXPECT_EQ(rallocx(block, SIZE_MAX / 2 + 1, 0), nullptr);
    EXPECT_EQ(xallocx(block, SIZE_MAX / 2, SIZE_MAX, 0), nallocx(10, 0));
    dallocx(block, 0);
    EXPECT_EQ(errno, 77);
}

TEST(Jemalloc, RallocxKeepsTheContentUpAndDown) {
    std::vector<size_t> sizes = {1,      40,     200,     3000,    20000,   40000,
                                 200000, 900000, 1500000, 3000000, 12000000};
    for (int flags : {0, LgAlign(6), LgAlign(13), kZero, kZero | LgAlign(7)}) {
        size_t align = size_t{1} << (flags & 63);
        void *block = mallocx(sizes[0], flags);
        memset(block, 1, sallocx(block, 0));
        for (size_t i = 1; i < sizes.size(); i++) {
            size_t had = sallocx(block, 0);
            block = rallocx(block, sizes[i], flags);
            ASSERT_NE(block, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % align, 0u);
            EXPECT_EQ(sallocx(block, 0), nallocx(sizes[i], flags)) << sizes[i] << " " << flags;
            EXPECT_TRUE(test_util::IsAll(block, static_cast<int>(i), had));
            if ((flags & kZero) != 0) {
                EXPECT_TRUE(
                    test_util::IsAll(static_cast<char *>(block) + had, 0, sallocx(block, 0) - had));
            }
            memset(block, static_cast<int>(i + 1), sallocx(block, 0));
        }
        for (size_t i = sizes.size() - 1; i-- > 0;) {
            block = rallocx(block, sizes[i], flags);
            EXPECT_EQ(sallocx(block, 0), nallocx(sizes[i], flags)) << sizes[i] << " " << flags;
            EXPECT_TRUE(test_util::IsAll(block, static_cast<int>(sizes.size()), sizes[i]));
        }
        dallocx(block, flags);
    }
}

TEST(Jemalloc, XallocxResizesAtThePlaceOrNotAtAll) {
    void *small = mallocx(100, 0);
    EXPECT_EQ(xallocx(small, 100, 0, 0), nallocx(100, 0));
    EXPECT_EQ(xallocx(small, 1, 0, 0), nallocx(100, 0));
    EXPECT_EQ(xallocx(small, 5000, 1000, 0), nallocx(100, 0));
    EXPECT_EQ(xallocx(small, 100, SIZE_MAX - 100, kZero), nallocx(100, 0));
    dallocx(small, 0);
    void *large = mallocx(1000000, 0);
    size_t shorter = xallocx(large, 300000, 0, 0);
    EXPECT_EQ(shorter, nallocx(300000, 0));
    memset(large, 9, shorter);
    // The slabs behind the block are free now.
    size_t longer = xallocx(large, 700000, 0, kZero);
    EXPECT_EQ(longer, nallocx(700000, 0));
    EXPECT_TRUE(test_util::IsAll(large, 9, shorter));
    EXPECT_TRUE(test_util::IsAll(static_cast<char *>(large) + shorter, 0, longer - shorter));
    // The block is within the requested sizes already.
    EXPECT_EQ(xallocx(large, 600000, 200000, 0), longer);
    void *fence = mallocx(1000000, 0);
    size_t most = xallocx(large, 400000, size_t{1} << 45, 0);
    EXPECT_EQ(most, sallocx(large, 0));
    dallocx(fence, 0);
    dallocx(large, 0);
}

struct Expected {
    const char *name;
    const void *newp;
    size_t newlen;
    size_t oldlen; // SIZE_MAX: not read
    int error;
    size_t length; // what *oldlenp is afterwards
};

TEST(Mallctl, ChecksLengthsAndRights) {
    uint64_t number = 0;
    unsigned unsigned_number = 12345;
    ssize_t below = -2;
    const Expected cases[] = {
        {"nonesuch", nullptr, 0, 8, ENOENT, 8},
        {"", nullptr, 0, 8, ENOENT, 8},
        {"stats", nullptr, 0, 8, ENOENT, 8},
        {"stats.", nullptr, 0, 8, ENOENT, 8},
        {"stats.allocated.x", nullptr, 0, 8, ENOENT, 8},
        {"stats.allocated", nullptr, 0, 8, 0, 8},
        {"stats.allocated", nullptr, 0, 4, EINVAL, 4},
        {"stats.allocated", nullptr, 0, 64, EINVAL, 8},
        {"stats.allocated", &number, 8, 8, EPERM, 8},
        {"stats.allocated", &number, 0, 8, EPERM, 8},
        {"epoch", &unsigned_number, 4, SIZE_MAX, EINVAL, 0},
        {"epoch", &number, 8, 4, EINVAL, 4},
        {"opt.tcache", nullptr, 0, 1, 0, 1},
        {"opt.narenas", nullptr, 0, 8, EINVAL, 4},
        {"arena.0.purge", nullptr, 0, SIZE_MAX, 0, 0},
        {"arena.0.purge", nullptr, 0, 8, EPERM, 8},
        {"arena.0.purge", &number, 8, SIZE_MAX, EPERM, 0},
        {"arena.0.decay", nullptr, 0, SIZE_MAX, 0, 0},
        {"arena.4096.purge", nullptr, 0, SIZE_MAX, 0, 0},
        {"arena.1000.purge", nullptr, 0, SIZE_MAX, ENOENT, 0},
        {"arena.x.purge", nullptr, 0, SIZE_MAX, ENOENT, 0},
        {"arena..purge", nullptr, 0, SIZE_MAX, ENOENT, 0},
        {"arena.99999999999999999999.purge", nullptr, 0, SIZE_MAX, ENOENT, 0},
        {"arena.0.reset", nullptr, 0, SIZE_MAX, EFAULT, 0},
        {"arena.0.destroy", nullptr, 0, SIZE_MAX, EFAULT, 0},
        {"arena.0.dirty_decay_ms", &below, 8, SIZE_MAX, EFAULT, 0},
        {"arenas.dirty_decay_ms", &below, 8, SIZE_MAX, EFAULT, 0},
        {"arenas.create", nullptr, 0, 8, EINVAL, 0},
        {"arenas.bin.9999.size", nullptr, 0, 8, ENOENT, 8},
        {"thread.arena", &unsigned_number, 4, SIZE_MAX, EFAULT, 0},
        {"thread.tcache.flush", nullptr, 0, SIZE_MAX, 0, 0},
        {"thread.tcache.flush", nullptr, 0, 8, EPERM, 8},
        {"tcache.create", nullptr, 0, 8, EINVAL, 0},
        {"tcache.flush", &unsigned_number, 4, SIZE_MAX, EFAULT, 0},
        {"tcache.destroy", nullptr, 0, 4, EPERM, 4},
        {"thread.allocated", nullptr, 0, 8, ENOENT, 8},
        {"prof.active", nullptr, 0, 1, ENOENT, 1},
    };
    for (const Expected &expected : cases) {
        char value[64];
        size_t length = expected.oldlen;
        bool reads = length != SIZE_MAX;
        EXPECT_EQ(mallctl(expected.name, reads ? value : nullptr, reads ? &length : nullptr,
                          const_cast<void *>(expected.newp), expected.newlen),
                  expected.error)
            << expected.name << " " << expected.oldlen << " " << expected.newlen;
        if (reads) {
            EXPECT_EQ(length, expected.length) << expected.name;
        }
    }
}

TEST(Mallctl, MibsAreNamesWithNumbersToPutIn) {
    size_t mib[6];
    size_t depth = 6;
    ASSERT_EQ(mallctlnametomib("arenas.bin.0.size", mib, &depth), 0);
    ASSERT_EQ(depth, 4u);
    auto bins = Read<unsigned>("arenas.nbins");
    size_t before = 0;
    for (unsigned i = 0; i < bins; i++) {
        mib[2] = i;
        size_t size;
        size_t length = sizeof size;
        ASSERT_EQ(mallctlbymib(mib, 4, &size, &length, nullptr, 0), 0);
        EXPECT_GT(size, before);
        EXPECT_EQ(size, Read<size_t>("arenas.bin." + std::to_string(i) + ".size"));
        EXPECT_EQ(nallocx(before + 1, 0), HAK_HARDENED ? before + 1 : size); // to the byte there
        before = size;
    }
    mib[2] = bins;
    EXPECT_EQ(mallctlbymib(mib, 4, nullptr, nullptr, nullptr, 0), ENOENT);
    EXPECT_EQ(mallctlbymib(mib, 3, nullptr, nullptr, nullptr, 0), ENOENT);
    EXPECT_EQ(mallctlbymib(mib, 0, nullptr, nullptr, nullptr, 0), ENOENT);
    mib[0] = 0;
    EXPECT_EQ(mallctlbymib(mib, 4, nullptr, nullptr, nullptr, 0), ENOENT);
    // The start of a name, and less room than the name has components.
    depth = 6;
    EXPECT_EQ(mallctlnametomib("stats.arenas.0", mib, &depth), 0);
    EXPECT_EQ(depth, 3u);
    depth = 1;
    EXPECT_EQ(mallctlnametomib("arenas.narenas", mib, &depth), 0);
    EXPECT_EQ(depth, 1u);
    EXPECT_EQ(mallctlnametomib("arenas.nonesuch", mib, &depth), ENOENT);
}

TEST(Mallctl, StatisticsAreThoseOfTheLastEpoch) {
    Refresh();
    auto epoch = Read<uint64_t>("epoch");
    auto allocated = Read<size_t>("stats.allocated");
    void *block = mallocx(size_t{40} << 20, kZero);
    EXPECT_EQ(Read<size_t>("stats.allocated"), allocated);
    Refresh();
    EXPECT_EQ(Read<uint64_t>("epoch"), epoch + 1);
    EXPECT_GE(Read<size_t>("stats.allocated"), allocated + (size_t{40} << 20));
    EXPECT_GE(Read<size_t>("stats.active"), Read<size_t>("stats.allocated"));
    EXPECT_GE(Read<size_t>("stats.resident"), Read<size_t>("stats.active"));
    EXPECT_GE(Read<size_t>("stats.mapped"), Read<size_t>("stats.active"));
    EXPECT_GT(Read<size_t>("stats.metadata"), 0u);
    EXPECT_EQ(Read<size_t>("stats.allocated"), Read<size_t>("stats.arenas.0.small.allocated") +
                                                   Read<size_t>("stats.arenas.0.large.allocated"));
    EXPECT_EQ(Read<size_t>("stats.active"), Read<size_t>("stats.arenas.0.pactive") * 4096);
    dallocx(block, 0);
    Refresh();
    EXPECT_LT(Read<size_t>("stats.allocated"), allocated + (size_t{1} << 20));
    EXPECT_EQ(Do("arena.0.purge"), 0);
    Refresh();
    EXPECT_LT(Read<size_t>("stats.arenas.4096.pdirty"), 16u);
}

TEST(Mallctl, BlocksOfABinAreCounted) {
    std::string bin;
    for (unsigned i = 0; bin.empty(); i++) {
        if (Read<size_t>("arenas.bin." + std::to_string(i) + ".size") >= 20000) {
            bin = std::to_string(i);
        }
    }
    Refresh();
    auto before = Read<size_t>("stats.arenas.0.bins." + bin + ".curregs");
    std::vector<void *> blocks(50);
    for (void *&block : blocks) {
        block = mallocx(20000, 0);
    }
    Refresh();
    EXPECT_EQ(Read<size_t>("stats.arenas.0.bins." + bin + ".curregs"), before + 50);
    EXPECT_GE(Read<size_t>("stats.arenas.0.bins." + bin + ".curslabs"), 50u / 3);
    for (void *block : blocks) {
        dallocx(block, 0);
    }
}

// First of all, what the program itself has said in malloc_conf.
TEST(Mallctl, ADecayTimeIsTheHeaps) {
    EXPECT_EQ(Read<ssize_t>("opt.dirty_decay_ms"), 1234);
    EXPECT_EQ(Write<ssize_t>("arena.0.dirty_decay_ms", 250), 0);
    EXPECT_EQ(Read<ssize_t>("arenas.dirty_decay_ms"), 250);
    EXPECT_EQ(Write<ssize_t>("arenas.dirty_decay_ms", -1), 0);
    EXPECT_EQ(Read<ssize_t>("arena.0.dirty_decay_ms"), -1);
    EXPECT_EQ(Write<ssize_t>("arenas.dirty_decay_ms", 1234), 0);
    EXPECT_EQ(Write<ssize_t>("arenas.muzzy_decay_ms", 0), 0);
    EXPECT_EQ(Write<ssize_t>("arenas.muzzy_decay_ms", 5), EFAULT);
}

unsigned CreateArena() {
    return Read<unsigned>("arenas.create");
}

std::string Name(unsigned arena, const char *what) {
    return "arena." + std::to_string(arena) + "." + what;
}

TEST(Arena, ItsBlocksCanAllBeDiscarded) {
    unsigned arena = CreateArena();
    ASSERT_GT(arena, 0u);
    EXPECT_EQ(Read<unsigned>("arenas.narenas"), arena + 1);
    EXPECT_TRUE(Read<bool>(Name(arena, "initialized")));
    Refresh();
    auto allocated = Read<size_t>("stats.allocated");
    std::string small = "stats.arenas." + std::to_string(arena) + ".small.allocated";
    for (int round = 0; round < 3; round++) {
        size_t bytes = 0;
        for (size_t size : {1ul, 100ul, 3000ul, 20000ul, 70000ul, 2000000ul}) {
            for (int lg : {0, 7, 13, 17}) {
                int flags = Arena(arena) | LgAlign(lg) | Cache(-1);
                void *block = mallocx(size, flags | kZero);
                ASSERT_NE(block, nullptr);
                EXPECT_EQ(sallocx(block, 0), nallocx(size, flags));
                EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % (size_t{1} << lg), 0u);
                EXPECT_TRUE(test_util::IsAll(block, 0, sallocx(block, 0)));
                memset(block, 7, sallocx(block, 0));
                bytes += sallocx(block, 0);
                unsigned found;
                size_t length = sizeof found;
                EXPECT_EQ(mallctl("arenas.lookup", &found, &length, &block, sizeof block), 0);
                EXPECT_EQ(found, arena);
            }
        }
        Refresh();
        EXPECT_GE(Read<size_t>("stats.allocated"), allocated + bytes);
        EXPECT_EQ(Read<size_t>(small), bytes);
        EXPECT_EQ(Do(Name(arena, "reset")), 0);
        EXPECT_EQ(Read<size_t>(small), 0u);
    }
    EXPECT_EQ(Do(Name(arena, "destroy")), 0);
    EXPECT_EQ(Do(Name(arena, "destroy")), EFAULT);
    EXPECT_FALSE(Read<bool>(Name(arena, "initialized")));
    EXPECT_EQ(mallocx(1, Arena(arena)), nullptr);
    EXPECT_EQ(CreateArena(), arena); // the number is free again
    EXPECT_EQ(Do(Name(arena, "destroy")), 0);
}

TEST(Arena, ItsBlocksAreOrdinaryOtherwise) {
    unsigned arena = CreateArena();
    auto *block = static_cast<char *>(mallocx(100, Arena(arena)));
    strcpy(block, "of an arena");
    block = static_cast<char *>(realloc(block, 100000));
    EXPECT_STREQ(block, "of an arena");
    block = static_cast<char *>(rallocx(block, 50, Arena(arena)));
    EXPECT_STREQ(block, "of an arena");
    EXPECT_EQ(xallocx(block, 50, 10, 0), sallocx(block, 0));
    std::thread([&] { free(block); }).join();
    auto *large = static_cast<char *>(mallocx(500000, Arena(arena)));
    large = static_cast<char *>(rallocx(large, 2000000, Arena(arena) | kZero));
    EXPECT_EQ(sallocx(large, 0), nallocx(2000000, Arena(arena)));
    dallocx(large, Cache(-1));
    Refresh();
    EXPECT_EQ(Read<size_t>("stats.arenas." + std::to_string(arena) + ".small.allocated"), 0u);
    EXPECT_EQ(Do(Name(arena, "destroy")), 0);
}

TEST(Arena, AForkedChildUsesIt) {
    unsigned arena = CreateArena();
    std::atomic<bool> stop{false};
    std::thread busy([&] {
        while (!stop) {
            dallocx(mallocx(300, Arena(arena)), 0);
        }
    });
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        if (child == 0) {
            for (int j = 0; j < 1000; j++) {
                void *block = mallocx(static_cast<size_t>(j), Arena(arena));
                if (block == nullptr) {
                    _exit(1);
                }
                dallocx(block, 0);
            }
            _exit(Do("arena." + std::to_string(arena) + ".destroy"));
        }
        int status;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0);
    }
    stop = true;
    busy.join();
    EXPECT_EQ(Do(Name(arena, "destroy")), 0);
}

TEST(ArenaDeathTest, ABlockFreedTwiceEndsTheProgram) {
    unsigned arena = CreateArena();
    void *block = mallocx(100, Arena(arena));
    free(block);
    EXPECT_DEATH(free(block), "block was freed");
    EXPECT_DEATH(free(static_cast<char *>(block) + 8), "pointer into a block");
    EXPECT_DEATH(malloc_usable_size(block), "block was freed");
    EXPECT_EQ(Do(Name(arena, "destroy")), 0);
}

TEST(Mallctl, CachesAreNumbers) {
    auto first = Read<unsigned>("tcache.create");
    auto second = Read<unsigned>("tcache.create");
    EXPECT_NE(first, second);
    void *block = mallocx(10, Cache(static_cast<int>(second)));
    dallocx(block, Cache(static_cast<int>(first)));
    EXPECT_EQ(Write<unsigned>("tcache.flush", first), 0);
    EXPECT_EQ(Write<unsigned>("tcache.destroy", first), 0);
    EXPECT_EQ(Write<unsigned>("tcache.destroy", first), EFAULT);
    EXPECT_EQ(Read<unsigned>("tcache.create"), first);
}

void Append(void *text, const char *more) {
    *static_cast<std::string *>(text) += more;
}

TEST(StatsPrint, WritesWhereItIsTold) {
    std::string text;
    text.reserve(100000);
    malloc_stats_print(Append, &text, nullptr);
    EXPECT_NE(text.find("Begin jemalloc statistics"), std::string::npos);
    EXPECT_NE(text.find("Allocated: "), std::string::npos);
    EXPECT_NE(text.find("bins:"), std::string::npos);
    text.clear();
    malloc_stats_print(Append, &text, "b");
    EXPECT_EQ(text.find("bins:"), std::string::npos);
    text.clear();
    malloc_stats_print(Append, &text, "J");
    EXPECT_EQ(text.rfind("{\"jemalloc\":{", 0), 0u);
    static std::string message;
    message.reserve(100000);
    malloc_message = [](void *, const char *more) { message += more; };
    malloc_stats_print(nullptr, nullptr, "g");
    EXPECT_NE(message.find("Allocated: "), std::string::npos);
    EXPECT_EQ(message.find("Version"), std::string::npos);
    malloc_message = nullptr;
}

} // namespace
