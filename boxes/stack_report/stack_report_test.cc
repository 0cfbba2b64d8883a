// SPDX-License-Identifier: Apache-2.0
#include "boxes/stack_report/stack_report.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fcntl.h>
#include <thread>
#include <unistd.h>

namespace {

// A guarded block's calls are those of another allocation as soon as another thread gets its slot.
TEST(StackReport, AStackMayChangeWhileItIsShown) {
    constexpr unsigned kDepth = 32;
    constexpr int kTimes = 1000;
    auto show = [] {
        static uintptr_t pcs[kDepth];
        static stack_report report; // without names
        dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        std::atomic<bool> done{false};
        std::thread other([&done] {
            for (uintptr_t value = 1; !done; value++) {
                for (uintptr_t &pc : pcs) {
                    __atomic_store_n(&pc, value * 64, __ATOMIC_RELAXED);
                }
            }
        });
        for (int i = 0; i < kTimes; i++) {
            stack_report_stack(&report, pcs, kDepth, false);
        }
        done = true;
        other.join();
        _exit(0);
    };
    EXPECT_EXIT(show(), testing::ExitedWithCode(0), "");
}

} // namespace
