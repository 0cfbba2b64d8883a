// SPDX-License-Identifier: Apache-2.0
// A small C program lives under a limit on data or locked memory as it does on the system's malloc.
//
// The program is linked with the flavour, and without the C++ library: all mappings are its own,
// the C library's or the allocator's.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

constexpr int kSkipped = 77;

// Runs the program with a limit that is there from the start; returns its exit status, -1 for a
// signal.
int RunProgram(std::vector<std::string> arguments, int resource = -1, size_t limit = 0) {
    std::string program = "fronts/libc/limits_program_" HAK_FLAVOUR;
    std::vector<char *> argv = {program.data()};
    for (std::string &argument : arguments) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (resource >= 0) {
            struct rlimit rlimit = {limit, limit};
            setrlimit(static_cast<decltype(RLIMIT_AS)>(resource), &rlimit);
        }
        execv(argv[0], argv.data());
        _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void ExpectGood(int status) {
    if (status == kSkipped) {
        GTEST_SKIP() << "not as this user";
    }
    EXPECT_EQ(status, 0);
}

constexpr size_t kMiB = size_t{1} << 20;

// Most systems have 8 MiB.
TEST(LimitsProgram, MemoryIsLockedAsItIsMapped) {
    for (size_t limit : {8 * kMiB, 4 * kMiB, 2 * kMiB}) {
        SCOPED_TRACE(limit);
        ExpectGood(RunProgram({"future", std::to_string(limit)}));
    }
}

// The kernel compares the limit with all that is mapped, reservations included.
TEST(LimitsProgram, WhatIsMappedCanBeLocked) {
    for (size_t limit : {8 * kMiB, 6 * kMiB}) {
        SCOPED_TRACE(limit);
        ExpectGood(RunProgram({"current", std::to_string(limit)}));
    }
}

TEST(LimitsProgram, TheFirstBlockLocksLittle) {
    ExpectGood(RunProgram({"little"}));
}

bool IsFlavour(const char *part) {
    return std::string(HAK_FLAVOUR).find(part) != std::string::npos;
}

class LimitsProgramData : public testing::TestWithParam<size_t> {};

INSTANTIATE_TEST_SUITE_P(KiB, LimitsProgramData,
                         testing::Values(1000, 2000, 4000, 8000, 12000, 16000, 24000, 29000, 30000,
                                         31000, 48000, 64000, 100000));

TEST_P(LimitsProgramData, IsEnough) {
    if (IsFlavour("hardened") && GetParam() < 2000) { // its slabs serve one bin for good
        GTEST_SKIP();
    }
    EXPECT_EQ(RunProgram({"work"}, RLIMIT_DATA, GetParam() << 10), 0);
    EXPECT_EQ(RunProgram({"fork"}, RLIMIT_DATA, GetParam() << 10), 0);
}

TEST(LimitsProgram, LittleAddressSpaceIsEnough) {
    // The program and the C library take 3 MiB.
    for (size_t limit : {8 * kMiB, 16 * kMiB, 32 * kMiB, 64 * kMiB}) {
        SCOPED_TRACE(limit);
        EXPECT_EQ(RunProgram({"work"}, RLIMIT_AS, limit), 0);
        EXPECT_EQ(RunProgram({"fork"}, RLIMIT_AS, limit), 0);
    }
}

TEST(LimitsProgram, ALimitMayChange) {
    EXPECT_EQ(RunProgram({"changed-data"}), 0);
    EXPECT_EQ(RunProgram({"changed-addresses"}), 0);
}

// With headers the heap keeps its addresses.
TEST(LimitsProgram, AfterAPeakTheProgramHasRoomForItsOwnMappings) {
    if (IsFlavour("header")) {
        GTEST_SKIP();
    }
    for (size_t size : {3000, 65000}) {
        EXPECT_EQ(RunProgram({"peak-data", std::to_string(size)}), 0);
        EXPECT_EQ(RunProgram({"peak-addresses", std::to_string(size)}), 0);
    }
}

// libc's own malloc leaves room for 13 and 29 such threads, and for two more of each with data.
TEST(LimitsProgram, LittleStaysWithTheHeapWhereLittleMayBeHad) {
    if (IsFlavour("header")) { // as above
        GTEST_SKIP();
    }
    EXPECT_EQ(RunProgram({"stacks-addresses", std::to_string(16 * kMiB), "9"}), 0);
    EXPECT_EQ(RunProgram({"stacks-addresses", std::to_string(32 * kMiB), "22"}), 0);
    EXPECT_EQ(RunProgram({"stacks-data", std::to_string(16 * kMiB), "11"}), 0);
    EXPECT_EQ(RunProgram({"stacks-data", std::to_string(32 * kMiB), "25"}), 0);
}

TEST(LimitsProgram, ThreadsShareWhatTheLimitLeaves) {
    for (size_t limit : {6 * kMiB, 12 * kMiB}) { // below which slabs have as few pages as will do
        SCOPED_TRACE(limit);
        ExpectGood(RunProgram({"threads-data"}, RLIMIT_DATA, limit));
    }
    ExpectGood(RunProgram({"threads-data"}));
    ExpectGood(RunProgram({"threads-addresses"}));
}

} // namespace
