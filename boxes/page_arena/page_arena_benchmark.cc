// SPDX-License-Identifier: Apache-2.0
#include "boxes/page_arena/page_arena.h"

#include <vector>

#include <benchmark/benchmark.h>

namespace {

void ClaimAndRelease(benchmark::State &state) {
    page_arena_init();
    const auto slabs = static_cast<size_t>(state.range(0));
    bool zero;
    for (auto _ : state) {
        const size_t slab = page_arena_claim(slabs, ARENA_SLAB, &zero);
        page_arena_release(slab, slabs, true);
    }
}
BENCHMARK(ClaimAndRelease)->Arg(1)->Arg(16)->Arg(64)->ThreadRange(1, 2)->UseRealTime();

// The first fit lies behind `range` runs that are too short.
void ClaimBehindHoles(benchmark::State &state) {
    page_arena_init();
    const auto holes = static_cast<size_t>(state.range(0));
    bool zero;
    std::vector<size_t> slabs;
    for (size_t i = 0; i < holes * 2; i++) {
        slabs.push_back(page_arena_claim(1, ARENA_SLAB, &zero));
    }
    for (size_t i = 0; i < slabs.size(); i += 2) {
        page_arena_release(slabs[i], 1, true);
    }
    for (auto _ : state) {
        const size_t slab = page_arena_claim(2, ARENA_SLAB, &zero);
        page_arena_release(slab, 2, true);
    }
    for (size_t i = 1; i < slabs.size(); i += 2) {
        page_arena_release(slabs[i], 1, true);
    }
}
BENCHMARK(ClaimBehindHoles)->Arg(16)->Arg(256)->Arg(4096);

// A slab that is written and whose page goes back to the kernel: system call and page fault.
void CleanAndTouch(benchmark::State &state) {
    page_arena_init();
    const page_arena_window window = page_arena_get_window();
    bool zero;
    const size_t slab = page_arena_claim(1, ARENA_SLAB, &zero);
    auto *bytes = static_cast<volatile char *>(page_arena_address(&window, slab));
    for (auto _ : state) {
        bytes[0] = 1;
        benchmark::DoNotOptimize(page_arena_clean(slab, 1));
    }
    page_arena_release(slab, 1, false);
}
BENCHMARK(CleanAndTouch);

} // namespace
