// SPDX-License-Identifier: Apache-2.0
// mimalloc's interface as a program sees it that is linked to libmimalloc.so.2.
#include "fronts/libc/test_util.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <new>
#include <string>
#include <thread>
#include <vector>

extern "C" {
struct mi_heap_s;
using mi_heap_t = mi_heap_s;
void *mi_malloc(size_t size);
void *mi_zalloc(size_t size);
void *mi_calloc(size_t count, size_t size);
void *mi_mallocn(size_t count, size_t size);
void *mi_realloc(void *p, size_t size);
void *mi_reallocf(void *p, size_t size);
void *mi_rezalloc(void *p, size_t size);
void *mi_recalloc(void *p, size_t count, size_t size);
void *mi_expand(void *p, size_t size);
void mi_free(void *p);
void mi_cfree(void *p);
size_t mi_usable_size(const void *p);
size_t mi_good_size(size_t size);
char *mi_strdup(const char *s);
char *mi_strndup(const char *s, size_t n);
char *mi_realpath(const char *name, char *resolved);
void *mi_malloc_aligned(size_t size, size_t align);
void *mi_zalloc_aligned(size_t size, size_t align);
void *mi_malloc_aligned_at(size_t size, size_t align, size_t offset);
void *mi_realloc_aligned(void *p, size_t size, size_t align);
void *mi_realloc_aligned_at(void *p, size_t size, size_t align, size_t offset);
void *mi_rezalloc_aligned_at(void *p, size_t size, size_t align, size_t offset);
int mi_posix_memalign(void **p, size_t align, size_t size);
int mi_reallocarr(void *p, size_t count, size_t size);
void *mi_new(size_t size);
void *mi_new_n(size_t count, size_t size);
void *mi_new_nothrow(size_t size);
void *mi_new_realloc(void *p, size_t size);
void mi_collect(bool force);
int mi_version(void);
void mi_stats_print_out(void (*out)(const char *text, void *arg), void *arg);
void mi_register_output(void (*out)(const char *text, void *arg), void *arg);
void mi_register_error(void (*function)(int error, void *arg), void *arg);
void mi_stats_print(void *);
void mi_process_info(size_t *elapsed, size_t *user, size_t *system, size_t *rss, size_t *peak_rss,
                     size_t *commit, size_t *peak_commit, size_t *faults);
mi_heap_t *mi_heap_new(void);
void mi_heap_delete(mi_heap_t *heap);
void mi_heap_destroy(mi_heap_t *heap);
mi_heap_t *mi_heap_set_default(mi_heap_t *heap);
mi_heap_t *mi_heap_get_default(void);
mi_heap_t *mi_heap_get_backing(void);
void *mi_heap_malloc(mi_heap_t *heap, size_t size);
void *mi_heap_zalloc_aligned(mi_heap_t *heap, size_t size, size_t align);
void *mi_heap_realloc(mi_heap_t *heap, void *p, size_t size);
void *mi_heap_recalloc(mi_heap_t *heap, void *p, size_t count, size_t size);
char *mi_heap_strdup(mi_heap_t *heap, const char *s);
bool mi_heap_contains_block(mi_heap_t *heap, const void *p);
bool mi_heap_check_owned(mi_heap_t *heap, const void *p);
bool mi_check_owned(const void *p);
struct Area {
    void *blocks;
    size_t reserved, committed, used, block_size, full_block_size;
};
bool mi_heap_visit_blocks(const mi_heap_t *heap, bool all,
                          bool (*visit)(const mi_heap_t *, const Area *, void *, size_t, void *),
                          void *arg);
bool mi_is_in_heap_region(const void *p);
int mi_reserve_os_memory(size_t size, bool commit, bool large);
bool mi_manage_os_memory(void *start, size_t size, bool committed, bool large, bool zero, int node);
long mi_option_get(int option);
void mi_option_set(int option, long value);
void mi_option_set_default(int option, long value);
bool mi_option_is_enabled(int option);
void mi_option_enable(int option);
}

namespace {

constexpr size_t kHuge = SIZE_MAX / 2 + 1;

TEST(Mimalloc, TheFlavourServesTheProcess) {
    EXPECT_STREQ(hak_flavour(), HAK_FLAVOUR);
    EXPECT_EQ(mi_version(), 209);
    size_t before = test_util::Stats().large_live;
    void *block = mi_malloc(size_t{3} << 20);
    EXPECT_EQ(test_util::Stats().large_live - before, size_t{3} << 20);
    free(block); // the same heap
    EXPECT_EQ(test_util::Stats().large_live, before);
    mi_free(malloc(100));
    mi_free(nullptr);
}

TEST(Mimalloc, BlocksHaveTheGoodSize) {
    for (size_t size : {0ul, 1ul, 100ul, 5000ul, 40000ul, 1000000ul}) {
        void *block = mi_malloc(size);
        ASSERT_NE(block, nullptr);
        EXPECT_EQ(mi_usable_size(block), mi_good_size(size));
        EXPECT_EQ(mi_expand(block, mi_good_size(size)), block);
        EXPECT_TRUE(mi_is_in_heap_region(block));
        EXPECT_TRUE(mi_check_owned(block));
        mi_cfree(block);
    }
    int local;
    mi_cfree(&local); // not ours: left alone
    EXPECT_FALSE(mi_is_in_heap_region(&local));
    EXPECT_EQ(mi_usable_size(nullptr), 0u);
    EXPECT_EQ(mi_expand(nullptr, 1), nullptr);
    void *small = mi_malloc(10);
    EXPECT_EQ(mi_expand(small, 1000), nullptr);
    mi_free(small);
}

TEST(Mimalloc, WhatCannotBeIsNullWithAnError) {
    static int reported;
    mi_register_error([](int error, void *arg) { reported = arg == &reported ? error : -1; },
                      &reported);
    errno = 0;
    EXPECT_EQ(mi_malloc(kHuge), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(reported, ENOMEM);
    EXPECT_EQ(mi_calloc(SIZE_MAX, 2), nullptr);
    EXPECT_EQ(reported, EOVERFLOW);
    EXPECT_EQ(mi_mallocn(SIZE_MAX / 2, 3), nullptr);
    EXPECT_EQ(mi_malloc_aligned(10, 3), nullptr);
    EXPECT_EQ(mi_malloc_aligned(10, 0), nullptr);
    EXPECT_EQ(mi_zalloc(kHuge), nullptr);
    mi_register_error(nullptr, nullptr);
    void *block = mi_malloc(10);
    EXPECT_EQ(mi_realloc(block, kHuge), nullptr);
    EXPECT_EQ(mi_reallocf(block, kHuge), nullptr); // and freed it
    EXPECT_EQ(mi_posix_memalign(&block, 3, 10), EINVAL);
    EXPECT_EQ(mi_posix_memalign(&block, 4, 10), EINVAL);
    EXPECT_EQ(mi_posix_memalign(&block, 64, kHuge), ENOMEM);
    EXPECT_EQ(mi_posix_memalign(&block, 64, 10), 0);
    EXPECT_EQ(mi_reallocarr(&block, SIZE_MAX, 2), ENOMEM);
    EXPECT_EQ(mi_reallocarr(&block, 1000, 2), 0);
    EXPECT_GE(mi_usable_size(block), 2000u);
    mi_free(block);
    EXPECT_EQ(mi_reserve_os_memory(1 << 20, false, false), ENOMEM);
    EXPECT_FALSE(mi_manage_os_memory(nullptr, 1 << 20, false, false, false, -1));
}

TEST(Mimalloc, WhatAZeroedBlockGrowsByIsZero) {
    for (size_t from : {1ul, 100ul, 3000ul, 50000ul, 2000000ul}) {
        auto *block = static_cast<char *>(mi_zalloc(from));
        memset(block, 5, from);
        for (size_t size = from; size < 5000000; size = size * 3 + 1) {
            size_t had = mi_usable_size(block);
            block = static_cast<char *>(mi_rezalloc(block, size));
            ASSERT_NE(block, nullptr);
            EXPECT_TRUE(test_util::IsAll(block, 5, from));
            EXPECT_TRUE(test_util::IsAll(block + from, 0, mi_usable_size(block) - from))
                << had << " " << size;
        }
        mi_free(block);
    }
    auto *block = static_cast<char *>(mi_recalloc(nullptr, 10, 10));
    EXPECT_TRUE(test_util::IsAll(block, 0, 100));
    block = static_cast<char *>(mi_recalloc(block, 100, 100));
    EXPECT_TRUE(test_util::IsAll(block, 0, 10000));
    EXPECT_EQ(mi_recalloc(block, SIZE_MAX, 2), nullptr);
    mi_free(block);
}

TEST(Mimalloc, AnyByteOfABlockCanBeAligned) {
    for (size_t align = 1; align <= 65536; align *= 4) {
        for (size_t offset : {size_t{0}, size_t{1}, size_t{8}, size_t{24}, align}) {
            size_t size = 200 + offset;
            auto *block = static_cast<char *>(mi_malloc_aligned_at(size, align, offset));
            ASSERT_NE(block, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(block + offset) % align, 0u);
            EXPECT_GE(mi_usable_size(block), size);
            memset(block, 3, size);
            block = static_cast<char *>(mi_realloc_aligned_at(block, 5 * size, align, offset));
            EXPECT_EQ(reinterpret_cast<uintptr_t>(block + offset) % align, 0u);
            EXPECT_TRUE(test_util::IsAll(block, 3, size));
            block = static_cast<char *>(realloc(block, size));
            EXPECT_TRUE(test_util::IsAll(block, 3, size));
            free(block);
        }
        auto *zero = static_cast<char *>(mi_zalloc_aligned(100, align));
        EXPECT_TRUE(test_util::IsAll(zero, 0, 100));
        zero = static_cast<char *>(mi_rezalloc_aligned_at(zero, 100000, align, 8));
        EXPECT_TRUE(test_util::IsAll(zero, 0, 100000));
        EXPECT_EQ(reinterpret_cast<uintptr_t>(zero + 8) % align, 0u);
        mi_free(zero);
    }
}

TEST(Mimalloc, CopiesOfText) {
    EXPECT_EQ(mi_strdup(nullptr), nullptr);
    char *copy = mi_strdup("twelve chars");
    EXPECT_STREQ(copy, "twelve chars");
    mi_free(copy);
    copy = mi_strndup("twelve chars", 6);
    EXPECT_STREQ(copy, "twelve");
    mi_free(copy);
    copy = mi_realpath("/usr/../usr/.", nullptr);
    EXPECT_STREQ(copy, "/usr");
    mi_free(copy);
}

TEST(Mimalloc, NewThrows) {
    void *block = mi_new(100);
    block = mi_new_realloc(block, 10000);
    EXPECT_GE(mi_usable_size(block), 10000u);
    EXPECT_THROW(mi_new_realloc(block, kHuge), std::bad_alloc);
    mi_free(block);
    EXPECT_THROW(mi_new(kHuge), std::bad_alloc);
    EXPECT_THROW(mi_new_n(SIZE_MAX, 8), std::bad_alloc);
    EXPECT_EQ(mi_new_nothrow(kHuge), nullptr);
    delete[] static_cast<char *>(mi_new_n(10, 10));
}

TEST(Heap, DestroyFreesItsBlocks) {
    size_t before = test_util::Stats().private_live;
    size_t slabs = test_util::Stats().private_slabs;
    for (int round = 0; round < 300; round++) {
        mi_heap_t *heap = mi_heap_new();
        ASSERT_NE(heap, nullptr);
        for (size_t i = 0; i < 300; i++) {
            auto *block = static_cast<char *>(mi_heap_malloc(heap, i * i));
            ASSERT_NE(block, nullptr);
            memset(block, 1, i * i);
            EXPECT_TRUE(mi_heap_contains_block(heap, block));
            EXPECT_FALSE(mi_heap_contains_block(mi_heap_get_backing(), block));
        }
        EXPECT_GT(test_util::Stats().private_live, before);
        mi_heap_destroy(heap);
    }
    EXPECT_EQ(test_util::Stats().private_live, before);
    EXPECT_EQ(test_util::Stats().private_slabs, slabs);
}

TEST(Heap, DeleteLeavesItsBlocks) {
    mi_heap_t *heap = mi_heap_new();
    char *text = mi_heap_strdup(heap, "a block that stays");
    void *zero = mi_heap_zalloc_aligned(heap, 100, 4096);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(zero) % 4096, 0u);
    EXPECT_TRUE(test_util::IsAll(zero, 0, 100));
    zero = mi_heap_recalloc(heap, zero, 10, 100);
    EXPECT_TRUE(test_util::IsAll(zero, 0, 1000));
    EXPECT_TRUE(mi_heap_check_owned(heap, text));
    mi_heap_delete(heap);
    EXPECT_STREQ(text, "a block that stays");
    text = static_cast<char *>(realloc(text, 100000));
    EXPECT_STREQ(text, "a block that stays");
    free(text);
    std::thread([&] { mi_free(zero); }).join();
    mi_heap_delete(nullptr);
    mi_heap_destroy(nullptr);
    mi_heap_delete(mi_heap_get_backing());
}

TEST(Heap, ADefaultHeapServesTheThread) {
    mi_heap_t *heap = mi_heap_new();
    EXPECT_EQ(mi_heap_get_default(), mi_heap_get_backing());
    EXPECT_EQ(mi_heap_set_default(heap), mi_heap_get_backing());
    void *block = mi_malloc(100);
    EXPECT_TRUE(mi_heap_contains_block(heap, block));
    block = mi_realloc(block, 1000);
    EXPECT_TRUE(mi_heap_contains_block(heap, block));
    std::thread([&] {
        EXPECT_EQ(mi_heap_get_default(), mi_heap_get_backing());
        void *other = mi_malloc(100);
        EXPECT_FALSE(mi_heap_contains_block(heap, other));
        mi_free(other);
    }).join();
    mi_heap_destroy(heap); // with the block
    EXPECT_EQ(mi_heap_get_default(), mi_heap_get_backing());
    mi_free(mi_malloc(100));
}

TEST(Heap, AThreadsHeapsEndWithIt) {
    size_t heaps = test_util::Stats().heap_slabs;
    std::vector<void *> blocks;
    for (int i = 0; i < 20; i++) {
        std::thread([&] {
            mi_heap_t *heap = mi_heap_new();
            mi_heap_new();
            mi_heap_set_default(heap);
            blocks.push_back(mi_malloc(50));
            strcpy(static_cast<char *>(blocks.back()), "left behind");
        }).join();
    }
    for (void *block : blocks) {
        EXPECT_STREQ(static_cast<char *>(block), "left behind");
        mi_free(block);
    }
    // A thread's own state may be one more.
    EXPECT_LE(test_util::Stats().heap_slabs, heaps + 2);
}

TEST(Heap, BlocksCanBeVisited) {
    mi_heap_t *heap = mi_heap_new();
    for (size_t i = 0; i < 100; i++) {
        mi_heap_malloc(heap, i * 1000);
    }
    struct Seen {
        size_t areas = 0, blocks = 0;
    } seen;
    auto visit = [](const mi_heap_t *, const Area *area, void *block, size_t size, void *arg) {
        auto *count = static_cast<Seen *>(arg);
        (block == nullptr ? count->areas : count->blocks)++;
        return size == area->block_size;
    };
    EXPECT_TRUE(mi_heap_visit_blocks(heap, true, visit, &seen));
    EXPECT_EQ(seen.blocks, 100u);
    EXPECT_EQ(seen.areas, 100u);
    EXPECT_FALSE(mi_heap_visit_blocks(mi_heap_get_backing(), true, visit, &seen));
    mi_heap_destroy(heap);
}

TEST(Process, OptionsKeepWhatTheyAreSetTo) {
    constexpr int kVerbose = 2;
    constexpr int kDecommitDelay = 15;
    EXPECT_FALSE(mi_option_is_enabled(kVerbose));
    mi_option_set_default(kVerbose, 3);
    EXPECT_EQ(mi_option_get(kVerbose), 3);
    mi_option_enable(kVerbose);
    mi_option_set_default(kVerbose, 3);
    EXPECT_EQ(mi_option_get(kVerbose), 1);
    long delay = mi_option_get(kDecommitDelay); // the heap's own
    mi_option_set(kDecommitDelay, 123);
    EXPECT_EQ(mi_option_get(kDecommitDelay), 123);
    mi_option_set(kDecommitDelay, delay);
    EXPECT_EQ(mi_option_get(1000), 0);
    EXPECT_EQ(mi_option_get(-1), 0);
}

void Append(const char *more, void *text) {
    *static_cast<std::string *>(text) += more;
}

TEST(Process, StatisticsAreWritten) {
    std::string text;
    text.reserve(100000);
    mi_stats_print_out(Append, &text);
    EXPECT_NE(text.find(HAK_FLAVOUR), std::string::npos);
    EXPECT_NE(text.find("committed"), std::string::npos);
    text.clear();
    mi_register_output(Append, &text);
    mi_stats_print(nullptr);
    EXPECT_NE(text.find("committed"), std::string::npos);
    mi_register_output(nullptr, nullptr);
    size_t elapsed, user, system, rss, peak_rss, commit, peak_commit, faults;
    mi_process_info(&elapsed, &user, &system, &rss, &peak_rss, &commit, &peak_commit, &faults);
    EXPECT_GT(rss, 100000u);
    EXPECT_GE(peak_rss + (size_t{1} << 20), rss);
    EXPECT_GE(commit, test_util::Stats().tiny_live);
    mi_process_info(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
}

TEST(Process, CollectGivesBackWhatIsIdle) {
    free(memset(malloc(20 << 20), 1, 20 << 20));
    mi_collect(true);
    EXPECT_LT(test_util::Stats().dirty, size_t{1} << 20);
}

} // namespace
