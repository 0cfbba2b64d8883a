#include "boxes/magazine/magazine.h"

#include <array>

#include <benchmark/benchmark.h>

namespace {

void LoadAndUnload(benchmark::State &state) {
    const auto count = static_cast<unsigned>(state.range(0));
    std::array<void *, MAGAZINE_BLOCKS> blocks = {};
    magazine magazine = {};
    for (auto _ : state) {
        benchmark::DoNotOptimize(magazine_load(&magazine, blocks.data(), count));
        benchmark::DoNotOptimize(magazine_unload(&magazine, blocks.data(), count));
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(LoadAndUnload)->Arg(1)->Arg(16)->Arg(MAGAZINE_BLOCKS);

} // namespace
