// SPDX-License-Identifier: Apache-2.0
#include "boxes/thread_heap/thread_heap.h"

#include "boxes/page_arena/page_arena.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/superslab/superslab.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <pthread.h>
#include <set>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

constexpr unsigned kBin = 5;

thread_heap_stats stats() {
    thread_heap_stats s;
    thread_heap_get_stats(&s);
    return s;
}

// Fills the current thread's cache of `bin` from the pool, as a front does.
std::vector<void *> refill(unsigned bin, unsigned count) {
    thread_heap *heap = thread_heap_get();
    void **room = fast_cache_room(&heap->bins[bin], &count);
    count = shared_pool_take(bin, room, count, &heap->cold[bin].hint);
    std::vector<void *> blocks(room, room + count);
    fast_cache_fill(&heap->bins[bin], count);
    return blocks;
}

bool all_free(unsigned bin, const std::vector<void *> &blocks) {
    for (void *block : blocks) {
        if (!shared_pool_is_free(bin, block)) {
            return false;
        }
    }
    return !blocks.empty();
}

// A block that keeps its slab in use, so that the test can ask about the slab's other blocks.
class Anchor {
  public:
    explicit Anchor(unsigned bin) : bin_(bin) {
        shared_pool_hint hint = ARENA_NONE;
        EXPECT_EQ(shared_pool_take(bin, &block_, 1, &hint), 1u);
    }
    ~Anchor() { shared_pool_put(bin_, &block_, 1); }
    Anchor(const Anchor &) = delete;
    Anchor &operator=(const Anchor &) = delete;

  private:
    unsigned bin_;
    void *block_ = nullptr;
};

template <typename Function> void in_thread(Function function) {
    std::thread thread(function);
    thread.join();
}

TEST(ThreadHeap, BeforeTheFirstMissTheHeapIsEmptyAndFull) {
    in_thread([] {
        thread_heap *heap = thread_heap_current();
        ASSERT_NE(heap, nullptr);
        for (fast_bin &bin : heap->bins) {
            EXPECT_EQ(fast_cache_pop(&bin), nullptr);
            EXPECT_FALSE(fast_cache_push(&bin, &bin));
        }
        for (unsigned i = 0; i < SIZE_CLASS_CLOSED; i++) {
            EXPECT_FALSE(fast_cache_push(&heap->closed[i], heap));
        }
        // The gate knows no pointer yet, so that every free is a miss, too.
        EXPECT_EQ(front_gate_lookup(thread_heap_gate(), heap), 0u);
        thread_heap_flush(); // nothing to flush
        EXPECT_EQ(thread_heap_current(), heap);
    });
}

TEST(ThreadHeap, GetMakesOneAndKeepsIt) {
    in_thread([] {
        errno = EDOM;
        thread_heap *heap = thread_heap_get();
        EXPECT_EQ(errno, EDOM);
        ASSERT_NE(heap, nullptr);
        EXPECT_EQ(thread_heap_get(), heap);
        EXPECT_EQ(thread_heap_current(), heap);
        page_arena_window window = page_arena_get_window();
        size_t slab = page_arena_slab_of(&window, heap);
        EXPECT_EQ(page_arena_address(&window, slab), heap);
        EXPECT_EQ(superslab_slab(&window, slab)->kind, SLAB_HEAP);
        EXPECT_EQ(thread_heap_gate()->units, page_arena_mapped() << FRONT_GATE_SLAB_UNITS);
        EXPECT_GT(thread_heap_gate()->units, slab << FRONT_GATE_SLAB_UNITS);
        for (unsigned bin = 0; bin < SIZE_CLASS_BINS; bin++) {
            EXPECT_EQ(fast_cache_pop(&heap->bins[bin]), nullptr);
        }
        for (unsigned i = 0; i < SIZE_CLASS_CLOSED; i++) {
            EXPECT_FALSE(fast_cache_push(&heap->closed[i], heap)) << "hit for a block without hits";
        }
    });
}

TEST(ThreadHeap, CachesWhatIsInTheStackAndNothingElse) {
    in_thread([] {
        thread_heap *heap = thread_heap_get();
        ASSERT_NE(heap, nullptr);
        int some[3];
        EXPECT_FALSE(thread_heap_caches(heap, 5, &some[0]));
        ASSERT_TRUE(fast_cache_push(&heap->bins[5], &some[0]));
        ASSERT_TRUE(fast_cache_push(&heap->bins[5], &some[1]));
        EXPECT_TRUE(thread_heap_caches(heap, 5, &some[0]));
        EXPECT_TRUE(thread_heap_caches(heap, 5, &some[1]));
        EXPECT_FALSE(thread_heap_caches(heap, 5, &some[2]));
        EXPECT_FALSE(thread_heap_caches(heap, 6, &some[0]));
        EXPECT_FALSE(thread_heap_caches(heap, 5, nullptr)) << "the NULL below the blocks is none";
        EXPECT_EQ(fast_cache_pop(&heap->bins[5]), &some[1]);
        EXPECT_FALSE(thread_heap_caches(heap, 5, &some[1])) << "what a slot held before";
        EXPECT_EQ(fast_cache_pop(&heap->bins[5]), &some[0]);
    });
}

TEST(ThreadHeap, LiveThreadsHaveHeapsOfTheirOwn) {
    constexpr size_t kThreads = 50;
    std::vector<thread_heap *> heaps(kThreads);
    std::vector<std::thread> threads;
    std::atomic<size_t> ready{0};
    for (thread_heap *&heap : heaps) {
        threads.emplace_back([&] {
            heap = thread_heap_get();
            ready++;
            while (ready < kThreads) {
                std::this_thread::yield();
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(std::set<thread_heap *>(heaps.begin(), heaps.end()).size(), kThreads);
    EXPECT_EQ(std::set<thread_heap *>(heaps.begin(), heaps.end()).count(nullptr), 0u);
    EXPECT_GE(stats().free_heaps, kThreads);
}

TEST(ThreadHeap, FlushGivesAllBlocksBack) {
    Anchor anchor(kBin);
    Anchor anchor2(kBin + 1);
    in_thread([] {
        std::vector<void *> blocks = refill(kBin, 8);
        std::vector<void *> others = refill(kBin + 1, 3);
        uint64_t spilled = stats().counts.spilled;
        EXPECT_EQ(stats().bin_cached[kBin], 8u);
        EXPECT_EQ(stats().bin_cached[kBin + 1], 3u);
        EXPECT_FALSE(all_free(kBin, {blocks[0]}));
        thread_heap_flush();
        EXPECT_TRUE(all_free(kBin, blocks));
        EXPECT_TRUE(all_free(kBin + 1, others));
        EXPECT_EQ(stats().bin_cached[kBin], 0u);
        EXPECT_EQ(stats().counts.spilled - spilled, 11u);
        EXPECT_EQ(fast_cache_pop(&thread_heap_get()->bins[kBin]), nullptr);
    });
}

TEST(ThreadHeap, ExitGivesTheCachesBack) {
    Anchor anchor(kBin);
    std::vector<void *> blocks;
    in_thread([&] { blocks = refill(kBin, 8); });
    EXPECT_EQ(blocks.size(), 8u);
    EXPECT_TRUE(all_free(kBin, blocks));
    EXPECT_EQ(stats().bin_cached[kBin], 0u);
}

TEST(ThreadHeap, FrontsOwnLayersAreFlushedToo) {
    static std::vector<unsigned> seen;
    thread_heap_set_flush([](thread_heap *heap, unsigned bin) {
        if (heap->front_state != nullptr) {
            seen.push_back(bin);
        }
    });
    in_thread([] {
        thread_heap *heap = thread_heap_get();
        heap->front_state = thread_heap_make_state();
        ASSERT_NE(heap->front_state, nullptr);
        std::string state(static_cast<char *>(heap->front_state), ARENA_SLAB);
        EXPECT_EQ(state.find_first_not_of('\0'), std::string::npos);
        static_cast<char *>(heap->front_state)[ARENA_SLAB - 1] = 1;
        page_arena_window window = page_arena_get_window();
        size_t slab = page_arena_slab_of(&window, heap->front_state);
        EXPECT_EQ(superslab_slab(&window, slab)->kind, SLAB_HEAP);
    });
    thread_heap_set_flush(nullptr);
    ASSERT_EQ(seen.size(), SIZE_CLASS_BINS - 1u);
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        EXPECT_EQ(seen[bin - 1], bin);
    }
}

TEST(ThreadHeap, ThousandsOfThreadsInTurnReuseOneHeap) {
    in_thread([] { thread_heap_get(); });
    page_arena_stats before;
    page_arena_get_stats(&before);
    size_t heaps = stats().heaps;
    for (int i = 0; i < 2000; i++) {
        in_thread([] { refill(1 + kBin % 3, 4); });
    }
    EXPECT_EQ(stats().heaps, heaps);
    page_arena_stats after;
    page_arena_get_stats(&after);
    EXPECT_EQ(after.held_slabs, before.held_slabs);
}

// A destructor of thread-specific data runs in the first round, when the thread's heap is still
// there, and in the third, when it is gone.
struct Late {
    thread_heap *heap;
    int rounds;
    bool stayed, gone;
};
pthread_key_t late_key;

void late(void *arg) {
    auto *seen = static_cast<Late *>(arg);
    if (++seen->rounds == 1) {
        seen->stayed = thread_heap_current() == seen->heap && thread_heap_get() == seen->heap;
    }
    if (seen->rounds < 3) {
        pthread_setspecific(late_key, seen); // again in the next round
        return;
    }
    thread_heap *heap = thread_heap_current();
    bool empty = true;
    for (fast_bin &bin : heap->bins) {
        empty = empty && fast_cache_pop(&bin) == nullptr && !fast_cache_push(&bin, seen);
    }
    thread_heap_flush();
    seen->gone = empty && thread_heap_get() == nullptr && thread_heap_current() == heap;
}

TEST(ThreadHeap, PastItsDestructorsAThreadHasNone) {
    ASSERT_EQ(pthread_key_create(&late_key, late), 0);
    Late seen = {};
    thread_heap_stats before = stats();
    in_thread([&] {
        pthread_setspecific(late_key, &seen);
        refill(kBin, 2);
        seen.heap = thread_heap_get();
    });
    EXPECT_EQ(seen.rounds, 3);
    EXPECT_TRUE(seen.stayed);
    EXPECT_TRUE(seen.gone);
    thread_heap_stats after = stats();
    EXPECT_EQ(after.free_heaps, after.heaps) << "the main thread has none either";
    EXPECT_LE(after.heaps, before.heaps + 1);
    pthread_key_delete(late_key);
}

bool deepen(thread_heap *heap, unsigned bin) {
    thread_heap_enter(heap);
    bool done = thread_heap_deepen(heap, bin);
    thread_heap_leave(heap);
    return done;
}

// The time of these tests; it never goes back.
uint64_t clock_ms = 1000;

TEST(ThreadHeapTick, OneCallEmptiesABoundedNumberOfBlocks) {
    std::vector<unsigned> bins;
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS && bins.size() < 8; bin++) {
        if (fast_cache_can_be_deep(bin)) {
            bins.push_back(bin);
        }
    }
    in_thread([&] {
        thread_heap *heap = thread_heap_get();
        thread_heap_tick(heap, clock_ms += 1000, 100);
        size_t all = 0;
        for (unsigned bin : bins) {
            ASSERT_TRUE(deepen(heap, bin));
            while (heap->bins[bin].limit - heap->bins[bin].top >= 64) {
                all += refill(bin, 64).size();
            }
            heap->cold[bin].missed = 0;
        }
        ASSERT_GT(all, 4096u);
        auto cached = [&] {
            size_t sum = 0;
            for (unsigned bin : bins) {
                sum += stats().bin_cached[bin];
            }
            return sum;
        };
        EXPECT_EQ(cached(), all);
        thread_heap_tick(heap, clock_ms += 100, 100);
        EXPECT_LT(cached(), all);
        EXPECT_GE(cached() + 2048 + FAST_CACHE_SMALL_MOST, all);
        // The calls that follow go on, without waiting for the next trim.
        for (int i = 0; i < 100 && cached() > 0; i++) {
            size_t before = cached();
            thread_heap_tick(heap, clock_ms, 100);
            EXPECT_GE(cached() + 2048 + FAST_CACHE_SMALL_MOST, before);
        }
        EXPECT_EQ(cached(), 0u);
        thread_heap_tick(heap, clock_ms, 100);
        EXPECT_EQ(heap->deep, nullptr);
    });
}

TEST(ThreadHeapTick, UnusedCachesAreEmptied) {
    Anchor anchor(kBin);
    Anchor anchor2(kBin + 1);
    in_thread([] {
        thread_heap *heap = thread_heap_get();
        uint64_t now = clock_ms += 1000;
        thread_heap_tick(heap, now, 100); // sets the time of the next trim
        std::vector<void *> used = refill(kBin, 4);
        std::vector<void *> idle = refill(kBin + 1, 4);
        heap->cold[kBin].missed = HEAP_BIN_MISSED_TRIM;
        heap->cold[kBin + 1].missed = 0;
        thread_heap_tick(heap, now + 99, 100);
        EXPECT_FALSE(all_free(kBin + 1, idle));
        thread_heap_tick(heap, now + 100, 100);
        EXPECT_TRUE(all_free(kBin + 1, idle));
        EXPECT_FALSE(all_free(kBin, used));
        // The cache of a bin that has not missed since the last trim is emptied, too.
        thread_heap_tick(heap, now + 199, 100);
        EXPECT_FALSE(all_free(kBin, used));
        thread_heap_tick(heap, now + 100000, UINT64_MAX);
        EXPECT_FALSE(all_free(kBin, used)) << "never";
        thread_heap_tick(heap, now + 100000, 100);
        EXPECT_TRUE(all_free(kBin, used));
        clock_ms = now + 100000;
    });
}

// Only the growth of the heap, and no clock, empties the stacks here.
TEST(ThreadHeapGrown, TheOlderHalfOfQuietStacksGoesBack) {
    constexpr size_t kSmall = 32, kLarge = 1024;
    unsigned small = size_class_bin_of(kSmall), quiet = size_class_bin_of(kLarge), used = quiet - 1;
    in_thread([&] {
        thread_heap *heap = thread_heap_get();
        auto fill = [&](unsigned bin) {
            deepen(heap, bin);
            std::vector<void *> blocks;
            while (heap->bins[bin].limit - heap->bins[bin].top >= 64) {
                for (void *block : refill(bin, 64)) {
                    blocks.push_back(block);
                }
            }
            heap->cold[bin].missed = 0;
            return blocks.size();
        };
        size_t small_held = fill(small), quiet_held = fill(quiet), used_held = fill(used);
        ASSERT_GE(quiet_held, 64u);
        auto held = [&](unsigned bin) { return thread_heap_held(heap, bin); };
        heap->cold[used].missed = HEAP_BIN_MISSED_LOOK;
        heap->company.grew = 0;
        thread_heap_tick_grown(heap);
        EXPECT_EQ(held(quiet), quiet_held) << "the heap has not grown";
        heap->company.grew = UINT8_MAX;
        void *newest = *heap->bins[quiet].top;
        thread_heap_tick_grown(heap);
        EXPECT_EQ(heap->company.grew, 0u);
        EXPECT_EQ(held(quiet), quiet_held - quiet_held / 2);
        EXPECT_EQ(*heap->bins[quiet].top, newest) << "the newer half stays";
        EXPECT_EQ(held(used), used_held) << "it was used";
        EXPECT_LT(held(small), small_held);
        EXPECT_GE(held(small), small_held / 2);
        heap->company.grew = UINT8_MAX;
        thread_heap_tick_grown(heap);
        EXPECT_EQ(held(used), used_held - used_held / 2) << "it was not used since the last look";
        // The rest is not worth a look.
        for (int i = 0; i < 20; i++) {
            heap->company.grew = UINT8_MAX;
            thread_heap_tick_grown(heap);
        }
        EXPECT_LT(held(quiet) * kLarge, 16384u);
        EXPECT_GT(held(quiet), 0u);
    });
}

// Runs `child` in a forked child. Returns what it returned.
template <typename Function> bool in_child(Function child) {
    pid_t pid = fork();
    if (pid == 0) {
        thread_heap_after_fork();
        _exit(child() ? 0 : 1);
    }
    int status = 0;
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

TEST(ThreadHeapFork, ChildAdoptsTheHeapsOfTheOthers) {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "ThreadSanitizer lets no child of a threaded process start threads";
#endif
    // One thread rests, with blocks in its cache; another one is busy.
    std::atomic<int> ready{0};
    std::atomic<bool> done{false};
    std::vector<void *> blocks;
    thread_heap *resting = nullptr;
    thread_heap *busy = nullptr;
    auto wait = [&] {
        ready++;
        while (!done) {
            std::this_thread::yield();
        }
    };
    std::thread rests([&] {
        resting = thread_heap_get();
        blocks = refill(kBin, 6);
        wait();
    });
    std::thread works([&] {
        busy = thread_heap_get();
        thread_heap_enter(busy);
        wait();
        thread_heap_leave(busy);
    });
    while (ready < 2) {
        std::this_thread::yield();
    }
    std::thread forks([&] {
        thread_heap *mine = thread_heap_get();
        EXPECT_TRUE(in_child([&] {
            thread_heap_stats s = stats();
            // All heaps but this thread's and the busy one.
            bool ok = s.free_heaps == s.heaps - 2 && thread_heap_get() == mine;
            // New threads get all free heaps, and one of them gets the resting thread's blocks.
            std::set<thread_heap *> adopted;
            std::vector<void *> found;
            std::vector<std::thread> threads;
            std::atomic<size_t> turn{0};
            std::atomic<bool> end{false};
            for (size_t i = 0; i < s.free_heaps; i++) {
                threads.emplace_back([&, i] {
                    while (turn != i) {
                        std::this_thread::yield();
                    }
                    thread_heap *heap = thread_heap_get();
                    ok = ok && adopted.insert(heap).second && heap != mine && heap != busy;
                    while (void *block = fast_cache_pop(&heap->bins[kBin])) {
                        found.push_back(block);
                    }
                    turn++;
                    while (!end) {
                        std::this_thread::yield();
                    }
                });
            }
            while (turn < s.free_heaps) {
                std::this_thread::yield();
            }
            end = true;
            for (std::thread &thread : threads) {
                thread.join();
            }
            return ok && adopted.count(resting) == 1 && found == blocks && stats().heaps == s.heaps;
        }));
        // If no thread adopts them, a flush gets at their blocks.
        EXPECT_TRUE(in_child([&] {
            Anchor anchor(kBin);
            size_t free_heaps = stats().free_heaps;
            bool ok = stats().bin_cached[kBin] >= blocks.size() && !all_free(kBin, blocks);
            thread_heap_flush_free();
            return ok && all_free(kBin, blocks) && stats().free_heaps == free_heaps;
        }));
    });
    forks.join();
    done = true;
    rests.join();
    works.join();
}

size_t heap_slabs() {
    superslab_stats s;
    superslab_get_stats(&s);
    return s.heap_slabs;
}

TEST(ThreadHeapDeep, TheSlotsAreThereWhileAStackNeedsThem) {
    in_thread([] {
        thread_heap *heap = thread_heap_get();
        size_t before = heap_slabs();
        constexpr size_t kDeepSlabs = FAST_CACHE_DEEP_SLOTS * sizeof(void *) / ARENA_SLAB;
        std::vector<void *> blocks = refill(kBin, 8);
        ASSERT_TRUE(deepen(heap, kBin));
        EXPECT_FALSE(deepen(heap, kBin)) << "it is deep by now";
        EXPECT_FALSE(deepen(heap, 0)) << "no bin";
        EXPECT_EQ(heap_slabs(), before + kDeepSlabs);
        EXPECT_EQ(stats().bin_cached[kBin], blocks.size());
        ASSERT_TRUE(deepen(heap, kBin + 1));
        EXPECT_EQ(heap_slabs(), before + kDeepSlabs) << "one set of slots for all bins";
        // More than a wide stack holds.
        while (heap->bins[kBin].limit - heap->bins[kBin].top >= 64) {
            std::vector<void *> more = refill(kBin, 64);
            blocks.insert(blocks.end(), more.begin(), more.end());
        }
        EXPECT_GT(blocks.size(), size_class_bins[kBin].slots);
        EXPECT_EQ(stats().bin_cached[kBin], blocks.size());
        thread_heap_flush();
        EXPECT_EQ(stats().bin_cached[kBin], 0u);
        EXPECT_EQ(heap_slabs(), before);
        EXPECT_EQ(heap->deep, nullptr);
        refill(kBin, 4);
        ASSERT_TRUE(deepen(heap, kBin)) << "and again";
    });
    size_t left = heap_slabs();
    in_thread([left] {
        thread_heap *heap = thread_heap_get();
        EXPECT_EQ(heap->deep, nullptr) << "a thread that ends gives them back";
        EXPECT_EQ(heap_slabs(), left);
    });
}

extern "C" int64_t settings_values[SETTING_COUNT];

TEST(ThreadHeapDeep, ARefillTakesAQuarterOfADeepStack) {
    in_thread([] {
        thread_heap *heap = thread_heap_get();
        auto most_of = [&](unsigned bin) {
            unsigned most = 0;
            for (int i = 0; i < 12; i++) { // twice as many each time
                most = thread_heap_next_batch(heap, bin);
            }
            return most;
        };
        unsigned batch = size_class_bins[kBin].batch;
        EXPECT_EQ(most_of(kBin), batch);
        ASSERT_TRUE(deepen(heap, kBin));
        auto room = static_cast<unsigned>(heap->bins[kBin].limit - heap->cold[kBin].bottom);
        ASSERT_GT(room / 4, batch);
        EXPECT_EQ(most_of(kBin), std::min(room / 4, 255u));
        thread_heap_flush();
        EXPECT_EQ(most_of(kBin), batch) << "the stack is narrow again";
    });
}

TEST(ThreadHeapDeep, NotUnderALimit) {
    in_thread([] {
        thread_heap *heap = thread_heap_get();
        settings_values[SETTING_LIMIT] = INT64_MAX;
        EXPECT_FALSE(deepen(heap, kBin));
        settings_values[SETTING_LIMIT] = 0;
        EXPECT_TRUE(deepen(heap, kBin));
    });
}

TEST(ThreadHeapDeep, TrimmingEndsIt) {
    in_thread([] {
        thread_heap *heap = thread_heap_get();
        size_t before = heap_slabs();
        std::vector<void *> blocks = refill(kBin, 8);
        ASSERT_TRUE(deepen(heap, kBin));
        Anchor anchor(kBin);
        uint64_t now = 1000000;
        heap->cold[kBin].missed = HEAP_BIN_MISSED_TRIM;
        thread_heap_tick(heap, now, 100);
        heap->cold[kBin].missed = HEAP_BIN_MISSED_TRIM;
        thread_heap_tick(heap, now += 200, 100);
        EXPECT_NE(heap->deep, nullptr) << "the bin was in use";
        thread_heap_tick(heap, now += 200, 100);
        EXPECT_EQ(heap->deep, nullptr);
        EXPECT_EQ(heap_slabs(), before);
        EXPECT_TRUE(all_free(kBin, blocks));
    });
}

TEST(ThreadHeapFork, ForkByAThreadWithoutAHeap) {
    in_thread([] { EXPECT_TRUE(in_child([] { return stats().free_heaps == stats().heaps; })); });
}

} // namespace
