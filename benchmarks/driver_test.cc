// SPDX-License-Identifier: Apache-2.0
// What the drivers print and refuse. Never how fast anything was.
#include "benchmarks/harness/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

namespace bench {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

Outcome drive(const std::string &driver, const std::vector<std::string> &arguments) {
    Command command;
    command.argv = {built_file("benchmarks/" + driver)};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    return run(command, {});
}

std::string contents(const std::string &path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

void expect_usage(const std::string &driver, const std::vector<std::string> &arguments) {
    const Outcome outcome = drive(driver, arguments);
    EXPECT_THAT(outcome.error, StartsWith("exit status 2: usage: " + driver))
        << testing::PrintToString(arguments);
    EXPECT_EQ(outcome.out, "");
}

TEST(RandomMixed, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {},
        {"100", "256"},
        {"100", "256", "42", "1"},
        {"0", "256", "42"},
        {"-1", "256", "42"},
        {"1e3", "256", "42"},
        {"100", "0", "42"},
        {"100", "2147483649", "42"},
        {"100", "256", "x"},
        {"100", "256", "42", "--slots", "0"},
        {"100", "256", "42", "--threads", "257"},
        {"100", "256", "42", "--min-size", "257"},
        {"100", "256", "42", "--min-size", "20", "--max-size", "10"},
        {"100", "256", "42", "--runs", "0"},
        {"100", "256", "42", "--warmup"},
        {"100", "256", "42", "--allocators", ""},
        {"100", "256", "42", "--allocators", "nosuch"},
        {"100", "256", "42", "--allocators", "system,system"},
        {"100", "256", "42", "--allocators", "/no/such.so"},
        {"100", "256", "42", "--nosuch"},
    };
    for (const auto &arguments : bad) {
        expect_usage("random_mixed", arguments);
    }
}

TEST(RandomMixed, PrintsALineAnAllocator) {
    const Outcome outcome = drive("random_mixed", {"1000", "256", "42", "--runs", "2"});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(outcome.out,
                StartsWith("random_mixed: 1 000 iterations, 129-256 B, 256 slots, 1 thread, "
                           "seed 42; best of 2 interleaved runs\n"));
    const std::string number = " +[0-9.-]+ \\|";
    const std::string spread = " +[0-9]+ % \\|";
    const std::string size = " +[0-9 ]+ \\|";
    // M ops/s, ns/op, above floor, median; spread; SuperSlabs; RSS, faults
    const std::string times = number + number + number + number + spread;
    EXPECT_THAT(outcome.out,
                ContainsRegex("\\| hakmem_c23 \\|" + times + " +[1-9][0-9]* \\|" + size + size));
    EXPECT_THAT(outcome.out, ContainsRegex("\\| system     \\|" + times + " +- \\|" + size + size));
}

TEST(RandomMixed, SaysHowItGotSteady) {
    const std::string said =
        "of five rounds in a row are within 2 %, or for 0.2 s: [0-9]+ to [0-9]+ "
        "rounds, [0-9]+ runs did not get steady\n";
    const std::vector<std::string> job = {"20000", "256", "42", "--runs", "2"};
    Outcome outcome = drive("random_mixed", job);
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(outcome.out, ContainsRegex(said));
    for (const char *count : {"0", "1000"}) {
        std::vector<std::string> once = job;
        once.insert(once.end(), {"--warmup", count});
        outcome = drive("random_mixed", once);
        ASSERT_EQ(outcome.error, "") << outcome.err;
        EXPECT_THAT(outcome.out, Not(ContainsRegex(said)));
    }
    // What is counted is that of the first round, which every run does.
    for (const char *threads : {"1", "3"}) {
        double live[2];
        for (int steady : {0, 1}) {
            Report report;
            const Outcome run =
                run_worker("random_mixed_worker",
                           {"5000", "256", "42", std::string("--threads=") + threads,
                            "--steady=" + std::to_string(steady)},
                           {}, &report);
            ASSERT_EQ(run.error, "");
            live[steady] = report_number(report, "live_blocks");
            const double rounds = report_number(report, "rounds");
            if (steady == 0) {
                EXPECT_EQ(rounds, 1);
                EXPECT_EQ(report_number(report, "steady"), 0);
            } else if (report_number(report, "steady") != 0) {
                EXPECT_GT(rounds, 5);
            } else {
                EXPECT_GE(rounds, 1);
            }
        }
        EXPECT_EQ(live[0], live[1]);
        EXPECT_GT(live[0], 0);
    }
}

TEST(RandomMixed, TakesAllItsFlags) {
    const Outcome outcome =
        drive("random_mixed", {"1000", "256", "42", "--slots", "100", "--min-size", "16",
                               "--max-size", "1040", "--threads", "2", "--warmup", "500", "--runs",
                               "1", "--json", "--allocators", "system,hakmem_c23"});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    for (const char *member :
         {"\"iterations\": 1000,", "\"slots\": 100,", "\"min_size\": 16,", "\"max_size\": 1040,",
          "\"threads\": 2,", "\"warmup\": 500,", "\"seed\": \"42\",", "\"superslabs\": null",
          "\"steady_percent\": 0,", "\"superslabs\": ", "\"allocator\": \"system\"",
          "\"allocator\": \"hakmem_c23\""}) {
        EXPECT_THAT(outcome.out, HasSubstr(member));
    }
}

TEST(RandomMixed, RefusesFiguresOfAnotherAllocator) {
    // A library without a malloc: it is preloaded, and the C library serves all the same.
    const Outcome outcome =
        drive("random_mixed", {"1000", "256", "42", "--runs", "1", "--allocators",
                               "/lib/x86_64-linux-gnu/libm.so.6"});
    EXPECT_THAT(outcome.error, ContainsRegex("^exit status 1: .*libc.*and not by .*libm"));
    EXPECT_THAT(outcome.out, Not(HasSubstr("ns/op")));
}

TEST(Larson, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {"1"},
        {"--threads", "0"},
        {"--min-size", "10", "--max-size", "9"},
        {"--blocks", "x"},
        {"--allocators", "nosuch"},
    };
    for (const auto &arguments : bad) {
        expect_usage("larson", arguments);
    }
}

TEST(Larson, PrintsALineAnAllocator) {
    const std::vector<std::string> arguments = {
        "--threads", "3", "--blocks", "100", "--rounds", "10", "--generations", "4", "--runs", "2"};
    const Outcome outcome = drive("larson", arguments);
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(outcome.out,
                StartsWith("larson: 3 threads, 100 blocks of 8-1000 B each, 10 rounds, "
                           "4 generations; best of 2 interleaved runs\n"));
    EXPECT_THAT(outcome.out, ContainsRegex("\\| hakmem_c23 \\| +[0-9.]+ \\| +[0-9.]+ \\| +[0-9]+ "
                                           "% \\| +[0-9.]+ \\[[0-9.]+, [0-9.]+\\] \\|"));
    EXPECT_THAT(outcome.out, HasSubstr("| system     |"));
}

TEST(Larson, CountsItsOperations) {
    const std::vector<std::string> arguments = {
        "--threads", "3",      "--blocks", "100",    "--rounds",     "10",    "--generations",
        "4",         "--runs", "1",        "--json", "--allocators", "system"};
    const Outcome outcome = drive("larson", arguments);
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("\"operations\": 12000,"));
}

TEST(Compare, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {"1"},
        {"--programs", "nosuch"},
        {"--programs", ","},
        {"--allocators", "nosuch"},
        {"--baseline", "nosuch"},
        {"--statistic", "mean"},
        {"--runs", "0"},
        {"--out", "/proc/none"},
    };
    for (const auto &arguments : bad) {
        expect_usage("compare", arguments);
    }
}

TEST(Compare, ListsItsPrograms) {
    const Outcome outcome = drive("compare", {"--list"});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    for (const char *name : {"| larson ", "| xmalloc ", "| growth ", "| python3 ", "| memcached ",
                             "PostScript to pixels (held out) |"}) {
        EXPECT_THAT(outcome.out, HasSubstr(name));
    }
}

TEST(Compare, WritesTablesJsonAndCharts) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("compare", {"--programs", "random-small,cache-thrash", "--allocators",
                          "hakmem_c23,system", "--runs", "2", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    const std::string ratio = " +[0-9.]+ \\[[0-9.]+, [0-9.]+\\] \\|";
    EXPECT_THAT(outcome.out, ContainsRegex("\\| random-small +\\| +[0-9.]+ \\|" + ratio));
    EXPECT_THAT(outcome.out, ContainsRegex("\\| geomean of 2 +\\| +1 \\|" + ratio));
    EXPECT_THAT(outcome.out, Not(HasSubstr("## Failures")));
    for (const char *title : {"## Time", "## CPU time", "## Peak RSS", "## Page faults"}) {
        EXPECT_THAT(outcome.out, HasSubstr(title));
    }
    EXPECT_EQ(contents(scratch.path() + "/compare.md"), outcome.out);
    const std::string json = contents(scratch.path() + "/compare.json");
    EXPECT_THAT(json, HasSubstr("\"baseline\": \"system\""));
    EXPECT_THAT(json, HasSubstr("\"program\": \"cache-thrash\""));
    EXPECT_THAT(contents(scratch.path() + "/compare-time.gp"), HasSubstr("'random-small' 0"));
    // A chart, or a line that says what is missing for one.
    const std::string svg = contents(scratch.path() + "/compare-time.svg");
    EXPECT_TRUE(svg.find("</svg>") != std::string::npos ||
                outcome.err.find("gnuplot is not installed") != std::string::npos)
        << outcome.err;
}

// What --help promises: every flavour of a user, and a path wherever an allocator is named.
TEST(Compare, TakesTheHardenedFlavourAndAPathAsTheBaseline) {
    const ScratchDirectory scratch;
    const std::string path = built_file("libhakmem_classic.so");
    const Outcome outcome = drive(
        "compare", {"--programs", "cache-thrash", "--allocators", "hakmem_hardened," + path,
                    "--baseline", path, "--runs", "1", "--no-syscalls", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(outcome.out, Not(HasSubstr("## Failures")));
    EXPECT_THAT(outcome.out,
                ContainsRegex("\\| program +\\| hakmem_classic s \\| +hakmem_hardened"));
}

TEST(Compare, ReportsWhatFails) {
    const ScratchDirectory scratch;
    const Outcome outcome = drive("compare", {"--programs", "random-small", "--allocators",
                                              "system,/lib/x86_64-linux-gnu/libm.so.6", "--runs",
                                              "1", "--no-syscalls", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(outcome.out, ContainsRegex("\\| random-small +\\| +[0-9.]+ \\| failed \\|"));
    EXPECT_THAT(outcome.out, ContainsRegex("## Failures\n\n- random-small on m: served by .*libc"));
}

TEST(Memory, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {"1"},
        {"--scenarios", "nosuch"},
        {"--scenarios", ","},
        {"--allocators", "nosuch"},
        {"--out", "/proc/none"},
    };
    for (const auto &arguments : bad) {
        expect_usage("memory", arguments);
    }
}

TEST(Memory, PrintsATableAScenario) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("memory", {"--quick", "--scenarios", "sequence,idle,process,superslabs",
                         "--allocators", "hakmem_c23,system", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    for (const char *title :
         {"## Threads in sequence", "## Idle threads", "## A small process", "## SuperSlabs"}) {
        EXPECT_THAT(outcome.out, HasSubstr(title));
    }
    EXPECT_THAT(outcome.out, Not(HasSubstr("failed")));
    EXPECT_THAT(contents(scratch.path() + "/memory.md"), HasSubstr(outcome.out));
    EXPECT_THAT(contents(scratch.path() + "/memory.json"),
                HasSubstr("\"scenario\": \"superslabs\""));
}

TEST(PhaseB, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {"1"}, {"--runs", "5"}, {"--percent", "0"}, {"--out", "/proc/no/such"}, {"--quick=1"},
    };
    for (const auto &arguments : bad) {
        expect_usage("phase_b", arguments);
    }
}

TEST(PhaseB, WritesWhatItPrints) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("phase_b", {"--quick", "--runs", "6", "--percent", "1", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_EQ(outcome.out, contents(scratch.path() + "/phase_b.md"));
    const std::string figure = " +[0-9.]+ \\[[0-9.]+, [0-9.]+\\] \\|";
    EXPECT_THAT(outcome.out,
                ContainsRegex("\\| C23 off +\\| +8.27 \\|" + figure + " +7.90 \\|" + figure));
    EXPECT_THAT(outcome.out,
                ContainsRegex("\\| refill 64 +\\| +9.55 \\|" + figure + " +8.47 \\|" + figure));
    EXPECT_THAT(outcome.out, HasSubstr("| 100 000"));
    EXPECT_THAT(outcome.out, HasSubstr("- processor: "));
    // The charts' figures are there whether or not there is a gnuplot to draw them.
    for (const char *name : {"/phase_b-128.gp", "/phase_b-256.gp"}) {
        EXPECT_THAT(contents(scratch.path() + name), HasSubstr("by demand"));
    }
}

// That the settings reach the allocator is to be seen by how often the pool is asked.
TEST(PhaseB, TheSettingsAreInForce) {
    const auto refills = [](const std::string &variables) {
        Allocator allocator;
        EXPECT_EQ(find_allocator("hakmem_c23" + variables, &allocator), "");
        Report report;
        const Outcome outcome = run_worker(
            "random_mixed_worker", {"20000", "128", "42", "--slots=100000"}, allocator, &report);
        EXPECT_EQ(outcome.error, "");
        return report_number(report, "refills");
    };
    const double of_16 = refills("+HAKMEM_TINY_FRONT_C23_REFILL=016");
    const double of_128 = refills("+HAKMEM_TINY_FRONT_C23_REFILL=128");
    EXPECT_GT(of_16, 6 * of_128);
    EXPECT_GT(of_128, 10);
    // By demand it is batches of 64 in the end; the traditional layers take no other.
    const double by_demand = refills("");
    EXPECT_GT(of_16, 3 * by_demand);
    EXPECT_GT(by_demand, 1.5 * of_128);
    EXPECT_GT(of_16, 3 * refills("+HAKMEM_TINY_FRONT_C23_SIMPLE=0"
                                 "+HAKMEM_TINY_FRONT_C23_REFILL=016"));
}

TEST(Scaling, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {"1"},
        {"--scenarios", "nosuch"},
        {"--scenarios", ","},
        {"--allocators", "nosuch"},
        {"--runs", "0"},
        {"--percent", "0"},
        {"--most-blocks", "999"},
        {"--out", "/proc/none"},
    };
    for (const auto &arguments : bad) {
        expect_usage("scaling", arguments);
    }
}

TEST(Scaling, WritesTablesJsonAndCharts) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("scaling", {"--quick", "--runs", "2", "--percent", "1", "--most-blocks", "10000",
                          "--allocators", "hakmem_c23,system", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(contents(scratch.path() + "/scaling.md"), HasSubstr(outcome.out));
    // The larger cells are left out; the threads' are all there.
    EXPECT_THAT(outcome.out, ContainsRegex("\\| live blocks \\| +1 000 \\| +10 000 \\|\n"));
    EXPECT_THAT(outcome.out, ContainsRegex("\\| threads +\\| +1 \\| +2 \\| +4 \\| +8 \\| +16 \\| "
                                           "+32 \\| +64 \\|\n"));
    const std::string cost = " +[0-9.]+ \\([0-9]+ %\\) \\|";
    for (const char *name : {"floor", "hakmem_c23", "system"}) {
        EXPECT_THAT(outcome.out, ContainsRegex(std::string("\\| ") + name + " +\\|" + cost + cost));
        EXPECT_THAT(outcome.out, ContainsRegex(std::string("\\| ") + name +
                                               " +\\| +1.00 \\| +[0-9.]+ \\| +[0-9.]+ \\|\n"));
    }
    EXPECT_THAT(outcome.out, HasSubstr("On the clock"));
    const std::string json = contents(scratch.path() + "/scaling.json");
    // 1 % of 30 million, shared.
    EXPECT_THAT(json, ContainsRegex("\"threads\": 64, \"operations_per_thread\": 4687,"));
    for (const char *member : {"\"scenario\": \"blocks\"", "\"scenario\": \"mixed\"",
                               "\"scenario\": \"threads\"", "\"floor_growth\": 1,"}) {
        EXPECT_THAT(json, HasSubstr(member));
    }
    for (const char *name : {"blocks", "mixed", "threads"}) {
        const std::string chart = scratch.path() + "/scaling-" + name;
        EXPECT_THAT(contents(chart + ".gp"), HasSubstr("set logscale x")) << name;
        EXPECT_TRUE(contents(chart + ".svg").find("</svg>") != std::string::npos ||
                    outcome.err.find("gnuplot is not installed") != std::string::npos)
            << outcome.err;
    }
}

TEST(Scaling, RefusesFiguresOfAnotherAllocator) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("scaling", {"--runs", "1", "--percent", "1", "--most-blocks", "1000", "--allocators",
                          "/lib/x86_64-linux-gnu/libm.so.6", "--out", scratch.path()});
    EXPECT_THAT(outcome.error, ContainsRegex("^exit status 1: .*libc.*and not by .*libm"));
    EXPECT_EQ(contents(scratch.path() + "/scaling.md"), "");
}

// The heap of the cell is there when its figure is taken: as many blocks as it is named for.
TEST(Scaling, HoldsTheBlocksOfItsCell) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("scaling", {"--scenarios", "blocks", "--runs", "1", "--percent", "1", "--most-blocks",
                          "10000", "--allocators", "system", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(contents(scratch.path() + "/scaling.json"),
                ContainsRegex("\"live_blocks\": (9[5-9][0-9]|10[0-4][0-9]),.*"
                              "\"live_blocks\": (9[89]|10[01])[0-9]{2},"));
}

// A floor whose blocks are a page each: what it holds is half of the slots, as the workload, and no
// more, however often blocks go round.
TEST(Scaling, TheFloorHasTheWorkloadsFootprint) {
    const auto rss_kib = [](const std::string &floor_size) {
        Report report;
        const Outcome outcome = run_worker(
            "random_mixed_worker",
            {"200000", "16", "42", "--slots=4000", "--floor-size=" + floor_size}, {}, &report);
        EXPECT_EQ(outcome.error, "");
        EXPECT_GT(report_number(report, "floor_cpu_ns"), 0);
        return outcome.rss_kib;
    };
    const long pages = (rss_kib("4096") - rss_kib("0")) / 4;
    EXPECT_GT(pages, 1900);
    EXPECT_LT(pages, 2600);
}

TEST(Cores, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {"1"},
        {"--workloads", "nosuch"},
        {"--threads", ""},
        {"--threads", "1,0"},
        {"--threads", "257"},
        {"--allocators", "nosuch"},
        {"--runs", "0"},
        {"--percent", "0"},
        {"--out", "/proc/none"},
    };
    for (const auto &arguments : bad) {
        expect_usage("cores", arguments);
    }
}

TEST(Cores, WritesATableForEveryWorkload) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("cores", {"--quick", "--percent", "1", "--threads", "1,2", "--allocators",
                        "hakmem_c23,system", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(contents(scratch.path() + "/cores.md"), HasSubstr(outcome.out));
    const std::string json = contents(scratch.path() + "/cores.json");
    for (const char *name : {"small", "medium", "large", "larson", "churn", "xmalloc", "batches",
                             "alloc-test", "growth", "thrash"}) {
        EXPECT_THAT(outcome.out, HasSubstr(std::string("\n## ") + name + ": ")) << name;
        EXPECT_THAT(json, HasSubstr(std::string("\"workload\": \"") + name + "\"")) << name;
        EXPECT_THAT(contents(scratch.path() + "/cores-" + name + ".gp"),
                    HasSubstr("set logscale x"))
            << name;
    }
    // The last allocator with the fewest threads is the unit; xmalloc has no column of one thread.
    EXPECT_THAT(outcome.out, ContainsRegex("\\| system +\\| +1.00 \\(0 %\\) \\| +[0-9.]+ \\("));
    EXPECT_THAT(outcome.out, ContainsRegex("\\| threads +\\| +2 \\|\n"));
}

TEST(Cores, SaysThatAWorkloadNeedsMoreThreads) {
    const ScratchDirectory scratch;
    const Outcome outcome = drive("cores", {"--workloads", "xmalloc", "--threads", "1",
                                            "--allocators", "system", "--out", scratch.path()});
    EXPECT_THAT(outcome.error, StartsWith("exit status 1"));
    EXPECT_THAT(outcome.err, HasSubstr("xmalloc needs 2 threads"));
}

TEST(States, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {"1"},
        {"--states", "nosuch"},
        {"--states", ","},
        {"--allocators", "nosuch"},
        {"--runs", "0"},
        {"--heap-mib", "0"},
        {"--out", "/proc/none"},
    };
    for (const auto &arguments : bad) {
        expect_usage("states", arguments);
    }
}

TEST(States, ListsItsStates) {
    const Outcome outcome = drive("states", {"--list"});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    for (const char *name : {"| fresh ", "| sparse-64 ", "| limit ", "| crowd-late ", "| heap "}) {
        EXPECT_THAT(outcome.out, HasSubstr(name));
    }
    EXPECT_THAT(outcome.out, HasSubstr("fill=64:64:200,keep=3"));
    EXPECT_THAT(outcome.out, HasSubstr("HAKMEM_LIMIT=512M; hakmem only"));
}

// Every step of the worker is taken, on hakmem and beside it.
TEST(States, MakesEveryState) {
    const ScratchDirectory scratch;
    const Outcome outcome = drive("states", {"--quick", "--window-ms", "1", "--allocators",
                                             "hakmem_c23,system", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    const std::string text = contents(scratch.path() + "/states.md");
    EXPECT_THAT(text, HasSubstr(outcome.out));
    EXPECT_THAT(outcome.out, Not(HasSubstr("failed")));
    for (const char *title : {"## Hits", "## Misses", "## Large blocks", "## The bars: hakmem_c23",
                              "## The longest calls"}) {
        EXPECT_THAT(outcome.out, HasSubstr(title));
    }
    EXPECT_THAT(outcome.out, Not(HasSubstr("## The bars: system")));
    const std::string figure = " +[0-9.]+ \\|";
    const std::string factor = " +\\**[0-9.]+\\** \\|";
    EXPECT_THAT(outcome.out, ContainsRegex("\\| fresh process +\\|" + figure + " +1.00 \\|" +
                                           factor + figure + " +1.00 \\|" + factor + figure));
    EXPECT_THAT(outcome.out, ContainsRegex("\\| 95 % of HAKMEM_LIMIT +\\| +[0-9.]+ \\| +- \\|\n"));
    // What a state was made of: the crowd is there, and the block was had.
    EXPECT_THAT(outcome.out, ContainsRegex("- crowd, system: threads [1-9][0-9]*\n"));
    EXPECT_THAT(outcome.out, ContainsRegex("- big, hakmem_c23: granted_gb [1-9][0-9]*\n"));
    const std::string json = contents(scratch.path() + "/states.json");
    for (const char *member : {"\"state\": \"threads-16\"", "\"hit_over_fresh\": 1,",
                               "\"malloc_longest_ns\": ", "\"heap_mib\": 64"}) {
        EXPECT_THAT(json, HasSubstr(member));
    }
}

TEST(States, RefusesFiguresOfAnotherAllocator) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("states", {"--quick", "--states", "fresh", "--allocators",
                         "/lib/x86_64-linux-gnu/libm.so.6", "--out", scratch.path()});
    EXPECT_THAT(outcome.error, ContainsRegex("^exit status 1: .*libc.*and not by .*libm"));
    EXPECT_EQ(contents(scratch.path() + "/states.md"), "");
}

// The steps do to the heap what they say.
TEST(States, StepsMakeTheHeap) {
    const auto live = [](const std::string &steps) {
        Report report;
        const Outcome outcome = run_worker("states_worker", {steps, "--window-ms=1"}, {}, &report);
        EXPECT_EQ(outcome.error, "") << steps;
        return report_number(report, "live_blocks");
    };
    EXPECT_EQ(live(""), 0);
    EXPECT_EQ(live("fill=1024:1024:8"), 8192);
    EXPECT_EQ(live("fill=1024:1024:8,last=25"), 6144);
    EXPECT_EQ(live("fill=1024:1024:8,free,trim"), 0);
    EXPECT_NEAR(live("fill=1024:1024:8,keep=3"), 8192 / 3.0, 300);
    // glibc puts blocks of 48 B 64 B apart: 262 144 of them are on 4096 pages.
    EXPECT_NEAR(live("fill=48:48:12,page"), 4096, 10);
    for (const char *steps :
         {"nosuch", "fill", "fill=1:2", "keep=x", "free=1", "fill=1:1:1,mixed=1"}) {
        Report report;
        EXPECT_THAT(run_worker("states_worker", {steps, "--window-ms=1"}, {}, &report).error,
                    StartsWith("exit status 1: states_worker: "))
            << steps;
    }
}

// The names in the first column of a table of Markdown that starts with `heading`.
std::vector<std::string> first_column(const std::string &text, const std::string &heading) {
    std::vector<std::string> names;
    std::istringstream lines(text.substr(std::min(text.find("\n| " + heading), text.size())));
    std::string line;
    for (int skipped = 0; skipped < 3; skipped++) { // an empty line, the heading and its rule
        std::getline(lines, line);
    }
    while (std::getline(lines, line) && line[0] == '|') {
        names.push_back(line.substr(2, line.find(' ', 2) - 2));
    }
    return names;
}

TEST(Kernels, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {"1"},           {"--kernels", "nosuch"}, {"--kernels", ","}, {"--allocators", "nosuch"},
        {"--runs", "0"}, {"--percent", "1001"},   {"--seed", "x"},    {"--out", "/proc/none"},
    };
    for (const auto &arguments : bad) {
        expect_usage("kernels", arguments);
    }
}

TEST(Kernels, RunsEveryKernel) {
    const ScratchDirectory scratch;
    const Outcome outcome = drive("kernels", {"--quick", "--runs", "2", "--allocators",
                                              "hakmem_c23,system", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    ASSERT_THAT(outcome.out, Not(HasSubstr("failed")));
    EXPECT_EQ(contents(scratch.path() + "/kernels.md"), outcome.out);
    const std::string json = contents(scratch.path() + "/kernels.json");
    const std::vector<std::string> names =
        first_column("\n" + drive("kernels", {"--list"}).out, "kernel ");
    EXPECT_GT(names.size(), 35u);
    const std::string ns = " +[0-9.][0-9 .]* \\([0-9]+ %\\) \\|";
    const std::string mib = " +[0-9.]+ \\|";
    const std::string ratio = " +\\**[0-9.]+\\** \\|\n";
    for (const std::string &name : names) {
        EXPECT_THAT(outcome.out, ContainsRegex("\n\\| " + name + " +\\|" + ns + ns + ratio));
        EXPECT_THAT(outcome.out, ContainsRegex("\n\\| " + name + " +\\|" + mib + mib + ratio));
        EXPECT_THAT(json, HasSubstr("\"kernel\": \"" + name + "\""));
    }
    EXPECT_THAT(outcome.out, HasSubstr("- hakmem_c23: time above 1.25 of the best rival's in "));
}

TEST(Kernels, RefusesFiguresOfAnotherAllocator) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("kernels", {"--quick", "--kernels", "tree", "--allocators",
                          "/lib/x86_64-linux-gnu/libm.so.6", "--out", scratch.path()});
    EXPECT_THAT(outcome.error, ContainsRegex("^exit status 1: "));
    EXPECT_THAT(outcome.out,
                ContainsRegex("- tree on m: failed: served by .*libc.*and not by .*libm"));
}

TEST(Shapes, RefusesBadArguments) {
    const std::vector<std::vector<std::string>> bad = {
        {"1"},           {"--shapes", "nosuch"}, {"--shapes", ","},   {"--allocators", "nosuch"},
        {"--runs", "0"}, {"--percent", "101"},   {"--pause-ms", "x"}, {"--out", "/proc/none"},
    };
    for (const auto &arguments : bad) {
        expect_usage("shapes", arguments);
    }
}

TEST(Shapes, ListsItsShapes) {
    const Outcome outcome = drive("shapes", {"--list"});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    for (const char *name : {"| switch-22k ", "| asleep-large ", "| moved ", "| lsm ", "| pool "}) {
        EXPECT_THAT(outcome.out, HasSubstr(name));
    }
    EXPECT_THAT(outcome.out, HasSubstr("cache=9K~32K:150M%:1500M%,mark=end"));
    EXPECT_THAT(outcome.out, HasSubstr("fill=32:120M%,keep=33,fill=64:120M%,keep=33,"));
}

TEST(Shapes, MakesEveryShape) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("shapes", {"--quick", "--pause-ms", "5", "--no-syscalls", "--allocators",
                         "hakmem_c23", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(outcome.out, Not(HasSubstr("failed")));
    EXPECT_EQ(contents(scratch.path() + "/shapes.md"), outcome.out);
    const std::string json = contents(scratch.path() + "/shapes.json");
    const std::vector<std::string> names =
        first_column("\n" + drive("shapes", {"--list"}).out, "shape ");
    EXPECT_GT(names.size(), 30u);
    for (const std::string &name : names) {
        EXPECT_THAT(outcome.out, ContainsRegex("\n### " + name + ": "));
        EXPECT_THAT(outcome.out, ContainsRegex("\n\\| " + name + " +\\| +[0-9.]+ \\(1.00\\)"));
        EXPECT_THAT(json, HasSubstr("\"shape\": \"" + name + "\""));
    }
}

TEST(Shapes, ComparesAllocators) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("shapes", {"--quick", "--shapes", "switch-22k,fork", "--pause-ms", "5", "--runs", "2",
                         "--allocators", "hakmem_c23,system", "--out", scratch.path()});
    ASSERT_EQ(outcome.error, "") << outcome.err;
    EXPECT_THAT(outcome.out, Not(HasSubstr("failed")));
    for (const char *title : {"## Memory at the last moment", "## CPU time", "## Above the bars",
                              "- hakmem_c23: above 1.15 of the best: "}) {
        EXPECT_THAT(outcome.out, HasSubstr(title));
    }
    const std::string cell = " +[0-9.]+ \\(\\**[0-9.]+\\**\\) \\|";
    EXPECT_THAT(outcome.out, ContainsRegex("\n\\| switch-22k +\\|" + cell + cell + "\n"));
    EXPECT_THAT(outcome.out,
                ContainsRegex("\n\\| geomean of 2, over system +\\| +[0-9.]+ \\| +1.00 \\|\n"));
    // Memory at three moments; faults, system calls, mappings and CPU.
    const std::string counts = " +[0-9 ]+ \\| +[0-9 -]+ \\| +[1-9][0-9]* \\| +[0-9]+ \\|\n";
    EXPECT_THAT(outcome.out,
                ContainsRegex("\n\\| hakmem_c23 \\|" + cell + " +[0-9.]+ \\|" + cell + counts));
    const std::string json = contents(scratch.path() + "/shapes.json");
    for (const char *member : {"\"moment\": \"freed\"", "\"held_over_best\": ", "\"percent\": 5"}) {
        EXPECT_THAT(json, HasSubstr(member));
    }
    EXPECT_THAT(contents(scratch.path() + "/shapes.gp"), HasSubstr("'switch-22k' 0, 'fork' 1"));
    EXPECT_TRUE(contents(scratch.path() + "/shapes.svg").find("</svg>") != std::string::npos ||
                outcome.err.find("gnuplot is not installed") != std::string::npos)
        << outcome.err;
}

TEST(Shapes, RefusesFiguresOfAnotherAllocator) {
    const ScratchDirectory scratch;
    const Outcome outcome =
        drive("shapes", {"--quick", "--shapes", "odd-16k", "--allocators",
                         "/lib/x86_64-linux-gnu/libm.so.6", "--out", scratch.path()});
    EXPECT_THAT(outcome.error, ContainsRegex("^exit status 1: "));
    EXPECT_THAT(outcome.out, ContainsRegex("- odd-16k on m: served by .*libc.*and not by .*libm"));
}

struct Moment {
    double held_kib = -1, live_kib = -1, mappings = -1;
};

// What the worker says of the moment `end` of a shape.
Moment moment_of(const std::string &steps, const std::vector<std::string> &options = {}) {
    std::vector<std::string> arguments = {steps};
    arguments.insert(arguments.end(), options.begin(), options.end());
    Report report;
    const Outcome outcome = run_worker("shapes_worker", arguments, {}, &report);
    EXPECT_EQ(outcome.error, "") << steps;
    Moment moment;
    const size_t at = outcome.out.find("moment end ");
    if (at != std::string::npos) {
        std::istringstream words(outcome.out.substr(at + 11));
        words >> moment.held_kib >> moment.live_kib >> moment.mappings;
    }
    return moment;
}

double live_kib(const std::string &steps, const std::vector<std::string> &options = {}) {
    return moment_of(steps, options).live_kib;
}

TEST(Shapes, StepsMakeTheHeap) {
    EXPECT_EQ(live_kib("mark=end"), 0);
    EXPECT_EQ(live_kib("fill=1K:4M,mark=end"), 4096);
    EXPECT_EQ(live_kib("fill=1K:4M%,mark=end", {"--percent=25"}), 1024);
    EXPECT_EQ(live_kib("align=4K:4096:4M,mark=end"), 4096);
    EXPECT_EQ(live_kib("fill=1K:4M,free,mark=end"), 0);
    EXPECT_NEAR(live_kib("fill=1K:4M,keep=4,free,mark=end"), 1024, 150);
    EXPECT_EQ(live_kib("fill=1K:4M,keep=4,drop,mark=end"), 0);
    EXPECT_NEAR(live_kib("fill=1K-3K:4M,mark=end"), 4096, 4);
    EXPECT_EQ(live_kib("cache=1K:1M:4M,mark=end"), 1024);
    EXPECT_NEAR(live_kib("group=16~1K:64K:1M:4M,mark=end"), 1024, 66);
    EXPECT_NEAR(live_kib("drift=1000:20000:100~1000,mark=end"), 880, 60);
    EXPECT_NEAR(live_kib("values=1000:100000:40-6K,mark=end"), 6000, 100);
    EXPECT_EQ(live_kib("shrink=256K:64K:4M,mark=end"), 4096);
    EXPECT_EQ(live_kib("tables=8:1M:64K:100,mark=end"), 512);
    EXPECT_EQ(live_kib("buffers=8:1M:64K:100,mark=end"), 512);
    EXPECT_EQ(live_kib("buffers=8:1M:64K:0,grow=2M,mark=end"), 512);
    EXPECT_EQ(live_kib("side=4:1M:4K,mark=end"), 4096);
    EXPECT_EQ(live_kib("once=16~32K:256,trim,sleep=1,quiet=1,mark=end"), 0);
    EXPECT_EQ(live_kib("3*[fill=1K:1M,2*[cache=1K:8M:1M]],mark=end"), 9216);
    // Threads: all at a time, one after the other, and from one to another.
    EXPECT_EQ(live_kib("threads=4,fill=1K:1M,mark=end"), 4096);
    EXPECT_EQ(live_kib("threads=4,6*[turn,fill=1K:1M],mark=end"), 6144);
    EXPECT_EQ(live_kib("3*[threads=2,fill=1K:1M,end],mark=end"), 6144);
    EXPECT_EQ(live_kib("threads=3,handoff=1K:1M:5,mark=end"), 0);
}

TEST(Shapes, TheSameSeedMakesTheSameHeap) {
    const std::string steps = "cache=64~20K:1M:8M,values=100:1000:40-6K,mark=end";
    EXPECT_EQ(live_kib(steps, {"--seed=1"}), live_kib(steps, {"--seed=1"}));
    EXPECT_NE(live_kib(steps, {"--seed=1"}), live_kib(steps, {"--seed=2"}));
}

// The C library takes 32 B for 16. The worker keeps 16 B of its own for each block.
TEST(Shapes, TheWorkersBooksAreNotHeld) {
    const Moment moment = moment_of("fill=16:16M,mark=end");
    EXPECT_GT(moment.held_kib, 1.9 * moment.live_kib);
    EXPECT_LT(moment.held_kib, 2.2 * moment.live_kib);
    // Nor are its threads' stacks, 64 KiB each.
    EXPECT_LT(moment_of("threads=100,mark=end").held_kib, 100 * 32);
}

TEST(Shapes, AChildHoldsWhatItDoesNotShare) {
    EXPECT_GT(moment_of("fill=1K:32M,mark=end").held_kib, 32 << 10);
    EXPECT_LT(moment_of("fill=1K:32M,fork,mark=end").held_kib, 1 << 10);
    EXPECT_EQ(live_kib("fill=1K:32M,fork,mark=end"), 0);
    // The C library writes to blocks that it frees, and so copies their pages.
    EXPECT_GT(moment_of("fill=1K:32M,fork,keep=2,mark=end").held_kib, 24 << 10);
    EXPECT_GT(moment_of("fill=1K:32M,fork,fill=1K:8M,mark=end").held_kib, 8 << 10);
    EXPECT_LT(moment_of("fill=1K:32M,fork,fill=1K:8M,mark=end").held_kib, 12 << 10);
}

TEST(Shapes, CountsMappings) {
    const double before = moment_of("mark=end").mappings;
    EXPECT_GT(before, 5);
    // Blocks of 40 MB are mappings of their own in the C library.
    EXPECT_GE(moment_of("buffers=50:40M:4K:0,mark=end").mappings, before + 1);
}

TEST(Shapes, RefusesBadSteps) {
    for (const char *steps :
         {"nosuch", "fill", "fill=1", "fill=1:2:3", "fill=x:1M", "fill=2-1:1M", "fill=0~5:1M",
          "free=1", "mark", "mark=", "2*[free", "2*free", "free]", "fill=1:1M,", "threads=0",
          "threads=1,fork", "threads=1,threads=1", "handoff=1:1M:1"}) {
        Report report;
        EXPECT_THAT(run_worker("shapes_worker", {steps}, {}, &report).error,
                    StartsWith("exit status 1: shapes_worker: "))
            << steps;
    }
}

} // namespace
} // namespace bench
