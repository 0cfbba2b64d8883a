// SPDX-License-Identifier: Apache-2.0
// The heap against a model: random operations, and after each the heap must be as the model says.
// No two live blocks overlap, contents survive, alignment and usable size hold, calloc() is zero,
// the statistics add up, and in the end all memory is given back.
//
// Lockstep runs one operation at a time, each on a thread of the model's choice, so that a seed
// replays exactly and the statistics can be compared exactly. Concurrent lets threads run freely;
// there a seed replays each thread's operations, not how they interleave.
//
// The model's own memory comes from mmap(), not from the heap under test.
//
//   HEAP_MODEL_SEED=n     the seed, which every run prints (fixed by default)
//   HEAP_MODEL_OPS=n      the number of operations of each thread
//   HEAP_MODEL_THREADS=n  the number of threads
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <memory_resource>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "fronts/libc/block_content.h"
#include "fronts/libc/splitmix.h"
#include "fronts/libc/test_util.h"
#include "gtest/gtest.h"

namespace {

using test_util::Content;
using test_util::IsZero;

constexpr size_t kMiB = size_t{1} << 20;

uint64_t Setting(const char *name, uint64_t preset) {
    const char *text = getenv(name);
    return text == nullptr ? preset : strtoull(text, nullptr, 0);
}

// --- Memory for the model

class MappedMemory : public std::pmr::memory_resource {
    void *do_allocate(size_t bytes, size_t) override {
        void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            abort();
        }
        return p;
    }
    void do_deallocate(void *p, size_t bytes, size_t) override { munmap(p, bytes); }
    bool do_is_equal(const memory_resource &other) const noexcept override {
        return this == &other;
    }
};

template <typename T> using Allocator = std::pmr::polymorphic_allocator<T>;
template <typename K, typename V>
using OrderedMap = absl::btree_map<K, V, std::less<K>, Allocator<std::pair<const K, V>>>;

// --- Random sizes and alignments

class Random : public test_util::SplitMix {
  public:
    using SplitMix::SplitMix;
    // Small ones often, every magnitude up to 8 MiB sometimes, and the borders of everything.
    size_t Size() {
        switch (Below(16)) {
        case 0:
            return Below(33);
        case 1: {
            // At, below and above a border: bins, pages, slabs, the largest tiny block.
            static constexpr size_t kBorders[] = {16,    32,    64,    128,   256,  512,
                                                  1024,  1280,  2048,  4096,  8192, 16384,
                                                  28672, 32768, 65536, 131072};
            return kBorders[Below(std::size(kBorders))] + Below(3) - 1;
        }
        case 2:
            return 1 + Below(size_t{1} << Below(24));
        case 3:
        case 4:
            return 1 + Below(size_t{1} << (8 + Below(8)));
        case 5:
        case 6:
        case 7:
            return 1 + Below(4096);
        default:
            return 1 + Below(600);
        }
    }
    size_t Alignment() {
        return OneIn(50) ? size_t{1} << (12 + Below(14)) : size_t{16} << Below(9);
    }
};

// --- The model of one block

struct Block {
    size_t size;        // bytes asked for, all of them ours
    size_t requested;   // bytes the allocator was asked for, by the last call that chose its place
    uint64_t id;        // says what is in it
    bool large = false; // it has slabs of its own
};

// --- A thread that runs operations for the model

struct Order {
    enum Kind {
        kNone,
        kMalloc,
        kCalloc,
        kRealloc,
        kReallocarray,
        kAlignedAlloc,
        kPosixMemalign,
        kMemalign,
        kOperatorNew,
        kFree,
        kFreeSized,
        kOperatorDelete,
        kUsableSize,
        kTrim,
        kExit,
    };
    Kind kind = kNone;
    void *p = nullptr;
    size_t size = 0;
    size_t align = 0;
    // Answers
    void *result = nullptr;
    size_t number = 0;
};

void Carry(Order *order) {
    switch (order->kind) {
    case Order::kMalloc:
        order->result = malloc(order->size);
        break;
    case Order::kCalloc:
        // The product is the size; the factors vary.
        order->result = order->size % 8 == 0 ? calloc(order->size / 8, 8) : calloc(1, order->size);
        break;
    case Order::kRealloc:
        order->result = realloc(order->p, order->size);
        break;
    case Order::kReallocarray:
        order->result = reallocarray(order->p, 1, order->size);
        break;
    case Order::kAlignedAlloc:
        order->result = aligned_alloc(order->align, order->size);
        break;
    case Order::kPosixMemalign:
        order->result = nullptr;
        if (posix_memalign(&order->result, order->align, order->size) != 0) {
            order->result = nullptr;
        }
        break;
    case Order::kMemalign:
        order->result = memalign(order->align, order->size);
        break;
    case Order::kOperatorNew:
        order->result = ::operator new(order->size, std::nothrow);
        break;
    case Order::kFree:
        free(order->p);
        break;
    case Order::kFreeSized:
        free_sized(order->p, order->size);
        break;
    case Order::kOperatorDelete:
        ::operator delete(order->p);
        break;
    case Order::kUsableSize:
        order->number = malloc_usable_size(order->p);
        break;
    case Order::kTrim:
        order->number = static_cast<size_t>(malloc_trim(0));
        break;
    case Order::kNone:
    case Order::kExit:
        break;
    }
}

class Worker {
  public:
    Worker() {
        sem_init(&wake_, 0, 0);
        sem_init(&done_, 0, 0);
    }
    void Start() { pthread_create(&thread_, nullptr, Run, this); }
    void Stop() {
        Order exit;
        exit.kind = Order::kExit;
        Do(&exit);
        pthread_join(thread_, nullptr);
    }
    void Do(Order *order) {
        order_ = order;
        sem_post(&wake_);
        while (sem_wait(&done_) != 0) {
        }
    }

  private:
    static void *Run(void *arg) {
        Worker *me = static_cast<Worker *>(arg);
        for (;;) {
            while (sem_wait(&me->wake_) != 0) {
            }
            bool last = me->order_->kind == Order::kExit;
            Carry(me->order_);
            sem_post(&me->done_);
            if (last) {
                return nullptr;
            }
        }
    }
    pthread_t thread_;
    sem_t wake_, done_;
    Order *order_ = nullptr;
};

// --- Lockstep

struct Total {
    size_t tiny, large, large_blocks;
};

Total Statistics() {
    struct hak_stats s = test_util::Stats();
    return {s.tiny_live, s.large_live, s.large_blocks};
}

class Lockstep {
  public:
    Lockstep(uint64_t seed, int threads)
        : pool_(&mapped_), random_(seed), live_(Live::allocator_type(&pool_)),
          order_of_(OrderOf::allocator_type(&pool_)), workers_(&pool_) {
        workers_.resize(static_cast<size_t>(threads), nullptr);
        for (Worker *&worker : workers_) {
            worker = new (pool_.allocate(sizeof(Worker))) Worker;
            worker->Start();
        }
        // What stays for good is there before the run: each thread's heap, which it gets with its
        // first block, and what libc allocates for the thread.
        for (Worker *worker : workers_) {
            Order order;
            order.kind = Order::kMalloc;
            order.size = 1;
            worker->Do(&order);
            order.kind = Order::kFree;
            order.p = order.result;
            worker->Do(&order);
        }
        for (Worker *worker : workers_) {
            worker->Stop();
            worker->Start();
        }
        base_ = Statistics();
        base_superslabs_ = test_util::Stats().superslabs;
    }
    ~Lockstep() { StopAll(); }

    // Returns "" if no check failed, else the fault.
    std::string Run(uint64_t operations) {
        for (uint64_t i = 0; i < operations && fault_.empty(); i++) {
            Step();
            if (i % 512 == 0) {
                CheckStatistics();
            }
            if (!fault_.empty()) {
                return "operation " + std::to_string(i) + ": " + fault_;
            }
        }
        while (!live_.empty() && fault_.empty()) {
            Drop(live_.begin()->first, Order::kFree);
        }
        CheckStatistics();
        if (fault_.empty()) {
            GiveBack();
        }
        return fault_;
    }
    size_t most_live() const { return most_live_; }

  private:
    void Fault(const std::string &what, const void *p = nullptr, size_t size = 0) {
        if (fault_.empty()) {
            char text[200];
            snprintf(text, sizeof text, "%s (block %p, %zu bytes)", what.c_str(), p, size);
            fault_ = text;
        }
    }

    void Do(Order *order) { workers_[random_.Below(workers_.size())]->Do(order); }

    // Some live block.
    uintptr_t Pick() { return order_of_[random_.Below(order_of_.size())]; }

    void Step() {
        // The number of live blocks swings, so that the heap fills, empties and fills again.
        if (random_.OneIn(3000)) {
            aim_ = 10 + random_.Below(random_.OneIn(3) ? 4000 : 400);
        }
        bool grow = live_.size() < aim_ ? !random_.OneIn(4) : random_.OneIn(4);
        uint64_t which = random_.Below(1000);
        if (which < 2) {
            Order trim;
            trim.kind = Order::kTrim;
            Do(&trim);
        } else if (which < 4) {
            // A thread ends and another begins; its blocks live on.
            Worker *worker = workers_[random_.Below(workers_.size())];
            worker->Stop();
            worker->Start();
        } else if (which < 5) {
            ForkAndUse();
        } else if (which < 100 && !live_.empty()) {
            Usable();
        } else if (which < 250 && !live_.empty()) {
            Resize();
        } else if (grow && bytes_ < 400 * kMiB) {
            Allocate();
        } else if (!live_.empty()) {
            static constexpr Order::Kind kFrees[] = {Order::kFree, Order::kFree, Order::kFreeSized,
                                                     Order::kOperatorDelete};
            Drop(Pick(), kFrees[random_.Below(std::size(kFrees))]);
        }
    }

    void Allocate() {
        static constexpr Order::Kind kKinds[] = {
            Order::kMalloc,        Order::kMalloc,  Order::kMalloc,      Order::kMalloc,
            Order::kCalloc,        Order::kCalloc,  Order::kOperatorNew, Order::kAlignedAlloc,
            Order::kPosixMemalign, Order::kMemalign};
        Order order;
        order.kind = kKinds[random_.Below(std::size(kKinds))];
        order.size = random_.Size();
        order.align = random_.Alignment();
        bool aligned = order.kind == Order::kAlignedAlloc || order.kind == Order::kPosixMemalign ||
                       order.kind == Order::kMemalign;
        Do(&order);
        if (order.result == nullptr) {
            return Fault("no memory", nullptr, order.size);
        }
        uintptr_t p = reinterpret_cast<uintptr_t>(order.result);
        if (p % (aligned ? std::max(order.align, size_t{16}) : 16) != 0) {
            return Fault("not aligned", order.result, order.size);
        }
        if (order.kind == Order::kCalloc &&
            !IsZero(static_cast<unsigned char *>(order.result), order.size)) {
            return Fault("calloc() is not zero", order.result, order.size);
        }
        bool large = order.size > SIZE_CLASS_TINY_MAX ||
                     (aligned && size_class_aligned_bin(order.size, order.align) == 0);
        Insert(p, {order.size, order.size, next_id_++, large});
    }

    // Notes a block that the heap has just returned.
    void Insert(uintptr_t p, Block block) {
        auto after = live_.lower_bound(p);
        if (after != live_.end() && (after->first == p || p + block.size > after->first)) {
            return Fault("overlaps the live block above", reinterpret_cast<void *>(p), block.size);
        }
        if (after != live_.begin()) {
            auto before = std::prev(after);
            if (before->first + before->second.size > p) {
                return Fault("overlaps the live block below", reinterpret_cast<void *>(p),
                             block.size);
            }
        }
        Content::Write(reinterpret_cast<unsigned char *>(p), block.size, block.id);
        live_[p] = block;
        place_of_[p] = order_of_.size();
        order_of_.push_back(p);
        bytes_ += block.size;
        most_live_ = std::max(most_live_, live_.size());
    }

    void Remove(uintptr_t p) {
        size_t place = place_of_[p];
        order_of_[place] = order_of_.back();
        place_of_[order_of_[place]] = place;
        order_of_.pop_back();
        place_of_.erase(p);
        bytes_ -= live_[p].size;
        live_.erase(p);
    }

    bool Good(uintptr_t p, const Block &block) {
        if (!Content::Check(reinterpret_cast<unsigned char *>(p), block.size, block.size,
                            block.id)) {
            Fault("content changed", reinterpret_cast<void *>(p), block.size);
            return false;
        }
        return true;
    }

    void Drop(uintptr_t p, Order::Kind kind) {
        Block block = live_[p];
        if (Good(p, block)) {
            Order order;
            order.kind = kind;
            order.p = reinterpret_cast<void *>(p);
            order.size = block.requested;
            Remove(p);
            Do(&order);
        }
    }

    void Resize() {
        uintptr_t p = Pick();
        Block old = live_[p];
        if (!Good(p, old)) {
            return;
        }
        Order order;
        order.kind = random_.OneIn(3) ? Order::kReallocarray : Order::kRealloc;
        order.p = reinterpret_cast<void *>(p);
        switch (random_.Below(8)) {
        case 0:
            order.size = PTRDIFF_MAX - random_.Below(100000); // fails: the block stays
            break;
        case 1:
            order.size = 0; // frees
            break;
        case 2:
            order.size = old.size * 2 + random_.Below(100) + 1;
            break;
        case 3:
            order.size = old.size / 2 + 1;
            break;
        case 4:
            order.size = old.size + random_.Below(32) + 1;
            break;
        default:
            order.size = random_.Size() + 1;
            break;
        }
        if (order.size < size_t{PTRDIFF_MAX} - 100000 && order.size > 64 * kMiB) {
            order.size = 64 * kMiB;
        }
        bool fails = order.size > 64 * kMiB;
        Do(&order);
        if (fails || order.size == 0) {
            if (order.result != nullptr) {
                return Fault("realloc() gave a block", order.result, order.size);
            }
            if (order.size == 0) {
                Remove(p);
            } else {
                Good(p, old);
            }
            return;
        }
        if (order.result == nullptr) {
            return Fault("no memory for realloc()", order.p, order.size);
        }
        if (!Content::Check(static_cast<unsigned char *>(order.result),
                            std::min(old.size, order.size), old.size, old.id)) {
            return Fault("realloc() lost content", order.result, order.size);
        }
        Remove(p);
        Insert(reinterpret_cast<uintptr_t>(order.result),
               {order.size, order.size, next_id_++, order.size > SIZE_CLASS_TINY_MAX});
    }

    // All usable bytes are ours from then on.
    void Usable() {
        uintptr_t p = Pick();
        Block block = live_[p];
        Order order;
        order.kind = Order::kUsableSize;
        order.p = reinterpret_cast<void *>(p);
        Do(&order);
        if (order.number < block.size) {
            return Fault("usable size is below the size", order.p, order.number);
        }
        if (!Good(p, block)) {
            return;
        }
        Remove(p);
        Insert(p, {order.number, block.requested, next_id_++, block.large});
    }

    // A child finds all blocks as they are, and can use the heap.
    void ForkAndUse() {
        uint64_t seed = random_.Next();
        std::string ending = test_util::InChild([this, seed] {
            for (const auto &entry : live_) {
                if (!Good(entry.first, entry.second)) {
                    return 1;
                }
            }
            Random random(seed);
            void *blocks[200] = {};
            for (int i = 0; i < 1000; i++) {
                void *&p = blocks[random.Below(200)];
                size_t size = random.Size() % 100000;
                free(p);
                p = malloc(size);
                if (p == nullptr) {
                    return 2;
                }
                memset(p, i, size);
            }
            for (void *p : blocks) {
                free(p);
            }
            for (const auto &entry : live_) {
                if (!Good(entry.first, entry.second)) {
                    return 3;
                }
                free(reinterpret_cast<void *>(entry.first));
            }
            malloc_trim(0); // checks every block that was freed
            return 0;
        });
        if (ending != "exit 0") {
            Fault("forked child: " + ending);
        }
    }

    void CheckStatistics() {
        // A tiny block counts by its size, a large one by its requested size.
        size_t tiny = 0;
        size_t large = 0;
        size_t large_blocks = 0;
        for (const auto &entry : live_) {
            if (entry.second.large) {
                large += std::max(entry.second.requested, size_t{1});
                large_blocks++;
            } else {
                tiny += malloc_usable_size(reinterpret_cast<void *>(entry.first));
                tiny += SIZE_CLASS_HEADER;
            }
        }
        Total now = Statistics();
        if (HAK_HARDENED) { // what blocks have behind their user's bytes is not known
            tiny = std::max(tiny, now.tiny - base_.tiny);
        }
        if (now.tiny - base_.tiny != tiny || now.large - base_.large != large ||
            now.large_blocks - base_.large_blocks != large_blocks) {
            char text[300];
            snprintf(text, sizeof text,
                     "statistics: tiny %zu, large %zu in %zu blocks; the model has %zu, %zu, %zu",
                     now.tiny - base_.tiny, now.large - base_.large,
                     now.large_blocks - base_.large_blocks, tiny, large, large_blocks);
            Fault(text);
        }
    }

    void StopAll() {
        for (Worker *worker : workers_) {
            worker->Stop();
        }
        workers_.clear();
    }

    // With all blocks freed and all threads gone nothing is cached and no page is kept.
    void GiveBack() {
        StopAll();
        malloc_trim(0);
        struct hak_stats s = test_util::Stats();
        // Of the hardened flavour's slabs the addresses stay their size's.
        bool more = s.superslabs > base_superslabs_ && !HAK_HARDENED;
        if (s.dirty != 0 || s.tiny_cached != 0 || more) {
            Fault("not given back: " + std::to_string(s.dirty) + " B of dirty slabs, " +
                  std::to_string(s.tiny_cached) + " B in caches, " +
                  std::to_string(s.superslabs - base_superslabs_) + " SuperSlabs");
        }
    }

    using Live = OrderedMap<uintptr_t, Block>;
    using OrderOf = std::vector<uintptr_t, Allocator<uintptr_t>>;
    using PlaceOf =
        absl::flat_hash_map<uintptr_t, size_t, absl::Hash<uintptr_t>, std::equal_to<uintptr_t>,
                            Allocator<std::pair<const uintptr_t, size_t>>>;

    MappedMemory mapped_;
    std::pmr::unsynchronized_pool_resource pool_;
    Random random_;
    Live live_;        // by address
    OrderOf order_of_; // the same addresses, to pick one at random
    PlaceOf place_of_{Allocator<std::pair<const uintptr_t, size_t>>(&pool_)};
    std::vector<Worker *, Allocator<Worker *>> workers_;
    Total base_;
    size_t base_superslabs_;
    uint64_t next_id_ = 1;
    size_t bytes_ = 0;
    size_t aim_ = 200;
    size_t most_live_ = 0;
    std::string fault_;
};

void Announce(const char *name, uint64_t seed, uint64_t operations, uint64_t threads) {
    printf("HEAP_MODEL_SEED=%#zx HEAP_MODEL_OPS=%zu HEAP_MODEL_THREADS=%zu # %s on %s\n",
           static_cast<size_t>(seed), static_cast<size_t>(operations), static_cast<size_t>(threads),
           name, HAK_FLAVOUR);
    fflush(stdout);
}

TEST(HeapModelTest, Lockstep) {
    uint64_t seed = Setting("HEAP_MODEL_SEED", 20251114);
    uint64_t operations = Setting("HEAP_MODEL_OPS", 100000 / test_util::kPart);
    uint64_t threads = Setting("HEAP_MODEL_THREADS", 4);
    Announce("Lockstep", seed, operations, threads);
    std::string fault;
    size_t most;
    {
        Lockstep run(seed, static_cast<int>(threads));
        fault = run.Run(operations);
        most = run.most_live();
    }
    ASSERT_EQ(fault, "") << "replay: HEAP_MODEL_SEED=" << seed << " HEAP_MODEL_OPS=" << operations
                         << " HEAP_MODEL_THREADS=" << threads;
    printf("%zu blocks alive at most\n", most);
}

// --- Concurrent

// Live blocks of all threads, in parts with a lock each: a block is entered in the part of every
// 64 KiB piece of addresses that it touches.
class SharedModel {
  public:
    // False if it overlaps a live block.
    bool Insert(uintptr_t p, size_t size) {
        bool fresh = true;
        ForEachPiece(p, size, [&](Part &part, uintptr_t from, uintptr_t to) {
            auto after = part.live.lower_bound(from);
            if (after != part.live.end() && after->first < to) {
                fresh = false;
            }
            if (after != part.live.begin() && std::prev(after)->second > from) {
                fresh = false;
            }
            part.live[from] = to;
        });
        return fresh;
    }
    void Remove(uintptr_t p, size_t size) {
        ForEachPiece(p, size, [](Part &part, uintptr_t from, uintptr_t) { part.live.erase(from); });
    }
    bool Empty() const {
        return std::all_of(std::begin(parts_), std::end(parts_),
                           [](const Part &part) { return part.live.empty(); });
    }

  private:
    struct Part {
        pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        MappedMemory mapped;
        std::pmr::unsynchronized_pool_resource pool{&mapped};
        OrderedMap<uintptr_t, uintptr_t> live{
            Allocator<std::pair<const uintptr_t, uintptr_t>>(&pool)};
    };
    template <typename Fn> void ForEachPiece(uintptr_t p, size_t size, Fn fn) {
        constexpr uintptr_t kPiece = 65536;
        uintptr_t end = p + std::max(size, size_t{1});
        for (uintptr_t from = p; from < end;) {
            uintptr_t to = std::min(end, (from | (kPiece - 1)) + 1);
            Part &part = parts_[from / kPiece % std::size(parts_)];
            pthread_mutex_lock(&part.mutex);
            fn(part, from, to);
            pthread_mutex_unlock(&part.mutex);
            from = to;
        }
    }
    Part parts_[64];
};

struct Hand { // a block on its way to another thread
    unsigned char *p;
    Block block;
};

class Concurrent {
  public:
    Concurrent(uint64_t seed, uint64_t threads, uint64_t operations)
        : seed_(seed), threads_(threads), operations_(operations) {
        for (pthread_mutex_t &mutex : inbox_mutex_) {
            pthread_mutex_init(&mutex, nullptr);
        }
    }

    std::string Run() {
        // Generations: each thread ends after its share, and its successor takes over what it
        // leaves.
        constexpr uint64_t kGenerations = 5;
        for (generation_ = 0; generation_ < kGenerations && fault_ == nullptr; generation_++) {
            pthread_t threads[kMostThreads];
            Start starts[kMostThreads];
            for (uint64_t i = 0; i < threads_; i++) {
                starts[i] = {this, i, operations_ / kGenerations};
                pthread_create(&threads[i], nullptr, Main, &starts[i]);
            }
            for (uint64_t i = 0; i < threads_; i++) {
                pthread_join(threads[i], nullptr);
            }
        }
        for (uint64_t i = 0; i < threads_; i++) {
            for (Hand &hand : kept_[i]) {
                Free(hand);
            }
            for (Hand &hand : inbox_[i]) {
                Free(hand);
            }
            kept_[i].clear();
            inbox_[i].clear();
        }
        const char *fault = fault_;
        return fault != nullptr ? fault : model_->Empty() ? "" : "the model is not empty";
    }
    ~Concurrent() {
        model_->~SharedModel();
        munmap(model_, sizeof(SharedModel));
    }

    static constexpr uint64_t kMostThreads = 64;

  private:
    struct Start {
        Concurrent *run;
        uint64_t index, operations;
    };
    static void *Main(void *arg) {
        Start *start = static_cast<Start *>(arg);
        start->run->Work(start->index, start->operations);
        return nullptr;
    }

    void Fault(const char *what) {
        const char *none = nullptr;
        fault_.compare_exchange_strong(none, what);
    }

    bool Take(unsigned char *p, Block block, std::pmr::vector<Hand> *mine) {
        if (!model_->Insert(reinterpret_cast<uintptr_t>(p), block.size)) {
            Fault("two live blocks overlap");
            return false;
        }
        Content::Write(p, block.size, block.id);
        mine->push_back({p, block});
        return true;
    }

    void Check(const Hand &hand) {
        if (!Content::Check(hand.p, hand.block.size, hand.block.size, hand.block.id)) {
            Fault("content changed");
        }
    }

    void Free(const Hand &hand) {
        Check(hand);
        model_->Remove(reinterpret_cast<uintptr_t>(hand.p), hand.block.size);
        free(hand.p);
    }

    void Work(uint64_t index, uint64_t operations) {
        Random random(seed_ ^ (index + 1) * 0x9e3779b97f4a7c15u ^ generation_ << 56);
        std::pmr::vector<Hand> &mine = kept_[index];
        uint64_t next_id = (index + 1) << 40 | generation_ << 36;
        size_t aim = 100;
        size_t bytes = 0;
        for (const Hand &hand : mine) {
            bytes += hand.block.size;
        }
        for (uint64_t i = 0; i < operations && fault_ == nullptr; i++) {
            if (random.OneIn(2000)) {
                aim = 10 + random.Below(800);
            }
            uint64_t which = random.Below(1000);
            if (which < 1) {
                malloc_trim(0);
            } else if (which < 300 && !mine.empty()) {
                // To another thread, which will check and free or keep it.
                Hand hand = RemoveAt(random.Below(mine.size()), &mine);
                bytes -= hand.block.size;
                uint64_t to = random.Below(threads_);
                pthread_mutex_lock(&inbox_mutex_[to]);
                inbox_[to].push_back(hand);
                pthread_mutex_unlock(&inbox_mutex_[to]);
            } else if (which < 400) {
                pthread_mutex_lock(&inbox_mutex_[index]);
                std::pmr::vector<Hand> arrived(&pool_);
                arrived.swap(inbox_[index]);
                pthread_mutex_unlock(&inbox_mutex_[index]);
                for (const Hand &hand : arrived) {
                    Free(hand);
                }
            } else if (which < 500 && !mine.empty()) {
                Hand old = RemoveAt(random.Below(mine.size()), &mine);
                Check(old);
                bytes -= old.block.size;
                size_t size = random.Size() % (2 * kMiB) + 1;
                // While it runs, the old place is neither ours nor free: out of the model before,
                // as another thread may be given it before realloc() returns.
                model_->Remove(reinterpret_cast<uintptr_t>(old.p), old.block.size);
                unsigned char *p = static_cast<unsigned char *>(realloc(old.p, size));
                if (p == nullptr) {
                    return Fault("no memory for realloc()");
                }
                if (!Content::Check(p, std::min(size, old.block.size), old.block.size,
                                    old.block.id)) {
                    return Fault("realloc() lost content");
                }
                bytes += size;
                Take(p, {size, size, next_id++}, &mine);
            } else if (mine.size() < aim && bytes < 64 * kMiB) {
                size_t size = random.Size() % (2 * kMiB);
                size_t align = random.OneIn(8) ? random.Alignment() : 16;
                bool zero = random.OneIn(8);
                void *p = zero         ? calloc(1, size)
                          : align > 16 ? memalign(align, size)
                                       : malloc(size);
                if (p == nullptr) {
                    return Fault("no memory");
                }
                if (reinterpret_cast<uintptr_t>(p) % (zero ? 16 : align) != 0) {
                    return Fault("not aligned");
                }
                if (zero && !IsZero(static_cast<unsigned char *>(p), size)) {
                    return Fault("calloc() is not zero");
                }
                if (malloc_usable_size(p) < size) {
                    return Fault("usable size is below the size");
                }
                bytes += size;
                Take(static_cast<unsigned char *>(p), {size, size, next_id++}, &mine);
            } else if (!mine.empty()) {
                Hand hand = RemoveAt(random.Below(mine.size()), &mine);
                bytes -= hand.block.size;
                Free(hand);
            }
        }
    }

    static Hand RemoveAt(size_t at, std::pmr::vector<Hand> *list) {
        Hand hand = (*list)[at];
        (*list)[at] = list->back();
        list->pop_back();
        return hand;
    }

    // In memory of its own: it is too large for a stack.
    static SharedModel *NewModel() {
        void *p = mmap(nullptr, sizeof(SharedModel), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return p == MAP_FAILED ? nullptr : new (p) SharedModel;
    }

    uint64_t seed_, threads_, operations_;
    uint64_t generation_ = 0;
    MappedMemory mapped_;
    std::pmr::synchronized_pool_resource pool_{&mapped_};
    SharedModel *model_ = NewModel();
    pthread_mutex_t inbox_mutex_[kMostThreads];
    std::pmr::vector<std::pmr::vector<Hand>> kept_{kMostThreads, std::pmr::vector<Hand>(&pool_),
                                                   &pool_};
    std::pmr::vector<std::pmr::vector<Hand>> inbox_{kMostThreads, std::pmr::vector<Hand>(&pool_),
                                                    &pool_};
    std::atomic<const char *> fault_{nullptr};
};

TEST(HeapModelTest, Concurrent) {
    uint64_t seed = Setting("HEAP_MODEL_SEED", 20251126);
    uint64_t operations = Setting("HEAP_MODEL_OPS", 100000 / test_util::kPart);
    uint64_t threads = std::min(Setting("HEAP_MODEL_THREADS", 8), Concurrent::kMostThreads);
    Announce("Concurrent", seed, operations, threads);
    Total before = Statistics();
    std::string fault = Concurrent(seed, threads, operations).Run();
    ASSERT_EQ(fault, "") << "replay: HEAP_MODEL_SEED=" << seed << " HEAP_MODEL_OPS=" << operations
                         << " HEAP_MODEL_THREADS=" << threads;
    malloc_trim(0);
    // What is left is libc's own, for the stacks of threads that it keeps, and the pools' of the
    // model, which keep something for each thread.
    Total after = Statistics();
    EXPECT_EQ(after.large_blocks, before.large_blocks);
    EXPECT_LE(after.tiny, before.tiny + threads * 4096);
    EXPECT_EQ(test_util::Stats().tiny_cached, 0u);
}

} // namespace
