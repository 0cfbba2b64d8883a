// SPDX-License-Identifier: Apache-2.0
// Any sequence of operations on a bitmap gives what the same ones on a std::bitset give.
#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "tools/build/fuzz.h"

#include <bitset>

namespace {

constexpr size_t kBits = 256;
using Model = std::bitset<kBits>;

Model Run(size_t from, size_t count) {
    Model bits;
    for (size_t i = from; i < from + count; i++) {
        bits.set(i);
    }
    return bits;
}

uint64_t Word(const Model &model, size_t word) {
    return ((model >> (word * 64)) & Model(~uint64_t{0})).to_ullong();
}

// Takes the lowest `most` bits of a word out of the model.
uint64_t TakeLowest(Model &model, size_t word, size_t most) {
    uint64_t got = 0;
    for (size_t bit = word * 64; bit < word * 64 + 64 && most > 0; bit++) {
        if (model[bit]) {
            model[bit] = false;
            got |= uint64_t{1} << bit % 64;
            most--;
        }
    }
    return got;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzInput input(data, size);
    atomic_bitmap_word words[kBits / 64] = {};
    Model model;
    while (input.More()) {
        unsigned what = static_cast<unsigned>(input.Below(9));
        size_t bit = input.Below(kBits);
        size_t word = bit / 64;
        uint64_t mask = uint64_t{1} << bit % 64;
        size_t count = what < 4 ? input.Below(kBits - bit + 1) : 0;
        Model run = Run(bit, count);
        switch (what) {
        case 0:
            atomic_bitmap_put_run(words, bit, count);
            model |= run;
            break;
        case 1:
            atomic_bitmap_clear_run(words, bit, count);
            model &= ~run;
            break;
        case 2: {
            bool all = (model & run) == run;
            FUZZ_CHECK(atomic_bitmap_claim_run(words, bit, count) == all);
            model = all ? model & ~run : model;
            break;
        }
        case 3:
            FUZZ_CHECK(atomic_bitmap_count_run(words, bit, count) == (model & run).count());
            break;
        case 4: {
            unsigned most = 1 + static_cast<unsigned>(input.Below(64));
            FUZZ_CHECK(atomic_bitmap_take(&words[word], most) == TakeLowest(model, word, most));
            break;
        }
        case 5:
            FUZZ_CHECK(atomic_bitmap_claim(words, bit) == model[bit]);
            model[bit] = false;
            break;
        case 6: {
            unsigned from = static_cast<unsigned>(bit % 64);
            mask = atomic_bitmap_mask(from, static_cast<unsigned>(input.Below(64 - from + 1)));
            if ((mask & Word(model, word)) == 0) {
                FUZZ_CHECK(atomic_bitmap_put_clear(&words[word], mask, input.Below(2) != 0) ==
                           Word(model, word));
            } else {
                FUZZ_CHECK(atomic_bitmap_put(&words[word], mask) == Word(model, word));
            }
            model |= Model(mask) << (word * 64);
            break;
        }
        case 7: {
            size_t bits = bit / 64 * 64;
            size_t lowest = (model & Run(0, bits))._Find_first();
            FUZZ_CHECK(atomic_bitmap_claim_lowest(words, bits) ==
                       (lowest == kBits ? ATOMIC_BITMAP_NONE : lowest));
            if (lowest < kBits) {
                model[lowest] = false;
            }
            break;
        }
        default:
            FUZZ_CHECK(atomic_bitmap_test(words, bit) == model[bit]);
        }
        for (size_t i = 0; i < kBits / 64; i++) {
            FUZZ_CHECK(words[i].load() == Word(model, i));
        }
    }
    return 0;
}
