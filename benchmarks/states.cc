// SPDX-License-Identifier: Apache-2.0
// states: what malloc and free cost in each state that a heap can be in, on each allocator in turn,
// and how long the longest call takes.
//
// A state is a row of `kStates`: the steps that workers/states.c takes to make it.
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>

using namespace bench;

namespace {

struct State {
    const char *name, *title;
    std::string steps;       // {heap} stands for the MiB of --heap-mib
    const char *environment; // NAME=VALUE; only allocators of this build have such a setting
    bool has_heap;           // false: the bar for hits does not hold
    bool heavy;              // takes seconds: fewer rounds
};

const std::vector<State> kStates = {
    {"fresh", "fresh process", "", nullptr, true, false},
    {"sparse-64", "200 MiB of 64 B, 2 of 3 freed", "fill=64:64:200,keep=3", nullptr, true, false},
    {"sparse-1k", "200 MiB of 1 KiB, 2 of 3 freed", "fill=1024:1024:200,keep=3", nullptr, true,
     false},
    {"sparse-mixed", "200 MiB of mixed sizes, 2 of 3 freed", "mixed=200,keep=3", nullptr, true,
     false},
    {"pages", "200 MiB of 64 B, one left on each page", "fill=64:64:200,page", nullptr, true,
     false},
    {"peak", "400 MiB of mixed sizes, all freed", "mixed=400,free", nullptr, true, false},
    {"trim", "the same, then malloc_trim", "mixed=400,free,trim", nullptr, true, false},
    {"trim-sparse", "sparse-mixed, then malloc_trim", "mixed=200,keep=3,trim", nullptr, true,
     false},
    {"limit", "95 % of HAKMEM_LIMIT", "full=64:1024,last=5", "HAKMEM_LIMIT=512M", true, false},
    {"fork", "forked child, 100 MiB live", "mixed=100,fork", nullptr, true, false},
    {"crowd", "33 000 other threads", "crowd=33000", nullptr, true, true},
    {"crowd-late", "the thread after 33 000 others", "crowd=33000,thread", nullptr, false, true},
    {"gone", "after 100 000 threads", "gone=100000", nullptr, true, true},
    {"destructor", "a thread's last destructor", "destructor", nullptr, false, false},
    {"big", "after malloc(500 GB) was freed", "big=500", nullptr, true, false},
    {"locked", "mlockall", "lock", nullptr, true, true},
    {"heap", "{heap} MiB of 16-412 B", "fill=16:412:{heap}", nullptr, true, true},
    {"threads-2", "2 threads", "several=2", nullptr, true, false},
    {"threads-4", "4 threads", "several=4", nullptr, true, false},
    {"threads-8", "8 threads", "several=8", nullptr, true, false},
    {"threads-16", "16 threads", "several=16", nullptr, true, false},
};

// What is to be held to, and where.
constexpr double kHitsOverFresh = 1.2;
constexpr double kMissesOverFresh = 2;
constexpr double kOverBestRival = 1.5;
constexpr double kLongestNs = 1e6;

// Heavy states take so many times the memory of others, about.
constexpr uint64_t kHeavyWarm = 16;

struct Kind {
    const char *name, *title;
    double over_fresh; // 0: no bar
};
const std::array<Kind, 4> kKinds = {{
    {"hit", "Hits: malloc and free of one block of 64 B, again and again", kHitsOverFresh},
    {"hit_again", "Hits later in the same process, after misses and large blocks", kHitsOverFresh},
    {"miss", "Misses: 3000 blocks of 64 B, of 200 B and of 1000 B come and go in turn",
     kMissesOverFresh},
    {"large", "Large blocks: 8 of 40 KiB to 1 MiB, a random one is replaced each time", 0},
}};

const std::array<const char *, 3> kCalls = {"malloc", "free", "realloc"};

// A distribution of times: ns and the share of calls that took about that long.
using Distribution = std::map<double, double>;

// "NS:COUNT NS:COUNT ...", as a worker prints it.
Distribution parse_distribution(const std::string &text) {
    Distribution counts;
    double total = 0;
    std::istringstream words(text);
    for (std::string word; words >> word;) {
        const size_t colon = word.find(':');
        const double count = std::strtod(word.c_str() + colon + 1, nullptr);
        counts[std::strtod(word.c_str(), nullptr)] += count;
        total += count;
    }
    for (auto &entry : counts) {
        entry.second /= total;
    }
    return counts;
}

double quantile_of(const Distribution &distribution, double q) {
    double total = 0;
    for (const auto &[ns, share] : distribution) {
        total += share;
    }
    double seen = 0;
    for (const auto &[ns, share] : distribution) {
        seen += share;
        if (seen >= q * total) {
            return ns;
        }
    }
    return 0;
}

// The runs of one allocator in one state.
struct Cell {
    std::vector<Report> reports; // of the rounds without timed calls
    std::vector<Report> timed;
    std::string missing; // why there are no figures; empty: there are

    Sample ns(const std::string &kind) const {
        Sample sample;
        for (const Report &report : reports) {
            sample.push_back(report_number(report, kind + "_ns"));
        }
        return sample;
    }
    bool has_figures() const { return missing.empty() && !reports.empty(); }

    // The longest call in a run, in the run where it was least: what disturbs one run is not in it.
    double longest(const std::string &call) const {
        Sample sample;
        for (const Report &report : timed) {
            sample.push_back(report_number(report, call + "_max_ns"));
        }
        return missing.empty() && !sample.empty() ? minimum(sample) : NAN;
    }
};

struct Options {
    uint64_t runs = 0, timed_runs = 0, window_ms = 0, settle_ms = 600, percent = 0, heap_mib = 0,
             warm_mib = 0;
};

class States {
  public:
    States(std::vector<State> states, std::vector<Allocator> allocators, Options options)
        : states_(std::move(states)), allocators_(std::move(allocators)), options_(options),
          ours_(allocators_.size()) {
        for (State &state : states_) {
            const size_t at = state.steps.find("{heap}");
            if (at != std::string::npos) {
                state.steps.replace(at, 6, std::to_string(options_.heap_mib));
            }
            cells_.emplace_back(allocators_.size());
        }
    }

    // Calls `after_state` each time that a state has been measured on all allocators, with what
    // there is so far. Returns an empty text, or why an allocator cannot be measured at all.
    std::string take(const std::function<void()> &after_state);
    std::string text();
    Json json();

  private:
    std::string title(const State &state) const {
        std::string text = state.title;
        const size_t at = text.find("{heap}");
        return at == std::string::npos
                   ? text
                   : text.replace(at, 6, grouped(static_cast<double>(options_.heap_mib)));
    }
    void run_cell(size_t s, size_t a, bool timed);
    double ns(size_t s, size_t a, const Kind &kind) const {
        const Cell &cell = cells_[s][a];
        return cell.has_figures() ? median(cell.ns(kind.name)) : NAN;
    }
    double fresh(size_t a, const Kind &kind) const;
    double best_rival(size_t s, const Kind &kind) const;
    std::string kind_table(const Kind &kind) const;
    std::string bars_table(size_t a, std::vector<std::string> *above) const;
    std::string latency_tables() const;
    std::string notes() const;

    std::vector<State> states_;
    std::vector<Allocator> allocators_;
    Options options_;
    std::vector<bool> ours_; // the allocator is a hakmem, of this build or another
    std::vector<std::vector<Cell>> cells_;
};

void States::run_cell(size_t s, size_t a, bool timed) {
    const State &state = states_[s];
    Cell &cell = cells_[s][a];
    if (!cell.missing.empty()) {
        return;
    }
    if (state.environment != nullptr && !ours_[a]) {
        cell.missing = "-";
        return;
    }
    Allocator allocator = allocators_[a];
    if (state.environment != nullptr) {
        allocator.environment.emplace_back(state.environment);
    }
    Report report;
    const Outcome outcome = run_worker(
        "states_worker",
        {state.steps, "--percent=" + std::to_string(options_.percent),
         "--window-ms=" + std::to_string(options_.window_ms),
         "--settle-ms=" + std::to_string(options_.settle_ms), timed ? "--timed=1" : "--timed=0"},
        allocator, &report, options_.warm_mib * (state.heavy ? kHeavyWarm : 1));
    if (!outcome.error.empty()) {
        cell.missing = "failed: " + outcome.error;
    } else if (report.count("skip") != 0) {
        cell.missing = "skipped: " + report["skip"];
    } else {
        (timed ? cell.timed : cell.reports).push_back(report);
    }
}

std::string States::take(const std::function<void()> &after_state) {
    for (size_t a = 0; a < allocators_.size(); a++) {
        Report report;
        const Outcome outcome =
            run_worker("states_worker", {"", "--window-ms=1"}, allocators_[a], &report);
        if (!outcome.error.empty()) {
            return allocators_[a].name + ": " + outcome.error;
        }
        ours_[a] = report["flavour"] != "-";
    }
    const uint64_t rounds = options_.runs + options_.timed_runs;
    for (uint64_t round = 0; round < rounds; round++) {
        const bool timed = round >= options_.runs;
        for (size_t s = 0; s < states_.size(); s++) {
            // One round of each sort will do for what takes long.
            if (states_[s].heavy && round != 0 && round != options_.runs) {
                continue;
            }
            std::fprintf(stderr, "states: round %lu of %lu%s: %s\n", round + 1, rounds,
                         timed ? ", each call timed" : "", states_[s].name);
            for (const size_t a : order_of_round(allocators_.size(), round)) {
                run_cell(s, a, timed);
            }
            after_state();
        }
    }
    return "";
}

double States::fresh(size_t a, const Kind &kind) const {
    for (size_t s = 0; s < states_.size(); s++) {
        if (states_[s].name == std::string("fresh")) {
            return ns(s, a, kind);
        }
    }
    return NAN;
}

double States::best_rival(size_t s, const Kind &kind) const {
    double best = NAN;
    for (size_t a = 0; a < allocators_.size(); a++) {
        const double now = ours_[a] ? NAN : ns(s, a, kind);
        best = now < best || std::isnan(best) ? now : best;
    }
    return best;
}

std::string figure(double value) {
    return std::isnan(value) ? "-" : format(value < 100 ? "%.1f" : "%.0f", value);
}

std::string factor(double value, double bar) {
    return std::isnan(value)         ? "-"
           : bar != 0 && value > bar ? format("**%.2f**", value)
                                     : format("%.2f", value);
}

// "hit_again" -> "hit again"
std::string words(std::string name) {
    std::replace(name.begin(), name.end(), '_', ' ');
    return name;
}

std::string States::kind_table(const Kind &kind) const {
    std::vector<std::string> heading = {"state"};
    for (const Allocator &allocator : allocators_) {
        heading.push_back(allocator.name);
    }
    Table table(heading);
    for (size_t s = 0; s < states_.size(); s++) {
        std::vector<std::string> row = {title(states_[s])};
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Cell &cell = cells_[s][a];
            row.push_back(cell.has_figures()
                              ? figure(ns(s, a, kind)) +
                                    (cell.reports.size() > 1
                                         ? format(" (%.0f %%)", 100 * spread(cell.ns(kind.name)))
                                         : "")
                              : cell.missing.substr(0, cell.missing.find(':')));
        }
        table.row(row);
    }
    return std::string("\n## ") + kind.title + "\n\nCPU ns for a pair, median (spread).\n\n" +
           table.text();
}

std::string States::bars_table(size_t a, std::vector<std::string> *above) const {
    std::vector<std::string> heading = {"state"};
    for (const Kind &kind : kKinds) {
        heading.push_back(words(kind.name));
        heading.emplace_back("/ fresh");
        heading.emplace_back("/ best rival");
    }
    heading.emplace_back("longest call, us");
    Table table(heading);
    for (size_t s = 0; s < states_.size(); s++) {
        std::vector<std::string> row = {title(states_[s])};
        if (!cells_[s][a].missing.empty()) {
            row.push_back(cells_[s][a].missing);
            table.row(row);
            continue;
        }
        bool is_above = false;
        for (const Kind &kind : kKinds) {
            const double now = ns(s, a, kind);
            const double bar =
                kind.name == std::string("hit") && !states_[s].has_heap ? 0 : kind.over_fresh;
            const double over_fresh = now / fresh(a, kind);
            const double over_best = now / best_rival(s, kind);
            is_above = is_above || (bar != 0 && over_fresh > bar) || over_best > kOverBestRival;
            row.push_back(figure(now));
            row.push_back(factor(over_fresh, bar));
            row.push_back(factor(over_best, kOverBestRival));
        }
        double longest = 0;
        for (const char *call : kCalls) {
            longest = std::max(longest, cells_[s][a].longest(call));
        }
        is_above = is_above || longest > kLongestNs;
        row.push_back(longest == 0
                          ? "-"
                          : format(longest > kLongestNs ? "**%.0f**" : "%.0f", longest / 1000));
        table.row(row);
        if (is_above) {
            above->emplace_back(states_[s].name);
        }
    }
    return table.text();
}

std::string States::latency_tables() const {
    std::vector<std::string> heading = {"allocator"};
    for (const char *call : kCalls) {
        for (const char *what : {" 99.9 %", " 99.99 %", " longest"}) {
            heading.push_back(call + std::string(what));
        }
    }
    heading.emplace_back("longest in");
    Table table(heading);
    std::vector<std::string> states_heading = {"longest call"};
    for (size_t a = 0; a < allocators_.size(); a++) {
        states_heading.push_back(allocators_[a].name);
        std::vector<std::string> row = {allocators_[a].name};
        double longest = 0;
        std::string where;
        for (const char *call : kCalls) {
            Distribution sum;
            double most = 0;
            for (size_t s = 0; s < states_.size(); s++) {
                for (const Report &report : cells_[s][a].timed) {
                    const auto times = report.find(call);
                    for (const auto &[ns, share] : parse_distribution(times->second)) {
                        sum[ns] += share;
                    }
                }
                const double now = cells_[s][a].longest(call);
                most = std::max(most, std::isnan(now) ? 0 : now);
                if (now > longest) {
                    longest = now;
                    where = std::string(call) + ", " + states_[s].name;
                }
            }
            row.push_back(format("%.2f", quantile_of(sum, 0.999) / 1000));
            row.push_back(format("%.2f", quantile_of(sum, 0.9999) / 1000));
            row.push_back(format("%.0f", most / 1000));
        }
        row.push_back(where);
        table.row(row);
    }
    Table states_table(states_heading);
    for (size_t s = 0; s < states_.size(); s++) {
        std::vector<std::string> row = {title(states_[s])};
        for (size_t a = 0; a < allocators_.size(); a++) {
            double longest = NAN;
            const char *which = "";
            for (const char *call : kCalls) {
                const double now = cells_[s][a].longest(call);
                if (now > longest || (std::isnan(longest) && !std::isnan(now))) {
                    longest = now;
                    which = call;
                }
            }
            row.push_back(std::isnan(longest) ? "-" : format("%.0f %s", longest / 1000, which));
        }
        states_table.row(row);
    }
    return "\n## The longest calls\n\nMicroseconds of CPU time for one call, in runs in which each "
           "call is timed, from the first that makes the state to the\nlast that frees what is "
           "left. Every state counts alike in the quantiles, however many calls it takes. The "
           "longest is of\nthe run in which it was least. realloc's vectors grow to 4 MiB: its "
           "times have the copying in them.\n\n" +
           table.text() + "\n" + states_table.text();
}

std::string States::notes() const {
    std::string text;
    for (size_t s = 0; s < states_.size(); s++) {
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Cell &cell = cells_[s][a];
            const std::string where =
                std::string("- ") + states_[s].name + ", " + allocators_[a].name + ": ";
            if (cell.missing.size() > 1) {
                text += where + cell.missing + "\n";
            }
            for (const char *fact : {"threads", "granted_gb"}) {
                if (cell.has_figures() && cell.reports[0].count(fact) != 0) {
                    text += where + fact + " " + cell.reports[0].at(fact) + "\n";
                }
            }
        }
    }
    return text.empty() ? "" : "\n## Notes\n\n" + text;
}

std::string States::text() {
    std::string text = format(
        "%lu rounds, and %lu in which each call is timed; 1 of either for states that take long. "
        "In each round every state is\nmade on every allocator, in a process of its own; then its "
        "pairs are measured for %lu ms each. CPU time is of the\nthreads themselves, user and "
        "kernel.\n",
        options_.runs, options_.timed_runs, options_.window_ms);
    for (const Kind &kind : kKinds) {
        text += kind_table(kind);
    }
    for (size_t a = 0; a < allocators_.size(); a++) {
        if (!ours_[a]) {
            continue;
        }
        std::vector<std::string> above;
        const std::string table = bars_table(a, &above);
        text += "\n## The bars: " + allocators_[a].name +
                format("\n\nBold is above one: hits %.1f and misses %.0f times fresh (hits only "
                       "where the thread has a heap), anything %.1f times the\nbest rival, a call "
                       "of %.0f us.\n\n",
                       kHitsOverFresh, kMissesOverFresh, kOverBestRival, kLongestNs / 1000) +
                table + "\nStates above a bar: " + std::to_string(above.size());
        for (size_t i = 0; i < above.size(); i++) {
            text += (i == 0 ? ": " : ", ") + above[i];
        }
        text += ".\n";
    }
    return text + (options_.timed_runs != 0 ? latency_tables() : "") + notes();
}

Json States::json() {
    std::vector<Json> results;
    for (size_t s = 0; s < states_.size(); s++) {
        for (size_t a = 0; a < allocators_.size(); a++) {
            const Cell &cell = cells_[s][a];
            std::vector<std::pair<std::string, Json>> members = {
                {"state", states_[s].name},
                {"allocator", allocators_[a].name},
                {"missing", cell.missing},
            };
            for (const Kind &kind : kKinds) {
                const double now = ns(s, a, kind);
                members.emplace_back(std::string(kind.name) + "_ns", now);
                members.emplace_back(std::string(kind.name) + "_over_fresh", now / fresh(a, kind));
                members.emplace_back(std::string(kind.name) + "_over_best_rival",
                                     now / best_rival(s, kind));
                members.emplace_back(std::string(kind.name) + "_runs_ns", cell.ns(kind.name));
            }
            for (const char *call : kCalls) {
                members.emplace_back(std::string(call) + "_longest_ns", cell.longest(call));
            }
            results.push_back(Json::object(members));
        }
    }
    return Json::object({{"benchmark", "states"},
                         {"machine", machine_json()},
                         {"runs", static_cast<double>(options_.runs)},
                         {"timed_runs", static_cast<double>(options_.timed_runs)},
                         {"window_ms", static_cast<double>(options_.window_ms)},
                         {"percent", static_cast<double>(options_.percent)},
                         {"heap_mib", static_cast<double>(options_.heap_mib)},
                         {"results", Json::array(results)}});
}

// A third of the memory, and no more than half of what is free of other use.
uint64_t default_heap_mib() {
    constexpr uint64_t kMost = 20480;
    return std::max<uint64_t>(
        std::min({meminfo_mib("MemTotal") / 3, meminfo_mib("MemAvailable") / 2, kMost}), 1);
}

void print_list() {
    Table table({"state", "what it is", "steps"});
    for (const State &state : kStates) {
        table.row({state.name, state.title,
                   state.environment == nullptr
                       ? state.steps
                       : state.steps + " (" + state.environment + "; hakmem only)"});
    }
    std::cout << table.text();
}

} // namespace

int main(int argc, char **argv) {
    Options options;
    bool quick = false;
    bool list = false;
    bool untimed = false;
    std::string names = "hakmem_c23,system,rivals";
    std::string chosen_names = names_of(kStates);
    std::string out = "states-results";
    Flags flags("states", "What malloc and free cost in each state that a heap can be in, and how "
                          "long the longest call takes.");
    flags.toggle("quick", &quick, "small states and short loops, for a first look");
    flags.toggle("list", &list, "print the states and end");
    flags.text("states", "LIST", &chosen_names, "which");
    flags.allocators(&names);
    flags.number("runs", 1, 1000, &options.runs, "rounds; medians (default 3; --quick: 1)");
    flags.toggle("untimed", &untimed, "no rounds in which each call is timed");
    flags.number("timed-runs", 1, 1000, &options.timed_runs,
                 "rounds in which each call is timed (default 2; --quick: 1)");
    flags.number("window-ms", 1, 100000, &options.window_ms,
                 "CPU time for each sort of pairs (default 200; --quick: 5)");
    flags.number("heap-mib", 1, 1 << 20, &options.heap_mib,
                 "of the state `heap` (default a third of the memory; --quick: 64)");
    flags.text("out", "DIR", &out, "where states.json and states.md go");
    flags.parse(argc, argv);
    if (list) {
        print_list();
        return 0;
    }
    const auto number = [quick](uint64_t *value, uint64_t usual, uint64_t of_quick) {
        *value = *value != 0 ? *value : quick ? of_quick : usual;
    };
    number(&options.runs, 3, 1);
    number(&options.timed_runs, 2, 1);
    options.timed_runs = untimed ? 0 : options.timed_runs;
    number(&options.window_ms, 200, 5);
    number(&options.heap_mib, default_heap_mib(), 64);
    number(&options.percent, 100, 5);
    options.settle_ms = quick ? 5 : 600;
    options.warm_mib = quick ? 0 : kWarmMib;
    const std::vector<Allocator> allocators = chosen_allocators(flags, names);
    const std::vector<State> chosen = flags.choose(chosen_names, kStates);
    out = flags.make_directory(out);

    States states(chosen, allocators, options);
    std::string figures;
    const auto text = [&] {
        figures = states.text();
        return "# states\n\n" + machine_text() + "\n" + allocators_text(allocators) + "\n" +
               figures;
    };
    // A run that is stopped leaves what it has.
    const std::string failure = states.take([&] { write_file(out + "/states.md", text()); });
    if (!failure.empty()) {
        std::fprintf(stderr, "states: %s\n", failure.c_str());
        return 1;
    }
    const bool written = write_results("states", out, text(), states.json());
    std::cout << figures << std::flush;
    return written ? 0 : 1;
}
