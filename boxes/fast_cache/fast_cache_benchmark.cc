// SPDX-License-Identifier: Apache-2.0
#include "boxes/fast_cache/fast_cache.h"

#include <array>
#include <vector>

#include <benchmark/benchmark.h>

namespace {

constexpr unsigned kMost = 64;

// A cache whose stack of 128 B blocks is wide and holds some of them.
struct Cache {
    Cache() : slots(FAST_CACHE_SLOTS, nullptr) {
        fast_cache_init(bins, slots.data(), true);
        bottom = bins[bin].top;
        widen();
        for (unsigned i = 0; i < kMost; i++) {
            blocks[i] = &memory[i];
        }
    }
    bool widen() {
        return fast_cache_widen(&bins[bin], &bottom, slots.data(), bin, FAST_CACHE_WIDE);
    }
    void fill(unsigned count) {
        void **room = fast_cache_room(&bins[bin], &count);
        std::copy_n(blocks.begin(), count, room);
        fast_cache_fill(&bins[bin], count);
    }
    const unsigned bin = size_class_bin_of(128 - SIZE_CLASS_HEADER);
    std::vector<void *> slots;
    std::array<std::array<char, 128>, kMost> memory;
    std::array<void *, kMost> blocks;
    fast_bin bins[SIZE_CLASS_BINS];
    void **bottom;
};

void PopAndPush(benchmark::State &state) {
    Cache cache;
    cache.fill(kMost / 2);
    for (auto _ : state) {
        void *block = fast_cache_pop(&cache.bins[cache.bin]);
        benchmark::DoNotOptimize(block);
        benchmark::DoNotOptimize(fast_cache_push(&cache.bins[cache.bin], block));
    }
}
BENCHMARK(PopAndPush);

void PopFromNothing(benchmark::State &state) {
    Cache cache;
    for (auto _ : state) {
        benchmark::DoNotOptimize(fast_cache_pop(&cache.bins[cache.bin]));
        benchmark::ClobberMemory();
    }
}
BENCHMARK(PopFromNothing);

void FillAndDetach(benchmark::State &state) {
    Cache cache;
    const auto count = static_cast<unsigned>(state.range(0));
    for (auto _ : state) {
        cache.fill(count);
        void **out = fast_cache_detach(&cache.bins[cache.bin], &cache.bottom, count);
        benchmark::DoNotOptimize(*out);
        fast_cache_settle(&cache.bins[cache.bin], &cache.bottom, out);
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(FillAndDetach)->Arg(8)->Arg(32)->Arg(64);

void WidenAndNarrow(benchmark::State &state) {
    Cache cache;
    for (auto _ : state) {
        fast_cache_narrow(&cache.bins[cache.bin], &cache.bottom, cache.slots.data(), cache.bin);
        benchmark::DoNotOptimize(cache.widen());
    }
}
BENCHMARK(WidenAndNarrow);

} // namespace
