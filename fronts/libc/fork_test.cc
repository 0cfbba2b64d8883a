// SPDX-License-Identifier: Apache-2.0
// fork() of programs with busy threads: the child can allocate and free at once, its blocks have
// their contents, and it never hangs.
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "boxes/base/base.h"
#include "fronts/libc/test_random.h"
#include "fronts/libc/test_util.h"
#include "gtest/gtest.h"

namespace {

using test_util::InChild;
using test_util::Random;

size_t MixedSize(uint32_t r) {
    return r % 200 == 0 ? 1 + r / 200 % 300000 : r % 16 == 0 ? 1 + r / 16 % 9000 : 1 + r / 16 % 600;
}

// A block that knows its content: every byte is `mark`.
struct Block {
    unsigned char *p;
    size_t size;
    unsigned char mark;

    bool Alloc(size_t n, unsigned char m) {
        p = static_cast<unsigned char *>(malloc(n));
        size = n;
        mark = m;
        if (p != nullptr) {
            memset(p, m, n);
        }
        return p != nullptr;
    }
    bool Good() const { return p[0] == mark && memcmp(p, p + 1, size - 1) == 0; }
};

// A child's work: allocates `count` blocks, checks them, and frees them. Returns 0 if all is well.
int UseHeap(uint64_t seed, int count) {
    Random random = {seed};
    Block *blocks = static_cast<Block *>(calloc(static_cast<size_t>(count), sizeof(Block)));
    if (blocks == nullptr) {
        return 20;
    }
    for (int i = 0; i < count; i++) {
        if (!blocks[i].Alloc(MixedSize(random()), static_cast<unsigned char>(i))) {
            return 21;
        }
    }
    for (int i = 0; i < count; i++) {
        if (!blocks[i].Good()) {
            return 22;
        }
        if (i % 3 == 0) {
            size_t n = MixedSize(random());
            unsigned char *q = static_cast<unsigned char *>(realloc(blocks[i].p, n));
            if (q == nullptr || q[0] != blocks[i].mark) {
                return 23;
            }
            free(q);
        } else {
            free(blocks[i].p);
        }
    }
    free(blocks);
    return 0;
}

// --- Busy threads

constexpr int kBusy = 16;
std::atomic<bool> stop;
std::atomic<int> damaged;

void *Busy(void *arg) {
    Random random = {reinterpret_cast<uintptr_t>(arg) * 77 + 1};
    Block blocks[64] = {};
    for (unsigned i = 0; !stop; i++) {
        if (i % 256 == 0) {
            usleep(300); // so that the children get a turn
        }
        Block &block = blocks[random() % 64];
        if (block.p != nullptr) {
            if (!block.Good()) {
                damaged++;
            }
            free(block.p);
            block.p = nullptr;
        } else {
            block.Alloc(MixedSize(random()), static_cast<unsigned char>(random()));
        }
    }
    for (Block &block : blocks) {
        free(block.p);
    }
    return nullptr;
}

class BusyTest : public testing::Test {
  protected:
    void SetUp() override {
        stop = false;
        damaged = 0;
        for (uintptr_t i = 0; i < kBusy; i++) {
            ASSERT_EQ(pthread_create(&threads_[i], nullptr, Busy, reinterpret_cast<void *>(i)), 0);
        }
    }
    void TearDown() override {
        stop = true;
        for (pthread_t thread : threads_) {
            pthread_join(thread, nullptr);
        }
        EXPECT_EQ(damaged, 0);
    }
    pthread_t threads_[kBusy];
};

TEST_F(BusyTest, TwoHundredChildrenUseTheHeap) {
    // Blocks of the parent, which the children read and free too.
    constexpr size_t kKept = 200;
    static Block kept[kKept];
    Random random = {5};
    for (size_t i = 0; i < kKept; i++) {
        ASSERT_TRUE(kept[i].Alloc(MixedSize(random()), static_cast<unsigned char>(i)));
    }
    for (uint64_t i = 0; i < 200; i++) {
        ASSERT_EQ(InChild([i] {
                      int result = UseHeap(i, 100);
                      for (const Block &block : kept) {
                          result = block.Good() ? result : 30;
                          free(block.p);
                      }
                      return result != 0 ? result : UseHeap(i + 1000, 100);
                  }),
                  "exit 0")
            << i;
    }
    for (const Block &block : kept) {
        EXPECT_TRUE(block.Good());
        free(block.p);
    }
}

TEST_F(BusyTest, ChildrenMayExitProperly) {
    // exit() runs destructors and the allocator's own last check of its caches.
    for (uint64_t i = 0; i < 20; i++) {
        ASSERT_EQ(InChild([i] {
                      if (UseHeap(i, 200) == 0) {
                          fclose(stdout);
                          exit(0);
                      }
                      return 1;
                  }),
                  "exit 0");
    }
}

TEST_F(BusyTest, ChildrenMayStartThreadsOfTheirOwn) {
    for (uint64_t i = 0; i < 20; i++) {
        ASSERT_EQ(InChild([i] {
                      pthread_t threads[4];
                      for (uint64_t t = 0; t < 4; t++) {
                          if (pthread_create(
                                  &threads[t], nullptr,
                                  [](void *seed) -> void * {
                                      return reinterpret_cast<void *>(static_cast<intptr_t>(
                                          UseHeap(reinterpret_cast<uintptr_t>(seed), 200)));
                                  },
                                  reinterpret_cast<void *>(i * 4 + t)) != 0) {
                              return 40;
                          }
                      }
                      for (pthread_t thread : threads) {
                          void *result;
                          pthread_join(thread, &result);
                          if (result != nullptr) {
                              return 41;
                          }
                      }
                      return 0;
                  }),
                  "exit 0");
    }
}

int Generations(int left) {
    if (int result = UseHeap(static_cast<uint64_t>(left), 50); result != 0 || left == 0) {
        return result;
    }
    return InChild([left] { return Generations(left - 1); }) == "exit 0" ? 0 : 50;
}

TEST_F(BusyTest, ChildrenOfChildren) {
    EXPECT_EQ(InChild([] { return Generations(20); }), "exit 0");
}

void *Forker(void *arg) {
    uintptr_t failures = 0;
    for (uint64_t i = 0; i < 25; i++) {
        failures += InChild([i, arg] {
                        return UseHeap(i + reinterpret_cast<uintptr_t>(arg), 100);
                    }) != "exit 0";
    }
    return reinterpret_cast<void *>(failures);
}

TEST_F(BusyTest, FourThreadsForkAtOnce) {
    pthread_t forkers[4];
    for (uintptr_t i = 0; i < 4; i++) {
        ASSERT_EQ(pthread_create(&forkers[i], nullptr, Forker, reinterpret_cast<void *>(i << 20)),
                  0);
    }
    for (pthread_t forker : forkers) {
        void *failures;
        pthread_join(forker, &failures);
        EXPECT_EQ(failures, nullptr);
    }
}

// --- Handlers and stdio
//
// libc runs fork handlers, then takes the locks of all streams, then those of its own malloc. A
// thread that holds a stream's lock and allocates must not wait for a fork that waits for the
// stream; a handler that allocates must not wait either.

pthread_mutex_t handler_mutex = PTHREAD_MUTEX_INITIALIZER;
std::atomic<int> handler_calls;

void AllocateInHandler() {
    for (size_t n = 10; n < 100000; n *= 5) {
        free(malloc(n));
    }
    handler_calls++;
}

void *WriteToMemory(void *) {
    while (!stop) {
        char *text = nullptr;
        size_t length = 0;
        FILE *stream = open_memstream(&text, &length);
        for (int i = 0; i < 200; i++) {
            fprintf(stream, "line %d of a stream that grows its buffer under its lock\n", i);
        }
        fclose(stream);
        if (strncmp(text, "line 0 of", 9) != 0) {
            damaged++;
        }
        free(text);
    }
    return nullptr;
}

void *OpenAndFlushAll(void *) {
    while (!stop) {
        FILE *stream = fopen("/dev/null", "w"); // its buffer is allocated at the first write
        fprintf(stream, "%s %300d", "text", 5);
        fflush(nullptr); // takes the lock of the list of streams, then of each
        char *line = nullptr;
        size_t size = 0;
        FILE *in = fopen("/proc/self/stat", "r");
        if (getline(&line, &size, in) <= 0) { // allocates under the stream's lock
            damaged++;
        }
        fclose(in);
        free(line);
        fclose(stream);
    }
    return nullptr;
}

void *AllocateUnderTheHandlersMutex(void *) {
    while (!stop) {
        pthread_mutex_lock(&handler_mutex);
        free(malloc(3000));
        pthread_mutex_unlock(&handler_mutex);
    }
    return nullptr;
}

TEST(Handlers, ForkWithBusyStreamsAndAllocatingHandlers) {
    pthread_atfork(
        [] {
            pthread_mutex_lock(&handler_mutex);
            AllocateInHandler();
        },
        [] {
            AllocateInHandler();
            pthread_mutex_unlock(&handler_mutex);
        },
        [] {
            AllocateInHandler();
            pthread_mutex_unlock(&handler_mutex);
        });
    // A process of its own: signals and handlers stay there.
    EXPECT_EQ(InChild([] {
                  stop = false;
                  signal(SIGUSR1, [](int) {});
                  pid_t me = getpid();
                  pid_t sender = fork();
                  if (sender == 0) {
                      // Interrupts whatever waits, until it is told to stop.
                      while (kill(me, SIGUSR1) == 0) {
                          usleep(200);
                      }
                      _exit(0);
                  }
                  void *(*const jobs[])(void *) = {WriteToMemory,
                                                   WriteToMemory,
                                                   WriteToMemory,
                                                   OpenAndFlushAll,
                                                   OpenAndFlushAll,
                                                   OpenAndFlushAll,
                                                   Busy,
                                                   Busy,
                                                   AllocateUnderTheHandlersMutex};
                  for (auto job : jobs) {
                      pthread_t thread;
                      if (pthread_create(&thread, nullptr, job, nullptr) != 0) {
                          return 60;
                      }
                  }
                  pthread_t forkers[2];
                  for (uintptr_t i = 0; i < 2; i++) {
                      pthread_create(&forkers[i], nullptr, Forker, nullptr);
                  }
                  int result = 0;
                  for (int i = 0; i < 60 && result == 0; i++) {
                      handler_calls = 0;
                      std::string ending = InChild([] {
                          char *text = nullptr;
                          size_t length = 0;
                          FILE *stream = open_memstream(&text, &length);
                          fprintf(stream, "%0*d", 5000, 1);
                          fflush(nullptr);
                          fclose(stream);
                          free(text);
                          return UseHeap(1, 100);
                      });
                      result = ending == "exit 0" ? 0 : 61;
                  }
                  for (pthread_t forker : forkers) {
                      void *failures;
                      pthread_join(forker, &failures);
                      result = failures == nullptr ? result : 62;
                  }
                  kill(sender, SIGKILL);
                  waitpid(sender, nullptr, 0);
                  return handler_calls == 0 ? 63 : damaged != 0 ? 64 : result;
              }),
              "exit 0");
}

#if defined(__x86_64__)
// --- A fork after every single instruction of an operation
//
// The processor's trap flag stops a thread after each instruction; another thread then forks, and
// the child, in which the stopped thread is gone, takes over its heap and uses it. No block that is
// live may come out, none twice.

sem_t stopped;
sem_t go;
std::atomic<bool> finished;
std::atomic<int> steps;

// Each of the first 150 instructions, which is all of a hit and more; of longer ways (they walk
// bitmaps, and copy) a sample at prime distances, which are longer but for hakmem_c23.
bool ForkHere(int step) {
    constexpr int kNear = test_util::kPart == 1 ? 13 : 67;
    constexpr int kFar = test_util::kPart == 1 ? 4099 : 20507;
    return step < 150 || (step < 4000 && step % kNear == 0) || step % kFar == 0;
}

void OnTrap(int, siginfo_t *info, void *context) {
    greg_t &flags = static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_EFL];
    constexpr greg_t kTrapFlag = 0x100;
    if (info->si_code != TRAP_TRACE) { // int3: begins and ends
        flags ^= kTrapFlag;
        return;
    }
    if (!ForkHere(steps++)) {
        return;
    }
    int saved = errno;
    sem_post(&stopped);
    while (sem_wait(&go) != 0) {
    }
    errno = saved;
}

HAK_INLINE void ToggleStepping() {
    __asm__ volatile("int3" ::: "memory");
}

struct LiveBlock {
    unsigned char *p;
    size_t size;
};

// Blocks that stay live over the operation, each full of its index.
constexpr size_t kLive = 200;
LiveBlock live_blocks[kLive];

struct Operation {
    const char *name;
    size_t size;
    // Run by the thread that is stepped: prepare, then the operation itself, then clean up.
    void (*prepare)(size_t size);
    void (*run)(size_t size);
    void (*clean_up)(size_t size);
};

void *scratch[600];
size_t scratch_count;

void PrepareLive(size_t size) {
    for (size_t i = 0; i < kLive; i++) {
        LiveBlock &block = live_blocks[i];
        block.size = i % 2 == 0 ? size : size / 2 + 1;
        block.p = static_cast<unsigned char *>(malloc(block.size));
        memset(block.p, static_cast<int>(i), block.size);
    }
}

void FreeLive(size_t) {
    for (LiveBlock &block : live_blocks) {
        free(block.p);
        block.p = nullptr;
    }
}

bool LiveBlocksAreGood() {
    for (size_t i = 0; i < kLive; i++) {
        const LiveBlock &block = live_blocks[i];
        if (block.p != nullptr && (block.p[0] != static_cast<unsigned char>(i) ||
                                   memcmp(block.p, block.p + 1, block.size - 1) != 0)) {
            return false;
        }
    }
    return true;
}

size_t operation_size;

// Runs in the child, on a fresh thread, which adopts a heap of the parent's threads.
void *Adopt(void *) {
    constexpr size_t kBlocks = 300;
    unsigned char *got[kBlocks];
    for (size_t size : {operation_size, operation_size / 2 + 1, size_t{2000}}) {
        size_t count = size > 4096 ? 12 : kBlocks;
        for (size_t i = 0; i < count; i++) {
            got[i] = static_cast<unsigned char *>(malloc(size));
            if (got[i] == nullptr) {
                _exit(70);
            }
            memset(got[i], static_cast<int>(0xff - i % 200), size);
        }
        if (!LiveBlocksAreGood()) {
            _exit(71); // a live block was handed out
        }
        for (size_t i = 0; i < count; i++) {
            unsigned char want = static_cast<unsigned char>(0xff - i % 200);
            if (got[i][0] != want || memcmp(got[i], got[i] + 1, size - 1) != 0) {
                _exit(72); // a block was handed out twice
            }
        }
        for (size_t i = 0; i < count; i++) {
            free(got[i]);
        }
    }
    malloc_trim(0);
    return nullptr;
}

int CheckHeapOfStoppedThread() {
    // Two threads at once, so that two heaps are taken over if there are two.
    pthread_t threads[2];
    for (pthread_t &thread : threads) {
        if (pthread_create(&thread, nullptr, Adopt, nullptr) != 0) {
            return 73;
        }
        pthread_join(thread, nullptr);
    }
    return 0;
}

void *StepThrough(void *arg) {
    const Operation *operation = static_cast<const Operation *>(arg);
    operation->prepare(operation->size);
    ToggleStepping();
    operation->run(operation->size);
    ToggleStepping();
    finished = true;
    sem_post(&stopped);
    while (sem_wait(&go) != 0) {
    }
    operation->clean_up(operation->size);
    return nullptr;
}

void Drop(size_t size) {
    for (size_t i = 0; i < scratch_count; i++) {
        free(scratch[i]);
    }
    scratch_count = 0;
    FreeLive(size);
}

void FillScratch(size_t size, size_t count) {
    for (scratch_count = 0; scratch_count < count; scratch_count++) {
        scratch[scratch_count] = malloc(size);
    }
}

const Operation kOperations[] = {
    {"malloc, hit", 64,
     [](size_t n) {
         PrepareLive(n);
         FillScratch(n, 20);
         while (scratch_count > 1) {
             free(scratch[--scratch_count]);
         }
     },
     [](size_t n) { scratch[scratch_count++] = malloc(n); }, Drop},
    {"free, hit", 64,
     [](size_t n) {
         PrepareLive(n);
         // The place in the cache that the block goes to held a block that is live again.
         FillScratch(n, 20);
         free(scratch[--scratch_count]);
         free(live_blocks[0].p);
         live_blocks[0].p = static_cast<unsigned char *>(malloc(live_blocks[0].size));
         memset(live_blocks[0].p, 0, live_blocks[0].size);
     },
     [](size_t) { free(scratch[--scratch_count]); }, Drop},
    {"malloc, miss", 400,
     [](size_t n) {
         PrepareLive(n);
         malloc_trim(0); // the cache is empty
     },
     [](size_t n) { scratch[scratch_count++] = malloc(n); }, Drop},
    {"malloc, miss with a fresh slab", 30000,
     [](size_t n) {
         PrepareLive(n);
         malloc_trim(0);
         scratch[scratch_count++] = malloc(n); // the rest of the slab that is in use
         malloc_trim(0);
     },
     [](size_t n) {
         scratch[scratch_count++] = malloc(n);
         scratch[scratch_count++] = malloc(n);
     },
     Drop},
    {"free, spill", 160,
     [](size_t n) {
         PrepareLive(n);
         malloc_trim(0);
         FillScratch(n, 129);
         // The cache has room for one block.
         while (scratch_count > 2) {
             free(scratch[--scratch_count]);
         }
     },
     [](size_t) {
         free(scratch[--scratch_count]);
         free(scratch[--scratch_count]);
     },
     Drop},
    {"first allocation of a thread", 96, [](size_t) {},
     [](size_t n) {
         for (LiveBlock &block : live_blocks) {
             block.p = nullptr;
         }
         scratch[scratch_count++] = malloc(n);
     },
     Drop},
    {"large malloc", 100000, [](size_t n) { PrepareLive(n / 50); },
     [](size_t n) { scratch[scratch_count++] = malloc(n); }, Drop},
    {"large free", 100000,
     [](size_t n) {
         PrepareLive(n / 50);
         FillScratch(n, 3);
     },
     [](size_t) { free(scratch[--scratch_count]); }, Drop},
    {"large realloc", 200000,
     [](size_t n) {
         PrepareLive(n / 50);
         FillScratch(n, 1);
     },
     [](size_t n) {
         scratch[0] = realloc(scratch[0], n * 2);
         scratch[0] = realloc(scratch[0], n / 2);
     },
     Drop},
    {"aligned_alloc", 512,
     [](size_t n) {
         PrepareLive(n);
         malloc_trim(0);
     },
     [](size_t n) { scratch[scratch_count++] = aligned_alloc(n, n); }, Drop},
    {"malloc_trim", 128,
     [](size_t n) {
         PrepareLive(n);
         FillScratch(n, 6);
         while (scratch_count > 1) {
             free(scratch[--scratch_count]);
         }
     },
     [](size_t) { malloc_trim(0); }, Drop},
};

class EveryInstructionTest : public testing::TestWithParam<Operation> {};

INSTANTIATE_TEST_SUITE_P(Operations, EveryInstructionTest, testing::ValuesIn(kOperations),
                         [](const testing::TestParamInfo<Operation> &param) {
                             std::string name;
                             for (const char *c = param.param.name; *c != '\0'; c++) {
                                 name += isalnum(*c) ? *c : '_';
                             }
                             return name;
                         });

TEST_P(EveryInstructionTest, ChildTakesOverTheHeap) {
    struct sigaction action = {};
    struct sigaction before;
    action.sa_sigaction = OnTrap;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, &before);
    sem_init(&stopped, 0, 0);
    sem_init(&go, 0, 0);
    finished = false;
    steps = 0;
    scratch_count = 0;
    const Operation &operation = GetParam();
    operation_size = operation.size;
    pthread_t thread;
    ASSERT_EQ(pthread_create(&thread, nullptr, StepThrough, const_cast<Operation *>(&operation)),
              0);
    int forks = 0;
    std::string ending = "exit 0";
    for (;;) {
        while (sem_wait(&stopped) != 0) {
        }
        if (finished) {
            break;
        }
        if (ending == "exit 0") {
            forks++;
            ending = InChild(CheckHeapOfStoppedThread);
            EXPECT_EQ(ending, "exit 0") << "after " << steps << " instructions";
        }
        sem_post(&go);
    }
    EXPECT_TRUE(LiveBlocksAreGood());
    sem_post(&go);
    pthread_join(thread, nullptr);
    sigaction(SIGTRAP, &before, nullptr);
    printf("%s: %d instructions, %d forks\n", operation.name, steps.load(), forks);
    EXPECT_GT(steps, 10);
}
#endif

} // namespace
