// SPDX-License-Identifier: Apache-2.0
#include "boxes/superslab/superslab.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <vector>

namespace {

constexpr size_t kSlabs = ARENA_SUPERSLAB_SLABS;

class Superslab : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(page_arena_init());
        window = page_arena_get_window();
        // Three whole SuperSlabs.
        first = page_arena_claim(3 * kSlabs, ARENA_SUPERSLAB, &zero);
        ASSERT_NE(first, ARENA_NONE);
    }
    void TearDown() override { page_arena_release(first, 3 * kSlabs, false); }

    page_arena_window window;
    size_t first = 0;
    bool zero = false;
};

TEST_F(Superslab, MetadataIsOutOfLineAndOfItsOwn) {
    std::set<void *> slabs;
    for (size_t i = first; i < first + 3 * kSlabs; i++) {
        slab *meta = superslab_slab(&window, i);
        EXPECT_TRUE(slabs.insert(meta).second);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(meta) % HAK_CACHE_LINE, 0u);
        EXPECT_EQ(superslab_at(&window, i), superslab_at(&window, i / kSlabs * kSlabs));
        EXPECT_GE(page_arena_slab_of(&window, meta), window.slabs) << "lies in the heap itself";
        EXPECT_EQ(meta->kind, SLAB_NONE);
    }
    EXPECT_EQ(superslab_at(&window, first) + 1, superslab_at(&window, first + kSlabs));
}

TEST_F(Superslab, BitmapsOfNoTwoSlabsShareAWord) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        std::set<atomic_bitmap_word *> words;
        for (size_t i = first; i < first + 2 * kSlabs; i++) {
            atomic_bitmap_word *bits = superslab_bits(&window, i, bin);
            auto *superslab = reinterpret_cast<char *>(superslab_at(&window, i));
            EXPECT_GE(reinterpret_cast<char *>(bits), superslab);
            EXPECT_LE(reinterpret_cast<char *>(bits + size_class_bins[bin].words),
                      superslab + ARENA_SUPERSLAB_META);
            for (unsigned w = 0; w < size_class_bins[bin].words; w++) {
                EXPECT_TRUE(words.insert(&bits[w]).second) << bin;
            }
        }
    }
    // Whether a bitmap is in the cache line or not depends on the bin alone.
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        bool in_line = superslab_bits(&window, first, bin) == superslab_slab(&window, first)->bits;
        EXPECT_EQ(in_line, size_class_bins[bin].words <= unsigned{SLAB_INLINE_WORDS}) << bin;
    }
}

TEST_F(Superslab, FullWordsAddUpToTheBlocks) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        unsigned blocks = 0;
        for (unsigned w = 0; w < size_class_bins[bin].words; w++) {
            uint64_t full = superslab_full_word(bin, w);
            EXPECT_NE(full, 0u);
            EXPECT_EQ(full & (full + 1), 0u) << "ones from the lowest bit on";
            EXPECT_TRUE(full == ~uint64_t{0} || w + 1 == size_class_bins[bin].words) << bin;
            blocks += static_cast<unsigned>(__builtin_popcountll(full));
        }
        EXPECT_EQ(blocks, size_class_bins[bin].blocks) << bin;
    }
}

TEST_F(Superslab, KnownIsWhatHasBeenCommitted) {
    EXPECT_TRUE(superslab_known(&window, first));
    EXPECT_TRUE(superslab_known(&window, first + 3 * kSlabs - 1));
    EXPECT_FALSE(superslab_known(&window, 0)) << "the control area";
    EXPECT_FALSE(superslab_known(&window, page_arena_high()));
    EXPECT_FALSE(superslab_known(&window, window.slabs - 1));
    EXPECT_FALSE(superslab_known(&window, window.slabs));
    EXPECT_FALSE(superslab_known(&window, SIZE_MAX));
    page_arena_window none = {};
    EXPECT_FALSE(superslab_known(&none, 0));
}

// If slabs get rights one by one, a SuperSlab that has no rights as a whole may have slabs in use.
TEST_F(Superslab, KnownIsWhatIsInUseInASuperSlabWithoutRightsAsAWhole) {
    page_arena_group *group = &window.groups[first / ARENA_GROUP_SLABS];
    uint64_t bit = uint64_t{1} << first / kSlabs % ARENA_GROUP_SUPERSLABS;
    group->committed &= ~bit;
    EXPECT_TRUE(superslab_known(&window, first));
    group->meta_used &= ~bit;
    EXPECT_FALSE(superslab_known(&window, first)) << "no slab is in use";
    group->meta_used |= bit;
    group->committed |= bit;
}

TEST_F(Superslab, StatisticsCountByUse) {
    superslab_stats stats;
    superslab_get_stats(&stats);
    EXPECT_EQ(stats.superslabs, 0u) << "held, but for no use yet";
    EXPECT_EQ(stats.tiny_slabs + stats.large_slabs + stats.heap_slabs + stats.large_blocks, 0u);

    constexpr unsigned kBin = 8;
    const size_t tiny[] = {first, first + 1, first + kSlabs};
    unsigned free_blocks = 0;
    for (size_t i : tiny) {
        slab *meta = superslab_slab(&window, i);
        meta->bin = kBin;
        meta->kind = SLAB_TINY;
        for (unsigned w = 0; w < size_class_bins[kBin].words; w++) {
            superslab_bits(&window, i, kBin)[w] = w == 0 ? 0 : superslab_full_word(kBin, w);
        }
        free_blocks += size_class_bins[kBin].blocks - 64u;
    }
    slab *large = superslab_slab(&window, first + 2);
    large->run = 40;
    large->size = 40 * size_t{ARENA_SLAB} - 5;
    large->kind = SLAB_LARGE;
    superslab_slab(&window, first + 3 * kSlabs - 1)->kind = SLAB_HEAP;

    superslab_get_stats(&stats);
    EXPECT_EQ(stats.superslabs, 3u);
    EXPECT_EQ(stats.tiny_slabs, 3u);
    EXPECT_EQ(stats.bin_slabs[kBin], 3u);
    EXPECT_EQ(stats.bin_free[kBin], free_blocks);
    EXPECT_EQ(std::accumulate(stats.bin_slabs, stats.bin_slabs + SIZE_CLASS_BINS, size_t{0}), 3u);
    EXPECT_EQ(std::accumulate(stats.bin_free, stats.bin_free + SIZE_CLASS_BINS, size_t{0}),
              free_blocks);
    EXPECT_EQ(stats.large_blocks, 1u);
    EXPECT_EQ(stats.large_slabs, 40u);
    EXPECT_EQ(stats.large_bytes, 40 * size_t{ARENA_SLAB} - 5);
    EXPECT_EQ(stats.heap_slabs, 1u);

    // A SuperSlab counts as long as one of its slabs is in use, even if only as the end of a run
    // that starts in the SuperSlab below.
    for (size_t i : tiny) {
        superslab_slab(&window, i)->kind = SLAB_NONE;
        atomic_bitmap_clear_run(superslab_bits(&window, i, kBin), 0, size_class_bins[kBin].blocks);
    }
    superslab_get_stats(&stats);
    EXPECT_EQ(stats.superslabs, 3u);
    large->kind = SLAB_NONE;
    superslab_get_stats(&stats);
    EXPECT_EQ(stats.superslabs, 1u);
    superslab_slab(&window, first + 3 * kSlabs - 1)->kind = SLAB_NONE;
    superslab_get_stats(&stats);
    EXPECT_EQ(stats.superslabs, 0u);
}

} // namespace
