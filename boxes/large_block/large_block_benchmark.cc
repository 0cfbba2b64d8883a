#include "boxes/large_block/large_block.h"

#include "boxes/page_arena/page_arena.h"

#include <benchmark/benchmark.h>

namespace {

size_t slab_of(const void *ptr) {
    const page_arena_window window = page_arena_get_window();
    return page_arena_slab_of(&window, ptr);
}

// From LARGE_BLOCK_EAGER on the pages go back to the kernel each time.
void AllocAndFree(benchmark::State &state) {
    page_arena_init();
    const auto size = static_cast<size_t>(state.range(0));
    for (auto _ : state) {
        void *block = large_block_alloc(size, 1, false);
        *static_cast<volatile char *>(block) = 1;
        large_block_free(block, slab_of(block));
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
        void *block = large_block_alloc(size, 1, true);
        *static_cast<volatile char *>(block) = 1;
        large_block_free(block, slab_of(block));
    }
    state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(AllocZeroAndFree)->Arg(40 << 10)->Arg(1 << 20)->Arg(16 << 20);

void ResizeInPlace(benchmark::State &state) {
    page_arena_init();
    void *block = large_block_alloc(100 << 10, 1, false);
    const size_t slab = slab_of(block);
    for (auto _ : state) {
        benchmark::DoNotOptimize(large_block_resize(block, slab, 400 << 10));
        benchmark::DoNotOptimize(large_block_resize(block, slab, 100 << 10));
    }
    large_block_free(block, slab);
}
BENCHMARK(ResizeInPlace);

void Usable(benchmark::State &state) {
    page_arena_init();
    void *block = large_block_alloc(100 << 10, 1, false);
    const size_t slab = slab_of(block);
    for (auto _ : state) {
        benchmark::DoNotOptimize(large_block_usable(block, slab));
    }
    large_block_free(block, slab);
}
BENCHMARK(Usable);

} // namespace
