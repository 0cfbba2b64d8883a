// SPDX-License-Identifier: Apache-2.0
// tcmalloc's interface as a program sees it that is linked to libtcmalloc_minimal.so.4.
#include "fronts/libc/test_util.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <new>
#include <string>
#include <vector>

extern "C" {
const char *tc_version(int *major, int *minor, const char **patch);
void *tc_malloc(size_t size);
void *tc_malloc_skip_new_handler(size_t size);
void tc_free(void *ptr);
void tc_free_sized(void *ptr, size_t size);
void *tc_realloc(void *ptr, size_t size);
void *tc_calloc(size_t count, size_t size);
void tc_cfree(void *ptr);
void *tc_memalign(size_t align, size_t size);
int tc_posix_memalign(void **ptr, size_t align, size_t size);
void *tc_valloc(size_t size);
void *tc_pvalloc(size_t size);
int tc_mallopt(int param, int value);
size_t tc_malloc_size(void *ptr);
size_t tc_nallocx(size_t size, int flags);
size_t nallocx(size_t size, int flags);
int tc_set_new_mode(int mode);
int tc_query_new_mode();
void *tc_new(size_t size);
void *tc_new_nothrow(size_t size, const std::nothrow_t &);
void *tc_newarray(size_t size);
void *tc_new_aligned(size_t size, std::align_val_t align);
void *tc_newarray_aligned_nothrow(size_t size, std::align_val_t align, const std::nothrow_t &);
void tc_delete(void *ptr);
void tc_delete_sized(void *ptr, size_t size);
void tc_delete_aligned(void *ptr, std::align_val_t align);
void tc_deletearray(void *ptr);
void tc_deletearray_sized_aligned(void *ptr, size_t size, std::align_val_t align);
int MallocExtension_GetNumericProperty(const char *property, size_t *value);
int MallocExtension_SetNumericProperty(const char *property, size_t value);
void MallocExtension_GetStats(char *buffer, int length);
void MallocExtension_ReleaseFreeMemory();
void MallocExtension_ReleaseToSystem(size_t bytes);
void MallocExtension_MarkThreadIdle();
void MallocExtension_MarkThreadBusy();
size_t MallocExtension_GetEstimatedAllocatedSize(size_t size);
size_t MallocExtension_GetAllocatedSize(const void *ptr);
size_t MallocExtension_GetThreadCacheSize();
int MallocExtension_GetOwnership(const void *ptr);
int MallocExtension_VerifyAllMemory();
int MallocExtension_VerifyMallocMemory(const void *ptr);
int MallocExtension_MallocMemoryStats(int *blocks, size_t *total, int *histogram);
int MallocHook_AddNewHook(void (*hook)(const void *, size_t));
}

namespace {

constexpr size_t kHuge = SIZE_MAX / 2 + 1;

size_t Property(const char *name) {
    size_t value = 0;
    EXPECT_EQ(MallocExtension_GetNumericProperty(name, &value), 1) << name;
    return value;
}

TEST(Tcmalloc, TheFlavourServesTheProcess) {
    EXPECT_STREQ(hak_flavour(), HAK_FLAVOUR);
    int major;
    int minor;
    const char *patch;
    EXPECT_STREQ(tc_version(&major, &minor, &patch), "gperftools 2.10");
    EXPECT_EQ(major, 2);
    EXPECT_EQ(minor, 10);
    EXPECT_STREQ(patch, "");
    tc_version(nullptr, nullptr, nullptr);
    size_t before = test_util::Stats().large_live;
    void *block = tc_malloc(size_t{3} << 20);
    EXPECT_EQ(test_util::Stats().large_live - before, size_t{3} << 20);
    free(block); // the same heap
    EXPECT_EQ(test_util::Stats().large_live, before);
}

TEST(Tcmalloc, TheNamesOfMalloc) {
    for (size_t size : {0ul, 1ul, 100ul, 5000ul, 40000ul, 1000000ul}) {
        void *block = tc_malloc(size);
        EXPECT_EQ(tc_malloc_size(block), tc_nallocx(size, 0));
        EXPECT_EQ(MallocExtension_GetAllocatedSize(block),
                  MallocExtension_GetEstimatedAllocatedSize(size));
        tc_free_sized(block, size);
        block = tc_memalign(256, size);
        EXPECT_EQ(tc_malloc_size(block), nallocx(size, 8));
        EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 256, 0u);
        tc_cfree(block);
    }
    void *block = tc_calloc(10, 10);
    block = tc_realloc(block, 1000);
    EXPECT_EQ(tc_realloc(block, 0), nullptr);
    errno = 0;
    EXPECT_EQ(tc_malloc(kHuge), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(tc_malloc_skip_new_handler(kHuge), nullptr);
    EXPECT_EQ(tc_calloc(SIZE_MAX, 2), nullptr);
    EXPECT_EQ(tc_posix_memalign(&block, 3, 10), EINVAL);
    EXPECT_EQ(tc_posix_memalign(&block, 4096, 10), 0);
    tc_free(block);
    block = tc_pvalloc(1);
    EXPECT_GE(tc_malloc_size(block), 4096u);
    tc_free(block);
    tc_free(tc_valloc(1));
    tc_free(nullptr);
    EXPECT_EQ(tc_mallopt(M_MMAP_THRESHOLD, 1 << 20), 1);
    EXPECT_EQ(tc_malloc_size(nullptr), 0u);
}

TEST(Tcmalloc, TheNamesOfTheOperators) {
    tc_delete(tc_new(10));
    tc_delete_sized(tc_new(10), 10);
    tc_deletearray(tc_newarray(10));
    delete static_cast<char *>(tc_new(1));
    void *block = tc_new_aligned(100, std::align_val_t{256});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 256, 0u);
    tc_delete_aligned(block, std::align_val_t{256});
    block = tc_newarray_aligned_nothrow(100, std::align_val_t{64}, std::nothrow);
    tc_deletearray_sized_aligned(block, 100, std::align_val_t{64});
    EXPECT_THROW(tc_new(kHuge), std::bad_alloc);
    EXPECT_THROW(tc_newarray(kHuge), std::bad_alloc);
    EXPECT_THROW(tc_new_aligned(kHuge, std::align_val_t{64}), std::bad_alloc);
    EXPECT_EQ(tc_new_nothrow(kHuge, std::nothrow), nullptr);
}

TEST(Tcmalloc, InNewModeMallocCallsTheHandler) {
    static int calls;
    std::set_new_handler([] {
        calls++;
        std::set_new_handler(nullptr);
    });
    EXPECT_EQ(tc_set_new_mode(1), 0);
    EXPECT_EQ(tc_query_new_mode(), 1);
    EXPECT_EQ(tc_malloc(kHuge), nullptr);
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(tc_set_new_mode(0), 1);
    std::set_new_handler(nullptr);
}

TEST(MallocExtension, NumbersAreTheHeaps) {
    size_t before = Property("generic.current_allocated_bytes");
    void *block = memset(malloc(10 << 20), 1, 10 << 20);
    EXPECT_GE(Property("generic.current_allocated_bytes"), before + (10 << 20));
    EXPECT_GE(Property("generic.total_physical_bytes"), size_t{10} << 20);
    EXPECT_GE(Property("generic.heap_size"), Property("tcmalloc.pageheap_committed_bytes"));
    free(block);
    EXPECT_LT(Property("generic.current_allocated_bytes"), before + (1 << 20));
    // Some of it: a free may give back at once what is above the ceiling.
    const size_t kept = Property("tcmalloc.pageheap_free_bytes");
    if (!HAK_HARDENED) { // where the block waits, without pages
        EXPECT_GE(kept, size_t{1} << 20);
    }
    MallocExtension_ReleaseToSystem(0); // nothing
    EXPECT_GE(Property("tcmalloc.pageheap_free_bytes"), kept / 2);
    MallocExtension_ReleaseFreeMemory();
    EXPECT_LT(Property("tcmalloc.pageheap_free_bytes"), size_t{1} << 20);
    size_t value = 77;
    for (const char *name : {"generic.nonesuch", "", "tcmalloc.max_total_thread_cache_bytes"}) {
        EXPECT_EQ(MallocExtension_GetNumericProperty(name, &value), 0);
        EXPECT_EQ(value, 77u);
        EXPECT_EQ(MallocExtension_SetNumericProperty(name, 1), 0);
    }
}

TEST(MallocExtension, AnIdleThreadsCacheIsEmptied) {
    std::vector<void *> blocks;
    for (int i = 0; i < 20; i++) {
        blocks.push_back(malloc(200));
    }
    for (void *block : blocks) {
        free(block);
    }
    EXPECT_GE(MallocExtension_GetThreadCacheSize(), 400u);
    EXPECT_GE(Property("tcmalloc.thread_cache_free_bytes"), 400u);
    MallocExtension_MarkThreadIdle();
    EXPECT_EQ(MallocExtension_GetThreadCacheSize(), 0u);
    MallocExtension_MarkThreadBusy();
}

TEST(MallocExtension, PointersAreOwnedOrNot) {
    enum { kOwned = 1, kNotOwned = 2 };
    auto *block = static_cast<char *>(malloc(100));
    EXPECT_EQ(MallocExtension_GetOwnership(block), kOwned);
    EXPECT_EQ(MallocExtension_GetOwnership(block + 8), kOwned);
    EXPECT_EQ(MallocExtension_GetOwnership(&block), kNotOwned);
    EXPECT_EQ(MallocExtension_GetOwnership(nullptr), kNotOwned);
    EXPECT_EQ(MallocExtension_VerifyMallocMemory(block), 1);
    EXPECT_EQ(MallocExtension_VerifyMallocMemory(block + 8), 0);
    EXPECT_EQ(MallocExtension_VerifyAllMemory(), 1);
    free(block);
}

TEST(MallocExtension, StatisticsFitTheBuffer) {
    char text[4096];
    MallocExtension_GetStats(text, sizeof text);
    EXPECT_NE(strstr(text, HAK_FLAVOUR), nullptr);
    memset(text, 1, sizeof text);
    MallocExtension_GetStats(text, 10);
    EXPECT_EQ(strlen(text), 9u);
    EXPECT_EQ(text[10], 1);
    MallocExtension_GetStats(text, 0);
    int blocks = 0;
    size_t total = 0;
    int histogram[64];
    void *block = malloc(100000);
    EXPECT_EQ(MallocExtension_MallocMemoryStats(&blocks, &total, histogram), 1);
    free(block);
    EXPECT_GT(blocks, 0);
    EXPECT_GE(total, 100000u);
    int sum = 0;
    for (int count : histogram) {
        sum += count;
    }
    EXPECT_EQ(sum, blocks);
}

TEST(MallocHook, IsRefused) {
    EXPECT_EQ(MallocHook_AddNewHook([](const void *, size_t) {}), 0);
}

} // namespace
