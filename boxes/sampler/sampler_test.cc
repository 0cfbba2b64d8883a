// SPDX-License-Identifier: Apache-2.0
#include "boxes/sampler/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fenv.h>

namespace {

double weight(size_t size, uint64_t rate) {
    return static_cast<double>(sampler_weight(size, rate)) / (1 << SAMPLER_FRACTION);
}

TEST(Sampler, WeightIsTheReciprocalOfTheProbability) {
    for (uint64_t rate : {2ull, 100ull, 4096ull, 524288ull, 1ull << 30, 1ull << 40}) {
        for (size_t size = 0; size < size_t{1} << 44; size = size * 3 / 2 + 1) {
            double p = -std::expm1(-static_cast<double>(size | 1) / static_cast<double>(rate));
            EXPECT_NEAR(weight(size, rate) * p, 1, 1.6e-5) << size << " at " << rate;
        }
    }
}

TEST(Sampler, AtTheRateOneEveryBlockIsSampledAndStandsForItself) {
    sampler_start(1);
    for (size_t size : {0, 1, 16, 100000}) {
        EXPECT_TRUE(sampler_counts(size) && sampler_decides(size));
        EXPECT_EQ(sampler_weight(size, 1), uint64_t{1} << SAMPLER_FRACTION);
    }
    sampler_start(0);
}

TEST(Sampler, OffNothingIsSampledAndAskedNextToNever) {
    sampler_start(0);
    int asked = 0;
    for (int i = 0; i < 1000000; i++) {
        if (sampler_counts(16)) {
            asked++;
            EXPECT_FALSE(sampler_decides(16));
        }
    }
    EXPECT_LT(asked, 30);
}

// The sums of weights against the truth, within five standard deviations: the variance of a sum of
// n independent blocks is n (1 - p) / p.
TEST(Sampler, SumsOfWeightsAreUnbiased) {
    constexpr uint64_t kRate = 8192;
    constexpr int kBlocks = 500000;
    for (size_t size : {size_t{0}, size_t{16}, size_t{1000}, size_t{8191}, size_t{40000}}) {
        sampler_start(kRate);
        sampler_seed(42 + size);
        double sum = 0;
        for (int i = 0; i < kBlocks; i++) {
            if (sampler_counts(size) && sampler_decides(size)) {
                sum += weight(size, kRate);
            }
        }
        double p = -std::expm1(-static_cast<double>(size | 1) / kRate);
        EXPECT_NEAR(sum, kBlocks, 5 * std::sqrt(kBlocks * (1 - p) / p) + 40) << size;
    }
    sampler_start(0);
}

// Also where sizes take turns: a block's chance depends on its own size only.
TEST(Sampler, SizesThatTakeTurnsAreEachUnbiased) {
    constexpr uint64_t kRate = 4096;
    constexpr int kBlocks = 300000;
    const size_t sizes[] = {24, 5000, 200};
    double sums[3] = {};
    sampler_start(kRate);
    sampler_seed(7);
    for (int i = 0; i < kBlocks; i++) {
        for (int j = 0; j < 3; j++) {
            if (sampler_counts(sizes[j]) && sampler_decides(sizes[j])) {
                sums[j] += weight(sizes[j], kRate);
            }
        }
    }
    for (int j = 0; j < 3; j++) {
        double p = -std::expm1(-static_cast<double>(sizes[j] | 1) / kRate);
        EXPECT_NEAR(sums[j], kBlocks, 5 * std::sqrt(kBlocks * (1 - p) / p) + 20) << sizes[j];
    }
    sampler_start(0);
}

TEST(Sampler, WorksWhereFloatingPointExceptionsTrap) {
    feenableexcept(FE_ALL_EXCEPT);
    sampler_start(5000);
    int sampled = 0;
    for (int i = 0; i < 1000; i++) {
        sampled += sampler_counts(777) && sampler_decides(777);
        sampler_weight(static_cast<size_t>(i) * 31, 5000);
    }
    fedisableexcept(FE_ALL_EXCEPT);
    EXPECT_GT(sampled, 0);
    sampler_start(0);
}

} // namespace
