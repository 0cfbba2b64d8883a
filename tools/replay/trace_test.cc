// SPDX-License-Identifier: Apache-2.0
// The format, by bytes that are written down here; traces that are cut off or damaged; and plans.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tools/replay/plan.h"
#include "tools/replay/trace.h"

namespace {

template <typename T> void Append(std::string *to, const T &value) {
    to->append(reinterpret_cast<const char *>(&value), sizeof value);
}

// Of a small file: chunks of 64 bytes.
std::string Header() {
    trace_header header{};
    std::memcpy(header.magic, TRACE_MAGIC, sizeof header.magic);
    header.version = TRACE_VERSION;
    header.header_bytes = sizeof header;
    header.chunk_bytes = 64;
    std::strcpy(header.program, "program");
    std::string bytes;
    Append(&bytes, header);
    return bytes;
}

std::string Chunk(uint32_t lane, uint32_t number, uint32_t thread, uint64_t order, uint64_t ms,
                  const std::string &records) {
    std::string bytes;
    Append(&bytes, trace_chunk{TRACE_CHUNK_MARK, lane, number, thread, order, ms});
    bytes += records;
    bytes.resize(64);
    return bytes;
}

std::vector<trace_event> Read(const std::string &bytes) {
    trace read;
    std::vector<trace_event> events;
    if (trace_open_bytes(&read, bytes.data(), bytes.size()) == nullptr) {
        trace_event event;
        while (trace_next(&read, &event)) {
            events.push_back(event);
        }
    }
    return events;
}

// Two lanes, whose records alternate; the first has two chunks.
std::string Sample() {
    using std::literals::string_literals::operator""s;
    return Header() +
           Chunk(1, 0, 1, 0, 0,
                 "\x01\x20\x80\x20"             // 1: malloc(32) at 2048 units
                 "\x0a\x01\x80\x01\x03"         // 3: calloc(128), 2 units below
                 "\x23\x07\x06\x81\x02\x0a"s) + // 4: 7 ms later, aligned to 64, 257, 5 above
           Chunk(2, 0, 2, 1, 3,
                 "\x04\x80\x20"                // 2: thread 2 frees the first
                 "\x0f\x02\x63"                // 5: it fails to get 99 bytes
                 "\x15\x09\x30\x04"s) +        // 6: thread 9 resizes the block 2 units above to 48
           std::string(64, '\0') +             // one that was not begun
           Chunk(1, 1, 1, 6, 20, "\x06\x10"s); // 7: resized
}

TEST(Trace, IsWhatTheFormatSays) {
    std::vector<trace_event> events = Read(Sample());
    ASSERT_EQ(events.size(), 7u);
    auto is = [&](size_t i, int kind, uint64_t order, uint32_t thread, uint64_t ms, uint64_t size,
                  uint64_t unit) {
        EXPECT_EQ(events[i].kind, kind) << i;
        EXPECT_EQ(events[i].order, order) << i;
        EXPECT_EQ(events[i].thread, thread) << i;
        EXPECT_EQ(events[i].ms, ms) << i;
        EXPECT_EQ(events[i].size, size) << i;
        EXPECT_EQ(events[i].unit, unit) << i;
    };
    is(0, TRACE_MALLOC, 1, 1, 0, 32, 2048);
    is(1, TRACE_FREE, 2, 2, 3, 0, 2048);
    is(2, TRACE_CALLOC, 3, 1, 0, 128, 2046);
    is(3, TRACE_ALIGNED, 4, 1, 7, 257, 2051);
    EXPECT_EQ(events[3].align, 6);
    is(4, TRACE_FAILED, 5, 2, 3, 99, 0);
    is(5, TRACE_RESIZE, 6, 9, 3, 48, 2050);
    is(6, TRACE_RESIZED, 7, 1, 20, 0, 8);
}

TEST(Trace, IsReadWhereverItIsCutOff) {
    std::string whole = Sample();
    size_t most = 0;
    for (size_t size = 0; size <= whole.size(); size++) {
        std::vector<trace_event> events = Read(whole.substr(0, size));
        EXPECT_GE(events.size(), most) << size; // never less than with fewer bytes
        most = events.size();
    }
    EXPECT_EQ(most, Read(whole).size());
    EXPECT_GT(most, 0u);
}

TEST(Trace, SaysWhatIsNone) {
    trace read;
    auto open = [&](const std::string &bytes) {
        const char *fault = trace_open_bytes(&read, bytes.data(), bytes.size());
        return std::string(fault == nullptr ? "" : fault);
    };
    EXPECT_EQ(open(Header()), "");
    EXPECT_EQ(open(""), "too short for a trace");
    EXPECT_EQ(open(std::string(500, 'x')), "not a trace");
    std::string bytes = Header();
    bytes[8] = 2;
    EXPECT_EQ(open(bytes), "a trace of a version that is not known here");
    bytes = Header();
    bytes[16] = 8;
    EXPECT_EQ(open(bytes), "a trace whose header is damaged");
}

// Whatever the bytes are, reading ends, and so does a plan of it.
TEST(Trace, DamageIsNoCrash) {
    std::mt19937 chance(1);
    for (int i = 0; i < 1000; i++) {
        std::string bytes = Sample();
        for (unsigned n = chance() % 8; n-- > 0;) {
            bytes[sizeof(trace_header) + chance() % (bytes.size() - sizeof(trace_header))] =
                static_cast<char>(chance());
        }
        trace read;
        ASSERT_EQ(trace_open_bytes(&read, bytes.data(), bytes.size()), nullptr);
        plan made;
        if (plan_make(&made, &read)) {
            EXPECT_LE(made.events, 300u);
        }
    }
}

// A trace of events as they come, one lane a thread, each number in as many bytes as it needs.
class Writer {
  public:
    void Add(uint32_t thread, int kind, uint64_t size, uint64_t unit) {
        std::string record(1, static_cast<char>(kind | TRACE_ORDER));
        Number(&record, ++order_ - 1);
        if (kind != TRACE_FREE && kind != TRACE_RESIZED) {
            Number(&record, size);
        }
        if (kind != TRACE_FAILED) {
            Number(&record, unit << 1); // from 0: each record has a chunk of its own
        }
        chunks_ += Chunk(thread % TRACE_LANES, order_, thread, 0, 0, record);
    }
    std::string Bytes() const { return Header() + chunks_; }

  private:
    static void Number(std::string *to, uint64_t value) {
        for (; value >= 0x80; value >>= 7) {
            *to += static_cast<char>(value | 0x80);
        }
        *to += static_cast<char>(value);
    }
    uint32_t order_ = 0;
    std::string chunks_;
};

struct Step {
    int kind;
    uint64_t size;
    uint32_t slot;
    bool operator==(const Step &other) const {
        return kind == other.kind && size == other.size && slot == other.slot;
    }
};
std::ostream &operator<<(std::ostream &out, const Step &step) {
    return out << step.kind << " " << step.size << " in " << step.slot;
}

std::vector<Step> Steps(const plan &made, uint32_t thread) {
    std::vector<Step> steps;
    for (const plan_step *step = made.threads[thread];; step++) {
        if (step->kind == PLAN_MORE) {
            step = step->next;
        }
        steps.push_back({step->kind, step->size, step->slot});
        if (step->kind == PLAN_END) {
            return steps;
        }
    }
}

plan Plan(const std::string &bytes) {
    trace read;
    plan made{};
    EXPECT_EQ(trace_open_bytes(&read, bytes.data(), bytes.size()), nullptr);
    EXPECT_TRUE(plan_make(&made, &read));
    return made;
}

TEST(Plan, IsWhatEachThreadDoes) {
    Writer writer;
    writer.Add(1, TRACE_MALLOC, 100, 10);
    writer.Add(1, TRACE_FREE, 0, 77); // of a block that nobody has seen
    writer.Add(5, TRACE_CALLOC, 200, 20);
    writer.Add(5, TRACE_FREE, 0, 10);
    writer.Add(1, TRACE_RESIZE, 300, 20);
    writer.Add(5, TRACE_MALLOC, 50, 20); // where the old block was
    writer.Add(1, TRACE_RESIZED, 0, 30);
    writer.Add(5, TRACE_RESIZE, 1 << 20, 20);
    writer.Add(5, TRACE_FAILED, 0, 0); // it is as it was
    writer.Add(5, TRACE_FREE, 0, 20);
    writer.Add(5, TRACE_MALLOC, 60, 30); // a block that was freed unseen
    writer.Add(1, TRACE_RESIZE, 70, 99); // of an unknown one
    writer.Add(1, TRACE_RESIZED, 0, 98);
    plan made = Plan(writer.Bytes());
    EXPECT_EQ(made.thread_count, 2u);
    EXPECT_EQ(Steps(made, 0), (std::vector<Step>{{PLAN_MALLOC, 100, 0},
                                                 {PLAN_START, 3, 1},
                                                 {PLAN_RESIZE, 300, 1},
                                                 {PLAN_MALLOC, 70, 4},
                                                 {PLAN_END, 0, 0}}));
    EXPECT_EQ(Steps(made, 1), (std::vector<Step>{{PLAN_CALLOC, 200, 1},
                                                 {PLAN_FREE, 0, 0},
                                                 {PLAN_MALLOC, 50, 2},
                                                 {PLAN_FREE, 0, 2},
                                                 {PLAN_FREE, 0, 1},
                                                 {PLAN_MALLOC, 60, 3},
                                                 {PLAN_END, 0, 0}}));
    EXPECT_EQ(made.unknown, 2u);
    EXPECT_EQ(made.live, 2u);
    EXPECT_EQ(made.live_bytes, 130u);
    EXPECT_EQ(made.peak_bytes, 350u);
    EXPECT_EQ(made.failed, 1u);
    EXPECT_EQ(made.resizes, 3u);
}

TEST(Plan, AThreadAloneUsesSlotsAgainAndHasNoMarks) {
    Writer writer;
    for (uint64_t i = 0; i < 5000; i++) {
        writer.Add(1, TRACE_MALLOC, 16, 100 + i % 3);
        writer.Add(1, TRACE_FREE, 0, 100 + i % 3);
    }
    plan made = Plan(writer.Bytes());
    EXPECT_EQ(made.slots, 1u);
    EXPECT_EQ(made.live, 0u);
    EXPECT_EQ(Steps(made, 0).size(), 10001u);
}

TEST(Plan, ThreadsHaveMarksAndTheirSlotsRest) {
    Writer writer;
    for (uint64_t i = 0; i < 5000; i++) {
        writer.Add(1 + i % 2, TRACE_MALLOC, 16, 100);
        writer.Add(2 - i % 2, TRACE_FREE, 0, 100);
    }
    plan made = Plan(writer.Bytes());
    EXPECT_EQ(made.slots, 5000u); // no slot has rested long enough
    unsigned marks = 0;
    for (const Step &step : Steps(made, 1)) {
        marks += step.kind == PLAN_MARK;
    }
    EXPECT_GE(marks, 8u);
    EXPECT_LE(marks, 10u);
}

// Many live blocks, freed in another order: each free has the slot of its block.
TEST(Plan, FindsEachBlockAgain) {
    Writer writer;
    std::vector<uint64_t> units;
    for (uint64_t i = 1; i <= 20000; i++) {
        units.push_back(i * 7 % 65536 + (i << 20));
        writer.Add(1, TRACE_MALLOC, i, units.back());
    }
    std::vector<size_t> order(units.size());
    for (size_t i = 0; i < order.size(); i++) {
        order[i] = i;
    }
    std::shuffle(order.begin(), order.end(), std::mt19937(2));
    for (size_t i : order) {
        writer.Add(1, TRACE_FREE, 0, units[i]);
    }
    plan made = Plan(writer.Bytes());
    EXPECT_EQ(made.unknown, 0u);
    EXPECT_EQ(made.live, 0u);
    std::vector<Step> steps = Steps(made, 0);
    ASSERT_EQ(steps.size(), 40001u);
    for (size_t i = 0; i < order.size(); i++) {
        ASSERT_EQ(steps[20000 + i].slot, steps[order[i]].slot);
    }
}

} // namespace
