// SPDX-License-Identifier: Apache-2.0
// sample: what to make of the figures of several runs.
#ifndef HAKMEM_BENCHMARKS_HARNESS_SAMPLE_H
#define HAKMEM_BENCHMARKS_HARNESS_SAMPLE_H

#include <string>
#include <vector>

namespace bench {

using Sample = std::vector<double>;

// All of a sample that is not empty. A quantile between two values is interpolated.
double minimum(const Sample &sample);
double median(const Sample &sample);
double quantile(Sample sample, double q);
double geomean(const Sample &sample);

// Distance of the quartiles over the median.
double spread(const Sample &sample);

// What a sample is summed up by. The minimum is least disturbed by whoever else uses the machine;
// the median says more about how a program usually does.
enum class Statistic { kMinimum, kMedian };
double summarize(const Sample &sample, Statistic statistic);

struct Interval {
    double value, low, high;
};

// The median of a sample of 6 or more with a 95 % interval: the values of those two ranks, as far
// from the ends as can be, between which the true median lies with a probability of 95 % or more,
// however the values are distributed. For fewer values, their whole range.
Interval median_interval(Sample sample);

// True if the intervals have no point in common.
bool apart(const Interval &a, const Interval &b);

// A statistic of one sample over that of another, with a 95 % interval: a bootstrap over rounds, in
// which the i-th values of both samples stay together, as they were taken one after the other.
// Always the same for the same input.
Interval ratio(const Sample &sample, const Sample &baseline, Statistic statistic);

// The geometric mean of the ratios of several pairs of samples, likewise.
Interval geomean_ratio(const std::vector<Sample> &samples, const std::vector<Sample> &baselines,
                       Statistic statistic);

} // namespace bench

#endif
