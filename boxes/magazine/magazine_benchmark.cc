// SPDX-License-Identifier: Apache-2.0
#include "boxes/magazine/magazine.h"

#include <algorithm>
#include <array>

#include <benchmark/benchmark.h>

namespace {

void LoadAndUnload(benchmark::State &state) {
    const auto count = static_cast<unsigned>(state.range(0));
    std::array<void *, MAGAZINE_BLOCKS> blocks = {};
    magazine magazine = {};
    for (auto _ : state) {
        unsigned most = count;
        std::copy_n(blocks.begin(), count, magazine_room(&magazine, &most));
        magazine_load(&magazine, most);
        benchmark::DoNotOptimize(*magazine_unload(&magazine, &most));
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(LoadAndUnload)->Arg(1)->Arg(16)->Arg(MAGAZINE_BLOCKS);

} // namespace
