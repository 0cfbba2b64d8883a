// SPDX-License-Identifier: Apache-2.0
#include "boxes/hardening/hardening.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstring>

namespace {

constexpr size_t kBlocks = 2; // the block that is written, and its neighbour above

struct alignas(HAK_PAGE) Slab {
    unsigned char bytes[SIZE_CLASS_SLAB];
};

// A bin whose first two blocks lie on one page, and a pointer to each.
class HardeningTest : public testing::TestWithParam<size_t> {
  protected:
    void SetUp() override {
        hardening_prepare();
        bin_ = size_class_bin_of(GetParam());
        bytes_ = size_class_bins[bin_].size;
        ASSERT_LE(bytes_ * kBlocks, HAK_PAGE);
        lower_ = slab_.bytes;
        upper_ = slab_.bytes + bytes_;
    }

    size_t most() const { return bytes_ - sizeof(hardening_word); }

    static Slab slab_;
    unsigned bin_ = 0;
    size_t bytes_ = 0;
    void *lower_ = nullptr;
    void *upper_ = nullptr;
};
alignas(SIZE_CLASS_SLAB) Slab HardeningTest::slab_;

TEST_P(HardeningTest, ATagHasTheUsersBytes) {
    for (size_t size = 1; size <= most(); size++) {
        std::memset(lower_, 0, bytes_);
        hardening_issue(bin_, lower_, size);
        size_t found = 0;
        ASSERT_TRUE(hardening_intact(bin_, lower_, &found)) << size;
        EXPECT_EQ(found, size);
        hardening_set(bin_, lower_, most() + 1 - size);
        ASSERT_TRUE(hardening_intact(bin_, lower_, &found)) << size;
        EXPECT_EQ(found, most() + 1 - size);
    }
}

TEST_P(HardeningTest, AWriteOfOneByteIsSeen) {
    for (size_t size = 1; size <= most(); size++) {
        for (size_t at = size; at < std::min(size + 8, bytes_); at++) {
            hardening_set(bin_, lower_, size);
            static_cast<unsigned char *>(lower_)[at] ^= 0x40;
            size_t found = 0;
            EXPECT_FALSE(hardening_intact(bin_, lower_, &found)) << size << " at " << at;
        }
    }
}

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)

// The block that the handler of SIGTRAP looks at before each instruction of the stopped thread.
unsigned watched_bin;
const void *watched_above;
volatile size_t steps, torn;

void look(int /*signal*/) {
    steps = steps + 1;
    if (!hardening_intact_below(watched_bin, watched_above)) {
        torn = torn + 1;
    }
}

// The assembly leaves the 128 bytes below the stack pointer alone, which the compiler may use.
constexpr uint64_t kTrapFlag = 0x100;
void set_trap_flag(bool on) {
    if (on) {
        asm volatile("leaq -128(%%rsp), %%rsp; pushfq; orq %0, (%%rsp); popfq; "
                     "leaq 128(%%rsp), %%rsp"
                     :
                     : "r"(kTrapFlag)
                     : "memory", "cc");
    } else {
        asm volatile("leaq -128(%%rsp), %%rsp; pushfq; andq %0, (%%rsp); popfq; "
                     "leaq 128(%%rsp), %%rsp"
                     :
                     : "r"(~kTrapFlag)
                     : "memory", "cc");
    }
}

// While a thread is stopped in the middle of malloc or realloc, another one can free the block
// above.
TEST_P(HardeningTest, NoStepOfAnOwnerLooksLikeDamageToTheNeighbour) {
    struct sigaction action = {}, before = {};
    action.sa_handler = look;
    ASSERT_EQ(sigaction(SIGTRAP, &action, &before), 0);
    watched_bin = bin_;
    watched_above = upper_;
    steps = torn = 0;
    for (size_t size = most() - std::min<size_t>(most() - 1, 20); size <= most(); size++) {
        std::memset(lower_, 0, bytes_);
        set_trap_flag(true);
        hardening_issue(bin_, lower_, size);
        hardening_set(bin_, lower_, most() + 1 - size);
        hardening_set(bin_, lower_, size);
        hardening_bury(bin_, lower_);
        set_trap_flag(false);
        EXPECT_EQ(torn, 0u) << "a block of " << bytes_ << " for " << size;
    }
    EXPECT_GT(steps, 20u);
    ASSERT_EQ(sigaction(SIGTRAP, &before, nullptr), 0);
}

#endif

INSTANTIATE_TEST_SUITE_P(SizeClasses, HardeningTest, testing::Values(1, 24, 40, 56, 100, 248, 1000),
                         testing::PrintToStringParamName());

} // namespace
