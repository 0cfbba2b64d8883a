// SPDX-License-Identifier: Apache-2.0
// Heap profiles of programs whose allocations are known, read back as other tools read them: gzip
// unpacks the files, and their content is decoded by the definition of profile.proto.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "fronts/libc/shell.h"

namespace {

using testing::HasSubstr;

constexpr char kProgram[] = "fronts/libc/profile_program";
const char *const kFlavours[] = {HAK_FLAVOURS};

std::string Temp(const std::string &name) {
    return testing::TempDir() + "/" + name;
}

// --- profile.proto

struct Field {
    unsigned number;
    uint64_t value;
    std::string bytes;
};

uint64_t Varint(const std::string &text, size_t *at) {
    uint64_t value = 0;
    for (unsigned shift = 0; *at < text.size(); shift += 7) {
        auto byte = static_cast<unsigned char>(text[(*at)++]);
        value |= static_cast<uint64_t>(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
    ADD_FAILURE() << "a number is cut off";
    return value;
}

std::vector<Field> Fields(const std::string &text) {
    std::vector<Field> fields;
    for (size_t at = 0; at < text.size();) {
        uint64_t key = Varint(text, &at);
        Field field{static_cast<unsigned>(key >> 3), 0, ""};
        if ((key & 7) == 0) {
            field.value = Varint(text, &at);
        } else {
            EXPECT_EQ(key & 7, 2u);
            size_t size = Varint(text, &at);
            EXPECT_LE(size, text.size() - at);
            field.bytes = text.substr(at, size);
            at += size;
        }
        fields.push_back(field);
    }
    return fields;
}

std::vector<uint64_t> Packed(const std::string &text) {
    std::vector<uint64_t> values;
    for (size_t at = 0; at < text.size();) {
        values.push_back(Varint(text, &at));
    }
    return values;
}

struct Values {
    int64_t allocated_objects = 0, allocated_bytes = 0, live_objects = 0, live_bytes = 0;
    bool operator==(const Values &other) const {
        return allocated_objects == other.allocated_objects &&
               allocated_bytes == other.allocated_bytes && live_objects == other.live_objects &&
               live_bytes == other.live_bytes;
    }
};

std::ostream &operator<<(std::ostream &out, const Values &v) {
    return out << v.allocated_objects << " objects of " << v.allocated_bytes << " bytes, "
               << v.live_objects << " of " << v.live_bytes << " live";
}

struct Profile {
    std::vector<std::string> types;
    std::map<std::string, Values> functions; // whose call stacks they are in
    Values all;
    std::map<std::string, std::string> build_ids; // by file
    size_t samples = 0, deepest = 0;
    bool read = false;
};

Profile Read(const std::string &path) {
    Profile profile;
    shell::Outcome gzip = shell::Run("gzip -dc '" + path + "'");
    EXPECT_EQ(gzip.ending, "exit 0");
    if (gzip.ending != "exit 0") {
        return profile;
    }
    std::vector<Field> top = Fields(gzip.text);
    std::vector<std::string> strings;
    for (const Field &field : top) {
        if (field.number == 6) {
            strings.push_back(field.bytes);
        }
    }
    EXPECT_TRUE(!strings.empty() && strings[0].empty());
    std::map<uint64_t, std::string> functions;
    std::map<uint64_t, std::string> locations;
    std::set<uint64_t> mappings;
    for (const Field &field : top) {
        std::map<unsigned, Field> part;
        if (field.number >= 1 && field.number <= 5) {
            for (const Field &inner : Fields(field.bytes)) {
                part[inner.number] = inner;
            }
        }
        if (field.number == 1) {
            profile.types.push_back(strings.at(part[1].value) + "/" + strings.at(part[2].value));
        } else if (field.number == 3) {
            EXPECT_TRUE(mappings.insert(part[1].value).second);
            EXPECT_LT(part[2].value, part[3].value);
            profile.build_ids[strings.at(part[5].value)] = strings.at(part[6].value);
        } else if (field.number == 5) {
            functions[part[1].value] = strings.at(part[2].value);
        }
    }
    for (const Field &field : top) {
        if (field.number != 4) {
            continue;
        }
        uint64_t id = 0;
        std::string name = "?";
        for (const Field &inner : Fields(field.bytes)) {
            if (inner.number == 1) {
                id = inner.value;
            } else if (inner.number == 2 && inner.value != 0) {
                EXPECT_TRUE(mappings.count(inner.value));
            } else if (inner.number == 4) {
                name = functions.at(Fields(inner.bytes).at(0).value);
            }
        }
        EXPECT_NE(id, 0u);
        EXPECT_TRUE(locations.emplace(id, name).second);
    }
    for (const Field &field : top) {
        if (field.number != 2) {
            continue;
        }
        profile.samples++;
        std::vector<Field> parts = Fields(field.bytes);
        std::vector<uint64_t> values = Packed(parts.at(1).bytes);
        EXPECT_EQ(values.size(), 4u);
        std::set<std::string> names;
        std::vector<uint64_t> ids = Packed(parts.at(0).bytes);
        for (uint64_t id : ids) {
            names.insert(locations.at(id));
        }
        names.insert("");
        profile.deepest = std::max(profile.deepest, ids.size());
        for (const std::string &name : names) {
            Values &sum = name.empty() ? profile.all : profile.functions[name];
            sum.allocated_objects += static_cast<int64_t>(values[0]);
            sum.allocated_bytes += static_cast<int64_t>(values[1]);
            sum.live_objects += static_cast<int64_t>(values[2]);
            sum.live_bytes += static_cast<int64_t>(values[3]);
        }
    }
    profile.read = true;
    return profile;
}

// --- Programs

std::string Preload(const std::string &flavour, const std::string &settings) {
    return settings + " LD_PRELOAD=$PWD/lib" + flavour + ".so ";
}

void ExpectKnown(const Profile &p) {
    EXPECT_EQ(p.types, (std::vector<std::string>{"alloc_objects/count", "alloc_space/bytes",
                                                 "inuse_objects/count", "inuse_space/bytes"}));
    std::map<std::string, Values> functions = p.functions;
    EXPECT_EQ(functions["many_small"], (Values{1000, 24000, 1000, 24000}));
    EXPECT_EQ(functions["half_freed"], (Values{500, 50000, 250, 25000}));
    EXPECT_EQ(functions["some_large"], (Values{3, 3 << 20, 2, 2 << 20}));
    EXPECT_EQ(functions["zeroed"], (Values{100, 35350, 100, 35350}));
    EXPECT_EQ(functions["aligned"], (Values{12, 36000, 12, 36000}));
    EXPECT_EQ(functions["in_thread"], (Values{200, 66600, 200, 66600}));
    EXPECT_EQ(functions["resized"].live_objects, 1);
    EXPECT_EQ(functions["resized"].live_bytes, 50);
    EXPECT_EQ(functions["resized"].allocated_objects, 13);
    EXPECT_EQ(functions["resized"].allocated_bytes, 10 + 20 + 100 + 1000 + 5000 + 40000 + 2000000 +
                                                        600000 + 100000 + 9000 + 33000 + 70 + 50);
    EXPECT_GE(functions["main"].live_bytes, functions["known"].live_bytes);
}

TEST(Profile, AtTheRateOneEveryAllocationIsThereByItsFunction) {
    for (std::string flavour : kFlavours) {
        std::string file = Temp(flavour + ".pb.gz");
        shell::Outcome run =
            shell::Run(Preload(flavour, "HAKMEM_PROFILE_RATE=1 HAKMEM_PROFILE=" + file) + kProgram +
                       " known 2>&1");
        EXPECT_EQ(run.text + run.ending, "exit 0") << flavour;
        ExpectKnown(Read(file));
    }
}

TEST(Profile, OfAProgramThatTheLibraryIsLinkedInto) {
    std::string file = Temp("linked.pb.gz");
    shell::Outcome run = shell::Run("HAKMEM_PROFILE_RATE=1 HAKMEM_PROFILE=" + file + " " +
                                    kProgram + "_linked known 2>&1");
    EXPECT_EQ(run.text + run.ending, "exit 0");
    ExpectKnown(Read(file));
}

// Five standard deviations: the variance of a sum of sampled blocks of s bytes, n of them, each
// with the probability p, is n s^2 (1 - p) / p.
void ExpectNear(int64_t estimate, double size, double blocks, double rate, const char *what) {
    double p = -std::expm1(-size / rate);
    double bound = 5 * size * std::sqrt(blocks * (1 - p) / p) + size;
    EXPECT_NEAR(static_cast<double>(estimate), size * blocks, bound) << what;
}

TEST(Profile, EstimatesAreWithinTheirStatisticalBounds) {
    constexpr double kRate = 65536, kTimes = 2000000;
    std::string file = Temp("estimate.pb.gz");
    ASSERT_EQ(shell::Run(Preload("hakmem_c23", "HAKMEM_PROFILE_RATE=64K HAKMEM_PROFILE=" + file) +
                         kProgram + " estimate 2000000")
                  .ending,
              "exit 0");
    Profile p = Read(file);
    const struct {
        const char *name;
        double size, times, stays;
    } truths[] = {
        {"sizes_16", 16, kTimes, 100000},
        {"sizes_200", 200, kTimes, 50000},
        {"sizes_6000", 6000, kTimes / 20, 5000},
        {"sizes_50000", 50000, kTimes / 100, 1000},
    };
    for (const auto &truth : truths) {
        const Values &values = p.functions[truth.name];
        ExpectNear(values.allocated_bytes, truth.size, truth.times, kRate, truth.name);
        ExpectNear(values.live_bytes, truth.size, truth.stays, kRate, truth.name);
        ExpectNear(values.allocated_objects * static_cast<int64_t>(truth.size), truth.size,
                   truth.times, kRate, truth.name);
    }
    // All together, 4,120,000 allocations, within 5 %.
    double all = 16 * kTimes + 200 * kTimes + 6000 * kTimes / 20 + 50000 * kTimes / 100;
    EXPECT_NEAR(static_cast<double>(p.all.allocated_bytes), all, all * 0.05);
}

TEST(Profile, NothingIsWrittenWithoutTheSetting) {
    std::string folder = Temp("nothing");
    std::filesystem::create_directory(folder);
    std::string library = std::filesystem::current_path().string() + "/libhakmem_c23.so";
    std::string program = std::filesystem::current_path().string() + "/" + kProgram;
    EXPECT_EQ(shell::Run("cd " + folder + " && LD_PRELOAD=" + library + " " + program +
                         " dump x.pb.gz; ls -A")
                  .text,
              "0\n");
}

TEST(Profile, SampledBlocksCountAsUsed) {
    EXPECT_EQ(shell::Run(Preload("hakmem_c23", "HAKMEM_PROFILE_RATE=1 HAKMEM_PROFILE=/dev/null") +
                         kProgram + " mallinfo")
                  .text,
              "32000 0\n");
}

TEST(Profile, AChildOfAForkWritesItsOwn) {
    std::string folder = Temp("forked");
    std::filesystem::create_directory(folder);
    shell::Run(
        Preload("hakmem_c23", "HAKMEM_PROFILE_RATE=1 HAKMEM_PROFILE=" + folder + "/x.pb.gz") +
        kProgram + " fork");
    int parents = 0, children = 0;
    for (const auto &entry : std::filesystem::directory_iterator(folder)) {
        std::string name = entry.path().filename();
        Profile p = Read(entry.path());
        EXPECT_EQ(p.functions["many_small"].live_objects, 1000) << name;
        (name == "x.pb.gz" ? parents : children)++;
        EXPECT_EQ(p.functions["half_freed"].live_objects, name == "x.pb.gz" ? 0 : 250) << name;
        EXPECT_THAT(name, testing::MatchesRegex("x(\\.[0-9]+)?\\.pb\\.gz"));
    }
    EXPECT_EQ(parents, 1);
    EXPECT_EQ(children, 1);
}

TEST(Profile, IsWrittenWhenASignalComes) {
    std::string file = Temp("signal.pb.gz");
    EXPECT_EQ(shell::Run(Preload("hakmem_c23", "HAKMEM_PROFILE_SIGNAL=12 HAKMEM_PROFILE_RATE=1 "
                                               "HAKMEM_PROFILE=" +
                                                   file) +
                         kProgram + " signal 12")
                  .ending,
              "exit 0");
    Profile p = Read(file);
    EXPECT_EQ(p.functions["many_small"].live_objects, 1000);
    EXPECT_EQ(p.functions.count("half_freed"), 0u);
}

TEST(Profile, IsWrittenWhenTheProgramAsks) {
    for (bool named : {true, false}) {
        std::string file = Temp("dump.pb.gz"), other = Temp("dump.other.pb.gz");
        std::string mode = " dump " + (named ? other : std::string());
        EXPECT_EQ(shell::Run(Preload("hakmem_c23", "HAKMEM_PROFILE_RATE=1 HAKMEM_PROFILE=" + file) +
                             kProgram + mode)
                      .text,
                  "1\n");
        Profile p = Read(named ? other : file);
        EXPECT_EQ(p.functions["many_small"].live_objects, 1000);
        EXPECT_EQ(p.functions.count("half_freed"), 0u);
    }
}

TEST(Profile, IsWrittenEachTimeSoMuchWasAllocated) {
    std::string folder = Temp("every");
    std::filesystem::create_directory(folder);
    shell::Run(Preload("hakmem_c23",
                       "HAKMEM_PROFILE_EVERY=3M HAKMEM_PROFILE_RATE=1 HAKMEM_PROFILE=" + folder +
                           "/%n-%p-%t.%%.pb.gz") +
               kProgram + " every");
    std::set<std::string> names;
    for (const auto &entry : std::filesystem::directory_iterator(folder)) {
        names.insert(entry.path().filename());
        EXPECT_TRUE(Read(entry.path()).read);
    }
    ASSERT_EQ(names.size(), 3u);
    EXPECT_THAT(*names.begin(), testing::MatchesRegex("1-[0-9]+-[0-9]+\\.%\\.pb\\.gz"));
}

TEST(Profile, FoldedStacksHaveALineAStack) {
    std::string live = Temp("x.folded"), allocated = Temp("x.alloc.folded");
    for (const std::string &file : {live, allocated}) {
        shell::Run(Preload("hakmem_c23", "HAKMEM_PROFILE_RATE=1 HAKMEM_PROFILE=" + file) +
                   kProgram + " known");
    }
    EXPECT_THAT(shell::Run("cat " + live).text, HasSubstr(";main;known;half_freed 25000\n"));
    EXPECT_THAT(shell::Run("cat " + allocated).text, HasSubstr(";main;known;half_freed 50000\n"));
}

TEST(Profile, MisuseOfASampledBlockIsFoundAtOnce) {
    for (std::string flavour : kFlavours) {
        std::string run = Preload(flavour, "HAKMEM_PROFILE_RATE=1 HAKMEM_PROFILE=" + Temp("m.gz")) +
                          kProgram + " ";
        EXPECT_THAT(shell::Run("(" + run + "twice) 2>&1").text, HasSubstr("): block was freed\n"));
        EXPECT_THAT(shell::Run("(" + run + "interior) 2>&1").text,
                    HasSubstr("): pointer into a block, not to its start\n"));
        EXPECT_THAT(shell::Run("(" + run + "usable) 2>&1").text,
                    HasSubstr("malloc_usable_size(0x"));
    }
}

TEST(Profile, ManyThreadsAndForksOfThem) {
    for (std::string flavour : {"hakmem_c23", "hakmem_c23_header"}) {
        for (std::string rate : {"1", "2000"}) {
            std::string file = Temp("threads.pb.gz");
            shell::Outcome run = shell::Run(
                Preload(flavour, "HAKMEM_PROFILE_RATE=" + rate + " HAKMEM_PROFILE=" + file) +
                kProgram + " threads 2>&1");
            EXPECT_EQ(run.text + run.ending, "exit 0") << flavour << " " << rate;
            Profile p = Read(file);
            if (rate == "1") {
                EXPECT_EQ(p.functions["hand_over"].allocated_objects, 4 * 30000);
                EXPECT_LE(p.functions["hand_over"].live_objects, 256);
            }
        }
    }
}

TEST(Profile, APathThatCannotBeWrittenIsOneLine) {
    EXPECT_THAT(
        shell::Run(Preload("hakmem_c23", "HAKMEM_PROFILE=/nowhere/x") + kProgram + " 2>&1").text,
        testing::MatchesRegex("hakmem: warning: HAKMEM_PROFILE=/nowhere/x: .*\n"));
}

// Programs without frame pointers that nobody compiled for this.
TEST(Profile, OfPythonNamesItsFunctions) {
    if (shell::Run("/usr/bin/python3 -c 1 2>&1").ending != "exit 0") {
        GTEST_SKIP() << "no python3";
    }
    std::string file = Temp("python.pb.gz");
    EXPECT_EQ(shell::Run(Preload("hakmem_c23", "HAKMEM_PROFILE_RATE=16K HAKMEM_PROFILE=" + file) +
                         "/usr/bin/python3 -c 'x = [str(i) * 9 for i in range(100000)]'")
                  .ending,
              "exit 0");
    Profile p = Read(file);
    EXPECT_GT(p.functions["Py_BytesMain"].allocated_bytes, p.all.allocated_bytes / 2);
    EXPECT_GT(p.functions["_PyEval_EvalFrameDefault"].allocated_bytes, p.all.allocated_bytes / 4);
    EXPECT_GT(p.deepest, 15u);
}

TEST(Profile, PprofOpensIt) {
    if (shell::Run("go tool pprof -h 2>&1").text.find("-top") == std::string::npos) {
        GTEST_SKIP() << "no go tool pprof";
    }
    std::string file = Temp("pprof.pb.gz");
    shell::Run(Preload("hakmem_c23", "HAKMEM_PROFILE_RATE=1 HAKMEM_PROFILE=" + file) + kProgram +
               " known");
    std::string top = shell::Run("HOME=" + testing::TempDir() +
                                 " go tool pprof -top -sample_index=inuse_space " + file + " 2>&1")
                          .text;
    EXPECT_THAT(top, HasSubstr("some_large"));
    EXPECT_THAT(top, HasSubstr("2048kB"));
    EXPECT_THAT(top, HasSubstr("in_thread"));
}

} // namespace
