// SPDX-License-Identifier: Apache-2.0
#include "boxes/atomic_bitmap/atomic_bitmap.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <bitset>
#include <memory>
#include <random>
#include <sys/mman.h>
#include <thread>
#include <vector>

namespace {

constexpr size_t kBits = 192; // three words: a run may lie in one, two or all of them
using Model = std::bitset<kBits>;

struct Bitmap {
    std::array<atomic_bitmap_word, kBits / 64> words = {};

    explicit Bitmap(const Model &bits) {
        for (size_t i = 0; i < kBits; i++) {
            if (bits[i]) {
                words[i / 64] |= uint64_t{1} << i % 64;
            }
        }
    }
    Model model() {
        Model bits;
        for (size_t i = 0; i < kBits; i++) {
            bits[i] = atomic_bitmap_test(words.data(), i);
        }
        return bits;
    }
};

Model run(size_t from, size_t count) {
    Model bits;
    for (size_t i = from; i < from + count; i++) {
        bits.set(i);
    }
    return bits;
}

Model random_bits(std::mt19937_64 &random) {
    // Sparse, half and dense ones, so that runs are found as well as not.
    unsigned kind = random() % 4;
    Model bits;
    for (size_t i = 0; i < kBits; i++) {
        bits[i] = kind == 3 ? true : random() % 64 < (kind == 0 ? 4 : kind == 1 ? 32 : 62);
    }
    return bits;
}

TEST(AtomicBitmap, Mask) {
    for (unsigned from = 0; from < 64; from++) {
        for (unsigned count = 0; from + count <= 64; count++) {
            uint64_t expected = 0;
            for (unsigned i = from; i < from + count; i++) {
                expected |= uint64_t{1} << i;
            }
            ASSERT_EQ(atomic_bitmap_mask(from, count), expected) << from << " " << count;
        }
    }
}

TEST(AtomicBitmap, TakeGetsTheLowestBits) {
    std::mt19937_64 random(1);
    std::vector<uint64_t> values = {0, 1, uint64_t{1} << 63, ~uint64_t{0}};
    for (int i = 0; i < 200; i++) {
        values.push_back(random() & (i % 2 == 0 ? random() : ~uint64_t{0}));
    }
    for (uint64_t value : values) {
        for (unsigned most = 1; most <= 64; most++) {
            atomic_bitmap_word word{value};
            uint64_t expected = 0;
            uint64_t rest = value;
            for (unsigned i = 0; i < most && rest != 0; i++) {
                expected |= rest & -rest;
                rest &= rest - 1;
            }
            ASSERT_EQ(atomic_bitmap_count(&word), std::bitset<64>(value).count());
            ASSERT_EQ(atomic_bitmap_take(&word, most), expected);
            ASSERT_EQ(word.load(), rest);
        }
    }
}

TEST(AtomicBitmap, ClaimAndPutOneBit) {
    Bitmap bitmap{Model()};
    for (size_t bit = 0; bit < kBits; bit++) {
        EXPECT_FALSE(atomic_bitmap_claim(bitmap.words.data(), bit));
        EXPECT_EQ(atomic_bitmap_put(&bitmap.words[bit / 64], uint64_t{1} << bit % 64), 0u);
        EXPECT_EQ(bitmap.model(), run(bit, 1));
        // A second put sees the first: how a block freed twice is found.
        EXPECT_EQ(atomic_bitmap_put(&bitmap.words[bit / 64], uint64_t{1} << bit % 64),
                  uint64_t{1} << bit % 64);
        EXPECT_TRUE(atomic_bitmap_claim(bitmap.words.data(), bit));
        EXPECT_TRUE(bitmap.model().none());
    }
}

// As atomic_bitmap_put() as long as no bit is there already; and that one is, is seen.
void check_put_clear(bool alone) {
    std::mt19937_64 random(1);
    for (int i = 0; i < 1000; i++) {
        uint64_t before = random() & random();
        uint64_t more = random() & ~before;
        atomic_bitmap_word word = before;
        ASSERT_EQ(atomic_bitmap_put_clear(&word, more, alone), before);
        ASSERT_EQ(word, before | more);
        uint64_t twice = uint64_t{1} << random() % 64;
        uint64_t had = word & twice;
        ASSERT_EQ(atomic_bitmap_put_clear(&word, twice, alone) & twice, had);
    }
}

TEST(AtomicBitmap, PutClear) {
    check_put_clear(false);
    check_put_clear(true);
}

TEST(AtomicBitmapStorm, PutClearLosesNoBit) {
    atomic_bitmap_word word = 0;
    std::atomic<int> faults = 0;
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; t++) {
        threads.emplace_back([&word, &faults, t] {
            uint64_t mine = uint64_t{0x1111111111111111} << t;
            for (int i = 0; i < 20000; i++) {
                faults += (atomic_bitmap_put_clear(&word, mine, false) & mine) != 0;
                uint64_t got = 0;
                while (got != mine) {
                    // The lowest ones may be another's: they go back at once.
                    uint64_t some = atomic_bitmap_take(&word, 64);
                    got |= some & mine;
                    if ((some & ~mine) != 0) {
                        faults += (atomic_bitmap_put_clear(&word, some & ~mine, false) & some &
                                   ~mine) != 0;
                    }
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(faults, 0);
    EXPECT_EQ(word, 0u);
}

TEST(AtomicBitmap, RunsAgainstAModel) {
    std::mt19937_64 random(2);
    for (size_t from = 0; from < kBits; from++) {
        for (size_t count = 0; from + count <= kBits; count++) {
            Model before = random_bits(random);
            Model mask = run(from, count);

            Bitmap claimed{before};
            bool all = (before & mask) == mask;
            ASSERT_EQ(atomic_bitmap_claim_run(claimed.words.data(), from, count), all);
            ASSERT_EQ(claimed.model(), all ? before & ~mask : before) << from << " " << count;

            Bitmap whole{before | mask};
            ASSERT_TRUE(atomic_bitmap_claim_run(whole.words.data(), from, count));
            ASSERT_EQ(whole.model(), before & ~mask);

            Bitmap put{before};
            ASSERT_EQ(atomic_bitmap_count_run(put.words.data(), from, count),
                      (before & mask).count());
            atomic_bitmap_put_run(put.words.data(), from, count);
            ASSERT_EQ(put.model(), before | mask) << from << " " << count;

            Bitmap ensured{before};
            atomic_bitmap_ensure_run(ensured.words.data(), from, count);
            ASSERT_EQ(ensured.model(), before | mask) << from << " " << count;

            Bitmap cleared{before};
            atomic_bitmap_clear_run(cleared.words.data(), from, count);
            ASSERT_EQ(cleared.model(), before & ~mask) << from << " " << count;
        }
    }
}

TEST(AtomicBitmap, EnsureDoesNotWriteWhatIsSet) {
    void *page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(page, MAP_FAILED);
    auto *words = static_cast<atomic_bitmap_word *>(page);
    atomic_bitmap_ensure_run(words, 5, 150);
    ASSERT_EQ(mprotect(page, 4096, PROT_READ), 0);
    atomic_bitmap_ensure_run(words, 5, 150); // a write would end the program
    atomic_bitmap_ensure_run(words, 64, 64);
    atomic_bitmap_ensure_run(words, 9, 0);
    EXPECT_EQ(atomic_bitmap_count_run(words, 0, 256), 150u);
    munmap(page, 4096);
}

TEST(AtomicBitmap, ClaimLowest) {
    Bitmap bitmap{run(5, 1) | run(63, 3) | run(191, 1)};
    for (size_t expected : {size_t{5}, size_t{63}, size_t{64}, size_t{65}, size_t{191}}) {
        EXPECT_EQ(atomic_bitmap_claim_lowest(bitmap.words.data(), kBits), expected);
    }
    EXPECT_EQ(atomic_bitmap_claim_lowest(bitmap.words.data(), kBits), ATOMIC_BITMAP_NONE);
    Bitmap behind{run(64, 1)};
    EXPECT_EQ(atomic_bitmap_claim_lowest(behind.words.data(), 64), ATOMIC_BITMAP_NONE);
    EXPECT_EQ(atomic_bitmap_claim_lowest(behind.words.data(), 0), ATOMIC_BITMAP_NONE);
}

// Threads claim and return bits in every way there is; a shadow knows the owner of each.
TEST(AtomicBitmapStorm, NoBitIsOwnedTwiceAndNoneIsLost) {
    constexpr int kThreads = 4;
    constexpr int kRounds = 40000;
    Bitmap bitmap{run(0, kBits)};
    std::array<std::atomic<int>, kBits> owner = {};
    std::atomic<int> faults{0};
    auto work = [&](int me) {
        std::mt19937_64 random(100 + static_cast<unsigned>(me));
        std::vector<size_t> held;
        auto claimed = [&](size_t bit) {
            faults += owner[bit].exchange(me) != 0;
            held.push_back(bit);
        };
        for (int round = 0; round < kRounds; round++) {
            switch (random() % 4) {
            case 0: {
                size_t word = random() % bitmap.words.size();
                uint64_t got = atomic_bitmap_take(&bitmap.words[word], 1 + random() % 64);
                for (; got != 0; got &= got - 1) {
                    claimed(word * 64 + static_cast<size_t>(__builtin_ctzll(got)));
                }
                break;
            }
            case 1: {
                size_t from = random() % kBits;
                size_t count = 1 + random() % (kBits - from);
                if (atomic_bitmap_claim_run(bitmap.words.data(), from, count)) {
                    for (size_t i = from; i < from + count; i++) {
                        claimed(i);
                    }
                }
                break;
            }
            case 2: {
                size_t bit = atomic_bitmap_claim_lowest(bitmap.words.data(), kBits);
                if (bit != ATOMIC_BITMAP_NONE) {
                    claimed(bit);
                }
                break;
            }
            default: {
                size_t bit = random() % kBits;
                if (atomic_bitmap_claim(bitmap.words.data(), bit)) {
                    claimed(bit);
                }
            }
            }
            size_t keep = random() % 8 == 0 ? 0 : random() % 24;
            while (held.size() > keep) {
                size_t bit = held.back();
                held.pop_back();
                faults += owner[bit].exchange(0) != me;
                uint64_t mask = uint64_t{1} << bit % 64;
                faults += (atomic_bitmap_put(&bitmap.words[bit / 64], mask) & mask) != 0;
            }
        }
        for (size_t bit : held) {
            faults += owner[bit].exchange(0) != me;
            atomic_bitmap_put_run(bitmap.words.data(), bit, 1);
        }
    };
    std::vector<std::thread> threads;
    for (int i = 1; i <= kThreads; i++) {
        threads.emplace_back(work, i);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(faults.load(), 0);
    EXPECT_TRUE(bitmap.model().all());
}

} // namespace
