// SPDX-License-Identifier: Apache-2.0
// glibc's second set of names, __libc_malloc and so on, with a flavour preloaded, and with its
// archive in a dynamic, a static and a static PIE program; and the same with libc's own malloc.
#include <string>

#include "fronts/libc/shell.h"
#include "gtest/gtest.h"

namespace {

// The program's output and exit status.
std::string Said(const std::string &command) {
    shell::Outcome outcome = shell::Run(command);
    return outcome.text + outcome.ending;
}

constexpr char kProgram[] = "fronts/libc/libc_family_program";

TEST(LibcFamily, SystemsOwn) {
    EXPECT_EQ(Said(kProgram), "system: 0 failed\nexit 0");
}

class LibcFamilyTest : public testing::TestWithParam<const char *> {};

INSTANTIATE_TEST_SUITE_P(Flavours, LibcFamilyTest,
                         testing::Values("hakmem_c23", "hakmem_c23_header", "hakmem_classic",
                                         "hakmem_c23_debug", "hakmem_hardened"),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param);
                         });

TEST_P(LibcFamilyTest, Preloaded) {
    std::string flavour = GetParam();
    EXPECT_EQ(Said("LD_PRELOAD=./lib" + flavour + ".so " + kProgram),
              flavour + ": 0 failed\nexit 0");
}

TEST_P(LibcFamilyTest, LinkedAsAnArchive) {
    std::string flavour = GetParam();
    for (const char *how : {"_dynamic_", "_static_", "_static_pie_"}) {
        EXPECT_EQ(Said(kProgram + std::string(how) + flavour), flavour + ": 0 failed\nexit 0")
            << how;
    }
}

} // namespace
