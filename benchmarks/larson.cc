// SPDX-License-Identifier: Apache-2.0
// larson: the classic server workload (workers/larson.c), on each allocator in turn.
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <cstdio>
#include <iostream>

using namespace bench;

int main(int argc, char **argv) {
    uint64_t threads = 2;
    uint64_t blocks = 5000;
    uint64_t rounds = 100;
    uint64_t generations = 20;
    uint64_t min_size = 8;
    uint64_t max_size = 1000;
    uint64_t seed = 42;
    uint64_t runs = 7;
    bool json = false;
    std::string list = "hakmem_c23,system";
    Flags flags(
        "larson",
        "Threads that each hold blocks and replace a random one, again and again, and leave "
        "them to a\nsuccessor when they end.");
    flags.number("threads", 1, 1024, &threads, "threads at a time");
    flags.number("blocks", 1, 1 << 24, &blocks, "blocks that each holds");
    flags.number("rounds", 1, 1 << 24, &rounds, "a thread ends after rounds x blocks replacements");
    flags.number("generations", 1, 1 << 24, &generations, "threads one after the other");
    flags.number("min-size", 1, 1 << 30, &min_size, "bytes of the smallest block");
    flags.number("max-size", 1, 1 << 30, &max_size, "bytes of the largest block");
    flags.number("seed", 0, UINT64_MAX, &seed, "of the random choices");
    flags.number("runs", 1, 10000, &runs, "rounds; each starts a process for every allocator");
    flags.toggle("json", &json, "print JSON, with the figure of every run");
    flags.allocators(&list);
    flags.parse(argc, argv);
    if (min_size > max_size) {
        flags.fail("--min-size is above --max-size");
    }
    const std::vector<Allocator> allocators = chosen_allocators(flags, list);
    const std::vector<std::string> arguments = {
        "--threads=" + std::to_string(threads),   "--blocks=" + std::to_string(blocks),
        "--rounds=" + std::to_string(rounds),     "--generations=" + std::to_string(generations),
        "--min-size=" + std::to_string(min_size), "--max-size=" + std::to_string(max_size),
        "--seed=" + std::to_string(seed),
    };
    std::vector<Series> series;
    const std::string failure =
        run_interleaved("larson_worker", arguments, allocators, runs, &series);
    if (!failure.empty()) {
        std::fprintf(stderr, "larson: %s\n", failure.c_str());
        return 1;
    }

    const double operations = series[0].reported("operations")[0];
    if (json) {
        std::vector<Json> lines;
        for (size_t i = 0; i < allocators.size(); i++) {
            const Sample seconds = series[i].reported("seconds");
            lines.push_back(Json::object({
                {"allocator", allocators[i].name},
                {"preload", allocators[i].preload},
                {"ops_per_second", operations / minimum(seconds)},
                {"ops_per_second_median", operations / median(seconds)},
                {"spread", spread(seconds)},
                {"cpu_ns_per_op", minimum(series[i].cpu_s()) / operations * 1e9},
                {"peak_rss_kib", series[i].peak_rss_kib()},
                {"page_faults", series[i].most_faults()},
                {"runs_seconds", seconds},
            }));
        }
        std::cout << Json::object({
                                      {"benchmark", "larson"},
                                      {"threads", static_cast<double>(threads)},
                                      {"blocks", static_cast<double>(blocks)},
                                      {"rounds", static_cast<double>(rounds)},
                                      {"generations", static_cast<double>(generations)},
                                      {"min_size", static_cast<double>(min_size)},
                                      {"max_size", static_cast<double>(max_size)},
                                      {"seed", std::to_string(seed)},
                                      {"operations", operations},
                                      {"machine", machine_json()},
                                      {"results", Json::array(lines)},
                                  })
                         .text()
                  << "\n";
        return 0;
    }
    Table table({"allocator", "M ops/s", "median", "spread", "of the last", "CPU ns/op",
                 "peak RSS KiB", "page faults"});
    const Sample last = series.back().reported("seconds");
    for (size_t i = 0; i < allocators.size(); i++) {
        const Sample seconds = series[i].reported("seconds");
        // Operations a second are the inverse of the time.
        const Interval speed = ratio(last, seconds, Statistic::kMinimum);
        table.row({allocators[i].name, format("%.1f", operations / minimum(seconds) / 1e6),
                   format("%.1f", operations / median(seconds) / 1e6),
                   format("%.0f %%", 100 * spread(seconds)),
                   format("%.2f [%.2f, %.2f]", speed.value, speed.low, speed.high),
                   format("%.1f", minimum(series[i].cpu_s()) / operations * 1e9),
                   grouped(series[i].peak_rss_kib()), grouped(series[i].most_faults())});
    }
    std::cout << "larson: " << threads << (threads == 1 ? " thread, " : " threads, ")
              << grouped(static_cast<double>(blocks)) << " blocks of " << min_size << "-"
              << max_size << " B each, " << rounds << " rounds, " << generations
              << " generations; best of " << runs << " interleaved runs\n"
              << table.text()
              << "an operation is a free and a malloc; CPU: user and system, of the whole process; "
                 "of the last: operations a second over those "
                 "of the last line, with a 95 % interval\n";
    return 0;
}
