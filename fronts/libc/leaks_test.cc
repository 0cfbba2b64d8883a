// SPDX-License-Identifier: Apache-2.0
// HAKMEM_LEAKS=1 on programs whose leaks are known.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <regex>
#include <sstream>
#include <string>

#include "fronts/libc/shell.h"

namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

constexpr char kProgram[] = "fronts/libc/leaks_program";
const char *const kFlavours[] = {HAK_FLAVOURS};

struct Leak {
    long bytes = 0, blocks = 0;
    bool operator==(const Leak &other) const {
        return bytes == other.bytes && blocks == other.blocks;
    }
};
std::ostream &operator<<(std::ostream &out, const Leak &leak) {
    return out << leak.bytes << " bytes in " << leak.blocks << " blocks";
}

struct Report {
    std::string first;                 // line
    std::map<std::string, Leak> leaks; // by the function that allocated
    std::string text;
};

Report RunProgram(const std::string &flavour, const std::string &mode, const std::string &rate) {
    Report report;
    shell::Outcome run =
        shell::Run("HAKMEM_LEAKS=1 HAKMEM_PROFILE_RATE=" + rate + " LD_PRELOAD=$PWD/lib" + flavour +
                   ".so " + kProgram + " " + mode + " 2>&1");
    EXPECT_EQ(run.ending, "exit 0");
    report.text = run.text;
    std::istringstream lines(run.text);
    std::getline(lines, report.first);
    static const std::regex head(
        R"(hakmem: leak of (?:about )?(\d+) bytes? in (\d+) blocks?, allocated by)");
    static const std::regex frame(R"(hakmem:   #0 0x[0-9a-f]+ (\w+)\+0x[0-9a-f]+ \(.*\+0x.*\))");
    Leak leak;
    for (std::string line; std::getline(lines, line);) {
        std::smatch match;
        if (std::regex_match(line, match, head)) {
            leak = {std::stol(match[1]), std::stol(match[2])};
        } else if (std::regex_match(line, match, frame)) {
            report.leaks[match[1]].bytes += leak.bytes;
            report.leaks[match[1]].blocks += leak.blocks;
        }
    }
    return report;
}

TEST(Leaks, AreFoundExactlyAtTheRateOne) {
    for (std::string flavour : kFlavours) {
        Report report = RunProgram(flavour, "lose", "1");
        const std::map<std::string, Leak> truth = {
            {"lose_small", {700, 7}},
            {"lose_large", {600000, 2}},
            {"lose_list", {50 * 40 + 50 * 33, 100}},
            {"lose_ring", {80, 2}},
        };
        EXPECT_EQ(report.leaks, truth) << flavour << "\n" << report.text;
        EXPECT_THAT(report.first,
                    MatchesRegex("hakmem: leaks: 604430 bytes in 111 blocks; still reachable: "
                                 "[0-9]+ bytes in [0-9]+ blocks"));
    }
}

TEST(Leaks, NoneAreReportedOfAProgramThatHasNone) {
    for (std::string flavour : kFlavours) {
        for (std::string mode : {"", "free", "threads"}) {
            Report report = RunProgram(flavour, mode, "1");
            EXPECT_TRUE(report.leaks.empty()) << flavour << " " << mode << "\n" << report.text;
            EXPECT_THAT(report.first, MatchesRegex("hakmem: no leaks; still reachable: .*"));
        }
    }
}

TEST(Leaks, AreEstimatedAtOtherRates) {
    Report report = RunProgram("hakmem_c23", "many", "20K");
    double p = -std::expm1(-101.0 / 20480), blocks = 140000;
    EXPECT_NEAR(static_cast<double>(report.leaks["lose_small"].bytes), 100 * blocks,
                100 * 5 * std::sqrt(blocks * (1 - p) / p))
        << report.text;
    EXPECT_THAT(report.first, HasSubstr("leaks: about "));
}

// What is lost may be among the blocks that were not sampled: the report is not to sound as if it
// were not.
TEST(Leaks, OfAFewSamplesNoneIsNoPromise) {
    Report report = RunProgram("hakmem_c23", "free", "1G");
    EXPECT_THAT(report.first,
                MatchesRegex("hakmem: no leaks among sampled blocks \\(HAKMEM_PROFILE_RATE=1 "
                             "samples all\\); still reachable: about .*"));
}

TEST(Leaks, OfPythonAreFew) {
    if (shell::Run("/usr/bin/python3 -c 1 2>&1").ending != "exit 0") {
        GTEST_SKIP() << "no python3";
    }
    shell::Outcome run = shell::Run("HAKMEM_LEAKS=1 HAKMEM_PROFILE_RATE=1 PYTHONMALLOC=malloc "
                                    "LD_PRELOAD=$PWD/libhakmem_c23.so /usr/bin/python3 -c "
                                    "'x = {i: str(i) for i in range(5000)}' 2>&1");
    EXPECT_EQ(run.ending, "exit 0");
    EXPECT_THAT(run.text, HasSubstr("; still reachable: "));
}

} // namespace
