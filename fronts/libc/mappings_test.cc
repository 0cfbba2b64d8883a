// SPDX-License-Identifier: Apache-2.0
// A process has 65,530 mappings (vm.max_map_count), and the program needs some for itself: blocks
// that grow leave almost all of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <pthread.h>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "boxes/base/base.h"

namespace {

constexpr size_t kMib = size_t{1} << 20;
// In the hardened flavour there are guards, two mappings each, of slabs and of blocks, and runs
// without rights besides.
constexpr long kMost = 2000 + (HAK_HARDENED ? 2 * (128 + 128 + 32) : 0);

long mappings() {
    std::ifstream maps("/proc/self/maps");
    return std::count(std::istreambuf_iterator<char>(maps), {}, '\n');
}

bool program_has_room() {
    pthread_t thread;
    if (pthread_create(
            &thread, nullptr, [](void *p) { return p; }, nullptr) != 0) {
        return false;
    }
    pthread_join(thread, nullptr);
    void *own = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return own != MAP_FAILED && munmap(own, 4096) == 0;
}

struct Shape {
    const char *name;
    size_t blocks, from, to, step; // bytes
    size_t marks;                  // bytes between those that are written
    size_t threads, rounds;
};

const Shape shapes[] = {
    {"many, grown once", 12000, 1000000, 1400000, kMib, kMib, 1, 1},
    {"many, grown by far", 3000, 1000000, 20000000, 4 * kMib, 3 * kMib, 1, 1},
    {"short ones", 6000, 150000, 400000, 100000, 100000, 1, 1},
    {"filled", 100, kMib, 6 * kMib, kMib, 512, 1, 1},
    {"side by side, in small steps", 16, 4096, 8 * kMib, 4096, 512, 1, 1},
    {"by threads", 120, 100000, 5 * kMib, 200000, 512, 4, 1},
    {"freed, and grown again", 1200, 500000, 5 * kMib, 700000, kMib, 1, 4},
};

class Mappings : public testing::TestWithParam<Shape> {};

// The blocks of one thread; each byte written says which block and where.
class Blocks {
  public:
    Blocks(const Shape &shape, size_t count, size_t seed)
        : shape_(shape), blocks_(count), seed_(seed) {}

    bool Grow() {
        for (char *&block : blocks_) {
            block = static_cast<char *>(malloc(shape_.from));
            if (block == nullptr) {
                return false;
            }
            Mark(block, 0, shape_.from);
        }
        for (size_t size = shape_.from; size < shape_.to;) {
            const size_t next = std::min(size + shape_.step, shape_.to);
            for (char *&block : blocks_) {
                auto *now = static_cast<char *>(realloc(block, next));
                if (now == nullptr) {
                    return false;
                }
                block = now;
                Mark(block, size, next);
            }
            size = next;
        }
        return true;
    }
    bool Free(bool shrink) {
        bool good = true;
        for (char *&block : blocks_) {
            for (size_t at = 0; at < shape_.to; at += shape_.marks) {
                good = good && block[at] == Value(block_index(block), at);
            }
            if (shrink) {
                block = static_cast<char *>(realloc(block, shape_.from));
            }
            free(block);
        }
        return good;
    }

  private:
    size_t block_index(char *const &block) const {
        return static_cast<size_t>(&block - blocks_.data());
    }
    char Value(size_t index, size_t at) const {
        return static_cast<char>((index + seed_) * 31 + at / shape_.marks * 7 + 1);
    }
    void Mark(char *&block, size_t from, size_t to) {
        for (size_t at = (from + shape_.marks - 1) / shape_.marks * shape_.marks; at < to;
             at += shape_.marks) {
            block[at] = Value(block_index(block), at);
        }
    }

    const Shape &shape_;
    std::vector<char *> blocks_;
    size_t seed_;
};

TEST_P(Mappings, AreFewWhateverGrows) {
    const Shape &shape = GetParam();
    for (size_t round = 0; round < shape.rounds; round++) {
        std::vector<Blocks> mine;
        std::vector<char> good(shape.threads, 0);
        for (size_t i = 0; i < shape.threads; i++) {
            mine.emplace_back(shape, shape.blocks / shape.threads, i + round);
        }
        auto each = [&](auto what) {
            std::vector<std::thread> threads;
            for (size_t i = 0; i < shape.threads; i++) {
                threads.emplace_back([&, i] { good[i] = what(mine[i]); });
            }
            for (std::thread &thread : threads) {
                thread.join();
            }
            EXPECT_EQ(std::count(good.begin(), good.end(), 1), static_cast<long>(shape.threads));
        };
        each([](Blocks &blocks) { return blocks.Grow(); });
        EXPECT_LT(mappings(), kMost);
        EXPECT_TRUE(program_has_room());
        each([&](Blocks &blocks) { return blocks.Free(round % 2 == 1); });
        EXPECT_LT(mappings(), kMost);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Mappings, testing::ValuesIn(shapes), [](const auto &shape) {
    std::string name = shape.param.name;
    name.erase(std::remove_if(name.begin(), name.end(), [](char c) { return isalnum(c) == 0; }),
               name.end());
    return name;
});

// The mappings that the kernel grants a process.
long most_mappings() {
    long most = 0;
    std::ifstream("/proc/sys/vm/max_map_count") >> most;
    return most;
}

// Mappings of the program's own, none of which merges with its neighbours.
class OwnMappings {
  public:
    explicit OwnMappings(long count) : size_(static_cast<size_t>(count) * kPage) {
        at_ = static_cast<char *>(
            mmap(nullptr, size_, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        for (size_t page = 0; at_ != MAP_FAILED && page < size_; page += 2 * kPage) {
            good_ = good_ && mprotect(at_ + page, kPage, PROT_NONE) == 0;
        }
    }
    OwnMappings(const OwnMappings &) = delete;
    ~OwnMappings() { munmap(at_, size_); }
    bool good() const { return at_ != MAP_FAILED && good_; }

  private:
    static constexpr size_t kPage = 4096;
    size_t size_;
    char *at_ = nullptr;
    bool good_ = true;
};

// The program takes every mapping that is left. What the kernel refuses then, in the middle of a
// move perhaps, leaves blocks as they were.
TEST(MappingsAtRest, BlocksKeepTheirContentsWhereNoneIsLeft) {
    constexpr size_t kPage = 4096;
    unsigned seed = 1;
    auto next = [&](unsigned most) { return (seed = seed * 1103515245 + 12345) / 65536 % most; };
    std::vector<std::pair<char *, size_t>> blocks(60);
    size_t refused = 0;
    auto mill = [&](int steps) {
        for (int step = 0; step < steps; step++) {
            auto &[p, size] = blocks[next(static_cast<unsigned>(blocks.size()))];
            for (size_t at = 0; at < size; at += kPage) {
                ASSERT_EQ(p[at], static_cast<char>(at / kPage + 1)) << size;
            }
            if (next(12) == 0) {
                free(p);
                p = nullptr;
                size = 0;
                continue;
            }
            size_t want =
                next(3) == 0 ? size + next(700000) + 1 : 300000 + next(32768) * size_t{99};
            auto *now = static_cast<char *>(realloc(p, want));
            if (now == nullptr) {
                refused++;
                continue;
            }
            for (size_t at = 0; at < want; at += kPage) {
                now[at] = static_cast<char>(at / kPage + 1);
            }
            p = now;
            size = want;
        }
    };
    mill(1500);
    const size_t room = (static_cast<size_t>(std::min(most_mappings(), 300000L)) + 2) * kPage;
    auto *own =
        static_cast<char *>(mmap(nullptr, room, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(own, MAP_FAILED);
    for (size_t at = 0; at < room && mprotect(own + at, kPage, PROT_NONE) == 0; at += 2 * kPage) {
    }
    mill(1500);
    munmap(own, room);
    EXPECT_EQ(refused, 0u);
    mill(500);
    for (auto &block : blocks) {
        free(block.first);
    }
}

// Then the program uses nearly all that is left. Blocks still come, grow and go, and the program
// can start threads.
TEST(MappingsAtRest, OfEightyThousandLargeBlocksAreFew) {
    std::vector<void *> blocks(80000);
    for (void *&block : blocks) {
        block = malloc(300000);
        ASSERT_NE(block, nullptr);
        *static_cast<char *>(block) = 1;
    }
    EXPECT_LT(mappings(), kMost);
    const OwnMappings own(std::min(most_mappings(), 65530L) - 2 * kMost);
    EXPECT_TRUE(own.good());
    EXPECT_TRUE(program_has_room());
    for (size_t i = 0; i < blocks.size(); i += 2) {
        free(blocks[i]);
    }
    EXPECT_TRUE(program_has_room());
    for (size_t i = 1; i < blocks.size(); i += 32) {
        blocks[i] = realloc(blocks[i], 2000000);
        ASSERT_NE(blocks[i], nullptr);
        EXPECT_EQ(*static_cast<char *>(blocks[i]), 1);
    }
    EXPECT_TRUE(program_has_room());
    EXPECT_LT(mappings(), most_mappings() - kMost);
    for (size_t i = 1; i < blocks.size(); i += 2) {
        free(blocks[i]);
    }
    EXPECT_TRUE(program_has_room());
}

} // namespace
