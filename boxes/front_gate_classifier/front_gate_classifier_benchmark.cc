// SPDX-License-Identifier: Apache-2.0
// Compiled once a strategy: what free() has to know of a pointer, by the page map and by the
// header.
#include "boxes/front_gate_classifier/front_gate_classifier.h"

#include "boxes/front_gate_classifier/front_gate.h"
#include "boxes/shared_pool/shared_pool.h"

#include <algorithm>
#include <random>
#include <vector>

#include <benchmark/benchmark.h>

namespace {

// Live blocks, in no order.
class Blocks {
  public:
    explicit Blocks(size_t count) : list(count), bin_(size_class_bin_of(100)) {
        page_arena_init();
        shared_pool_hint hint = ARENA_NONE;
        for (size_t i = 0; i < count;) {
            const auto want = static_cast<unsigned>(std::min<size_t>(count - i, 64));
            const unsigned got = shared_pool_take(bin_, &list[i], want, &hint);
            front_gate_mark(bin_, &list[i], got);
            i += got;
        }
        std::shuffle(list.begin(), list.end(), std::mt19937_64(1));
    }
    ~Blocks() {
        for (void *block : list) {
            shared_pool_put(bin_, &block, 1);
        }
    }
    Blocks(const Blocks &) = delete;
    Blocks &operator=(const Blocks &) = delete;

    std::vector<void *> list;

  private:
    unsigned bin_;
};

// The more blocks there are, the less is in the processor's caches when a block is asked about.
void Lookup(benchmark::State &state) {
    const Blocks blocks(static_cast<size_t>(state.range(0)));
    const page_arena_window window = page_arena_get_window();
    const front_gate gate = front_gate_of(&window, true);
    size_t i = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(front_gate_lookup(&gate, blocks.list[i]));
        i = i + 1 == blocks.list.size() ? 0 : i + 1;
    }
}
BENCHMARK(Lookup)->Arg(256)->Arg(8192)->Arg(100000)->Arg(1000000);

void LookupForeign(benchmark::State &state) {
    const Blocks blocks(1);
    const page_arena_window window = page_arena_get_window();
    const front_gate gate = front_gate_of(&window, true);
    int on_stack = 0;
    const void *ptr = &on_stack;
    for (auto _ : state) {
        benchmark::DoNotOptimize(ptr); // the compiler does not know where it points
        benchmark::DoNotOptimize(front_gate_lookup(&gate, ptr));
    }
}
BENCHMARK(LookupForeign);

void Mark(benchmark::State &state) {
    Blocks blocks(64);
    const unsigned bin = size_class_bin_of(100);
    for (auto _ : state) {
        front_gate_mark(bin, blocks.list.data(), 64);
        benchmark::ClobberMemory();
    }
    state.SetItemsProcessed(state.iterations() * 64);
}
BENCHMARK(Mark);

void Classify(benchmark::State &state) {
    const Blocks blocks(static_cast<size_t>(state.range(0)));
    size_t i = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(front_gate_classify(blocks.list[i]));
        i = i + 1 == blocks.list.size() ? 0 : i + 1;
    }
}
BENCHMARK(Classify)->Arg(256)->Arg(100000);

} // namespace
