// SPDX-License-Identifier: Apache-2.0
// shapes: what each allocator holds for programs whose sizes change, that sleep, that share memory
// out over threads; how many page faults, system calls and mappings that takes, and how much time.
//
// A shape is a row of `kShapes`: the steps that workers/shapes/shapes.c takes.
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/chart.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>
#include <unistd.h>

using namespace bench;

namespace {

struct Shape {
    const char *name, *title;
    std::string steps;
};

// The steps once for each size, which stands for {}.
std::string for_each(const std::vector<const char *> &sizes, const std::string &steps) {
    std::string text;
    for (const char *size : sizes) {
        std::string one = steps;
        text += (text.empty() ? "" : ",") + one.replace(one.find("{}"), 2, size);
    }
    return text;
}

const std::vector<Shape> kShapes = {
    {"switch-22k", "256 MiB of 64 B freed, then 200 MiB of 22,500 B",
     "fill=64:256M%,mark=full,free,once=100000:1,mark=freed,fill=22500:200M%,mark=end"},
    {"switch-33k", "256 MiB of 64 B freed, then 200 MiB of 33,000 B",
     "fill=64:256M%,mark=full,free,once=100000:1,mark=freed,fill=33000:200M%,mark=end"},
    {"switch-70k", "256 MiB of 64 B freed, then 200 MiB of 70,000 B",
     "fill=64:256M%,mark=full,free,once=100000:1,mark=freed,fill=70000:200M%,mark=end"},
    {"cache-9k", "a cache of 150 MiB, blocks of 9-32 KiB, evicted at random",
     "cache=9K~32K:150M%:1500M%,mark=end"},
    {"cache-33k", "a cache of 150 MiB, blocks of 33-65 KiB, evicted at random",
     "cache=33K~65K:150M%:1500M%,mark=end"},
    {"cache-66k", "a cache of 150 MiB, blocks of 66-130 KiB, evicted at random",
     "cache=66K~130K:150M%:1500M%,mark=end"},
    {"values", "values that grow as they are overwritten, 40 B to 6 KiB",
     "values=100000%:2600000%:40-6K,mark=end"},
    {"drift", "400,000 slots, sizes that drift upwards from 50 to 500 B",
     "drift=400000%:5000000%:50~500,mark=end"},
    {"web", "requests' scratch of 16 B to 16 KiB, sessions of 64 B to 20 KiB kept",
     "20000%*[fill=16~16K:100K,cache=64~20K:100M%:20K,free],mark=end"},
    {"turns", "12 sizes in turn, 120 MiB each, one of 33 survives",
     for_each(
         {"32", "64", "96", "160", "256", "400", "640", "1000", "1600", "2500", "4000", "6400"},
         "fill={}:120M%,keep=33") +
         ",mark=end"},
    {"shrunk", "read buffers of 256 KiB shrunk by realloc to 40-200 KiB",
     "shrink=256K:40K-200K:200M%,mark=end,quiet=2000,mark=later"},
    {"odd-16k", "200 MiB of 16,385 B", "fill=16385:200M%,mark=end"},
    {"aligned-20k", "200 MiB of posix_memalign(4096, 20,480)", "align=20480:4096:200M%,mark=end"},
    {"asleep-large", "asleep after 200 MiB of 33-300 KiB were freed",
     "fill=33K-300K:200M%,mark=full,free,mark=freed,sleep=5000,mark=asleep"},
    {"asleep-small", "asleep after 200 MiB of 16-400 B were freed but for one of 10,000",
     "fill=16-400:200M%,mark=full,keep=10000,mark=freed,sleep=5000,mark=asleep"},
    {"blocked-small", "4 threads that wait for good after 200 MiB each, 16-400 B",
     "threads=4,fill=16-400:200M%,mark=full,free,mark=freed,sleep=2000,mark=blocked"},
    {"blocked-30k", "4 threads that wait for good after 200 MiB each, 16 B to 30 KiB",
     "threads=4,fill=16~30K:200M%,mark=full,free,mark=freed,sleep=2000,mark=blocked"},
    {"bursts", "10 bursts of 150 MiB of 0.1-1 MiB, 1 s apart",
     "9*[fill=100K-1M:150M%,free,sleep=1000],fill=100K-1M:150M%,mark=full,free,sleep=1000,"
     "mark=asleep"},
    {"calloc", "30 tables of 4 MiB by calloc, 20 pages of each used, replaced 300 times",
     "tables=30:4M%:80K%:300,mark=end"},
    {"moved", "40,000 blocks of 1 MB, a page of each used, grown to 1.4 MB by realloc",
     "buffers=40000%:1000000:4096:0,mark=before,grow=1400000,mark=end"},
    {"many-large", "80,000 blocks of 1 MB, a page of each used",
     "buffers=80000%:1000000:4096:0,mark=end"},
    {"idle-threads", "1,000 threads that used each of 256 sizes once and wait",
     "threads=1000%,once=16-2K:128,once=2K-32K:128,mark=used,sleep=2000,mark=idle"},
    {"side", "16 buffers grown side by side to 8 MiB, by 4 KiB", "side=16:8M%:4K,mark=end"},
    {"temporaries", "30 temporaries of 84 MB", "30*[fill=84000000%:84000000%,free],mark=end"},
    {"pinned", "400 MiB of 64-1024 B, one of 40 stays",
     "fill=64-1K:400M%,mark=full,keep=40,mark=pinned,quiet=5000,mark=later"},
    {"peak", "4 threads' 300 MiB of mixed sizes, one of 20 stays",
     "threads=4,fill=mixed:75M%,mark=full,keep=20,mark=thinned,quiet=2000,mark=later"},
    {"pool", "tasks of 14 MiB on 24 threads in turn",
     "threads=24,72*[turn,fill=16-1000:14M%,free],turn,fill=16-1000:14M%,mark=full,free,mark=end"},
    {"slow", "300 MiB, one of 5 stays and is replaced at random for 3 s",
     "fill=16~4K:300M%,mark=full,keep=5,60*[cache=16~4K:60M%:1M%,sleep=50],mark=end"},
    {"threads", "500 threads, one after the other, of whose 4 MiB one block of 10 stays",
     "500*[threads=1,fill=mixed:4M%,keep=10,end],mark=end"},
    {"fork", "a forked child replaces 20 of 100 MiB, then frees all: memory of its own",
     "fill=16~4K:200M%,keep=2,fork,cache=16~4K:100M%:20M%,mark=replaced,drop,mark=freed"},
    {"trim", "300 MiB of mixed sizes, one of 10 stays, malloc_trim",
     "fill=mixed:300M%,mark=full,keep=10,mark=thinned,trim,mark=trimmed"},
    {"lsm", "LSM tree: memtables of 30-230 B, a cache of 4-64 KiB blocks",
     "30*[fill=30-230:16M%,cache=4K~64K:150M%:16M%,free],mark=end"},
    {"json", "4 threads with trees of 16-256 B nodes, 16 KiB to 2 MiB each",
     "threads=4,group=16~256:16K~2M%:40M%:400M%,mark=end"},
    {"arenas", "arenas of chunks that double from 4 KiB to 1 MiB",
     "group=4K^1M:64K~8M:150M%:1500M%,mark=end"},
    {"handoff", "3 threads allocate what a fourth frees",
     "threads=4,handoff=16~4K:10M%:30,mark=done,quiet=1000,mark=later"},
    {"connections", "2,000 buffers of 64-256 KiB, 8 KiB of each used, replaced 20,000 times",
     "buffers=2000%:64K~256K:8K:20000%,mark=end"},
};

// What is to be held to.
constexpr double kOverBest = 1.15;
constexpr double kMostMappings = 2000;

// Less than this share of what a shape has live at a time, or than this, is not told apart: it is
// pages of the library and of its bookkeeping.
constexpr double kFloorShare = 0.02;
constexpr double kFloorKib = 1024;

// For one process: shapes have at most 800 MiB live at a time.
constexpr double kTimeout = 180; // seconds
constexpr uint64_t kMostMib = 4096;

struct Moment {
    std::string name;
    double held_kib = 0, live_kib = 0, mappings = 0, faults = 0, cpu_ms = 0;
};

// The lines "moment NAME HELD_KIB LIVE_KIB MAPPINGS FAULTS CPU_MS" of a worker.
std::vector<Moment> parse_moments(const std::string &out) {
    std::vector<Moment> moments;
    std::istringstream lines(out);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string word;
        Moment moment;
        if (words >> word && word == "moment" &&
            words >> moment.name >> moment.held_kib >> moment.live_kib >> moment.mappings >>
                moment.faults >> moment.cpu_ms) {
            moments.push_back(moment);
        }
    }
    return moments;
}

using Figure = double Moment::*;

// The runs of one shape on one allocator. All have the same moments.
struct Cell {
    std::string error; // why there are no figures; empty: there are, once it has run
    std::vector<std::vector<Moment>> runs;
    double syscalls = NAN;

    bool has_figures() const { return error.empty() && !runs.empty(); }

    Sample at(size_t moment, Figure figure) const {
        Sample sample;
        for (const std::vector<Moment> &run : runs) {
            sample.push_back(run[moment].*figure);
        }
        return sample;
    }
    double value(size_t moment, Figure figure) const { return median(at(moment, figure)); }
    size_t last() const { return runs[0].size() - 1; }

    double held() const { return has_figures() ? value(last(), &Moment::held_kib) : NAN; }
    double faults() const { return has_figures() ? value(last(), &Moment::faults) : NAN; }
    // What other programs do to a run only ever adds to its time.
    double cpu_ms() const { return has_figures() ? minimum(at(last(), &Moment::cpu_ms)) : NAN; }
    double most(Figure figure) const {
        double most = NAN;
        for (size_t m = 0; has_figures() && m <= last(); m++) {
            most = std::fmax(most, value(m, figure));
        }
        return most;
    }
};

struct Options {
    uint64_t runs = 0, percent = 0, pause_ms = 0;
    bool syscalls = true;
};

class Shapes {
  public:
    Shapes(std::vector<Shape> shapes, std::vector<Allocator> allocators, Options options)
        : shapes_(std::move(shapes)), allocators_(std::move(allocators)), options_(options),
          cells_(shapes_.size(), std::vector<Cell>(allocators_.size())) {}

    // Calls `after_shape` each time that a shape has been taken on all allocators. False if no run
    // of any shape succeeded.
    bool take(const std::function<void()> &after_shape);
    std::string text() const;
    HeatMap chart() const;
    Json json() const;
    std::string failures() const;
    const std::string &no_syscalls() const { return no_syscalls_; }

  private:
    Command command(const Shape &shape) const;
    uint64_t most_mib() const { return std::max(kMostMib * options_.percent / 100, kMostMib / 4); }
    void run_cell(size_t s, size_t a);
    void count_calls(size_t s, size_t a);

    // What is compared: the last moment's memory, but no less than the floor.
    double compared(size_t s, size_t a) const;
    double over_best(size_t s, size_t a) const;
    double best_cpu(size_t s) const;
    // The geometric mean over the shapes that every allocator has figures for.
    double mean_over_best(size_t a) const;
    double mean_over_baseline(size_t a, bool of_cpu) const;
    std::vector<size_t> complete() const;
    size_t baseline() const;

    std::vector<std::string> heading(const char *first) const;
    std::string summary() const;
    std::string above_the_bars() const;
    std::string shape_table(size_t s) const;

    std::vector<Shape> shapes_;
    std::vector<Allocator> allocators_;
    Options options_;
    std::string no_syscalls_; // why there are none
    std::vector<std::vector<Cell>> cells_;
};

Command Shapes::command(const Shape &shape) const {
    Command command;
    command.argv = {built_file("benchmarks/shapes_worker"), shape.steps,
                    "--percent=" + std::to_string(options_.percent),
                    "--pause-ms=" + std::to_string(options_.pause_ms)};
    command.timeout_s = kTimeout;
    const double pages = static_cast<double>(sysconf(_SC_PHYS_PAGES));
    const double page_kib = static_cast<double>(sysconf(_SC_PAGESIZE)) / 1024;
    command.memory_left_mib = static_cast<uint64_t>(pages * page_kib / 1024 / 10);
    command.memory_most_mib = most_mib();
    return command;
}

void Shapes::run_cell(size_t s, size_t a) {
    Cell &cell = cells_[s][a];
    if (!cell.error.empty()) {
        return;
    }
    const Outcome outcome = run(command(shapes_[s]), allocators_[a]);
    cell.error = outcome.error;
    if (cell.error.empty()) {
        cell.error = check_allocator(parse_report(outcome.out), allocators_[a]);
    }
    if (cell.error.empty()) {
        const std::vector<Moment> moments = parse_moments(outcome.out);
        if (moments.empty()) {
            cell.error = "the worker told of no moment";
        } else {
            cell.runs.push_back(moments);
        }
    }
}

void Shapes::count_calls(size_t s, size_t a) {
    Cell &cell = cells_[s][a];
    if (!options_.syscalls || !cell.has_figures()) {
        return;
    }
    std::string why;
    const long calls = count_syscalls(command(shapes_[s]), allocators_[a], &why);
    if (calls >= 0) {
        cell.syscalls = static_cast<double>(calls);
    } else {
        no_syscalls_ = why;
    }
}

bool Shapes::take(const std::function<void()> &after_shape) {
    bool any = false;
    for (uint64_t round = 0; round < options_.runs; round++) {
        for (size_t s = 0; s < shapes_.size(); s++) {
            std::fprintf(stderr, "shapes: round %lu of %lu: %s\n", round + 1, options_.runs,
                         shapes_[s].name);
            for (const size_t a : order_of_round(allocators_.size(), round)) {
                run_cell(s, a);
                any = any || cells_[s][a].has_figures();
            }
            // Apart from the runs that are measured, which tracing would slow down.
            for (size_t a = 0; round == 0 && a < allocators_.size(); a++) {
                count_calls(s, a);
            }
            after_shape();
        }
    }
    return any;
}

double Shapes::compared(size_t s, size_t a) const {
    double live = 0;
    for (const Cell &cell : cells_[s]) {
        live = std::fmax(live, cell.most(&Moment::live_kib));
    }
    const double held = cells_[s][a].held();
    return std::isnan(held) ? NAN : std::max({held, kFloorKib, kFloorShare * live});
}

double Shapes::over_best(size_t s, size_t a) const {
    double best = NAN;
    for (size_t other = 0; other < allocators_.size(); other++) {
        best = std::fmin(best, compared(s, other));
    }
    return compared(s, a) / best;
}

double Shapes::best_cpu(size_t s) const {
    double best = NAN;
    for (const Cell &cell : cells_[s]) {
        best = std::fmin(best, cell.cpu_ms());
    }
    return best;
}

std::vector<size_t> Shapes::complete() const {
    std::vector<size_t> list;
    for (size_t s = 0; s < shapes_.size(); s++) {
        if (std::all_of(cells_[s].begin(), cells_[s].end(),
                        [](const Cell &cell) { return cell.has_figures(); })) {
            list.push_back(s);
        }
    }
    return list;
}

// glibc, if it is there; else the first.
size_t Shapes::baseline() const {
    for (size_t a = 0; a < allocators_.size(); a++) {
        if (allocators_[a].name == "system") {
            return a;
        }
    }
    return 0;
}

double Shapes::mean_over_best(size_t a) const {
    Sample ratios;
    for (const size_t s : complete()) {
        ratios.push_back(over_best(s, a));
    }
    return ratios.empty() ? NAN : geomean(ratios);
}

double Shapes::mean_over_baseline(size_t a, bool of_cpu) const {
    Sample ratios;
    for (const size_t s : complete()) {
        // The clock of CPU time may not have moved for a shape made very small.
        const auto cpu = [&](size_t of) { return std::max(cells_[s][of].cpu_ms(), 0.1); };
        ratios.push_back(of_cpu ? cpu(a) / cpu(baseline())
                                : compared(s, a) / compared(s, baseline()));
    }
    return ratios.empty() ? NAN : geomean(ratios);
}

std::string mebibytes(double kib) {
    return std::isnan(kib) ? "failed" : format("%.1f", kib / 1024);
}

std::string ratio_text(double ratio) {
    return std::isnan(ratio) ? "-" : format("%.2f", ratio);
}

std::string count_text(double count) {
    return std::isnan(count) ? "-" : grouped(count);
}

std::vector<std::string> Shapes::heading(const char *first) const {
    std::vector<std::string> heading = {first};
    for (const Allocator &allocator : allocators_) {
        heading.push_back(allocator.name);
    }
    return heading;
}

std::string Shapes::summary() const {
    Table held(heading("shape"));
    Table cpu(heading("shape"));
    for (size_t s = 0; s < shapes_.size(); s++) {
        std::vector<std::string> held_row = {shapes_[s].name};
        std::vector<std::string> cpu_row = {shapes_[s].name};
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Cell &cell = cells_[s][a];
            const double ratio = over_best(s, a);
            held_row.push_back(
                cell.has_figures()
                    ? mebibytes(cell.held()) +
                          format(ratio > kOverBest ? " (**%.2f**)" : " (%.2f)", ratio)
                    : "failed");
            cpu_row.push_back(cell.has_figures() ? format("%.0f (%.2f)", cell.cpu_ms(),
                                                          std::max(cell.cpu_ms(), 0.1) /
                                                              std::max(best_cpu(s), 0.1))
                                                 : "failed");
        }
        held.row(held_row);
        cpu.row(cpu_row);
    }
    const std::string count = std::to_string(complete().size());
    const std::string base = allocators_[baseline()].name;
    std::vector<std::string> best_row = {"geomean of " + count + ", over the best of each"};
    std::vector<std::string> held_row = {"geomean of " + count + ", over " + base};
    std::vector<std::string> cpu_row = held_row;
    for (size_t a = 0; a < allocators_.size(); a++) {
        best_row.push_back(ratio_text(mean_over_best(a)));
        held_row.push_back(ratio_text(mean_over_baseline(a, false)));
        cpu_row.push_back(ratio_text(mean_over_baseline(a, true)));
    }
    held.row(best_row);
    held.row(held_row);
    cpu.row(cpu_row);
    return "\n## Memory at the last moment\n\nMiB, and over the best allocator for the shape; bold "
           "is above " +
           format("%.2f", kOverBest) + ".\n\n" + held.text() +
           "\n## CPU time\n\nMilliseconds of user and kernel, the least of the runs, and over the "
           "best allocator for the shape.\n\n" +
           cpu.text();
}

std::string Shapes::above_the_bars() const {
    std::string text;
    for (size_t a = 0; a < allocators_.size(); a++) {
        std::string memory;
        std::string mappings;
        std::string failed;
        for (size_t s = 0; s < shapes_.size(); s++) {
            if (over_best(s, a) > kOverBest) {
                memory += (memory.empty() ? "" : ", ") + std::string(shapes_[s].name) +
                          format(" %.2f", over_best(s, a));
            }
            if (!cells_[s][a].has_figures()) {
                failed += (failed.empty() ? "" : ", ") + std::string(shapes_[s].name);
            }
            const double most = cells_[s][a].most(&Moment::mappings);
            if (most > kMostMappings) {
                mappings += (mappings.empty() ? "" : ", ") + std::string(shapes_[s].name) + " " +
                            grouped(most);
            }
        }
        text += "- " + allocators_[a].name + format(": above %.2f of the best: ", kOverBest) +
                (memory.empty() ? "none" : memory) +
                format("; more than %.0f mappings: ", kMostMappings) +
                (mappings.empty() ? "none" : mappings) +
                (failed.empty() ? "" : "; no figures: " + failed) + "\n";
    }
    return "\n## Above the bars\n\n" + text;
}

std::string Shapes::shape_table(size_t s) const {
    const Shape &shape = shapes_[s];
    std::vector<std::string> heading = {"allocator"};
    for (const Cell &cell : cells_[s]) {
        if (cell.has_figures()) {
            for (const Moment &moment : cell.runs[0]) {
                heading.push_back(moment.name);
            }
            break;
        }
    }
    for (const char *name : {"faults", "system calls", "mappings", "CPU ms"}) {
        heading.emplace_back(name);
    }
    Table table(heading);
    for (size_t a = 0; a < allocators_.size(); a++) {
        const Cell &cell = cells_[s][a];
        std::vector<std::string> row = {allocators_[a].name};
        if (!cell.has_figures()) {
            row.push_back("failed: " + cell.error);
            table.row(row);
            continue;
        }
        for (size_t m = 0; m <= cell.last(); m++) {
            const double held = cell.value(m, &Moment::held_kib);
            const double live = cell.value(m, &Moment::live_kib);
            row.push_back(mebibytes(held) + (live > 0 ? format(" (%.2f)", held / live) : ""));
        }
        row.push_back(count_text(cell.faults()));
        row.push_back(count_text(cell.syscalls));
        row.push_back(count_text(cell.most(&Moment::mappings)));
        row.push_back(format("%.0f", cell.cpu_ms()));
        table.row(row);
    }
    return std::string("\n### ") + shape.name + ": " + shape.title + "\n\n`" + shape.steps +
           "`\n\n" + table.text();
}

std::string Shapes::failures() const {
    std::string text;
    for (size_t s = 0; s < shapes_.size(); s++) {
        for (size_t a = 0; a < allocators_.size(); a++) {
            if (!cells_[s][a].error.empty()) {
                text += std::string("- ") + shapes_[s].name + " on " + allocators_[a].name + ": " +
                        cells_[s][a].error + "\n";
            }
        }
    }
    return text;
}

std::string Shapes::text() const {
    std::string text = format(
        "%lu rounds; in each, every shape is made on every allocator, in a process of its own. "
        "Sizes are %lu %% of those of\nthe titles%s. ",
        options_.runs, options_.percent,
        options_.pause_ms == 0 ? "" : format(", pauses at most %lu ms", options_.pause_ms).c_str());
    text += "Memory is resident memory without pages of files and without what the program itself\n"
            "keeps its books in; of a forked child, memory that it does not share. Live bytes are "
            "those that the program uses of its live\nblocks. Memory, faults and mappings are "
            "medians. System calls are counted by strace in a run of its own, from the program's\n"
            "start to its end.\n\n";
    text += format("For comparing, memory is at least %.0f MiB and %.0f %% of what the shape has "
                   "live at a time. A geomean leaves out the shapes for\nwhich an allocator has no "
                   "figures; a program that takes more than %lu MiB has none.\n",
                   kFloorKib / 1024, 100 * kFloorShare, most_mib());
    text += summary() + above_the_bars() +
            "\n## Each shape\n\nMiB held at each moment (and over live bytes); page faults and CPU "
            "time until the last; the most mappings at any.\n";
    for (size_t s = 0; s < shapes_.size(); s++) {
        text += shape_table(s);
    }
    return text;
}

HeatMap Shapes::chart() const {
    HeatMap map;
    map.title = "Memory, over the best for the shape";
    for (const Allocator &allocator : allocators_) {
        map.columns.push_back(allocator.name);
    }
    const auto cell = [](double value) {
        return std::isnan(value) ? std::nullopt : std::optional<double>(value);
    };
    for (size_t s = 0; s < shapes_.size(); s++) {
        map.rows.emplace_back(shapes_[s].name);
        map.cells.emplace_back();
        for (size_t a = 0; a < allocators_.size(); a++) {
            map.cells.back().push_back(cell(over_best(s, a)));
        }
    }
    map.rows.emplace_back("GEOMEAN");
    map.cells.emplace_back();
    for (size_t a = 0; a < allocators_.size(); a++) {
        map.cells.back().push_back(cell(mean_over_best(a)));
    }
    return map;
}

Json Shapes::json() const {
    std::vector<Json> results;
    for (size_t s = 0; s < shapes_.size(); s++) {
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Cell &cell = cells_[s][a];
            std::vector<Json> moments;
            for (size_t m = 0; cell.has_figures() && m <= cell.last(); m++) {
                moments.push_back(Json::object({
                    {"moment", cell.runs[0][m].name},
                    {"held_kib", cell.at(m, &Moment::held_kib)},
                    {"live_kib", cell.at(m, &Moment::live_kib)},
                    {"mappings", cell.at(m, &Moment::mappings)},
                    {"faults", cell.at(m, &Moment::faults)},
                    {"cpu_ms", cell.at(m, &Moment::cpu_ms)},
                }));
            }
            results.push_back(Json::object({
                {"shape", shapes_[s].name},
                {"steps", shapes_[s].steps},
                {"allocator", allocators_[a].name},
                {"error", cell.error},
                {"over_best", over_best(s, a)},
                {"syscalls", cell.syscalls},
                {"moments", Json::array(moments)},
            }));
        }
    }
    std::vector<Json> means;
    for (size_t a = 0; a < allocators_.size(); a++) {
        means.push_back(Json::object({
            {"allocator", allocators_[a].name},
            {"held_over_best", mean_over_best(a)},
            {"held_over_baseline", mean_over_baseline(a, false)},
            {"cpu_over_baseline", mean_over_baseline(a, true)},
        }));
    }
    return Json::object({{"benchmark", "shapes"},
                         {"machine", machine_json()},
                         {"runs", static_cast<double>(options_.runs)},
                         {"percent", static_cast<double>(options_.percent)},
                         {"pause_ms", static_cast<double>(options_.pause_ms)},
                         {"baseline", allocators_[baseline()].name},
                         {"geomeans", Json::array(means)},
                         {"results", Json::array(results)}});
}

void print_list() {
    Table table({"shape", "what it is", "steps"});
    for (const Shape &shape : kShapes) {
        table.row({shape.name, shape.title, shape.steps});
    }
    std::cout << table.text();
}

} // namespace

int main(int argc, char **argv) {
    Options options;
    bool quick = false;
    bool list = false;
    bool no_syscalls = false;
    std::string names = "hakmem_c23,system,rivals";
    std::string chosen_names = names_of(kShapes);
    std::string out = "shapes-results";
    Flags flags("shapes", "What allocators hold as sizes change, as programs sleep, and for "
                          "threads; and what that costs.");
    flags.toggle("quick", &quick, "a twentieth of the sizes and short pauses, for a first look");
    flags.toggle("list", &list, "print the shapes and end");
    flags.text("shapes", "LIST", &chosen_names, "which");
    flags.allocators(&names);
    flags.number("runs", 1, 1000, &options.runs, "rounds (default 3; --quick: 1)");
    flags.number("percent", 1, 100, &options.percent, "of the sizes (default 100; --quick: 5)");
    flags.number("pause-ms", 1, 1000000, &options.pause_ms,
                 "the longest pause (default as the shape says; --quick: 700)");
    flags.toggle("no-syscalls", &no_syscalls, "do not run everything once more under strace");
    flags.text("out", "DIR", &out, "where shapes.json, shapes.md and the chart go");
    flags.parse(argc, argv);
    if (list) {
        print_list();
        return 0;
    }
    const auto number = [quick](uint64_t *value, uint64_t usual, uint64_t of_quick) {
        *value = *value != 0 ? *value : quick ? of_quick : usual;
    };
    number(&options.runs, 3, 1);
    number(&options.percent, 100, 5);
    number(&options.pause_ms, 0, 700);
    options.syscalls = !no_syscalls;
    const std::vector<Allocator> allocators = chosen_allocators(flags, names);
    const std::vector<Shape> chosen = flags.choose(chosen_names, kShapes);
    out = flags.make_directory(out);

    Shapes shapes(chosen, allocators, options);
    std::string text;
    const auto assemble = [&] {
        const std::string failures = shapes.failures();
        text = "# shapes\n\n" + machine_text() + "\n" + allocators_text(allocators) + "\n" +
               shapes.text() + (failures.empty() ? "" : "\n## Failures\n\n" + failures);
    };
    // A run that is stopped leaves what it has.
    const bool any = shapes.take([&] {
        assemble();
        write_file(out + "/shapes.md", text);
    });
    const std::string missing = draw(shapes.chart(), out + "/shapes");
    if (missing.empty()) {
        text += "\n![memory, shapes by allocators](shapes.svg)\n";
    } else {
        std::fprintf(stderr, "shapes: no chart: %s\n", missing.c_str());
    }
    std::cout << text << std::flush;
    std::fputs(shapes.failures().c_str(), stderr);
    if (!no_syscalls && !shapes.no_syscalls().empty()) {
        std::fprintf(stderr, "shapes: some system calls are missing: %s\n",
                     shapes.no_syscalls().c_str());
    }
    return write_results("shapes", out, text, shapes.json()) && any ? 0 : 1;
}
