// SPDX-License-Identifier: Apache-2.0
// cores: how the throughput of workloads grows with the number of threads, on each allocator.
//
// Every thread of a workload does the same work, however many there are: with a core for each
// thread, twice the threads are twice the throughput. Each round runs every cell on every
// allocator, so that what disturbs the machine for a while disturbs no cell alone.
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

// An amount of work is what a thread does at --percent 100.
struct Workload {
    const char *name, *title, *worker;
    std::vector<std::string> arguments;
    const char *work_flag; // empty: the amount is the first argument
    uint64_t work;
    bool shared_work; // the flag takes the work of all threads together
    uint64_t least_threads;
};

const std::vector<Workload> kWorkloads = {
    {"small",
     "random_mixed, 16-1040 B, 8192 slots a thread",
     "random_mixed_worker",
     {"1040", "42", "--min-size=16", "--slots=8192"},
     "",
     8000000,
     false,
     1},
    {"medium",
     "random_mixed, 8-32 KiB, 128 slots a thread",
     "random_mixed_worker",
     {"32768", "42", "--min-size=8192", "--slots=128"},
     "",
     2000000,
     false,
     1},
    {"large",
     "random_mixed, 64 KiB-1 MiB, 64 slots a thread",
     "random_mixed_worker",
     {"1048576", "42", "--min-size=65536", "--slots=64"},
     "",
     200000,
     false,
     1},
    {"larson",
     "server, threads hand over their blocks",
     "larson_worker",
     {},
     "generations",
     10,
     false,
     1},
    {"churn",
     "threads that live for 200 replacements",
     "larson_worker",
     {"--blocks=100", "--rounds=2"},
     "generations",
     1000,
     false,
     1},
    {"xmalloc",
     "half of the threads allocate, half free",
     "xmalloc_worker",
     {},
     "batches",
     5000,
     true,
     2},
    {"batches",
     "batches, partly freed by other threads (sh8-like)",
     "batches_worker",
     {"--shared=1"},
     "passes",
     400,
     false,
     1},
    {"alloc-test",
     "long-tailed sizes and lifetimes",
     "alloc_test_worker",
     {},
     "steps",
     3000000,
     false,
     1},
    {"growth",
     "heaps that grow together, with large blocks",
     "growth_worker",
     {"--load=4000"},
     "rounds",
     10,
     false,
     1},
    {"thrash",
     "lines shared by new blocks of several threads",
     "cache_sharing_worker",
     {"--writes=100000", "thrash"},
     "iterations",
     1000,
     false,
     1},
};

struct Cell {
    uint64_t threads;
    std::vector<Series> series;
};

class Cores {
  public:
    Cores(std::vector<Allocator> allocators, std::vector<uint64_t> threads, uint64_t runs,
          uint64_t percent, std::string out)
        : allocators_(std::move(allocators)), threads_(std::move(threads)), runs_(runs),
          percent_(percent), out_(std::move(out)) {}

    // Returns an empty text, or why the workload could not be run.
    std::string run(const Workload &workload);

    const std::string &text() const { return text_; }
    Json json() const {
        return Json::object({{"benchmark", "cores"},
                             {"machine", machine_json()},
                             {"workloads", Json::array(json_)}});
    }

  private:
    std::vector<std::string> arguments(const Workload &workload, uint64_t threads) const;
    std::string take(const Workload &workload, std::vector<Cell> *cells) const;
    void print(const std::string &text) {
        text_ += text;
        std::cout << text << std::flush;
    }
    void tables(const std::vector<Cell> &cells);
    void keep(const Workload &workload, const std::vector<Cell> &cells);

    // What all threads together do in a second, over what the last allocator does with the fewest.
    double throughput(const std::vector<Cell> &cells, const Cell &cell, size_t allocator) const {
        const Cell &first = cells.front();
        return static_cast<double>(cell.threads) / minimum(cell.series[allocator].wall_s()) /
               (static_cast<double>(first.threads) / minimum(first.series.back().wall_s()));
    }

    std::vector<Allocator> allocators_;
    std::vector<uint64_t> threads_;
    uint64_t runs_, percent_;
    std::string out_;
    std::string text_;
    std::vector<Json> json_;
};

std::vector<std::string> Cores::arguments(const Workload &workload, uint64_t threads) const {
    uint64_t work = std::max<uint64_t>(workload.work * percent_ / 100, 1);
    work *= workload.shared_work ? threads : 1;
    std::vector<std::string> all = workload.arguments;
    if (*workload.work_flag == '\0') {
        all.insert(all.begin(), std::to_string(work));
    } else {
        all.insert(all.begin(),
                   std::string("--") + workload.work_flag + "=" + std::to_string(work));
    }
    all.push_back("--threads=" + std::to_string(threads));
    return all;
}

std::string Cores::take(const Workload &workload, std::vector<Cell> *cells) const {
    for (uint64_t round = 0; round < runs_; round++) {
        std::fprintf(stderr, "cores: %s, round %lu of %lu\n", workload.name, round + 1, runs_);
        for (Cell &cell : *cells) {
            for (const size_t at : order_of_round(allocators_.size(), round)) {
                Report report;
                const Outcome outcome = run_worker(
                    workload.worker, arguments(workload, cell.threads), allocators_[at], &report);
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

void Cores::tables(const std::vector<Cell> &cells) {
    std::vector<std::string> heading = {"threads"};
    for (const Cell &cell : cells) {
        heading.push_back(std::to_string(cell.threads));
    }
    Table speed(heading);
    Table cpu(heading);
    Table memory(heading);
    for (size_t i = 0; i < allocators_.size(); i++) {
        std::vector<std::string> speeds = {allocators_[i].name};
        std::vector<std::string> costs = {allocators_[i].name};
        std::vector<std::string> sizes = {allocators_[i].name};
        for (const Cell &cell : cells) {
            const Series &series = cell.series[i];
            speeds.push_back(format("%.2f (%.0f %%)", throughput(cells, cell, i),
                                    100 * spread(series.wall_s())));
            costs.push_back(
                format("%.0f", minimum(series.cpu_s()) * 1000 / static_cast<double>(cell.threads)));
            sizes.push_back(format("%.1f", series.peak_rss_kib() / 1024));
        }
        speed.row(speeds);
        cpu.row(costs);
        memory.row(sizes);
    }
    print("Throughput of all threads, over that of " + allocators_.back().name + " with " +
          std::to_string(cells.front().threads) + ", best of the rounds (spread):\n\n" +
          speed.text() + "\nCPU ms a thread:\n\n" + cpu.text() + "\nPeak RSS, MiB:\n\n" +
          memory.text());
}

void Cores::keep(const Workload &workload, const std::vector<Cell> &cells) {
    std::vector<Json> results;
    LineChart chart;
    chart.title = std::string(workload.name) + ": " + workload.title;
    chart.x_label = "threads";
    chart.y_label = "throughput";
    chart.log_base = 2;
    for (size_t i = 0; i < allocators_.size(); i++) {
        std::vector<std::pair<double, double>> curve;
        for (const Cell &cell : cells) {
            const Series &series = cell.series[i];
            curve.emplace_back(static_cast<double>(cell.threads), throughput(cells, cell, i));
            results.push_back(Json::object({
                {"allocator", allocators_[i].name},
                {"threads", static_cast<double>(cell.threads)},
                {"throughput", throughput(cells, cell, i)},
                {"runs_seconds", series.wall_s()},
                {"runs_cpu_seconds", series.cpu_s()},
                {"peak_rss_kib", series.peak_rss_kib()},
                {"page_faults", series.most_faults()},
            }));
        }
        chart.series.emplace_back(allocators_[i].name, curve);
    }
    json_.push_back(Json::object({{"workload", workload.name},
                                  {"what", workload.title},
                                  {"results", Json::array(results)}}));
    const std::string name = std::string("cores-") + workload.name;
    const std::string missing = draw(chart, out_ + "/" + name);
    if (missing.empty()) {
        print("\n![" + chart.title + "](" + name + ".svg)\n");
    } else {
        std::fprintf(stderr, "cores: no chart: %s\n", missing.c_str());
    }
}

std::string Cores::run(const Workload &workload) {
    std::vector<Cell> cells;
    for (const uint64_t threads : threads_) {
        if (threads >= workload.least_threads) {
            cells.push_back({threads, std::vector<Series>(allocators_.size())});
        }
    }
    if (cells.empty()) {
        return format("%s needs %lu threads", workload.name, workload.least_threads);
    }
    const std::string failure = take(workload, &cells);
    if (!failure.empty()) {
        return failure;
    }
    print(std::string("\n## ") + workload.name + ": " + workload.title + "\n\n");
    tables(cells);
    keep(workload, cells);
    return "";
}

} // namespace

int main(int argc, char **argv) {
    constexpr uint64_t kMostThreads = 256;
    uint64_t runs = 0;
    uint64_t percent = 0;
    bool quick = false;
    std::string names = "hakmem_c23,rivals,system";
    std::string workloads = names_of(kWorkloads);
    std::string threads = "1,2,4,8,16";
    std::string out = "cores-results";
    Flags flags("cores",
                "How the throughput of workloads grows with the number of threads, each of "
                "which does the\nsame work. On a machine with fewer cores than threads the "
                "threads share them.");
    flags.toggle("quick", &quick, "a fifth of the work, one round");
    flags.text("workloads", "LIST", &workloads, "which");
    flags.text("threads", "LIST", &threads, "how many, 1 to 256, each in a column");
    flags.allocators(&names);
    flags.number("runs", 1, 1000, &runs, "rounds; the best counts (default 3; --quick: 1)");
    flags.number("percent", 1, 1000, &percent, "of a thread's work (default 100; --quick: 20)");
    flags.text("out", "DIR", &out, "where cores.json, cores.md and the charts go");
    flags.parse(argc, argv);
    runs = runs != 0 ? runs : quick ? 1 : 3;
    percent = percent != 0 ? percent : quick ? 20 : 100;
    const std::vector<Allocator> allocators = chosen_allocators(flags, names);
    const auto chosen = flags.choose(workloads, kWorkloads);
    std::vector<uint64_t> counts;
    for (const std::string &text : split_list(threads)) {
        uint64_t count = 0;
        if (!parse_number(text, 1, kMostThreads, &count)) {
            flags.fail("\"" + text + "\" is no number of threads");
        }
        counts.push_back(count);
    }
    if (counts.empty()) {
        flags.fail("no number of threads");
    }
    out = flags.make_directory(out);

    Cores cores(allocators, counts, runs, percent, out);
    for (const Workload &workload : chosen) {
        const std::string failure = cores.run(workload);
        if (!failure.empty()) {
            std::fprintf(stderr, "cores: %s: %s\n", workload.name, failure.c_str());
            return 1;
        }
    }
    const std::string text =
        "# cores\n\n" + machine_text() + "\n" + allocators_text(allocators) +
        format("\n%lu rounds at %lu %% of the work. A thread does the same work however many there "
               "are.\n",
               runs, percent) +
        cores.text();
    return write_results("cores", out, text, cores.json()) ? 0 : 1;
}
