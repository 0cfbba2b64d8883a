// SPDX-License-Identifier: Apache-2.0
#include "boxes/size_class/size_class.h"

#include <array>
#include <random>

#include <benchmark/benchmark.h>

namespace {

// Sizes that follow no pattern a branch predictor could learn.
std::array<size_t, 4096> sizes(size_t most) {
    std::array<size_t, 4096> list;
    std::mt19937_64 random(1);
    for (size_t &size : list) {
        size = random() % most + 1;
    }
    return list;
}

void BinOf(benchmark::State &state) {
    const auto list = sizes(static_cast<size_t>(state.range(0)));
    size_t i = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(size_class_bin_of(list[i++ % list.size()]));
    }
}
BENCHMARK(BinOf)->Arg(256)->Arg(1024)->Arg(SIZE_CLASS_TINY_MAX);

void HitPlace(benchmark::State &state) {
    const auto list = sizes(1000);
    uint8_t table[SIZE_CLASS_TABLE];
    size_class_fill_table(table);
    size_t i = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(size_class_hit_place(table, list[i++ % list.size()]));
    }
}
BENCHMARK(HitPlace);

void BlockAt(benchmark::State &state) {
    const auto list = sizes(SIZE_CLASS_SLAB - 1);
    const unsigned bin = size_class_bin_of(100);
    size_t i = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(
            size_class_block_at(bin, static_cast<uint32_t>(list[i++ % list.size()])));
    }
}
BENCHMARK(BlockAt);

void AlignedBin(benchmark::State &state) {
    const auto list = sizes(4000);
    size_t i = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(size_class_aligned_bin(list[i++ % list.size()], 64));
    }
}
BENCHMARK(AlignedBin);

} // namespace
