// SPDX-License-Identifier: Apache-2.0
// Any sequence of claims, releases, moves and purges gives what the plainest model of the arena
// gives: which run is claimed, whether it is zero, what is in it, and the statistics.
#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"
#include "tools/build/fuzz.h"

#include <algorithm>
#include <vector>

static uint64_t clock_ms = 1000;
extern "C" uint64_t __wrap_os_now_ms(void) {
    return clock_ms;
}
extern "C" int64_t settings_values[SETTING_COUNT];

namespace {

constexpr size_t kMostHeld = 8192; // slabs; what a heap of 512 MiB has

struct Slab {
    bool mapped = false;
    bool free = false;
    bool dirty = false;
    uint64_t mark = 0; // what its first word holds
};

struct Extent {
    size_t from, slabs;
};

class Arena {
  public:
    Arena() {
        FUZZ_CHECK(page_arena_init());
        window_ = page_arena_get_window();
        See();
    }
    ~Arena() {
        settings_values[SETTING_LIMIT] = 0;
        settings_values[SETTING_DECAY_MS] = -1; // the model gives back what it says, and no more
        while (!held_.empty()) {
            Release(held_.back(), true);
            held_.pop_back();
        }
        Purge(0, SIZE_MAX);
        FUZZ_CHECK(page_arena_held() == 0 && page_arena_dirty() == 0);
    }

    void Step(FuzzInput &input) {
        switch (input.Below(10)) {
        case 0:
        case 1:
        case 2:
            Claim(1 + Size(input), size_t{ARENA_SLAB} << (input.Flag() ? input.Below(11) : 0));
            break;
        case 3:
            if (Extent *run = Pick(input)) {
                ClaimAt(run->from + run->slabs, 1 + Size(input), run);
            }
            break;
        case 4: // all of a run
            if (Extent *run = Pick(input)) {
                Release(*run, input.Flag());
                *run = held_.back();
                held_.pop_back();
            }
            break;
        case 5: // its tail or its head
            if (Extent *run = Pick(input); run != nullptr && run->slabs > 1) {
                size_t keep = 1 + input.Below(run->slabs - 1);
                bool tail = input.Flag();
                size_t gone = run->slabs - keep;
                Release({tail ? run->from + keep : run->from, gone}, input.Flag());
                run->from += tail ? 0 : gone;
                run->slabs = keep;
            }
            break;
        case 6:
            if (Extent *run = Pick(input)) {
                Move(static_cast<size_t>(run - held_.data()));
            }
            break;
        case 7:
            if (Extent *run = Pick(input)) {
                FUZZ_CHECK(page_arena_clean(run->from, run->slabs));
                for (size_t i = run->from; i < run->from + run->slabs; i++) {
                    slabs_[i].dirty = false;
                    slabs_[i].mark = 0;
                }
                CheckContents(*run);
            }
            break;
        case 8:
            Purge(0, input.Flag() ? input.Below(300) : SIZE_MAX);
            break;
        default:
            clock_ms += input.Below(256);
            Purge(static_cast<uint32_t>(input.Below(256)), SIZE_MAX);
            break;
        }
        CheckStatistics();
    }

  private:
    // Short runs often, runs over several groups now and then.
    static size_t Size(FuzzInput &input) {
        size_t kind = input.Below(8);
        return kind == 0 ? input.Below(3000) : kind < 3 ? input.Below(256) : input.Below(16);
    }
    Extent *Pick(FuzzInput &input) {
        return held_.empty() ? nullptr : &held_[input.Below(std::min(held_.size(), size_t{256}))];
    }
    uint64_t &Word(size_t slab) {
        return *static_cast<uint64_t *>(page_arena_address(&window_, slab));
    }

    // Slabs that the arena has mapped since the last look. All of them were free then.
    void See() {
        slabs_.resize(page_arena_high());
        for (size_t i = 0; i < slabs_.size(); i++) {
            if (!slabs_[i].mapped && page_arena_reaches(i) &&
                atomic_bitmap_test(window_.groups[i / ARENA_GROUP_SLABS].mapped,
                                   i % ARENA_GROUP_SLABS)) {
                slabs_[i].mapped = slabs_[i].free = true;
            }
        }
    }

    // The lowest free run that is all dirty, or the lowest one.
    size_t Find(size_t count, size_t align, bool dirty) {
        size_t length = 0;
        for (size_t i = 0; i < slabs_.size(); i++) {
            if (length == 0 && reinterpret_cast<uintptr_t>(&Word(i)) % align != 0) {
                continue;
            }
            length = slabs_[i].free && (!dirty || slabs_[i].dirty) ? length + 1 : 0;
            if (length == count) {
                return i + 1 - count;
            }
        }
        return ARENA_NONE;
    }
    size_t Find(size_t count, size_t align) {
        size_t from = Find(count, align, true);
        return from != ARENA_NONE ? from : Find(count, align, false);
    }

    void Own(Extent run, bool zero) {
        bool clean = true;
        for (size_t i = run.from; i < run.from + run.slabs; i++) {
            FUZZ_CHECK(slabs_[i].free);
            slabs_[i].free = false;
            clean = clean && !slabs_[i].dirty;
        }
        FUZZ_CHECK(zero == clean);
        CheckContents(run);
        Write(run);
    }
    void Write(Extent run) {
        for (size_t i = run.from; i < run.from + run.slabs; i++) {
            Word(i) = slabs_[i].mark = ++next_mark_;
        }
    }
    void CheckContents(Extent run) {
        for (size_t i = run.from; i < run.from + run.slabs; i++) {
            FUZZ_CHECK(Word(i) == slabs_[i].mark);
        }
    }

    size_t Held() {
        size_t sum = 0;
        for (const Extent &run : held_) {
            sum += run.slabs;
        }
        return sum;
    }

    void Claim(size_t count, size_t align) {
        if (Held() + count > kMostHeld) {
            return;
        }
        size_t expected = Find(count, align);
        bool zero = false;
        size_t from = page_arena_claim(count, align, &zero);
        FUZZ_CHECK(from != ARENA_NONE);
        if (expected == ARENA_NONE) { // it has grown, and what it has claimed was free
            See();
            expected = Find(count, align);
        }
        FUZZ_CHECK(from == expected);
        Own({from, count}, zero);
        held_.push_back({from, count});
    }

    void ClaimAt(size_t from, size_t count, Extent *run) {
        bool free = true;
        bool mapped = from + count <= slabs_.size();
        for (size_t i = from; i < std::min(from + count, slabs_.size()); i++) {
            free = free && (slabs_[i].free || !slabs_[i].mapped);
            mapped = mapped && slabs_[i].mapped;
        }
        if (free && Held() + count > kMostHeld) {
            return;
        }
        // What is not mapped may be where the heap can grow.
        bool zero = false;
        bool got = page_arena_claim_at(from, count, &zero);
        FUZZ_CHECK(mapped ? got == free : free || !got);
        See();
        if (got) {
            Own({from, count}, zero);
            run->slabs += count;
        }
    }

    void Release(Extent run, bool dirty) {
        CheckContents(run);
        // A holder that says "clean" has kept its word.
        if (!dirty) {
            for (size_t i = run.from; i < run.from + run.slabs; i++) {
                Word(i) = slabs_[i].dirty ? Word(i) : 0;
                slabs_[i].mark = slabs_[i].dirty ? slabs_[i].mark : 0;
            }
        }
        page_arena_release(run.from, run.slabs, dirty);
        bool any_dirty = dirty;
        for (size_t i = run.from; i < run.from + run.slabs; i++) {
            slabs_[i].free = true;
            slabs_[i].dirty = slabs_[i].dirty || dirty;
            any_dirty = any_dirty || slabs_[i].dirty;
        }
        if (any_dirty) {
            size_t last = (run.from + run.slabs - 1) / ARENA_SUPERSLAB_SLABS;
            freed_at_.resize(std::max(freed_at_.size(), last + 1));
            for (size_t i = run.from / ARENA_SUPERSLAB_SLABS; i <= last; i++) {
                freed_at_[i] = clock_ms;
            }
        }
    }

    void Move(size_t index) {
        size_t before = held_.size();
        Claim(held_[index].slabs, ARENA_SLAB);
        if (held_.size() == before) {
            return;
        }
        Extent from = held_[index];
        Extent to = held_.back();
        if (!page_arena_move(from.from, to.from,
                             from.slabs)) { // kernels before 5.7, several mappings
            for (size_t i = 0; i < to.slabs; i++) {
                slabs_[to.from + i].mark = Word(to.from + i); // undefined
            }
            CheckContents(from);
            return;
        }
        for (size_t i = 0; i < to.slabs; i++) {
            slabs_[to.from + i].mark = slabs_[from.from + i].mark;
            slabs_[from.from + i].mark = 0;
            slabs_[from.from + i].dirty = false;
        }
        CheckContents(from);
        CheckContents(to);
    }

    void Purge(uint32_t age, size_t budget) {
        std::vector<bool> gone(slabs_.size());
        size_t expected = 0;
        for (size_t i = 0; i < slabs_.size() && expected < budget; i++) {
            size_t superslab = i / ARENA_SUPERSLAB_SLABS;
            gone[i] = slabs_[i].free && slabs_[i].dirty && clock_ms - freed_at_[superslab] >= age;
            expected += gone[i];
        }
        size_t cursor = 0;
        size_t done = 0;
        do {
            done += page_arena_purge(&cursor, age, budget - done, SIZE_MAX).slabs;
        } while (cursor != 0 && done < budget);
        FUZZ_CHECK(done == expected);
        for (size_t i = 0; i < slabs_.size(); i++) {
            if (gone[i]) {
                slabs_[i].dirty = false;
                slabs_[i].mark = 0;
            }
        }
    }

    void CheckStatistics() {
        size_t dirty = 0;
        for (const Slab &slab : slabs_) {
            dirty += slab.free && slab.dirty;
        }
        FUZZ_CHECK(page_arena_dirty() == dirty);
        FUZZ_CHECK(page_arena_held() == Held());
    }

    page_arena_window window_;
    std::vector<Slab> slabs_;
    std::vector<uint64_t> freed_at_; // by SuperSlab
    std::vector<Extent> held_;
    uint64_t next_mark_ = 0;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzInput input(data, size);
    Arena arena;
    for (int steps = 0; steps < 100 && input.More(); steps++) {
        arena.Step(input);
    }
    return 0;
}
