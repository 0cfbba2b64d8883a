// SPDX-License-Identifier: Apache-2.0
#include "boxes/page_arena/page_arena.h"

#include "backends/os.h"
#include "boxes/settings/settings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

// The linker (--wrap) puts these between the arena and the backend: a clock that the test moves,
// and calls of the kernel that fail when the test says so.
static std::atomic<uint64_t> clock_ms{1000};
static std::atomic<size_t> advised;    // bytes that were advised huge pages
static bool all_touched;               // all pages count as in memory, whatever the kernel says
static std::atomic<size_t> looks;      // calls of os_in_memory()
static std::function<void()> on_clock; // called when the arena looks at the clock
static bool refuse_commit, refuse_reserve, refuse_map, refuse_purge, refuse_move;
static size_t map_most = SIZE_MAX;               // larger mappings are refused
static std::atomic<size_t> map_calls, map_bytes; // bytes that were mapped
static std::atomic<size_t> purge_calls, refreshes, decommits;
static size_t address_limit = SIZE_MAX;
static bool locked; // as under mlockall(): new mappings have their pages at once
static bool refuse_unmap;
static bool lose_refresh, lose_decommit, refuse_decommit, late_commit;
static bool only_alone; // only os_commit_alone() gives rights
static char overcommit = '0';

extern "C" {
enum os_result __real_os_commit(void *at, size_t size);
enum os_result __real_os_commit_alone(void *at, size_t size);
enum os_result __real_os_reserve(void *at, size_t size, void **got);
void __real_os_huge_pages(void *at, size_t size, bool on);
enum os_result __real_os_map(void *at, size_t size, void **got);
enum os_result __real_os_purge(void *at, size_t size);
enum os_result __real_os_decommit(void *at, size_t size);
size_t __real_os_read_file(const char *path, char *buf, size_t size);
enum os_result __real_os_refresh(void *at, size_t size);
enum os_result __real_os_move(void *from, void *to, size_t size);
enum os_result __real_os_unmap(void *at, size_t size);
size_t __wrap_os_address_limit(void) {
    return address_limit;
}
bool __real_os_is_absent(const void *page);
bool __wrap_os_is_absent(const void *page) {
    return !locked && __real_os_is_absent(page);
}
enum os_result __wrap_os_unmap(void *at, size_t size) {
    return refuse_unmap ? OS_NO_MEMORY : __real_os_unmap(at, size);
}
uint64_t __wrap_os_now_ms(void) {
    if (on_clock) {
        on_clock();
    }
    return clock_ms.load();
}
enum os_result __wrap_os_commit(void *at, size_t size) {
    return refuse_commit ? OS_NO_MEMORY : only_alone ? OS_TAKEN : __real_os_commit(at, size);
}
// `late_commit`: time goes by before the call, so that other threads overtake this one.
enum os_result __wrap_os_commit_alone(void *at, size_t size) {
    if (late_commit) {
        usleep(500);
    }
    return __real_os_commit_alone(at, size);
}
void __wrap_os_huge_pages(void *at, size_t size, bool on) {
    advised += on ? size : 0;
    __real_os_huge_pages(at, size, on);
}
// `all_touched` is for machines with swap, where pages that were written may be out of memory.
bool __wrap_os_in_memory(const void *at, size_t size, unsigned char *pages) {
    looks++;
    if (all_touched) {
        memset(pages, 1, size / HAK_PAGE);
        return true;
    }
    return mincore(const_cast<void *>(at), size, pages) == 0;
}
enum os_result __wrap_os_reserve(void *at, size_t size, void **got) {
    return refuse_reserve ? OS_NO_MEMORY : __real_os_reserve(at, size, got);
}
enum os_result __wrap_os_map(void *at, size_t size, void **got) {
    map_calls++;
    enum os_result result =
        refuse_map || size > map_most ? OS_NO_MEMORY : __real_os_map(at, size, got);
    page_arena_window window = page_arena_get_window();
    map_bytes += result == OS_OK && at >= window.base && at < window.meta ? size : 0;
    return result;
}
enum os_result __wrap_os_purge(void *at, size_t size) {
    purge_calls++;
    return refuse_purge ? OS_NO_MEMORY : __real_os_purge(at, size);
}
enum os_result __wrap_os_decommit(void *at, size_t size) {
    if (refuse_decommit) {
        return OS_NO_MEMORY;
    }
    decommits++;
    if (lose_decommit) {
        os_release(at, size);
        return OS_LOST;
    }
    return __real_os_decommit(at, size);
}
size_t __wrap_os_read_file(const char *path, char *buf, size_t size) {
    if (strcmp(path, "/proc/sys/vm/overcommit_memory") == 0) {
        *buf = overcommit;
        return 1;
    }
    return __real_os_read_file(path, buf, size);
}
enum os_result __wrap_os_refresh(void *at, size_t size) {
    if (refuse_purge) {
        return OS_NO_MEMORY;
    }
    if (lose_refresh) { // The kernel unmapped the range, and then would not map it again.
        os_release(at, size);
        return OS_LOST;
    }
    refreshes++;
    return __real_os_refresh(at, size);
}
enum os_result __wrap_os_move(void *from, void *to, size_t size) {
    return refuse_move ? OS_NO_MEMORY : __real_os_move(from, to, size);
}
extern int64_t settings_values[SETTING_COUNT];
}

namespace {

struct Extent {
    size_t from, slabs;
};

class PageArena : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(page_arena_init());
        window = page_arena_get_window();
        settings_values[SETTING_DECAY_MS] = -1; // releases give nothing back
        purge_all();
        ASSERT_EQ(stats().held_slabs, 0u);
    }

    void TearDown() override {
        refuse_commit = refuse_reserve = refuse_map = refuse_purge = refuse_move = false;
        map_most = address_limit = SIZE_MAX;
        refuse_unmap = false;
        settings_values[SETTING_LIMIT] = 0;
        EXPECT_EQ(stats().held_slabs, 0u) << "the test holds slabs at its end";
        EXPECT_EQ(stats().dirty_slabs - stats().aside_slabs, dirty_bits());
        check_summaries();
        purge_all();
        check_summaries();
        EXPECT_EQ(stats().dirty_slabs, 0u);
    }

    // Steps until a round is through or `budget` is spent; returns how many slabs went back.
    static size_t purge(uint32_t age_ms, size_t budget) {
        size_t cursor = 0;
        size_t sum = 0;
        do {
            sum += page_arena_purge(&cursor, age_ms, budget - sum, SIZE_MAX).slabs;
        } while (cursor != 0 && sum < budget);
        return sum;
    }
    static void purge_all() { purge(0, SIZE_MAX); }

    static page_arena_stats stats() {
        page_arena_stats s;
        page_arena_get_stats(&s);
        return s;
    }

    // The longest run of set bits among `count` of them, and the runs at both ends.
    struct Runs {
        size_t longest, first, last;
    };
    static Runs runs(const std::vector<bool> &bits, size_t from, size_t count) {
        Runs result = {0, count, 0};
        for (size_t i = 0; i < count; i++) {
            if (bits[from + i]) {
                result.longest = std::max(result.longest, ++result.last);
            } else {
                result.first = std::min(result.first, i);
                result.last = 0;
            }
        }
        return result;
    }
    static Runs summary(const atomic_bitmap_word &word) {
        return {word.load() & 0xfff, word.load() >> 12 & 0xfff, word.load() >> 24 & 0xfff};
    }
    page_arena_runs &summaries(size_t slab, bool dirty) {
        page_arena_region &region = window.regions[slab / ARENA_REGION_SLABS];
        return dirty ? region.dirty : region.free;
    }
    Runs group_summary(size_t slab, bool dirty) {
        return summary(
            summaries(slab, dirty).group[slab / ARENA_GROUP_SLABS % ARENA_REGION_GROUPS]);
    }

    // No summary is below the true length of its run.
    void check_summaries() {
        for (bool dirty : {false, true}) {
            size_t carry = 0;
            size_t longest = 0; // of the region
            for (size_t at = 0; at < page_arena_high(); at += ARENA_GROUP_SLABS) {
                if (!page_arena_reaches(at)) {
                    continue;
                }
                page_arena_group &group = window.groups[at / ARENA_GROUP_SLABS];
                std::vector<bool> bits(ARENA_GROUP_SLABS);
                for (size_t w = 0; w < ARENA_GROUP_SLABS / 64; w++) {
                    uint64_t word = group.avail[w] & (dirty ? group.dirty[w].load() : UINT64_MAX);
                    ASSERT_TRUE(!dirty || at < page_arena_top() || word == 0) << "above the top";
                    for (; word != 0; word &= word - 1) {
                        bits[w * 64 + static_cast<size_t>(__builtin_ctzll(word))] = true;
                    }
                }
                Runs truth = runs(bits, 0, ARENA_GROUP_SLABS);
                Runs bound = group_summary(at, dirty);
                ASSERT_GE(bound.longest, truth.longest) << at << dirty;
                ASSERT_GE(bound.first, truth.first) << at << dirty;
                ASSERT_GE(bound.last, truth.last) << at << dirty;
                if (at % ARENA_REGION_SLABS == 0) {
                    carry = longest = 0;
                }
                longest = std::max({longest, truth.longest, carry + truth.first});
                carry = truth.first == ARENA_GROUP_SLABS ? carry + ARENA_GROUP_SLABS : truth.last;
                ASSERT_GE(summaries(at, dirty).all.load() & 0xfffffffff, longest) << at << dirty;
            }
        }
    }

    // What `dirty_slabs` should be: bits that say both free and dirty.
    size_t dirty_bits() {
        size_t sum = 0;
        for (size_t w = 0; w < page_arena_high() / 64; w++) {
            if (!page_arena_reaches(w * 64)) {
                continue;
            }
            page_arena_group &group = window.groups[w / 32];
            sum += static_cast<size_t>(
                __builtin_popcountll(group.avail[w % 32].load() & group.dirty[w % 32].load()));
        }
        return sum;
    }

    char *address(size_t slab) { return static_cast<char *>(page_arena_address(&window, slab)); }

    size_t claim(size_t slabs, size_t align = 1) {
        size_t from = page_arena_claim(slabs, align, &zero);
        EXPECT_NE(from, ARENA_NONE);
        return from;
    }

    void fill(size_t from, size_t slabs, int byte) {
        memset(address(from), byte, slabs * ARENA_SLAB);
    }

    bool all(size_t from, size_t slabs, char byte) {
        const char *at = address(from);
        size_t size = slabs * ARENA_SLAB;
        return at[0] == byte && memcmp(at, at + 1, size - 1) == 0;
    }

    size_t resident_pages(size_t from, size_t slabs) {
        std::vector<unsigned char> pages(slabs * (ARENA_SLAB / HAK_PAGE));
        EXPECT_EQ(mincore(address(from), slabs * ARENA_SLAB, pages.data()), 0);
        return static_cast<size_t>(std::count_if(pages.begin(), pages.end(),
                                                 [](unsigned char p) { return (p & 1) != 0; }));
    }

    page_arena_window window;
    bool zero = false;
};

// Returns more slabs than were ever available or mapped ahead: a claim of so many needs the kernel.
size_t more_than(size_t bytes) {
    constexpr size_t kAhead = 32 * ARENA_SUPERSLAB_SLABS;
    return (bytes >> ARENA_SLAB_SHIFT) + kAhead + 1;
}

// A purge begins before there is a window, and goes on when another thread has made one.
TEST(PageArenaDeathTest, InitMayComeInTheMiddleOfAPurge) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        on_clock = [] {
            static bool came;
            bool zero;
            if (!std::exchange(came, true)) {
                EXPECT_TRUE(page_arena_init());
                page_arena_release(page_arena_claim(1, 1, &zero), 1, true);
            }
        };
        size_t cursor = 0;
        page_arena_purged done = page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
        EXPECT_EQ(done.slabs, 1u);
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

TEST(PageArenaDeathTest, BeforeInitThereIsNothing) {
    // "threadsafe" runs this test alone in a fresh process.
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        bool zero;
        size_t cursor = 0;
        page_arena_window window = page_arena_get_window();
        bool ok = window.base == nullptr && window.slabs == 0 && page_arena_high() == 0 &&
                  page_arena_slab_of(&window, &zero) >= window.slabs &&
                  page_arena_claim(1, 1, &zero) == ARENA_NONE &&
                  !page_arena_claim_at(0, 1, &zero) &&
                  page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX).slabs == 0 && cursor == 0 &&
                  page_arena_purge_highest(1) == 0 && page_arena_top() == 0 &&
                  page_arena_dirty() == 0 && page_arena_mapped() == 0 && !page_arena_reaches(0);
        page_arena_stats stats;
        page_arena_get_stats(&stats);
        size_t length;
        ok = ok && stats.reserved_bytes == 0 && stats.held_slabs == 0 &&
             page_arena_readable(&length) == nullptr && length == 0;
        refuse_reserve = true;
        ok = ok && !page_arena_init() && page_arena_get_window().base == nullptr;
        refuse_reserve = false;
        ok =
            ok && page_arena_init() && page_arena_init() && page_arena_get_window().base != nullptr;
        _exit(ok ? 0 : 1);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

TEST(PageArenaDeathTest, ThreadsAgreeOnOneWindow) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        std::atomic<int> ready{0};
        std::set<char *> bases;
        std::vector<char *> seen(4);
        std::vector<std::thread> threads;
        for (char *&base : seen) {
            threads.emplace_back([&] {
                for (ready++; ready < 4;) {
                }
                base = page_arena_init() ? page_arena_get_window().base : nullptr;
            });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
        bases.insert(seen.begin(), seen.end());
        _exit(bases.size() == 1 && *bases.begin() != nullptr ? 0 : 1);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

TEST_F(PageArena, WindowGeometry) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(window.base) % ARENA_SUPERSLAB, 0u);
    EXPECT_TRUE(hak_is_pow2(window.slabs));
    EXPECT_EQ(page_arena_slab_of(&window, window.base), 0u);
    EXPECT_EQ(page_arena_slab_of(&window, address(7) + ARENA_SLAB - 1), 7u);
    EXPECT_GE(page_arena_slab_of(&window, window.base - 1), window.slabs);
    EXPECT_EQ(page_arena_slab_of(&window, address(window.slabs) - 1), window.slabs - 1);
    EXPECT_GE(page_arena_slab_of(&window, address(window.slabs)), window.slabs);
    EXPECT_GE(page_arena_slab_of(&window, nullptr), window.slabs);
    EXPECT_GE(page_arena_slab_of(&window, this), window.slabs);
}

TEST_F(PageArena, AlignmentUpToOneGiB) {
    for (size_t align = 1; align <= size_t{1} << 30; align *= 2) {
        for (size_t slabs : {size_t{1}, size_t{33}}) {
            size_t held = claim(1); // so that the lowest run is not aligned by chance
            size_t from = claim(slabs, align);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(address(from)) % align, 0u) << align;
            address(from)[0] = 1;
            address(from + slabs)[-1] = 1;
            page_arena_release(from, slabs, true);
            page_arena_release(held, 1, false);
        }
    }
}

TEST_F(PageArena, HugePagesAreForFilledRunsOfADenseHeap) {
    // Behind all that has ever been in use, so that its SuperSlabs are fresh.
    constexpr size_t kRun = 8 * ARENA_SUPERSLAB_SLABS;
    std::vector<Extent> held;
    auto fresh = [&](auto claim_run) {
        size_t high = page_arena_high();
        for (;;) {
            advised = 0;
            size_t from = claim_run(kRun);
            EXPECT_NE(from, ARENA_NONE);
            held.push_back({from, kRun});
            if (from == ARENA_NONE || from >= high) {
                return advised.load();
            }
        }
    };
    auto sparse = [&](size_t slabs) { return page_arena_claim(slabs, 1, &zero); };
    auto filled = [&](size_t slabs) { return page_arena_claim_filled(slabs, 1, &zero); };
    EXPECT_EQ(fresh(filled), 0u) << "not dense";
    page_arena_mark_dense(true);
    EXPECT_GE(fresh(filled), (kRun - 1) * ARENA_SLAB);
    EXPECT_EQ(fresh(sparse), 0u);
    settings_values[SETTING_LIMIT] = INT64_MAX;
    EXPECT_EQ(fresh(filled), 0u) << "under a limit";
    settings_values[SETTING_LIMIT] = 0;
    settings_values[SETTING_THP] = 0;
    EXPECT_EQ(fresh(filled), 0u) << "switched off";
    settings_values[SETTING_THP] = 2;
    page_arena_mark_dense(false);
    EXPECT_EQ(fresh(filled), 0u);
    for (const Extent &run : held) {
        page_arena_release(run.from, run.slabs, false);
    }
    size_t before = page_arena_sparse();
    page_arena_count_sparse(3);
    page_arena_count_sparse(-2);
    EXPECT_EQ(page_arena_sparse(), before + 1);
    page_arena_count_sparse(-1);
}

TEST_F(PageArena, WhatCannotBeIsRefused) {
    EXPECT_EQ(page_arena_claim(window.slabs, 1, &zero), ARENA_NONE);
    EXPECT_EQ(page_arena_claim(window.slabs + 1, 1, &zero), ARENA_NONE);
    EXPECT_EQ(page_arena_claim(SIZE_MAX, 1, &zero), ARENA_NONE);
    EXPECT_EQ(page_arena_claim(SIZE_MAX >> ARENA_SLAB_SHIFT, 1, &zero), ARENA_NONE);
    EXPECT_EQ(page_arena_claim(1, size_t{1} << 63, &zero), ARENA_NONE);
    EXPECT_FALSE(page_arena_claim_at(page_arena_high() + 64, 1, &zero));
    EXPECT_FALSE(page_arena_claim_at(SIZE_MAX, 1, &zero));
    EXPECT_FALSE(page_arena_claim_at(page_arena_high() - 1, SIZE_MAX, &zero));
    EXPECT_FALSE(page_arena_claim_at(0, 1, &zero)) << "the control area";
}

TEST_F(PageArena, ControlAreaIsNeverHandedOut) {
    size_t from = claim(1);
    size_t groups = window.slabs / ARENA_GROUP_SLABS;
    EXPECT_GE(address(from), reinterpret_cast<char *>(window.groups + groups));
    EXPECT_EQ(from % ARENA_SUPERSLAB_SLABS, 0u);
    page_arena_release(from, 1, false);
}

TEST_F(PageArena, RegionsAreBehindTheGroupsAndZero) {
    size_t groups = window.slabs / ARENA_GROUP_SLABS;
    size_t regions = (groups + ARENA_REGION_GROUPS - 1) / ARENA_REGION_GROUPS;
    EXPECT_GE(regions, 1u);
    EXPECT_GE(reinterpret_cast<char *>(window.regions),
              reinterpret_cast<char *>(window.groups + groups));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(window.regions) % alignof(page_arena_region), 0u);
    size_t from = claim(1);
    EXPECT_GE(address(from), reinterpret_cast<char *>(window.regions + regions));
    page_arena_release(from, 1, false);
    for (atomic_bitmap_word &word : window.regions[0].user) {
        EXPECT_EQ(word.exchange(1), 0u) << "writable, and nobody else's";
    }
    page_arena_release(claim(1000), 1000, true);
    for (atomic_bitmap_word &word : window.regions[0].user) {
        EXPECT_EQ(word.exchange(0), 1u);
    }
}

// Claims slabs, 17 at a time, until `slabs` are held, and touches one page of each run. Returns how
// many calls of os_map() that took. Sets *most to the most slabs at a time that were mapped and not
// claimed.
size_t calls_to_claim(size_t slabs, size_t *most) {
    size_t before = map_calls;
    for (*most = 0; page_arena_held() < slabs;) {
        bool zero = false;
        size_t from = page_arena_claim(17, 1, &zero);
        EXPECT_TRUE(from != ARENA_NONE && zero);
        page_arena_window window = page_arena_get_window();
        *static_cast<char *>(page_arena_address(&window, from)) = 1;
        *most = std::max(*most, (map_bytes >> ARENA_SLAB_SHIFT) - page_arena_held());
    }
    return map_calls - before;
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__) // which reserve more
// A line of /proc/self/status, in bytes.
size_t status_bytes(const char *name) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.compare(0, strlen(name), name) == 0) {
            return strtoul(line.c_str() + strlen(name), nullptr, 10) << 10;
        }
    }
    return 0;
}

TEST(PageArenaDeathTest, ASmallHeapMapsLittle) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        status_bytes("VmData:"); // what the test itself allocates
        size_t all = status_bytes("VmSize:");
        size_t data = status_bytes("VmData:");
        bool zero;
        bool ok = page_arena_init();
        EXPECT_LE(status_bytes("VmData:"), data + HAK_PAGE) << "little for the place alone";
        size_t from = page_arena_claim(1, 1, &zero);
        ok = ok && from != ARENA_NONE;
        EXPECT_LE(status_bytes("VmData:") - data, size_t{320} << 10);
        EXPECT_LE(status_bytes("VmSize:") - all, size_t{1} << 20);
        // The heap takes no more than a quarter, or 2 MiB, above its need.
        for (size_t slabs = 2; slabs < 200; slabs++) {
            ok = ok && page_arena_claim(1, 1, &zero) != ARENA_NONE;
            page_arena_stats stats;
            page_arena_get_stats(&stats);
            size_t most = slabs + std::max(slabs / 4, size_t{4});
            EXPECT_LE(stats.reserved_bytes >> ARENA_SLAB_SHIFT,
                      std::min(most, slabs + ARENA_SUPERSLAB_SLABS))
                << slabs;
        }
        fflush(stdout);
        _exit(ok && !testing::Test::HasFailure() ? 0 : 1);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

TEST(PageArenaDeathTest, ALargeHeapIsMappedAheadWhereThatCostsNothing) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    enum Why { kNothing, kAddressLimit, kLocked, kCharged, kSettingsLimit };
    for (Why why : {kNothing, kAddressLimit, kLocked, kCharged, kSettingsLimit}) {
        auto check = [why] {
            constexpr size_t kGiB = (size_t{1} << 30) / ARENA_SLAB;
            address_limit = why == kAddressLimit ? size_t{1} << 40 : SIZE_MAX;
            locked = why == kLocked;
            overcommit = why == kCharged ? '2' : '0';
            settings_values[SETTING_LIMIT] = why == kSettingsLimit ? INT64_MAX : 0;
            bool ok = page_arena_init();
            size_t least, most;
            size_t resident = status_bytes("VmRSS:");
            calls_to_claim(kGiB / 4, &least);
            size_t calls = calls_to_claim(kGiB * 5, &most);
            // A page of each run, and of metadata and of the page table for each SuperSlab.
            EXPECT_LE(status_bytes("VmRSS:") - resident, kGiB * 5 / 32 * 4 * HAK_PAGE);
            if (why == kNothing) {
                EXPECT_LE(least, kGiB / 4 / 8 + ARENA_SUPERSLAB_SLABS + 17);
                EXPECT_LE(most, 33u * ARENA_SUPERSLAB_SLABS + 17);
                EXPECT_LE(calls, kGiB * 5 / 1024 * 4 + 100);
            } else {
                EXPECT_LE(most, ARENA_SUPERSLAB_SLABS + 17u);
                EXPECT_GE(calls, kGiB * 4 / ARENA_SUPERSLAB_SLABS);
            }
            // A limit that comes later is noticed when the heap has used all that is mapped ahead.
            address_limit = size_t{1} << 40;
            bool zero;
            while (page_arena_is_spacious(1) && page_arena_held() < kGiB * 6) {
                page_arena_claim(17, 1, &zero);
            }
            EXPECT_LE(page_arena_held(), kGiB * 5 + 34 * ARENA_SUPERSLAB_SLABS);
            EXPECT_FALSE(page_arena_is_spacious(kGiB));
            fflush(stdout);
            _exit(ok && !testing::Test::HasFailure() ? 0 : 1);
        };
        EXPECT_EXIT(check(), testing::ExitedWithCode(0), "") << why;
    }
}

TEST(PageArenaDeathTest, LimitsThatLeaveLittleAreUsedUp) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    struct {
        decltype(RLIMIT_AS) resource;
        const char *line;
    } limits[] = {{RLIMIT_AS, "VmSize:"}, {RLIMIT_DATA, "VmData:"}};
    for (auto limit : limits) {
        auto check = [limit] {
            constexpr size_t kLeft = size_t{6} << 20;
            size_t used = status_bytes(limit.line);
            rlimit now = {used + kLeft, RLIM_INFINITY};
            setrlimit(limit.resource, &now);
            bool zero;
            page_arena_stats stats;
            bool ok = page_arena_init();
            while (page_arena_claim(1, 1, &zero) != ARENA_NONE) {
            }
            page_arena_get_stats(&stats);
            // All but the control area, metadata and less than a slab.
            EXPECT_GE(stats.held_slabs * ARENA_SLAB, kLeft - (size_t{512} << 10)) << limit.line;
            EXPECT_EQ(page_arena_claim(3, 1, &zero), ARENA_NONE);
            // The limit may change, up and down.
            now.rlim_cur += size_t{1} << 20;
            setrlimit(limit.resource, &now);
            size_t from = page_arena_claim(3, 1, &zero);
            ok = ok && from != ARENA_NONE;
            page_arena_release(from, 3, false);
            now.rlim_cur = 4096;
            setrlimit(limit.resource, &now);
            ok = ok && page_arena_claim(3, 1, &zero) == from;
            EXPECT_EQ(page_arena_claim(1000, 1, &zero), ARENA_NONE);
            fflush(stdout);
            _exit(ok && !testing::Test::HasFailure() ? 0 : 1);
        };
        EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
    }
}

TEST(PageArenaDeathTest, InATightProcessSlabsAreDataWhileTheyAreInUse) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        rlimit limit = {size_t{15} << 20, RLIM_INFINITY};
        setrlimit(RLIMIT_DATA, &limit);
        status_bytes("VmData:"); // what the test itself allocates
        bool zero;
        EXPECT_TRUE(page_arena_init());
        EXPECT_TRUE(page_arena_is_tight());
        page_arena_window window = page_arena_get_window();
        auto at = [&](size_t slab) {
            return static_cast<char *>(page_arena_address(&window, slab));
        };
        size_t first = page_arena_claim(1, 1, &zero);
        at(first)[ARENA_SLAB - 1] = 1;
        // A slab without rights, some of whose pages get rights.
        size_t bare = page_arena_claim_bare(&zero);
        EXPECT_TRUE(zero);
        EXPECT_EQ(bare, first + 1);
        size_t data = status_bytes("VmData:");
        EXPECT_TRUE(page_arena_give_rights(bare, 2, 3));
        EXPECT_EQ(status_bytes("VmData:"), data + 3 * HAK_PAGE);
        at(bare)[2 * HAK_PAGE] = at(bare)[5 * HAK_PAGE - 1] = 1;
        // All the data that the process may have is used up. Then free slabs give way, wherever
        // they are.
        std::vector<size_t> slabs;
        size_t slab;
        while ((slab = page_arena_claim(1, 1, &zero)) != ARENA_NONE) {
            at(slab)[0] = at(slab)[ARENA_SLAB - 1] = 1;
            slabs.push_back(slab);
        }
        EXPECT_GE(slabs.size(), 7u * 16); // 7 MiB: UBSan takes 6 of the 15 MiB
        EXPECT_EQ(page_arena_claim(2, 1, &zero), ARENA_NONE);
        for (size_t i = 0; i < slabs.size(); i += 2) {
            page_arena_release(slabs[i], 1, true);
        }
        size_t run = page_arena_claim(slabs.size() / 4, 1, &zero);
        EXPECT_NE(run, ARENA_NONE);
        EXPECT_TRUE(page_arena_give_rights(bare, 5, 11));
        at(bare)[ARENA_SLAB - 1] = 1;
        // Free slabs are zero when they come back, and a release that says "clean" is no promise.
        page_arena_release(run, slabs.size() / 4, false);
        for (size_t i = 0; i + 4 < slabs.size(); i += 2) { // fewer: the bare slab has more pages
            slab = page_arena_claim(1, 1, &zero);
            if (slab == ARENA_NONE) {
                ADD_FAILURE() << i;
                break;
            }
            if (zero && (at(slab)[0] != 0 || at(slab)[ARENA_SLAB - 1] != 0)) {
                ADD_FAILURE() << slab;
            }
            at(slab)[0] = 1;
        }
        EXPECT_EQ(at(first)[ARENA_SLAB - 1], 1);
        fflush(stdout);
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

TEST(PageArenaDeathTest, AKernelThatRefusesIsNotAskedAgainAndAgain) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        auto calls = [](auto claim_it) {
            uint64_t before = os_calls();
            claim_it();
            return os_calls() - before;
        };
        // No address for a window (three calls read how much memory there is), then no memory for
        // its first slab, then for another one.
        rlimit none = {0, RLIM_INFINITY};
        rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
        setrlimit(RLIMIT_AS, &none);
        EXPECT_LE(calls([] { EXPECT_FALSE(page_arena_init()); }), 6u);
        setrlimit(RLIMIT_AS, &all);
        bool zero;
        EXPECT_TRUE(page_arena_init());
        setrlimit(RLIMIT_AS, &none);
        for (int i = 0; i < 3; i++) {
            EXPECT_LE(calls([&] { EXPECT_EQ(page_arena_claim(1, 1, &zero), ARENA_NONE); }), 4u);
        }
        setrlimit(RLIMIT_AS, &all);
        EXPECT_NE(page_arena_claim(1, 1, &zero), ARENA_NONE);
        setrlimit(RLIMIT_AS, &none);
        while (page_arena_claim(1, 1, &zero) != ARENA_NONE) {
        }
        for (size_t slabs : {1, 3, 100, 10000}) {
            EXPECT_LE(calls([&] { EXPECT_EQ(page_arena_claim(slabs, 1, &zero), ARENA_NONE); }), 4u);
        }
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}
#endif

// Maps a page that is not the arena's at `at`, and fills it.
char *map_page_of_another(char *at) {
    void *got = mmap(at, HAK_PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    EXPECT_EQ(got, at);
    memset(at, 0x77, HAK_PAGE);
    return at;
}

TEST(PageArenaDeathTest, WhatOthersHaveMappedInTheControlAreaIsSkipped) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        constexpr size_t kPiece = HAK_PAGE; // slabs whose bytes of the page map fill a page
        bool zero;
        EXPECT_TRUE(page_arena_init());
        page_arena_window window = page_arena_get_window();
        // In the page map of the second piece, and in the groups of the fourth.
        char *pages[] = {map_page_of_another(window.base + HAK_PAGE),
                         map_page_of_another(reinterpret_cast<char *>(
                             &window.groups[3 * kPiece / ARENA_GROUP_SLABS]))};
        std::set<size_t> pieces;
        for (int i = 0; i < 60; i++) { // of 32 MiB
            size_t from = page_arena_claim(512, ARENA_SUPERSLAB, &zero);
            EXPECT_NE(from, ARENA_NONE);
            static_cast<char *>(page_arena_address(&window, from))[0] = 1;
            pieces.insert(from / kPiece);
            pieces.insert((from + 511) / kPiece);
            EXPECT_TRUE(page_arena_reaches(from));
            // A run that grows does not grow into the foreign mapping.
            if (page_arena_claim_at(from + 512, 1, &zero)) {
                page_arena_release(from + 512, 1, false);
            }
        }
        EXPECT_EQ(pieces.count(0), 1u);
        EXPECT_EQ(pieces.count(1), 0u);
        EXPECT_EQ(pieces.count(2), 1u);
        EXPECT_EQ(pieces.count(3), 0u);
        EXPECT_EQ(pieces.count(4), 1u);
        EXPECT_EQ(page_arena_mapped(), kPiece);
        EXPECT_FALSE(page_arena_reaches(kPiece));
        EXPECT_FALSE(page_arena_reaches(4 * kPiece - 1));
        EXPECT_TRUE(page_arena_reaches(4 * kPiece));
        EXPECT_FALSE(page_arena_reaches(window.slabs));
        EXPECT_FALSE(page_arena_reaches(SIZE_MAX));
        EXPECT_FALSE(page_arena_claim_at(kPiece - 1, 2, &zero));
        // Walks pass by.
        page_arena_release(4 * kPiece, 512, true);
        size_t cursor = 0;
        size_t purged = 0;
        do {
            purged += page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX).slabs;
        } while (cursor != 0);
        EXPECT_EQ(purged, 512u);
        cursor = kPiece / 64 + 1; // a walk that has stopped there may go on
        EXPECT_EQ(page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX).slabs, 0u);
        EXPECT_EQ(page_arena_claim(512, ARENA_SUPERSLAB, &zero), 4 * kPiece);
        page_arena_stats stats;
        page_arena_get_stats(&stats);
        EXPECT_EQ(stats.held_slabs, 60 * 512u);
        for (char *at : pages) {
            EXPECT_EQ(std::count(at, at + HAK_PAGE, 0x77), HAK_PAGE);
        }
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

// A foreign mapping where the heap would be mapped ahead is left alone.
TEST(PageArenaDeathTest, WhatOthersHaveMappedIsNotMappedAhead) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        bool ok = page_arena_init();
        page_arena_window window = page_arena_get_window();
        std::vector<char *> others;
        unsigned char in_memory;
        size_t most;
        calls_to_claim(4096, &most);
        for (size_t i = 1; i < 40; i += 3) {
            char *at = static_cast<char *>(page_arena_address(&window, page_arena_high())) +
                       i * (i + 5) * ARENA_SUPERSLAB;
            // The heap may be mapped ahead to the first of these places already.
            if (mincore(at, HAK_PAGE, &in_memory) != 0) {
                others.push_back(map_page_of_another(at));
            }
        }
        EXPECT_GE(others.size(), 8u);
        calls_to_claim(4096 + 40 * 45 * ARENA_SUPERSLAB_SLABS, &most);
        for (char *at : others) {
            EXPECT_EQ(std::count(at, at + HAK_PAGE, 0x77), HAK_PAGE);
        }
        fflush(stdout);
        _exit(ok && !testing::Test::HasFailure() ? 0 : 1);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

// When the arena advises the first SuperSlab behind a foreign mapping huge pages again, it does not
// look at the SuperSlab before, whose metadata is not mapped.
TEST(PageArenaDeathTest, WhatIsFilledAgainMayBeBehindWhatOthersHaveMapped) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        constexpr size_t kPiece = HAK_PAGE;
        bool zero;
        EXPECT_TRUE(page_arena_init());
        page_arena_window window = page_arena_get_window();
        map_page_of_another(window.base + HAK_PAGE);
        size_t run;
        do {
            run = page_arena_claim(512, ARENA_SUPERSLAB, &zero);
        } while (run < kPiece);
        EXPECT_EQ(run, 2 * kPiece);
        memset(page_arena_address(&window, run), 1, 512 * ARENA_SLAB);
        page_arena_discard(run, 512);
        EXPECT_EQ(page_arena_claim_again(512, ARENA_SUPERSLAB, &zero), run);
        page_arena_stats stats;
        page_arena_get_stats(&stats);
        EXPECT_EQ(stats.refilled_superslabs, 512u / ARENA_SUPERSLAB_SLABS);
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

// The last groups of a region are not mapped, because a foreign mapping is in the way, or because
// another thread is about to map them; the groups behind are mapped. A search for a run that might
// extend from region to region does not look at the groups that are not mapped.
TEST(PageArenaDeathTest, ARegionWhoseEndIsNotMappedIsPassedBy) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        constexpr size_t kShort = 100;
        constexpr size_t kLong = 150;
        bool zero;
        EXPECT_TRUE(page_arena_init());
        page_arena_window window = page_arena_get_window();
        char *groups = reinterpret_cast<char *>(window.groups + ARENA_REGION_GROUPS - 2);
        EXPECT_EQ(mprotect(map_page_of_another(groups), HAK_PAGE, PROT_NONE), 0);
        // All slabs before those groups are held, except for a run that is too short.
        size_t first = page_arena_claim(1, ARENA_SLAB, &zero);
        while (page_arena_claim(ARENA_GROUP_SLABS / 2, ARENA_SLAB, &zero) < ARENA_REGION_SLABS) {
        }
        while (page_arena_claim(1, ARENA_SLAB, &zero) < ARENA_REGION_SLABS) {
        }
        EXPECT_FALSE(page_arena_reaches(ARENA_REGION_SLABS - 1));
        for (bool dirty : {false, true}) {
            page_arena_release(first, kShort, dirty);
            // Twice: after the first search the region's bound is too short for the run.
            for (int i = 0; i < 2; i++) {
                size_t from = page_arena_claim(kLong, ARENA_SLAB, &zero);
                EXPECT_NE(from, ARENA_NONE);
                EXPECT_GE(from, size_t{ARENA_REGION_SLABS});
                page_arena_release(from, kLong, dirty);
            }
            EXPECT_EQ(page_arena_claim(kShort, ARENA_SLAB, &zero), first);
        }
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

TEST_F(PageArena, ALargeRunIsRefusedAndASmallOneIsNot) {
    size_t more = std::max(more_than(stats().reserved_bytes), size_t{100});
    map_most = 16 * ARENA_SLAB;
    EXPECT_EQ(page_arena_claim(more, 1, &zero), ARENA_NONE);
    // In steps of the size that is allowed, the heap grows to any size.
    std::vector<size_t> held;
    for (size_t i = 0; i < more + 100; i++) {
        held.push_back(claim(1));
    }
    EXPECT_EQ(page_arena_claim(more, 1, &zero), ARENA_NONE);
    size_t before = map_calls;
    EXPECT_EQ(page_arena_claim(more, 1, &zero), ARENA_NONE);
    EXPECT_LE(map_calls - before, 4u);
    map_most = SIZE_MAX;
    for (size_t slab : held) {
        page_arena_release(slab, 1, false);
    }
}

TEST_F(PageArena, ReadableIsFromTheFirstSlabToTheLastMapped) {
    size_t first = claim(1);
    size_t run = claim(100);
    size_t length;
    char *start = page_arena_readable(&length);
    EXPECT_EQ(start, address(first));
    EXPECT_EQ(length % ARENA_SLAB, 0u);
    ASSERT_GE(length, (run + 100 - first) * ARENA_SLAB);
    int sum = 0;
    for (size_t at = 0; at < length; at += HAK_PAGE) {
        sum += start[at];
    }
    EXPECT_EQ(sum, 0);
    page_arena_release(run, 100, false);
    page_arena_release(first, 1, false);
    size_t later;
    EXPECT_EQ(page_arena_readable(&later), start);
    EXPECT_GE(later, length);
}

TEST_F(PageArena, RunsAreSplitAndJoined) {
    size_t whole = claim(96);
    page_arena_release(whole, 96, false);
    EXPECT_EQ(claim(32), whole);
    EXPECT_EQ(claim(1), whole + 32);
    EXPECT_EQ(claim(63), whole + 33);
    // The middle one first, then its neighbours: the three are one again.
    page_arena_release(whole + 32, 1, false);
    EXPECT_EQ(claim(1), whole + 32);
    page_arena_release(whole + 32, 1, false);
    page_arena_release(whole, 32, false);
    page_arena_release(whole + 33, 63, false);
    EXPECT_EQ(claim(96), whole);
    // Parts of a run may go back on their own.
    page_arena_release(whole + 10, 20, false);
    EXPECT_EQ(claim(20), whole + 10);
    page_arena_release(whole, 96, false);
}

TEST_F(PageArena, DirtyRunsComeBeforeLowerCleanOnes) {
    size_t clean = claim(4);
    size_t held = claim(1);
    size_t dirty = claim(4);
    fill(dirty, 4, 7);
    page_arena_release(clean, 4, false);
    page_arena_release(dirty, 4, true);
    EXPECT_EQ(claim(2), dirty);
    EXPECT_FALSE(zero);
    EXPECT_EQ(claim(2), dirty + 2);
    EXPECT_FALSE(zero);
    EXPECT_EQ(claim(2), clean);
    EXPECT_TRUE(zero);
    page_arena_release(clean, 2, false);
    page_arena_release(dirty, 4, true);
    // No dirty run is long enough: the lowest run, dirty slabs and all.
    page_arena_release(held, 1, false);
    EXPECT_EQ(claim(9), clean);
    EXPECT_FALSE(zero);
    EXPECT_EQ(stats().dirty_slabs, 0u);
    page_arena_release(clean, 9, true);
    EXPECT_EQ(stats().dirty_slabs, 9u);
}

TEST_F(PageArena, ZeroIsPromisedOnlyWhenTrue) {
    size_t run = claim(8);
    EXPECT_TRUE(zero);
    EXPECT_TRUE(all(run, 8, 0));
    page_arena_release(run, 8, false);
    ASSERT_EQ(claim(8), run);
    EXPECT_TRUE(zero);
    address(run + 3)[17] = 1;
    page_arena_release(run, 8, true);
    ASSERT_EQ(claim(8), run);
    EXPECT_FALSE(zero);
    // A clean release says nothing about what was dirty before.
    page_arena_release(run, 8, false);
    EXPECT_EQ(stats().dirty_slabs, 8u);
    ASSERT_EQ(claim(8), run);
    EXPECT_FALSE(zero);
    EXPECT_EQ(address(run + 3)[17], 1);
    looks = 0;
    EXPECT_TRUE(page_arena_clean(run, 8));
    EXPECT_EQ(looks, 0u) << "at what is in memory";
    EXPECT_TRUE(all(run, 8, 0));
    page_arena_release(run, 8, false);
    ASSERT_EQ(claim(8), run);
    EXPECT_TRUE(zero);
    page_arena_release(run, 8, false);
}

TEST_F(PageArena, ALongRunThatGoesBackIsLookedAtOnceInEachSuperSlab) {
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) {
        GTEST_SKIP() << "this kernel has no huge pages, so nothing is looked at";
    }
    for (size_t superslabs : {4, 100}) {
        size_t slabs = superslabs * ARENA_SUPERSLAB_SLABS;
        size_t run = claim(slabs);
        looks = 0;
        page_arena_discard(run, slabs);
        EXPECT_LE(looks, superslabs + 32);
        EXPECT_GE(looks, superslabs / 2);
    }
}

TEST_F(PageArena, PurgeGivesPagesBackAndCounts) {
    constexpr size_t kSlabs = 200;
    size_t run = claim(kSlabs);
    fill(run, kSlabs, 1);
    page_arena_stats before = stats();
    EXPECT_EQ(before.held_slabs, kSlabs);
    page_arena_release(run, kSlabs, true);
    EXPECT_EQ(stats().dirty_slabs, kSlabs);
    EXPECT_EQ(page_arena_dirty(), kSlabs);
    EXPECT_EQ(resident_pages(run, kSlabs), kSlabs * ARENA_SLAB / HAK_PAGE);
    // In steps: each gives back what it may and goes on where the last one ended.
    size_t left = kSlabs;
    for (size_t budget : {size_t{1}, size_t{30}, size_t{64}}) {
        EXPECT_EQ(purge(0, budget), budget);
        left -= budget;
        EXPECT_EQ(stats().dirty_slabs, left);
        EXPECT_EQ(resident_pages(run, kSlabs), left * ARENA_SLAB / HAK_PAGE);
    }
    EXPECT_EQ(purge(0, SIZE_MAX), left);
    EXPECT_EQ(purge(0, SIZE_MAX), 0u);
    page_arena_stats after = stats();
    EXPECT_EQ(after.dirty_slabs, 0u);
    EXPECT_EQ(after.purged_slabs - before.purged_slabs, kSlabs);
    EXPECT_EQ(resident_pages(run, kSlabs), 0u);
    ASSERT_EQ(claim(kSlabs), run);
    EXPECT_TRUE(zero);
    EXPECT_TRUE(all(run, kSlabs, 0));
    page_arena_release(run, kSlabs, false);
}

TEST_F(PageArena, HeldSlabsAreNotPurged) {
    size_t run = claim(3);
    fill(run, 3, 5);
    page_arena_release(run, 1, true);
    page_arena_release(run + 2, 1, true);
    EXPECT_EQ(purge(0, SIZE_MAX), 2u);
    EXPECT_TRUE(all(run + 1, 1, 5));
    page_arena_release(run + 1, 1, true);
}

TEST_F(PageArena, WhatTheKernelDoesNotTakeBackStaysDirty) {
    size_t run = claim(4);
    fill(run, 4, 5);
    refuse_purge = true;
    EXPECT_FALSE(page_arena_clean(run, 4));
    page_arena_release(run, 4, true);
    EXPECT_EQ(purge(0, SIZE_MAX), 0u);
    EXPECT_EQ(stats().dirty_slabs, 4u);
    refuse_purge = false;
    EXPECT_EQ(purge(0, SIZE_MAX), 4u);
}

TEST_F(PageArena, WhatIsSetAsideComesBackAsItWas) {
    size_t run = claim(3);
    fill(run, 3, 5);
    EXPECT_EQ(page_arena_reuse(3), ARENA_NONE);
    page_arena_set_aside(run, 3, hak_thread_slot());
    EXPECT_EQ(stats().held_slabs, 0u);
    EXPECT_EQ(stats().dirty_slabs, 3u);
    EXPECT_EQ(stats().aside_slabs, 3u);
    EXPECT_EQ(page_arena_held(), 0u);
    EXPECT_EQ(page_arena_dirty(), 3u);
    EXPECT_EQ(page_arena_reuse(4), ARENA_NONE);
    ASSERT_EQ(page_arena_reuse(3), run);
    EXPECT_TRUE(all(run, 3, 5));
    EXPECT_EQ(stats().held_slabs, 3u);
    EXPECT_EQ(stats().dirty_slabs, 0u);
    page_arena_release(run, 3, true);
}

TEST_F(PageArena, WhatIsSetAsideComesBackInParts) {
    // The run extends over several SuperSlabs: the metadata of each part can be used.
    size_t run = claim(2 * ARENA_SUPERSLAB_SLABS, ARENA_SUPERSLAB);
    size_t far = claim(8 * ARENA_SUPERSLAB_SLABS); // so that so much may be set aside
    page_arena_set_aside(run, 2 * ARENA_SUPERSLAB_SLABS, hak_thread_slot());
    ASSERT_EQ(stats().aside_slabs, 2u * ARENA_SUPERSLAB_SLABS);
    ASSERT_EQ(page_arena_reuse(ARENA_SUPERSLAB_SLABS + 3), run);
    size_t rest = page_arena_reuse(5);
    ASSERT_EQ(rest, run + ARENA_SUPERSLAB_SLABS + 3);
    EXPECT_NE(window.groups[rest / ARENA_GROUP_SLABS].meta_used &
                  uint64_t{1} << rest / ARENA_SUPERSLAB_SLABS % 64,
              0u);
    EXPECT_EQ(stats().aside_slabs, size_t{ARENA_SUPERSLAB_SLABS} - 8);
    page_arena_set_aside(run, ARENA_SUPERSLAB_SLABS + 3, hak_thread_slot());
    page_arena_set_aside(rest, 5, hak_thread_slot());
    EXPECT_EQ(page_arena_reuse(2 * ARENA_SUPERSLAB_SLABS), run) << "and is one again";
    page_arena_release(run, 2 * ARENA_SUPERSLAB_SLABS, true);
    page_arena_release(far, 8 * ARENA_SUPERSLAB_SLABS, false);
}

TEST_F(PageArena, NoMoreIsSetAsideThanABoundSays) {
    constexpr size_t kAlone = 64;
    size_t run = claim(4 * kAlone);
    for (size_t i = 0; i + 7 < 4 * kAlone; i += 16) { // not adjacent: the slabs between are held
        page_arena_set_aside(run + i, 15, hak_thread_slot());
        EXPECT_LE(stats().aside_slabs, kAlone);
    }
    EXPECT_GE(stats().aside_slabs, kAlone / 2);
    size_t cursor = 0;
    page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
    EXPECT_EQ(stats().aside_slabs, 0u);
    for (size_t i = 15; i < 4 * kAlone; i += 16) {
        page_arena_release(run + i, 1, true);
    }
    size_t longer = claim(kAlone + 1);
    page_arena_set_aside(longer, kAlone + 1, hak_thread_slot());
    EXPECT_EQ(stats().aside_slabs, 0u);
}

TEST_F(PageArena, WhatIsSetAsideComesBeforeFreshPages) {
    size_t run = claim(3);
    fill(run, 3, 5);
    page_arena_set_aside(run, 3, hak_thread_slot());
    EXPECT_EQ(claim(2), run);
    EXPECT_FALSE(zero);
    EXPECT_EQ(stats().aside_slabs, 0u);
    EXPECT_EQ(stats().dirty_slabs, 1u);
    EXPECT_EQ(page_arena_reuse(3), ARENA_NONE);
    // The mapping is not in the way of a run that grows either.
    page_arena_set_aside(run, 2, hak_thread_slot());
    ASSERT_TRUE(page_arena_claim_at(run, 3, &zero));
    EXPECT_FALSE(zero);
    EXPECT_TRUE(all(run, 3, 5));
    page_arena_release(run, 3, true);
}

TEST_F(PageArena, WhatIsSetAsideIsPurged) {
    size_t run = claim(3);
    fill(run, 3, 5);
    page_arena_set_aside(run, 3, hak_thread_slot());
    clock_ms += 1000;
    EXPECT_EQ(purge(500, SIZE_MAX), 0u) << "its age counts from the release";
    EXPECT_EQ(stats().aside_slabs, 0u);
    clock_ms += 500;
    EXPECT_EQ(purge(500, SIZE_MAX), 3u);
    ASSERT_EQ(claim(3), run);
    EXPECT_TRUE(zero);
    page_arena_set_aside(run, 3, hak_thread_slot());
    EXPECT_EQ(purge(0, SIZE_MAX), 3u);
    EXPECT_EQ(resident_pages(run, 3), 0u);
}

TEST_F(PageArena, AClaimDoesNotWaitForThoseWhoSetAside) {
    // Each release of a run that was set aside finds another thread, here in the middle of it, that
    // sets aside the other.
    const size_t runs[] = {claim(1), claim(1)};
    page_arena_release(runs[1], 1, true);
    page_arena_set_aside(runs[0], 1, hak_thread_slot());
    unsigned releases = 0;
    on_clock = [&] {
        bool ignored;
        if (++releases < 1000 && page_arena_claim_at(runs[releases % 2], 1, &ignored)) {
            page_arena_set_aside(runs[releases % 2], 1, hak_thread_slot());
        }
    };
    size_t run = claim(100);
    on_clock = nullptr;
    EXPECT_GE(releases, 1u);
    EXPECT_LT(releases, 10u);
    page_arena_release(run, 100, false);
}

TEST_F(PageArena, NothingIsSetAsideUnderALimit) {
    size_t run = claim(3);
    settings_values[SETTING_LIMIT] = INT64_MAX;
    page_arena_set_aside(run, 3, hak_thread_slot());
    EXPECT_EQ(stats().aside_slabs, 0u);
    EXPECT_EQ(stats().dirty_slabs, 3u);
    settings_values[SETTING_LIMIT] = 0;
}

TEST_F(PageArena, PurgeTakesOnlyWhatIsOldEnough) {
    size_t low = claim(ARENA_SUPERSLAB_SLABS, ARENA_SUPERSLAB);
    size_t high = claim(ARENA_SUPERSLAB_SLABS, ARENA_SUPERSLAB);
    page_arena_release(low, 5, true);
    clock_ms += 100;
    page_arena_release(high, 6, true);
    clock_ms += 399;
    EXPECT_EQ(purge(500, SIZE_MAX), 0u);
    clock_ms += 1;
    EXPECT_EQ(purge(500, SIZE_MAX), 5u);
    clock_ms += 99;
    EXPECT_EQ(purge(500, SIZE_MAX), 0u);
    // A SuperSlab counts from its last release.
    page_arena_release(high + 6, 1, true);
    clock_ms += 499;
    EXPECT_EQ(purge(500, SIZE_MAX), 0u);
    clock_ms += 1;
    EXPECT_EQ(purge(500, SIZE_MAX), 7u);
    page_arena_release(low + 5, ARENA_SUPERSLAB_SLABS - 5, false);
    page_arena_release(high + 7, ARENA_SUPERSLAB_SLABS - 7, false);
}

// A slab that its last holder did not write to may be dirty from before. It waits as long as
// others.
TEST_F(PageArena, ACleanReleaseOfDirtySlabsCountsAsFreedNow) {
    size_t run = claim(8);
    page_arena_release(run, 8, true);
    clock_ms += 400;
    ASSERT_EQ(claim(8), run);
    page_arena_release(run + 3, 5, false);
    page_arena_release(run, 3, false);
    clock_ms += 499;
    EXPECT_EQ(purge(500, SIZE_MAX), 0u);
    clock_ms += 1;
    EXPECT_EQ(purge(500, SIZE_MAX), 8u);
}

// Each release of a slab gives back pages of others if there are more dirty slabs than allowed.
TEST_F(PageArena, ReleasesGiveBackWhatIsAboveTheCeiling) {
    constexpr size_t kSlabs = 4000;
    constexpr size_t kLeast = 16;         // DIRTY_CEILING_LEAST of the production build
    constexpr size_t kLeft = kLeast + 64; // and twice _STEP
    settings_values[SETTING_DECAY_MS] = 1000;
    clock_ms += 100000;
    auto release = [&](size_t run) {
        for (size_t i = 0; i < kSlabs; i++) {
            page_arena_release(run + i, 1, true);
        }
    };
    size_t run = claim(kSlabs);
    release(run);
    EXPECT_LE(stats().dirty_slabs, kLeft);
    EXPECT_GE(stats().dirty_slabs, kLeast);
    // The lowest ones, which the next claims prefer, are those that stay.
    EXPECT_EQ(claim(kLeast), run);
    EXPECT_FALSE(zero);
    page_arena_release(run, kLeast, true);
    // Claimed again within the period: now it stays.
    for (int phase = 0; phase < 10; phase++) {
        ASSERT_EQ(claim(kSlabs), run);
        clock_ms += 300;
        release(run);
        EXPECT_EQ(stats().dirty_slabs, kSlabs);
    }
    // A kernel that refuses is not asked at each release.
    clock_ms += 100000;
    ASSERT_EQ(claim(kSlabs), run);
    refuse_purge = true;
    clock_ms += 100000;
    purge_calls = 0;
    release(run);
    EXPECT_LE(purge_calls, kSlabs / 32);
    EXPECT_GE(purge_calls, 1u);
    EXPECT_EQ(stats().dirty_slabs, kSlabs);
    refuse_purge = false;
    // If a background thread gives memory back, or if none is to go back, releases give none back.
    for (bool background : {false, true}) {
        settings_values[SETTING_DECAY_MS] = background ? 1000 : -1;
        settings_values[SETTING_BACKGROUND] = background;
        clock_ms += 100000;
        ASSERT_EQ(claim(kSlabs), run);
        clock_ms += 100000;
        release(run);
        EXPECT_EQ(stats().dirty_slabs, kSlabs);
    }
    settings_values[SETTING_BACKGROUND] = 0;
}

TEST_F(PageArena, ALongRunIsShrunk) {
    // Over several groups; what is left ends in the middle of a group, then of a SuperSlab.
    constexpr size_t kSlabs = 3 * ARENA_GROUP_SLABS;
    size_t run = claim(kSlabs);
    address(run)[0] = 1;
    size_t left = kSlabs;
    for (size_t keep : {2 * ARENA_GROUP_SLABS + 17, ARENA_GROUP_SLABS + 1, 5, 1}) {
        page_arena_release(run + keep, left - keep, true);
        left = keep;
        EXPECT_EQ(stats().held_slabs, left);
        EXPECT_EQ(stats().dirty_slabs, kSlabs - left);
        EXPECT_EQ(dirty_bits(), kSlabs - left);
    }
    EXPECT_EQ(address(run)[0], 1);
    // The tails are one run again.
    EXPECT_EQ(claim(kSlabs - 1), run + 1);
    EXPECT_FALSE(zero);
    EXPECT_EQ(stats().dirty_slabs, 0u);
    page_arena_release(run + 1, kSlabs - 1, false);
    EXPECT_EQ(purge(0, SIZE_MAX), kSlabs - 1);
    ASSERT_TRUE(page_arena_claim_at(run + 1, kSlabs - 1, &zero));
    EXPECT_TRUE(zero);
    page_arena_release(run, kSlabs, true);
}

TEST_F(PageArena, ClaimAt) {
    size_t run = claim(10);
    fill(run, 10, 3);
    page_arena_release(run + 4, 6, true);
    EXPECT_FALSE(page_arena_claim_at(run + 3, 2, &zero)) << "the first one is held";
    EXPECT_EQ(stats().dirty_slabs, 6u);
    EXPECT_TRUE(page_arena_claim_at(run + 4, 2, &zero));
    EXPECT_FALSE(zero);
    EXPECT_TRUE(page_arena_claim_at(run + 8, 1, &zero));
    EXPECT_FALSE(page_arena_claim_at(run + 6, 3, &zero)) << "the last one is held";
    EXPECT_EQ(stats().dirty_slabs, 3u);
    EXPECT_TRUE(page_arena_claim_at(run + 6, 2, &zero));
    page_arena_release(run, 9, true);
}

TEST_F(PageArena, ClaimAtAcrossGroups) {
    // A run that ends in the next group of 64 SuperSlabs.
    size_t run = claim(2 * ARENA_GROUP_SLABS);
    size_t edge = hak_round_up(run + 1, ARENA_GROUP_SLABS);
    fill(edge - 1, 2, 1);
    page_arena_release(run, 2 * ARENA_GROUP_SLABS, true);
    EXPECT_EQ(stats().dirty_slabs, 2u * ARENA_GROUP_SLABS);
    ASSERT_TRUE(page_arena_claim_at(edge, 1, &zero));
    EXPECT_FALSE(page_arena_claim_at(edge - 2, 3, &zero));
    page_arena_release(edge, 1, true);
    ASSERT_TRUE(page_arena_claim_at(edge - 2, 4, &zero));
    EXPECT_EQ(stats().dirty_slabs, 2u * ARENA_GROUP_SLABS - 4);
    page_arena_release(edge - 2, 4, true);
}

TEST_F(PageArena, MoveTakesThePagesAlong) {
    size_t from = claim(20);
    size_t to = claim(20);
    fill(from, 20, 9);
    fill(to, 20, 1);
    uint64_t moved = stats().moved_slabs;
    ASSERT_TRUE(page_arena_move(from, to, 20));
    EXPECT_EQ(stats().moved_slabs - moved, 20u);
    EXPECT_TRUE(all(to, 20, 9));
    EXPECT_TRUE(all(from, 20, 0));
    page_arena_release(from, 20, false);
    EXPECT_EQ(stats().dirty_slabs, 0u);
    page_arena_release(to, 20, true);
    // Ranges whose mappings can no longer merge are purged, too.
    EXPECT_EQ(purge(0, SIZE_MAX), 20u);
    EXPECT_EQ(claim(40), from);
    EXPECT_TRUE(zero);
    EXPECT_TRUE(all(from, 40, 0));
    page_arena_release(from, 40, false);
}

TEST_F(PageArena, MoveOfARunOfSeveralMappings) {
    // Pages that were moved to the run's first half keep it a mapping of its own.
    size_t first = claim(4);
    size_t run = claim(8);
    size_t to = claim(8);
    fill(first, 4, 1);
    ASSERT_TRUE(page_arena_move(first, run, 4));
    fill(run + 4, 4, 2);
    bool moved = page_arena_move(run, to, 8); // kernels before 6.17 cannot
    EXPECT_TRUE(all(moved ? to : run, 4, 1));
    EXPECT_TRUE(all((moved ? to : run) + 4, 4, 2));
    // Whether the pages have moved or not, both runs are mapped, and can be written.
    fill(run, 8, 3);
    fill(to, 8, 4);
    page_arena_release(first, 4, false);
    page_arena_release(run, 8, true);
    page_arena_release(to, 8, true);
}

size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    return static_cast<size_t>(std::count(std::istreambuf_iterator<char>(maps), {}, '\n'));
}

TEST_F(PageArena, MovedRunsMergeWhenTheyAreFree) {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "the sanitizer has mappings of its own beside these";
#endif
    // Longer than what one step of a purge takes, and across its words.
    constexpr size_t kSlabs = 150;
    constexpr size_t kRuns = 10;
    purge_all();
    std::vector<size_t> runs;
    for (size_t i = 0; i < 3 * kRuns; i++) { // with slabs in between
        runs.push_back(claim(kSlabs));
    }
    size_t before = mappings();
    size_t noted = stats().moved_runs;
    for (size_t i = 0; i < 3 * kRuns; i += 3) {
        fill(runs[i], kSlabs, 1);
        bool moved = page_arena_move(runs[i], runs[i + 1], kSlabs);
        if (i == 0 && !moved) {
            for (size_t run : runs) {
                page_arena_release(run, kSlabs, true);
            }
            GTEST_SKIP() << "a kernel before 6.17 that keeps a run in several mappings";
        }
        ASSERT_TRUE(moved);
    }
    EXPECT_EQ(stats().moved_runs, noted + kRuns);
    EXPECT_GE(mappings(), before + kRuns) << "the kernel keeps them apart";
    // When the pages move on, the mappings at the old places merge.
    for (size_t i = 0; i < 3 * kRuns; i += 3) {
        ASSERT_TRUE(page_arena_move(runs[i + 1], runs[i], kSlabs));
        EXPECT_TRUE(all(runs[i], kSlabs, 1));
        EXPECT_TRUE(all(runs[i + 1], kSlabs, 0));
    }
    EXPECT_EQ(stats().moved_runs, noted + kRuns);
    EXPECT_LE(mappings(), before + 2 * kRuns + 2);
    // A part that is purged leaves a run as it is.
    page_arena_release(runs[0], 64, true);
    EXPECT_EQ(purge(0, SIZE_MAX), 64u);
    EXPECT_EQ(stats().moved_runs, noted + kRuns);
    EXPECT_LE(mappings(), before + 2 * kRuns + 2);
    ASSERT_TRUE(page_arena_claim_at(runs[0], 64, &zero));
    EXPECT_TRUE(all(runs[0], 64, 0));
    for (size_t run : runs) {
        page_arena_release(run, kSlabs, true);
    }
    purge(0, SIZE_MAX);
    EXPECT_EQ(stats().moved_runs, 0u);
    EXPECT_LE(mappings(), before + 2);
}

TEST_F(PageArena, NoMoreRunsAreMovedThanMayBe) {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "the sanitizer has mappings of its own beside these";
#endif
    constexpr size_t kMost = 1000; // more than may be noted
    size_t from = claim(2);
    size_t first = claim(3 * kMost);
    size_t before = mappings();
    size_t done = 0;
    fill(from, 2, 1);
    while (done < kMost && page_arena_move(from, first + 3 * done, 2)) {
        fill(from, 2, 1);
        done++;
    }
    EXPECT_GT(done, 500u);
    EXPECT_LT(done, kMost);
    EXPECT_TRUE(all(from, 2, 1)) << "a move that is refused changes nothing";
    EXPECT_LE(mappings(), before + 2 * done + 2);
    // Free runs make room for others, with pages or without.
    page_arena_release(first, 3 * done / 2, true);
    size_t again = 0;
    size_t settled = 0; // in one of these calls
    size_t before_call = refreshes;
    for (size_t i = done; i < kMost && page_arena_move(from, first + 3 * i, 2); i++) {
        settled = std::max(settled, refreshes - before_call);
        fill(from, 2, 1);
        again++;
        before_call = refreshes;
    }
    EXPECT_EQ(again, kMost - done);
    EXPECT_LE(settled, 1u) << "a call does not pay for others";
    EXPECT_LE(mappings(), before + 2 * done + 2);
    page_arena_release(first + 3 * done / 2, 3 * kMost - 3 * done / 2, true);
    page_arena_release(from, 2, true);
    purge(0, SIZE_MAX);
    EXPECT_EQ(stats().moved_runs, 0u);
    EXPECT_EQ(page_arena_dirty(), 0u);
    EXPECT_LE(mappings(), before + 2);
}

TEST_F(PageArena, AStepOfAPurgeSettlesAFewRuns) {
    constexpr size_t kRuns = 500;
    size_t from = claim(2);
    size_t first = claim(3 * kRuns);
    for (size_t i = 0; i < kRuns; i++) {
        fill(from, 2, 1);
        ASSERT_TRUE(page_arena_move(from, first + 3 * i, 2));
    }
    page_arena_release(first, 3 * kRuns, true);
    page_arena_release(from, 2, true);
    constexpr size_t kLooks = 1024;
    size_t cursor = 0;
    size_t most = 0;
    do {
        size_t before = refreshes;
        page_arena_purge(&cursor, 0, SIZE_MAX, kLooks);
        most = std::max(most, refreshes - before);
    } while (cursor != 0);
    EXPECT_LE(most, kLooks / ARENA_PURGE_CALL + 1);
    EXPECT_EQ(stats().moved_runs, 0u);
}

TEST_F(PageArena, MoveThatTheKernelRefusesChangesNothing) {
    size_t from = claim(2);
    size_t to = claim(2);
    fill(from, 2, 1);
    refuse_move = true;
    uint64_t moved = stats().moved_slabs;
    EXPECT_FALSE(page_arena_move(from, to, 2));
    EXPECT_EQ(stats().moved_slabs, moved);
    EXPECT_TRUE(all(from, 2, 1));
    page_arena_release(from, 2, true);
    page_arena_release(to, 2, false);
}

TEST_F(PageArena, RefusalByTheKernelLeavesTheHeapUsable) {
    for (bool *refuse : {&refuse_map}) {
        size_t slabs = more_than(stats().reserved_bytes);
        size_t held = claim(3);
        page_arena_release(claim(1), 1, false);
        *refuse = true;
        EXPECT_EQ(page_arena_claim(slabs, 1, &zero), ARENA_NONE);
        EXPECT_EQ(page_arena_claim(slabs, 1, &zero), ARENA_NONE);
        EXPECT_EQ(stats().held_slabs, 3u);
        EXPECT_EQ(stats().dirty_slabs, 0u);
        size_t small = claim(1);
        *refuse = false;
        size_t from = claim(slabs);
        EXPECT_TRUE(zero);
        address(from)[0] = address(from + slabs)[-1] = 1;
        page_arena_release(from, slabs, true);
        page_arena_release(small, 1, false);
        page_arena_release(held, 3, false);
        purge_all();
    }
}

TEST_F(PageArena, AClaimAtGrowsTheHeapOrReturnsWhatItTook) {
    // A run that ends with the heap.
    size_t slabs = more_than(stats().reserved_bytes);
    size_t run = claim(slabs);
    for (size_t more : {size_t{1}, size_t{1000}, size_t{3}, size_t{ARENA_GROUP_SLABS}}) {
        size_t before = stats().held_slabs;
        refuse_map = true;
        EXPECT_FALSE(page_arena_claim_at(run + slabs, 2 * ARENA_SUPERSLAB_SLABS, &zero));
        EXPECT_EQ(stats().held_slabs, before);
        refuse_map = false;
        ASSERT_TRUE(page_arena_claim_at(run + slabs, more, &zero)) << more;
        EXPECT_TRUE(zero);
        address(run + slabs)[0] = address(run + slabs + more)[-1] = 1;
        slabs += more;
    }
    // That fails if a mapping of others is in the way, or if the slabs are apart from the heap.
    char *page = map_page_of_another(address(run + slabs + 3 * ARENA_SUPERSLAB_SLABS));
    EXPECT_FALSE(page_arena_claim_at(run + slabs, 4 * ARENA_SUPERSLAB_SLABS, &zero));
    EXPECT_EQ(std::count(page, page + HAK_PAGE, 0x77), HAK_PAGE);
    EXPECT_FALSE(page_arena_claim_at(page_arena_high() + 64, 1, &zero));
    EXPECT_EQ(stats().held_slabs, slabs);
    munmap(page, HAK_PAGE);
    page_arena_release(run, slabs, true);
}

TEST_F(PageArena, WhatOthersHaveMappedIsSkipped) {
    // One page is 32 MiB behind the heap, another one in the metadata of slabs 32 MiB further on.
    constexpr size_t kApart = 32 << 20;
    char *in_heap = address(page_arena_high()) + kApart;
    size_t meta = (page_arena_high() + (2 * kApart >> ARENA_SLAB_SHIFT)) / ARENA_SUPERSLAB_SLABS;
    char *in_meta = window.meta + meta * ARENA_SUPERSLAB_META;
    map_page_of_another(in_heap);
    map_page_of_another(in_meta);
    size_t slabs = more_than(stats().reserved_bytes);
    size_t from = claim(slabs);
    ASSERT_NE(from, ARENA_NONE);
    EXPECT_GT(address(from), in_heap);
    fill(from, slabs > 2048 ? 2048 : slabs, 1);
    EXPECT_TRUE(all(from, 1, 1));
    for (char *at : {in_heap, in_meta}) {
        EXPECT_EQ(std::count(at, at + HAK_PAGE, 0x77), HAK_PAGE);
        munmap(at, HAK_PAGE);
    }
    page_arena_release(from, slabs, true);
}

TEST_F(PageArena, PurgeIsAWalkInSteps) {
    // 5 words of 64 slabs, all dirty: the cursor stops in the word where the budget ends.
    size_t run = claim(5 * 64, 64 * ARENA_SLAB);
    page_arena_release(run, 5 * 64, true);
    size_t cursor = 0;
    size_t sum = 0;
    size_t last = 0;
    for (int step = 1; step <= 3; step++) {
        sum += page_arena_purge(&cursor, 0, 100, SIZE_MAX).slabs;
        EXPECT_EQ(sum, step * 100u);
        EXPECT_GE(cursor, last);
        EXPECT_NE(cursor, 0u);
        last = cursor;
    }
    EXPECT_EQ(page_arena_purge(&cursor, 0, 100, SIZE_MAX).slabs, 20u);
    EXPECT_EQ(cursor, 0u) << "the walk is through";
}

TEST_F(PageArena, MetadataOfSuperSlabsOutOfUseGoesBack) {
    size_t run = claim(2 * ARENA_SUPERSLAB_SLABS, ARENA_SUPERSLAB);
    char *meta = window.meta + run / ARENA_SUPERSLAB_SLABS * ARENA_SUPERSLAB_META;
    memset(meta, 1, 2 * ARENA_SUPERSLAB_META);
    page_arena_release(run, 2 * ARENA_SUPERSLAB_SLABS - 1, true);
    purge_all();
    EXPECT_EQ(std::count(meta, meta + ARENA_SUPERSLAB_META, 0), ARENA_SUPERSLAB_META);
    EXPECT_EQ(std::count(meta + ARENA_SUPERSLAB_META, meta + 2 * ARENA_SUPERSLAB_META, 1),
              ARENA_SUPERSLAB_META)
        << "one of its slabs is in use";
    unsigned char pages[ARENA_SUPERSLAB_META / HAK_PAGE];
    ASSERT_EQ(mincore(meta + ARENA_SUPERSLAB_META, ARENA_SUPERSLAB_META, pages), 0);
    EXPECT_EQ(pages[0] & 1, 1);
    page_arena_release(run + 2 * ARENA_SUPERSLAB_SLABS - 1, 1, false);
    purge_all();
    ASSERT_EQ(mincore(meta + ARENA_SUPERSLAB_META, ARENA_SUPERSLAB_META, pages), 0);
    EXPECT_EQ(pages[0] & 1, 0);
}

TEST_F(PageArena, LimitCountsWhatIsHeldAndDirty) {
    settings_values[SETTING_LIMIT] = 100 * int64_t{ARENA_SLAB} + 17;
    EXPECT_EQ(page_arena_claim(101, 1, &zero), ARENA_NONE);
    EXPECT_EQ(page_arena_claim(SIZE_MAX, 1, &zero), ARENA_NONE);
    size_t run = claim(100);
    EXPECT_EQ(page_arena_claim(1, 1, &zero), ARENA_NONE);
    EXPECT_FALSE(page_arena_claim_at(run + 100, 1, &zero));
    page_arena_release(run + 50, 50, true);
    // Dirty slabs make room for held ones where they do not serve the claim themselves.
    size_t high = claim(40, 64 * ARENA_SLAB);
    page_arena_stats now = stats();
    EXPECT_EQ(now.held_slabs, 90u);
    EXPECT_LE(now.held_slabs + now.dirty_slabs, 100u);
    size_t more = claim(10);
    EXPECT_EQ(page_arena_claim(1, 1, &zero), ARENA_NONE);
    page_arena_release(more, 10, true);
    page_arena_release(high, 40, true);
    page_arena_release(run, 50, true);
}

TEST_F(PageArena, WhatIsTooShortIsPassedByWithoutALook) {
    // Three groups, of which every other slab is free, between a run that is held and one that
    // fits.
    constexpr size_t kSlabs = 5 * ARENA_GROUP_SLABS;
    size_t run = claim(kSlabs);
    std::vector<size_t> below; // what earlier tests have left
    do {
        below.push_back(claim(1));
    } while (below.back() < run);
    size_t first = hak_round_up(run, ARENA_GROUP_SLABS);
    for (size_t i = 0; i < 3 * ARENA_GROUP_SLABS; i += 2) {
        page_arena_release(first + i, 1, true);
    }
    size_t fits = claim(2);
    EXPECT_GE(fits, first + 3 * ARENA_GROUP_SLABS);
    for (size_t i = 0; i < 3; i++) {
        for (bool dirty : {false, true}) {
            Runs known = group_summary(first + i * ARENA_GROUP_SLABS, dirty);
            EXPECT_EQ(known.longest, 1u) << i << dirty;
            EXPECT_EQ(known.first, 1u) << i << dirty;
            EXPECT_EQ(known.last, 0u) << i << dirty;
        }
    }
    // A release in the middle one is seen at once, and so is the run that it makes.
    page_arena_release(first + ARENA_GROUP_SLABS + 7, 1, true);
    EXPECT_EQ(claim(3), first + ARENA_GROUP_SLABS + 6);
    EXPECT_EQ(claim(1), first);
    page_arena_release(first, 1, true);
    page_arena_release(fits, 2, false);
    page_arena_release(first + ARENA_GROUP_SLABS + 6, 3, true);
    for (size_t i = 1; i < 3 * ARENA_GROUP_SLABS; i += 2) {
        if (i != ARENA_GROUP_SLABS + 7) {
            page_arena_release(first + i, 1, true);
        }
    }
    for (size_t slab : below) {
        page_arena_release(slab, 1, false);
    }
    page_arena_release(run, first - run, true);
    page_arena_release(first + 3 * ARENA_GROUP_SLABS, run + kSlabs - first - 3 * ARENA_GROUP_SLABS,
                       true);
}

TEST_F(PageArena, AStepOfAPurgeIsBounded) {
    // Slabs that are held have metadata that must not be given back.
    constexpr size_t kSlabs = 8 * ARENA_GROUP_SLABS;
    size_t run = claim(kSlabs);
    for (size_t i = 1; i < kSlabs; i += 64) {
        page_arena_release(run + i, 1, true);
    }
    for (size_t looks : {1, 100, 5000}) {
        size_t cursor = 0;
        size_t steps = 0;
        clock_ms += 1;
        do {
            page_arena_purged done = page_arena_purge(&cursor, 100, SIZE_MAX, looks);
            EXPECT_LT(done.looks, looks + 2000);
            EXPECT_EQ(done.slabs, 0u);
            steps++;
        } while (cursor != 0);
        EXPECT_GE(steps, 8 * 32 / looks);
    }
    // A system call is work, too.
    clock_ms += 1000;
    size_t cursor = 0;
    size_t sum = 0;
    size_t before = purge_calls + refreshes;
    do {
        page_arena_purged done = page_arena_purge(&cursor, 100, SIZE_MAX, 2 * ARENA_PURGE_CALL);
        EXPECT_LE(done.slabs, 3u);
        sum += done.slabs;
    } while (cursor != 0);
    EXPECT_EQ(sum, kSlabs / 64);
    EXPECT_EQ(purge_calls + refreshes - before, kSlabs / 64);
    for (size_t i = 0; i < kSlabs; i += 64) {
        page_arena_release(run + i, 1, false);
        page_arena_release(run + i + 2, 62, false);
    }
}

TEST_F(PageArena, AStepOfAPurgeEndsWhereTheKernelRefuses) {
    size_t run = claim(3 * 64, 64 * ARENA_SLAB);
    fill(run, 3 * 64, 5);
    page_arena_release(run, 3 * 64, true);
    refuse_purge = true;
    size_t cursor = 0;
    size_t before = purge_calls;
    page_arena_purged done = page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
    EXPECT_TRUE(done.failed);
    EXPECT_EQ(done.slabs, 0u);
    EXPECT_EQ(purge_calls - before, 1u);
    EXPECT_EQ(page_arena_purge_highest(1000), 0u);
    EXPECT_EQ(purge_calls - before, 2u);
    refuse_purge = false;
    // The next walk goes on behind the place, the one after that takes it.
    done = page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
    size_t in_first_word = hak_round_up(run + 1, 64) - run;
    EXPECT_EQ(done.slabs, 3 * 64 - in_first_word);
    EXPECT_FALSE(done.failed);
    EXPECT_EQ(cursor, 0u);
    EXPECT_EQ(purge(0, SIZE_MAX), in_first_word);
}

TEST_F(PageArena, AReleaseNewerThanTheClockIsYoung) {
    size_t run = claim(4);
    clock_ms += 10;
    page_arena_release(run, 4, true);
    clock_ms -= 10; // a purge that looked at the clock before
    EXPECT_EQ(purge(500, SIZE_MAX), 0u);
    EXPECT_EQ(purge(1, SIZE_MAX), 0u);
    clock_ms += 509;
    EXPECT_EQ(purge(500, SIZE_MAX), 0u);
    clock_ms += 1;
    EXPECT_EQ(purge(500, SIZE_MAX), 4u);
    // The same where the clock's 32 bits start again.
    uint64_t was = clock_ms;
    clock_ms = (uint64_t{1} << 32) - 100;
    ASSERT_EQ(claim(4), run);
    page_arena_release(run, 4, true);
    clock_ms += 499;
    EXPECT_EQ(purge(500, SIZE_MAX), 0u);
    clock_ms += 1;
    EXPECT_EQ(purge(500, SIZE_MAX), 4u);
    clock_ms = was;
}

TEST_F(PageArena, TheHighestDirtySlabsGoFirst) {
    size_t low = claim(100);
    size_t high = claim(3 * ARENA_GROUP_SLABS);
    size_t end = high + 3 * ARENA_GROUP_SLABS;
    page_arena_release(low, 100, true);
    page_arena_release(high, 3 * ARENA_GROUP_SLABS, true);
    auto is_dirty = [&](size_t slab) {
        return atomic_bitmap_test(window.groups[slab / ARENA_GROUP_SLABS].dirty,
                                  slab % ARENA_GROUP_SLABS);
    };
    size_t left = 3 * ARENA_GROUP_SLABS;
    for (size_t most : {size_t{1}, size_t{5}, size_t{64}, size_t{1000}}) {
        EXPECT_EQ(page_arena_purge_highest(most), most);
        left -= most;
        EXPECT_EQ(page_arena_dirty(), 100 + left);
        EXPECT_TRUE(is_dirty(high + left - 1));
        EXPECT_FALSE(is_dirty(high + left));
    }
    ASSERT_TRUE(page_arena_claim_at(end - 64, 64, &zero));
    EXPECT_TRUE(zero);
    while (page_arena_purge_highest(777) != 0) {
    }
    EXPECT_EQ(page_arena_dirty(), 0u);
    EXPECT_EQ(page_arena_purge_highest(1), 0u);
    for (size_t group = low / ARENA_GROUP_SLABS; group < end / ARENA_GROUP_SLABS; group++) {
        EXPECT_EQ(group_summary(group * ARENA_GROUP_SLABS, true).longest, 0u);
    }
    page_arena_release(end - 64, 64, false);
}

TEST_F(PageArena, ARefusedClaimDoesNotGrowTheHeap) {
    refuse_map = true;
    size_t slabs = more_than(stats().reserved_bytes);
    size_t after = 0;
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(page_arena_claim(slabs, 1, &zero), ARENA_NONE);
        EXPECT_EQ(page_arena_claim(window.slabs + 1, 1, &zero), ARENA_NONE);
        after = i == 0 ? stats().reserved_bytes : after;
    }
    EXPECT_EQ(stats().reserved_bytes, after);
}

// A request that does not fit never makes another one fail that does.
TEST_F(PageArena, UnderALimitATooLargeRequestFailsNoOther) {
    settings_values[SETTING_LIMIT] = 100 * int64_t{ARENA_SLAB};
    size_t held = claim(40);
    std::atomic<bool> stop{false};
    std::thread greedy([&] {
        bool ignored;
        while (!stop) {
            EXPECT_EQ(page_arena_claim(61, 1, &ignored), ARENA_NONE);
        }
    });
    for (int i = 0; i < 20000; i++) {
        size_t from = page_arena_claim(60, 1, &zero);
        ASSERT_NE(from, ARENA_NONE);
        page_arena_release(from, 60, false);
    }
    stop = true;
    greedy.join();
    page_arena_release(held, 40, false);
}

TEST_F(PageArena, WhatTheKernelLosesIsMappedBeforeItIsUsed) {
    size_t from = claim(40);
    size_t to = claim(40);
    unsigned char resident;
    auto is_mapped = [&](size_t slab) { return mincore(address(slab), 1, &resident) == 0; };
    // By a purge, and by a holder that discards.
    for (bool discard : {false, true}) {
        fill(from, 40, 9);
        ASSERT_TRUE(
            page_arena_move(from, to, 40)); // a mapping of its own, until it is mapped afresh
        lose_refresh = refuse_map = true;
        fill(to, 40, 7);
        if (discard) {
            page_arena_discard(to, 40);
        } else {
            page_arena_release(to, 40, true);
            EXPECT_EQ(purge(0, SIZE_MAX), 40u);
        }
        lose_refresh = false;
        EXPECT_EQ(page_arena_dirty(), 0u);
        EXPECT_FALSE(is_mapped(to));
        EXPECT_FALSE(is_mapped(to + 39));
        EXPECT_FALSE(page_arena_claim_at(to, 1, &zero));
        EXPECT_FALSE(page_arena_claim_at(to, 40, &zero));
        refuse_map = false;
        EXPECT_FALSE(is_mapped(to));
        // A part of it, and then the rest of its SuperSlab, which is mapped in part.
        ASSERT_TRUE(page_arena_claim_at(to + 3, 2, &zero));
        EXPECT_TRUE(zero);
        fill(to + 3, 2, 1);
        EXPECT_FALSE(is_mapped(to));
        page_arena_release(to + 3, 2, true);
        ASSERT_TRUE(page_arena_claim_at(to, 40, &zero));
        EXPECT_FALSE(zero);
        EXPECT_TRUE(all(to, 3, 0));
        EXPECT_TRUE(all(to + 3, 2, 1));
        EXPECT_TRUE(all(to + 5, 35, 0));
        fill(to, 40, 2);
    }
    page_arena_release(from, 40, false);
    page_arena_discard(to, 40);
    EXPECT_EQ(page_arena_dirty(), 0u);
    ASSERT_TRUE(page_arena_claim_at(to, 40, &zero));
    EXPECT_TRUE(zero);
    EXPECT_TRUE(all(to, 40, 0));
    page_arena_release(to, 40, false);
    // A SuperSlab that is free as a whole is mapped by the purge, and no longer marked.
    purge_all();
    for (size_t slab : {from, to, to + 39}) {
        size_t index = slab / ARENA_SUPERSLAB_SLABS;
        EXPECT_FALSE(atomic_bitmap_test(&window.groups[index / 64].lost, index % 64)) << slab;
    }
}

TEST_F(PageArena, WhereAddressesAreLimitedFreeSlabsAreUnmapped) {
    constexpr size_t kSlabs = 200;
    unsigned char resident;
    auto is_mapped = [&](size_t slab) { return mincore(address(slab), 1, &resident) == 0; };
    address_limit = size_t{256} << 20;
    purge_all(); // which looks at the limit, as growth does
    size_t from = claim(kSlabs);
    size_t wall = claim(1);
    fill(from, kSlabs, 7);
    // By a holder that discards, and by a purge.
    for (bool discard : {true, false}) {
        const size_t committed = stats().committed_bytes;
        discard ? page_arena_discard(from, kSlabs) : page_arena_release(from, kSlabs, true);
        EXPECT_EQ(purge(0, SIZE_MAX), discard ? 0 : kSlabs);
        EXPECT_LE(stats().committed_bytes, committed - kSlabs * ARENA_SLAB);
        for (size_t i = 0; i < kSlabs; i++) {
            EXPECT_FALSE(is_mapped(from + i)) << i;
        }
        // What is claimed is mapped, and no more.
        ASSERT_TRUE(page_arena_claim_at(from + 3, 70, &zero));
        EXPECT_TRUE(zero);
        EXPECT_TRUE(all(from + 3, 70, 0));
        EXPECT_FALSE(is_mapped(from + 2));
        EXPECT_FALSE(is_mapped(from + 73));
        fill(from + 3, 70, 1);
        // If the kernel will, else it is refused, and nothing is lost.
        refuse_map = true;
        EXPECT_FALSE(page_arena_claim_at(from + 73, 10, &zero));
        refuse_map = false;
        ASSERT_TRUE(page_arena_claim_at(from + 73, kSlabs - 73, &zero));
        ASSERT_TRUE(page_arena_claim_at(from, 3, &zero));
        EXPECT_TRUE(zero);
        EXPECT_TRUE(all(from + 3, 70, 1));
        fill(from, kSlabs, 7);
    }
    // A process that has as many mappings as it may have gives back the pages only.
    refuse_unmap = true;
    page_arena_release(from, kSlabs, true);
    EXPECT_EQ(purge(0, SIZE_MAX), kSlabs);
    EXPECT_TRUE(is_mapped(from + kSlabs / 2));
    refuse_unmap = false;
    // So does a process whose limit was lowered to less than it holds.
    ASSERT_TRUE(page_arena_claim_at(from, kSlabs, &zero));
    fill(from, kSlabs, 7);
    address_limit = size_t{1} << 20;
    page_arena_release(from, kSlabs, true);
    EXPECT_EQ(purge(0, SIZE_MAX), kSlabs);
    EXPECT_TRUE(is_mapped(from + kSlabs / 2));
    // Runs that are short in proportion to the limit are not unmapped: there may be many.
    ASSERT_TRUE(page_arena_claim_at(from, kSlabs, &zero));
    fill(from, kSlabs, 7);
    address_limit = size_t{4} << 30;
    page_arena_release(from, 15, true);
    page_arena_release(from + 20, 64, true);
    EXPECT_EQ(purge(0, SIZE_MAX), 15 + 64u);
    EXPECT_TRUE(is_mapped(from));
    EXPECT_FALSE(is_mapped(from + 64));
    page_arena_release(from + 15, 5, false);
    page_arena_release(from + 84, kSlabs - 84, false);
    page_arena_release(wall, 1, false);
    // Where there is no limit any more all is mapped again.
    address_limit = SIZE_MAX;
    ASSERT_TRUE(page_arena_claim_at(from, kSlabs, &zero));
    EXPECT_TRUE(all(from + 20, 64, 0));
    page_arena_release(from, kSlabs, true);
    purge_all();
    EXPECT_TRUE(is_mapped(from));
    EXPECT_TRUE(is_mapped(from + kSlabs - 1));
}

TEST_F(PageArena, WhatOthersHaveMappedInItsPlaceIsTheirs) {
    address_limit = size_t{256} << 20;
    purge_all(); // which looks at the limit, as growth does
    size_t from = claim(64);
    fill(from, 64, 7);
    page_arena_discard(from, 64);
    auto *theirs =
        static_cast<char *>(mmap(address(from + 10), 2 * HAK_PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    ASSERT_EQ(theirs, address(from + 10));
    memset(theirs, 0x5a, 2 * HAK_PAGE);
    // The claim that fails gives its slabs back, and none of another holder's behind them.
    ASSERT_TRUE(page_arena_claim_at(from + 15, 10, &zero));
    EXPECT_FALSE(page_arena_claim_at(from + 5, 10, &zero));
    EXPECT_FALSE(page_arena_claim_at(from + 15, 1, &zero));
    EXPECT_FALSE(page_arena_claim_at(from + 24, 1, &zero));
    page_arena_release(from + 15, 10, false);
    EXPECT_FALSE(page_arena_claim_at(from, 64, &zero));
    std::vector<size_t> got;
    for (int i = 0; i < 64; i++) {
        got.push_back(claim(1));
        EXPECT_TRUE(zero);
        fill(got.back(), 1, 1);
    }
    EXPECT_TRUE(std::count(got.begin(), got.end(), from + 9) == 1);
    EXPECT_TRUE(std::count(got.begin(), got.end(), from + 11) == 1);
    EXPECT_TRUE(std::count(got.begin(), got.end(), from + 10) == 0);
    EXPECT_EQ(theirs[0] & theirs[2 * HAK_PAGE - 1], 0x5a);
    for (size_t slab : got) {
        page_arena_release(slab, 1, true);
    }
    munmap(theirs, 2 * HAK_PAGE);
}

TEST_F(PageArena, ADiscardThatTheKernelRefusesIsADirtyRelease) {
    size_t run = claim(4);
    fill(run, 4, 5);
    refuse_purge = true;
    page_arena_discard(run, 4);
    EXPECT_EQ(page_arena_dirty(), 4u);
    refuse_purge = false;
    ASSERT_EQ(claim(4), run);
    EXPECT_TRUE(all(run, 4, 5));
    page_arena_discard(run, 4);
    EXPECT_EQ(page_arena_dirty(), 0u);
}

// The rights of a page, as /proc/self/maps has them; "" if it is not mapped.
std::string rights(const void *at) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        unsigned long from, to;
        char text[5];
        if (sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, text) == 3 &&
            reinterpret_cast<uintptr_t>(at) >= from && reinterpret_cast<uintptr_t>(at) < to) {
            return text;
        }
    }
    return "";
}

TEST(PageArenaDeathTest, WhereWritableMemoryIsChargedFreeSuperSlabsAreDecommitted) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        overcommit = '2';
        settings_values[SETTING_DECAY_MS] = -1; // releases give nothing back
        EXPECT_TRUE(page_arena_init());
        page_arena_window window = page_arena_get_window();
        auto committed = [] {
            page_arena_stats s;
            page_arena_get_stats(&s);
            return s.committed_bytes / ARENA_SUPERSLAB;
        };
        auto purge_all = [] {
            size_t cursor = 0;
            do {
                page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
            } while (cursor != 0);
        };
        constexpr size_t kSuperslabs = 10;
        constexpr size_t kSlabs = kSuperslabs * ARENA_SUPERSLAB_SLABS;
        bool zero;
        size_t run = page_arena_claim(kSlabs, ARENA_SUPERSLAB, &zero);
        char *at = static_cast<char *>(page_arena_address(&window, run));
        EXPECT_EQ(committed(), kSuperslabs);
        memset(at, 1, kSlabs * ARENA_SLAB);
        size_t readable;
        char *start = page_arena_readable(&readable);
        EXPECT_EQ(start + readable, at + kSlabs * ARENA_SLAB);
        // All but a slab of the third SuperSlab.
        size_t kept = run + 2 * ARENA_SUPERSLAB_SLABS + 5;
        page_arena_release(run, kept - run, true);
        page_arena_release(kept + 1, run + kSlabs - kept - 1, true);
        EXPECT_EQ(committed(), kSuperslabs) << "it may well be needed again soon";
        purge_all();
        EXPECT_EQ(committed(), 1u);
        EXPECT_EQ(decommits, kSuperslabs - 1);
        EXPECT_EQ(rights(at), "r--p");
        EXPECT_EQ(rights(page_arena_address(&window, kept)), "rw-p");
        purge_all();
        EXPECT_EQ(decommits, kSuperslabs - 1) << "nothing is left to do";
        // All slabs can still be read, as the front gate does.
        size_t later;
        page_arena_readable(&later);
        EXPECT_GE(later, readable);
        int sum = 0;
        for (size_t i = 0; i < readable; i += HAK_PAGE) {
            sum += start[i] != 0;
        }
        EXPECT_EQ(sum, ARENA_SLAB / HAK_PAGE);
        // The slab comes back with rights, and zero.
        EXPECT_EQ(page_arena_claim(2 * ARENA_SUPERSLAB_SLABS, ARENA_SUPERSLAB, &zero), run);
        EXPECT_TRUE(zero);
        EXPECT_EQ(committed(), 3u);
        at[0] = at[2 * ARENA_SUPERSLAB - 1] = 1;
        // Where the kernel refuses, or loses it.
        refuse_decommit = true;
        page_arena_release(run, 2 * ARENA_SUPERSLAB_SLABS, true);
        purge_all();
        EXPECT_EQ(committed(), 3u);
        EXPECT_EQ(rights(at), "rw-p");
        refuse_decommit = false;
        lose_decommit = true;
        purge_all();
        EXPECT_EQ(committed(), 1u);
        EXPECT_EQ(rights(at), "");
        lose_decommit = false;
        refuse_map = true;
        EXPECT_FALSE(page_arena_claim_at(run, 1, &zero));
        refuse_map = false;
        EXPECT_TRUE(page_arena_claim_at(run, 2 * ARENA_SUPERSLAB_SLABS, &zero));
        EXPECT_TRUE(zero);
        at[0] = at[2 * ARENA_SUPERSLAB - 1] = 1;
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

// In a sandbox only a mapping that replaces the old one can give rights. Threads that claim slabs
// of one SuperSlab do not lose what they have written, and SuperSlabs are not decommitted any more.
TEST(PageArenaDeathTest, InASandboxDecommittedSuperSlabsAreCommittedOnce) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        overcommit = '2';
        EXPECT_TRUE(page_arena_init());
        page_arena_window window = page_arena_get_window();
        auto purge_all = [] {
            size_t cursor = 0;
            do {
                page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
            } while (cursor != 0);
        };
        constexpr size_t kSlabs = 100 * ARENA_SUPERSLAB_SLABS;
        bool zero;
        size_t run = page_arena_claim(kSlabs, ARENA_SUPERSLAB, &zero);
        memset(page_arena_address(&window, run), 1, kSlabs * ARENA_SLAB);
        page_arena_release(run, kSlabs, true);
        purge_all();
        EXPECT_GE(decommits, 100u);
        os_start(OS_SANDBOXED);
        late_commit = true;
        std::atomic<int> faults{0}, refused{0};
        std::atomic<size_t> claimed{0};
        std::vector<std::thread> threads;
        for (int t = 1; t <= 4; t++) {
            threads.emplace_back([&, t] {
                std::vector<size_t> mine;
                while (claimed < kSlabs / 2) {
                    bool is_zero;
                    size_t slab = page_arena_claim(1, ARENA_SLAB, &is_zero);
                    if (slab == ARENA_NONE) {
                        refused++;
                        continue;
                    }
                    auto *at = static_cast<char *>(page_arena_address(&window, slab));
                    faults += is_zero && at[0] + at[ARENA_SLAB - 1] != 0;
                    at[0] = at[ARENA_SLAB - 1] = static_cast<char>(t);
                    mine.push_back(slab);
                    claimed++;
                }
                for (size_t slab : mine) {
                    auto *at = static_cast<char *>(page_arena_address(&window, slab));
                    faults += at[0] != t || at[ARENA_SLAB - 1] != t;
                    page_arena_release(slab, 1, true);
                }
            });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
        EXPECT_EQ(faults, 0);
        EXPECT_EQ(refused, 0) << "while another thread was at it";
        size_t before = decommits;
        purge_all();
        EXPECT_EQ(decommits, before);
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

// If the kernel loses SuperSlabs when it takes their rights, their slabs can be claimed one by one,
// and again after other slabs of the SuperSlab have been.
TEST(PageArenaDeathTest, SlabsLostWithTheirRightsAreMappedAgain) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [](bool sandboxed) {
        overcommit = '2';
        EXPECT_TRUE(page_arena_init());
        page_arena_window window = page_arena_get_window();
        constexpr size_t kSlabs = 4 * ARENA_SUPERSLAB_SLABS;
        bool zero;
        auto fill = [&](size_t slab, size_t slabs) {
            memset(page_arena_address(&window, slab), 1, slabs * ARENA_SLAB);
        };
        size_t run = page_arena_claim(kSlabs, ARENA_SUPERSLAB, &zero);
        fill(run, kSlabs);
        page_arena_release(run, kSlabs, true);
        lose_decommit = true;
        size_t cursor = 0;
        do {
            page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
        } while (cursor != 0);
        lose_decommit = false;
        EXPECT_GE(decommits, 4u);
        if (sandboxed) {
            os_start(OS_SANDBOXED);
        }
        auto *theirs = static_cast<char *>(
            mmap(page_arena_address(&window, run + 12), HAK_PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
        EXPECT_EQ(theirs, page_arena_address(&window, run + 12));
        *theirs = 0x5a;
        for (size_t from = run; from < run + kSlabs; from += ARENA_SUPERSLAB_SLABS) {
            for (size_t at : {5, 2, 20}) {
                EXPECT_TRUE(page_arena_claim_at(from + at, 3, &zero)) << from << " " << at;
                fill(from + at, 3);
            }
        }
        EXPECT_TRUE(page_arena_claim_at(run + 30, 4, &zero)) << "in two SuperSlabs";
        fill(run + 30, 4);
        for (size_t at : {run + 5, run + 2, run + 20, run + 30}) {
            page_arena_release(at, at == run + 30 ? 4 : 3, true);
        }
        EXPECT_EQ(*theirs, 0x5a);
        munmap(theirs, HAK_PAGE);
        EXPECT_TRUE(page_arena_claim_at(run, ARENA_SUPERSLAB_SLABS, &zero));
        fill(run, ARENA_SUPERSLAB_SLABS);
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(false), testing::ExitedWithCode(0), "");
    EXPECT_EXIT(check(true), testing::ExitedWithCode(0), "");
}

// In a sandbox the arena does not lose the content of the first region when it adds others, which
// are on the same page; likewise if the process entered the sandbox without the backend's
// knowledge.
TEST(PageArenaDeathTest, InASandboxRegionsAreAdded) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [](bool seen) {
        EXPECT_TRUE(page_arena_init());
        bool zero;
        size_t run = page_arena_claim(4, ARENA_SLAB, &zero);
        page_arena_release(run + 1, 2, true);
        if (seen) {
            os_start(OS_SANDBOXED);
        } else {
            only_alone = true;
        }
        size_t big[5];
        for (size_t &other : big) {
            other = page_arena_claim(ARENA_REGION_SLABS * 3 / 4, ARENA_SLAB, &zero);
            EXPECT_NE(other, ARENA_NONE);
        }
        EXPECT_GE(big[4], 3 * ARENA_REGION_SLABS);
        EXPECT_EQ(page_arena_claim(2, ARENA_SLAB, &zero), run + 1);
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(true), testing::ExitedWithCode(0), "");
    EXPECT_EXIT(check(false), testing::ExitedWithCode(0), "");
}

// No claim fails while another thread adds regions, whether the sandbox was there from the start or
// was entered later.
TEST(PageArenaDeathTest, InASandboxNoClaimIsRefusedWhileRegionsAreAdded) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [](bool later) {
        if (later) {
            EXPECT_TRUE(page_arena_init());
        }
        os_start(OS_SANDBOXED);
        EXPECT_TRUE(page_arena_init());
        late_commit = true;
        std::atomic<int> refused{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; t++) {
            threads.emplace_back([&refused] {
                for (int i = 0; i < 3; i++) {
                    bool zero;
                    size_t slabs = ARENA_REGION_SLABS * 3 / 4;
                    refused += page_arena_claim(slabs, ARENA_SLAB, &zero) == ARENA_NONE;
                }
            });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
        EXPECT_EQ(refused, 0);
        _exit(testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(check(false), testing::ExitedWithCode(0), "");
    EXPECT_EXIT(check(true), testing::ExitedWithCode(0), "");
}

// The arena against the plainest model of it: two flags a slab.
TEST_F(PageArena, FirstFitAgainstAModel) {
    std::mt19937_64 random(3);
    std::vector<bool> free_slabs;
    std::vector<bool> dirty;
    auto synchronise = [&] {
        free_slabs.assign(page_arena_high(), false);
        dirty.assign(page_arena_high(), false);
        for (size_t i = 0; i < page_arena_high(); i++) {
            page_arena_group &group = window.groups[i / ARENA_GROUP_SLABS];
            free_slabs[i] = atomic_bitmap_test(group.avail, i % ARENA_GROUP_SLABS);
            dirty[i] = atomic_bitmap_test(group.dirty, i % ARENA_GROUP_SLABS);
        }
    };
    size_t top = 0; // nothing from here on has been claimed: all free and clean
    auto find = [&](size_t slabs, size_t align, bool only_dirty) {
        size_t length = 0;
        for (size_t i = 0; i < (only_dirty ? top : free_slabs.size()); i++) {
            if (length == 0 && reinterpret_cast<uintptr_t>(address(i)) % align != 0) {
                continue;
            }
            length = free_slabs[i] && (!only_dirty || dirty[i]) ? length + 1 : 0;
            if (length == slabs) {
                return i + 1 - slabs;
            }
        }
        return size_t{ARENA_NONE};
    };
    synchronise();
    ASSERT_EQ(stats().dirty_slabs, 0u);
    std::vector<Extent> held;
    size_t found = 0;
    for (int round = 0; round < 4000; round++) {
        unsigned what = random() % 16;
        if (what < 8) {
            size_t slabs = 1 + (random() % 4 == 0 ? random() % 150 : random() % 12);
            size_t align = size_t{ARENA_SLAB} << (random() % 3 == 0 ? random() % 8 : 0);
            size_t expected = find(slabs, align, true);
            if (expected == ARENA_NONE) {
                expected = find(slabs, align, false);
            }
            size_t from = claim(slabs, align);
            if (expected == ARENA_NONE) {
                synchronise(); // it has grown
            } else {
                found++;
                ASSERT_EQ(from, expected) << slabs << " " << align;
            }
            top = std::max(top, from + slabs);
            bool clean = true;
            for (size_t i = from; i < from + slabs; i++) {
                clean = clean && !dirty[i];
                free_slabs[i] = false;
            }
            ASSERT_EQ(zero, clean);
            held.push_back({from, slabs});
        } else if (what < 15 && !held.empty()) {
            size_t i = random() % held.size();
            Extent run = held[i];
            held[i] = held.back();
            held.pop_back();
            if (run.slabs > 1 && random() % 3 == 0) { // only its tail
                size_t keep = 1 + random() % (run.slabs - 1);
                held.push_back({run.from, keep});
                run = {run.from + keep, run.slabs - keep};
            }
            bool is_dirty = random() % 2 == 0;
            page_arena_release(run.from, run.slabs, is_dirty);
            for (size_t s = run.from; s < run.from + run.slabs; s++) {
                free_slabs[s] = true;
                dirty[s] = dirty[s] || is_dirty;
            }
        } else if (what == 15) {
            size_t budget = random() % 100;
            ASSERT_LE(purge(0, budget), budget);
            synchronise();
        }
        size_t count = 0;
        for (size_t i = 0; i < top; i++) {
            count += dirty[i] && free_slabs[i];
        }
        ASSERT_EQ(stats().dirty_slabs, count);
    }
    EXPECT_GT(found, 1000u);
    for (Extent run : held) {
        page_arena_release(run.from, run.slabs, true);
    }
}

// Threads claim, extend, move and return runs while others purge. A shadow table and the first word
// of each slab both say who owns the slab. Half of the claims are of slabs that are filled again:
// all pages count as having been in memory.
TEST_F(PageArena, Storm) {
    all_touched = true;
    uint64_t before = stats().refilled_superslabs;
    constexpr int kThreads = 4;
    constexpr int kRounds = 2500;
    constexpr size_t kMost = 1 << 16;
    std::vector<std::atomic<int>> owner(kMost);
    std::atomic<int> faults{0};
    auto word = [&](size_t slab) -> uint64_t & {
        return *reinterpret_cast<uint64_t *>(address(slab));
    };
    auto work = [&](int me) {
        std::mt19937_64 random(static_cast<unsigned>(me));
        std::vector<Extent> held;
        auto own = [&](Extent run, bool is_zero) {
            for (size_t i = run.from; i < run.from + run.slabs; i++) {
                faults += i >= kMost || owner[i].exchange(me) != 0;
                faults += is_zero && word(i) != 0;
                word(i) = i * 64 + static_cast<unsigned>(me);
            }
        };
        auto disown = [&](Extent run) {
            for (size_t i = run.from; i < run.from + run.slabs; i++) {
                faults += word(i) != i * 64 + static_cast<unsigned>(me);
                faults += owner[i].exchange(0) != me;
            }
        };
        for (int round = 0; round < kRounds; round++) {
            bool is_zero = false;
            size_t slabs = 1 + random() % 24;
            unsigned what = random() % 16;
            if (what < 6) {
                size_t align = size_t{ARENA_SLAB} << random() % 5;
                size_t from = random() % 2 == 0 ? page_arena_claim(slabs, align, &is_zero)
                                                : page_arena_claim_again(slabs, align, &is_zero);
                if (from == ARENA_NONE) {
                    faults++;
                    continue;
                }
                if (is_zero && random() % 4 == 0) {
                    EXPECT_TRUE(page_arena_use_sparsely(from, slabs));
                }
                faults += reinterpret_cast<uintptr_t>(address(from)) % align != 0;
                own({from, slabs}, is_zero);
                held.push_back({from, slabs});
            } else if (what < 9 && !held.empty()) {
                Extent &run = held[random() % held.size()];
                if (page_arena_claim_at(run.from + run.slabs, slabs, &is_zero)) {
                    own({run.from + run.slabs, slabs}, is_zero);
                    run.slabs += slabs;
                }
            } else if (what == 9 && !held.empty()) {
                Extent &run = held[random() % held.size()];
                size_t to = page_arena_claim(run.slabs, 1, &is_zero);
                if (to == ARENA_NONE) {
                    faults++;
                    continue;
                }
                own({to, run.slabs}, is_zero);
                if (page_arena_move(run.from, to, run.slabs)) {
                    for (size_t i = 0; i < run.slabs; i++) {
                        faults += word(to + i) != (run.from + i) * 64 + static_cast<unsigned>(me);
                        faults += word(run.from + i) != 0;
                        word(to + i) = (to + i) * 64 + static_cast<unsigned>(me);
                        faults += owner[run.from + i].exchange(0) != me;
                    }
                    page_arena_release(run.from, run.slabs, false);
                    run.from = to;
                } else {
                    disown({to, run.slabs});
                    page_arena_release(to, run.slabs, true);
                }
            } else if (what == 10) {
                purge(0, random() % 200);
            } else if (what == 11) {
                clock_ms++;
                purge(2, SIZE_MAX);
            } else {
                size_t keep = random() % 8;
                while (held.size() > keep) {
                    Extent run = held.back();
                    held.pop_back();
                    disown(run);
                    page_arena_release(run.from, run.slabs, true);
                }
            }
        }
        for (Extent run : held) {
            disown(run);
            page_arena_release(run.from, run.slabs, true);
        }
    };
    std::vector<std::thread> threads;
    for (int i = 1; i <= kThreads; i++) {
        threads.emplace_back(work, i);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    all_touched = false;
    EXPECT_EQ(faults.load(), 0);
    EXPECT_GT(stats().refilled_superslabs, before);
}

// Tests that reserve much come last: other tests walk over all slabs that were ever reserved.

TEST_F(PageArena, WhatIsFilledAgainIsOnHugePages) {
    constexpr size_t kSuperSlabs = 4;
    constexpr size_t kRun = kSuperSlabs * ARENA_SUPERSLAB_SLABS;
    std::vector<Extent> held;
    // A run behind all that was ever in use is claimed, written to, given back in pieces, and
    // claimed once more. Returns the bytes that were advised huge pages then.
    size_t of_eight = 8; // so many slabs of each eight are written to
    auto again = [&](size_t pages, size_t piece, auto second) -> size_t {
        size_t high = page_arena_high();
        size_t from;
        do {
            from = page_arena_claim(kRun, ARENA_SUPERSLAB, &zero);
            held.push_back({from, kRun});
        } while (from != ARENA_NONE && from < high);
        EXPECT_NE(from, ARENA_NONE);
        for (size_t i = 0; i < kRun; i++) {
            for (size_t page = 0; page < pages && i % 8 < of_eight; page++) {
                address(from + i)[page * HAK_PAGE] = 1;
            }
        }
        held.pop_back();
        looks = 0;
        for (size_t at = 0; at < kRun; at += piece) {
            page_arena_discard(from + at, piece);
        }
        advised = 0;
        size_t same = second();
        EXPECT_EQ(same, from);
        EXPECT_TRUE(zero);
        for (size_t i = 0; i < kRun; i++) {
            EXPECT_EQ(address(same + i)[0], 0);
            address(same + i)[0] = 1;
        }
        held.push_back({same, kRun});
        return advised;
    };
    auto maybe = [&] { return page_arena_claim_again(kRun, ARENA_SUPERSLAB, &zero); };
    auto filled = [&] { return page_arena_claim_filled(kRun, ARENA_SUPERSLAB, &zero); };
    auto sparse = [&] { return page_arena_claim(kRun, ARENA_SUPERSLAB, &zero); };
    constexpr size_t kAll = kSuperSlabs * ARENA_SUPERSLAB;
    constexpr size_t kPages = ARENA_SLAB / HAK_PAGE;
    uint64_t before = stats().refilled_superslabs;
    EXPECT_EQ(again(kPages, kRun, maybe), kAll);
    EXPECT_LE(looks, kSuperSlabs * 8) << "each is a system call";
    EXPECT_EQ(again(kPages, 8, maybe), kAll) << "given back in pieces";
    EXPECT_EQ(again(kPages, kRun, filled), kAll);
    EXPECT_EQ(stats().refilled_superslabs, before + 3 * kSuperSlabs);
    EXPECT_EQ(again(kPages, kRun, sparse), 0u);
    EXPECT_EQ(again(kPages / 2, kRun, maybe), 0u) << "it was half filled";
    of_eight = 4;
    EXPECT_LE(again(kPages, kRun, maybe), kAll / 4) << "as blocks whose first halves are used";
    of_eight = 8;
    settings_values[SETTING_THP] = 0;
    EXPECT_EQ(again(kPages, kRun, maybe), 0u) << "switched off";
    settings_values[SETTING_THP] = 2;
    settings_values[SETTING_LIMIT] = INT64_MAX;
    EXPECT_EQ(again(kPages, kRun, maybe), 0u) << "under a limit";
    settings_values[SETTING_LIMIT] = 0;
    for (const Extent &run : held) {
        page_arena_release(run.from, run.slabs, true);
    }
}

TEST_F(PageArena, WhatIsUsedHereAndThereIsNotOnHugePages) {
    all_touched = true;
    constexpr size_t kRun = 2 * ARENA_SUPERSLAB_SLABS;
    size_t run = page_arena_claim(kRun, ARENA_SUPERSLAB, &zero);
    ASSERT_NE(run, ARENA_NONE);
    for (int i = 0; i < 2; i++) { // the first claim forgets what tests before this one have left
        page_arena_discard(run, kRun);
        ASSERT_EQ(page_arena_claim_again(kRun, ARENA_SUPERSLAB, &zero), run);
    }
    auto is_advised = [&](size_t slab) {
        size_t superslab = slab / ARENA_SUPERSLAB_SLABS;
        return (window.groups[superslab / 64].huge.load() >> superslab % 64 & 1) != 0;
    };
    EXPECT_TRUE(is_advised(run));
    size_t second = run + ARENA_SUPERSLAB_SLABS;
    fill(second, 1, 9); // has pages from now on
    page_arena_release(second, ARENA_SUPERSLAB_SLABS, true);
    const size_t before = refreshes;
    page_arena_use_sparsely(run, ARENA_SUPERSLAB_SLABS);
    EXPECT_EQ(refreshes, before + 1);
    EXPECT_FALSE(is_advised(run));
    EXPECT_TRUE(page_arena_claim_at(second, ARENA_SUPERSLAB_SLABS, &zero));
    EXPECT_FALSE(zero);
    page_arena_use_sparsely(second, 2);
    EXPECT_TRUE(is_advised(second)) << "it has pages";
    EXPECT_TRUE(all(second, 1, 9));
    all_touched = false;
    page_arena_release(run, kRun, true);
}

TEST_F(PageArena, WhatIsLostWithTheAdviceIsMappedAgain) {
    all_touched = true;
    constexpr size_t kRun = ARENA_SUPERSLAB_SLABS;
    size_t run = page_arena_claim(kRun, ARENA_SUPERSLAB, &zero);
    ASSERT_NE(run, ARENA_NONE);
    const auto be_advised = [&] {
        for (int i = 0; i < 2; i++) { // the first claim forgets what tests before have left
            page_arena_discard(run, kRun);
            ASSERT_EQ(page_arena_claim_again(kRun, ARENA_SUPERSLAB, &zero), run);
        }
    };
    be_advised();
    lose_refresh = true;
    EXPECT_TRUE(page_arena_use_sparsely(run, kRun));
    lose_refresh = false;
    fill(run, kRun, 7); // all of it is there
    be_advised();
    lose_refresh = refuse_map = true;
    EXPECT_FALSE(page_arena_use_sparsely(run, kRun));
    lose_refresh = refuse_map = false;
    all_touched = false;
    page_arena_release(run, kRun, false);
    ASSERT_EQ(page_arena_claim(kRun, ARENA_SUPERSLAB, &zero), run);
    fill(run, kRun, 8);
    page_arena_release(run, kRun, true);
}

TEST_F(PageArena, ASuperSlabInUseIsNotMadeHuge) {
    all_touched = true;
    std::vector<Extent> below;
    size_t run = ARENA_NONE; // behind all that is free, so that a claim of a part finds it again
    for (size_t high = page_arena_high(); run == ARENA_NONE || run < high;) {
        run = page_arena_claim(ARENA_SUPERSLAB_SLABS, ARENA_SUPERSLAB, &zero);
        ASSERT_NE(run, ARENA_NONE);
        below.push_back({run, ARENA_SUPERSLAB_SLABS});
    }
    below.pop_back();
    for (size_t from = 0; from < run;) {
        from = page_arena_claim(1, 1, &zero);
        below.push_back({from, 1});
    }
    for (bool in_use : {true, false}) {
        size_t used = run + ARENA_SUPERSLAB_SLABS - 1;
        fill(used, 1, 7);
        page_arena_discard(run, ARENA_SUPERSLAB_SLABS - 1);
        if (!in_use) {
            page_arena_discard(used, 1);
        }
        advised = 0;
        ASSERT_EQ(page_arena_claim_again(16, 1, &zero), run);
        EXPECT_EQ(advised, in_use ? 0u : size_t{ARENA_SUPERSLAB});
        EXPECT_TRUE(!in_use || all(used, 1, 7));
        ASSERT_TRUE(page_arena_claim_at(run + 16, in_use ? 15 : 16, &zero));
    }
    all_touched = false;
    below.push_back({run, ARENA_SUPERSLAB_SLABS});
    for (const Extent &extent : below) {
        page_arena_release(extent.from, extent.slabs, true);
    }
}

TEST_F(PageArena, RunsAcrossGroupsAndRegionsAreFound) {
    // Free runs over each kind of border, in a heap whose other slabs are held.
    constexpr size_t kSlabs = 2 * ARENA_REGION_SLABS;
    size_t run = claim(kSlabs);
    size_t region = hak_round_up(run + 1, ARENA_REGION_SLABS);
    std::vector<size_t> below;
    do {
        below.push_back(claim(1));
    } while (below.back() < run);
    for (size_t border : {region, region + ARENA_GROUP_SLABS, region + 3 * ARENA_GROUP_SLABS}) {
        for (size_t gap : {size_t{2}, size_t{70}, size_t{ARENA_GROUP_SLABS} + 100}) {
            for (bool dirty : {false, true}) {
                page_arena_release(border - gap / 2, gap, dirty);
                // Twice: with the summaries as the release left them, and as a search did.
                for (int i = 0; i < 2; i++) {
                    bool ignored;
                    size_t longer = page_arena_claim(gap + 1, 1, &ignored);
                    EXPECT_NE(longer, border - gap / 2);
                    page_arena_release(longer, gap + 1, false);
                    ASSERT_EQ(claim(gap), border - gap / 2) << gap << " " << dirty;
                    if (i == 0) {
                        page_arena_release(border - gap / 2, gap, dirty);
                    }
                }
                ASSERT_TRUE(page_arena_clean(border - gap / 2, gap)); // held again
                check_summaries();
            }
        }
    }
    for (size_t slab : below) {
        page_arena_release(slab, 1, false);
    }
    page_arena_release(run, kSlabs, false);
}

TEST_F(PageArena, AHugeBlockIsForgotten) {
    size_t small = claim(1);
    purge_all();
    size_t top = page_arena_top();
    constexpr size_t kSlabs = 2 * ARENA_REGION_SLABS + 5;
    size_t run = claim(kSlabs);
    EXPECT_GE(page_arena_top(), run + kSlabs);
    address(run + kSlabs - 1)[0] = 1;
    page_arena_release(run + kSlabs - 1, 1, true);
    page_arena_release(run, kSlabs - 1, false);
    clock_ms += 1000;
    EXPECT_EQ(purge(500, SIZE_MAX), 1u);
    EXPECT_EQ(page_arena_top(), top);
    // A purge of nothing has next to nothing to look at, and a claim up there raises the top again.
    size_t cursor = 0;
    EXPECT_LT(page_arena_purge(&cursor, 500, SIZE_MAX, SIZE_MAX).looks, 1000u);
    ASSERT_TRUE(page_arena_claim_at(run + kSlabs - 1, 1, &zero));
    EXPECT_TRUE(zero);
    EXPECT_GE(page_arena_top(), run + kSlabs);
    page_arena_release(run + kSlabs - 1, 1, false);
    page_arena_release(small, 1, false);
}

TEST_F(PageArena, AnAlignmentOfGiBsKeepsNoMoreThanItNeeds) {
    constexpr size_t kChunk = 64 << 20;
    for (size_t align = size_t{1} << 30; align <= size_t{16} << 30; align *= 4) {
        size_t before = stats().reserved_bytes;
        size_t from = claim(3, align);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(address(from)) % align, 0u);
        EXPECT_LE(stats().reserved_bytes, before + kChunk);
        page_arena_release(from, 3, false);
        size_t after = stats().reserved_bytes;
        EXPECT_EQ(claim(3, align), from);
        page_arena_release(from, 3, false);
        EXPECT_EQ(stats().reserved_bytes, after);
    }
    // The slabs that the alignment left out serve other claims.
    size_t high = page_arena_high();
    size_t more = more_than(stats().reserved_bytes);
    if (more < ARENA_REGION_SLABS) {
        size_t from = claim(more);
        EXPECT_LE(from + more, high);
        page_arena_release(from, more, false);
    }
}

} // namespace
