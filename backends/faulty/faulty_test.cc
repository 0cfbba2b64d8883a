// SPDX-License-Identifier: Apache-2.0
#include "backends/faulty/faulty.h"

#include "backends/os.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <vector>

namespace {

constexpr size_t kPage = 4096;

faulty_script Parsed(const char *text) {
    faulty_script script = {};
    EXPECT_TRUE(faulty_parse(text, &script)) << text;
    return script;
}

class FaultyTest : public testing::Test {
  protected:
    void SetUp() override { Set(faulty_script{}); }
    void TearDown() override {
        Set(faulty_script{});
        for (void *at : mapped_) {
            os_release(at, kPages * kPage);
        }
    }
    static void Set(const faulty_script &script) { faulty_set(&script); }
    static void Set(const char *text) { Set(Parsed(text)); }

    unsigned char *Map() {
        void *at = nullptr;
        EXPECT_EQ(os_map(nullptr, kPages * kPage, &at), OS_OK);
        mapped_.push_back(at);
        return static_cast<unsigned char *>(at);
    }
    static constexpr size_t kPages = 8;
    std::vector<void *> mapped_;
};

TEST_F(FaultyTest, ParsesScripts) {
    faulty_script script = Parsed("all:5");
    EXPECT_EQ(script.kinds, static_cast<uint32_t>(FAULTY_ALL));
    EXPECT_EQ(script.first, 5u);
    EXPECT_EQ(script.last, 5u);
    EXPECT_FALSE(script.taken);

    script = Parsed("map,refresh:3-7:taken");
    EXPECT_EQ(script.kinds, 1u << FAULTY_MAP | 1u << FAULTY_REFRESH);
    EXPECT_EQ(script.first, 3u);
    EXPECT_EQ(script.last, 7u);
    EXPECT_TRUE(script.taken);

    script = Parsed("purge:2-");
    EXPECT_EQ(script.kinds, 1u << FAULTY_PURGE);
    EXPECT_EQ(script.last, UINT64_MAX);

    script = Parsed("move:random=20000,18446744073709551615");
    EXPECT_EQ(script.first, 0u);
    EXPECT_EQ(script.ppm, 20000u);
    EXPECT_EQ(script.seed, UINT64_MAX);

    for (int kind = 0; kind < FAULTY_KINDS; kind++) {
        std::string name = faulty_name(static_cast<faulty_kind>(kind));
        EXPECT_EQ(Parsed((name + ":1").c_str()).kinds, 1u << kind);
    }
}

TEST_F(FaultyTest, RefusesOtherText) {
    for (const char *text :
         {"", "all", "all:", ":1", "al:1", "allx:1", "map,:1", ",map:1", "map:x", "map:1x",
          "map:1-x", "map:1:", "map:1:take", "map:1:takenx", "map:random=1", "map:random=1000001,1",
          "map:random=1,", "map:99999999999999999999", "os_map:1"}) {
        faulty_script script = {};
        script.first = 9;
        EXPECT_FALSE(faulty_parse(text, &script)) << text;
        EXPECT_EQ(script.first, 9u);
    }
}

TEST_F(FaultyTest, FailsTheCallsThatTheScriptNumbers) {
    unsigned char *at = Map();
    Set("commit,purge:2-3");
    uint64_t before = faulty_failures();
    uint64_t here = faulty_failures_here();
    uint64_t commits = faulty_calls_of(FAULTY_COMMIT);
    EXPECT_EQ(os_commit(at, kPage), OS_OK);        // 1
    EXPECT_EQ(os_refresh(at, kPage), OS_OK);       // has no number
    EXPECT_EQ(os_purge(at, kPage), OS_NO_MEMORY);  // 2
    EXPECT_EQ(os_commit(at, kPage), OS_NO_MEMORY); // 3
    EXPECT_EQ(os_commit(at, kPage), OS_OK);        // 4
    EXPECT_EQ(faulty_calls(), 4u);
    EXPECT_EQ(faulty_calls_of(FAULTY_COMMIT), commits + 3);
    EXPECT_EQ(faulty_failures(), before + 2);
    EXPECT_EQ(faulty_failures_here(), here + 2);
}

TEST_F(FaultyTest, EverySecondFailureOfARemapLosesTheRange) {
    for (const char *script : {"refresh:1-", "decommit:1-"}) {
        Set("all:0"); // no call fails
        unsigned char *at = Map();
        Set(script);
        unsigned lost = 0;
        for (int i = 0; i < 2; i++) {
            bool refresh = script[0] == 'r';
            enum os_result result = refresh ? os_refresh(at, kPage) : os_decommit(at, kPage);
            EXPECT_NE(result, OS_OK);
            lost += result == OS_LOST;
        }
        EXPECT_EQ(lost, 1u);
        unsigned char resident;
        EXPECT_EQ(mincore(at, kPage, &resident), -1);
        EXPECT_EQ(mincore(at + kPage, kPage, &resident), 0);
        Set("all:0");
        EXPECT_EQ(os_map(at, kPage, nullptr), OS_OK);
    }
}

TEST_F(FaultyTest, EachKindFailsAsItsContractSays) {
    unsigned char *at = Map();
    unsigned char *to = Map();
    memset(at, 1, kPages * kPage);
    Set("all:1-");
    void *got = at;
    EXPECT_EQ(os_reserve(nullptr, kPage, &got), OS_NO_MEMORY);
    EXPECT_EQ(os_map(nullptr, kPage, &got), OS_NO_MEMORY);
    EXPECT_EQ(got, at);
    EXPECT_EQ(os_commit(at, kPage), OS_NO_MEMORY);
    EXPECT_EQ(os_decommit(at, kPage), OS_NO_MEMORY);
    EXPECT_EQ(os_refresh(at, kPage), OS_NO_MEMORY);
    os_release(at, kPages * kPage);
    os_huge_pages(at, kPage, true);
    char buf[16];
    EXPECT_EQ(os_read_file("/proc/self/stat", buf, sizeof buf), 0u);
    EXPECT_EQ(os_physical_memory(), 0u);
    EXPECT_EQ(os_address_limit(), SIZE_MAX);
    EXPECT_EQ(os_move(at, to, kPages * kPage), OS_NO_MEMORY);
    for (size_t i = 0; i < kPages * kPage; i++) {
        ASSERT_EQ(at[i], 1) << i; // None of the failed calls above has changed the content.
    }
    // Half of the content is gone, as with a kernel that stops half way.
    EXPECT_EQ(os_purge(at, kPages * kPage), OS_NO_MEMORY);
    EXPECT_EQ(at[0], 0);
    EXPECT_EQ(at[kPages * kPage - 1], 1);
    EXPECT_EQ(os_purge(at + 6 * kPage, 2 * kPage), OS_NO_MEMORY);
    EXPECT_EQ(at[6 * kPage], 0);
    EXPECT_EQ(at[7 * kPage], 1);
    EXPECT_EQ(faulty_calls(), 13u);
}

TEST_F(FaultyTest, PassesTheOthersOn) {
    unsigned char *at = Map();
    unsigned char *to = Map();
    memset(at, 1, kPages * kPage);
    EXPECT_EQ(os_move(at, to, kPages * kPage), OS_OK);
    EXPECT_EQ(at[5], 0);
    EXPECT_EQ(to[5], 1);
    EXPECT_EQ(os_purge(to, kPage), OS_OK);
    EXPECT_EQ(os_purge(to + 2 * kPage, kPage), OS_OK);
    EXPECT_EQ(to[0] + to[2 * kPage], 0);
    EXPECT_EQ(to[kPage], 1);
    char buf[16];
    EXPECT_EQ(os_read_file("/proc/self/stat", buf, sizeof buf), sizeof buf);
    EXPECT_GT(os_physical_memory(), size_t{1} << 20);
    EXPECT_GT(os_now_ns(), 0u);
    EXPECT_LE(os_now_ms(), os_now_ns() / 1000000 + 1);
}

TEST_F(FaultyTest, TakenIsForFixedAddresses) {
    unsigned char *at = Map();
    Set("all:1-:taken");
    void *got = nullptr;
    EXPECT_EQ(os_reserve(at, kPage, nullptr), OS_TAKEN);
    EXPECT_EQ(os_map(at, kPage, nullptr), OS_TAKEN);
    EXPECT_EQ(os_commit(at, kPage), OS_OK);
    EXPECT_EQ(os_map(nullptr, kPages * kPage, &got), OS_OK);
    mapped_.push_back(got);
}

TEST_F(FaultyTest, ChancesFollowTheSeed) {
    unsigned char *at = Map();
    auto run = [at](const char *text) {
        Set(text);
        std::string results;
        for (int i = 0; i < 2000; i++) {
            results += os_commit(at, kPage) == OS_OK ? '.' : 'x';
        }
        return results;
    };
    std::string seven = run("all:random=100000,7");
    EXPECT_EQ(seven, run("all:random=100000,7"));
    EXPECT_NE(seven, run("all:random=100000,8"));
    size_t failed = std::count(seven.begin(), seven.end(), 'x');
    EXPECT_GT(failed, 100u);
    EXPECT_LT(failed, 300u);
    EXPECT_EQ(run("all:random=0,7"), std::string(2000, '.'));
    EXPECT_EQ(run("all:random=1000000,7"), std::string(2000, 'x'));
}

TEST(FaultyDeathTest, TextThatIsNoScriptEndsTheProgram) {
    GTEST_FLAG_SET(death_test_style, "threadsafe"); // for a process that has not made a call yet
    EXPECT_DEATH(
        {
            setenv("HAK_FAULTY", "everything", 1);
            os_physical_memory();
        },
        "HAK_FAULTY is no script");
    EXPECT_DEATH(
        {
            setenv("HAK_FAULTY_CLOCK", "5ms", 1);
            os_now_ms();
        },
        "HAK_FAULTY_CLOCK is no number");
}

TEST(FaultyDeathTest, TheClockMovesWithTheLooks) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(
        {
            setenv("HAK_FAULTY_CLOCK", "1000", 1);
            bool good = os_now_ms() == 1000 && os_now_ns() == 1001000000u && os_now_ms() == 1002;
            exit(good ? 0 : 1);
        },
        testing::ExitedWithCode(0), "");
}

} // namespace
