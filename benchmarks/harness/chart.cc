// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/chart.h"

#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace bench {
namespace {

// In a single-quoted string of gnuplot's; the terminal is told not to look for markup.
std::string quoted(const std::string &text) {
    std::string out = "'";
    for (const char c : text) {
        out += c;
        if (c == '\'') {
            out += c;
        }
    }
    return out + "'";
}

std::string heading(const std::string &title, const std::string &file, size_t width) {
    return format("set terminal svg noenhanced size %zu,520 background 'white' font 'sans,12'\n",
                  width) +
           "set output " + quoted(file) + "\n" + "set title " + quoted(title) + "\n" +
           "set key outside right top\nset grid y\n";
}

// The range of a logarithmic axis of ratios, and marks on it. Ratios within a factor of two get
// marks that are not powers of two: there would be next to none.
std::string ratio_axis(const RatioChart &chart) {
    double low = 1;
    double high = 1;
    for (const auto &[name, values] : chart.series) {
        for (const std::optional<Interval> &value : values) {
            low = value.has_value() ? std::min(low, value->low) : low;
            high = value.has_value() ? std::max(high, value->high) : high;
        }
    }
    std::string axis = "set logscale y 2\n";
    if (low <= 0 || high / low >= 2) {
        return axis;
    }
    axis += format("set yrange [%.6g:%.6g]\nset ytics (", low * 0.98, high * 1.02);
    const int step = high / low < 1.6 ? 5 : 10; // percent
    for (int at = 50; at <= 200; at += step) {
        axis += format(at == 50 ? "%.2f" : ", %.2f", at / 100.0);
    }
    return axis + ")\n";
}

std::string plot(const std::string &script, const std::string &path) {
    if (!write_file(path + ".gp", script)) {
        return "cannot write " + path + ".gp";
    }
    const std::string gnuplot = find_program("gnuplot");
    if (gnuplot.empty()) {
        return "gnuplot is not installed (apt-get install gnuplot-nox); then: cd " +
               std::filesystem::path(path).parent_path().string() + " && gnuplot *.gp";
    }
    Command command;
    command.argv = {gnuplot, path + ".gp"};
    command.directory = std::filesystem::path(path).parent_path();
    const Outcome outcome = run(command, {});
    return outcome.error.empty() ? "" : "gnuplot: " + outcome.error;
}

} // namespace

std::string draw(const RatioChart &chart, const std::string &path) {
    const std::string file = std::filesystem::path(path).filename().string() + ".svg";
    const size_t columns = chart.categories.size();
    const size_t width = std::max<size_t>(640, 260 + columns * (14 + 7 * chart.series.size()));
    std::string script = heading(chart.title, file, width);
    script += "set ylabel " + quoted(chart.label) + "\n" + ratio_axis(chart);
    script += "set xtics rotate by -40 (";
    for (size_t i = 0; i < columns; i++) {
        script += (i == 0 ? "" : ", ") + quoted(chart.categories[i]) + format(" %zu", i);
    }
    script += format(")\nset xrange [-0.5:%zu.5]\n", columns - 1);
    for (size_t i = 0; i + 1 < columns; i++) {
        script += format(
            "set arrow from %zu.5, graph 0 to %zu.5, graph 1 nohead lc rgb '#dddddd'\n", i, i);
    }
    std::string curves = "1 notitle with lines lc rgb '#888888'";
    for (size_t s = 0; s < chart.series.size(); s++) {
        const auto &[name, values] = chart.series[s];
        script += format("$series%zu << EOD\n", s);
        bool any = false;
        for (size_t i = 0; i < values.size(); i++) {
            if (values[i].has_value()) {
                const double offset = 0.8 * ((static_cast<double>(s) + 0.5) /
                                                 static_cast<double>(chart.series.size()) -
                                             0.5);
                script += format("%.4f %.6g %.6g %.6g\n", static_cast<double>(i) + offset,
                                 values[i]->value, values[i]->low, values[i]->high);
                any = true;
            }
        }
        script += "EOD\n";
        if (any) {
            curves +=
                format(", \\\n  $series%zu using 1:2:3:4 with yerrorbars pt 7 ps 0.5 title ", s) +
                quoted(name);
        }
    }
    return plot(script + "plot " + curves + "\n", path);
}

std::string draw(const LineChart &chart, const std::string &path) {
    const std::string file = std::filesystem::path(path).filename().string() + ".svg";
    std::string script = heading(chart.title, file, 900);
    script +=
        "set xlabel " + quoted(chart.x_label) + "\nset ylabel " + quoted(chart.y_label) + "\n";
    script += "set yrange [0:*]\n";
    script += chart.log_base != 0
                  ? format("set logscale x %g\nset autoscale xfix\n", chart.log_base)
                  : "";
    std::string curves;
    for (size_t s = 0; s < chart.series.size(); s++) {
        script += format("$series%zu << EOD\n", s);
        for (const auto &[x, y] : chart.series[s].second) {
            script += format("%.4f %.6g\n", x, y);
        }
        script += "EOD\n";
        if (!chart.series[s].second.empty()) {
            curves += (curves.empty() ? "" : ", \\\n  ") +
                      format("$series%zu using 1:2 with lines lw 2 title ", s) +
                      quoted(chart.series[s].first);
        }
    }
    return plot(script + "plot " + curves + "\n", path);
}

std::string draw(const HeatMap &map, const std::string &path) {
    const std::string file = std::filesystem::path(path).filename().string() + ".svg";
    const size_t columns = map.columns.size();
    const size_t rows = map.rows.size();
    std::string script =
        format("set terminal svg noenhanced size %zu,%zu background 'white' font 'sans,12'\n",
               260 + 80 * columns, 140 + 20 * rows) +
        "set output " + quoted(file) + "\nset title " + quoted(map.title) + "\n" +
        "unset key\nset tics scale 0\nset border lc rgb '#888888'\n";
    script += "set xtics rotate by 30 right (";
    for (size_t i = 0; i < columns; i++) {
        script += (i == 0 ? "" : ", ") + quoted(map.columns[i]) + format(" %zu", i);
    }
    script += ")\nset ytics (";
    for (size_t i = 0; i < rows; i++) {
        script += (i == 0 ? "" : ", ") + quoted(map.rows[i]) + format(" %zu", i);
    }
    script +=
        format(")\nset xrange [-0.5:%zu.5]\nset yrange [%zu.5:-0.5]\n", columns - 1, rows - 1);
    // The colour is the logarithm to base 2.
    script += "set palette defined (0 '#1a9850', 0.2 '#d9ef8b', 0.6 '#fee08b', 1 '#f46d43', "
              "2 '#d73027')\nset cbrange [0:2]\n"
              "set cbtics ('1' 0, '1.15' 0.2016, '1.5' 0.585, '2' 1, '4' 2)\n$cells << EOD\n";
    bool any = false;
    for (size_t y = 0; y < rows; y++) {
        for (size_t x = 0; x < columns; x++) {
            const std::optional<double> &value = map.cells[y][x];
            // An image has to have all its points.
            script += format("%zu %zu ", x, y) +
                      (value.has_value() ? format("%.4f %.2f\n", std::log2(*value), *value)
                                         : std::string("NaN -\n"));
            any = any || value.has_value();
        }
    }
    if (!any || columns < 2 || rows < 2) {
        return "a heat map wants two rows and columns, with figures";
    }
    script += "EOD\nplot $cells using 1:2:3 with image pixels, \\\n"
              "  $cells using 1:2:(stringcolumn(4)) with labels\n";
    return plot(script, path);
}

} // namespace bench
