// SPDX-License-Identifier: Apache-2.0
// cpu, on x86-64: see cpu.h, which includes this.
#ifndef HAKMEM_BOXES_CPU_X86_64_H
#define HAKMEM_BOXES_CPU_X86_64_H

#include <emmintrin.h>

#define CPU_PLAIN_STEPS 1
#define CPU_TOTAL_ORDER 1

// Stores `to` if the word is `from`. Returns true if it did.
CPU_INLINE bool cpu_plain_swap(volatile void *word, uint64_t from, uint64_t to) {
    bool done;
    __asm__ volatile("cmpxchgq %3, %1"
                     : "=@ccz"(done), "+m"(*(volatile uint64_t *)word), "+a"(from)
                     : "r"(to)
                     : "memory");
    return done;
}

// The same for a byte.
CPU_INLINE bool cpu_plain_swap_byte(volatile void *byte, uint8_t from, uint8_t to) {
    bool done;
    __asm__ volatile("cmpxchgb %3, %1"
                     : "=@ccz"(done), "+m"(*(volatile uint8_t *)byte), "+a"(from)
                     : "q"(to)
                     : "memory");
    return done;
}

CPU_INLINE void cpu_plain_or(volatile void *word, uint64_t bits) {
    __asm__ volatile("orq %1, %0" : "+m"(*(volatile uint64_t *)word) : "r"(bits) : "cc", "memory");
}

CPU_INLINE void cpu_plain_add(volatile void *word, uint64_t more) {
    __asm__ volatile("addq %1, %0" : "+m"(*(volatile uint64_t *)word) : "r"(more) : "cc", "memory");
}

// Adds, and returns what the word was before.
CPU_INLINE uint64_t cpu_plain_fetch_add(volatile void *word, uint64_t more) {
    __asm__("xaddq %0, %1" : "+r"(more), "+m"(*(volatile uint64_t *)word) : : "cc");
    return more;
}

// No fence instruction: the processor keeps stores in order, and only the compiler could move them.
CPU_INLINE void cpu_store_fence(void) {
    __asm__ volatile("" : : : "memory");
}

// In one instruction. Names the two registers whose sum is the address, as the compiler would add
// them first, in one more instruction.
#define CPU_STEP(insn, words, place)                                           \
    __asm__ volatile(insn " %0, (%1,%2,8)"                                     \
                     :                                                         \
                     : "i"(sizeof(void *)), "r"(words), "r"((uint64_t)(place)) \
                     : "cc", "memory")
#define CPU_STEP_UP(words, place, now)   CPU_STEP("addq", words, place)
#define CPU_STEP_DOWN(words, place, now) CPU_STEP("subq", words, place)

CPU_INLINE void *cpu_load_word(const void *words, size_t place) {
    void *word;
    __asm__ volatile("movq (%1,%2,8), %0" : "=r"(word) : "r"(words), "r"(place) : "memory");
    return word;
}

// Saves a move.
#define CPU_RESULT(pointer) __asm__("" : "+a"(pointer))

CPU_INLINE void cpu_copy(void *to, const void *from, size_t size) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

CPU_INLINE cpu_bytes cpu_lesser_bytes(cpu_bytes a, cpu_bytes b) {
    return (cpu_bytes)_mm_min_epu8((__m128i)a, (__m128i)b);
}

#define CPU_FRAME_TABLES 1

CPU_INLINE void cpu_here(uintptr_t *pc, uintptr_t *sp, uintptr_t *fp) {
    uintptr_t at, stack, frame;
    __asm__ volatile("leaq 0(%%rip), %0\n\tmovq %%rsp, %1\n\tmovq %%rbp, %2"
                     : "=&r"(at), "=&r"(stack), "=&r"(frame));
    *pc = at;
    *sp = stack;
    *fp = frame;
}

CPU_INLINE long cpu_syscall(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#endif
