// SPDX-License-Identifier: Apache-2.0
// Model checking of far blocks: every interleaving of threads that allocate, free, resize and look
// up blocks in a table of few entries, and every fork in between. The kernel is part of the model:
// it gives an address away again as soon as nothing is mapped there.
#include "boxes/far_block/far_block.h"

#include "backends/os.h"
#include "boxes/far_block/far_block_model.h"
#include "tools/model_checker/model_checker.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace {

using model::Op;
using model::Program;

constexpr size_t kEntries = 2; // of the table that are not in use for ever
constexpr size_t kPlaces = 4;  // where the kernel maps
constexpr size_t kThreads = 3;
constexpr uintptr_t kPlace = uintptr_t{1} << 40; // place p is at (p + 1) times that

enum Kind { ALLOC, FREE, RESIZE, LOOK, FREE_SHARED };

Op alloc(unsigned gib) {
    return {ALLOC, gib};
}
const Op kFree = {FREE}; // the thread's block
Op resize(unsigned gib) {
    return {RESIZE, gib};
}
const Op kLook = {LOOK};              // is the thread's block found, and how large?
const Op kFreeShared = {FREE_SHARED}; // the block that thread 0 had at the start, whoever else does

constexpr size_t bytes_of(size_t gib) {
    return gib << 30;
}

class Far : public model::Checker {
  public:
    explicit Far(std::vector<Program> programs) : Checker(std::move(programs)) {
        size_t each;
        auto *table = static_cast<volatile char *>(model_table(&each));
        memset(const_cast<char *>(table), 0, each * FAR_BLOCK_MOST);
        *model_used() = 0;
        cells(table, sizeof(uint64_t), kEntries * each / sizeof(uint64_t), "table");
        cells(model_used(), sizeof(size_t), 1, "used");
        ignore(table, each * FAR_BLOCK_MOST, 1); // held for ever
        data(&shared_, sizeof shared_);
    }

    static Far &current() { return static_cast<Far &>(Checker::current()); }

    // Thread t has a block at the start.
    void has(size_t t, unsigned gib) { before(t, alloc(gib)); }
    void is_shared() { shared_.shared = shared_.blocks[0].start; }
    void extends(bool can) { shared_.extends = can; }
    void has_room_for(uint64_t mappings) { shared_.room = mappings; }

    // The kernel.
    os_result map(void *at, size_t size, void **got) {
        uint64_t place = step("the kernel maps at place", [=]() -> uint64_t {
            if (at != nullptr) {
                Place &p = place_of(at);
                uintptr_t end = start_of(p) + p.bytes;
                if (reinterpret_cast<uintptr_t>(at) != end || shared_.extends == 0) {
                    return kPlaces;
                }
                p.bytes += size;
                return static_cast<uint64_t>(&p - shared_.places.data());
            }
            for (size_t i = 0; i < shared_.room; i++) {
                if (shared_.places[i].bytes == 0) {
                    shared_.places[i] = {size, running() + 1};
                    return i;
                }
            }
            return kPlaces;
        });
        if (place == kPlaces) {
            return at == nullptr ? OS_NO_MEMORY : OS_TAKEN;
        }
        if (got != nullptr) {
            *got = reinterpret_cast<void *>((place + 1) * kPlace);
        }
        return OS_OK;
    }

    void release(void *at, size_t size) {
        step("the kernel unmaps", [=] {
            Place &p = place_of(at);
            auto from = reinterpret_cast<uintptr_t>(at) - start_of(p);
            if (from + size != p.bytes) {
                note("what is unmapped is not mapped, or not all of it");
            }
            p.bytes = from;
            return reinterpret_cast<uint64_t>(at) / kPlace - 1;
        });
    }

    os_result move(void *from, void *to, size_t size) {
        step("the kernel moves pages", [=] {
            if (place_of(from).bytes < size || place_of(to).bytes < size) {
                note("pages are moved from or to where nothing is mapped");
            }
            return uint64_t{0};
        });
        return OS_OK;
    }

  protected:
    void perform(const Op &op) override {
        Block &mine = shared_.blocks[running()];
        Block &giving = shared_.giving[running()];
        if (first() && (op.kind == FREE || op.kind == RESIZE)) {
            giving = std::exchange(mine, {0, 0}); // the address may be another block's soon
        }
        void *start = reinterpret_cast<void *>(op.kind == LOOK ? mine.start : giving.start);
        switch (op.kind) {
        case ALLOC: {
            void *block = far_block_alloc(bytes_of(op.a), 1);
            if (block != nullptr) {
                own({reinterpret_cast<uintptr_t>(block), bytes_of(op.a)});
            }
            break;
        }
        case FREE:
            if (start == nullptr) {
                break;
            }
            if (!far_block_free(start)) {
                note("a block cannot be freed");
            }
            giving = {0, 0};
            break;
        case RESIZE: {
            if (start == nullptr) {
                break;
            }
            void *block = far_block_resize(start, bytes_of(op.a));
            own(block == nullptr ? giving
                                 : Block{reinterpret_cast<uintptr_t>(block), bytes_of(op.a)});
            giving = {0, 0};
            break;
        }
        case LOOK:
            if (start != nullptr && far_block_usable(start) != mine.bytes) {
                note("a block has another size, or is not found");
            }
            break;
        default:
            if (far_block_free(reinterpret_cast<void *>(shared_.shared))) {
                shared_.blocks[0] = {0, 0};
                shared_.freed++;
            }
            break;
        }
    }

    std::string name_of(const Op &op) const override {
        const char *const names[] = {"allocates ", "frees", "resizes to ", "looks", "frees for 0"};
        bool counts = op.kind == ALLOC || op.kind == RESIZE;
        return names[op.kind] + (counts ? std::to_string(op.a) : "");
    }

    void at_end(bool is_child) override {
        if (shared_.shared != 0 && (is_child ? shared_.freed > 1 : shared_.freed != 1)) {
            note("a block that two threads free is freed by both, or by none");
        }
        size_t mapped = 0;
        for (const Place &place : shared_.places) {
            mapped += place.bytes;
        }
        size_t owned = 0;
        size_t blocks = 0;
        for (size_t t = 0; t < threads(); t++) {
            const Block &block = shared_.blocks[t];
            owned += block.bytes;
            blocks += block.start != 0;
            if (block.start != 0 && alive(t) &&
                place_of(reinterpret_cast<void *>(block.start)).bytes != block.bytes) {
                note("a block is not mapped as it should be");
            }
        }
        if (is_child || faulty()) {
            return; // What threads that are gone were at is lost.
        }
        if (mapped != owned) {
            note("what is mapped is not what there is of blocks");
        }
        // All entries but those of the blocks can be had.
        size_t each;
        auto *table = static_cast<volatile char *>(model_table(&each));
        size_t used = 0;
        for (size_t i = 0; i < kEntries; i++) {
            uint64_t start = *reinterpret_cast<volatile uint64_t *>(table + i * each);
            used += start != 0;
        }
        if (used != blocks) {
            note("entries are lost");
        }
    }

    std::string describe() const override {
        std::string text;
        for (size_t t = 0; t < threads(); t++) {
            text += "thread " + std::to_string(t) + " has " +
                    std::to_string(shared_.blocks[t].bytes >> 30) + " GiB at place " +
                    std::to_string(shared_.blocks[t].start / kPlace) + " (0: none)\n";
        }
        return text;
    }

  private:
    struct Block {
        uint64_t start, bytes;
    };
    struct Place {
        uint64_t bytes; // mapped, from its start on; 0: none
        uint64_t by;    // the thread that mapped it, from 1 on
    };

    Place &place_of(const void *at) {
        return shared_.places[(reinterpret_cast<uintptr_t>(at) / kPlace - 1) % kPlaces];
    }
    uintptr_t start_of(const Place &place) const {
        return static_cast<uintptr_t>(&place - shared_.places.data() + 1) * kPlace;
    }

    void own(Block block) {
        for (size_t t = 0; t < threads(); t++) {
            if (shared_.blocks[t].start == block.start && alive(t)) {
                note("two threads have one block");
            }
        }
        shared_.blocks[running()] = block;
    }

    struct {
        std::array<Block, kThreads> blocks;
        std::array<Block, kThreads> giving; // to a call that is under way
        std::array<Place, kPlaces> places;
        uint64_t extends;        // what is behind a mapping is free
        uint64_t room = kPlaces; // for so many mappings
        uint64_t shared;         // a block that several threads free; 0: none
        uint64_t freed;          // times
    } shared_ = {};
};

void expect_sound(Far &far, size_t least_states) {
    ASSERT_TRUE(far.check()) << far.report();
    EXPECT_GE(far.states(), least_states);
    EXPECT_GE(far.ends(), 1u);
    printf("%zu states, %zu ends, %zu forks\n", far.states(), far.ends(), far.children());
}

TEST(FarBlockModel, BlocksComeAndGo) {
    Far far({{alloc(1), kLook, kFree, alloc(2), kLook}, {alloc(3), kLook, kFree, alloc(1), kLook}});
    expect_sound(far, 1000);
}

TEST(FarBlockModel, ThreeThreadsWantTwoEntries) {
    Far far({{alloc(1), kLook, kFree}, {alloc(2), kLook, kFree}, {alloc(3), kFree}});
    expect_sound(far, 1000);
}

TEST(FarBlockModel, AddressesAreGivenAwayAgain) {
    Far far({{kFree, alloc(2), kLook}, {kFree, alloc(1), kLook}, {alloc(3), kLook}});
    far.has(0, 1);
    far.has(1, 2);
    expect_sound(far, 1000);
}

TEST(FarBlockModel, ABlockGrowsWhereItIs) {
    Far far({{resize(3), kLook, resize(1), kLook, kFree}, {alloc(1), kLook, kFree}});
    far.extends(true);
    far.has(0, 2);
    expect_sound(far, 500);
}

TEST(FarBlockModel, ABlockMovesWhileOthersComeAndGo) {
    Far far({{resize(3), kLook, kFree}, {kFree, alloc(2), kLook}, {alloc(1), kLook}});
    far.has(0, 2);
    far.has(1, 1);
    expect_sound(far, 1000);
}

TEST(FarBlockModel, TheKernelRefuses) {
    Far far({{resize(3), kLook, kFree}, {alloc(1), kLook, kFree, alloc(2)}, {alloc(2), kLook}});
    far.has_room_for(2);
    far.has(0, 2);
    expect_sound(far, 1000);
}

TEST(FarBlockModel, OneOfTwoFreesABlock) {
    Far far({{kFreeShared}, {kFreeShared}, {kFreeShared}});
    far.has(0, 1);
    far.is_shared();
    expect_sound(far, 100);
}

TEST(FarBlockModel, AChildKeepsItsBlocks) {
    Far far({{alloc(1), kLook, kFree}, {resize(3), kLook}, {kFree, alloc(2), kLook}});
    far.has(1, 2);
    far.has(2, 1);
    far.with_forks({kLook, kFree, alloc(2), kLook});
    expect_sound(far, 1000);
}

} // namespace

extern "C" {
os_result os_map(void *at, size_t size, void **got) {
    return Far::current().map(at, size, got);
}
void os_release(void *at, size_t size) {
    Far::current().release(at, size);
}
os_result os_move(void *from, void *to, size_t size) {
    return Far::current().move(from, to, size);
}
}
