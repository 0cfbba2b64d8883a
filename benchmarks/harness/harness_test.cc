// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/flags.h"
#include "benchmarks/harness/process.h"
#include "benchmarks/harness/report.h"
#include "benchmarks/harness/sample.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <utility>

namespace bench {
namespace {

using ::testing::ExitedWithCode;

std::vector<std::string> parse(Flags *flags, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "program");
    std::vector<char *> argv;
    for (std::string &argument : arguments) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    return flags->parse(static_cast<int>(arguments.size()), argv.data());
}

Command shell(const std::string &script) {
    Command command;
    command.argv = {"/bin/sh", "-c", script};
    return command;
}

TEST(Flags, TakesWhatIsWellFormed) {
    uint64_t number = 7;
    std::string text;
    bool toggle = false;
    Flags flags("p", "about", {"A", "B"});
    flags.number("number", 1, 10, &number, "");
    flags.text("text", "T", &text, "");
    flags.toggle("toggle", &toggle, "");
    EXPECT_EQ(parse(&flags, {"x", "--number", "10", "--text=t", "y", "--toggle"}),
              (std::vector<std::string>{"x", "y"}));
    EXPECT_EQ(number, 10u);
    EXPECT_EQ(text, "t");
    EXPECT_TRUE(toggle);
}

TEST(Flags, EndsOnAnythingElse) {
    uint64_t number = 7;
    Flags flags("p", "about", {"A"});
    flags.number("number", 1, 10, &number, "");
    const std::vector<std::vector<std::string>> bad = {
        {},
        {"a", "b"},
        {"a", "--number"},
        {"a", "--number", "0"},
        {"a", "--number", "11"},
        {"a", "--number", "-1"},
        {"a", "--number", "+1"},
        {"a", "--number", "1k"},
        {"a", "--number", ""},
        {"a", "--number", "99999999999999999999"},
        {"a", "--other"},
        {"a", "-x"},
    };
    for (const auto &arguments : bad) {
        EXPECT_EXIT(parse(&flags, arguments), ExitedWithCode(2), "usage: p A \\[--number N\\]\n$");
    }
}

TEST(SplitList, DropsEmptyParts) {
    EXPECT_EQ(split_list(""), std::vector<std::string>{});
    EXPECT_EQ(split_list(",a,,bc,"), (std::vector<std::string>{"a", "bc"}));
}

TEST(Allocators, FindsAFlavourAndWhatIsSetWithIt) {
    Allocator allocator;
    ASSERT_EQ(find_allocator("hakmem_c23+A=1+B=", &allocator), "");
    EXPECT_EQ(allocator.name, "hakmem_c23+A=1+B=");
    EXPECT_EQ(allocator.flavour, "hakmem_c23");
    EXPECT_EQ(allocator.environment, (std::vector<std::string>{"A=1", "B="}));
    EXPECT_EQ(std::filesystem::path(allocator.preload).filename(), "libhakmem_c23.so");
}

// A flavour, and a copy of its library under another name.
class CopiedAllocator : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(find_allocator("hakmem_c23", &flavour), "");
        copy = scratch.path() + "/libother.so.2.0";
        std::filesystem::copy_file(flavour.preload, copy);
    }

    const ScratchDirectory scratch;
    Allocator flavour;
    std::string copy;
};

TEST_F(CopiedAllocator, IsNamedByItsFile) {
    Allocator allocator;
    ASSERT_EQ(find_allocator(copy, &allocator), "");
    EXPECT_EQ(allocator.name, "other");
    EXPECT_EQ(allocator.preload, copy);
    EXPECT_EQ(allocator.flavour, "");
}

TEST_F(CopiedAllocator, IsFoundInAListAsItWasWrittenOrAsItIsShown) {
    std::vector<Allocator> list;
    ASSERT_EQ(find_allocators("hakmem_c23," + copy + "+A=1," + copy + ",system", &list), "");
    EXPECT_EQ(place_of(list, "hakmem_c23"), 0u);
    EXPECT_EQ(place_of(list, copy + "+A=1"), 1u);
    EXPECT_EQ(place_of(list, "other+A=1"), 1u);
    EXPECT_EQ(place_of(list, copy), 2u);
    EXPECT_EQ(place_of(list, "other"), 2u);
    EXPECT_EQ(place_of(list, "system"), 3u);
    EXPECT_EQ(place_of(list, "nosuch"), list.size());
    EXPECT_EQ(place_of(list, flavour.preload), 0u);
    const std::string namesake = scratch.path() + "/libhakmem_c23.so";
    std::filesystem::copy_file(flavour.preload, namesake);
    EXPECT_EQ(place_of(list, namesake), list.size()) << "another file of the same name";
}

TEST(Allocators, SaysWhatItCannotFind) {
    Allocator allocator;
    std::vector<Allocator> list;
    EXPECT_NE(find_allocator("nosuch", &allocator).find("hakmem_c23"), std::string::npos);
    EXPECT_NE(find_allocator("", &allocator), "");
    EXPECT_NE(find_allocator("/no/such.so", &allocator), "");
    EXPECT_NE(find_allocator("system+A", &allocator), "");
    EXPECT_NE(find_allocator("system+=1", &allocator), "");
    EXPECT_NE(find_allocators("system,system", &list), "");
    EXPECT_NE(find_allocators("", &list), "");
}

TEST(Run, GivesOutputAndUsage) {
    const Outcome outcome = run(shell("echo out; echo err >&2; cat"), {});
    EXPECT_EQ(outcome.error, "");
    EXPECT_EQ(outcome.out, "out\n");
    EXPECT_EQ(outcome.err, "err\n");
    EXPECT_GT(outcome.wall_s, 0);
    EXPECT_GT(outcome.rss_kib, 0);
    EXPECT_GT(outcome.faults, 0);
}

TEST(Run, SaysHowAProgramFailed) {
    EXPECT_EQ(run(shell("echo why >&2; exit 3"), {}).error, "exit status 3: why");
    EXPECT_EQ(run(shell("kill -SEGV $$"), {}).error, "killed by Segmentation fault");
    Command missing;
    missing.argv = {"/no/such/program"};
    EXPECT_EQ(run(missing, {}).error, "launch: /no/such/program: No such file or directory");
    Command slow = shell("sleep 1000 & wait");
    slow.timeout_s = 0.2;
    EXPECT_EQ(run(slow, {}).error, "not done after 0 s, killed");
}

TEST(Run, TakesEnvironmentInputDirectoryAndLimit) {
    const ScratchDirectory scratch;
    ASSERT_TRUE(write_file(scratch.path() + "/in", "input\n"));
    Command command = shell("cat; pwd; echo $A $B; ulimit -v");
    command.input = scratch.path() + "/in";
    command.directory = scratch.path();
    command.environment = {"A=1"};
    command.address_space = uint64_t{1} << 30;
    Allocator allocator;
    allocator.environment = {"B=2"};
    EXPECT_EQ(run(command, allocator).out, "input\n" + scratch.path() + "\n1 2\n1048576\n");
}

TEST(Run, KillsWhatLeavesTheMachineTooLittleMemory) {
    Command command = shell("echo $$; exec sleep 100");
    command.memory_left_mib = 1;
    command.address_space = uint64_t{1} << 30;
    command.timeout_s = 1;
    EXPECT_EQ(run(command, {}).error, "not done after 1 s, killed");
    command.memory_left_mib = uint64_t{1} << 40;
    command.timeout_s = 100;
    EXPECT_EQ(run(command, {}).error, "killed by Killed: killed: the machine is short of memory");
    command = shell("exit 3");
    command.memory_left_mib = 1;
    EXPECT_EQ(run(command, {}).error, "exit status 3");
}

TEST(Run, KillsWhatTakesTooMuchMemory) {
    Command command = shell("a=x; while :; do a=$a$a; done");
    command.memory_most_mib = 64;
    command.address_space = uint64_t{8} << 30;
    command.timeout_s = 100;
    EXPECT_EQ(run(command, {}).error, "killed by Killed: killed: it took more memory than it may");
    command = shell("exit 3");
    command.memory_most_mib = 64;
    EXPECT_EQ(run(command, {}).error, "exit status 3");
}

// The driver's own peak must not be the least that any program can have.
TEST(Run, DoesNotChargeAProgramForTheDriver) {
    constexpr size_t kBytes = size_t{64} << 20;
    std::vector<char> large(kBytes, 1);
    const Outcome outcome = run(shell("exit 0"), {});
    EXPECT_EQ(outcome.error, "");
    EXPECT_LT(outcome.rss_kib, static_cast<long>(kBytes >> 10));
    EXPECT_EQ(large[kBytes / 2], 1);
}

TEST(Run, WarmsMemoryThatIsNotThePrograms) {
    Command command = shell("exit 0");
    command.warm_mib = 64;
    const Outcome outcome = run(command, {});
    EXPECT_EQ(outcome.error, "");
    EXPECT_LT(outcome.rss_kib, 64 << 10);
    EXPECT_GT(meminfo_mib("MemAvailable"), 0U);
    EXPECT_EQ(meminfo_mib("NoSuchLine"), 0U);
}

TEST(OrderOfRound, PutsEachAfterEachOtherAndAtEachPlaceEquallyOften) {
    for (size_t count = 1; count < 10; count++) {
        const uint64_t rounds = count % 2 == 0 ? count : 2 * count;
        std::map<std::pair<size_t, size_t>, uint64_t> after;
        std::map<std::pair<size_t, size_t>, uint64_t> places;
        for (uint64_t round = 0; round < rounds; round++) {
            const std::vector<size_t> order = order_of_round(count, round);
            ASSERT_EQ(order.size(), count);
            for (size_t i = 0; i < count; i++) {
                places[{order[i], i}]++;
                if (i > 0) {
                    after[{order[i - 1], order[i]}]++;
                }
            }
        }
        EXPECT_EQ(places.size(), count * count) << count;
        EXPECT_EQ(after.size(), count * (count - 1)) << count;
        for (const auto &place : places) {
            EXPECT_EQ(place.second, rounds / count) << count;
        }
        for (const auto &pair : after) {
            EXPECT_EQ(pair.second, rounds / count) << count;
        }
    }
}

TEST(Report, IsReadByLine) {
    const Report report = parse_report("ns 1.5\nname two words\nlonely\n");
    EXPECT_EQ(report, (Report{{"ns", "1.5"}, {"name", "two words"}}));
    EXPECT_EQ(report_number(report, "ns"), 1.5);
    EXPECT_EQ(report_number(report, "none"), 0);
}

TEST(Report, OfAnotherAllocatorIsRefused) {
    Allocator flavour;
    ASSERT_EQ(find_allocator("hakmem_c23", &flavour), "");
    const Allocator system = {"system", "", "", {}};
    const Report of_flavour = {{"malloc_from", flavour.preload}, {"flavour", "hakmem_c23"}};
    const Report of_other = {{"malloc_from", flavour.preload}, {"flavour", "hakmem_classic"}};
    const Report of_system = {{"malloc_from", "/lib/x/libc.so.6"}, {"flavour", "-"}};
    EXPECT_EQ(check_allocator(of_flavour, flavour), "");
    EXPECT_EQ(check_allocator(of_system, system), "");
    EXPECT_NE(check_allocator(of_other, flavour), "");
    EXPECT_NE(check_allocator(of_system, flavour), "");
    EXPECT_NE(check_allocator(of_flavour, system), "");
    EXPECT_NE(check_allocator({}, system), "");
}

TEST(Sample, Statistics) {
    const Sample sample = {4, 1, 3, 2, 5};
    EXPECT_EQ(minimum(sample), 1);
    EXPECT_EQ(median(sample), 3);
    EXPECT_EQ(median({1, 2}), 1.5);
    EXPECT_EQ(quantile(sample, 0.25), 2);
    EXPECT_EQ(quantile(sample, 1), 5);
    EXPECT_DOUBLE_EQ(spread(sample), 2.0 / 3);
    EXPECT_DOUBLE_EQ(geomean({1, 4}), 2);
}

TEST(Sample, MedianLiesBetweenTheRanksOfTheBinomialDistribution) {
    // Count of values -> the lower rank, from tables of the sign test at 95 %.
    const std::map<int, int> ranks = {{6, 1}, {8, 1}, {9, 2}, {15, 4}, {31, 10}, {51, 19}};
    for (const auto &[count, rank] : ranks) {
        Sample sample;
        for (int i = count; i > 0; i--) {
            sample.push_back(i);
        }
        const Interval interval = median_interval(sample);
        EXPECT_EQ(interval.low, rank) << count;
        EXPECT_EQ(interval.high, count + 1 - rank) << count;
        EXPECT_EQ(interval.value, median(sample));
    }
    EXPECT_EQ(median_interval({7}).low, 7);
    EXPECT_EQ(median_interval({1, 2, 9}).high, 9);
}

TEST(Sample, IntervalsThatTouchAreNotApart) {
    EXPECT_TRUE(apart({1.5, 1, 2}, {3.5, 3, 4}));
    EXPECT_TRUE(apart({3.5, 3, 4}, {1.5, 1, 2}));
    EXPECT_FALSE(apart({1.5, 1, 2}, {3, 2, 4}));
    EXPECT_FALSE(apart({2, 1, 4}, {2.5, 2, 3}));
}

TEST(Sample, RatioOfTheSameIsOneWithoutDoubt) {
    const Sample sample = {4, 1, 3, 2, 5};
    for (const Statistic statistic : {Statistic::kMinimum, Statistic::kMedian}) {
        const Interval interval = ratio(sample, sample, statistic);
        EXPECT_EQ(interval.value, 1);
        EXPECT_EQ(interval.low, 1);
        EXPECT_EQ(interval.high, 1);
    }
}

TEST(Sample, RatioLiesInItsInterval) {
    const Sample left = {10, 11, 12, 10, 13, 11, 12};
    const Sample right = {5, 6, 5, 7, 5, 6, 5};
    const Interval interval = ratio(left, right, Statistic::kMedian);
    EXPECT_DOUBLE_EQ(interval.value, 11.0 / 5);
    EXPECT_LT(interval.low, interval.value);
    EXPECT_GT(interval.high, interval.value);
    EXPECT_GE(interval.low, 10.0 / 7);
    EXPECT_LE(interval.high, 13.0 / 5);
}

TEST(Sample, GeomeanOfRatios) {
    const Interval interval = geomean_ratio({{8, 8}, {2, 2}}, {{1, 1}, {1, 1}}, Statistic::kMedian);
    EXPECT_DOUBLE_EQ(interval.value, 4);
    EXPECT_DOUBLE_EQ(interval.low, 4);
    EXPECT_DOUBLE_EQ(interval.high, 4);
}

TEST(Table, IsPaddedMarkdown) {
    Table table({"name", "µs"});
    table.row({"a", "1.5"});
    table.row({"longer"});
    EXPECT_EQ(table.text(), "| name   |  µs |\n"
                            "| ------ | --: |\n"
                            "| a      | 1.5 |\n"
                            "| longer |     |\n");
}

TEST(Grouped, SeparatesThousands) {
    EXPECT_EQ(grouped(0), "0");
    EXPECT_EQ(grouped(999), "999");
    EXPECT_EQ(grouped(1000), "1 000");
    EXPECT_EQ(grouped(-1234567.2), "-1 234 567");
}

TEST(Json, EscapesAndNests) {
    EXPECT_EQ(Json::object({{"a\"\n", Sample{1, 0.5}}, {"b", Json::array({})}}).text(),
              "{\"a\\\"\\u000a\": [1, 0.5], \"b\": []}");
    EXPECT_EQ(Json(1.0 / 0.0).text(), "null");
}

} // namespace
} // namespace bench
