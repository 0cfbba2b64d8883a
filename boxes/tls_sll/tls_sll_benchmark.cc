// SPDX-License-Identifier: Apache-2.0
#include "boxes/tls_sll/tls_sll.h"

#include <array>
#include <vector>

#include <benchmark/benchmark.h>

namespace {

// Links are written into the blocks: `range(1)` bytes apart, they need a cache line each.
void PushAndPop(benchmark::State &state) {
    const auto count = static_cast<unsigned>(state.range(0));
    const auto size = static_cast<size_t>(state.range(1));
    std::vector<char> memory(count * size + 16);
    std::vector<void *> blocks(count);
    for (size_t i = 0; i < count; i++) {
        blocks[i] = &memory[i * size];
    }
    tls_sll list = {};
    for (auto _ : state) {
        tls_sll_push(&list, blocks.data(), count);
        benchmark::DoNotOptimize(tls_sll_pop(&list, blocks.data(), count));
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(PushAndPop)->ArgsProduct({{1, 16, 64}, {128, 256}});

} // namespace
