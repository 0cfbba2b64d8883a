// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/sample.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>

namespace bench {

double minimum(const Sample &sample) {
    return *std::min_element(sample.begin(), sample.end());
}

double quantile(Sample sample, double q) {
    std::sort(sample.begin(), sample.end());
    const double at = q * static_cast<double>(sample.size() - 1);
    const auto below = static_cast<size_t>(at);
    const size_t above = std::min(below + 1, sample.size() - 1);
    return sample[below] + (sample[above] - sample[below]) * (at - static_cast<double>(below));
}

double median(const Sample &sample) {
    return quantile(sample, 0.5);
}

double geomean(const Sample &sample) {
    double sum = 0;
    for (const double value : sample) {
        sum += std::log(value);
    }
    return std::exp(sum / static_cast<double>(sample.size()));
}

double spread(const Sample &sample) {
    const double middle = median(sample);
    return middle == 0 ? 0 : (quantile(sample, 0.75) - quantile(sample, 0.25)) / middle;
}

double summarize(const Sample &sample, Statistic statistic) {
    return statistic == Statistic::kMinimum ? minimum(sample) : median(sample);
}

Interval median_interval(Sample sample) {
    std::sort(sample.begin(), sample.end());
    const size_t count = sample.size();
    // The chance that fewer than `rank` of `count` fair coins show heads: beyond that rank, at
    // either end, the median lies with that chance.
    double term = std::pow(0.5, static_cast<double>(count));
    double below = term;
    size_t rank = 1;
    while (rank + 1 <= count / 2) {
        term *= static_cast<double>(count - rank + 1) / static_cast<double>(rank);
        if (below + term > 0.025) {
            break;
        }
        below += term;
        rank++;
    }
    return {quantile(sample, 0.5), sample[rank - 1], sample[count - rank]};
}

bool apart(const Interval &a, const Interval &b) {
    return a.high < b.low || b.high < a.low;
}

Interval ratio(const Sample &sample, const Sample &baseline, Statistic statistic) {
    return geomean_ratio({sample}, {baseline}, statistic);
}

Interval geomean_ratio(const std::vector<Sample> &samples, const std::vector<Sample> &baselines,
                       Statistic statistic) {
    constexpr int kResamples = 2000;
    Sample ratios;
    for (size_t i = 0; i < samples.size(); i++) {
        ratios.push_back(summarize(samples[i], statistic) / summarize(baselines[i], statistic));
    }
    const double value = geomean(ratios);
    std::mt19937 engine(42);
    Sample values;
    Sample left;
    Sample right;
    for (int k = 0; k < kResamples; k++) {
        for (size_t i = 0; i < samples.size(); i++) {
            const size_t rounds = std::min(samples[i].size(), baselines[i].size());
            left.clear();
            right.clear();
            for (size_t j = 0; j < rounds; j++) {
                // A product instead of a distribution object, whose results are the library's
                // choice.
                const size_t at = (static_cast<uint64_t>(engine()) * rounds) >> 32;
                left.push_back(samples[i][at]);
                right.push_back(baselines[i][at]);
            }
            ratios[i] = summarize(left, statistic) / summarize(right, statistic);
        }
        values.push_back(geomean(ratios));
    }
    return {value, quantile(values, 0.025), quantile(values, 0.975)};
}

} // namespace bench
