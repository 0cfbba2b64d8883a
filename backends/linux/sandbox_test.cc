// SPDX-License-Identifier: Apache-2.0
#include "backends/linux/sandbox.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace {

std::string Status(const std::string &mode, const std::string &filters) {
    std::string text = "Name:\tx\nNoNewPrivs:\t0\n";
    text += mode.empty() ? "" : "Seccomp:\t" + mode + "\n";
    text += filters.empty() ? "" : "Seccomp_filters:\t" + filters + "\n";
    return text + "Speculation_Store_Bypass:\tvulnerable\n";
}

// Returns the kind of sandbox that is known after a start with these texts. Runs in a child,
// because the kind never falls.
sandbox Known(sandbox_how how, const std::string &own, const std::string &init) {
    pid_t child = fork();
    if (child == 0) {
        sandbox_start(how, {own.data(), own.size()}, {init.data(), init.size()});
        _exit(sandbox_now());
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    return static_cast<sandbox>(WEXITSTATUS(status));
}

TEST(Sandbox, IsReadInTheStatus) {
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, Status("0", "0"), ""), SANDBOX_NONE);
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, Status("2", "1"), ""), SANDBOX_INHERITED);
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, Status("2", ""), ""), SANDBOX_INHERITED);
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, Status("", ""), ""), SANDBOX_NONE)
        << "a kernel without filters";
}

TEST(Sandbox, IsAssumedWhereTheStatusCannotBeReadOrDoesNotEnd) {
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, "", ""), SANDBOX_INHERITED);
    std::string names(SANDBOX_STATUS, 'n');
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, names, ""), SANDBOX_INHERITED);
}

TEST(Sandbox, OfAContainerDoesNotCount) {
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, Status("2", "1"), Status("2", "1")), SANDBOX_NONE);
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, Status("2", "12"), Status("2", "12")), SANDBOX_NONE);
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, Status("2", "2"), Status("2", "1")), SANDBOX_INHERITED)
        << "one filter more than the container has";
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, Status("2", "1"), Status("0", "0")), SANDBOX_INHERITED);
    EXPECT_EQ(Known(SANDBOX_FIND_OUT, Status("2", ""), Status("2", "")), SANDBOX_INHERITED)
        << "a kernel that does not count filters";
}

TEST(Sandbox, IsAsTheSettingSays) {
    EXPECT_EQ(Known(SANDBOX_IGNORE, Status("2", "1"), ""), SANDBOX_NONE);
    EXPECT_EQ(Known(SANDBOX_ASSUME, Status("0", "0"), ""), SANDBOX_OWN);
}

} // namespace
