#include "boxes/fast_cache/fast_cache.h"

#include <array>
#include <vector>

#include <benchmark/benchmark.h>

namespace {

constexpr unsigned kMost = 64;

// A cache whose stack of 128 B blocks is wide and holds some of them.
struct Cache {
    Cache() : slots(FAST_CACHE_SLOTS, nullptr) {
        fast_cache_init(bins, bottoms, slots.data(), true);
        fast_cache_widen(bins, bottoms, slots.data(), bin, FAST_CACHE_WIDE);
        for (unsigned i = 0; i < kMost; i++) {
            blocks[i] = &memory[i];
        }
    }
    const unsigned bin = size_class_bin_of(128 - SIZE_CLASS_HEADER);
    std::vector<void *> slots;
    std::array<std::array<char, 128>, kMost> memory;
    std::array<void *, kMost> blocks;
    fast_bin bins[SIZE_CLASS_BINS];
    void **bottoms[SIZE_CLASS_BINS];
};

void PopAndPush(benchmark::State &state) {
    Cache cache;
    fast_cache_fill(&cache.bins[cache.bin], cache.blocks.data(), kMost / 2);
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

void FillAndDrain(benchmark::State &state) {
    Cache cache;
    const auto count = static_cast<unsigned>(state.range(0));
    void **bottom = cache.bottoms[cache.bin];
    for (auto _ : state) {
        fast_cache_fill(&cache.bins[cache.bin], cache.blocks.data(), count);
        fast_cache_drain(&cache.bins[cache.bin], bottom, cache.blocks.data(), count);
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(FillAndDrain)->Arg(8)->Arg(32)->Arg(64);

void WidenAndNarrow(benchmark::State &state) {
    Cache cache;
    for (auto _ : state) {
        fast_cache_narrow(cache.bins, cache.bottoms, cache.slots.data(), cache.bin);
        benchmark::DoNotOptimize(fast_cache_widen(cache.bins, cache.bottoms, cache.slots.data(),
                                                  cache.bin, FAST_CACHE_WIDE));
    }
}
BENCHMARK(WidenAndNarrow);

} // namespace
