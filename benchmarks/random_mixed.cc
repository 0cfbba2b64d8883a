// SPDX-License-Identifier: Apache-2.0
// random_mixed ITERATIONS SIZE SEED: random mallocs and frees, on each allocator in turn.
//
// The loop is workers/random_mixed.c; this starts it, an allocator after the other, for several
// rounds, and prints one line an allocator. Unless a warm-up is given, each process repeats the
// iterations until its figure is steady: 100 000 of them take a millisecond.
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>

using namespace bench;

int main(int argc, char **argv) {
    // Percent, of the least of five rounds in a row; 0: one round.
    constexpr uint64_t kSteady = 2;
    constexpr uint64_t kNotGiven = UINT64_MAX;
    constexpr uint64_t kMostBytes = uint64_t{1} << 31;
    uint64_t slots = 256;
    uint64_t min_size = 0;
    uint64_t max_size = 0;
    uint64_t threads = 1;
    uint64_t warmup = kNotGiven;
    uint64_t runs = 15;
    bool json = false;
    std::string list = "hakmem_c23,system";
    Flags flags("random_mixed",
                "ITERATIONS times picks a random slot: a full one is freed, an empty one gets a "
                "block,\nwhose first byte is written. Blocks have SIZE/2+1 to SIZE bytes.",
                {"ITERATIONS", "SIZE", "SEED"});
    flags.number("slots", 1, kMostBytes, &slots, "slots of each thread");
    flags.number("min-size", 1, kMostBytes, &min_size, "smallest block, instead of SIZE/2+1");
    flags.number("max-size", 1, kMostBytes, &max_size, "largest block, instead of SIZE");
    flags.number("threads", 1, 256, &threads, "threads, each with its own slots and iterations");
    flags.number("warmup", 0, UINT64_MAX, &warmup,
                 "iterations before the clock starts, which then times ITERATIONS once; without it "
                 "they are repeated until steady");
    flags.toggle("json", &json, "print JSON, with the figure of every run");
    flags.number("runs", 1, 10000, &runs, "rounds; each starts a process for every allocator");
    flags.allocators(&list);
    const std::vector<std::string> numbers = flags.parse(argc, argv);
    uint64_t iterations = 0;
    uint64_t size = 0;
    uint64_t seed = 0;
    if (!parse_number(numbers[0], 1, UINT64_MAX, &iterations)) {
        flags.fail("ITERATIONS is a number from 1, not \"" + numbers[0] + "\"");
    }
    if (!parse_number(numbers[1], 1, kMostBytes, &size)) {
        flags.fail("SIZE is a number of bytes from 1 to 2147483648, not \"" + numbers[1] + "\"");
    }
    if (!parse_number(numbers[2], 0, UINT64_MAX, &seed)) {
        flags.fail("SEED is a number, not \"" + numbers[2] + "\"");
    }
    max_size = max_size != 0 ? max_size : size;
    min_size = min_size != 0 ? min_size : size / 2 + 1;
    if (min_size > max_size) {
        flags.fail("the smallest block, of " + std::to_string(min_size) +
                   " bytes, is larger than the largest, of " + std::to_string(max_size));
    }
    const std::vector<Allocator> allocators = chosen_allocators(flags, list);

    const uint64_t steady = warmup == kNotGiven ? kSteady : 0;
    warmup = warmup == kNotGiven ? 0 : warmup;
    const std::vector<std::string> arguments = {
        numbers[0],
        numbers[1],
        numbers[2],
        "--slots=" + std::to_string(slots),
        "--min-size=" + std::to_string(min_size),
        "--max-size=" + std::to_string(max_size),
        "--threads=" + std::to_string(threads),
        "--warmup=" + std::to_string(warmup),
        "--steady=" + std::to_string(steady),
    };
    std::vector<Series> series;
    const std::string failure =
        run_interleaved("random_mixed_worker", arguments, allocators, runs, &series);
    if (!failure.empty()) {
        std::fprintf(stderr, "random_mixed: %s\n", failure.c_str());
        return 1;
    }
    Sample floors;
    for (const Series &of : series) {
        const Sample one = of.reported("floor_ns");
        floors.insert(floors.end(), one.begin(), one.end());
    }

    // The loop of the floor is the same code for all, so all its runs are one sample.
    const double floor = minimum(floors);
    const double per_second = 1e3 * static_cast<double>(threads);
    if (json) {
        std::vector<Json> lines;
        for (size_t i = 0; i < allocators.size(); i++) {
            const Series &of = series[i];
            const Sample ns = of.reported("ns");
            const double superslabs = of.reported("superslabs").back();
            lines.push_back(Json::object({
                {"allocator", allocators[i].name},
                {"preload", allocators[i].preload},
                {"ops_per_second", per_second * 1e6 / minimum(ns)},
                {"ns_per_op", minimum(ns)},
                {"ns_per_op_median", median(ns)},
                {"ns_above_floor", minimum(ns) - floor},
                {"spread", spread(ns)},
                {"superslabs", superslabs < 0 ? Json(NAN) : Json(superslabs)},
                {"live_blocks", of.reported("live_blocks").back()},
                {"peak_rss_kib", of.peak_rss_kib()},
                {"page_faults", of.most_faults()},
                {"runs_ns_per_op", ns},
                {"runs_rounds", of.reported("rounds")},
                {"runs_steady", of.reported("steady")},
                {"runs_floor_ns", of.reported("floor_ns")},
            }));
        }
        std::cout << Json::object({
                                      {"benchmark", "random_mixed"},
                                      {"iterations", static_cast<double>(iterations)},
                                      {"slots", static_cast<double>(slots)},
                                      {"min_size", static_cast<double>(min_size)},
                                      {"max_size", static_cast<double>(max_size)},
                                      {"threads", static_cast<double>(threads)},
                                      {"warmup", static_cast<double>(warmup)},
                                      {"steady_percent", static_cast<double>(steady)},
                                      {"seed", numbers[2]},
                                      {"floor_ns", floor},
                                      {"machine", machine_json()},
                                      {"results", Json::array(lines)},
                                  })
                         .text()
                  << "\n";
        return 0;
    }
    Table table({"allocator", "M ops/s", "ns/op", "above floor", "median", "spread", "SuperSlabs",
                 "peak RSS KiB", "page faults"});
    for (size_t i = 0; i < allocators.size(); i++) {
        const Series &of = series[i];
        const Sample ns = of.reported("ns");
        const double superslabs = of.reported("superslabs").back();
        table.row({allocators[i].name, format("%.1f", per_second / minimum(ns)),
                   format("%.2f", minimum(ns)), format("%.2f", minimum(ns) - floor),
                   format("%.2f", median(ns)), format("%.0f %%", 100 * spread(ns)),
                   superslabs < 0 ? "-" : grouped(superslabs), grouped(of.peak_rss_kib()),
                   grouped(of.most_faults())});
    }
    std::cout << "random_mixed: " << grouped(static_cast<double>(iterations)) << " iterations, "
              << min_size << "-" << max_size << " B, " << grouped(static_cast<double>(slots))
              << " slots, " << threads << (threads == 1 ? " thread" : " threads") << ", seed "
              << numbers[2] << "; best of " << runs << " interleaved runs\n"
              << table.text()
              << format("floor (the loop with no allocator): %.2f ns/op; spread: quartiles over "
                        "median; RSS and faults: of the whole process\n",
                        floor);
    if (steady != 0) {
        Sample rounds;
        double unsteady = 0;
        for (const Series &of : series) {
            const Sample of_runs = of.reported("rounds");
            rounds.insert(rounds.end(), of_runs.begin(), of_runs.end());
            for (double ended_steady : of.reported("steady")) {
                unsteady += ended_steady == 0;
            }
        }
        std::cout
            << "each run warms up by one round of the iterations and repeats them until the CPU "
               "times of five rounds in a row are within "
            << steady << " %, or for 0.2 s: " << format("%.0f to ", minimum(rounds))
            << format("%.0f rounds", *std::max_element(rounds.begin(), rounds.end()))
            << format(", %.0f runs did not get steady\n", unsteady);
    }
    return 0;
}
