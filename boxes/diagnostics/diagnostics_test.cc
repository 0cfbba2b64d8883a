// SPDX-License-Identifier: Apache-2.0
#include "boxes/diagnostics/diagnostics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

using testing::Eq;
using testing::ExitedWithCode;
using testing::KilledBySignal;

const void *pointer(uintptr_t value) {
    return reinterpret_cast<const void *>(value);
}

TEST(DiagnosticsDeathTest, MisuseIsOneLineAndAbort) {
    EXPECT_EXIT(diag_misuse("free", pointer(0x7f12ab00), "block freed twice"),
                KilledBySignal(SIGABRT), Eq("hakmem: free(0x7f12ab00): block freed twice\n"));
    EXPECT_EXIT(diag_misuse("realloc", nullptr, "x"), KilledBySignal(SIGABRT),
                Eq("hakmem: realloc(0x0): x\n"));
    EXPECT_EXIT(diag_misuse("free", pointer(UINTPTR_MAX), "x"), KilledBySignal(SIGABRT),
                Eq("hakmem: free(0xffffffffffffffff): x\n"));
    EXPECT_EXIT(diag_misuse("free", pointer(0x1000000000000000), "x"), KilledBySignal(SIGABRT),
                Eq("hakmem: free(0x1000000000000000): x\n"));
}

TEST(DiagnosticsDeathTest, BrokenInvariantIsOneLineAndAbort) {
    EXPECT_EXIT(diag_broken("some_function", "a == b"), KilledBySignal(SIGABRT),
                Eq("hakmem: broken invariant in some_function: a == b\n"));
}

TEST(DiagnosticsDeathTest, OfManyThreadsOneSpeaks) {
    auto misuse_together = [] {
        std::atomic<int> waiting{0};
        std::vector<std::thread> threads;
        for (uintptr_t i = 1; i <= 8; i++) {
            threads.emplace_back([&waiting, i] {
                waiting++;
                while (waiting < 8) {
                }
                diag_misuse("free", pointer(i), "x");
            });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
    };
    for (int i = 0; i < 20; i++) {
        EXPECT_EXIT(misuse_together(), KilledBySignal(SIGABRT),
                    testing::MatchesRegex("hakmem: free\\(0x[1-8]\\): x\n"));
    }
}

TEST(DiagnosticsDeathTest, WhoIsNotTheFirstSpeaksWhereTheFirstLivesOn) {
    static std::atomic<bool> survived{false};
    auto survive_and_misuse = [] {
        signal(SIGABRT, [](int) {
            survived = true;
            for (;;) {
                pause();
            }
        });
        std::thread([] { diag_misuse("free", pointer(1), "x"); }).detach();
        while (!survived) {
            usleep(1000);
        }
        signal(SIGABRT, SIG_DFL);
        diag_misuse("free", pointer(2), "x");
    };
    EXPECT_EXIT(survive_and_misuse(), KilledBySignal(SIGABRT),
                Eq("hakmem: free(0x1): x\nhakmem: free(0x2): x\n"));
}

TEST(DiagnosticsDeathTest, OverlongLineIsCutAndStillEnds) {
    std::string fault(300, 'f');
    std::string line = "hakmem: free(0x10): " + fault;
    EXPECT_EXIT(diag_misuse("free", pointer(16), fault.c_str()), KilledBySignal(SIGABRT),
                Eq(line.substr(0, 255) + "\n"));
}

std::string warning(const char *name, const char *value, const char *what) {
    testing::internal::CaptureStderr();
    diag_warn_setting(name, value, what);
    return testing::internal::GetCapturedStderr();
}

TEST(Diagnostics, WarningIsOneLineAndLeavesErrno) {
    errno = EDOM;
    EXPECT_EQ(warning("HAKMEM_X", "abc", "not a number"),
              "hakmem: warning: HAKMEM_X=abc: not a number\n");
    EXPECT_EQ(errno, EDOM);
    EXPECT_EQ(warning("HAKMEM_X", "", "empty"), "hakmem: warning: HAKMEM_X=: empty\n");
}

TEST(Diagnostics, WarningCutsTheValueAt64Characters) {
    std::string value(64, 'v');
    EXPECT_EQ(warning("N", value.c_str(), "w"), "hakmem: warning: N=" + value + ": w\n");
    EXPECT_EQ(warning("N", (value + "v").c_str(), "w"), "hakmem: warning: N=" + value + ": w\n");
}

TEST(DiagnosticsDeathTest, AssertIsOfTheDebugFlavourOnly) {
    int evaluated = 0;
    auto assert_that = [&](bool value) { DIAG_ASSERT((++evaluated, value)); };
    assert_that(true);
#if HAK_DEBUG
    EXPECT_EQ(evaluated, 1);
    EXPECT_EXIT(assert_that(false), KilledBySignal(SIGABRT),
                Eq("hakmem: broken invariant in operator(): (++evaluated, value)\n"));
#else
    assert_that(false);
    EXPECT_EQ(evaluated, 0);
#endif
}

} // namespace
