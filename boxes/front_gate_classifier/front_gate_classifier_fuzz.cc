// SPDX-License-Identifier: Apache-2.0
// Any bit pattern as a pointer gets an answer and no fault, on a heap of tiny and large blocks that
// the input makes and frees. What is known of the pointer has to be in the answer.
#include "boxes/front_gate_classifier/front_gate_classifier.h"

#include "boxes/front_gate_classifier/front_gate.h"
#include "boxes/large_block/large_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/shared_pool/shared_pool.h"
#include "tools/build/fuzz.h"

#include <vector>

namespace {

struct Block {
    uintptr_t at;
    unsigned bin; // 0: large
    size_t size;  // all of its bytes
};

class Heap {
  public:
    Heap() {
        FUZZ_CHECK(page_arena_init());
        window_ = page_arena_get_window();
        old_gate_ = front_gate_of(&window_, true);
    }
    ~Heap() {
        while (!blocks_.empty()) {
            Free(blocks_.back());
            blocks_.pop_back();
        }
        size_t cursor = 0;
        do { // the pages of every other heap, too
            page_arena_purge(&cursor, 0, SIZE_MAX, SIZE_MAX);
        } while (cursor != 0);
    }

    void Step(FuzzInput &input) {
        size_t what = input.Below(8);
        if (what == 0 && blocks_.size() < 64) {
            Take(1 + static_cast<unsigned>(input.Below(SIZE_CLASS_BINS - 1)));
        } else if (what == 1 && blocks_.size() < 64) {
            size_t size = 1 + (input.Number(1) << 16);
            auto *p = large_block_alloc(size, size_t{1} << input.Below(24),
                                        static_cast<large_block_use>(input.Below(3)));
            FUZZ_CHECK(p != nullptr);
            size_t usable = large_block_usable(&window_, p, page_arena_slab_of(&window_, p));
            FUZZ_CHECK(usable >= size);
            blocks_.push_back({reinterpret_cast<uintptr_t>(p), 0, usable});
        } else if (what == 2 && !blocks_.empty()) {
            Block &block = blocks_[input.Below(blocks_.size())];
            Free(block);
            block = blocks_.back();
            blocks_.pop_back();
        } else if (what == 3 && !blocks_.empty()) { // what a program writes must not mislead
            const Block &block = blocks_[input.Below(blocks_.size())];
            uintptr_t offset = input.Number(3) % (block.size - SIZE_CLASS_HEADER);
            *reinterpret_cast<uint8_t *>(block.at + offset) = static_cast<uint8_t>(input.Number(1));
        } else {
            Ask(Pointer(input));
        }
    }

  private:
    void Take(unsigned bin) {
        void *p = nullptr;
        shared_pool_hint hint = ARENA_NONE;
        FUZZ_CHECK(shared_pool_take(bin, &p, 1, &hint) == 1);
        front_gate_mark(bin, &p, 1);
        blocks_.push_back({reinterpret_cast<uintptr_t>(p), bin, size_class_bins[bin].size});
    }

    void Free(const Block &block) {
        void *p = reinterpret_cast<void *>(block.at);
        if (block.bin != 0) {
            shared_pool_put(block.bin, &p, 1);
        } else {
            FUZZ_CHECK(large_block_free(&window_, p, page_arena_slab_of(&window_, p)));
        }
        FUZZ_CHECK(front_gate_classify(p).kind == FRONT_GATE_FREE_PAGES ||
                   front_gate_classify(p).kind == FRONT_GATE_TINY_FREE);
    }

    // Anything, or something near to what there is.
    uintptr_t Pointer(FuzzInput &input) {
        auto base = reinterpret_cast<uintptr_t>(window_.base);
        uintptr_t places[] = {
            0,
            base,
            reinterpret_cast<uintptr_t>(window_.groups),
            reinterpret_cast<uintptr_t>(window_.meta),
            base + (page_arena_high() << ARENA_SLAB_SHIFT),
            base + (input.Below(page_arena_high() % 65536 + 1) << ARENA_SLAB_SHIFT),
            blocks_.empty() ? 0 : blocks_[input.Below(blocks_.size())].at,
            reinterpret_cast<uintptr_t>(this),
        };
        size_t place = input.Below(std::size(places));
        uintptr_t near = input.Number(place == 0 ? 8 : 1 + static_cast<unsigned>(input.Below(4)));
        return input.Flag() ? places[place] - near : places[place] + near;
    }

    void Ask(uintptr_t at) {
        const void *p = reinterpret_cast<const void *>(at);
        front_gate_block what = front_gate_classify(p);
        FUZZ_CHECK(what.kind <= FRONT_GATE_INTERNAL);
        bool live = what.kind == FRONT_GATE_TINY || what.kind == FRONT_GATE_LARGE;
        FUZZ_CHECK((what.usable != 0) == live);
        FUZZ_CHECK(*front_gate_fault(what.kind) != '\0');
        uintptr_t offset = at - reinterpret_cast<uintptr_t>(window_.base);
        if (offset >= page_arena_high() << ARENA_SLAB_SHIFT) {
            FUZZ_CHECK(what.kind == FRONT_GATE_FOREIGN);
        }
        bool tiny = what.kind == FRONT_GATE_TINY || what.kind == FRONT_GATE_TINY_FREE ||
                    what.kind == FRONT_GATE_TINY_INTERIOR;
        front_gate gate = front_gate_of(&window_, true);
        unsigned registered = front_gate_registry(&gate, p);
        bool aligned = at % HAK_MIN_ALIGN == 0; // as every block is
        FUZZ_CHECK(registered == (tiny && aligned ? size_class_place(what.bin) : 0));
        for (const front_gate &each : {gate, old_gate_, front_gate{}}) {
            unsigned found = front_gate_lookup(&each, p);
            FUZZ_CHECK(found % 2 == 0 && found < SIZE_CLASS_PLACES);
            if (!HAK_HEADER && each.map != nullptr) {
                FUZZ_CHECK(found == registered);
            }
        }
        bool known = false;
        for (const Block &block : blocks_) {
            if (at - block.at >= block.size) {
                continue;
            }
            known = true;
            bool start = at == block.at;
            if (block.bin == 0) {
                FUZZ_CHECK(what.kind == (start ? FRONT_GATE_LARGE : FRONT_GATE_LARGE_INTERIOR));
                FUZZ_CHECK(what.usable == (start ? block.size : 0));
            } else {
                FUZZ_CHECK(what.kind == (start ? FRONT_GATE_TINY : FRONT_GATE_TINY_INTERIOR));
                FUZZ_CHECK(what.bin == block.bin);
                FUZZ_CHECK(what.usable == (start ? size_class_usable(block.bin) : 0));
            }
            if (start) {
                FUZZ_CHECK(front_gate_lookup(&gate, p) == size_class_place(block.bin));
            }
        }
        FUZZ_CHECK(known || !live);
    }

    page_arena_window window_;
    front_gate old_gate_; // as a thread has it that has not been on the slow path since
    std::vector<Block> blocks_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzInput input(data, size);
    Heap heap;
    while (input.More()) {
        heap.Step(input);
    }
    return 0;
}
