// SPDX-License-Identifier: Apache-2.0
// scaling: how the cost of one operation grows with the number of live blocks and of threads, on
// each allocator in turn, beside a floor that misses the cache as often.
//
// The loop is workers/random_mixed.c, the floor its list of blocks. A scenario is a row of cells;
// in each round every cell runs on every allocator, so that what disturbs the machine for a while
// disturbs no cell alone.
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/chart.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <algorithm>
#include <cstdio>
#include <iostream>

using namespace bench;

namespace {

// The last cells of `blocks` and `mixed` hold about half a GiB.
struct Scenario {
    const char *name, *title, *axis;
    uint64_t min_size, max_size;
    uint64_t operations;                   // of all threads, in a cell; times --percent
    double log_base;                       // of the chart's x axis
    std::vector<uint64_t> blocks, threads; // one of them has a single member
};

const std::vector<Scenario> kScenarios = {
    {"blocks",
     "Live blocks, 16-64 B",
     "live blocks",
     16,
     64,
     5000000,
     10,
     {1000, 10000, 100000, 1000000, 10000000},
     {1}},
    {"mixed",
     "Live blocks, 16-1040 B",
     "live blocks",
     16,
     1040,
     5000000,
     10,
     {1000, 10000, 100000, 1000000},
     {1}},
    {"threads",
     "Threads, 16-1040 B",
     "threads",
     16,
     1040,
     30000000,
     2,
     {1000},
     {1, 2, 4, 8, 16, 32, 64}},
};

struct Cell {
    uint64_t blocks, threads;
    uint64_t x;                 // the one of them that grows
    std::vector<Series> series; // an allocator each
};

// The mean, as an allocator would round it.
uint64_t floor_size(const Scenario &scenario) {
    return ((scenario.min_size + scenario.max_size) / 2 + 15) / 16 * 16;
}

class Scaling {
  public:
    Scaling(std::vector<Allocator> allocators, uint64_t runs, uint64_t percent, std::string out)
        : allocators_(std::move(allocators)), runs_(runs), percent_(percent), out_(std::move(out)) {
        print(format(
            "%lu rounds; in each, every cell runs on every allocator, in a process of its own. An "
            "operation picks a random slot:\na full one is freed, an empty one gets a block, whose "
            "first byte is written; half of the slots are full. The floor is\nthe same loop in the "
            "same process on blocks of the mean size in one mapping, with a list through those "
            "given back:\nno size classes, no checks, no sharing, but as many cache lines touched "
            "as far apart. The mapping has ordinary pages:\nan allocator that advises huge ones "
            "misses the TLB less often and can be below the floor. CPU time is of the\nthreads "
            "themselves, user and kernel.\n",
            runs));
    }

    // Returns an empty text, or why a run failed.
    std::string run(const Scenario &scenario, uint64_t most_blocks);

    const std::string &text() const { return text_; }
    Json json() const {
        return Json::object({{"benchmark", "scaling"},
                             {"machine", machine_json()},
                             {"runs", static_cast<double>(runs_)},
                             {"percent", static_cast<double>(percent_)},
                             {"scenarios", Json::array(json_)}});
    }

  private:
    std::string take(const Scenario &scenario, std::vector<Cell> *cells) const;
    void print(const std::string &text) {
        text_ += text;
        std::cout << text << std::flush;
    }
    void tables(const Scenario &scenario, const std::vector<Cell> &cells);
    void keep(const Scenario &scenario, const std::vector<Cell> &cells);

    uint64_t operations(const Scenario &scenario, const Cell &cell) const {
        return std::max<uint64_t>(scenario.operations / 100 * percent_ / cell.threads, 1);
    }

    // The floor's loop is the same code in every process: one line of all, before the allocators'.
    size_t lines() const { return allocators_.size() + 1; }
    std::string line_name(size_t line) const {
        return line == 0 ? "floor" : allocators_[line - 1].name;
    }
    Sample sample(const Cell &cell, size_t line, const std::string &key) const {
        if (line > 0) {
            return cell.series[line - 1].reported(key);
        }
        Sample all;
        for (const Series &series : cell.series) {
            const Sample one = series.reported("floor_" + key);
            all.insert(all.end(), one.begin(), one.end());
        }
        return all;
    }
    double cost(const Cell &cell, size_t line) const {
        return median(sample(cell, line, "cpu_ns"));
    }

    std::vector<Allocator> allocators_;
    uint64_t runs_, percent_;
    std::string out_;
    std::string text_;
    std::vector<Json> json_;
};

std::string Scaling::take(const Scenario &scenario, std::vector<Cell> *cells) const {
    for (uint64_t round = 0; round < runs_; round++) {
        std::fprintf(stderr, "scaling: %s, round %lu of %lu\n", scenario.name, round + 1, runs_);
        for (Cell &cell : *cells) {
            // After three picks a slot on average, half of them hold a block, but for 0.1 %: the
            // heap hardly grows any more.
            const uint64_t slots = 2 * cell.blocks;
            const std::vector<std::string> arguments = {
                std::to_string(operations(scenario, cell)),
                std::to_string(scenario.max_size),
                "42",
                "--slots=" + std::to_string(slots),
                "--warmup=" + std::to_string(3 * slots),
                "--min-size=" + std::to_string(scenario.min_size),
                "--threads=" + std::to_string(cell.threads),
                "--floor-size=" + std::to_string(floor_size(scenario)),
            };
            for (const size_t at : order_of_round(allocators_.size(), round)) {
                Report report;
                const Outcome outcome =
                    run_worker("random_mixed_worker", arguments, allocators_[at], &report);
                if (!outcome.error.empty()) {
                    return allocators_[at].name + ": " + outcome.error;
                }
                cell.series[at].outcomes.push_back(outcome);
                cell.series[at].reports.push_back(report);
            }
        }
    }
    return "";
}

void Scaling::tables(const Scenario &scenario, const std::vector<Cell> &cells) {
    std::vector<std::string> heading = {scenario.axis};
    for (const Cell &cell : cells) {
        heading.push_back(grouped(static_cast<double>(cell.x)));
    }
    Table cost_table(heading);
    Table above_table(heading);
    Table clock_table(heading);
    heading.emplace_back("largest step");
    Table growth_table(heading);
    for (size_t line = 0; line < lines(); line++) {
        const std::string name = line_name(line);
        std::vector<std::string> costs = {name};
        std::vector<std::string> above = {name};
        std::vector<std::string> growth = {name};
        std::vector<std::string> clock = {name};
        double step = 1;
        for (size_t c = 0; c < cells.size(); c++) {
            const double now = cost(cells[c], line);
            costs.push_back(
                format("%.1f (%.0f %%)", now, 100 * spread(sample(cells[c], line, "cpu_ns"))));
            above.push_back(format("%.1f", now - cost(cells[c], 0)));
            growth.push_back(format("%.2f", now / cost(cells[0], line)));
            clock.push_back(format("%.1f", median(sample(cells[c], line, "elapsed_ns"))));
            step = c == 0 ? step : std::max(step, now / cost(cells[c - 1], line));
        }
        growth.push_back(format("%.2f", step));
        cost_table.row(costs);
        growth_table.row(growth);
        clock_table.row(clock);
        if (line > 0) {
            above_table.row(above);
        }
    }
    print("CPU ns for one operation, median (spread):\n\n" + cost_table.text() +
          "\nCPU ns above the floor:\n\n" + above_table.text() +
          "\nGrowth of the CPU ns, over the first column; largest step: of any column over the one "
          "before it.\n\n" +
          growth_table.text());
    if (cells.back().threads > 1) {
        print("\nOn the clock, ns from the first thread's begin to the last one's end over the "
              "operations of all:\n\n" +
              clock_table.text());
    }
}

void Scaling::keep(const Scenario &scenario, const std::vector<Cell> &cells) {
    std::vector<Json> results;
    LineChart chart;
    chart.title = std::string(scenario.title) + ": CPU time for one operation";
    chart.x_label = scenario.axis;
    chart.y_label = "ns";
    chart.log_base = scenario.log_base;
    for (size_t line = 0; line < lines(); line++) {
        std::vector<std::pair<double, double>> curve;
        for (const Cell &cell : cells) {
            const double now = cost(cell, line);
            curve.emplace_back(static_cast<double>(cell.x), now);
            std::vector<std::pair<std::string, Json>> members = {
                {"allocator", line_name(line)},
                {"blocks", static_cast<double>(cell.blocks)},
                {"threads", static_cast<double>(cell.threads)},
                {"operations_per_thread", static_cast<double>(operations(scenario, cell))},
                {"cpu_ns", now},
                {"cpu_ns_above_floor", now - cost(cell, 0)},
                {"growth", now / cost(cells[0], line)},
                {"floor_growth", cost(cell, 0) / cost(cells[0], 0)},
                {"spread", spread(sample(cell, line, "cpu_ns"))},
                {"runs_cpu_ns", sample(cell, line, "cpu_ns")},
                {"runs_elapsed_ns", sample(cell, line, "elapsed_ns")},
            };
            if (line > 0) {
                const Series &series = cell.series[line - 1];
                members.emplace_back("live_blocks", series.reported("live_blocks").back());
                members.emplace_back("peak_rss_kib", series.peak_rss_kib());
                members.emplace_back("page_faults", series.most_faults());
            }
            results.push_back(Json::object(members));
        }
        chart.series.emplace_back(line_name(line), curve);
    }
    json_.push_back(Json::object({{"scenario", scenario.name},
                                  {"min_size", static_cast<double>(scenario.min_size)},
                                  {"max_size", static_cast<double>(scenario.max_size)},
                                  {"floor_size", static_cast<double>(floor_size(scenario))},
                                  {"results", Json::array(results)}}));
    const std::string name = std::string("scaling-") + scenario.name;
    const std::string missing = draw(chart, out_ + "/" + name);
    if (missing.empty()) {
        print("\n![" + chart.title + "](" + name + ".svg)\n");
    } else {
        std::fprintf(stderr, "scaling: no chart: %s\n", missing.c_str());
    }
}

std::string Scaling::run(const Scenario &scenario, uint64_t most_blocks) {
    std::vector<Cell> cells;
    for (const uint64_t blocks : scenario.blocks) {
        for (const uint64_t threads : scenario.threads) {
            if (blocks <= most_blocks) {
                cells.push_back({blocks, threads, scenario.threads.size() > 1 ? threads : blocks,
                                 std::vector<Series>(allocators_.size())});
            }
        }
    }
    const std::string failure = take(scenario, &cells);
    if (!failure.empty()) {
        return failure;
    }
    print(std::string("\n## ") + scenario.title + "\n\n" +
          (scenario.threads.size() > 1
               ? format("Each thread has %s live blocks of its own; %s operations, shared among "
                        "the threads. ",
                        grouped(static_cast<double>(cells[0].blocks)).c_str(),
                        grouped(static_cast<double>(operations(scenario, cells[0]))).c_str())
               : format("One thread, %s operations. ",
                        grouped(static_cast<double>(operations(scenario, cells[0]))).c_str())) +
          format("The floor's blocks have %lu B.\n\n", floor_size(scenario)));
    tables(scenario, cells);
    keep(scenario, cells);
    return "";
}

} // namespace

int main(int argc, char **argv) {
    constexpr uint64_t kFewestBlocks = 1000;
    uint64_t runs = 0;
    uint64_t percent = 0;
    uint64_t most_blocks = 0;
    bool quick = false;
    std::string names = "hakmem_c23,system,rivals";
    std::string scenarios = "blocks,mixed,threads";
    std::string out = "scaling-results";
    Flags flags("scaling",
                "How the cost of one operation grows with live blocks, 10^3 to 10^7, and with "
                "threads, 1 to 64,\nbeside that of a floor that misses the cache as often.");
    flags.toggle("quick", &quick, "no more than 10^6 live blocks, fewer operations and rounds");
    flags.text("scenarios", "LIST", &scenarios, "which");
    flags.allocators(&names);
    flags.number("runs", 1, 1000, &runs, "rounds; medians (default 5; --quick: 3)");
    flags.number("percent", 1, 1000, &percent, "of all operations (default 100; --quick: 20)");
    flags.number("most-blocks", kFewestBlocks, UINT64_MAX, &most_blocks,
                 "no cell with more live blocks; 10^7 take 1.2 GiB");
    flags.text("out", "DIR", &out, "where scaling.json, scaling.md and the charts go");
    flags.parse(argc, argv);
    runs = runs != 0 ? runs : quick ? 3 : 5;
    percent = percent != 0 ? percent : quick ? 20 : 100;
    most_blocks = most_blocks != 0 ? most_blocks : quick ? 1000000 : UINT64_MAX;
    const std::vector<Allocator> allocators = chosen_allocators(flags, names);
    const auto chosen = flags.choose(scenarios, kScenarios);
    out = flags.make_directory(out);

    Scaling scaling(allocators, runs, percent, out);
    for (const Scenario &scenario : chosen) {
        const std::string failure = scaling.run(scenario, most_blocks);
        if (!failure.empty()) {
            std::fprintf(stderr, "scaling: %s\n", failure.c_str());
            return 1;
        }
    }
    const std::string text =
        "# scaling\n\n" + machine_text() + "\n" + allocators_text(allocators) + scaling.text();
    return write_results("scaling", out, text, scaling.json()) ? 0 : 1;
}
