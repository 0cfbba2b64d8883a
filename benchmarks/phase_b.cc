// SPDX-License-Identifier: Apache-2.0
// phase_b: Phase B's question, asked again. For C2 (128 B) and C3 (256 B): is FastCache <->
// SharedPool in one step better than the traditional layers, with which refill, and is a header
// byte better than the page map?
//
// Every setting runs workers/random_mixed.c in processes of its own, all settings in turn in each
// round. Prints Markdown, and leaves it with a chart in a directory.
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/chart.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <iostream>

using namespace bench;

namespace {

constexpr std::array<int, 2> kSizes = {128, 256};

// Both variables are always set, to texts of one length: the environment lies on the stack, and
// the place of the stack alone can move a figure.
struct Setting {
    const char *name;
    const char *flavour;
    const char *simple;
    const char *refill;
    std::array<double, 2> report; // M ops/s for kSizes; 0: the report has none
};
constexpr std::array<Setting, 9> kSettings = {{
    {"C23 off", "hakmem_c23", "0", "000", {8.27, 7.90}},
    {"refill 16", "hakmem_c23", "1", "016", {8.76, 8.01}},
    {"refill 32", "hakmem_c23", "1", "032", {9.00, 8.61}},
    {"refill 64", "hakmem_c23", "1", "064", {9.55, 8.47}},
    {"refill 128", "hakmem_c23", "1", "128", {9.41, 8.37}},
    {"by demand", "hakmem_c23", "1", "000", {0, 0}},
    {"by demand, again", "hakmem_c23", "1", "000", {0, 0}},
    {"classic flavour", "hakmem_classic", "0", "000", {0, 0}},
    {"header", "hakmem_c23_header", "1", "000", {0, 0}},
}};
enum { kOff = 0, kFirstRefill = 1, kDemand = 5, kAgain = 6, kHeader = 8 };

// What the report says of the header byte alone, for kSizes.
constexpr std::array<const char *, 2> kReportHeader = {"-7.8 %", "+12.8 %"};

struct Shape {
    const char *name;
    uint64_t slots, iterations, repeat;
    const char *what;
};
constexpr std::array<Shape, 4> kShapes = {{
    {"as the report", 256, 100000, 1, "a fresh process, its page faults included"},
    {"256 slots, warm", 256, 500000, 16, "the best of several times in a process"},
    {"8 192 slots", 8192, 500000, 16, "the same"},
    {"100 000 slots, growing", 100000, 200000, 16,
     "the same; the heap grows from nothing each time, in memory that has been touched before"},
}};

std::string grouped_number(uint64_t number) {
    return grouped(static_cast<double>(number));
}

// What all settings did in one shape at one size.
struct Result {
    std::vector<Sample> rates; // M ops/s
    std::vector<double> refills;
    std::vector<double> superslabs;

    Interval rate(size_t setting) const { return median_interval(rates[setting]); }
    Interval change(size_t setting, size_t base) const {
        return ratio(rates[setting], rates[base], Statistic::kMedian);
    }
    // -1, 0 or 1; never 0 only where the medians' intervals part.
    int verdict(size_t setting, size_t base) const {
        const Interval a = rate(setting);
        const Interval b = rate(base);
        return !apart(a, b) ? 0 : a.value > b.value ? 1 : -1;
    }
};

std::string percent(double ratio) {
    return format("%+.1f %%", 100 * (ratio - 1));
}

std::string change_text(const Interval &change) {
    return format("%+.1f %% [%+.1f, %+.1f]", 100 * (change.value - 1), 100 * (change.low - 1),
                  100 * (change.high - 1));
}

std::string rate_text(const Interval &rate) {
    return format("%.1f [%.1f, %.1f]", rate.value, rate.low, rate.high);
}

const char *verdict_text(int verdict) {
    return verdict > 0 ? "faster" : verdict < 0 ? "slower" : "-";
}

class PhaseB {
  public:
    // percent: of the iterations. quick: fewer repetitions of them.
    PhaseB(uint64_t runs, uint64_t percent, bool quick)
        : runs_(runs), percent_(percent), quick_(quick) {
        for (const Setting &setting : kSettings) {
            Allocator allocator;
            const std::string why = find_allocator(
                std::string(setting.flavour) + "+HAKMEM_TINY_FRONT_C23_SIMPLE=" + setting.simple +
                    "+HAKMEM_TINY_FRONT_C23_REFILL=" + setting.refill,
                &allocator);
            if (!why.empty()) {
                die(why);
            }
            allocator.name = setting.name;
            allocators_.push_back(allocator);
        }
    }

    void measure() {
        for (size_t shape = 0; shape < kShapes.size(); shape++) {
            for (size_t size = 0; size < kSizes.size(); size++) {
                std::fprintf(stderr, "phase_b: %d B, %s\n", kSizes[size], kShapes[shape].name);
                results_[shape][size] = run(kShapes[shape], kSizes[size]);
            }
        }
    }

    const Result &result(size_t shape, size_t size) const { return results_[shape][size]; }
    uint64_t repeat(const Shape &shape) const {
        return quick_ ? std::min<uint64_t>(shape.repeat, 3) : shape.repeat;
    }

    std::string report_table() const;
    std::string shape_tables() const;
    std::string demand_table() const;
    std::string header_table() const;
    std::string long_runs() const;
    std::string superslab_table() const;
    RatioChart chart(size_t size) const;

  private:
    uint64_t scaled(uint64_t iterations) const {
        return std::max<uint64_t>(iterations * percent_ / 100, 1);
    }

    [[noreturn]] static void die(const std::string &why) {
        std::fprintf(stderr, "phase_b: %s\n", why.c_str());
        std::exit(1);
    }

    static std::vector<Series> interleave(const std::vector<std::string> &arguments,
                                          const std::vector<Allocator> &allocators, uint64_t runs) {
        std::vector<Series> series;
        const std::string failure =
            run_interleaved("random_mixed_worker", arguments, allocators, runs, &series);
        if (!failure.empty()) {
            die(failure);
        }
        return series;
    }

    Result run(const Shape &shape, int size) const {
        const uint64_t count = scaled(shape.iterations);
        const std::vector<Series> all = interleave({std::to_string(count), std::to_string(size),
                                                    "42", "--slots=" + std::to_string(shape.slots),
                                                    "--repeat=" + std::to_string(repeat(shape))},
                                                   allocators_, runs_);
        Result result;
        for (const Series &series : all) {
            Sample rates;
            for (const double ns : series.reported("cpu_ns")) {
                rates.push_back(1e3 / ns);
            }
            result.rates.push_back(rates);
            // The same in every run: the seed is.
            result.refills.push_back(series.reported("refills").back() * 1e3 /
                                     static_cast<double>(count * repeat(shape)));
            result.superslabs.push_back(series.reported("superslabs").back());
        }
        return result;
    }

    uint64_t runs_, percent_;
    bool quick_;
    std::vector<Allocator> allocators_;
    std::array<std::array<Result, kSizes.size()>, kShapes.size()> results_;
};

std::string PhaseB::report_table() const {
    Table rates({"M ops/s", "128 B, report", "128 B, here", "256 B, report", "256 B, here"});
    Table changes(
        {"against C23 off", "128 B, report", "128 B, here", "256 B, report", "256 B, here"});
    for (size_t s = 0; s < kSettings.size(); s++) {
        std::vector<std::string> rate = {kSettings[s].name};
        std::vector<std::string> change = {kSettings[s].name};
        for (size_t size = 0; size < kSizes.size(); size++) {
            const double of_report = kSettings[s].report[size];
            const Result &of = result(0, size);
            rate.push_back(of_report == 0 ? "-" : format("%.2f", of_report));
            rate.push_back(rate_text(of.rate(s)));
            change.push_back(of_report == 0 ? "-"
                                            : percent(of_report / kSettings[kOff].report[size]));
            change.push_back(change_text(of.change(s, kOff)) + ", " +
                             verdict_text(of.verdict(s, kOff)));
        }
        rates.row(rate);
        if (s != kOff) {
            changes.row(change);
        }
    }
    return rates.text() + "\n" + changes.text();
}

std::string PhaseB::shape_tables() const {
    std::string text;
    for (size_t shape = 1; shape < kShapes.size(); shape++) {
        const Shape &of = kShapes[shape];
        text += std::string("\n### ") + of.name + "\n\n" + grouped_number(scaled(of.iterations)) +
                " iterations; " + of.what + ".\n\n";
        Table table({"setting", "128 B, M ops/s", "against C23 off", "", "256 B, M ops/s",
                     "against C23 off", ""});
        for (size_t s = 0; s < kSettings.size(); s++) {
            std::vector<std::string> row = {kSettings[s].name};
            for (size_t size = 0; size < kSizes.size(); size++) {
                const Result &one = result(shape, size);
                row.push_back(rate_text(one.rate(s)));
                row.push_back(s == kOff ? "" : change_text(one.change(s, kOff)));
                row.push_back(s == kOff ? "" : verdict_text(one.verdict(s, kOff)));
            }
            table.row(row);
        }
        text += table.text();
    }
    Table refills({"shape", "size", "C23 off", "16", "32", "64", "128", "by demand", "header"});
    for (size_t shape = 0; shape < kShapes.size(); shape++) {
        for (size_t size = 0; size < kSizes.size(); size++) {
            std::vector<std::string> row = {kShapes[shape].name, format("%d B", kSizes[size])};
            for (size_t s = 0; s < kSettings.size(); s++) {
                if (s <= kDemand || s == kHeader) {
                    row.push_back(format("%.3f", result(shape, size).refills[s]));
                }
            }
            refills.row(row);
        }
    }
    return text +
           "\n### Batches taken from the pool, for 1 000 iterations\n\n"
           "A refill can only matter as often as there is one. Where this is far below 1, the hit "
           "path is all\nthat is measured, and it is the same code for every setting but the "
           "header's.\n\n" +
           refills.text();
}

std::string PhaseB::demand_table() const {
    Table table({"shape", "size", "C23 off", "16", "32", "64", "128", "the control"});
    for (size_t shape = 0; shape < kShapes.size(); shape++) {
        for (size_t size = 0; size < kSizes.size(); size++) {
            const Result &of = result(shape, size);
            std::vector<std::string> row = {kShapes[shape].name, format("%d B", kSizes[size])};
            for (size_t s = 0; s <= kAgain; s++) {
                if (s != kDemand) {
                    const int verdict = of.verdict(s, kDemand);
                    const std::string much = percent(of.change(s, kDemand).value);
                    row.push_back(verdict == 0 ? "-" : verdict_text(verdict) + (" " + much));
                }
            }
            table.row(row);
        }
    }
    return table.text();
}

std::string PhaseB::header_table() const {
    Table table({"shape", "128 B", "", "256 B", ""});
    table.row({"report, as the report", kReportHeader[0], "", kReportHeader[1], ""});
    for (size_t shape = 0; shape < kShapes.size(); shape++) {
        std::vector<std::string> row = {kShapes[shape].name};
        for (size_t size = 0; size < kSizes.size(); size++) {
            const Result &of = result(shape, size);
            row.push_back(change_text(of.change(kHeader, kDemand)));
            row.push_back(verdict_text(of.verdict(kHeader, kDemand)));
        }
        table.row(row);
    }
    return table.text();
}

// The runs that ended in SIGSEGV in the report before the pool was mended. A fault here ends the
// driver.
std::string PhaseB::long_runs() const {
    const std::vector<Allocator> allocators = {allocators_[kOff], allocators_[kDemand],
                                               allocators_[kHeader]};
    Table table({"iterations", "size", "slots", "C23 off", "by demand", "header"});
    for (const uint64_t iterations : {500000, 10000000}) {
        for (const int size : kSizes) {
            for (const uint64_t slots : {256, 100000}) {
                std::fprintf(stderr, "phase_b: %d B, %s iterations\n", size,
                             grouped_number(scaled(iterations)).c_str());
                const std::vector<Series> all =
                    interleave({std::to_string(scaled(iterations)), std::to_string(size), "42",
                                "--slots=" + std::to_string(slots)},
                               allocators, quick_ ? 1 : 3);
                std::vector<std::string> row = {grouped_number(scaled(iterations)),
                                                format("%d B", size), grouped_number(slots)};
                for (const Series &series : all) {
                    row.push_back(format("%.1f", 1e3 / minimum(series.reported("cpu_ns"))));
                }
                table.row(row);
            }
        }
    }
    return table.text();
}

std::string PhaseB::superslab_table() const {
    const std::vector<Allocator> allocators = {allocators_[kOff], allocators_[kDemand],
                                               allocators_[kHeader]};
    const std::vector<Series> all =
        interleave({"100000", "1040", "42", "--min-size=16", "--max-size=1040"}, allocators, 1);
    Table table({"100 000 iterations", "report", "C23 off", "by demand", "header"});
    for (size_t size = 0; size < kSizes.size(); size++) {
        const std::vector<double> &of = result(0, size).superslabs;
        table.row({format("%d B, 256 slots", kSizes[size]), "877, wanted 100-200",
                   grouped(of[kOff]), grouped(of[kDemand]), grouped(of[kHeader])});
    }
    std::vector<std::string> row = {"16-1040 B, 256 slots", ""};
    for (const Series &series : all) {
        row.push_back(grouped(series.reported("superslabs").back()));
    }
    table.row(row);
    return table.text();
}

RatioChart PhaseB::chart(size_t size) const {
    RatioChart chart;
    chart.title = format("Phase B at %d B: throughput against C23 off", kSizes[size]);
    chart.label = "ratio (more is better), medians with 95 % intervals";
    for (size_t s = kFirstRefill; s < kSettings.size(); s++) {
        chart.categories.emplace_back(kSettings[s].name);
    }
    for (size_t shape = 0; shape <= kShapes.size(); shape++) {
        std::vector<std::optional<Interval>> values;
        for (size_t s = kFirstRefill; s < kSettings.size(); s++) {
            if (shape > 0) {
                values.emplace_back(result(shape - 1, size).change(s, kOff));
                continue;
            }
            const double value = kSettings[s].report[size] / kSettings[kOff].report[size];
            values.push_back(value == 0 ? std::nullopt
                                        : std::optional<Interval>({value, value, value}));
        }
        chart.series.emplace_back(shape == 0 ? "the report's figures" : kShapes[shape - 1].name,
                                  values);
    }
    return chart;
}

} // namespace

int main(int argc, char **argv) {
    uint64_t runs = 0;
    uint64_t percent = 100;
    bool quick = false;
    std::string out = "phase_b-results";
    Flags flags("phase_b",
                "Random mallocs and frees of 65-128 B and of 129-256 B: the traditional layers "
                "against the C23\nfront with several refills, the header byte against the page "
                "map.");
    flags.number("runs", 6, 10000, &runs, "rounds (default 31; --quick: 15)");
    flags.number("percent", 1, 1000, &percent, "of all iterations, for a look at what is printed");
    flags.toggle("quick", &quick, "about a minute: fewer rounds, fewer repetitions");
    flags.text("out", "DIR", &out, "where phase_b.md and the charts go");
    flags.parse(argc, argv);
    runs = runs != 0 ? runs : quick ? 15 : 31;
    out = flags.make_directory(out);

    PhaseB phase_b(runs, percent, quick);
    phase_b.measure();
    std::string no_chart;
    std::string charts;
    for (size_t size = 0; size < kSizes.size(); size++) {
        const std::string name = format("phase_b-%d", kSizes[size]);
        const std::string why = draw(phase_b.chart(size), out + "/" + name);
        no_chart = why.empty() ? no_chart : why;
        charts += why.empty() ? format("\n![%d B](%s.svg)\n", kSizes[size], name.c_str()) : "";
    }
    const std::string text =
        "# Phase B, measured again\n\n" + machine_text() +
        format("\n%u rounds; in each, every setting runs in a process of its own, one after the "
               "other. Operations per\nsecond of the thread's own time, user and kernel, which a "
               "busy machine disturbs less than time on the\nwall. Medians of M ops/s with 95 %% "
               "intervals by order statistics; changes are "
               "ratios of medians, with intervals by a\nbootstrap over rounds. A verdict stands "
               "only where the intervals of the two medians part. \"by demand,\nagain\" is \"by "
               "demand\" a second time: what sets these two apart is noise.\n",
               static_cast<unsigned>(runs)) +
        "\n## The report's table: 100 000 iterations, 256 slots\n\n"
        "The report's figures are of its author's machine and of the allocator it describes.\n\n" +
        phase_b.report_table() +
        "\n100 000 iterations last about a millisecond, and with 256 slots next to none of them "
        "misses the\nthread's cache. Hence the shapes below.\n"
        "\n## Longer, and with misses\n" +
        phase_b.shape_tables() + "\n## Verdicts on the refill: against by demand\n\n" +
        phase_b.demand_table() +
        "\n## Header byte against page map, both with the C23 front and refill by demand\n\n" +
        phase_b.header_table() +
        "\n## Long runs\n\nThe report's 500 K iterations at 256 B: SIGSEGV before its fix, 9.44 M "
        "ops/s after. Here all ended\nwithout a fault; the best of 3.\n\n" +
        phase_b.long_runs() + "\n## SuperSlabs in use at the end\n\n" + phase_b.superslab_table() +
        charts;
    std::cout << text;
    if (!no_chart.empty()) {
        std::fprintf(stderr, "phase_b: no chart: %s\n", no_chart.c_str());
    }
    if (!write_file(out + "/phase_b.md", text)) {
        return 1;
    }
    std::fprintf(stderr, "phase_b: wrote %s/phase_b.md%s\n", out.c_str(),
                 no_chart.empty() ? " and its charts" : "");
    return 0;
}
