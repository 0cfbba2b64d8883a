// SPDX-License-Identifier: Apache-2.0
// The kernel refuses memory: NULL and ENOMEM everywhere, nothing lost, and the
// heap goes on when memory is freed.
//
// RLIMIT_AS is set before the program starts (the heap's window is placed by it), so the test runs
// itself again with a flag, or after the heap has been in use.
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <new>
#include <string>

#include "boxes/base/base.h"
#include "fronts/libc/test_util.h"
#include "gtest/gtest.h"

namespace {

constexpr size_t kMiB = size_t{1} << 20;

// A list of blocks through the blocks themselves, so that keeping them takes no memory.
struct Link {
    Link *next;
    size_t size;
    unsigned char mark;
};

// The bytes that a block keeps from others: one above 32 KiB has slabs of its own, or pages.
size_t Taken(void *block) {
    constexpr uintptr_t kLarge = 32 << 10, kMedium = 128 << 10;
    const size_t usable = malloc_usable_size(block);
    const size_t unit = usable <= kMedium && !HAK_HARDENED && !HAK_HEADER ? 4 << 10 : 64 << 10;
    const auto at = reinterpret_cast<uintptr_t>(block);
    return usable <= kLarge ? usable : (at + usable + unit - 1) / unit * unit - at / unit * unit;
}

struct Blocks {
    Link *first = nullptr;
    size_t bytes = 0; // as Taken() has them
    size_t count = 0;

    // Allocates blocks of one size until that fails. False if it fails in another way than it
    // should.
    bool Exhaust(size_t size) {
        for (;;) {
            errno = 0;
            Link *link = static_cast<Link *>(malloc(size));
            if (link == nullptr) {
                return errno == ENOMEM;
            }
            link->next = first;
            link->size = size;
            link->mark = static_cast<unsigned char>(count);
            // Both ends and one byte a page: the pages are there.
            unsigned char *bytes_of = reinterpret_cast<unsigned char *>(link);
            for (size_t at = 4096; at < size; at += 4096) {
                bytes_of[at] = link->mark;
            }
            bytes_of[size - 1] = link->mark;
            first = link;
            bytes += Taken(link);
            count++;
        }
    }
    bool Good() const {
        size_t left = count;
        for (const Link *link = first; link != nullptr; link = link->next) {
            const unsigned char *bytes_of = reinterpret_cast<const unsigned char *>(link);
            left--;
            if (link->mark != static_cast<unsigned char>(left) ||
                bytes_of[link->size - 1] != link->mark) {
                return false;
            }
            for (size_t at = 4096; at < link->size; at += 4096) {
                if (bytes_of[at] != link->mark) {
                    return false;
                }
            }
        }
        return left == 0;
    }
    void FreeAll() {
        while (first != nullptr) {
            Link *link = first;
            first = link->next;
            free(link);
        }
        bytes = count = 0;
    }
};

size_t Opaque(size_t n) {
    volatile size_t v = n;
    return v;
}

// With no memory left, every entry point says so. Returns 0 if it does. `size` is that of a large
// block, or a block of another bin or in another chunk might be left.
int EveryEntryPointFails(size_t size) {
    errno = 0;
    if (calloc(1, size) != nullptr || errno != ENOMEM) {
        return 1;
    }
    errno = 0;
    if (reallocarray(nullptr, 1, size) != nullptr || errno != ENOMEM) {
        return 2;
    }
    errno = 0;
    if (aligned_alloc(4096, size) != nullptr || errno != ENOMEM) {
        return 3;
    }
    errno = 0;
    if (memalign(64, size) != nullptr || errno != ENOMEM) {
        return 4;
    }
    void *p = &errno;
    errno = 99;
    if (posix_memalign(&p, 64, size) != ENOMEM || errno != ENOMEM || p != &errno) {
        return 5;
    }
    errno = 0;
    if (valloc(size) != nullptr || errno != ENOMEM) {
        return 6;
    }
    errno = 0;
    if (pvalloc(size) != nullptr || errno != ENOMEM) {
        return 7;
    }
    if (::operator new(size, std::nothrow) != nullptr) {
        return 8;
    }
    errno = 0;
    if (malloc(Opaque(size_t{1} << 40)) != nullptr || errno != ENOMEM) {
        return 9;
    }
    return 0;
}

// The whole story within a limit. 0 if all is well; the numbers say where it was not.
int LiveWithinLimit(size_t size, size_t at_least) {
    Blocks blocks;
    if (!blocks.Exhaust(size)) {
        return 100;
    }
    size_t first = blocks.bytes;
    printf("blocks of %zu B: %zu.%zu MiB", size, first / kMiB, first * 10 / kMiB % 10);
    if (first < at_least) {
        printf(", less than %zu MiB\n", at_least / kMiB);
        return 101;
    }
    if (int which = EveryEntryPointFails(size >= 40000 ? size : 200000); which != 0) {
        return 110 + which;
    }
    // A failed realloc leaves the block; a smaller size may still fit.
    errno = 0;
    if (blocks.first != nullptr && realloc(blocks.first, first) != nullptr) {
        return 102;
    }
    if (errno != ENOMEM || !blocks.Good()) {
        return 103;
    }
    Blocks smaller;
    for (size_t n = size / 2; n >= sizeof(Link); n /= 2) {
        if (!smaller.Exhaust(n)) {
            return 104;
        }
    }
    if (!blocks.Good() || !smaller.Good()) {
        return 105;
    }
    smaller.FreeAll();
    if (!blocks.Good()) {
        return 106;
    }
    blocks.FreeAll();
    // The program goes on: as much as before, of this size, and then of others.
    for (size_t n : {size, size_t{100}, size_t{5000}, size_t{70000}, kMiB, size}) {
        if (!blocks.Exhaust(n)) {
            return 107;
        }
        if (blocks.bytes < first / 4 * 3) {
            printf(", then only %zu.%zu MiB of blocks of %zu B\n", blocks.bytes / kMiB,
                   blocks.bytes * 10 / kMiB % 10, n);
            return 108;
        }
        if (!blocks.Good()) {
            return 109;
        }
        blocks.FreeAll();
    }
    printf(", and again\n");
    return 0;
}

constexpr char kFlag[] = "--within-limit=";

// Runs this program again under a limit that is there from the start.
std::string RunUnderLimit(size_t limit, size_t size, size_t at_least) {
    char flag[100];
    snprintf(flag, sizeof flag, "%s%zu,%zu", kFlag, size, at_least);
    fflush(stdout);
    return test_util::InChild([&] {
        struct rlimit rlimit = {limit, limit};
        setrlimit(RLIMIT_AS, &rlimit);
        execl("/proc/self/exe", "limits_test", flag, nullptr);
        return 127;
    });
}

class LimitTest : public testing::TestWithParam<size_t> {};

INSTANTIATE_TEST_SUITE_P(BlockSizes, LimitTest, testing::Values(100, 3000, 40000, 1 << 20));

TEST_P(LimitTest, Of64MiBFromTheStart) {
    EXPECT_EQ(RunUnderLimit(64 * kMiB, GetParam(), 40 * kMiB), "exit 0");
}

TEST_P(LimitTest, Of256MiBFromTheStart) {
    EXPECT_EQ(RunUnderLimit(256 * kMiB, GetParam(), 200 * kMiB), "exit 0");
}

TEST_P(LimitTest, Of1GiBFromTheStart) {
    if (test_util::kPart > 1) {
        GTEST_SKIP() << "hakmem_c23's; the other flavours have the smaller limits";
    }
    EXPECT_EQ(RunUnderLimit(1024 * kMiB, GetParam(), 900 * kMiB), "exit 0");
}

TEST_P(LimitTest, SetWhileTheHeapIsInUse) {
    fflush(stdout);
    EXPECT_EQ(test_util::InChild([] {
                  // The limit leaves 200 MiB above the present mappings.
                  free(malloc(GetParam()));
                  struct rlimit rlimit;
                  rlimit.rlim_cur = rlimit.rlim_max =
                      test_util::StatusBytes("VmSize:") + 200 * kMiB;
                  setrlimit(RLIMIT_AS, &rlimit);
                  int result = LiveWithinLimit(GetParam(), 100 * kMiB);
                  fflush(stdout);
                  return result;
              }),
              "exit 0");
}

TEST(Limit, ThatLeavesNoRoomForAHeap) {
    // No address is left: every call fails with ENOMEM, and none crashes.
    EXPECT_EQ(test_util::InChild([] {
                  struct rlimit rlimit = {0, 0};
                  setrlimit(RLIMIT_AS, &rlimit);
                  Blocks blocks;
                  if (!blocks.Exhaust(kMiB) || !blocks.Exhaust(40000) || !blocks.Exhaust(64)) {
                      return 1;
                  }
                  if (int which = EveryEntryPointFails(kMiB); which != 0) {
                      return 10 + which;
                  }
                  // The blocks that are there can still be used and given back.
                  void *p = blocks.first;
                  if (p != nullptr) {
                      blocks.first = blocks.first->next;
                      free(p);
                      p = malloc(64);
                      if (p == nullptr) {
                          return 2;
                      }
                      free(p);
                  }
                  blocks.FreeAll();
                  return 0;
              }),
              "exit 0");
}

constexpr char kPhases[] = "--phases";

// Blocks of many sizes that come and go in phases leave full caches of each; then one that needs
// nearly all there may be. 0 if all is well.
int PhasesThenALargeBlock() {
    for (int phase = 0; phase < 6; phase++) {
        for (size_t size = 16; size <= 1024; size += 16) {
            Link *first = nullptr;
            for (int i = 0; i < 3000; i++) {
                Link *link = static_cast<Link *>(malloc(size));
                if (link == nullptr) {
                    return 1;
                }
                link->next = first;
                first = link;
            }
            while (first != nullptr) {
                Link *next = first->next;
                free(first);
                first = next;
            }
        }
    }
    errno = 0;
    // (In the hardened flavour slabs of sizes that are in use lie anywhere, one each.)
    void *large = malloc((HAK_HARDENED ? 12 : 22) * kMiB);
    if (large == nullptr || errno != 0) {
        return 2;
    }
    if (malloc((HAK_HARDENED ? 14 : 4) * kMiB) != nullptr) {
        return 3; // there is no limit
    }
    free(large);
    return 0;
}

constexpr char kGrown[] = "--grown";

// Blocks of whole slabs that realloc has made, until there is no more memory.
int GrownBlocks() {
    constexpr size_t kSize = (64 << 10) - (HAK_HARDENED ? 16 : 0); // of whole slabs, with the tail
    size_t bytes = 0;
    while (void *block = malloc(20000)) {
        if ((block = realloc(block, kSize)) == nullptr) {
            break;
        }
        bytes += kSize;
    }
    printf("%zu KiB\n", bytes >> 10);
    fflush(stdout);
    return bytes >= 56 * kMiB && bytes <= 64 * kMiB && errno == ENOMEM ? 0 : 1;
}

// Runs this program again with that HAKMEM_LIMIT.
std::string RunUnderOwnLimit(const char *limit, const char *flag) {
    fflush(stdout);
    return test_util::InChild([=] {
        setenv("HAKMEM_LIMIT", limit, 1);
        execl("/proc/self/exe", "limits_test", flag, nullptr);
        return 127;
    });
}

TEST(Limit, GrownBlocksTakeNoMoreThanTheyNeed) {
    EXPECT_EQ(RunUnderOwnLimit("64M", kGrown), "exit 0");
}

TEST(Limit, WhatTheThreadsCachesHoldIsNotInTheWay) {
    EXPECT_EQ(RunUnderOwnLimit("24M", kPhases), "exit 0");
}

TEST(Limit, ShrinkingByReallocDoesNotFail) {
    for (size_t size : {size_t{24}, size_t{200}, size_t{3000}, size_t{33000}, size_t{1} << 20}) {
        EXPECT_EQ(test_util::InChild([size] {
                      struct rlimit rlimit;
                      rlimit.rlim_cur = rlimit.rlim_max =
                          test_util::StatusBytes("VmSize:") + 100 * kMiB;
                      setrlimit(RLIMIT_AS, &rlimit);
                      unsigned char *p = static_cast<unsigned char *>(malloc(size));
                      memset(p, 0x3c, size);
                      Blocks blocks;
                      if (!blocks.Exhaust(kMiB) || !blocks.Exhaust(40000) || !blocks.Exhaust(64)) {
                          return 1;
                      }
                      for (size_t now = size; now > 1; now = now / 3 + 1) {
                          errno = 0;
                          p = static_cast<unsigned char *>(realloc(p, now / 3 + 1));
                          if (p == nullptr || errno != 0) {
                              return 2;
                          }
                          if (p[0] != 0x3c || memcmp(p, p + 1, now / 3) != 0) {
                              return 3;
                          }
                          if (now == 2) {
                              break;
                          }
                      }
                      free(p);
                      return 0;
                  }),
                  "exit 0")
            << size;
    }
}

TEST(Limit, GrowthByReallocEndsWithTheOldBlock) {
    EXPECT_EQ(test_util::InChild([] {
                  struct rlimit rlimit;
                  rlimit.rlim_cur = rlimit.rlim_max =
                      test_util::StatusBytes("VmSize:") + 300 * kMiB;
                  setrlimit(RLIMIT_AS, &rlimit);
                  unsigned char *p = static_cast<unsigned char *>(malloc(1000));
                  size_t size = 1000;
                  memset(p, 0x3c, size);
                  for (;;) {
                      errno = 0;
                      unsigned char *q = static_cast<unsigned char *>(realloc(p, size * 3 / 2));
                      if (q == nullptr) {
                          break;
                      }
                      p = q;
                      memset(p + size, 0x3c, size * 3 / 2 - size);
                      size = size * 3 / 2;
                  }
                  if (errno != ENOMEM) {
                      return 1;
                  }
                  if (p[0] != 0x3c || memcmp(p, p + 1, size - 1) != 0) {
                      return 2;
                  }
                  if (size < 60 * kMiB) {
                      return 3;
                  }
                  free(p);
                  p = static_cast<unsigned char *>(malloc(size));
                  return p != nullptr ? 0 : 4;
              }),
              "exit 0");
}

// A block that would be moved by the page table while the process holds more than it may by then.
TEST(Limit, GrowthByReallocAboveTheLimitLosesNothing) {
    for (auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
        EXPECT_EQ(test_util::InChild([resource] {
                      constexpr size_t kSize = 2 * kMiB;
                      unsigned char *p = static_cast<unsigned char *>(malloc(kSize));
                      void *wall = malloc(kSize);
                      memset(p, 0x3c, kSize);
                      free(malloc(40 * kMiB)); // room in the heap
                      struct rlimit rlimit = {kMiB, kMiB};
                      setrlimit(resource, &rlimit);
                      for (size_t size = 2 * kSize; size <= 16 * kSize; size *= 2) {
                          unsigned char *q = static_cast<unsigned char *>(realloc(p, size));
                          p = q != nullptr ? q : p;
                          if (p[0] != 0x3c || memcmp(p, p + 1, kSize - 1) != 0) {
                              return 1;
                          }
                          void *other = malloc(size / 2);
                          if (other != nullptr) {
                              memset(other, 1, size / 2);
                          }
                          free(other);
                      }
                      free(wall);
                      free(p);
                      return 0;
                  }),
                  "exit 0")
            << resource;
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc == 2 && strncmp(argv[1], kFlag, strlen(kFlag)) == 0) {
        char *end;
        size_t size = strtoul(argv[1] + strlen(kFlag), &end, 10);
        size_t at_least = strtoul(end + 1, nullptr, 10);
        return LiveWithinLimit(size, at_least);
    }
    if (argc == 2 && strcmp(argv[1], kGrown) == 0) {
        return GrownBlocks();
    }
    if (argc == 2 && strcmp(argv[1], kPhases) == 0) {
        return PhasesThenALargeBlock();
    }
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
