// SPDX-License-Identifier: Apache-2.0
// chart: SVG charts, drawn by gnuplot (Debian package gnuplot-nox). PATH.gp, which holds the
// figures too, is written in any case, for who wants to change a chart or has no gnuplot here.
#ifndef HAKMEM_BENCHMARKS_HARNESS_CHART_H
#define HAKMEM_BENCHMARKS_HARNESS_CHART_H

#include "benchmarks/harness/sample.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bench {

// Ratios to a baseline: a column a category, in it a point with its interval for every series, on a
// logarithmic scale with a line at 1.
struct RatioChart {
    std::string title, label; // label: of the y axis
    std::vector<std::string> categories;
    std::vector<std::pair<std::string, std::vector<std::optional<Interval>>>> series;
};

// Curves over a common x axis.
struct LineChart {
    std::string title, x_label, y_label;
    double log_base = 0; // of a logarithmic x axis; 0: it is linear
    std::vector<std::pair<std::string, std::vector<std::pair<double, double>>>> series;
};

// Ratios of 1 or more to the best of their row: each cell shows its figure, on a colour that goes
// from 1 by way of 1.15, 1.5 and 2 to 4 and more.
struct HeatMap {
    std::string title;
    std::vector<std::string> columns, rows;
    std::vector<std::vector<std::optional<double>>> cells; // by row
};

// Writes PATH.gp and PATH.svg. Returns an empty text, or why there is no .svg.
std::string draw(const RatioChart &chart, const std::string &path);
std::string draw(const LineChart &chart, const std::string &path);
std::string draw(const HeatMap &map, const std::string &path);

} // namespace bench

#endif
