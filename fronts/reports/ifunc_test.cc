// SPDX-License-Identifier: Apache-2.0
// IFUNC resolvers that allocate: the dynamic linker calls them while it relocates, and with
// LD_BIND_NOW before a preloaded allocator is relocated itself.
#include <stdlib.h>

#include <string>

#include "fronts/reports/reports.h"
#include "gtest/gtest.h"

namespace {

using reports::Outcome;
using reports::Shell;

class IfuncTest : public testing::TestWithParam<const char *> {};

INSTANTIATE_TEST_SUITE_P(Programs, IfuncTest,
                         testing::Values("ifunc_program", "ifunc_program_no_pie"),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param);
                         });

// What the programs do is right by what libc's malloc does.
TEST_P(IfuncTest, RunsOnTheSystemsMalloc) {
    EXPECT_EQ(Shell(reports::Path(GetParam())), Outcome("exit 0", ""));
    EXPECT_EQ(Shell("LD_BIND_NOW=1 " + reports::Path(GetParam())), Outcome("exit 0", ""));
}

TEST_P(IfuncTest, RunsWithTheLibraryPreloaded) {
    const std::string preload = "LD_PRELOAD=" + reports::Library() + " ";
    EXPECT_EQ(Shell(preload + reports::Path(GetParam())), Outcome("exit 0", ""));
    EXPECT_EQ(Shell("LD_BIND_NOW=1 " + preload + reports::Path(GetParam())), Outcome("exit 0", ""));
}

TEST_P(IfuncTest, RunsWithTheLibraryLinked) {
    const std::string program = reports::Path(GetParam()) + "_" HAK_FLAVOUR;
    EXPECT_EQ(Shell(program), Outcome("exit 0", ""));
    EXPECT_EQ(Shell("LD_BIND_NOW=1 " + program), Outcome("exit 0", ""));
}

} // namespace
