// SPDX-License-Identifier: Apache-2.0
#include "boxes/shared_pool/shared_pool.h"

#include "boxes/page_arena/page_arena.h"
#include "boxes/size_class/size_class.h"

#include <array>
#include <vector>

#include <benchmark/benchmark.h>

namespace {

unsigned bin_of_block(size_t size) {
    return size_class_bin_of(size - SIZE_CLASS_HEADER);
}

// Takes a batch and puts it back: what a miss and an overflow cost behind the cache. Threads meet
// in the same slabs.
void TakeAndPut(benchmark::State &state) {
    const unsigned bin = bin_of_block(static_cast<size_t>(state.range(0)));
    const auto want = static_cast<unsigned>(state.range(1));
    std::array<void *, SHARED_POOL_BATCH_MOST> blocks;
    shared_pool_hint hint = ARENA_NONE;
    // Keeps the slab in use, so that no round makes and gives back a slab.
    void *anchor;
    shared_pool_hint none = ARENA_NONE;
    shared_pool_take(bin, &anchor, 1, &none);
    for (auto _ : state) {
        const unsigned got = shared_pool_take(bin, blocks.data(), want, &hint);
        shared_pool_put(bin, blocks.data(), got);
    }
    shared_pool_put(bin, &anchor, 1);
    state.SetItemsProcessed(state.iterations() * state.range(1));
}
BENCHMARK(TakeAndPut)
    ->ArgsProduct({{128, 256}, {1, 16, 32, 64, 128}})
    ->ThreadRange(1, 2)
    ->UseRealTime();

// Puts blocks back in no order, as a program frees them.
void PutScattered(benchmark::State &state) {
    const unsigned bin = bin_of_block(128);
    constexpr size_t kBlocks = 64 * 64;
    std::vector<void *> blocks(kBlocks);
    shared_pool_hint hint = ARENA_NONE;
    for (auto _ : state) {
        state.PauseTiming();
        for (size_t i = 0; i < kBlocks;) {
            i += shared_pool_take(bin, &blocks[i], 64, &hint);
        }
        // Neighbours end up 64 places apart.
        std::vector<void *> order;
        for (size_t i = 0; i < kBlocks; i++) {
            order.push_back(blocks[i % 64 * 64 + i / 64]);
        }
        state.ResumeTiming();
        for (size_t i = 0; i < kBlocks; i += 64) {
            shared_pool_put(bin, &order[i], 64);
        }
    }
    state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kBlocks));
}
BENCHMARK(PutScattered);

// Puts a slab to use and gives it back, again and again.
void FreshSlab(benchmark::State &state) {
    const unsigned bin = bin_of_block(4096);
    void *block;
    for (auto _ : state) {
        shared_pool_hint hint = ARENA_NONE;
        shared_pool_take(bin, &block, 1, &hint);
        shared_pool_put(bin, &block, 1);
    }
}
BENCHMARK(FreshSlab);

void BlockStart(benchmark::State &state) {
    const unsigned bin = bin_of_block(128);
    void *block;
    shared_pool_hint hint = ARENA_NONE;
    shared_pool_take(bin, &block, 1, &hint);
    for (auto _ : state) {
        benchmark::DoNotOptimize(shared_pool_block_start(bin, static_cast<char *>(block) + 5));
    }
    shared_pool_put(bin, &block, 1);
}
BENCHMARK(BlockStart);

} // namespace
