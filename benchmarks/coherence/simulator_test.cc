// SPDX-License-Identifier: Apache-2.0
#include "gtest/gtest.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace {

struct Result {
    int status;
    std::string json;

    // A number of a part of the result.
    double number(const std::string &part, const std::string &key) const {
        size_t at = json.find("\"" + part + "\"");
        at = json.find("\"" + key + "\"", at);
        EXPECT_NE(at, std::string::npos) << part << " " << key << " in " << json.substr(0, 200);
        at = json.find(':', at);
        return at == std::string::npos ? -1 : std::strtod(json.c_str() + at + 1, nullptr);
    }
};

Result run(const std::string &command) {
    FILE *pipe = popen(command.c_str(), "r");
    Result result{-1, ""};
    char part[4096];
    for (size_t got; (got = fread(part, 1, sizeof part, pipe)) > 0;) {
        result.json.append(part, got);
    }
    result.status = pclose(pipe);
    return result;
}

Result simulate(const std::string &library, const std::string &arguments) {
    return run("benchmarks/coherence/simulator --library " + library + " " + arguments);
}

const char kOwn[] = "libhakmem_c23_traced.so";
const char kToy[] = "benchmarks/coherence/libtoy.so";

TEST(Simulator, CountsEachTransferOfAKnownPingPong) {
    const Result toy = simulate(kToy, "--workload thrash --cores 2");
    ASSERT_EQ(toy.status, 0);
    const double mallocs = 2 * 100;
    EXPECT_EQ(toy.number("operations", "operations"), 2 * mallocs);
    EXPECT_EQ(toy.number("malloc", "fetches"), mallocs);
    EXPECT_EQ(toy.number("malloc", "upgrades"), mallocs);
    EXPECT_EQ(toy.number("malloc", "invalidations"), mallocs);
    EXPECT_EQ(toy.number("free", "transfers"), 0);
    EXPECT_EQ(toy.number("program", "transfers"), 0);
}

TEST(Simulator, SeesBlocksOfTwoThreadsOnOneLine) {
    const Result packed = simulate("benchmarks/coherence/libtoy_packed.so", "--workload thrash");
    ASSERT_EQ(packed.status, 0);
    EXPECT_GE(packed.number("program", "transfers"), 200);
}

TEST(Simulator, IsTheSameTwiceByASeedAndAnotherByAnother) {
    for (const char *workload : {"larson", "xmalloc", "threads"}) {
        const std::string arguments = std::string("--scale 20 --cores 4 --workload ") + workload;
        const Result first = simulate(kOwn, arguments);
        ASSERT_EQ(first.status, 0) << workload;
        EXPECT_GT(first.number("allocator", "accesses"), 1000) << workload;
        EXPECT_GT(first.number("allocator", "transfers"), 0) << workload;
        EXPECT_EQ(first.json, simulate(kOwn, arguments).json) << workload;
        EXPECT_NE(first.json, simulate(kOwn, arguments + " --seed 2").json) << workload;
    }
}

TEST(Simulator, RunsEachWorkloadOnHakmem) {
    for (const char *workload : {"mixed", "middle", "large", "growth", "thrash"}) {
        for (const char *cores : {"1", "3 --sockets 2"}) {
            const Result own = simulate(kOwn, std::string("--scale 5 --workload ") + workload +
                                                  " --cores " + cores);
            ASSERT_EQ(own.status, 0) << workload;
            EXPECT_GT(own.number("operations_per_second", "operations_per_second"), 0) << workload;
            if (cores == std::string("1")) {
                EXPECT_EQ(own.number("allocator", "transfers"), 0) << workload;
            }
        }
    }
}

// The heap of many threads grows: what all of them count, or look at in each miss, is spread.
TEST(Hakmem, NoLineHasASixthOfTheTransfersWhileTheHeapGrows) {
    const Result own = simulate(kOwn, "--workload growth --cores 16");
    ASSERT_EQ(own.status, 0);
    const double all = own.number("allocator", "transfers");
    EXPECT_GT(all, 1000);
    EXPECT_LT(own.number("lines", "transfers"), all / 6); // of the first, which moves most
}

// All threads want slabs at the same time, of which the lowest is free for all of them.
TEST(Hakmem, ThreadsThatClaimAtTheSameTimeDoNotLoseToEachOther) {
    const Result own = simulate(kOwn, "--workload growth --scale 25 --cores 256");
    ASSERT_EQ(own.status, 0);
    const double operations = own.number("operations", "operations");
    EXPECT_GT(operations, 10000);
    EXPECT_LT(own.number("allocator", "failed"), operations / 4);
}

TEST(Hakmem, LargeBlocksThatComeAndGoAreNotCountedInOneWord) {
    const Result own = simulate(kOwn, "--workload large --scale 25 --cores 4");
    ASSERT_EQ(own.status, 0);
    const double operations = own.number("operations", "operations");
    EXPECT_GT(operations, 1000);
    EXPECT_LT(own.number("allocator", "transfers"), operations * 8);
}

TEST(Simulator, SaysWhatItCannotRun) {
    EXPECT_NE(simulate("/nowhere.so", "2>/dev/null").status, 0);
    EXPECT_NE(simulate(kToy, "--workload nothing 2>/dev/null").status, 0);
    EXPECT_NE(simulate(kToy, "--prefix other_ 2>/dev/null").status, 0);
}

TEST(Coherence, WritesATableAndTheCounts) {
    const std::string out = testing::TempDir() + "coherence";
    const Result table =
        run("benchmarks/coherence/coherence --cores 2 --workloads thrash --places 2 "
            "--library toy=benchmarks/coherence/libtoy.so --out " +
            out + " 2>/dev/null");
    ASSERT_EQ(table.status, 0);
    std::stringstream text;
    text << std::ifstream(out + "/coherence.md").rdbuf();
    EXPECT_NE(text.str().find("| hakmem_c23 | 0.000 |"), std::string::npos) << text.str();
    EXPECT_NE(text.str().find("| toy | 1.000 |"), std::string::npos) << text.str();
    std::stringstream json;
    json << std::ifstream(out + "/coherence.json").rdbuf();
    EXPECT_NE(json.str().find("\"workload\": \"thrash\""), std::string::npos) << json.str();
}

} // namespace
