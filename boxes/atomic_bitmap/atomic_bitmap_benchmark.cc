// SPDX-License-Identifier: Apache-2.0
#include "boxes/atomic_bitmap/atomic_bitmap.h"

#include <vector>

#include <benchmark/benchmark.h>

namespace {

// One word that all threads share, as the words of a slab are.
atomic_bitmap_word shared_word{~UINT64_C(0)};

void TakeAndPut(benchmark::State &state) {
    const auto most = static_cast<unsigned>(state.range(0));
    for (auto _ : state) {
        const uint64_t got = atomic_bitmap_take(&shared_word, most);
        if (got != 0) {
            atomic_bitmap_put(&shared_word, got);
        }
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(TakeAndPut)->Arg(1)->Arg(16)->Arg(64)->ThreadRange(1, 2)->UseRealTime();

// The lowest free bit lies behind `range` words without one.
void ClaimLowest(benchmark::State &state) {
    const auto words = static_cast<size_t>(state.range(0));
    std::vector<atomic_bitmap_word> bits(words);
    atomic_bitmap_put(&bits[words - 1], 1);
    for (auto _ : state) {
        const size_t bit = atomic_bitmap_claim_lowest(bits.data(), words * 64);
        atomic_bitmap_put(&bits[bit / 64], UINT64_C(1) << bit % 64);
    }
}
BENCHMARK(ClaimLowest)->RangeMultiplier(8)->Range(1, 64);

void ClaimRun(benchmark::State &state) {
    const auto count = static_cast<size_t>(state.range(0));
    std::vector<atomic_bitmap_word> bits(64);
    atomic_bitmap_put_run(bits.data(), 0, bits.size() * 64);
    for (auto _ : state) {
        benchmark::DoNotOptimize(atomic_bitmap_claim_run(bits.data(), 40, count));
        atomic_bitmap_put_run(bits.data(), 40, count);
    }
}
BENCHMARK(ClaimRun)->Arg(1)->Arg(16)->Arg(512);

void CountRun(benchmark::State &state) {
    std::vector<atomic_bitmap_word> bits(64);
    atomic_bitmap_put_run(bits.data(), 5, 1000);
    for (auto _ : state) {
        benchmark::DoNotOptimize(atomic_bitmap_count_run(bits.data(), 0, bits.size() * 64));
    }
}
BENCHMARK(CountRun);

} // namespace
