// SPDX-License-Identifier: Apache-2.0
#include "boxes/size_class/size_class.h"

#include <gtest/gtest.h>

#include <set>

namespace {

constexpr unsigned kBins = SIZE_CLASS_BINS;
constexpr size_t kMost = SIZE_CLASS_TINY_MAX;

TEST(SizeClass, EverySizeGetsTheSmallestBinThatHoldsIt) {
    unsigned smallest = 1;
    for (size_t size = 0; size <= kMost; size++) {
        while (size_class_usable(smallest) < size) {
            smallest++;
        }
        ASSERT_LT(smallest, kBins);
        ASSERT_EQ(size_class_bin_of(size), smallest) << size;
    }
    EXPECT_EQ(smallest, kBins - 1) << "a bin that no size finds";
    EXPECT_EQ(size_class_usable(kBins - 1), kMost);
}

TEST(SizeClass, HitPlaceIsTwiceTheBin) {
    uint8_t table[SIZE_CLASS_TABLE];
    size_class_fill_table(table);
    for (size_t size = 1; size <= SIZE_CLASS_ALLOC_MAX; size++) {
        ASSERT_EQ(size_class_hit_place(table, size), size_t{size_class_bin_of(size)} * 2) << size;
    }
    // 0 may find no bin; it must not find one that holds nothing.
    EXPECT_TRUE(size_class_hit_place(table, 0) == 0 || size_class_hit_place(table, 0) == 2);
}

TEST(SizeClass, SizedPlaceIsTheSame) {
    uint8_t table[SIZE_CLASS_TABLE];
    uint8_t sizes[SIZE_CLASS_SIZES];
    size_class_fill_table(table);
    size_class_fill_sizes(sizes);
    for (size_t size = 0; size <= SIZE_CLASS_HIT_MAX; size++) {
        ASSERT_EQ(size_class_sized_place(sizes, size), size_class_hit_place(table, size)) << size;
    }
}

TEST(SizeClass, EveryBinHasAPlaceAndThoseWithoutHitsLieBehindTheStacks) {
    std::set<unsigned> places;
    for (unsigned bin = 0; bin < kBins; bin++) {
        const unsigned place = size_class_place(bin);
        EXPECT_TRUE(places.insert(place).second) << bin;
        EXPECT_EQ(size_class_bin_at(place), bin);
        EXPECT_EQ(place % 2, 0u);
        EXPECT_LE(place, 255u) << "a byte of the page map";
        EXPECT_LT(place, unsigned{SIZE_CLASS_PLACES});
        const bool hits = bin <= size_class_bin_of(SIZE_CLASS_HIT_MAX);
        EXPECT_EQ(place == 2 * bin, hits) << bin;
        EXPECT_EQ(place >= 2 * kBins, !hits) << bin;
    }
}

TEST(SizeClass, TableIsConsistent) {
    EXPECT_EQ(size_class_bins[0].size, 0u);
    EXPECT_EQ(size_class_bins[0].slots, 0u);
    for (unsigned bin = 1; bin < kBins; bin++) {
        const size_class_bin &info = size_class_bins[bin];
        EXPECT_GT(info.size, size_class_bins[bin - 1].size);
        EXPECT_EQ(info.size % HAK_MIN_ALIGN, 0u) << bin;
        EXPECT_EQ(info.blocks, SIZE_CLASS_SLAB / info.size) << bin;
        EXPECT_EQ(info.words, (info.blocks + 63) / 64) << bin;
        EXPECT_GE(info.slots, 4u) << bin;
        EXPECT_GE(info.batch, 1u) << bin;
        EXPECT_LE(info.batch * 2u, info.slots) << "a spill leaves room, a refill too";
        if (info.slots > 4) {
            EXPECT_LE(info.slots * info.size, 65536u) << bin;
        }
    }
    EXPECT_EQ(size_class_bins[1].blocks, unsigned{SIZE_CLASS_MAX_BLOCKS});
}

#if !HAK_HEADER
TEST(SizeClass, NoMoreThanAFifthIsLost) {
    // At least 4 bins a doubling: what is rounded up is below a fifth of the block, from 80 B on;
    // and 8 above 1 KiB: below a ninth.
    for (size_t size = 65; size <= kMost; size++) {
        size_t block = size_class_bins[size_class_bin_of(size)].size;
        ASSERT_LE((block - size) * (size > 1024 ? 9 : 5), block) << size;
    }
}

TEST(SizeClass, MultiplesOfAPageAreNotRoundedUp) {
    for (size_t size : {4096, 8192, 12288, 16384, 20480, 24576, 28672, 32768}) {
        EXPECT_EQ(size_class_bins[size_class_bin_of(size)].size, size);
        EXPECT_EQ(size_class_aligned_bin(size, 4096), size_class_bin_of(size));
    }
}
#endif

TEST(SizeClass, ClassesArePowersOfTwo) {
    for (size_t size = 1; size <= kMost; size++) {
        unsigned bin = size_class_bin_of(size);
        unsigned expected = 0;
        while (expected < 7 && (size_t{32} << expected) < size_class_bins[bin].size) {
            expected++;
        }
        ASSERT_EQ(size_class_of_bin(bin), expected) << size;
    }
#if !HAK_HEADER
    EXPECT_EQ(size_class_of_bin(size_class_bin_of(64)), 1u);
    EXPECT_EQ(size_class_of_bin(size_class_bin_of(65)), 2u);
    EXPECT_EQ(size_class_of_bin(size_class_bin_of(128)), 2u);
    EXPECT_EQ(size_class_of_bin(size_class_bin_of(129)), 3u);
    EXPECT_EQ(size_class_of_bin(size_class_bin_of(256)), 3u);
    EXPECT_EQ(size_class_of_bin(size_class_bin_of(257)), 4u);
    EXPECT_EQ(size_class_of_bin(size_class_bin_of(2048)), 6u);
    EXPECT_EQ(size_class_of_bin(size_class_bin_of(2049)), 7u);
#endif
    EXPECT_EQ(size_class_of_bin(size_class_bin_of(kMost)), 7u);
}

TEST(SizeClass, BlockNumberIsTheQuotientAtEveryOffset) {
    for (unsigned bin = 1; bin < kBins; bin++) {
        for (uint32_t offset = 0; offset < SIZE_CLASS_SLAB; offset++) {
            ASSERT_EQ(size_class_block_at(bin, offset), offset / size_class_bins[bin].size)
                << bin << " " << offset;
        }
    }
}

TEST(SizeClass, StartsAreTheMultiplesOfTheSizeThatHoldABlock) {
    for (unsigned bin = 1; bin < kBins; bin++) {
        const size_class_bin &info = size_class_bins[bin];
        for (uint32_t offset = 0; offset < SIZE_CLASS_SLAB; offset++) {
            size_t block;
            bool starts = offset % info.size == 0 && offset / info.size < info.blocks;
            ASSERT_EQ(size_class_is_start(&info, offset, &block), starts) << bin << " " << offset;
            ASSERT_EQ(block, offset / info.size) << bin << " " << offset;
        }
    }
}

TEST(SizeClass, AlignedBinIsTheSmallestThatFits) {
    for (size_t align = 1; align <= 65536; align *= 2) {
        unsigned expected = 1;
        for (size_t size = 0; size <= kMost + 1; size++) {
            while (expected < kBins && (size_class_usable(expected) < size ||
                                        size_class_bins[expected].size % align != 0)) {
                expected++;
            }
            ASSERT_EQ(size_class_aligned_bin(size, align), expected % kBins)
                << size << " " << align;
        }
    }
}

TEST(SizeClass, AlignedSizeHasTheAlignedBin) {
    if (SIZE_CLASS_ALIGNED_HITS == 0) {
        GTEST_SKIP() << "no aligned block is a hit";
    }
    for (size_t align = 32; align <= 65536; align *= 2) {
        for (size_t size = 1; size <= kMost + 1; size++) {
            const size_t rounded = size_class_aligned_size(size, align);
            ASSERT_EQ(rounded <= kMost ? size_class_bin_of(rounded) : 0,
                      size_class_aligned_bin(size, align))
                << size << " " << align;
        }
        EXPECT_EQ(size_class_aligned_size(0, align), 0u);
        for (size_t less : {size_t{1}, align - 1}) { // more than there are addresses
            EXPECT_EQ(size_class_aligned_size(0 - less, align), 0u) << align;
        }
        EXPECT_GT(size_class_aligned_size(0 - align, align), kMost) << align;
    }
}

TEST(SizeClass, AlignedBinOfWhatIsTooLarge) {
    EXPECT_EQ(size_class_aligned_bin(SIZE_MAX, 1), 0u);
    EXPECT_EQ(size_class_aligned_bin(SIZE_MAX, size_t{1} << 63), 0u);
    EXPECT_EQ(size_class_aligned_bin(1, size_t{1} << 63), 0u);
    EXPECT_EQ(size_class_aligned_bin(kMost + 1, 1), 0u);
}

} // namespace
