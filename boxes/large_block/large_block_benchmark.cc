// SPDX-License-Identifier: Apache-2.0
#include "boxes/large_block/large_block.h"

#include "boxes/page_arena/page_arena.h"

#include <benchmark/benchmark.h>

namespace {

bool release(void *block) {
    const page_arena_window window = page_arena_get_window();
    return large_block_free(&window, block, page_arena_slab_of(&window, block));
}

// From LARGE_BLOCK_EAGER on the pages go back to the kernel each time.
void AllocAndFree(benchmark::State &state) {
    page_arena_init();
    const auto size = static_cast<size_t>(state.range(0));
    for (auto _ : state) {
        void *block = large_block_alloc(size, 1, LARGE_BLOCK_ANY);
        *static_cast<volatile char *>(block) = 1;
        release(block);
    }
}
BENCHMARK(AllocAndFree)
    ->Arg(40 << 10)
    ->Arg(1 << 20)
    ->Arg(16 << 20)
    ->Arg(LARGE_BLOCK_EAGER)
    ->ThreadRange(1, 2)
    ->UseRealTime();

void AllocZeroAndFree(benchmark::State &state) {
    page_arena_init();
    const auto size = static_cast<size_t>(state.range(0));
    for (auto _ : state) {
        void *block = large_block_alloc(size, 1, LARGE_BLOCK_ZERO);
        *static_cast<volatile char *>(block) = 1;
        release(block);
    }
    state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(AllocZeroAndFree)->Arg(40 << 10)->Arg(1 << 20)->Arg(16 << 20);

void ResizeInPlace(benchmark::State &state) {
    page_arena_init();
    void *block = large_block_alloc(100 << 10, 1, LARGE_BLOCK_ANY);
    const page_arena_window window = page_arena_get_window();
    const size_t slab = page_arena_slab_of(&window, block);
    for (auto _ : state) {
        benchmark::DoNotOptimize(large_block_resize(&window, block, slab, 400 << 10));
        benchmark::DoNotOptimize(large_block_resize(&window, block, slab, 100 << 10));
    }
    release(block);
}
BENCHMARK(ResizeInPlace);

void Usable(benchmark::State &state) {
    page_arena_init();
    void *block = large_block_alloc(100 << 10, 1, LARGE_BLOCK_ANY);
    const page_arena_window window = page_arena_get_window();
    const size_t slab = page_arena_slab_of(&window, block);
    for (auto _ : state) {
        benchmark::DoNotOptimize(large_block_usable(&window, block, slab));
    }
    release(block);
}
BENCHMARK(Usable);

} // namespace
