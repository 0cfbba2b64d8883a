// SPDX-License-Identifier: Apache-2.0
// Programs under tools that watch malloc or take its place, with this library preloaded: the
// program says what it says without, and the tool finds what it finds without.
#include <stdlib.h>
#include <unistd.h>

#include <string>

#include "fronts/reports/reports.h"
#include "gtest/gtest.h"

namespace {

using reports::Outcome;
using reports::Shell;
using reports::ShellPreloaded;

const Outcome kFine("exit 0", "watched\n");

bool Has(const std::string &tool) {
    return Shell("which " + tool).first == "exit 0";
}

// --- Sanitizers. Their runtime has a malloc of its own and has to be the first library, as the
// runtime itself demands of a program that preloads any; UBSan has no malloc.

class SanitizerTest : public testing::TestWithParam<const char *> {
  protected:
    std::string Program() const { return reports::Path("tool_program_") + GetParam(); }
    // LD_PRELOAD=runtime:library
    std::string Behind() const {
        const std::string libraries = Shell("ldd " + Program()).second;
        for (const char *runtime : {"libasan.so", "libtsan.so", "libubsan.so"}) {
            const size_t at = libraries.find(runtime);
            if (at != std::string::npos) {
                const size_t path = libraries.find("=> ", at) + 3;
                return "LD_PRELOAD=" + libraries.substr(path, libraries.find(' ', path) - path) +
                       ":" + reports::Library() + " ";
            }
        }
        return "";
    }
};

INSTANTIATE_TEST_SUITE_P(Sanitizers, SanitizerTest,
                         testing::Values("address", "thread", "undefined"),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param);
                         });

TEST_P(SanitizerTest, WorksInFrontOfTheLibrary) {
    // Where ThreadSanitizer cannot live with the kernel's placing of mappings it says so.
    const Outcome system = Shell(Program());
    if (system != kFine && std::string(GetParam()) == "thread") {
        GTEST_SKIP() << system.second;
    }
    ASSERT_EQ(system, kFine);
    ASSERT_NE(Behind(), "");
    EXPECT_EQ(Shell(Behind() + Program()), kFine);
}

TEST_P(SanitizerTest, FindsWhatItFindsWithout) {
    if (std::string(GetParam()) == "address") {
        const Outcome outcome = Shell(Behind() + Program() + " overflow");
        EXPECT_EQ(outcome.first, "exit 1");
        EXPECT_NE(outcome.second.find("heap-buffer-overflow"), std::string::npos) << outcome.second;
    }
}

TEST(UndefinedTest, WorksBehindTheLibrary) {
    EXPECT_EQ(ShellPreloaded(reports::Path("tool_program_undefined")), kFine);
}

// --- Valgrind

class ValgrindTest : public testing::TestWithParam<const char *> {};

INSTANTIATE_TEST_SUITE_P(Tools, ValgrindTest,
                         testing::Values("memcheck", "helgrind", "drd", "massif", "callgrind"),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param);
                         });

TEST_P(ValgrindTest, WorksWithTheLibrary) {
    if (!Has("valgrind")) {
        GTEST_SKIP() << "no valgrind";
    }
    const std::string tool = GetParam();
    std::string options = "valgrind -q --error-exitcode=9 --tool=" + tool;
    if (tool == "massif" || tool == "callgrind") {
        options += " --" + tool + "-out-file=/dev/null";
    }
    EXPECT_EQ(ShellPreloaded(options + " " + reports::Path("tool_program")), kFine);
}

TEST(MemcheckTest, FindsAnOverflow) {
    if (!Has("valgrind")) {
        GTEST_SKIP() << "no valgrind";
    }
    const Outcome outcome = ShellPreloaded("valgrind -q --error-exitcode=9 " +
                                           reports::Path("tool_program") + " overflow");
    EXPECT_EQ(outcome.first, "exit 9");
    EXPECT_NE(outcome.second.find("0 bytes after a block of size 10"), std::string::npos)
        << outcome.second;
}

// --- Tools that trace

TEST(TracersTest, HeaptrackSeesTheCalls) {
    if (!Has("heaptrack")) {
        GTEST_SKIP() << "no heaptrack";
    }
    std::string folder = "/tmp/heaptrack.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    const Outcome outcome =
        ShellPreloaded("heaptrack -o " + folder + "/out " + reports::Path("tool_program"));
    EXPECT_EQ(outcome.first, "exit 0") << outcome.second;
    EXPECT_NE(outcome.second.find("watched\n"), std::string::npos) << outcome.second;
    const std::string seen = Shell("heaptrack_print " + folder + "/out.zst").second;
    const size_t at = seen.find("calls to allocation functions: ");
    ASSERT_NE(at, std::string::npos) << seen;
    EXPECT_GT(atoi(seen.c_str() + at + 31), 10000);
    Shell("rm -r " + folder);
}

TEST(TracersTest, StraceAndGdbWork) {
    if (Has("strace")) {
        const Outcome outcome =
            ShellPreloaded("strace -f -o /dev/null " + reports::Path("tool_program"));
        if (outcome.second.find("ptrace") == std::string::npos) { // not permitted everywhere
            EXPECT_EQ(outcome, kFine);
        }
    }
    if (Has("gdb")) {
        const Outcome outcome =
            ShellPreloaded("gdb -nx -q -batch -ex run " + reports::Path("tool_program"));
        if (outcome.second.find("ptrace") == std::string::npos) {
            EXPECT_NE(outcome.second.find("exited normally"), std::string::npos) << outcome.second;
        }
    }
}

} // namespace
