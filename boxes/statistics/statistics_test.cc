// SPDX-License-Identifier: Apache-2.0
// The struct and the function have one name, which C has no trouble with.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#include "boxes/statistics/statistics.h"
#pragma GCC diagnostic pop

#include "backends/os.h"
#include "boxes/large_block/large_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/thread_heap/thread_heap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

// A kernel that has no memory.
static bool refuse_map = false;
extern "C" {
enum os_result __real_os_map(void *at, size_t size, void **got);
enum os_result __wrap_os_map(void *at, size_t size, void **got) {
    return refuse_map ? OS_NO_MEMORY : __real_os_map(at, size, got);
}
}

// The machine that the test runs on may have less memory than the largest block.
extern "C" enum os_result __wrap_os_would_grant(size_t) {
    return OS_OK;
}

namespace {

constexpr unsigned kBin = 5;

using Stats = struct hak_stats;

Stats stats() {
    Stats s;
    hak_stats(&s);
    return s;
}

bool release(void *large) {
    page_arena_window window = page_arena_get_window();
    return large_block_free(&window, large, page_arena_slab_of(&window, large));
}

TEST(StatisticsDeathTest, BeforeAnyUseAllIsZero) {
    // "threadsafe": a fresh process, in which nothing has used the allocator.
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        Stats s = stats();
        _exit(s.superslabs + s.reserved + s.tiny_live + s.large_live + s.heaps + s.os_calls == 0
                  ? 0
                  : 1);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

TEST(Statistics, CountsAddUp) {
    thread_heap *heap = thread_heap_get();
    ASSERT_NE(heap, nullptr);
    Stats before = stats();
    EXPECT_EQ(before.heaps, 1u);
    EXPECT_EQ(before.free_heaps, 0u);
    EXPECT_EQ(before.heap_slabs, 1u);
    EXPECT_EQ(before.superslabs, 1u);
    EXPECT_EQ(before.tiny_slabs, 0u);

    size_t size = size_class_bins[kBin].size;
    size_t all = size_class_bins[kBin].blocks;
    void *blocks[100];
    shared_pool_hint hint = ARENA_NONE;
    ASSERT_EQ(shared_pool_take(kBin, blocks, 100, &hint), 100u);
    unsigned five = 5;
    void **room = fast_cache_room(&heap->bins[kBin], &five);
    ASSERT_EQ(five, 5u);
    std::copy_n(blocks + 95, 5, room);
    fast_cache_fill(&heap->bins[kBin], 5);
    void *large = large_block_alloc(300000, 1, LARGE_BLOCK_ANY);

    Stats s = stats();
    EXPECT_EQ(s.tiny_slabs, 1u);
    EXPECT_EQ(s.tiny_live, 95 * size);
    EXPECT_EQ(s.tiny_cached, 5 * size);
    EXPECT_EQ(s.tiny_free, (all - 100) * size);
    EXPECT_EQ(s.bins[kBin].size, size);
    EXPECT_EQ(s.bins[kBin].slabs, 1u);
    EXPECT_EQ(s.bins[kBin].live, 95u);
    EXPECT_EQ(s.bins[kBin].cached, 5u);
    EXPECT_EQ(s.bins[kBin].free_, all - 100);
    EXPECT_EQ(s.large_blocks, 1u);
    EXPECT_EQ(s.large_live, 300000u);
    EXPECT_EQ(s.large_slabs, 5u);
    EXPECT_EQ(s.dirty, 0u);
    EXPECT_GE(s.reserved, s.committed);
    EXPECT_GE(s.committed, (s.tiny_slabs + s.large_slabs + s.heap_slabs) * size_t{ARENA_SLAB});
    EXPECT_EQ(s.os_calls, os_calls());
    EXPECT_GT(s.os_calls, 0u);
    void *far = large_block_alloc(LARGE_BLOCK_FAR, 1, LARGE_BLOCK_ANY);
    EXPECT_EQ(stats().large_blocks, 2u);
    EXPECT_EQ(stats().large_live, 300000u + LARGE_BLOCK_FAR);
    EXPECT_EQ(stats().reserved, s.reserved);
    ASSERT_TRUE(release(far));

    thread_heap_flush();
    shared_pool_put(kBin, blocks, 95);
    ASSERT_TRUE(release(large));
    s = stats();
    EXPECT_EQ(s.spilled_blocks - before.spilled_blocks, 5u);
    EXPECT_EQ(s.spills - before.spills, 1u);
    EXPECT_EQ(s.tiny_live + s.tiny_cached + s.tiny_free + s.large_live, 0u);
    EXPECT_EQ(s.dirty, 6u * ARENA_SLAB);
    size_t cursor = 0;
    do {
        page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
    } while (cursor != 0);
    Stats after = stats();
    EXPECT_EQ(after.dirty, 0u);
    EXPECT_EQ(after.returned - s.returned, 6u * ARENA_SLAB);
}

// A heap with slabs of every bin: the longest texts there are.
class StatisticsText : public testing::Test {
  protected:
    void SetUp() override {
        for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
            shared_pool_hint hint = ARENA_NONE;
            void *block = nullptr;
            ASSERT_EQ(shared_pool_take(bin, &block, 1, &hint), 1u);
            blocks_.push_back(block);
        }
    }
    void TearDown() override {
        for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
            shared_pool_put(bin, &blocks_[bin - 1], 1);
        }
    }

    using Writer = void (*)(const statistics_sink *);

    static std::string write(Writer writer, size_t *pieces = nullptr) {
        struct Got {
            std::string text;
            size_t pieces;
        } got = {};
        statistics_sink sink = {[](void *to, const char *text, size_t size) {
                                    static_cast<Got *>(to)->text.append(text, size);
                                    static_cast<Got *>(to)->pieces++;
                                },
                                &got};
        writer(&sink);
        if (pieces != nullptr) {
            *pieces = got.pieces;
        }
        return got.text;
    }
    static size_t count(const std::string &text, const std::string &what) {
        size_t n = 0;
        for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) {
            n++;
        }
        return n;
    }

  private:
    std::vector<void *> blocks_;
};

TEST_F(StatisticsText, ComesInOnePiece) {
    for (Writer writer : {&statistics_table, &statistics_lines, &statistics_xml}) {
        size_t pieces;
        EXPECT_LT(write(writer, &pieces).size(), 14000u) << "room for numbers of any length";
        EXPECT_EQ(pieces, 1u);
    }
}

// A text that is asked for while another is written, as by another thread, and again where there is
// no memory for it.
std::vector<std::string> nested;
TEST_F(StatisticsText, IsTheSameForManyAtOnce) {
    for (Writer writer : {&statistics_table, &statistics_lines, &statistics_xml}) {
        const std::string whole = write(writer);
        static Writer asked;
        asked = writer;
        nested.clear();
        for (bool refuse : {false, true}) {
            statistics_sink sink = {[](void *to, const char *, size_t) {
                                        refuse_map = to != nullptr;
                                        nested.push_back(write(asked));
                                        refuse_map = false;
                                    },
                                    refuse ? &sink : nullptr};
            writer(&sink);
        }
        ASSERT_EQ(nested.size(), 2u);
        // The system calls for the mapping are counted, and the process goes on and may grow.
        auto without_calls = [](std::string text) {
            for (const char *name : {"system calls", ", up ", "peak: RSS"}) {
                size_t at = text.find(name);
                if (at != std::string::npos) {
                    text.erase(at, text.find('\n', at) - at);
                }
            }
            return text;
        };
        EXPECT_EQ(without_calls(nested[0]), without_calls(whole));
        EXPECT_EQ(without_calls(nested[1]), without_calls(whole));
    }
}

TEST_F(StatisticsText, JsonIsUtf8WhateverTheProgramIsCalled) {
    const std::pair<const char *, const char *> names[] = {
        {"a\"b\\c\n", "a\\\"b\\\\c\\u000a"},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"caf\xe9", "caf\\ufffd"},                                  // ISO 8859-1
        {"\x80x\xc0\xafx\xf5x", "\\ufffdx\\ufffd\\ufffdx\\ufffdx"}, // never the first byte
        {"\xe0\x80\xafx", "\\ufffd\\ufffd\\ufffdx"},                // longer than need be
        {"\xed\xa0\x80x", "\\ufffd\\ufffd\\ufffdx"},                // a surrogate
        {"\xf4\x90\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"},       // above all characters
        {"cut \xe2\x82", "cut \\ufffd\\ufffd"},
    };
    for (const auto &[name, quoted] : names) {
        statistics_start(name, "flavour", "1.2.3");
        std::string start = "{\"program\": \"" + std::string(quoted) + "\",";
        EXPECT_EQ(write(statistics_json).substr(0, start.size()), start);
    }
    statistics_start("statistics_test", "flavour", "1.2.3");
}

TEST_F(StatisticsText, TableHasALineABin) {
    std::string table = write(statistics_table);
    EXPECT_EQ(table.find("hakmem statistics of "), 0u);
    EXPECT_EQ(table.back(), '\n');
    size_t head = table.find("block B");
    ASSERT_NE(head, std::string::npos);
    EXPECT_EQ(count(table.substr(head), "\n"), size_t{SIZE_CLASS_BINS});
    char line[100];
    snprintf(line, sizeof line, "  %8u %8d %10d %10d %10d\n", size_class_bins[7].size, 1, 1, 0,
             size_class_bins[7].blocks - 1);
    EXPECT_NE(table.find(line), std::string::npos) << table;
}

TEST_F(StatisticsText, NumbersAreRoundedToTheNearest) {
    page_arena_window window = page_arena_get_window();
    for (size_t size : {size_t{52429}, size_t{157286}, size_t{157287}, size_t{1048575}}) {
        void *large = large_block_alloc(size, 1, LARGE_BLOCK_ANY);
        char expected[64];
        snprintf(expected, sizeof expected, " / %.1f MiB (1 large blocks)\n",
                 static_cast<double>(size) / 1048576);
        std::string table = write(statistics_table);
        EXPECT_NE(table.find(expected), std::string::npos) << expected << table;
        ASSERT_TRUE(large_block_free(&window, large, page_arena_slab_of(&window, large)));
    }
}

TEST_F(StatisticsText, HeapAddsUp) {
    statistics_heap before;
    statistics_get_heap(&before);
    EXPECT_EQ(before.arena, before.used + before.free_);
    void *small = large_block_alloc((128 << 10) - 1, 1, LARGE_BLOCK_ANY);
    void *mapped = large_block_alloc(128 << 10, 1, LARGE_BLOCK_ANY);
    void *far = large_block_alloc(LARGE_BLOCK_FAR + 1, 1, LARGE_BLOCK_ANY);
    statistics_heap heap;
    statistics_get_heap(&heap);
    EXPECT_EQ(heap.arena, heap.used + heap.free_);
    EXPECT_EQ(heap.used, before.used + (128 << 10)) << "whole pages";
    EXPECT_EQ(heap.mapped_blocks, 2u);
    EXPECT_EQ(heap.mapped, (128 << 10) + LARGE_BLOCK_FAR + 4096);
    EXPECT_LE(heap.trimmable, heap.free_);
    for (void *block : {small, mapped, far}) {
        page_arena_window window = page_arena_get_window();
        ASSERT_TRUE(large_block_free(&window, block, page_arena_slab_of(&window, block)));
    }
    statistics_get_heap(&heap);
    EXPECT_EQ(heap.used, before.used);
    EXPECT_EQ(heap.mapped + heap.mapped_blocks, 0u);
}

TEST_F(StatisticsText, XmlIsBalancedAndCoversAllSizes) {
    std::string xml = write(statistics_xml);
    EXPECT_EQ(xml.find("<malloc version=\"1\">\n"), 0u);
    EXPECT_EQ(xml.rfind("</malloc>\n"), xml.size() - strlen("</malloc>\n"));
    for (const char *name : {"malloc ", "heap ", "sizes", "hakmem "}) {
        EXPECT_EQ(count(xml, std::string("<") + name), 1u) << name;
        std::string bare = name;
        bare.erase(bare.find_last_not_of(' ') + 1);
        EXPECT_EQ(count(xml, "</" + bare + ">"), 1u) << name;
    }
    EXPECT_EQ(count(xml, "\"") % 2, 0u);
    EXPECT_EQ(count(xml, "<"), count(xml, ">"));
    // Each size's range begins where the one below ends.
    size_t last = 0;
    size_t ranges = 0;
    for (size_t at = xml.find("<size "); at != std::string::npos; at = xml.find("<size ", at + 1)) {
        size_t from;
        size_t to;
        ASSERT_EQ(sscanf(&xml[at], "<size from=\"%zu\" to=\"%zu\"", &from, &to), 2);
        EXPECT_EQ(from, last + 1);
        EXPECT_GT(to, from);
        last = to;
        ranges++;
    }
    EXPECT_EQ(ranges, SIZE_CLASS_BINS - 1u);
}

} // namespace
