// SPDX-License-Identifier: Apache-2.0
// Moves of several mappings that the kernel refuses in the middle, because the process has no
// mappings left.
#include <gtest/gtest.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <fstream>

#include "backends/os.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kParts = 12, kPart = 8 * kPage, kSize = kParts * kPart;

char *Map(size_t size, int rights = PROT_READ | PROT_WRITE) {
    void *p = mmap(nullptr, size, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<char *>(p);
}

// A range of several mappings, which do not merge because their pages come from elsewhere.
char *Source() {
    char *all = Map(kSize);
    for (size_t i = 0; i < kParts; i++) {
        char *part = Map(kPart);
        memset(part, static_cast<int>('a' + i), kPart);
        if (mremap(part, kPart, kPart, MREMAP_MAYMOVE | MREMAP_FIXED, all + i * kPart) ==
            MAP_FAILED) {
            return nullptr;
        }
    }
    return all;
}

bool IsSource(const char *at) {
    for (size_t i = 0; i < kSize; i++) {
        if (at[i] != static_cast<char>('a' + i / kPart)) {
            return false;
        }
    }
    return true;
}

TEST(Halfway, ARefusedMoveLeavesTheSourceAsItWas) {
    long most = 0;
    std::ifstream("/proc/sys/vm/max_map_count") >> most;
    if (most <= 0 || most > 300000) {
        GTEST_SKIP() << most << " mappings";
    }
    const size_t room = (static_cast<size_t>(most) + 2) * kPage;
    size_t moved = 0, refused = 0;
    for (size_t spare = 0; spare < 20; spare++) {
        SCOPED_TRACE(spare);
        char *from = Source();
        char *to = Map(kSize);
        ASSERT_NE(from, nullptr);
        memset(to, 'x', kSize);
        char *own = Map(room, PROT_READ);
        ASSERT_NE(own, nullptr);
        size_t at = 0;
        while (at < room && mprotect(own + at, kPage, PROT_NONE) == 0) {
            at += 2 * kPage;
        }
        ASSERT_LT(at, room);
        for (size_t i = 0; i < spare / 2; i++) { // each of which gives two mappings back
            mprotect(own + (at -= 2 * kPage), kPage, PROT_READ);
        }
        mprotect(own + room - (spare % 2) * kPage, (spare % 2) * kPage, PROT_NONE); // takes one
        enum os_result result = os_move(from, to, kSize);
        munmap(own, room);
        if (result == OS_OK) {
            EXPECT_TRUE(IsSource(to));
            EXPECT_EQ(std::count(from, from + kSize, 0), static_cast<ptrdiff_t>(kSize));
            moved++;
        } else {
            EXPECT_EQ(result, OS_NO_MEMORY);
            EXPECT_TRUE(IsSource(from));
            memset(to, 'y', kSize);
            refused++;
        }
        munmap(from, kSize);
        munmap(to, kSize);
    }
    EXPECT_GT(refused, 0u);
    printf("%zu moved, %zu refused\n", moved, refused);
}

} // namespace
