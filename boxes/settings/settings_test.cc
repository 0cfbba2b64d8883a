// SPDX-License-Identifier: Apache-2.0
#include "boxes/settings/settings.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <sys/auxv.h>
#include <vector>

// The test's link replaces getauxval(), to stand in for a set-user-ID program.
static unsigned long secure;
extern "C" unsigned long __wrap_getauxval(unsigned long type) {
    EXPECT_EQ(type, static_cast<unsigned long>(AT_SECURE));
    return secure;
}

extern "C" int64_t settings_values[SETTING_COUNT];

namespace {

constexpr int64_t kUntouched = 0x5ca1ab1e;

class Settings : public testing::Test {
  protected:
    ~Settings() override {
        secure = 0;
        for (int i = 0; i < SETTING_COUNT; i++) {
            settings_values[i] = settings_table[i].preset;
        }
    }

    // Loads `entries` and returns what was printed.
    static std::string load(std::vector<std::string> entries) {
        std::vector<char *> environment;
        for (std::string &entry : entries) {
            environment.push_back(entry.data());
        }
        environment.push_back(nullptr);
        testing::internal::CaptureStderr();
        settings_load(environment.data());
        return testing::internal::GetCapturedStderr();
    }
};

TEST_F(Settings, TableIsSane) {
    std::set<std::string> names;
    for (int i = 0; i < SETTING_COUNT; i++) {
        const setting_row &row = settings_table[i];
        ASSERT_NE(row.name, nullptr) << i;
        EXPECT_EQ(strncmp(row.name, "HAKMEM_", 7), 0) << row.name;
        EXPECT_TRUE(names.insert(row.name).second) << row.name;
        EXPECT_LE(row.least, row.preset) << row.name;
        EXPECT_LE(row.preset, row.most) << row.name;
        EXPECT_STRNE(row.unit, "") << row.name;
        EXPECT_STRNE(row.what, "") << row.name;
        EXPECT_EQ(settings_get(static_cast<setting>(i)), row.preset) << row.name;
    }
}

TEST_F(Settings, ParsesAnIntegerOfTheRangeAndNothingElse) {
    constexpr int64_t kNo = INT64_MIN;
    struct {
        int64_t least, most;
        const char *text;
        int64_t expected; // kNo: refused
    } rows[] = {
        {0, 1, "0", 0},
        {0, 1, "1", 1},
        {0, 1, "2", kNo},
        {0, 1, "-1", kNo},
        {0, 1, "-0", 0},
        {0, 1, "+1", 1},
        {0, 1, "0000000000000000000000001", 1},
        {-1, 3600000, "-1", -1},
        {-1, 3600000, "-2", kNo},
        {-1, 3600000, "3600000", 3600000},
        {-1, 3600000, "3600001", kNo},
        {-5, 5, "", kNo},
        {-5, 5, "-", kNo},
        {-5, 5, "+", kNo},
        {-5, 5, "--1", kNo},
        {-5, 5, "+-1", kNo},
        {-5, 5, " 1", kNo},
        {-5, 5, "1 ", kNo},
        {-5, 5, "1\n", kNo},
        {-5, 5, "1a", kNo},
        {-5, 5, "0x1", kNo},
        {-5, 5, "1e0", kNo},
        {-5, 5, "1.0", kNo},
        {-5, 5, "true", kNo},
        {0, INT64_MAX, "9223372036854775807", INT64_MAX},
        {0, INT64_MAX, "9223372036854775808", kNo},
        {0, INT64_MAX, "18446744073709551617", kNo},
        {INT64_MIN + 1, 0, "-18446744073709551617", kNo},
        {0, INT64_MAX, "99999999999999999999999999999999999999", kNo},
    };
    for (const auto &row : rows) {
        setting_row setting = {"HAKMEM_TEST", "unit", row.least, row.most, 0, ""};
        int64_t out = kUntouched;
        bool expected = row.expected != kNo;
        EXPECT_EQ(settings_parse(&setting, row.text, &out), expected) << row.text;
        EXPECT_EQ(out, expected ? row.expected : kUntouched) << row.text;
    }
}

TEST_F(Settings, BytesTakeAUnitOrAShareOfTheMemory) {
    constexpr int64_t kNo = INT64_MIN;
    auto memory = static_cast<int64_t>(settings_memory());
    ASSERT_GT(memory, 0);
    struct {
        const char *text;
        int64_t expected;
    } rows[] = {
        {"0", 0},
        {"4095", 4095},
        {"1K", 1024},
        {"3M", int64_t{3} << 20},
        {"5G", int64_t{5} << 30},
        {"7T", int64_t{7} << 40},
        {"8388607T", int64_t{8388607} << 40},
        {"8388608T", kNo},
        {"1%", memory / 100},
        {"100%", memory / 100 * 100},
        {"101%", kNo},
        {"-1K", kNo},
        {"K", kNo},
        {"%", kNo},
        {"1k", kNo},
        {"1KB", kNo},
        {"1K1", kNo},
        {"1%%", kNo},
        {"1 K", kNo},
    };
    setting_row bytes = {"HAKMEM_TEST", "bytes|%", 0, INT64_MAX, 0, ""};
    setting_row count = {"HAKMEM_TEST", "blocks", 0, INT64_MAX, 0, ""};
    for (const auto &row : rows) {
        int64_t out = kUntouched;
        EXPECT_EQ(settings_parse(&bytes, row.text, &out), row.expected != kNo) << row.text;
        EXPECT_EQ(out, row.expected != kNo ? row.expected : kUntouched) << row.text;
        std::string text = row.text;
        bool plain = text.find_first_not_of("0123456789") == std::string::npos;
        EXPECT_EQ(settings_parse(&count, row.text, &out), plain) << row.text;
    }
}

TEST_F(Settings, LoadsItsNamesAndIgnoresOthers) {
    EXPECT_EQ(load({"PATH=/bin", "HAKMEM_STATS=1", "HAKMEM_DECAY_MS=-1", "HAKMEM_THP",
                    "XHAKMEM_THP=1", "hakmem_thp=1", "HAKMEM=1"}),
              "");
    EXPECT_EQ(settings_get(SETTING_STATS), 1);
    EXPECT_EQ(settings_get(SETTING_DECAY_MS), -1);
    EXPECT_EQ(settings_get(SETTING_THP), settings_table[SETTING_THP].preset);
}

TEST_F(Settings, BadValueGetsOneWarningAndTheDefault) {
    for (int i = 0; i < SETTING_COUNT; i++) {
        const setting_row &row = settings_table[i];
        std::vector<std::string> bad = {std::to_string(row.least - 1), "yes", " "};
        if (row.most < INT64_MAX) {
            bad.push_back(std::to_string(row.most + 1));
        }
        for (const std::string &value : bad) {
            std::string entry = std::string(row.name) + "=" + value;
            EXPECT_EQ(load({entry}), "hakmem: warning: " + entry +
                                         ": not a number of the setting's range, default used\n");
            EXPECT_EQ(settings_get(static_cast<setting>(i)), row.preset) << row.name;
        }
        EXPECT_EQ(load({std::string(row.name) + "=" + std::to_string(row.most)}), "");
        EXPECT_EQ(settings_get(static_cast<setting>(i)), row.most) << row.name;
        settings_values[i] = row.preset;
    }
}

TEST_F(Settings, EmptyValueIsTheDefault) {
    for (int i = 0; i < SETTING_COUNT; i++) {
        const setting_row &row = settings_table[i];
        const std::string name = row.name;
        int64_t other = row.most == row.preset ? row.least : row.most;
        EXPECT_EQ(load({name + "=" + std::to_string(other), name + "="}), "");
        EXPECT_EQ(settings_get(static_cast<setting>(i)), row.preset) << name;
    }
}

TEST_F(Settings, StatisticsGoToStderrOrToAFileAsATableOrAsJson) {
    struct {
        const char *text, *file;
        bool json;
    } rows[] = {
        {"text", nullptr, false},           {"json", nullptr, true},
        {"/tmp/file", "/tmp/file", false},  {"./stats.%p", "./stats.%p", false},
        {"stats.json", "stats.json", true}, {"1", nullptr, false},
    };
    for (const auto &row : rows) {
        settings_values[SETTING_STATS] = 0;
        EXPECT_EQ(load({std::string("HAKMEM_STATS=") + row.text}), "");
        EXPECT_EQ(settings_get(SETTING_STATS), 1) << row.text;
        const struct settings_stats stats = settings_get_stats();
        EXPECT_STREQ(stats.file, row.file);
        EXPECT_EQ(stats.json, row.json) << row.text;
    }
    settings_values[SETTING_STATS] = 0;
    for (const std::string &bad :
         {std::string("JSON"), std::string("jsonx"), "/" + std::string(1024, 'x')}) {
        EXPECT_NE(load({"HAKMEM_STATS=" + bad}), "");
        EXPECT_EQ(settings_get(SETTING_STATS), 0);
    }
}

TEST_F(Settings, NameThatDoesNotExistGetsOneWarning) {
    EXPECT_EQ(load({"HAKMEM_STATSX=0", "HAKMEM_STAT=1", "HAKMEM_=", "HAKMEM_STATS=1",
                    "HAKMEM_STAT=2", "HAKMEM_STATSX=a=b", "HAKMEM_stats=1"}),
              "hakmem: warning: HAKMEM_STATSX=0: no such setting\n"
              "hakmem: warning: HAKMEM_STAT=1: no such setting\n"
              "hakmem: warning: HAKMEM_=: no such setting\n"
              "hakmem: warning: HAKMEM_stats=1: no such setting\n");
    EXPECT_EQ(settings_get(SETTING_STATS), 1);
    // Neither a long name nor a long value makes the line longer than there is room for.
    std::string name = "HAKMEM_" + std::string(1000, 'N');
    EXPECT_EQ(load({name + "=" + std::string(1000, 'v')}),
              "hakmem: warning: " + name.substr(0, 64) + "=" + std::string(64, 'v') +
                  ": no such setting\n");
}

TEST_F(Settings, NoEnvironmentAtAll) {
    settings_load(nullptr);
    EXPECT_EQ(load({}), "");
    EXPECT_EQ(settings_get(SETTING_DECAY_MS), settings_table[SETTING_DECAY_MS].preset);
}

TEST_F(Settings, SetUserIdProgramIgnoresThem) {
    secure = 1;
    EXPECT_EQ(load({"HAKMEM_STATS=1", "HAKMEM_DECAY_MS=bad", "HAKMEM_STAT=1"}), "");
    EXPECT_EQ(settings_get(SETTING_STATS), 0);
    secure = 0;
    EXPECT_EQ(load({"HAKMEM_STATS=1"}), "");
    EXPECT_EQ(settings_get(SETTING_STATS), 1);
}

} // namespace
