// SPDX-License-Identifier: Apache-2.0
#include "boxes/thread_heap/thread_heap.h"

#include "boxes/fast_cache/fast_cache.h"
#include "boxes/shared_pool/shared_pool.h"

#include <array>
#include <thread>

#include <benchmark/benchmark.h>

namespace {

void Current(benchmark::State &state) {
    thread_heap_get();
    for (auto _ : state) {
        benchmark::DoNotOptimize(thread_heap_current());
    }
}
BENCHMARK(Current);

void Get(benchmark::State &state) {
    for (auto _ : state) {
        benchmark::DoNotOptimize(thread_heap_get());
    }
}
BENCHMARK(Get);

// A thread's life, without a heap and with one: the difference is what birth and exit cost.
void ThreadWithoutHeap(benchmark::State &state) {
    for (auto _ : state) {
        std::thread([] {}).join();
    }
}
BENCHMARK(ThreadWithoutHeap)->UseRealTime();

void ThreadWithHeap(benchmark::State &state) {
    for (auto _ : state) {
        std::thread([] { benchmark::DoNotOptimize(thread_heap_get()); }).join();
    }
}
BENCHMARK(ThreadWithHeap)->UseRealTime();

// Moves every cached block to the pool, as malloc_trim() does first.
void Flush(benchmark::State &state) {
    const auto count = static_cast<unsigned>(state.range(0));
    const unsigned bin = size_class_bin_of(100);
    for (auto _ : state) {
        thread_heap *heap = thread_heap_get();
        if (count > 0) {
            unsigned want = count;
            void **room = fast_cache_room(&heap->bins[bin], &want);
            fast_cache_fill(&heap->bins[bin],
                            shared_pool_take(bin, room, want, &heap->cold[bin].hint));
        }
        thread_heap_flush();
    }
}
BENCHMARK(Flush)->Arg(0)->Arg(1)->Arg(FAST_CACHE_NARROW);

// The part of every miss that does not depend on what is due.
void Tick(benchmark::State &state) {
    thread_heap *heap = thread_heap_get();
    uint64_t now = 1;
    for (auto _ : state) {
        thread_heap_tick(heap, now, UINT64_MAX);
    }
}
BENCHMARK(Tick);

} // namespace
