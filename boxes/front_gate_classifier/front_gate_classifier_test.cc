// SPDX-License-Identifier: Apache-2.0
#include "boxes/front_gate_classifier/front_gate_classifier.h"

#include "boxes/front_gate_classifier/front_gate.h"
#include "boxes/large_block/large_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/superslab/superslab.h"
#include "boxes/thread_heap/thread_heap.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace {

const void *pointer(uint64_t bits) {
    return reinterpret_cast<const void *>(static_cast<uintptr_t>(bits));
}

TEST(FrontGateClassifierDeathTest, BeforeInitEverythingIsForeign) {
    testing::FLAGS_gtest_death_test_style = "threadsafe"; // a fresh process
    auto check = [] {
        std::mt19937_64 random(1);
        bool ok = front_gate_classify(nullptr).kind == FRONT_GATE_FOREIGN;
        front_gate none = {};
        for (int i = 0; i < 100000; i++) {
            const void *ptr = pointer(random() >> random() % 64);
            ok = ok && front_gate_classify(ptr).kind == FRONT_GATE_FOREIGN &&
                 front_gate_lookup(&none, ptr) == 0;
        }
        exit(ok ? 0 : 1);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

// A thread that frees a wrong pointer before the first allocation, and goes on when another one has
// made the heap.
TEST(FrontGateClassifierDeathTest, AWindowOfBeforeInitHasNoSlabs) {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    auto check = [] {
        page_arena_window before = page_arena_get_window();
        bool zero;
        bool ok = page_arena_init() && page_arena_claim(1, 1, &zero) != ARENA_NONE &&
                  page_arena_reaches(0);
        exit(ok && front_gate_search(&before, pointer(0x400000)) == 0 ? 0 : 1);
    };
    EXPECT_EXIT(check(), testing::ExitedWithCode(0), "");
}

class FrontGateClassifier : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_TRUE(page_arena_init());
        window = page_arena_get_window();
    }

    void *take(unsigned bin) {
        void *block = nullptr;
        shared_pool_hint hint = ARENA_NONE;
        EXPECT_EQ(shared_pool_take(bin, &block, 1, &hint), 1u);
        front_gate_mark(bin, &block, 1);
        return block;
    }
    unsigned lookup(const void *ptr) {
        front_gate gate = front_gate_of(&window, true); // what is readable may have grown
        return front_gate_lookup(&gate, ptr);
    }
    size_t slab_of(const void *ptr) { return page_arena_slab_of(&window, ptr); }

    page_arena_window window;
};

TEST_F(FrontGateClassifier, TinyBlocksOfEveryBin) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        const size_class_bin &info = size_class_bins[bin];
        void *anchor = take(bin);
        void *block = take(bin);
        auto *bytes = static_cast<char *>(block);

        front_gate_block live = front_gate_classify(block);
        EXPECT_EQ(live.kind, FRONT_GATE_TINY);
        EXPECT_EQ(live.bin, bin);
        EXPECT_EQ(live.slab, slab_of(block));
        EXPECT_EQ(live.usable, size_class_usable(bin));
        EXPECT_EQ(lookup(block), size_class_place(bin));
        EXPECT_EQ(lookup(anchor), size_class_place(bin));
        EXPECT_TRUE(front_gate_intact(bin, block));

        for (char *inside : {bytes + 1, bytes + 8, bytes + info.size - 1}) {
            EXPECT_EQ(lookup(inside), 0u) << "not aligned as blocks are";
            front_gate_block interior = front_gate_classify(inside);
            EXPECT_EQ(interior.kind, FRONT_GATE_TINY_INTERIOR);
            EXPECT_EQ(interior.usable, 0u);
        }
        // Behind the last block of the slab there may be some bytes left.
        auto *slab = static_cast<char *>(page_arena_address(&window, slab_of(block)));
        for (size_t at = size_t{info.blocks} * info.size; at < ARENA_SLAB; at += 16) {
            EXPECT_EQ(front_gate_classify(slab + at).kind, FRONT_GATE_TINY_INTERIOR)
                << bin << " " << at;
        }

        shared_pool_put(bin, &block, 1);
        front_gate_block free_block = front_gate_classify(block);
        EXPECT_EQ(free_block.kind, FRONT_GATE_TINY_FREE);
        EXPECT_EQ(free_block.usable, 0u);
        shared_pool_put(bin, &anchor, 1);
        EXPECT_EQ(front_gate_classify(anchor).kind, FRONT_GATE_FREE_PAGES) << "its slab is gone";
        front_gate gate = front_gate_of(&window, true);
        EXPECT_EQ(front_gate_registry(&gate, anchor), 0u);
    }
}

#if HAK_HEADER
TEST_F(FrontGateClassifier, OverwrittenHeaderIsSeen) {
    void *first = take(2);
    void *second = take(2);
    ASSERT_EQ(static_cast<char *>(second) - static_cast<char *>(first), 32);
    static_cast<char *>(first)[31] = 'x'; // one byte too many
    EXPECT_FALSE(front_gate_intact(2, second));
    EXPECT_EQ(lookup(second), 0u);
    static_cast<unsigned char *>(first)[31] = FRONT_GATE_MAGIC | 3;
    EXPECT_FALSE(front_gate_intact(2, second));
    shared_pool_put(2, &first, 1);
    shared_pool_put(2, &second, 1);
}
#endif

TEST_F(FrontGateClassifier, LargeBlocks) {
    constexpr size_t kSlabs = 100; // over several SuperSlabs
    auto *block =
        static_cast<char *>(large_block_alloc(kSlabs * ARENA_SLAB, ARENA_SLAB, LARGE_BLOCK_ZERO));
    ASSERT_NE(block, nullptr);
    front_gate_block live = front_gate_classify(block);
    EXPECT_EQ(live.kind, FRONT_GATE_LARGE);
    EXPECT_EQ(live.usable, kSlabs * ARENA_SLAB);
    EXPECT_EQ(live.slab, slab_of(block));
    for (size_t slab = 0; slab < kSlabs; slab++) {
        char *at = block + slab * ARENA_SLAB;
        EXPECT_EQ(front_gate_classify(at + 16).kind, FRONT_GATE_LARGE_INTERIOR) << slab;
        EXPECT_EQ(front_gate_classify(at + ARENA_SLAB - 1).kind, FRONT_GATE_LARGE_INTERIOR) << slab;
        if (slab > 0) {
            EXPECT_EQ(front_gate_classify(at).kind, FRONT_GATE_LARGE_INTERIOR) << slab;
        }
        EXPECT_EQ(lookup(at), 0u);
        EXPECT_EQ(lookup(at + 16), 0u);
    }
    // The slabs by which a block shrinks are free.
    ASSERT_EQ(large_block_resize(&window, block, slab_of(block), 10 * ARENA_SLAB), block);
    EXPECT_EQ(front_gate_classify(block + 9 * ARENA_SLAB).kind, FRONT_GATE_LARGE_INTERIOR);
    EXPECT_EQ(front_gate_classify(block + 10 * ARENA_SLAB).kind, FRONT_GATE_FREE_PAGES);
    ASSERT_TRUE(large_block_free(&window, block, slab_of(block)));
    EXPECT_EQ(front_gate_classify(block).kind, FRONT_GATE_FREE_PAGES);
    EXPECT_EQ(front_gate_classify(block + ARENA_SLAB).kind, FRONT_GATE_FREE_PAGES);
}

TEST_F(FrontGateClassifier, TheAllocatorsOwn) {
    thread_heap *heap = thread_heap_get();
    ASSERT_NE(heap, nullptr);
    for (size_t at : {0, 8, 16, ARENA_SLAB - 1}) {
        EXPECT_EQ(front_gate_classify(reinterpret_cast<char *>(heap) + at).kind,
                  FRONT_GATE_INTERNAL);
    }
    EXPECT_EQ(lookup(heap), 0u);
    // The control area and the metadata are not of the heap.
    EXPECT_EQ(front_gate_classify(window.base).kind, FRONT_GATE_FOREIGN);
    EXPECT_EQ(front_gate_classify(window.groups).kind, FRONT_GATE_FOREIGN);
    EXPECT_EQ(front_gate_classify(window.meta).kind, FRONT_GATE_FOREIGN);
    EXPECT_EQ(front_gate_classify(superslab_slab(&window, slab_of(heap))).kind, FRONT_GATE_FOREIGN);
}

TEST_F(FrontGateClassifier, Foreign) {
    int local;
    static int global;
    std::string text(100, 'x');
    for (const void *ptr : {static_cast<const void *>(&local), static_cast<const void *>(&global),
                            static_cast<const void *>(text.data()), pointer(0), pointer(16),
                            pointer(UINT64_MAX), pointer(UINT64_MAX / 2)}) {
        EXPECT_EQ(front_gate_classify(ptr).kind, FRONT_GATE_FOREIGN);
        EXPECT_EQ(front_gate_classify(ptr).usable, 0u);
        EXPECT_EQ(lookup(ptr), 0u);
    }
    auto base = reinterpret_cast<uintptr_t>(window.base);
    EXPECT_EQ(front_gate_classify(pointer(base - 1)).kind, FRONT_GATE_FOREIGN);
    EXPECT_EQ(front_gate_classify(page_arena_address(&window, window.slabs)).kind,
              FRONT_GATE_FOREIGN);
    EXPECT_EQ(front_gate_classify(page_arena_address(&window, page_arena_high())).kind,
              FRONT_GATE_FOREIGN);
}

TEST_F(FrontGateClassifier, AnyBitPatternGetsAnAnswer) {
    std::mt19937_64 random(7);
    void *tiny = take(4);
    void *large = large_block_alloc(1 << 20, 1, LARGE_BLOCK_ANY);
    auto base = reinterpret_cast<uintptr_t>(window.base);
    size_t heap = page_arena_high() << ARENA_SLAB_SHIFT;
    front_gate gate = front_gate_of(&window, true);
    size_t seen[FRONT_GATE_INTERNAL + 1] = {};
    for (int i = 0; i < 1000000; i++) {
        uint64_t bits = random() >> random() % 64;
        uint64_t around = (random() & 0xfffff) - 0x80000;
        switch (i % 6) {
        case 0:
            bits = random();
            break;
        case 1:
            bits = base + bits % (window.slabs << ARENA_SLAB_SHIFT);
            break;
        case 2:
            bits = base + bits % heap;
            break;
        case 3:
            bits = reinterpret_cast<uintptr_t>(tiny) + around;
            break;
        case 4:
            bits = reinterpret_cast<uintptr_t>(large) + around;
            break;
        default:
            break;
        }
        front_gate_block what = front_gate_classify(pointer(bits));
        ASSERT_LE(what.kind, FRONT_GATE_INTERNAL);
        seen[what.kind]++;
        bool outside = bits - base >= heap;
        ASSERT_TRUE(!outside || what.kind == FRONT_GATE_FOREIGN) << std::hex << bits;
        unsigned found = front_gate_lookup(&gate, pointer(bits));
        ASSERT_EQ(found % 2, 0u);
        ASSERT_LT(found, unsigned{SIZE_CLASS_PLACES});
        if (!HAK_HEADER) { // the byte below may look like a header
            bool in_tiny = what.kind == FRONT_GATE_TINY || what.kind == FRONT_GATE_TINY_FREE ||
                           what.kind == FRONT_GATE_TINY_INTERIOR;
            bool aligned = bits % HAK_MIN_ALIGN == 0; // as every block is
            ASSERT_EQ(found, in_tiny && aligned ? size_class_place(what.bin) : 0u);
        }
    }
    for (front_gate_kind kind : {FRONT_GATE_FOREIGN, FRONT_GATE_TINY_FREE, FRONT_GATE_TINY_INTERIOR,
                                 FRONT_GATE_LARGE_INTERIOR, FRONT_GATE_FREE_PAGES}) {
        EXPECT_GT(seen[kind], 0u) << kind;
    }
    shared_pool_put(4, &tiny, 1);
    EXPECT_TRUE(large_block_free(&window, large, slab_of(large)));
}

TEST_F(FrontGateClassifier, FaultsAreInWords) {
    std::set<std::string> texts;
    for (front_gate_kind kind : {FRONT_GATE_FOREIGN, FRONT_GATE_TINY_FREE, FRONT_GATE_TINY_INTERIOR,
                                 FRONT_GATE_FREE_PAGES, FRONT_GATE_INTERNAL}) {
        EXPECT_TRUE(texts.insert(front_gate_fault(kind)).second) << kind;
    }
    EXPECT_STREQ(front_gate_fault(FRONT_GATE_TINY_FREE), "block was freed");
    EXPECT_STREQ(front_gate_fault(FRONT_GATE_LARGE_INTERIOR),
                 front_gate_fault(FRONT_GATE_TINY_INTERIOR));
    EXPECT_STRNE(front_gate_fault(FRONT_GATE_TINY), "");
}

} // namespace
