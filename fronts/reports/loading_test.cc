// SPDX-License-Identifier: Apache-2.0
// Libraries that a program opens: with RTLD_DEEPBIND (PHP's extensions, ldb's modules, Samba,
// sssd), in other namespaces, by the handle of libc itself (ctypes and its like), before the
// allocator's constructor has run, with a tracer in front.
#include <string>

#include "fronts/reports/reports.h"
#include "gtest/gtest.h"

namespace {

using reports::Outcome;
using reports::Shell;

const Outcome kFine("exit 0", "");

std::string Command(const std::string &program, const std::string &way) {
    return reports::Path(program) + " " + way + " " + reports::Path("libloading_plugin.so") + " " +
           reports::Path("libloading_plugin_cxx.so");
}

// "early" asks for it: the library's constructor opens the plug-in then.
std::string Environment(const std::string &way) {
    return way == "early" ? "LOADING_PLUGIN=" + reports::Path("libloading_plugin.so") + " " : "";
}

class LoadingTest : public testing::TestWithParam<const char *> {};

INSTANTIATE_TEST_SUITE_P(Ways, LoadingTest,
                         testing::Values("deep", "local", "namespace_base", "namespace_new",
                                         "handle", "next", "origin", "early", "threads", "refused"),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param);
                         });

// What the program checks is so with libc's malloc.
TEST_P(LoadingTest, IsFineOnTheSystemsMalloc) {
    EXPECT_EQ(Shell(Environment(GetParam()) + Command("loading_program", GetParam())), kFine);
}

TEST_P(LoadingTest, IsFineWithTheLibraryPreloaded) {
    const std::string preload = "LD_PRELOAD=" + reports::Library() + " ";
    const std::string command =
        preload + Environment(GetParam()) + Command("loading_program", GetParam());
    EXPECT_EQ(Shell(command), kFine);
    EXPECT_EQ(Shell("LD_BIND_NOW=1 " + command), kFine);
}

TEST_P(LoadingTest, IsFineWithATracerInFront) {
    EXPECT_EQ(Shell("LD_PRELOAD=" + reports::Path("libloading_tracer.so") + ":" +
                    reports::Library() + " " + Environment(GetParam()) +
                    Command("loading_program", GetParam())),
              kFine);
}

TEST_P(LoadingTest, IsFineWithTheLibraryLinked) {
    const std::string way = GetParam();
    if (way == "early") {
        GTEST_SKIP() << "the constructors of libraries come before those of the program";
    }
    if (way == "refused") {
        GTEST_SKIP() << "there it is done before the program can refuse it";
    }
    EXPECT_EQ(Shell(Command("loading_program_" HAK_FLAVOUR, way)), kFine);
}

TEST(LoadingSettingTest, LeavesLibcAlone) {
    const std::string preload = "LD_PRELOAD=" + reports::Library() + " ";
    const std::string command = Command("loading_program", "same");
    EXPECT_EQ(Shell(preload + command), Outcome("exit 0", "same\n"));
    EXPECT_EQ(Shell("HAKMEM_DEEPBIND=1 " + preload + command), Outcome("exit 0", "same\n"));
    EXPECT_EQ(Shell("HAKMEM_DEEPBIND=0 " + preload + command), Outcome("exit 0", "another\n"));
    const std::string linked = Command("loading_program_" HAK_FLAVOUR, "same");
    EXPECT_EQ(Shell(linked), Outcome("exit 0", "same\n"));
    EXPECT_EQ(Shell("HAKMEM_DEEPBIND=0 " + linked), Outcome("exit 0", "another\n"));
}

} // namespace
