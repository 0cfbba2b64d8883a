// SPDX-License-Identifier: Apache-2.0
#include "boxes/cpu/cpu.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace {

#if CPU_PLAIN_STEPS
TEST(Cpu, PlainSteps) {
    uint64_t word = 5;
    EXPECT_FALSE(cpu_plain_swap(&word, 4, 9));
    EXPECT_EQ(word, 5u);
    EXPECT_TRUE(cpu_plain_swap(&word, 5, UINT64_C(1) << 63));
    EXPECT_EQ(word, UINT64_C(1) << 63);
    cpu_plain_or(&word, 6);
    EXPECT_EQ(word, (UINT64_C(1) << 63) + 6);
    cpu_plain_add(&word, UINT64_C(1) << 63);
    EXPECT_EQ(word, 6u);
    EXPECT_EQ(cpu_plain_fetch_add(&word, 4), 6u);
    EXPECT_EQ(word, 10u);

    uint8_t bytes[3] = {1, 2, 3};
    EXPECT_FALSE(cpu_plain_swap_byte(&bytes[1], 1, 9));
    EXPECT_TRUE(cpu_plain_swap_byte(&bytes[1], 2, 255));
    EXPECT_EQ(bytes[0], 1);
    EXPECT_EQ(bytes[1], 255);
    EXPECT_EQ(bytes[2], 3);
}
#endif

TEST(Cpu, StepsOfAPointerInAnArrayOfWords) {
    void *slots[4] = {nullptr, &slots, &slots[1], nullptr};
    void **words[6] = {nullptr, nullptr, nullptr, slots, nullptr, nullptr};
    CPU_STEP_UP(words, 3, words[3]);
    EXPECT_EQ(words[3], slots + 1);
    CPU_STEP_UP(words, 3, words[3]);
    EXPECT_EQ(cpu_load_word(words, 3), slots + 2);
    CPU_STEP_DOWN(words, 3, words[3]);
    EXPECT_EQ(words[3], slots + 1);
    EXPECT_EQ(words[2], nullptr);
    EXPECT_EQ(words[4], nullptr);
}

TEST(Cpu, Copies) {
    char from[100], to[102];
    for (size_t size : {0, 1, 7, 8, 9, 63, 100}) {
        memset(from, 'a', sizeof from);
        memset(to, '.', sizeof to);
        cpu_copy(to + 1, from, size);
        EXPECT_EQ(to[0], '.');
        EXPECT_EQ(std::string(to + 1, size), std::string(size, 'a'));
        EXPECT_EQ(to[size + 1], '.');
    }
}

TEST(Cpu, SystemCalls) {
    EXPECT_EQ(cpu_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0), getpid());
    errno = 77;
    EXPECT_EQ(cpu_syscall(SYS_close, -1, 0, 0, 0, 0, 0), -EBADF);
    EXPECT_EQ(errno, 77);
    // All six of them arrive: a mapping at the page of a file that the sixth names.
    char name[] = "/proc/self/exe";
    long file = cpu_syscall(SYS_openat, -100, reinterpret_cast<long>(name), 0, 0, 0, 0);
    ASSERT_GE(file, 0);
    char head[4];
    EXPECT_EQ(cpu_syscall(SYS_pread64, file, reinterpret_cast<long>(head), sizeof head, 0, 0, 0),
              4);
    EXPECT_EQ(memcmp(head, "\177ELF", 4), 0);
    constexpr long kPrivate = 2, kRead = 1;
    EXPECT_EQ(cpu_syscall(SYS_mmap, 0, 4096, kRead, kPrivate, file, 1), -EINVAL) << "not a page";
    long at = cpu_syscall(SYS_mmap, 0, 4096, kRead, kPrivate, file, 0);
    ASSERT_GT(at, 0);
    EXPECT_EQ(memcmp(reinterpret_cast<void *>(at), "\177ELF", 4), 0);
    EXPECT_EQ(cpu_syscall(SYS_munmap, at, 4096, 0, 0, 0, 0), 0);
    EXPECT_EQ(cpu_syscall(SYS_close, file, 0, 0, 0, 0, 0), 0);
}

__attribute__((noinline)) uintptr_t StackPointerHere() {
    uintptr_t pc = 0, sp = 0, fp = 0;
    cpu_here(&pc, &sp, &fp);
    EXPECT_NE(pc, 0u);
    EXPECT_NE(fp, 1u);
    return sp;
}

TEST(Cpu, Here) {
    uintptr_t mine = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    uintptr_t sp = StackPointerHere();
    EXPECT_LT(sp, mine);
    EXPECT_LT(mine - sp, 65536u);
}

// What one thread stores in order, another sees in order.
TEST(Cpu, StoresAreOrdered) {
    constexpr uint64_t kRounds = 200000;
    volatile uint64_t first = 0;
    volatile uint64_t second = 0;
    std::thread writer([&] {
        for (uint64_t i = 1; i <= kRounds; i++) {
            __atomic_store_n(&first, i, __ATOMIC_RELAXED);
            cpu_store_fence();
            __atomic_store_n(&second, i, __ATOMIC_RELAXED);
        }
    });
    uint64_t seen = 0;
    while (seen < kRounds) {
        seen = __atomic_load_n(&second, __ATOMIC_ACQUIRE);
        ASSERT_GE(__atomic_load_n(&first, __ATOMIC_RELAXED), seen);
    }
    writer.join();
}

} // namespace
