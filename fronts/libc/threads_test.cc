// SPDX-License-Identifier: Apache-2.0
// Threads: hand-over of blocks, birth and death, destructors, code that runs before main(), and
// libraries that come and go.
#include <dlfcn.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <atomic>
#include <string>
#include <vector>

#include "fronts/libc/test_random.h"
#include "fronts/libc/test_util.h"
#include "gtest/gtest.h"

namespace {

using test_util::Random;
using test_util::ResidentBytes;
using test_util::Stats;

size_t Live() {
    struct hak_stats s = Stats();
    return s.tiny_live + s.large_live;
}

// --- Blocks that travel

// At the start of every travelling block; the rest is filled with the low byte of `id`.
struct Parcel {
    uint64_t id;
    size_t size;
    Parcel *next;
};

// A bounded queue of parcels, with a mutex, because the queue is not what is tested.
class Mailbox {
  public:
    void Put(Parcel *parcel) {
        pthread_mutex_lock(&mutex_);
        while (count_ == kMost) {
            pthread_cond_wait(&changed_, &mutex_);
        }
        parcel->next = nullptr;
        (tail_ == nullptr ? head_ : tail_->next) = parcel;
        tail_ = parcel;
        count_++;
        pthread_cond_broadcast(&changed_);
        pthread_mutex_unlock(&mutex_);
    }
    // All that is there; nullptr if `closed` and empty.
    Parcel *TakeAll() {
        pthread_mutex_lock(&mutex_);
        while (count_ == 0 && !closed_) {
            pthread_cond_wait(&changed_, &mutex_);
        }
        Parcel *all = head_;
        head_ = tail_ = nullptr;
        count_ = 0;
        pthread_cond_broadcast(&changed_);
        pthread_mutex_unlock(&mutex_);
        return all;
    }
    void Close() {
        pthread_mutex_lock(&mutex_);
        closed_ = true;
        pthread_cond_broadcast(&changed_);
        pthread_mutex_unlock(&mutex_);
    }

  private:
    static constexpr int kMost = 500;
    pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t changed_ = PTHREAD_COND_INITIALIZER;
    Parcel *head_ = nullptr;
    Parcel *tail_ = nullptr;
    int count_ = 0;
    bool closed_ = false;
};

constexpr int kPairs = 4;
constexpr uint64_t kParcels = 150000 / test_util::kPart;
Mailbox mailboxes[kPairs];
std::atomic<uint64_t> received, damaged;

void *Produce(void *arg) {
    uint64_t me = reinterpret_cast<uintptr_t>(arg);
    Random random = {me + 1};
    for (uint64_t i = 0; i < kParcels; i++) {
        uint32_t r = random();
        size_t size = sizeof(Parcel) + (r % 1000 == 0 ? r / 1000 % 200000
                                        : r % 20 == 0 ? r / 20 % 8000
                                                      : r / 20 % 500);
        void *block = r % 64 == 1   ? memalign(256, size)
                      : r % 64 == 2 ? calloc(1, size)
                                    : malloc(size);
        Parcel *parcel = static_cast<Parcel *>(block);
        parcel->id = me << 32 | i;
        parcel->size = size;
        memset(parcel + 1, static_cast<int>(i & 0xff), size - sizeof *parcel);
        mailboxes[random() % kPairs].Put(parcel);
    }
    return nullptr;
}

void *Consume(void *arg) {
    Mailbox *mailbox = static_cast<Mailbox *>(arg);
    while (Parcel *parcel = mailbox->TakeAll()) {
        while (parcel != nullptr) {
            Parcel *next = parcel->next;
            const unsigned char *bytes = reinterpret_cast<unsigned char *>(parcel + 1);
            size_t n = parcel->size - sizeof *parcel;
            if (n > 0 &&
                (bytes[0] != (parcel->id & 0xff) || memcmp(bytes, bytes + 1, n - 1) != 0)) {
                damaged++;
            }
            received++;
            free(parcel);
            parcel = next;
        }
    }
    return nullptr;
}

TEST(HandOver, EightThreadsOfProducersAndConsumers) {
    size_t live = Live();
    pthread_t producers[kPairs];
    pthread_t consumers[kPairs];
    for (int i = 0; i < kPairs; i++) {
        ASSERT_EQ(pthread_create(&consumers[i], nullptr, Consume, &mailboxes[i]), 0);
        ASSERT_EQ(pthread_create(&producers[i], nullptr, Produce, reinterpret_cast<void *>(i)), 0);
    }
    for (pthread_t t : producers) {
        pthread_join(t, nullptr);
    }
    for (Mailbox &mailbox : mailboxes) {
        mailbox.Close();
    }
    for (pthread_t t : consumers) {
        pthread_join(t, nullptr);
    }
    EXPECT_EQ(received, kPairs * kParcels);
    EXPECT_EQ(damaged, 0u);
    // The rest is libc's: the vectors of thread-local storage of stacks that libc keeps.
    EXPECT_LT(Live(), live + 8192);
}

// All threads draw from and put into the same places: most blocks are freed by another thread than
// the one that allocated them, at once and not in batches.
constexpr size_t kSlots = 512;
std::atomic<Parcel *> slots[kSlots];

void *Shuffle(void *arg) {
    Random random = {reinterpret_cast<uintptr_t>(arg) + 99};
    for (unsigned i = 0; i < 400000 / test_util::kPart; i++) {
        size_t size = sizeof(Parcel) + random() % 300;
        Parcel *mine = static_cast<Parcel *>(malloc(size));
        mine->size = size;
        mine->id = random();
        memset(mine + 1, static_cast<int>(mine->id & 0xff), size - sizeof *mine);
        Parcel *other = slots[random() % kSlots].exchange(mine);
        if (other != nullptr) {
            const unsigned char *bytes = reinterpret_cast<unsigned char *>(other + 1);
            for (size_t n = other->size - sizeof *other; n > 0; n--) {
                if (bytes[n - 1] != (other->id & 0xff)) {
                    damaged++;
                    break;
                }
            }
            free(other);
        }
    }
    return nullptr;
}

TEST(HandOver, EightThreadsSwapOverSharedSlots) {
    size_t live = Live();
    pthread_t threads[8];
    for (uintptr_t i = 0; i < 8; i++) {
        ASSERT_EQ(pthread_create(&threads[i], nullptr, Shuffle, reinterpret_cast<void *>(i)), 0);
    }
    for (pthread_t t : threads) {
        pthread_join(t, nullptr);
    }
    for (auto &slot : slots) {
        free(slot.exchange(nullptr));
    }
    EXPECT_EQ(damaged, 0u);
    EXPECT_LT(Live(), live + 8192);
}

// Eight threads empty the same slabs, word by word, and give everything back for the next round:
// two refills meet in one word again and again.
struct Claim {
    uint64_t thread, round, index;
};
pthread_barrier_t round_begins;

void *RefillAtOnce(void *arg) {
    constexpr uint64_t kRounds = 3000 / test_util::kPart;
    constexpr size_t kBlocks = 150;
    uint64_t me = reinterpret_cast<uintptr_t>(arg);
    Claim *mine[kBlocks];
    for (uint64_t round = 0; round < kRounds; round++) {
        // The barrier gathers the threads now and then; in between they run freely.
        if (round % 16 == 0) {
            pthread_barrier_wait(&round_begins);
        }
        size_t size = 32 + round / 16 % 16 * 16;
        for (size_t i = 0; i < kBlocks; i++) {
            mine[i] = static_cast<Claim *>(malloc(size));
            *mine[i] = {me, round, i};
        }
        for (size_t i = 0; i < kBlocks; i++) {
            if (mine[i]->thread != me || mine[i]->round != round || mine[i]->index != i) {
                damaged++;
            }
            free(mine[i]);
        }
        malloc_trim(0);
    }
    return nullptr;
}

TEST(HandOver, EightThreadsRefillFromTheSameSlabs) {
    size_t live = Live();
    pthread_barrier_init(&round_begins, nullptr, 8);
    pthread_t threads[8];
    for (uintptr_t i = 0; i < 8; i++) {
        ASSERT_EQ(pthread_create(&threads[i], nullptr, RefillAtOnce, reinterpret_cast<void *>(i)),
                  0);
    }
    for (pthread_t t : threads) {
        pthread_join(t, nullptr);
    }
    pthread_barrier_destroy(&round_begins);
    EXPECT_EQ(damaged, 0u);
    EXPECT_LT(Live(), live + 8192);
}

// --- Birth and death

void *left_over;

void *ShortLife(void *arg) {
    unsigned n = static_cast<unsigned>(reinterpret_cast<uintptr_t>(arg));
    void *blocks[8];
    for (unsigned i = 0; i < 8; i++) {
        blocks[i] = malloc(16 + (n * 37 + i * 211) % 2000);
        memset(blocks[i], 1, 16);
    }
    if (n % 100 == 0) {
        free(malloc(100000));
    }
    for (unsigned i = 0; i < 7; i++) {
        free(blocks[i]);
    }
    free(left_over); // another thread's, one that is gone
    left_over = blocks[7];
    return nullptr;
}

constexpr int kShortLives = 100000 / test_util::kPart;

void RunShortLives(int count) {
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        ASSERT_EQ(
            pthread_create(&thread, nullptr, ShortLife, reinterpret_cast<void *>(uintptr_t(i))), 0);
        pthread_join(thread, nullptr);
    }
}

TEST(Lives, ManyThousandThreadsOneAfterAnotherDoNotGrowTheHeap) {
    RunShortLives(2000);
    size_t heaps = Stats().heaps;
    size_t rss = ResidentBytes();
    RunShortLives(kShortLives);
    free(left_over);
    left_over = nullptr;
    size_t after = ResidentBytes();
    printf("%d threads: RSS %zd KiB more, %zu heaps\n", kShortLives,
           (static_cast<ssize_t>(after) - static_cast<ssize_t>(rss)) / 1024, Stats().heaps);
    EXPECT_LE(after, rss + (1 << 20));
    EXPECT_EQ(Stats().heaps, heaps);
}

TEST(Lives, HeapsOfAllThreadsOfOneGenerationServeTheNext) {
    constexpr int kThreads = 64;
    static pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, nullptr, kThreads);
    auto generation = [] {
        pthread_t threads[kThreads];
        for (pthread_t &t : threads) {
            ASSERT_EQ(pthread_create(
                          &t, nullptr,
                          [](void *) -> void * {
                              std::vector<void *> blocks;
                              for (size_t n = 16; n < 40000; n = n * 5 / 4) {
                                  blocks.push_back(malloc(n));
                              }
                              pthread_barrier_wait(&barrier); // all are alive at once
                              for (void *p : blocks) {
                                  free(p);
                              }
                              return nullptr;
                          },
                          nullptr),
                      0);
        }
        for (pthread_t t : threads) {
            pthread_join(t, nullptr);
        }
    };
    generation();
    struct hak_stats first = Stats();
    EXPECT_GE(first.heaps, size_t{kThreads});
    EXPECT_GE(first.free_heaps, size_t{kThreads});
    size_t live = Live();
    for (int i = 0; i < 5; i++) {
        generation();
    }
    EXPECT_EQ(Stats().heaps, first.heaps);
    EXPECT_EQ(Stats().free_heaps, first.free_heaps);
    EXPECT_EQ(Live(), live);
    pthread_barrier_destroy(&barrier);
}

TEST(Lives, CachesGoBackAtExit) {
    static void *blocks[1000];
    pthread_t thread;
    auto nothing = [](void *) -> void * { return nullptr; };
    pthread_create(&thread, nullptr, nothing, nullptr);
    pthread_join(thread, nullptr);
    malloc_trim(0);
    size_t cached = Stats().tiny_cached;
    auto work = [](void *) -> void * {
        for (void *&p : blocks) {
            p = malloc(208);
        }
        for (void *p : blocks) {
            free(p);
        }
        return nullptr;
    };
    pthread_create(&thread, nullptr, work, nullptr);
    pthread_join(thread, nullptr);
    EXPECT_EQ(Stats().tiny_cached, cached);
}

// --- Destructors of thread-specific data

constexpr int kKeys = 40;
pthread_key_t keys[kKeys];
std::atomic<int> destructor_calls;

// Frees what the thread left, allocates anew, and asks to be called again in the next round.
void Destructor(void *value) {
    int round = *static_cast<int *>(value);
    int key = static_cast<int *>(value)[1];
    free(value);
    for (size_t n = 8; n < 70000; n = n * 3 + 1) {
        char *p = static_cast<char *>(malloc(n));
        memset(p, 7, n);
        p = static_cast<char *>(realloc(p, n * 2));
        if (p[n - 1] != 7) {
            damaged++;
        }
        free(p);
    }
    destructor_calls++;
    if (round < PTHREAD_DESTRUCTOR_ITERATIONS) {
        int *again = static_cast<int *>(malloc(2 * sizeof(int)));
        again[0] = round + 1;
        again[1] = key;
        pthread_setspecific(keys[key], again);
    }
}

void *WithKeys(void *arg) {
    bool allocate_before = arg != nullptr;
    if (allocate_before) {
        free(malloc(1000));
    }
    for (int key = 0; key < kKeys; key++) {
        int *value = static_cast<int *>(malloc(2 * sizeof(int)));
        value[0] = 1;
        value[1] = key;
        pthread_setspecific(keys[key], value);
    }
    return nullptr;
}

TEST(Destructors, MallocAndFreeInEveryIteration) {
    for (pthread_key_t &key : keys) {
        ASSERT_EQ(pthread_key_create(&key, Destructor), 0);
    }
    auto run = [](int times) {
        for (int i = 0; i < times; i++) {
            pthread_t thread;
            ASSERT_EQ(pthread_create(&thread, nullptr, WithKeys,
                                     i % 2 == 0 ? nullptr : &destructor_calls),
                      0);
            pthread_join(thread, nullptr);
        }
    };
    run(2);
    size_t live = Live();
    size_t heaps = Stats().heaps;
    destructor_calls = 0;
    run(200);
    EXPECT_EQ(destructor_calls, 200 * kKeys * PTHREAD_DESTRUCTOR_ITERATIONS);
    EXPECT_EQ(damaged, 0u);
    EXPECT_EQ(Live(), live);
    EXPECT_EQ(Stats().heaps, heaps);
    for (pthread_key_t key : keys) {
        pthread_key_delete(key);
    }
}

// The first thing that the thread allocates is in its destructor.
TEST(Destructors, FirstAllocationOfTheThread) {
    static pthread_key_t key;
    static std::atomic<int> calls;
    ASSERT_EQ(pthread_key_create(&key,
                                 [](void *) {
                                     void *p = malloc(100);
                                     memset(p, 1, 100);
                                     free(p);
                                     calls++;
                                 }),
              0);
    size_t live = 0;
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        pthread_create(
            &thread, nullptr,
            [](void *) -> void * {
                pthread_setspecific(key, &key);
                return nullptr;
            },
            nullptr);
        pthread_join(thread, nullptr);
        live = i == 0 ? Live() : live;
    }
    EXPECT_EQ(calls, 50);
    EXPECT_EQ(Live(), live);
    pthread_key_delete(key);
}

struct ThreadLocal {
    std::vector<std::string> strings;
    ~ThreadLocal() {
        for (int i = 0; i < 100; i++) {
            strings.push_back(std::string(static_cast<size_t>(i) * 10, 'x'));
        }
    }
};
thread_local ThreadLocal a_thread_local;

TEST(Destructors, ThreadLocalObjects) {
    size_t live = 0;
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        pthread_create(
            &thread, nullptr,
            [](void *) -> void * {
                a_thread_local.strings.push_back("a string that is too long to be kept in place");
                return nullptr;
            },
            nullptr);
        pthread_join(thread, nullptr);
        live = i == 0 ? Live() : live;
    }
    EXPECT_EQ(Live(), live);
}

// --- Before main()

char *from_preinit;
char *from_constructor_101;
char *from_constructor;

char *Early() {
    char *p = static_cast<char *>(malloc(300));
    memset(p, 'e', 300);
    free(malloc(5000));
    void *large = malloc(500000);
    memset(large, 1, 500000);
    free(large);
    return static_cast<char *>(realloc(p, 900));
}

// Before any constructor, the allocator's own included.
void Preinit() {
    from_preinit = Early();
}
__attribute__((section(".preinit_array"), used)) void (*const preinit)() = Preinit;

__attribute__((constructor(101))) void Constructor101() {
    from_constructor_101 = Early();
}

__attribute__((constructor)) void Constructor() {
    from_constructor = Early();
}

struct Static {
    std::vector<int> numbers;
    std::string text;
    Static() : numbers(1000, 7), text(500, 's') {}
    // Runs at exit; an abort in it fails the test.
    ~Static() {
        std::vector<int> more(numbers);
        free(from_constructor);
        free(malloc(100));
    }
} a_static;

TEST(BeforeMain, BlocksAreGood) {
    for (char *p : {from_preinit, from_constructor_101, from_constructor}) {
        ASSERT_NE(p, nullptr);
        for (int i = 0; i < 300; i++) {
            ASSERT_EQ(p[i], 'e');
        }
        EXPECT_GE(malloc_usable_size(p), 900u);
    }
    free(from_preinit);
    EXPECT_EQ(a_static.numbers, std::vector<int>(1000, 7));
    EXPECT_EQ(a_static.text, std::string(500, 's'));
}

TEST(AfterMain, AtexitAndStaticDestructorsMayAllocate) {
    EXPECT_EXIT(
        {
            atexit([] { free(malloc(12345)); });
            exit(7);
        },
        testing::ExitedWithCode(7), "^$");
}

// --- Libraries that come and go

TEST(Dlopen, LibraryIsServedByThisAllocator) {
    size_t live = 0;
    for (int i = 0; i < 100; i++) {
        void *library = dlopen("fronts/libc/libtest_plugin.so", RTLD_NOW | RTLD_LOCAL);
        ASSERT_NE(library, nullptr) << dlerror();
        auto alloc = reinterpret_cast<void *(*)(size_t)>(dlsym(library, "plugin_alloc"));
        auto release = reinterpret_cast<void (*)(void *)>(dlsym(library, "plugin_free"));
        auto touch = reinterpret_cast<int (*)()>(dlsym(library, "plugin_touch_tls"));
        ASSERT_TRUE(alloc != nullptr && release != nullptr && touch != nullptr);
        size_t before = Live();
        void *p = alloc(1000);
        EXPECT_EQ(Live(), before + test_util::TinyBytes(p));
        free(p); // across the border, both ways
        release(malloc(1000));
        EXPECT_EQ(Live(), before);
        pthread_t thread;
        pthread_create(
            &thread, nullptr,
            [](void *fn) -> void * {
                reinterpret_cast<int (*)()>(fn)();
                return nullptr;
            },
            reinterpret_cast<void *>(touch));
        pthread_join(thread, nullptr);
        EXPECT_EQ(touch(), 1);
        ASSERT_EQ(dlclose(library), 0);
        if (i == 5) {
            live = Live();
        }
    }
    EXPECT_EQ(Live(), live);
}

} // namespace
