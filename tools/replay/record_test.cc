// SPDX-License-Identifier: Apache-2.0
// Programs whose calls are known, recorded by each flavour, and replayed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "fronts/libc/shell.h"
#include "tools/replay/trace.h"

namespace {

using testing::HasSubstr;

constexpr char kProgram[] = "tools/replay/record_program";
constexpr char kReplay[] = "tools/replay/hakmem-replay";
constexpr unsigned kThreads = 4, kRounds = 500;

std::vector<std::string> Flavours() {
    std::vector<std::string> flavours = {HAK_FLAVOURS, "hakmem_hardened"};
    return flavours;
}

std::string Folder() {
    static int nth;
    std::string folder =
        std::string(std::getenv("TEST_TMPDIR")) + "/record" + std::to_string(nth++);
    std::filesystem::create_directories(folder);
    return folder;
}

// Runs the program in a mode, recording into `name` in a folder of its own, which is returned.
std::string Record(const std::string &flavour, const std::string &mode, const std::string &ending,
                   const std::string &name = "a.trace") {
    std::string folder = Folder();
    std::string with = flavour == "linked" ? kProgram + std::string("_linked")
                                           : "LD_PRELOAD=$PWD/lib" + flavour + ".so " + kProgram;
    shell::Outcome run =
        shell::Run("HAKMEM_RECORD=" + folder + "/" + name + " " + with + " " + mode + " 2>&1");
    EXPECT_EQ(run.ending, ending) << flavour;
    if (ending == "exit 0") {
        EXPECT_EQ(run.text, "") << flavour;
    }
    return folder;
}

std::vector<trace_event> Read(const std::string &path) {
    static trace read;
    std::vector<trace_event> events;
    const char *fault = trace_open(&read, path.c_str());
    EXPECT_EQ(fault, nullptr) << path << ": " << fault;
    if (fault == nullptr) {
        trace_event event;
        while (trace_next(&read, &event)) {
            events.push_back(event);
        }
        EXPECT_EQ(read.header.lost, 0u);
        EXPECT_EQ(read.header.stopped, 0u);
        trace_close(&read);
    }
    return events;
}

// (kind, size) -> how often.
using Counts = std::map<std::pair<int, uint64_t>, unsigned>;
Counts CountOf(const std::vector<trace_event> &events) {
    Counts counts;
    for (const trace_event &event : events) {
        counts[{event.kind, event.size}]++;
    }
    return counts;
}

// Of the blocks that live at the end, how many have each size. Holds the order to what must be: no
// address is allocated that is live, and what is freed was.
std::map<uint64_t, unsigned> Live(const std::vector<trace_event> &events, unsigned unknown) {
    std::map<uint64_t, uint64_t> live;
    std::map<uint32_t, uint64_t> resizing;
    for (const trace_event &event : events) {
        switch (event.kind) {
        case TRACE_FREE:
            unknown -= live.count(event.unit) == 0;
            live.erase(event.unit);
            break;
        case TRACE_RESIZE:
            EXPECT_EQ(live.erase(event.unit), 1u);
            resizing[event.thread] = event.size;
            break;
        case TRACE_RESIZED:
            EXPECT_TRUE(live.emplace(event.unit, resizing.at(event.thread)).second);
            break;
        default:
            EXPECT_TRUE(live.emplace(event.unit, event.size).second) << event.order;
        }
    }
    EXPECT_EQ(unknown, 0u);
    std::map<uint64_t, unsigned> sizes;
    for (auto [unit, size] : live) {
        sizes[size]++;
    }
    return sizes;
}

TEST(Record, HasEachCallOfEachThread) {
    std::vector<std::string> flavours = Flavours();
    flavours.push_back("linked");
    for (const std::string &flavour : flavours) {
        SCOPED_TRACE(flavour);
        std::vector<trace_event> events = Read(Record(flavour, "calls", "exit 0") + "/a.trace");
        Counts counts = CountOf(events);
        for (unsigned i = 0; i < kThreads; i++) {
            EXPECT_EQ((counts[{TRACE_MALLOC, 10001 + i * 16}]), kRounds);
            EXPECT_EQ((counts[{TRACE_CALLOC, 3 * (10101 + i * 16)}]), kRounds);
            EXPECT_EQ((counts[{TRACE_MALLOC, 10201 + i * 16}]), kRounds);
            EXPECT_EQ((counts[{TRACE_RESIZE, 40201 + i * 16}]), kRounds);
        }
        EXPECT_EQ((counts[{TRACE_RESIZED, 0}]), (counts[{TRACE_FAILED, 0}]) + kThreads * kRounds);
        EXPECT_EQ((counts[{TRACE_ALIGNED, 10496}]), kThreads * kRounds);
        EXPECT_EQ((counts[{TRACE_ALIGNED, 10301}]), kThreads * kRounds);
        EXPECT_EQ((counts[{TRACE_MALLOC, 300001}]), kThreads * kRounds);
        std::set<uint32_t> threads;
        for (const trace_event &event : events) {
            threads.insert(event.thread);
            if (event.size == 10496) {
                EXPECT_EQ(event.align, 8);
            }
        }
        EXPECT_EQ(threads.size(), kThreads + 1);
        for (auto [size, blocks] : Live(events, 0)) {
            EXPECT_FALSE(size >= 10001 && size < 50000) << size;
            EXPECT_NE(size, 300001u);
        }
    }
}

TEST(Record, AForkedChildHasAFileOfItsOwn) {
    for (const std::string &flavour : Flavours()) {
        SCOPED_TRACE(flavour);
        std::string folder = Record(flavour, "fork", "exit 0");
        std::vector<std::string> children;
        for (const auto &entry : std::filesystem::directory_iterator(folder)) {
            if (entry.path().filename() != "a.trace") {
                children.push_back(entry.path());
            }
        }
        // The one that allocates nothing has none.
        ASSERT_EQ(children.size(), 1u);
        EXPECT_TRUE(std::regex_search(children[0], std::regex(R"(/a\.[0-9]+\.trace$)")));
        std::vector<trace_event> parent = Read(folder + "/a.trace");
        Counts counts = CountOf(parent);
        EXPECT_EQ((counts[{TRACE_MALLOC, 5001}]), 7u);
        EXPECT_EQ((counts[{TRACE_MALLOC, 5201}]), 0u);
        EXPECT_EQ((counts[{TRACE_MALLOC, 5301}]), 11u);
        EXPECT_EQ(Live(parent, 0).count(5101), 0u);
        std::vector<trace_event> child = Read(children[0]);
        counts = CountOf(child);
        EXPECT_EQ((counts[{TRACE_MALLOC, 5001}]), 0u);
        EXPECT_EQ((counts[{TRACE_MALLOC, 5201}]), 9u);
        EXPECT_EQ((counts[{TRACE_MALLOC, 5301}]), 0u);
        Live(child, 1); // It frees a block of its parent's.
    }
}

TEST(Record, NamesHaveTheProcess) {
    std::string folder = Record("hakmem_c23", "fork", "exit 0", "x-%p.trace");
    unsigned files = 0;
    for (const auto &entry : std::filesystem::directory_iterator(folder)) {
        EXPECT_TRUE(std::regex_search(entry.path().string(), std::regex(R"(/x-[0-9]+\.trace$)")));
        files++;
    }
    EXPECT_EQ(files, 2u);
}

TEST(Record, NothingIsLostWhenTheProcessIsKilled) {
    for (const std::string &flavour : Flavours()) {
        SCOPED_TRACE(flavour);
        std::string path = Record(flavour, "kill", "exit 137") + "/a.trace";
        EXPECT_EQ((CountOf(Read(path))[{TRACE_MALLOC, 6001}]), 30000u);
        EXPECT_LT(std::filesystem::file_size(path), 30000u * 10);
    }
}

TEST(Record, AFileThatCannotBeIsOneWarning) {
    shell::Outcome run = shell::Run("HAKMEM_RECORD=/nowhere/a.trace LD_PRELOAD=$PWD/"
                                    "libhakmem_c23.so " +
                                    std::string(kProgram) + " calls 2>&1");
    EXPECT_EQ(run.ending, "exit 0");
    EXPECT_EQ(run.text,
              "hakmem: warning: HAKMEM_RECORD=/nowhere/a.trace: no such file can be written\n");
}

// A limit on files: the program goes on, and the trace says that it is not whole.
TEST(Record, StopsWhereTheFileCannotGrow) {
    std::string path = Folder() + "/a.trace";
    shell::Outcome run =
        shell::Run("ulimit -f 512; HAKMEM_RECORD=" + path + " LD_PRELOAD=$PWD/libhakmem_c23.so " +
                   std::string(kProgram) + " calls 2>&1");
    EXPECT_EQ(run.ending, "exit 0") << run.text;
    run = shell::Run(std::string(kReplay) + " --info " + path + " 2>&1");
    EXPECT_THAT(run.text, HasSubstr("\"stopped\": true"));
    EXPECT_EQ(shell::Run(std::string(kReplay) + " " + path).ending, "exit 0");
}

double Number(const std::string &json, const std::string &name) {
    std::smatch found;
    EXPECT_TRUE(std::regex_search(json, found, std::regex("\"" + name + "\": ([0-9.]+)")))
        << json << " has no " << name;
    return found.size() > 1 ? std::stod(found[1]) : -1;
}

TEST(Replay, TakesTheMemoryThatTheProgramTook) {
    std::string path = Record("hakmem_c23", "bulk", "exit 0") + "/a.trace";
    for (std::string preload : {"", "libhakmem_c23.so", "libhakmem_classic.so"}) {
        std::string with = preload.empty() ? "" : "LD_PRELOAD=$PWD/" + preload + " ";
        // Nothing goes back meanwhile, but for what the system's malloc gives back at once.
        shell::Outcome run =
            shell::Run("HAKMEM_DECAY_MS=-1 " + with + kReplay + " --touch all " + path + " 2>&1");
        ASSERT_EQ(run.ending, "exit 0") << run.text;
        EXPECT_EQ(Number(run.text, "refused"), 0) << preload;
        EXPECT_GE(Number(run.text, "peak_rss"), 24 << 20) << preload;
        EXPECT_LE(Number(run.text, "peak_rss"), 30 << 20) << preload;
        EXPECT_GE(Number(run.text, "end_rss"), 16 << 20) << preload;
        EXPECT_GE(Number(run.text, "faults"), 100) << preload;
        EXPECT_GT(Number(run.text, "seconds"), 0) << preload;
        // Blocks that are not written to take hardly any.
        run = shell::Run(with + kReplay + " --touch none " + path + " 2>&1");
        EXPECT_LE(Number(run.text, "peak_rss"), 12 << 20) << preload;
    }
}

TEST(Replay, HasAsManyThreadsAndEndsWithAllMallocs) {
    std::string path = Record("hakmem_c23", "calls", "exit 0") + "/a.trace";
    shell::Outcome info = shell::Run(std::string(kReplay) + " --info " + path);
    EXPECT_EQ(Number(info.text, "threads"), kThreads + 1);
    EXPECT_EQ(Number(info.text, "unknown"), 0);
    EXPECT_EQ(Number(info.text, "realloc"), kThreads * kRounds);
    EXPECT_GE(Number(info.text, "peak_live_bytes"), kThreads * kRounds * 10001);
    for (std::string preload : {"", "libhakmem_c23.so", "libhakmem_c23_header.so",
                                "libhakmem_classic.so", "libhakmem_hardened.so"}) {
        std::string with = preload.empty() ? "" : "LD_PRELOAD=$PWD/" + preload + " ";
        // What was recorded is replayed, and what is replayed can be recorded.
        std::string again = Folder() + "/b.trace";
        shell::Outcome run =
            shell::Run("HAKMEM_RECORD=" + again + " " + with + kReplay + " " + path + " 2>&1");
        ASSERT_EQ(run.ending, "exit 0") << preload << run.text;
        EXPECT_EQ(Number(run.text, "refused"), 0);
        if (!preload.empty()) {
            Counts counts = CountOf(Read(again));
            EXPECT_EQ((counts[{TRACE_MALLOC, 300001}]), kThreads * kRounds) << preload;
            EXPECT_EQ((counts[{TRACE_RESIZE, 40201}]), kRounds) << preload;
            EXPECT_EQ((counts[{TRACE_CALLOC, 3 * 10101}]), kRounds) << preload;
        }
    }
}

TEST(Replay, SaysWhatIsWrong) {
    auto replay = [](const std::string &arguments) {
        return shell::Run(std::string(kReplay) + " " + arguments + " 2>&1");
    };
    EXPECT_EQ(replay("").ending, "exit 2");
    EXPECT_EQ(replay("--touch some x").ending, "exit 2");
    EXPECT_EQ(replay("--no-such-option x").ending, "exit 2");
    shell::Outcome run = replay("/nowhere/a.trace");
    EXPECT_EQ(run.ending, "exit 1");
    EXPECT_EQ(run.text, "hakmem-replay: /nowhere/a.trace: it cannot be opened\n");
    run = replay(kProgram);
    EXPECT_EQ(run.ending, "exit 1");
    EXPECT_THAT(run.text, HasSubstr("not a trace"));
}

} // namespace
