// SPDX-License-Identifier: Apache-2.0
// memory: what each allocator holds and for how long, one after the other in the same run: after a
// peak, between producer and consumer, for many threads; the longest malloc and free; system calls
// and page faults of a small process; SuperSlabs; forks; limits.
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/chart.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <cmath>
#include <cstdio>
#include <iostream>
#include <sstream>

using namespace bench;

namespace {

using Curve = std::vector<std::pair<double, double>>;

// The lines "rss SECONDS KIB" of a worker, in MiB.
Curve rss_curve(const std::string &out) {
    Curve curve;
    std::istringstream lines(out);
    std::string word;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        double at = 0;
        double kib = 0;
        if (words >> word >> at >> kib && word == "rss") {
            curve.emplace_back(at, kib / 1024);
        }
    }
    return curve;
}

std::string mebibytes(double kib) {
    return format("%.1f", kib / 1024);
}

std::string microseconds(double ns) {
    return format("%.1f", ns / 1000);
}

class Measurements {
  public:
    Measurements(std::vector<Allocator> allocators, uint64_t runs, bool quick, std::string out)
        : allocators_(std::move(allocators)), runs_(runs), quick_(quick), out_(std::move(out)) {}

    void peak() {
        const std::string megabytes = quick_ ? "300" : "1740";
        begin("peak", "A peak, then quiet",
              "4 threads allocate " + megabytes +
                  " MiB (90 % 16-527 B, 9 % 512-8191 B, 1 % 8-72 KiB), free 95 % at random, are "
                  "nearly idle\nfor 2 s (a few mallocs every 50 ms), free the rest, and are idle "
                  "for 2 s again. RSS above the start, MiB.");
        const auto series = take("memory_worker", {"peak", "--megabytes=" + megabytes});
        Table table({"allocator", "live", "full", "live then", "95 % freed", "2 s later",
                     "over live", "all freed", "2 s later"});
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Series &of = series[a];
            if (!row_failed(&table, a, of)) {
                const double live = median(of.reported("thinned_live_kib"));
                const double quiet = median(of.reported("quiet_kib"));
                table.row({allocators_[a].name, mebibytes(median(of.reported("full_live_kib"))),
                           mebibytes(median(of.reported("full_kib"))), mebibytes(live),
                           mebibytes(median(of.reported("thinned_kib"))), mebibytes(quiet),
                           format("%.2f", quiet / live),
                           mebibytes(median(of.reported("cleared_kib"))),
                           mebibytes(median(of.reported("end_kib")))});
            }
        }
        end(table, series);
        chart("RSS after a peak", series);
    }

    void queue() {
        const std::string seconds = quick_ ? "3" : "60";
        begin("queue", "Producer and consumer",
              "One thread allocates, another frees, for " + seconds +
                  " s. RSS above the start, MiB: the most of the first tenth of the time, at the "
                  "end,\nthe most of all; over the most that was live at a time.");
        const auto series = take("memory_worker", {"queue", "--seconds=" + seconds});
        Table table({"allocator", "first tenth", "end", "most", "most live", "most over live",
                     "GiB passed"});
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Series &of = series[a];
            if (!row_failed(&table, a, of)) {
                const double most = median(of.reported("most_kib"));
                const double live = median(of.reported("most_live_kib"));
                table.row({allocators_[a].name, mebibytes(median(of.reported("early_kib"))),
                           mebibytes(median(of.reported("last_kib"))), mebibytes(most),
                           mebibytes(live), format("%.2f", most / live),
                           mebibytes(median(of.reported("produced_mib")))});
            }
        }
        end(table, series);
        chart("RSS of producer and consumer", series);
    }

    void sequence() {
        const std::string count = quick_ ? "10000" : "100000";
        begin("sequence", "Threads in sequence",
              grouped(std::stod(count)) +
                  " short threads, one after the other, whose blocks are partly freed by the main "
                  "thread. Growth of RSS, KiB.");
        const auto series = take("memory_worker", {"sequence", "--count=" + count});
        Table table({"allocator", "in all", "after the first hundredth"});
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Series &of = series[a];
            if (!row_failed(&table, a, of)) {
                table.row({allocators_[a].name, grouped(median(of.reported("grown_kib"))),
                           grouped(median(of.reported("grown_after_first_hundredth_kib")))});
            }
        }
        end(table, series);
    }

    void idle() {
        const std::string count = quick_ ? "200" : "1000";
        begin("idle", "Idle threads",
              count + " threads at once have each allocated and freed a block of 256 sizes, 16 B "
                      "to 32 KiB, and wait.\nRSS for each, above that of as many threads that have "
                      "not, KiB.");
        const auto series = take("memory_worker", {"idle", "--count=" + count});
        Table table({"allocator", "at once", "2 s later"});
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Series &of = series[a];
            if (!row_failed(&table, a, of)) {
                table.row({allocators_[a].name, format("%.1f", median(of.reported("thread_kib"))),
                           format("%.1f", median(of.reported("thread_later_kib")))});
            }
        }
        end(table, series);
    }

    void latency() {
        const std::string seconds = quick_ ? "3" : "15";
        const std::string megabytes = quick_ ? "100" : "400";
        begin("latency", "The longest malloc and free",
              "Each call is timed while a heap of " + megabytes +
                  " MiB grows, shrinks and is purged for " + seconds +
                  " s. Microseconds; of several runs the least.\nThe first of a pair is by the "
                  "clock, and has in it what else the machine did meanwhile; the second is of the "
                  "thread's own time\n(some 0.2 of them for reading it).");
        const auto series =
            take("memory_worker", {"latency", "--seconds=" + seconds, "--megabytes=" + megabytes});
        Table table({"allocator", "malloc p50", "p99", "p99.99", "max", "free p50", "p99", "p99.99",
                     "max"});
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Series &of = series[a];
            if (!row_failed(&table, a, of)) {
                std::vector<std::string> row = {allocators_[a].name};
                for (const std::string call : {"malloc", "free"}) {
                    row.push_back(format("%.2f", minimum(of.reported(call + "_p50_ns")) / 1000));
                    for (const std::string what : {"_p99_ns", "_p99.99_ns", "_max_ns"}) {
                        row.push_back(microseconds(minimum(of.reported(call + what))) + " / " +
                                      microseconds(minimum(of.reported(call + "_cpu" + what))));
                    }
                }
                table.row(row);
            }
        }
        end(table, series);
    }

    void process() {
        begin("process", "A small process",
              "random_mixed 100000 256 42 from start to exit: system calls by strace, page faults "
              "and peak RSS by the kernel.");
        const std::vector<std::string> arguments = {"100000", "256", "42"};
        const auto series = take("random_mixed_worker", arguments);
        Command command;
        command.argv = {built_file("benchmarks/random_mixed_worker")};
        command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
        Table table({"allocator", "system calls", "page faults", "peak RSS KiB"});
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Series &of = series[a];
            if (!row_failed(&table, a, of)) {
                std::string why;
                const long calls = count_syscalls(command, allocators_[a], &why);
                if (calls < 0) {
                    std::fprintf(stderr, "memory: %s\n", why.c_str());
                }
                table.row({allocators_[a].name, calls < 0 ? "-" : std::to_string(calls),
                           grouped(of.most_faults()), grouped(of.peak_rss_kib())});
            }
        }
        end(table, series);
    }

    void superslabs() {
        begin("superslabs", "SuperSlabs",
              "random_mixed, 16-1040 B, 8192 slots, while its blocks are live; live over 2 MiB is "
              "the fewest there could be.");
        std::vector<std::vector<Series>> series;
        for (const char *iterations : {"100000", "10000000"}) {
            series.push_back(take("random_mixed_worker",
                                  {iterations, "1040", "42", "--min-size=16", "--slots=8192"}));
        }
        Table table({"allocator", "live MiB", "live over 2 MiB", "after 100 000 iterations",
                     "after 10 000 000", "peak RSS MiB", "peak RSS MiB"});
        for (size_t a = 0; a < allocators_.size(); a++) {
            if (row_failed(&table, a, series[0][a]) || row_failed(&table, a, series[1][a])) {
                continue;
            }
            // Sizes are uniform over 16 to 1040 bytes.
            const double live = median(series[1][a].reported("live_blocks")) * 528;
            std::vector<std::string> row = {allocators_[a].name, format("%.2f", live / 0x1p20),
                                            format("%.0f", std::ceil(live / 0x1p21))};
            for (const auto &one : series) {
                const double count = median(one[a].reported("superslabs"));
                row.push_back(count < 0 ? "-" : format("%.0f", count));
            }
            for (const auto &one : series) {
                row.push_back(mebibytes(one[a].peak_rss_kib()));
            }
            table.row(row);
        }
        end(table, series[1]);
    }

    void forks() {
        const std::string count = quick_ ? "140" : "1000";
        begin("fork", "Forks",
              "A process with 16 busy threads forks trees of 7 processes, each of which allocates "
              "and frees, until there were " +
                  count + " children.");
        const auto series = take("memory_worker", {"fork", "--count=" + count});
        Table table({"allocator", "children done", "trees failed", "trees hung", "seconds"});
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Series &of = series[a];
            if (!row_failed(&table, a, of)) {
                table.row({allocators_[a].name, grouped(of.reported("children").back()),
                           grouped(of.reported("trees_failed").back()),
                           grouped(of.reported("trees_hung").back()),
                           format("%.1f", of.reported("seconds").back())});
            }
        }
        end(table, series);
    }

    void limit() {
        begin("limit", "Limits",
              "Small blocks until there are no more (or 2 GiB of them), all freed, and so again; "
              "MiB had the first and the second\ntime, and whether a block of 16 MiB could be had "
              "afterwards. HAKMEM_LIMIT is hakmem's own setting.");
        std::vector<std::string> heading = {"allocator"};
        std::vector<uint64_t> limits = {64, 256, 1024};
        for (const uint64_t mib : limits) {
            heading.push_back("RLIMIT_AS " + std::to_string(mib) + " MiB");
        }
        heading.emplace_back("HAKMEM_LIMIT 256 MiB");
        Table table(heading);
        std::vector<Json> lines;
        for (const Allocator &allocator : allocators_) {
            std::vector<std::string> row = {allocator.name};
            for (const uint64_t mib : limits) {
                row.push_back(limited(allocator, mib << 20));
            }
            if (allocator.flavour.empty()) {
                row.emplace_back("-");
            } else {
                Allocator limited_itself = allocator;
                limited_itself.environment.push_back("HAKMEM_LIMIT=268435456");
                row.push_back(limited(limited_itself, 0));
            }
            table.row(row);
            std::vector<Json> cells(row.begin(), row.end());
            lines.push_back(Json::array(cells));
        }
        print(table.text());
        json_.push_back(Json::object({{"scenario", scenario_}, {"rows", Json::array(lines)}}));
    }

    const std::string &text() const { return text_; }
    Json json() const {
        return Json::object({{"benchmark", "memory"},
                             {"machine", machine_json()},
                             {"quick", quick_ ? 1.0 : 0.0},
                             {"runs", static_cast<double>(runs_)},
                             {"scenarios", Json::array(json_)}});
    }

  private:
    void print(const std::string &text) {
        text_ += text;
        std::cout << text << std::flush;
    }

    void begin(const char *scenario, const char *title, const std::string &what) {
        scenario_ = scenario;
        print(std::string("\n## ") + title + "\n\n" + what + "\n\n");
    }

    // All allocators, interleaved. One that fails is left out of the rounds to come.
    std::vector<Series> take(const std::string &worker, const std::vector<std::string> &arguments) {
        std::vector<Series> series(allocators_.size());
        errors_.assign(allocators_.size(), "");
        for (uint64_t round = 0; round < runs_; round++) {
            for (const size_t a : order_of_round(allocators_.size(), round)) {
                if (!errors_[a].empty()) {
                    continue;
                }
                Report report;
                const Outcome outcome = run_worker(worker, arguments, allocators_[a], &report);
                errors_[a] = outcome.error;
                series[a].outcomes.push_back(outcome);
                series[a].reports.push_back(report);
            }
        }
        return series;
    }

    bool row_failed(Table *table, size_t a, const Series &series) {
        for (const Outcome &outcome : series.outcomes) {
            if (!outcome.error.empty()) {
                table->row({allocators_[a].name, "failed: " + outcome.error});
                return true;
            }
        }
        return false;
    }

    std::string limited(const Allocator &allocator, uint64_t bytes) {
        Command command;
        command.argv = {built_file("benchmarks/memory_worker"), "limit"};
        command.address_space = bytes;
        Outcome outcome = run(command, allocator);
        const Report report = parse_report(outcome.out);
        if (outcome.error.empty()) {
            outcome.error = check_allocator(report, allocator);
        }
        if (!outcome.error.empty()) {
            return "failed: " + outcome.error;
        }
        return report.at("first_mib") + ", " + report.at("second_mib") +
               (report_number(report, "large_afterwards") != 0 ? ", yes" : ", no");
    }

    void end(const Table &table, const std::vector<Series> &series) {
        print(table.text());
        std::vector<Json> lines;
        for (size_t a = 0; a < allocators_.size(); a++) {
            std::vector<Json> runs;
            for (size_t i = 0; i < series[a].reports.size(); i++) {
                std::vector<std::pair<std::string, Json>> members;
                for (const auto &[key, value] : series[a].reports[i]) {
                    if (key != "rss") {
                        members.emplace_back(key, value);
                    }
                }
                members.emplace_back("error", series[a].outcomes[i].error);
                members.emplace_back("peak_rss_kib",
                                     static_cast<double>(series[a].outcomes[i].rss_kib));
                members.emplace_back("faults", static_cast<double>(series[a].outcomes[i].faults));
                runs.push_back(Json::object(members));
            }
            lines.push_back(
                Json::object({{"allocator", allocators_[a].name}, {"runs", Json::array(runs)}}));
        }
        json_.push_back(Json::object({{"scenario", scenario_}, {"results", Json::array(lines)}}));
    }

    void chart(const char *title, const std::vector<Series> &series) {
        LineChart chart;
        chart.title = title;
        chart.x_label = "seconds";
        chart.y_label = "RSS, MiB";
        for (size_t a = 0; a < allocators_.size(); a++) {
            if (!series[a].outcomes.empty()) {
                chart.series.emplace_back(allocators_[a].name,
                                          rss_curve(series[a].outcomes[0].out));
            }
        }
        const std::string missing = draw(chart, out_ + "/memory-" + scenario_);
        if (missing.empty()) {
            print(std::string("\n![") + title + "](memory-" + scenario_ + ".svg)\n");
        } else {
            std::fprintf(stderr, "memory: no chart: %s\n", missing.c_str());
        }
    }

    std::vector<Allocator> allocators_;
    uint64_t runs_;
    bool quick_;
    std::string out_;
    std::string scenario_;
    std::vector<std::string> errors_;
    std::string text_;
    std::vector<Json> json_;
};

struct Scenario {
    const char *name;
    void (Measurements::*run)();
};
const std::vector<Scenario> kScenarios = {
    {"peak", &Measurements::peak},
    {"queue", &Measurements::queue},
    {"sequence", &Measurements::sequence},
    {"idle", &Measurements::idle},
    {"latency", &Measurements::latency},
    {"process", &Measurements::process},
    {"superslabs", &Measurements::superslabs},
    {"fork", &Measurements::forks},
    {"limit", &Measurements::limit},
};

} // namespace

int main(int argc, char **argv) {
    uint64_t runs = 1;
    bool quick = false;
    std::string names = "hakmem_c23,system,rivals";
    std::string scenarios = "peak,queue,sequence,idle,latency,process,superslabs,fork,limit";
    std::string out = "memory-results";
    Flags flags("memory", "Measures what allocators hold, and for how long.");
    flags.toggle("quick", &quick, "smaller and shorter, for a first look");
    flags.text("scenarios", "LIST", &scenarios, "which");
    flags.allocators(&names);
    flags.number("runs", 1, 1000, &runs, "rounds of each scenario; medians, of latencies minima");
    flags.text("out", "DIR", &out, "where memory.json, memory.md and the charts go");
    flags.parse(argc, argv);
    const std::vector<Allocator> allocators = chosen_allocators(flags, names);
    const auto chosen = flags.choose(scenarios, kScenarios);
    out = flags.make_directory(out);

    Measurements measurements(allocators, runs, quick, out);
    for (const Scenario &scenario : chosen) {
        (measurements.*scenario.run)();
    }
    const std::string text =
        "# memory\n\n" + machine_text() + "\n" + allocators_text(allocators) + measurements.text();
    return write_results("memory", out, text, measurements.json()) ? 0 : 1;
}
