// SPDX-License-Identifier: Apache-2.0
// Memory hooks of others: libc's functions that take pages away, replaced by a program's own, as
// libraries for RDMA do. They are told of every page that goes, and may use the heap.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "fronts/libc/test_util.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kMiB = size_t{1} << 20;

// The calls of a hook, recorded in memory that is not the heap's.
struct Range {
    uintptr_t at;
    size_t size;
};
constexpr size_t kMost = 1 << 16;
Range told[kMost];
std::atomic<size_t> tolds{0};

bool watched = false; // the hooks use the heap
std::atomic<bool> forks{false};
std::atomic<bool> jumps{false};
std::atomic<bool> lasts{false};
jmp_buf landing;
thread_local int depth = 0;
std::atomic<int> deepest{0};
std::atomic<long> faults{0};

void *volatile kept;

// Blocks of one size that live for a while, each filled with a number of its own, which it must
// still be when it is freed: no block is handed out twice.
class Ring {
  public:
    explicit Ring(size_t most) : most_(most) {}
    void Turn(size_t size, size_t times) {
        for (; times > 0; times--, next_ = (next_ + 1) % most_) {
            Drop(next_);
            blocks_[next_] = static_cast<size_t *>(malloc(size));
            sizes_[next_] = size;
            for (size_t i = 0; i < size / sizeof(size_t); i++) {
                blocks_[next_][i] = Mark(next_);
            }
        }
    }
    void Drop(size_t n) {
        if (blocks_[n] != nullptr) {
            for (size_t i = 0; i < sizes_[n] / sizeof(size_t); i++) {
                faults += blocks_[n][i] != Mark(n);
            }
            free(blocks_[n]);
            blocks_[n] = nullptr;
        }
    }
    void Empty() {
        for (size_t n = 0; n < most_; n++) {
            Drop(n);
        }
    }

  private:
    size_t Mark(size_t n) const { return reinterpret_cast<size_t>(this) + n; }
    static constexpr size_t kMost = 200000;
    size_t most_;
    size_t next_ = 0;
    size_t *blocks_[kMost] = {};
    size_t sizes_[kMost] = {};
};
Ring of_test{200000}, of_hooks{3000};
std::atomic<size_t> hook_size{0}; // 0: the hooks do not use their ring

// As a registration cache would: takes out an entry, puts in another one, and more than fits in a
// thread's cache.
void use_heap() {
    constexpr int kBlocks = 300;
    static thread_local unsigned char *blocks[kBlocks];
    for (size_t size : {48, 200, 1000, 9000}) {
        for (int i = 0; i < kBlocks; i++) {
            blocks[i] = static_cast<unsigned char *>(malloc(size));
            if (blocks[i] == nullptr) {
                faults++;
                return;
            }
            memset(blocks[i], i, size);
        }
        for (int i = 0; i < kBlocks; i++) {
            faults += blocks[i][0] != static_cast<unsigned char>(i) ||
                      blocks[i][size - 1] != static_cast<unsigned char>(i);
            free(blocks[i]);
        }
    }
    void *large = malloc(3 * kMiB);
    memset(large, 1, 3 * kMiB);
    large = realloc(large, 5 * kMiB);
    faults += large == nullptr;
    free(large);
}

void fork_here() {
    pid_t id = fork();
    if (id == 0) {
        for (int i = 0; i < 2000; i++) {
            free(memset(malloc(100 + i), 1, 100));
        }
        _exit(0);
    }
    int status = 1;
    waitpid(id, &status, 0);
    faults += status != 0;
}

void tell(const void *at, size_t size) {
    if (!watched) {
        return;
    }
    size_t i = tolds++;
    if (i < kMost) {
        told[i] = {reinterpret_cast<uintptr_t>(at), size};
    }
    if (lasts.exchange(false)) {
        timespec long_time = {1, 200000000};
        nanosleep(&long_time, nullptr);
    }
    depth++;
    if (depth > deepest) {
        deepest = depth;
    }
    if (depth == 1 && hook_size != 0) {
        of_hooks.Turn(hook_size, tolds % 16 == 0 ? 3500 : 100);
    } else if (depth < 20) {
        use_heap();
    }
    depth--;
    if (forks.exchange(false)) {
        fork_here();
    }
    if (jumps.exchange(false)) {
        longjmp(landing, 1);
    }
    errno = EXDEV;
}

long result(long ret) {
    if (ret < 0 && ret > -4096) {
        errno = static_cast<int>(-ret);
        return -1;
    }
    return ret;
}

long call(long number, long a, long b, long c, long d, long e, long f) {
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result(ret);
}

} // namespace

extern "C" {
int munmap(void *at, size_t size) noexcept {
    tell(at, size);
    return static_cast<int>(
        call(SYS_munmap, reinterpret_cast<long>(at), static_cast<long>(size), 0, 0, 0, 0));
}

int madvise(void *at, size_t size, int advice) noexcept {
    if (advice == MADV_DONTNEED) {
        tell(at, size);
    }
    return static_cast<int>(
        call(SYS_madvise, reinterpret_cast<long>(at), static_cast<long>(size), advice, 0, 0, 0));
}

void *mmap(void *at, size_t size, int rights, int flags, int fd, off_t offset) noexcept {
    if ((flags & MAP_FIXED) != 0) {
        tell(at, size);
    }
    return reinterpret_cast<void *>(call(SYS_mmap, reinterpret_cast<long>(at),
                                         static_cast<long>(size), rights, flags, fd, offset));
}

void *mremap(void *at, size_t size, size_t fresh, int flags, ...) noexcept {
    va_list arguments;
    va_start(arguments, flags);
    void *to = (flags & MREMAP_FIXED) != 0 ? va_arg(arguments, void *) : nullptr;
    va_end(arguments);
    tell(at, size);
    return reinterpret_cast<void *>(call(SYS_mremap, reinterpret_cast<long>(at),
                                         static_cast<long>(size), static_cast<long>(fresh), flags,
                                         reinterpret_cast<long>(to), 0));
}
}

namespace {

bool is_resident(uintptr_t page) {
    unsigned char in = 0;
    return syscall(SYS_mincore, page, kPage, &in) == 0 && (in & 1) != 0;
}

bool was_told(uintptr_t page) {
    size_t count = std::min(tolds.load(), kMost);
    for (size_t i = 0; i < count; i++) {
        if (page >= told[i].at && page + kPage <= told[i].at + told[i].size) {
            return true;
        }
    }
    return false;
}

void rest() {
    timespec t = {0, 10000000};
    nanosleep(&t, nullptr);
}

void work() {
    for (size_t size = 16; size < 20000; size += size / 8 + 8) {
        void *some[20];
        for (void *&block : some) {
            block = memset(malloc(size), 1, size);
        }
        for (void *block : some) {
            free(block);
        }
    }
}

class Hooks : public testing::Test {
  protected:
    void SetUp() override {
        tolds = 0;
        faults = 0;
        deepest = 0;
        watched = true;
    }
    void TearDown() override {
        watched = false;
        EXPECT_EQ(faults, 0);
        EXPECT_LE(deepest, 2);
        EXPECT_LT(tolds.load(), kMost);
    }
    // Pages of [at, at + size) that have gone and of which nobody was told; *gone: all that have.
    static size_t Silent(uintptr_t at, size_t size, size_t *gone) {
        size_t silent = 0;
        for (uintptr_t page = (at + kPage - 1) & -kPage; page + kPage <= at + size; page += kPage) {
            if (!is_resident(page)) {
                ++*gone;
                silent += !was_told(page);
            }
        }
        return silent;
    }
};

TEST_F(Hooks, AreToldOfEveryPageOfAFreedBlock) {
    size_t gone = 0; // of all: a block's run may be in use again
    for (size_t size : {64 * kMiB + 5000, 40 * kMiB, 4 * kMiB, kMiB, 200000 + kMiB / 4}) {
        auto *block = static_cast<unsigned char *>(malloc(size));
        ASSERT_NE(block, nullptr);
        memset(block, 1, size);
        auto at = reinterpret_cast<uintptr_t>(block);
        tolds = 0;
        errno = 0;
        free(block);
        EXPECT_EQ(errno, 0);
        for (int i = 0; i < 100 && is_resident((at + size / 2) & -kPage); i++) {
            rest();
            work();
        }
        EXPECT_EQ(Silent(at, size, &gone), 0u) << size;
    }
    EXPECT_GT(gone, 64 * kMiB / kPage);
}

TEST_F(Hooks, AreToldOfPagesInsideSlabs) {
    constexpr int kBlocks = 20000;
    std::vector<unsigned char *> blocks(kBlocks);
    for (auto &block : blocks) {
        block = static_cast<unsigned char *>(memset(malloc(1000), 1, 1000));
    }
    tolds = 0;
    for (int i = 0; i < kBlocks; i++) {
        if (i % 64 != 0) {
            free(blocks[i]);
        }
    }
    // On a busy machine it takes a while until it is the turn of what is inside slabs.
    auto some_are_gone = [&] {
        return std::any_of(blocks.begin(), blocks.end(), [](unsigned char *block) {
            return !is_resident(reinterpret_cast<uintptr_t>(block) & -kPage);
        });
    };
    for (int i = 0; i < 30 || (i < 1000 && !some_are_gone()); i++) {
        rest();
        work();
    }
    size_t gone = 0;
    for (int i = 0; i < kBlocks; i++) {
        auto page = reinterpret_cast<uintptr_t>(blocks[i]) & -kPage;
        EXPECT_EQ(Silent(page, kPage, &gone), 0u);
        if (i % 64 == 0) {
            EXPECT_EQ(blocks[i][0] + blocks[i][999], 2);
        }
    }
    EXPECT_GT(gone, 0u);
    for (int i = 0; i < kBlocks; i += 64) {
        free(blocks[i]);
    }
}

TEST_F(Hooks, AreToldOfPagesThatMove) {
    for (size_t size : {2 * kMiB, 40 * kMiB}) {
        auto *block = static_cast<unsigned char *>(malloc(size));
        void *behind = malloc(kMiB);
        memset(block, 1, size);
        auto at = reinterpret_cast<uintptr_t>(block);
        tolds = 0;
        errno = 0;
        auto *moved = static_cast<unsigned char *>(realloc(block, 2 * size + 12345));
        ASSERT_NE(moved, nullptr);
        EXPECT_EQ(errno, 0);
        EXPECT_EQ(moved[0] + moved[size - 1], 2);
        size_t gone = 0;
        if (moved != block) {
            EXPECT_EQ(Silent(at, size, &gone), 0u) << size;
        }
        free(moved);
        free(behind);
    }
}

TEST_F(Hooks, AreToldOfBlocksFarFromTheHeap) {
    size_t size = size_t{17} << 30;
    auto *block = static_cast<char *>(malloc(size));
    if (block == nullptr) {
        GTEST_SKIP() << "the machine has no such memory";
    }
    block[12345] = 1;
    tolds = 0;
    free(block);
    EXPECT_TRUE(was_told(reinterpret_cast<uintptr_t>(block + 12345) & -kPage));
}

// What a thread frees, and what it leaves as it ends, goes to the pool many blocks at a time, and
// pages to the kernel in the middle of that.
TEST_F(Hooks, UseTheHeapInTheMiddleOfAFree) {
    for (size_t size : {1000, 200, 9000, 3000}) {
        std::thread thread([size] {
            hook_size = size;
            for (int round = 0; round < 2; round++) {
                of_test.Turn(size, 80000000 / size);
                of_test.Empty();
                work();
            }
            of_test.Turn(size, 2000);
        });
        thread.join();
        of_test.Empty();
        hook_size = 0;
        of_hooks.Empty();
    }
    EXPECT_GT(tolds.load(), 100u);
}

TEST_F(Hooks, OfManyThreadsUseTheHeap) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 6; t++) {
        threads.emplace_back([t] {
            for (int i = 0; i < 20; i++) {
                void *large = malloc((t + 1) * 3 * kMiB);
                memset(large, 1, (t + 1) * 3 * kMiB);
                work();
                free(large);
                rest();
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_GT(tolds.load(), 0u);
}

TEST_F(Hooks, MayFork) {
    forks = true;
    free(memset(malloc(70 * kMiB), 1, 70 * kMiB));
    EXPECT_FALSE(forks);
    work();
}

TEST_F(Hooks, MayTakeLong) {
    void *mine = malloc(100);
    lasts = true;
    free(memset(malloc(70 * kMiB), 1, 70 * kMiB));
    EXPECT_FALSE(lasts);
    work();
    free(mine);
    if (!HAK_HARDENED) { // which hands out blocks in no order
        EXPECT_EQ(mine, kept = malloc(100)) << "the heap is the thread's again";
        free(kept);
    }
}

// The thread is served all the while, and has its heap again in the end.
TEST_F(Hooks, MayNeverComeBack) {
    void *block = memset(malloc(70 * kMiB), 1, 70 * kMiB);
    jumps = true;
    if (setjmp(landing) == 0) {
        free(block);
        FAIL() << "no hook was called";
    }
    EXPECT_FALSE(jumps);
    depth = 0;
    work();
    timespec second = {1, 200000000};
    nanosleep(&second, nullptr);
    work();
    // A thread with a heap of its own gets back what it has freed last.
    void *mine = malloc(100);
    free(mine);
    if (!HAK_HARDENED) { // which hands out blocks in no order
        EXPECT_EQ(mine, kept = malloc(100));
        free(kept);
    }
    block = memset(malloc(40 * kMiB), 1, 40 * kMiB);
    size_t before = tolds;
    free(block);
    for (int i = 0; i < 50 && tolds == before; i++) {
        rest();
        work();
    }
    EXPECT_GT(tolds.load(), before);
}

size_t heaps_of_threads() {
    struct hak_stats stats;
    hak_stats(&stats);
    return stats.heaps - stats.free_heaps;
}

// The heap is one without a thread then, whatever the thread did in between.
TEST_F(Hooks, MayNeverComeBackBeforeTheThreadEnds) {
    work();
    size_t before = heaps_of_threads();
    for (int frees = 0; frees < 3; frees++) {
        std::thread thread([frees] {
            void *blocks[3];
            for (void *&block : blocks) {
                block = memset(malloc(70 * kMiB), 1, 70 * kMiB);
            }
            work();
            jumps = true;
            if (setjmp(landing) == 0) {
                free(blocks[2]);
                faults++; // no hook was called
            }
            depth = 0;
            work();
            if (frees == 2) {
                timespec second = {1, 200000000};
                nanosleep(&second, nullptr);
            }
            for (int i = 0; i < frees; i++) {
                free(blocks[i]);
            }
        });
        thread.join();
        EXPECT_EQ(heaps_of_threads(), before) << frees;
    }
}

} // namespace
