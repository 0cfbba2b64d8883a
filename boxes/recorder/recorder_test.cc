// SPDX-License-Identifier: Apache-2.0
#include "boxes/recorder/recorder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tools/replay/trace.h"

namespace {

const void *Block(uint64_t unit) {
    return reinterpret_cast<const void *>(unit << TRACE_UNIT);
}

std::string Path(const std::string &name) {
    return std::string(std::getenv("TEST_TMPDIR")) + "/" + name;
}

std::vector<trace_event> Read(const std::string &path, uint64_t lost = 0) {
    static trace read;
    std::vector<trace_event> events;
    const char *fault = trace_open(&read, path.c_str());
    EXPECT_EQ(fault, nullptr) << fault;
    if (fault != nullptr) {
        return events;
    }
    EXPECT_STREQ(read.header.program, "program");
    EXPECT_STREQ(read.header.flavour, "flavour");
    EXPECT_EQ(read.header.lost, lost);
    trace_event event;
    while (trace_next(&read, &event)) {
        events.push_back(event);
    }
    trace_close(&read);
    return events;
}

void Allocate(trace_kind kind, uint64_t unit, size_t size, size_t align = 1) {
    ASSERT_TRUE(recorder_enters());
    ASSERT_FALSE(recorder_enters()); // what it calls is a part of it
    recorder_allocated(kind, Block(unit), size, align);
    recorder_leaves();
}

void Free(uint64_t unit) {
    ASSERT_TRUE(recorder_enters());
    recorder_frees(Block(unit));
    recorder_leaves();
}

// In this order: the recording is of the process, and starts once.
TEST(Recorder, IsOffUntilItStarts) {
    EXPECT_FALSE(recorder_enters());
    EXPECT_FALSE(recorder_start("/nowhere/a", "program", "flavour"));
    EXPECT_FALSE(recorder_enters());
}

class Recording : public testing::Test {
  protected:
    // The file of a process is one; a child of it has another.
    static void InChild(const std::string &name, void (*run)(), int ending = 0) {
        pid_t child = fork();
        if (child == 0) {
            if (!recorder_start(Path(name).c_str(), "program", "flavour")) {
                _exit(3);
            }
            run();
            _exit(testing::Test::HasFailure() ? 1 : 0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        EXPECT_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : -1, ending);
    }
};

TEST_F(Recording, EachKindIsReadAsItWasWritten) {
    InChild("kinds", [] {
        errno = 77;
        Allocate(TRACE_MALLOC, 1000, 0);
        Allocate(TRACE_CALLOC, UINT64_MAX >> TRACE_UNIT, SIZE_MAX / 2);
        Allocate(TRACE_ALIGNED, 1, 40, 4096);
        Allocate(TRACE_MALLOC, 0, 99); // got nothing
        ASSERT_TRUE(recorder_enters());
        recorder_resizes(Block(1000), 123456789);
        recorder_resized(Block(2000));
        recorder_resizes(Block(2000), 7);
        recorder_resized(nullptr);
        recorder_leaves();
        Free(1);
        EXPECT_EQ(errno, 77);
    });
    std::vector<trace_event> events = Read(Path("kinds"));
    struct {
        int kind;
        uint64_t size, unit;
    } wanted[] = {
        {TRACE_MALLOC, 0, 1000},
        {TRACE_CALLOC, SIZE_MAX / 2, UINT64_MAX >> TRACE_UNIT},
        {TRACE_ALIGNED, 40, 1},
        {TRACE_FAILED, 99, 0},
        {TRACE_RESIZE, 123456789, 1000},
        {TRACE_RESIZED, 0, 2000},
        {TRACE_RESIZE, 7, 2000},
        {TRACE_FAILED, 0, 0},
        {TRACE_FREE, 0, 1},
    };
    ASSERT_EQ(events.size(), std::size(wanted));
    for (size_t i = 0; i < events.size(); i++) {
        EXPECT_EQ(events[i].kind, wanted[i].kind) << i;
        EXPECT_EQ(events[i].size, wanted[i].size) << i;
        EXPECT_EQ(events[i].unit, wanted[i].unit) << i;
        EXPECT_EQ(events[i].order, i + 1);
        EXPECT_EQ(events[i].thread, 1u);
    }
    EXPECT_EQ(events[2].align, 12);
}

// More threads than lanes, which take turns in them.
TEST_F(Recording, ThreadsLoseNothingAndKeepTheirOrder) {
    constexpr unsigned kThreads = 80, kCalls = 400;
    InChild("threads", [] {
        std::vector<std::thread> threads;
        for (unsigned t = 0; t < kThreads; t++) {
            threads.emplace_back([t] {
                for (uint64_t i = 0; i < kCalls; i++) {
                    Allocate(TRACE_MALLOC, (t + 1) * 1000000 + i, i);
                    if (i % 64 == 0) {
                        std::this_thread::yield();
                    }
                }
            });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
    });
    std::vector<trace_event> events = Read(Path("threads"));
    ASSERT_EQ(events.size(), size_t{kThreads} * kCalls);
    std::map<uint32_t, uint64_t> next;   // call of a thread
    std::map<uint32_t, uint64_t> writer; // of a thread's number, which of them it is
    for (size_t i = 0; i < events.size(); i++) {
        const trace_event &event = events[i];
        ASSERT_EQ(event.order, i + 1);
        ASSERT_EQ(event.size, next[event.thread]++);
        uint64_t who = event.unit / 1000000;
        ASSERT_EQ(writer.emplace(event.thread, who).first->second, who);
    }
    EXPECT_EQ(writer.size(), size_t{kThreads});
}

// Many chunks.
TEST_F(Recording, GoesOnInOneChunkAfterTheOther) {
    constexpr uint64_t kCalls = 40000;
    InChild("chunks", [] {
        for (uint64_t i = 0; i < kCalls; i++) {
            Allocate(TRACE_MALLOC, i * 7919 % 65536 + 1, i);
            Free(i * 7919 % 65536 + 1);
        }
    });
    std::vector<trace_event> events = Read(Path("chunks"));
    ASSERT_EQ(events.size(), 2 * kCalls);
    for (uint64_t i = 0; i < kCalls; i++) {
        ASSERT_EQ(events[2 * i].size, i);
        ASSERT_EQ(events[2 * i].unit, i * 7919 % 65536 + 1);
        ASSERT_EQ(events[2 * i + 1].unit, events[2 * i].unit);
    }
}

TEST_F(Recording, AChildGoesOnInAnotherFileOrNotAtAll) {
    InChild("parent", [] {
        Allocate(TRACE_MALLOC, 5, 50);
        for (std::string path : {Path("child"), std::string()}) {
            if (fork() == 0) {
                recorder_after_fork(path.c_str());
                if (!path.empty()) {
                    Allocate(TRACE_MALLOC, 6, 60);
                }
                _exit(recorder_enters() == path.empty());
            }
            int status = 0;
            wait(&status);
            EXPECT_EQ(status, 0);
        }
        Allocate(TRACE_MALLOC, 7, 70);
    });
    std::vector<trace_event> parent = Read(Path("parent")), child = Read(Path("child"));
    ASSERT_EQ(parent.size(), 2u);
    EXPECT_EQ(parent[1].size, 70u);
    EXPECT_EQ(parent[1].order, 2u);
    ASSERT_EQ(child.size(), 1u);
    EXPECT_EQ(child[0].size, 60u);
    EXPECT_EQ(child[0].order, 1u);
}

} // namespace
