// SPDX-License-Identifier: Apache-2.0
// In C a struct and a function may share a name, as stat and stat() do; -Wshadow minds it in C++.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#include "boxes/statistics/statistics.h"
#pragma GCC diagnostic pop

#include "boxes/page_arena/page_arena.h"

#include <benchmark/benchmark.h>

namespace {

// The walk over all metadata, for a heap of `range` MiB.
void Gather(benchmark::State &state) {
    page_arena_init();
    const size_t slabs = static_cast<size_t>(state.range(0)) << 20 >> ARENA_SLAB_SHIFT;
    bool zero;
    const size_t first = page_arena_claim(slabs, ARENA_SLAB, &zero);
    static struct hak_stats stats;
    for (auto _ : state) {
        hak_stats(&stats);
        benchmark::DoNotOptimize(stats);
    }
    page_arena_release(first, slabs, false);
}
BENCHMARK(Gather)->Arg(1)->Arg(64)->Arg(1024);

} // namespace
