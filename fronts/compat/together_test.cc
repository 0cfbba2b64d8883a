// SPDX-License-Identifier: Apache-2.0
// Several libraries of hakmem in one process, and beside another malloc: whoever serves malloc
// serves all.
#include <gtest/gtest.h>

#include <string>

#include "fronts/libc/shell.h"

namespace {

shell::Outcome RunTogether(const std::string &preload, const std::string &argument) {
    return shell::Run("HAKMEM_STATS=1 LD_PRELOAD=" + preload + " fronts/compat/together " +
                      argument + " 2>&1");
}

size_t Count(const std::string &text, const std::string &what) {
    size_t count = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) {
        count++;
    }
    return count;
}

// The flavour that is first serves malloc and all else, and prints its statistics, and no other
// does.
void ExpectServed(const std::string &preload, const std::string &flavour) {
    shell::Outcome answer = RunTogether(preload, "ours");
    EXPECT_EQ(answer.ending, "exit 0") << answer.text;
    EXPECT_EQ(answer.text.rfind(flavour + "\n", 0), 0u) << answer.text;
    EXPECT_EQ(Count(answer.text, "hakmem statistics"), 1u) << answer.text;
}

TEST(Together, ThreeLibrariesAreOneHeap) {
    ExpectServed("", "hakmem_c23");
}

TEST(Together, APreloadedFlavourServesThem) {
    ExpectServed("./libhakmem_classic.so", "hakmem_classic");
    ExpectServed("./libhakmem_c23_header.so", "hakmem_c23_header");
    ExpectServed("./libhakmem_c23.so", "hakmem_c23");
}

TEST(Together, APreloadedCompatLibraryServesThem) {
    ExpectServed("./compat/hakmem_classic/libtcmalloc_minimal.so.4", "hakmem_classic");
    ExpectServed("./libhakmem_c23_debug.so:./compat/hakmem_classic/libjemalloc.so.2",
                 "hakmem_c23_debug");
}

TEST(Together, AnotherMallocServesThem) {
    shell::Outcome answer = RunTogether("./fronts/compat/libother_malloc.so", "none");
    EXPECT_EQ(answer.ending, "exit 0") << answer.text;
}

} // namespace
