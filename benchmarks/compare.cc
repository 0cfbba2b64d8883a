// SPDX-License-Identifier: Apache-2.0
// compare: any set of programs on any set of allocators, interleaved; time, CPU, peak RSS, page
// faults and system calls as ratios to one of them.
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/chart.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>

using namespace bench;

namespace {

// What can be run. An argument "@FILE" is a file of benchmarks/programs, "%NAME" is the path of a
// program on this machine.
struct Program {
    const char *name;
    bool is_worker; // one of this build, which reports who served it
    std::vector<std::string> argv;
    const char *input;
    std::vector<std::string> environment;
    const char *what;
};

const std::vector<Program> &all_programs() {
    static const std::vector<Program> list = {
        {"random-small",
         true,
         {"random_mixed_worker", "10000000", "256", "42"},
         "",
         {},
         "random_mixed, 129-256 B, 256 slots"},
        {"random-mixed",
         true,
         {"random_mixed_worker", "10000000", "1040", "42", "--min-size=16", "--slots=8192"},
         "",
         {},
         "random_mixed, 16-1040 B, 8192 slots"},
        {"random-many",
         true,
         {"random_mixed_worker", "10000000", "1040", "42", "--min-size=16", "--slots=100000"},
         "",
         {},
         "random_mixed, 16-1040 B, 100 000 slots"},
        {"larson",
         true,
         {"larson_worker"},
         "",
         {},
         "server, 2 threads that hand over their blocks"},
        {"larson-8",
         true,
         {"larson_worker", "--threads=8", "--generations=8"},
         "",
         {},
         "the same, 8 threads"},
        {"xmalloc", true, {"xmalloc_worker"}, "", {}, "1 producer, 1 consumer"},
        {"xmalloc-8", true, {"xmalloc_worker", "--threads=8"}, "", {}, "4 producers, 4 consumers"},
        {"cache-thrash",
         true,
         {"cache_sharing_worker", "thrash"},
         "",
         {},
         "cache lines shared by two threads' new blocks"},
        {"cache-scratch",
         true,
         {"cache_sharing_worker", "scratch"},
         "",
         {},
         "cache lines shared through freed blocks"},
        {"alloc-test", true, {"alloc_test_worker"}, "", {}, "long-tailed sizes and lifetimes"},
        {"alloc-test-2",
         true,
         {"alloc_test_worker", "--threads=2"},
         "",
         {},
         "the same in 2 threads"},
        {"sh6-like", true, {"batches_worker"}, "", {}, "batches of small blocks"},
        {"sh8-like",
         true,
         {"batches_worker", "--shared=1", "--threads=4", "--passes=500"},
         "",
         {},
         "batches, partly freed by other threads"},
        {"growth", true, {"growth_worker"}, "", {}, "mstress-like: large blocks, hand-over"},
        {"simple", true, {"simple_worker"}, "", {}, "tight loop over one size at a time"},
        {"realloc-vector", true, {"realloc_vector_worker"}, "", {}, "vectors that grow by realloc"},
        {"containers", true, {"containers_worker"}, "", {}, "C++ containers and strings"},
        {"string-table", true, {"string_table_worker"}, "", {}, "strdup, nodes, calloc, realloc"},
        {"python3",
         false,
         {"%python3", "-S", "@objects.py"},
         "",
         {"PYTHONMALLOC=malloc", "PYTHONHASHSEED=1"},
         "every object from malloc; 8 threads"},
        {"perl", false, {"%perl", "@strings.pl"}, "", {"PERL_HASH_SEED=1"}, "hashes and strings"},
        {"lua", false, {"%lua5.4", "@tables.lua"}, "", {}, "tables, strings, coroutines"},
        {"sqlite3", false, {"%sqlite3", ":memory:"}, "@tables.sql", {}, "200 000 rows in memory"},
        {"jq", false, {"%jq", "-n", "-f", "@objects.jq"}, "", {}, "JSON objects"},
        {"g++",
         false,
         {"%g++", "-std=c++17", "-O1", "-c", "@templates.cc", "-o", "/dev/null"},
         "",
         {},
         "templates"},
        {"gs",
         false,
         {"%gs", "-q", "-dSAFER", "-dBATCH", "-dNOPAUSE", "-sDEVICE=ppmraw", "-r100",
          "-sOutputFile=/dev/null", "@pages.ps"},
         "",
         {},
         "PostScript to pixels"},
        {"z3", false, {"%z3", "@factor.smt2"}, "", {}, "SAT over bit vectors"},
        {"memcached",
         false,
         {"memcached_load", "%memcached"},
         "",
         {},
         "a server under load; CPU includes its client's"},
    };
    return list;
}

// The programs by whose time or memory no size, threshold or default was chosen, by the record of
// results/changes.md: they are looked at when all is done.
bool is_held_out(const Program &program) {
    for (const char *name : {"g++", "gs", "z3", "memcached"}) {
        if (name == std::string(program.name)) {
            return true;
        }
    }
    return false;
}

// A program, ready to run.
struct Runnable {
    const Program *program;
    Command command;
};

// Fills in the command; returns an empty text, or what is missing.
std::string resolve(const Program &program, Runnable *out) {
    out->program = &program;
    out->command.environment = program.environment;
    for (size_t i = 0; i < program.argv.size(); i++) {
        const std::string &argument = program.argv[i];
        std::string text = argument;
        if (argument[0] == '%') {
            text = find_program(argument.substr(1));
        } else if (argument[0] == '@') {
            text = built_file("benchmarks/programs/" + argument.substr(1));
        } else if (i == 0) {
            text = built_file("benchmarks/" + argument);
        }
        if (text.empty()) {
            return argument.substr(argument[0] == '%' || argument[0] == '@') + " is not here";
        }
        out->command.argv.push_back(text);
    }
    if (program.input[0] == '@') {
        out->command.input = built_file(std::string("benchmarks/programs/") + (program.input + 1));
    }
    return "";
}

// Runs a program that cannot say itself who serves it with the loader's log of symbol bindings.
std::string check_bindings(const Command &command, const Allocator &allocator) {
    const ScratchDirectory scratch;
    Command logged = command;
    logged.environment.push_back("LD_DEBUG=bindings");
    logged.environment.push_back("LD_DEBUG_OUTPUT=" + scratch.path() + "/log");
    const Outcome outcome = run(logged, allocator);
    if (!outcome.error.empty()) {
        return outcome.error;
    }
    bool bound = false;
    for (const auto &entry : std::filesystem::directory_iterator(scratch.path())) {
        std::ifstream lines(entry.path());
        for (std::string line; std::getline(lines, line);) {
            const size_t to = line.find(" to ");
            if (to == std::string::npos || line.find("symbol `malloc'") == std::string::npos) {
                continue;
            }
            const std::string target = line.substr(to + 4, line.find(" [", to) - to - 4);
            if (target == allocator.preload) {
                bound = true;
            } else if (target.find("/libc.so") != std::string::npos) {
                return "one of its processes is served by " + target;
            }
        }
    }
    return bound ? "" : "none of its processes is served by " + allocator.preload;
}

enum Metric { kTime, kCpu, kRss, kFaults, kSyscalls, kMetrics };

struct MetricInfo {
    const char *name, *title, *unit;
    double scale; // from what is kept to the unit
    const char *pattern;
};
constexpr MetricInfo kInfo[kMetrics] = {
    {"time", "Time", "s", 1, "%.3f"},
    {"cpu", "CPU time, user and system", "s", 1, "%.3f"},
    {"rss", "Peak RSS", "MiB", 1.0 / 1024, "%.1f"},
    {"faults", "Page faults", "", 1, "%.0f"},
    {"syscalls", "System calls", "", 1, "%.0f"},
};

// What a program did on one allocator.
struct Cell {
    std::string error;
    Sample values[kMetrics];
};

class Comparison {
  public:
    Comparison(std::vector<Runnable> programs, std::vector<Allocator> allocators, size_t baseline,
               Statistic statistic, uint64_t runs, double timeout_s, bool syscalls)
        : programs_(std::move(programs)), allocators_(std::move(allocators)), baseline_(baseline),
          statistic_(statistic), runs_(runs), syscalls_(syscalls),
          cells_(programs_.size(), std::vector<Cell>(allocators_.size())) {
        for (Runnable &runnable : programs_) {
            runnable.command.timeout_s = timeout_s;
        }
    }

    // A program after the other; in each, an allocator after the other in every round.
    void measure() {
        for (size_t p = 0; p < programs_.size(); p++) {
            std::fprintf(stderr, "[%zu/%zu] %s", p + 1, programs_.size(),
                         programs_[p].program->name);
            warm_up(p);
            for (uint64_t round = 0; round < runs_; round++) {
                std::fputc('.', stderr);
                for (const size_t a : order_of_round(allocators_.size(), round)) {
                    take(p, a);
                }
            }
            for (size_t a = 0; a < allocators_.size(); a++) {
                count(p, a);
            }
            std::fputc('\n', stderr);
            for (size_t a = 0; a < allocators_.size(); a++) {
                if (!cells_[p][a].error.empty()) {
                    std::fprintf(stderr, "  %s: %s\n", allocators_[a].name.c_str(),
                                 cells_[p][a].error.c_str());
                }
            }
        }
    }

    std::string table(Metric metric) const {
        std::vector<std::string> heading = {
            "program",
            allocators_[baseline_].name +
                (kInfo[metric].unit[0] != '\0' ? std::string(" ") + kInfo[metric].unit : "")};
        for (size_t a = 0; a < allocators_.size(); a++) {
            if (a != baseline_) {
                heading.push_back(allocators_[a].name);
            }
        }
        Table table(heading);
        for (size_t p = 0; p < programs_.size(); p++) {
            const Cell &base = cells_[p][baseline_];
            const bool known = base.error.empty() && !base.values[metric].empty();
            std::vector<std::string> row = {
                programs_[p].program->name,
                known ? format(kInfo[metric].pattern,
                               kInfo[metric].scale * summarize(base.values[metric], statistic_))
                      : "failed"};
            for (size_t a = 0; a < allocators_.size(); a++) {
                if (a != baseline_) {
                    const auto interval = of_program(p, a, metric);
                    row.push_back(!cells_[p][a].error.empty() ? "failed" : shown(interval, metric));
                }
            }
            table.row(row);
        }
        for (const bool held_out : {false, true}) {
            const size_t count = complete(metric, held_out).size();
            if (held_out && (count == 0 || count == complete(metric).size())) {
                continue;
            }
            std::vector<std::string> row = {
                format(held_out ? "held out, geomean of %zu" : "geomean of %zu", count), "1"};
            for (size_t a = 0; a < allocators_.size(); a++) {
                if (a != baseline_) {
                    row.push_back(shown(of_all(a, metric, held_out), metric));
                }
            }
            table.row(row);
        }
        return table.text();
    }

    bool has(Metric metric) const {
        for (size_t p = 0; p < programs_.size(); p++) {
            if (known(p, baseline_, metric)) {
                return true;
            }
        }
        return false;
    }

    RatioChart chart(Metric metric) const {
        RatioChart chart;
        chart.title =
            std::string(kInfo[metric].title) + ", " + allocators_[baseline_].name + " = 1";
        chart.label = "ratio (less is better)";
        for (const Runnable &runnable : programs_) {
            chart.categories.emplace_back(runnable.program->name);
        }
        chart.categories.emplace_back("GEOMEAN");
        for (size_t a = 0; a < allocators_.size(); a++) {
            if (a == baseline_) {
                continue;
            }
            std::vector<std::optional<Interval>> values;
            for (size_t p = 0; p < programs_.size(); p++) {
                values.push_back(of_program(p, a, metric));
            }
            values.push_back(of_all(a, metric));
            chart.series.emplace_back(allocators_[a].name, values);
        }
        return chart;
    }

    Json json() const {
        std::vector<Json> programs;
        for (size_t p = 0; p < programs_.size(); p++) {
            std::vector<Json> results;
            for (size_t a = 0; a < allocators_.size(); a++) {
                const Cell &cell = cells_[p][a];
                std::vector<std::pair<std::string, Json>> members = {
                    {"allocator", allocators_[a].name}, {"error", cell.error}};
                for (int m = 0; m < kMetrics; m++) {
                    members.emplace_back(kInfo[m].name, cell.values[m]);
                }
                results.push_back(Json::object(members));
            }
            std::vector<Json> argv;
            for (const std::string &argument : programs_[p].command.argv) {
                argv.emplace_back(argument);
            }
            programs.push_back(Json::object({{"program", programs_[p].program->name},
                                             {"command", Json::array(argv)},
                                             {"results", Json::array(results)}}));
        }
        std::vector<Json> preloads;
        for (const Allocator &allocator : allocators_) {
            preloads.push_back(
                Json::object({{"name", allocator.name}, {"preload", allocator.preload}}));
        }
        return Json::object({{"benchmark", "compare"},
                             {"machine", machine_json()},
                             {"baseline", allocators_[baseline_].name},
                             {"statistic", statistic_name()},
                             {"runs", static_cast<double>(runs_)},
                             {"units", "seconds, KiB, counts"},
                             {"allocators", Json::array(preloads)},
                             {"programs", Json::array(programs)}});
    }

    std::string failures() const {
        std::string text;
        for (size_t p = 0; p < programs_.size(); p++) {
            for (size_t a = 0; a < allocators_.size(); a++) {
                if (!cells_[p][a].error.empty()) {
                    text += std::string("- ") + programs_[p].program->name + " on " +
                            allocators_[a].name + ": " + cells_[p][a].error + "\n";
                }
            }
        }
        return text;
    }

    std::string explanation() const {
        return format(
            "Each cell: the %s of %lu interleaved runs, over that of %s, and a 95 %% "
            "interval (a bootstrap\nover rounds). Less is better. A geomean is over the "
            "programs that ran on all allocators. RSS is of a\nprogram's largest process; "
            "CPU time and faults are of all its processes. System calls are counted by\n"
            "strace in a run of its own.\n",
            statistic_name(), static_cast<unsigned long>(runs_),
            allocators_[baseline_].name.c_str());
    }

    const std::vector<Allocator> &allocators() const { return allocators_; }
    const std::string &no_syscalls() const { return no_syscalls_; }

  private:
    const char *statistic_name() const {
        return statistic_ == Statistic::kMinimum ? "minimum" : "median";
    }

    // A run that is not measured: it brings the files into memory, and shows that the program runs
    // on the allocator and not on another one.
    void warm_up(size_t p) {
        std::optional<std::string> output;
        // The baseline first, to which the others' output is compared.
        for (size_t i = 0; i < allocators_.size(); i++) {
            const size_t a = (i + baseline_) % allocators_.size();
            const Runnable &runnable = programs_[p];
            Cell &cell = cells_[p][a];
            const Outcome outcome = run(runnable.command, allocators_[a]);
            cell.error = outcome.error;
            if (!cell.error.empty()) {
                continue;
            }
            if (runnable.program->is_worker) {
                cell.error = check_allocator(parse_report(outcome.out), allocators_[a]);
                continue;
            }
            if (!allocators_[a].preload.empty()) {
                cell.error = check_bindings(runnable.command, allocators_[a]);
            }
            if (!output.has_value()) {
                output = outcome.out;
            } else if (cell.error.empty() && outcome.out != *output) {
                cell.error = "its output is not that of the others";
            }
        }
    }

    void take(size_t p, size_t a) {
        Cell &cell = cells_[p][a];
        if (!cell.error.empty()) {
            return;
        }
        Command command = programs_[p].command;
        command.warm_mib = kWarmMib;
        const Outcome outcome = run(command, allocators_[a]);
        cell.error = outcome.error;
        cell.values[kTime].push_back(outcome.wall_s);
        cell.values[kCpu].push_back(outcome.cpu_s);
        cell.values[kRss].push_back(static_cast<double>(outcome.rss_kib));
        cell.values[kFaults].push_back(static_cast<double>(outcome.faults));
    }

    void count(size_t p, size_t a) {
        Cell &cell = cells_[p][a];
        if (!syscalls_ || !cell.error.empty()) {
            return;
        }
        std::string why;
        const long calls = count_syscalls(programs_[p].command, allocators_[a], &why);
        if (calls >= 0) {
            cell.values[kSyscalls].push_back(static_cast<double>(calls));
        } else {
            no_syscalls_ = why;
        }
    }

    bool known(size_t p, size_t a, Metric metric) const {
        return cells_[p][a].error.empty() && !cells_[p][a].values[metric].empty();
    }

    std::optional<Interval> of_program(size_t p, size_t a, Metric metric) const {
        if (!known(p, a, metric) || !known(p, baseline_, metric)) {
            return std::nullopt;
        }
        return ratio(cells_[p][a].values[metric], cells_[p][baseline_].values[metric], statistic_);
    }

    bool ran_at_all(size_t a, Metric metric) const {
        for (size_t p = 0; p < programs_.size(); p++) {
            if (known(p, a, metric)) {
                return true;
            }
        }
        return false;
    }

    // The programs that every allocator has a figure for; but one that has none at all does not
    // count.
    std::vector<size_t> complete(Metric metric, bool held_out = false) const {
        std::vector<size_t> list;
        for (size_t p = 0; p < programs_.size(); p++) {
            bool all = !held_out || is_held_out(*programs_[p].program);
            for (size_t a = 0; a < allocators_.size(); a++) {
                all = all && (known(p, a, metric) || !ran_at_all(a, metric));
            }
            if (all) {
                list.push_back(p);
            }
        }
        return list;
    }

    std::optional<Interval> of_all(size_t a, Metric metric, bool held_out = false) const {
        std::vector<Sample> samples;
        std::vector<Sample> baselines;
        if (!ran_at_all(a, metric) || !ran_at_all(baseline_, metric)) {
            return std::nullopt;
        }
        for (const size_t p : complete(metric, held_out)) {
            samples.push_back(cells_[p][a].values[metric]);
            baselines.push_back(cells_[p][baseline_].values[metric]);
        }
        if (samples.empty()) {
            return std::nullopt;
        }
        return geomean_ratio(samples, baselines, statistic_);
    }

    static std::string shown(const std::optional<Interval> &interval, Metric metric) {
        if (!interval.has_value()) {
            return "-";
        }
        if (metric == kSyscalls) {
            return format("%.2f", interval->value);
        }
        return format("%.2f [%.2f, %.2f]", interval->value, interval->low, interval->high);
    }

    std::vector<Runnable> programs_;
    std::vector<Allocator> allocators_;
    size_t baseline_;
    Statistic statistic_;
    uint64_t runs_;
    bool syscalls_;
    std::string no_syscalls_; // why there are none
    std::vector<std::vector<Cell>> cells_;
};

// The programs named in a list; "workloads" and "real" stand for all of a kind, "held-out" for
// those that nothing was tuned on, an empty list for all. Programs that are not on this machine are
// left out, with a line, unless named.
std::vector<Runnable> choose(const std::string &list, const Flags &flags) {
    std::vector<Runnable> chosen;
    std::vector<std::string> names = split_list(list);
    if (list.empty()) {
        names = {"workloads", "real"};
    }
    for (const std::string &name : names) {
        bool found = false;
        for (const Program &program : all_programs()) {
            const bool named = name == program.name;
            const bool of_group = name == (program.is_worker ? "workloads" : "real") ||
                                  (name == "held-out" && is_held_out(program));
            if (!named && !of_group) {
                continue;
            }
            found = true;
            Runnable runnable;
            const std::string missing = resolve(program, &runnable);
            if (missing.empty()) {
                chosen.push_back(runnable);
            } else if (named) {
                flags.fail(name + ": " + missing);
            } else {
                std::fprintf(stderr, "compare: without %s: %s\n", program.name, missing.c_str());
            }
        }
        if (!found) {
            flags.fail("no program \"" + name + "\"; --list names them");
        }
    }
    if (chosen.empty()) {
        flags.fail("no program named");
    }
    return chosen;
}

} // namespace

int main(int argc, char **argv) {
    uint64_t runs = 5;
    uint64_t timeout_s = 120;
    bool list = false;
    bool no_syscalls = false;
    std::string programs;
    std::string names = "hakmem_c23,system,rivals";
    std::string baseline;
    std::string statistic_name = "min";
    std::string out = "compare-results";
    Flags flags("compare", "Runs programs on allocators, interleaved, and prints ratios.");
    flags.text("programs", "LIST", &programs,
               "of those that --list names, workloads, real, held-out (default all)");
    flags.allocators(&names);
    flags.number("runs", 1, 10000, &runs, "rounds");
    flags.text("baseline", "NAME", &baseline,
               "allocator that is 1, as in --allocators or by its column's name (default system, "
               "or the last)");
    flags.text("statistic", "min|median", &statistic_name, "what runs are summed up by");
    flags.text("out", "DIR", &out, "where compare.json, compare.md and the charts go");
    flags.number("timeout", 1, 100000, &timeout_s, "seconds that a run may take");
    flags.toggle("no-syscalls", &no_syscalls, "do not run everything once more under strace");
    flags.toggle("list", &list, "print the programs and end");
    flags.parse(argc, argv);
    if (list) {
        Table table({"program", "what"});
        for (const Program &program : all_programs()) {
            table.row({program.name,
                       std::string(program.what) + (is_held_out(program) ? " (held out)" : "")});
        }
        std::cout << table.text();
        return 0;
    }
    if (statistic_name != "min" && statistic_name != "median") {
        flags.fail("--statistic is min or median");
    }
    const std::vector<Allocator> allocators = chosen_allocators(flags, names);
    size_t base = place_of(allocators, baseline.empty() ? "system" : baseline);
    if (base == allocators.size()) {
        if (!baseline.empty()) {
            flags.fail("the baseline \"" + baseline + "\" is not one of the allocators");
        }
        base--;
    }
    std::vector<Runnable> chosen = choose(programs, flags);
    out = flags.make_directory(out);

    Comparison comparison(std::move(chosen), allocators, base,
                          statistic_name == "min" ? Statistic::kMinimum : Statistic::kMedian, runs,
                          static_cast<double>(timeout_s), !no_syscalls);
    comparison.measure();

    std::string text = "# compare\n\n" + machine_text() + "\n" + comparison.explanation() + "\n" +
                       allocators_text(allocators);
    std::string charts_missing;
    for (int m = 0; m < kMetrics; m++) {
        const auto metric = static_cast<Metric>(m);
        if (!comparison.has(metric)) {
            continue;
        }
        text += std::string("\n## ") + kInfo[m].title + "\n\n" + comparison.table(metric);
        if (allocators.size() > 1) {
            const std::string missing =
                draw(comparison.chart(metric), out + "/compare-" + kInfo[m].name);
            if (missing.empty()) {
                text +=
                    std::string("\n![") + kInfo[m].title + "](compare-" + kInfo[m].name + ".svg)\n";
            } else {
                charts_missing = missing;
            }
        }
    }
    const std::string failures = comparison.failures();
    if (!failures.empty()) {
        text += "\n## Failures\n\n" + failures;
    }
    std::cout << text;
    if (!no_syscalls && !comparison.no_syscalls().empty()) {
        std::fprintf(stderr, "compare: some system calls are missing: %s\n",
                     comparison.no_syscalls().c_str());
    }
    if (!charts_missing.empty()) {
        std::fprintf(stderr, "compare: no charts: %s\n", charts_missing.c_str());
    }
    return write_results("compare", out, text, comparison.json()) ? 0 : 1;
}
