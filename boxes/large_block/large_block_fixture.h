// SPDX-License-Identifier: Apache-2.0
// What tests of large blocks have in common: calls by address, and a heap that is empty in the end.
#ifndef HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_FIXTURE_H
#define HAKMEM_BOXES_LARGE_BLOCK_LARGE_BLOCK_FIXTURE_H

#include "boxes/large_block/large_block.h"
#include "boxes/page_arena/page_arena.h"

#include <gtest/gtest.h>

constexpr size_t kSlab = ARENA_SLAB;

class LargeBlockFixture : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(page_arena_init());
        window = page_arena_get_window();
    }
    void TearDown() override {
        EXPECT_EQ(stats().held_slabs, 0u);
        purge();
    }

    static void purge() {
        size_t cursor = 0;
        do {
            page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
        } while (cursor != 0);
    }
    static page_arena_stats stats() {
        page_arena_stats s;
        page_arena_get_stats(&s);
        return s;
    }
    size_t slab_of(const void *ptr) { return page_arena_slab_of(&window, ptr); }
    static char *alloc(size_t size, size_t align = kSlab, large_block_use use = LARGE_BLOCK_ANY) {
        return static_cast<char *>(large_block_alloc(size, align, use));
    }
    bool release(void *ptr) { return large_block_free(&window, ptr, slab_of(ptr)); }
    char *resize(void *ptr, size_t size) {
        return static_cast<char *>(large_block_resize(&window, ptr, slab_of(ptr), size));
    }
    size_t usable(const void *ptr) { return large_block_usable(&window, ptr, slab_of(ptr)); }

    page_arena_window window;
};

#endif
