// SPDX-License-Identifier: Apache-2.0
#include "boxes/stack_trace/stack_trace.h"

#include <gtest/gtest.h>

#include <cstring>
#include <execinfo.h>
#include <pthread.h>
#include <random>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

namespace {

// Two traces from one place: ours, and libgcc's, which is slow and allocates, and is right.
struct Traces {
    std::vector<uintptr_t> ours, truth;
};

__attribute__((noinline)) void Take(Traces *traces) {
    uintptr_t pcs[STACK_TRACE_MOST];
    void *others[STACK_TRACE_MOST + 8];
    int count = backtrace(others, STACK_TRACE_MOST + 8);
    unsigned ours = stack_trace(pcs, STACK_TRACE_MOST);
    // The first address of each is in this function.
    traces->ours.assign(pcs + 1, pcs + ours);
    traces->truth.clear();
    for (int i = 1; i < count && traces->truth.size() < STACK_TRACE_MOST - 1; i++) {
        traces->truth.push_back(reinterpret_cast<uintptr_t>(others[i]));
    }
    // backtrace() ends with a null frame in some versions.
    while (!traces->truth.empty() && traces->truth.back() == 0) {
        traces->truth.pop_back();
    }
}

#define NO_FRAME_POINTER __attribute__((noinline, optimize("O2", "omit-frame-pointer")))

volatile int sink;

NO_FRAME_POINTER int Deep(int depth, Traces *traces) {
    char local[40];
    memset(local, depth, sizeof local);
    sink = local[depth % 40];
    if (depth == 0) {
        Take(traces);
        return 1;
    }
    return Deep(depth - 1, traces) + sink;
}

// Frames whose size is known only at run time: the frame pointer leads to the caller.
NO_FRAME_POINTER int Variable(int depth, Traces *traces) {
    char *local = static_cast<char *>(__builtin_alloca(static_cast<size_t>(depth) * 16 + 16));
    memset(local, depth, 16);
    sink = local[3];
    if (depth == 0) {
        Take(traces);
        return 1;
    }
    return Variable(depth - 1, traces) + sink;
}

// Frames that are aligned to more than the stack is: an expression leads to the caller.
NO_FRAME_POINTER int Aligned(int depth, Traces *traces) {
    alignas(256) char local[256];
    memset(local, depth, sizeof local);
    sink = local[7];
    if (depth == 0) {
        Take(traces);
        return 1;
    }
    return Aligned(depth - 1, traces) + sink;
}

TEST(StackTrace, IsThatOfAnExceptionWithoutFramePointers) {
    for (int depth : {0, 1, 5, 60, 500}) {
        Traces traces;
        Deep(depth, &traces);
        EXPECT_EQ(traces.ours, traces.truth) << depth;
        EXPECT_GT(traces.ours.size(), static_cast<size_t>(depth < 100 ? depth : 100));
        Variable(depth, &traces);
        EXPECT_EQ(traces.ours, traces.truth) << depth;
        Aligned(depth, &traces);
        EXPECT_EQ(traces.ours, traces.truth) << depth;
    }
}

TEST(StackTrace, IsTheSameWhenItIsRemembered) {
    for (int i = 0; i < 3; i++) {
        Traces traces;
        Deep(20, &traces);
        EXPECT_EQ(traces.ours, traces.truth);
    }
}

TEST(StackTrace, OfAThread) {
    Traces traces;
    std::thread([&] { Deep(10, &traces); }).join();
    EXPECT_EQ(traces.ours, traces.truth);
    EXPECT_GT(traces.ours.size(), 10u);
}

Traces handled;

void Handle(int) {
    Deep(3, &handled);
}

TEST(StackTrace, GoesThroughASignalHandlerOnAnotherStack) {
    std::vector<char> memory(65536);
    stack_t stack = {};
    stack.ss_sp = memory.data();
    stack.ss_size = memory.size();
    sigaltstack(&stack, nullptr);
    struct sigaction action = {};
    action.sa_handler = Handle;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR1, &action, nullptr);
    raise(SIGUSR1);
    EXPECT_EQ(handled.ours, handled.truth);
    EXPECT_GT(handled.ours.size(), 6u);
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, nullptr);
}

ucontext_t back, coroutine;
Traces within;

void Coroutine() {
    Deep(4, &within);
    swapcontext(&coroutine, &back);
}

TEST(StackTrace, EndsAtTheStartOfACoroutine) {
    // The page behind the stack cannot be read.
    size_t size = 65536;
    char *memory = static_cast<char *>(
        mmap(nullptr, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(memory + size, 4096, PROT_NONE);
    getcontext(&coroutine);
    coroutine.uc_stack.ss_sp = memory;
    coroutine.uc_stack.ss_size = size;
    makecontext(&coroutine, Coroutine, 0);
    swapcontext(&back, &coroutine);
    ASSERT_GE(within.ours.size(), 5u);
    EXPECT_TRUE(std::equal(within.ours.begin(), within.ours.begin() + 5, within.truth.begin()));
    munmap(memory, size + 4096);
}

// push %rbp; mov %rsp,%rbp; call *%rsi; pop %rbp; ret
const unsigned char kCode[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd6, 0x5d, 0xc3};

std::vector<uintptr_t> through;

void Called(void *) {
    uintptr_t pcs[STACK_TRACE_MOST];
    unsigned count = stack_trace(pcs, STACK_TRACE_MOST);
    through.assign(pcs, pcs + count);
}

TEST(StackTrace, GoesThroughCodeWithAFramePointerAndWithoutATable) {
    void *code =
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, kCode, sizeof kCode);
    Traces here;
    Take(&here);
    reinterpret_cast<void (*)(void *, void (*)(void *))>(code)(nullptr, Called);
    ASSERT_GT(through.size(), 3u);
    EXPECT_EQ(through[1], reinterpret_cast<uintptr_t>(code) + 6);
    // From this function's caller on, the trace is the same as from here.
    EXPECT_EQ(std::vector<uintptr_t>(through.begin() + 3, through.end()),
              std::vector<uintptr_t>(here.ours.begin() + 1, here.ours.end()));
    munmap(code, 4096);
}

// Whatever is in the registers, a trace ends, and reads no memory that cannot be read.
TEST(StackTrace, OfGarbageEnds) {
    std::mt19937_64 random(1);
    uintptr_t here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    const uintptr_t codes[] = {reinterpret_cast<uintptr_t>(&Take) + 4,
                               reinterpret_cast<uintptr_t>(&Deep) + 30,
                               reinterpret_cast<uintptr_t>(&Aligned) + 40,
                               reinterpret_cast<uintptr_t>(&printf) + 9,
                               0,
                               12345};
    auto some = [&]() -> uintptr_t {
        switch (random() % 4) {
        case 0:
            return random();
        case 1:
            return here + (random() % 65536) - 32768;
        case 2:
            return (here + random() % (1 << 30)) & ~uintptr_t{7};
        default:
            return random() % 65536;
        }
    };
    uintptr_t pcs[STACK_TRACE_MOST];
    for (int i = 0; i < 20000; i++) {
        unsigned count =
            stack_trace_from(codes[random() % 6], some(), some(), pcs, STACK_TRACE_MOST);
        EXPECT_GE(count, 1u);
        EXPECT_LE(count, static_cast<unsigned>(STACK_TRACE_MOST));
    }
}

} // namespace
