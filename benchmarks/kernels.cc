// SPDX-License-Identifier: Apache-2.0
// kernels: what one way of calling malloc costs, for some forty ways, on each allocator in turn.
//
// A kernel is a row of the tables in workers/kernels/, which its worker lists.
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iostream>
#include <limits>
#include <sstream>

using namespace bench;

namespace {

constexpr double kOverBestRival = 1.25; // what is above is bold

struct Kernel {
    std::string name, count, title;
};

// Returns the kernels that the worker knows; none if it cannot be run.
std::vector<Kernel> known_kernels() {
    Command command;
    command.argv = {built_file("benchmarks/kernels_worker"), "list"};
    std::vector<Kernel> kernels;
    std::istringstream lines(run(command, {}).out);
    for (Kernel kernel;
         lines >> kernel.name >> kernel.count >> std::ws && std::getline(lines, kernel.title);) {
        kernels.push_back(kernel);
    }
    return kernels;
}

// The runs of one kernel on one allocator.
struct Cell {
    Sample ns, rss_kib;
    std::string missing; // why there are no figures; empty: there are

    bool has_figures() const { return missing.empty() && !ns.empty(); }
    double median_ns() const { return has_figures() ? median(ns) : NAN; }
    double rss_mib() const { return has_figures() ? median(rss_kib) / 1024 : NAN; }
};

struct Options {
    uint64_t runs = 0, percent = 0, seed = 42;
};

class Kernels {
  public:
    Kernels(std::vector<Kernel> kernels, std::vector<Allocator> allocators, Options options)
        : kernels_(std::move(kernels)), allocators_(std::move(allocators)), options_(options),
          ours_(allocators_.size()),
          cells_(kernels_.size(), std::vector<Cell>(allocators_.size())) {}

    // Calls `after_round` with what there is so far.
    void take(const std::function<void()> &after_round);
    std::string text() const;
    Json json() const;
    bool has_any() const;

  private:
    using Figure = double (Cell::*)() const;
    void run_cell(size_t k, size_t a);
    double best(size_t k, Figure figure, bool of_rivals) const;
    std::string table(Figure figure, bool with_spread) const;
    std::vector<std::string> geomeans(Figure figure) const;
    std::string above(size_t a) const;
    std::string notes() const;

    std::vector<Kernel> kernels_;
    std::vector<Allocator> allocators_;
    Options options_;
    std::vector<bool> ours_; // the allocator is a hakmem, of this build or another
    std::vector<std::vector<Cell>> cells_;
};

void Kernels::run_cell(size_t k, size_t a) {
    Cell &cell = cells_[k][a];
    if (!cell.missing.empty()) {
        return;
    }
    Report report;
    const Outcome outcome =
        run_worker("kernels_worker",
                   {kernels_[k].name, "--percent=" + std::to_string(options_.percent),
                    "--seed=" + std::to_string(options_.seed)},
                   allocators_[a], &report);
    if (!outcome.error.empty()) {
        cell.missing = "failed: " + outcome.error;
        return;
    }
    ours_[a] = report["flavour"] != "-";
    cell.ns.push_back(report_number(report, "ns"));
    cell.rss_kib.push_back(report_number(report, "rss_kib"));
}

void Kernels::take(const std::function<void()> &after_round) {
    for (uint64_t round = 0; round < options_.runs; round++) {
        for (size_t k = 0; k < kernels_.size(); k++) {
            std::fprintf(stderr, "kernels: round %lu of %lu: %s\n", round + 1, options_.runs,
                         kernels_[k].name.c_str());
            for (const size_t a : order_of_round(allocators_.size(), round)) {
                run_cell(k, a);
            }
        }
        after_round();
    }
}

bool Kernels::has_any() const {
    for (const std::vector<Cell> &row : cells_) {
        if (std::any_of(row.begin(), row.end(), [](const Cell &c) { return c.has_figures(); })) {
            return true;
        }
    }
    return false;
}

// Returns the least figure of a kernel; NaN if there is none.
double Kernels::best(size_t k, Figure figure, bool of_rivals) const {
    double best = NAN;
    for (size_t a = 0; a < allocators_.size(); a++) {
        if (!of_rivals || !ours_[a]) {
            best = std::fmin(best, (cells_[k][a].*figure)());
        }
    }
    return best;
}

std::string figure_text(double value) {
    return value < 100 ? format("%.1f", value) : grouped(std::round(value));
}

// Of the kernels that ran on all allocators: each one's figures over the best of each kernel.
std::vector<std::string> Kernels::geomeans(Figure figure) const {
    std::vector<Sample> ratios(allocators_.size());
    for (size_t k = 0; k < kernels_.size(); k++) {
        const std::vector<Cell> &row = cells_[k];
        if (std::all_of(row.begin(), row.end(), [](const Cell &c) { return c.has_figures(); })) {
            for (size_t a = 0; a < allocators_.size(); a++) {
                ratios[a].push_back((row[a].*figure)() / best(k, figure, false));
            }
        }
    }
    std::vector<std::string> cells = {format("geomean of %zu, over the best", ratios[0].size())};
    for (const Sample &sample : ratios) {
        cells.push_back(sample.empty() ? "-" : format("%.2f", geomean(sample)));
    }
    return cells;
}

std::string Kernels::table(Figure figure, bool with_spread) const {
    std::vector<std::string> heading = {"kernel"};
    for (const Allocator &allocator : allocators_) {
        heading.push_back(allocator.name);
    }
    for (size_t a = 0; a < allocators_.size(); a++) {
        if (ours_[a]) {
            heading.push_back(allocators_[a].name + " / best rival");
        }
    }
    Table table(heading);
    for (size_t k = 0; k < kernels_.size(); k++) {
        std::vector<std::string> row = {kernels_[k].name};
        for (const Cell &cell : cells_[k]) {
            row.push_back(!cell.has_figures()
                              ? cell.missing.empty() ? "-" : "failed"
                              : figure_text((cell.*figure)()) +
                                    (with_spread && cell.ns.size() > 1
                                         ? format(" (%.0f %%)", 100 * spread(cell.ns))
                                         : ""));
        }
        for (size_t a = 0; a < allocators_.size(); a++) {
            const double ratio = (cells_[k][a].*figure)() / best(k, figure, true);
            if (ours_[a]) {
                row.push_back(std::isnan(ratio)        ? "-"
                              : ratio > kOverBestRival ? format("**%.2f**", ratio)
                                                       : format("%.2f", ratio));
            }
        }
        table.row(row);
    }
    table.row(geomeans(figure));
    return table.text();
}

std::string Kernels::above(size_t a) const {
    std::string names;
    int count = 0;
    for (size_t k = 0; k < kernels_.size(); k++) {
        if (cells_[k][a].median_ns() > kOverBestRival * best(k, &Cell::median_ns, true)) {
            names += (names.empty() ? ": " : ", ") + kernels_[k].name;
            count++;
        }
    }
    return format("- %s: time above %.2f of the best rival's in %d", allocators_[a].name.c_str(),
                  kOverBestRival, count) +
           names + "\n";
}

std::string Kernels::notes() const {
    std::string text;
    for (size_t a = 0; a < allocators_.size(); a++) {
        text += ours_[a] ? above(a) : "";
    }
    for (size_t k = 0; k < kernels_.size(); k++) {
        for (size_t a = 0; a < allocators_.size(); a++) {
            if (!cells_[k][a].missing.empty()) {
                text += "- " + kernels_[k].name + " on " + allocators_[a].name + ": " +
                        cells_[k][a].missing + "\n";
            }
        }
    }
    return text.empty() ? "" : "\n## Notes\n\n" + text;
}

std::string table_of(const std::vector<Kernel> &kernels) {
    Table table({"kernel", "operation", "count"});
    for (const Kernel &kernel : kernels) {
        table.row({kernel.name, kernel.title, kernel.count});
    }
    return table.text();
}

std::string Kernels::text() const {
    return format("%lu rounds; in each, every kernel runs on every allocator, in a process of its "
                  "own, with %lu %% of the\noperations that the last table says. Time is CPU time, "
                  "user and kernel, of all threads and of children.\nBold is above %.2f.\n",
                  options_.runs, options_.percent, kOverBestRival) +
           "\n## Time\n\nCPU ns for an operation, median (spread).\n\n" +
           table(&Cell::median_ns, true) +
           "\n## Memory\n\nResident MiB at the end, median. The blocks that are left in the slots "
           "of a kernel are in it, and so\nis what the worker itself takes.\n\n" +
           table(&Cell::rss_mib, false) + notes() + "\n## The kernels\n\n" + table_of(kernels_);
}

Json Kernels::json() const {
    std::vector<Json> results;
    for (size_t k = 0; k < kernels_.size(); k++) {
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Cell &cell = cells_[k][a];
            results.push_back(Json::object({
                {"kernel", kernels_[k].name},
                {"allocator", allocators_[a].name},
                {"missing", cell.missing},
                {"ns", cell.median_ns()},
                {"ns_over_best_rival", cell.median_ns() / best(k, &Cell::median_ns, true)},
                {"runs_ns", cell.ns},
                {"rss_mib", cell.rss_mib()},
            }));
        }
    }
    return Json::object({{"benchmark", "kernels"},
                         {"machine", machine_json()},
                         {"runs", static_cast<double>(options_.runs)},
                         {"percent", static_cast<double>(options_.percent)},
                         {"seed", static_cast<double>(options_.seed)},
                         {"results", Json::array(results)}});
}

} // namespace

int main(int argc, char **argv) {
    Options options;
    bool quick = false;
    bool list = false;
    const std::vector<Kernel> known = known_kernels();
    std::string names = "hakmem_c23,system,rivals";
    std::string chosen_names = names_of(known);
    std::string out = "kernels-results";
    Flags flags("kernels", "What one way of calling malloc costs, for some forty ways.");
    flags.toggle("quick", &quick, "short loops and one round, for a first look");
    flags.toggle("list", &list, "print the kernels and end");
    flags.text("kernels", "LIST", &chosen_names, "which");
    flags.allocators(&names);
    flags.number("runs", 1, 1000, &options.runs, "rounds; medians (default 5; --quick: 1)");
    flags.number("percent", 1, 1000, &options.percent,
                 "of the operations of each kernel (default 100; --quick: 1)");
    flags.number("seed", 0, UINT64_MAX, &options.seed, "of the random numbers");
    flags.text("out", "DIR", &out, "where kernels.json and kernels.md go");
    flags.parse(argc, argv);
    if (list) {
        std::cout << table_of(known);
        return 0;
    }
    options.runs = options.runs != 0 ? options.runs : quick ? 1 : 5;
    options.percent = options.percent != 0 ? options.percent : quick ? 1 : 100;
    const std::vector<Allocator> allocators = chosen_allocators(flags, names);
    const std::vector<Kernel> chosen = flags.choose(chosen_names, known);
    out = flags.make_directory(out);

    Kernels kernels(chosen, allocators, options);
    const auto text = [&] {
        return "# kernels\n\n" + machine_text() + "\n" + allocators_text(allocators) + "\n" +
               kernels.text();
    };
    // A run that is stopped leaves what it has.
    kernels.take([&] { write_file(out + "/kernels.md", text()); });
    const std::string figures = text();
    const bool written = write_results("kernels", out, figures, kernels.json());
    std::cout << figures << std::flush;
    return written && kernels.has_any() ? 0 : 1;
}
