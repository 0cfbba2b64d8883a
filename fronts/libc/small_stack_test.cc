// SPDX-License-Identifier: Apache-2.0
// No entry point takes more than 1 KiB more stack than libc's own, in any state of the heap, and
// all of them work on the smallest stacks that there are.
#include <map>
#include <sstream>
#include <string>

#include "fronts/libc/shell.h"
#include "gtest/gtest.h"

namespace {

constexpr char kProgram[] = "fronts/libc/small_stack_program";

// Runs the program with these arguments and variables. Returns its output, with the exit status at
// the end.
std::string Said(const std::string &variables, const std::string &arguments) {
    shell::Outcome outcome =
        shell::Run("env " + variables + " " + kProgram + " " + arguments + "; echo exit $?");
    return outcome.ending == "exit 0" ? outcome.text : "not run";
}

// The call's name -> the most bytes of stack that it took.
std::map<std::string, size_t> Depths(const std::string &variables) {
    std::istringstream lines(Said(variables, "measure"));
    std::map<std::string, size_t> depths;
    std::string name;
    size_t depth;
    while (lines >> name >> depth) {
        depths[name] = depth;
    }
    EXPECT_EQ(depths["exit"], 0u) << variables;
    depths.erase("exit");
    EXPECT_EQ(depths.size(), 11u) << variables;
    return depths;
}

class SmallStackTest : public testing::TestWithParam<const char *> {
  protected:
    static std::string Preload() { return std::string("LD_PRELOAD=./lib") + GetParam() + ".so"; }
};

INSTANTIATE_TEST_SUITE_P(Flavours, SmallStackTest, testing::Values(HAK_FLAVOURS),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param);
                         });

TEST_P(SmallStackTest, TakesAtMostAKibibyteMoreThanTheSystems) {
    static std::map<std::string, size_t> system = Depths("");
    for (const char *setting : {"HAKMEM_DECAY_MS=2", "HAKMEM_DECAY_MS=0", "HAKMEM_LIMIT=2G",
                                "HAKMEM_TINY_FRONT_C23_SIMPLE=0"}) {
        auto depths = Depths(Preload() + " " + setting);
        for (const auto &[name, depth] : system) {
            EXPECT_LE(depths[name], depth + 1024) << name << " with " << setting;
            printf("%-20s %-32s %5zu bytes of stack, libc's own %5zu\n", name.c_str(), setting,
                   depths[name], depth);
        }
    }
}

constexpr const char *kCalls[] = {"malloc",    "free",        "realloc",
                                  "calloc",    "malloc_trim", "posix_memalign",
                                  "mallinfo2", "malloc_info", "malloc_stats"};

TEST_P(SmallStackTest, FitsOnAThreadOf16KiB) {
    for (const char *call : kCalls) {
        std::string arguments = std::string("thread ") + call;
        EXPECT_EQ(Said("", arguments), "exit 0\n") << "libc's own " << call;
        EXPECT_EQ(Said(Preload(), arguments), "exit 0\n") << call;
    }
}

TEST_P(SmallStackTest, FitsOnASignalStackOf4KiB) {
    for (const char *call : {"malloc", "free", "realloc", "calloc"}) {
        std::string arguments = std::string("signal ") + call;
        EXPECT_EQ(Said("", arguments), "exit 0\n") << "libc's own " << call;
        for (const char *setting : {"HAKMEM_DECAY_MS=500", "HAKMEM_DECAY_MS=0"}) {
            EXPECT_EQ(Said(Preload() + " " + setting, arguments), "exit 0\n")
                << call << " with " << setting;
        }
    }
}

// The least first stack, in KiB, with which a program starts; 64 if with none below that.
int LeastFirstStack(const std::string &library) {
    int kib = 4;
    while (kib < 64 &&
           Said("", "start " + std::to_string(kib) + " '" + library + "'") != "exit 0\n") {
        kib += 4;
    }
    return kib;
}

TEST_P(SmallStackTest, StartsWithAFirstStackOfOnePageMoreThanTheSystems) {
    int system = LeastFirstStack("");
    ASSERT_LT(system, 64);
    EXPECT_LE(LeastFirstStack(std::string("./lib") + GetParam() + ".so"), system + 4);
}

} // namespace
