// SPDX-License-Identifier: Apache-2.0
// cpu, on 64-bit Arm: see cpu.h, which includes this.
#ifndef HAKMEM_BOXES_CPU_AARCH64_H
#define HAKMEM_BOXES_CPU_AARCH64_H

// Armv8.1 has single instructions that change memory, and these are atomic. The compiler's outline
// functions use them if the processor has them.
#define CPU_PLAIN_STEPS 0
#define CPU_TOTAL_ORDER 0

CPU_INLINE void cpu_store_fence(void) {
    __asm__ volatile("dmb ishst" : : : "memory");
}

// A push stores the block first and then the pointer with release order: a forked child may read
// the stacks of other threads.
#define CPU_STEP_UP(words, place, now) \
    __atomic_store_n((void ***)(void *)(words) + (place), (now) + 1, __ATOMIC_RELEASE)
#define CPU_STEP_DOWN(words, place, now) \
    __atomic_store_n((void ***)(void *)(words) + (place), (now)-1, __ATOMIC_RELAXED)

CPU_INLINE void *cpu_load_word(const void *words, size_t place) {
    return __atomic_load_n((void *const *)words + place, __ATOMIC_RELAXED);
}

#define CPU_RESULT(pointer) ((void)0)

CPU_INLINE cpu_bytes cpu_lesser_bytes(cpu_bytes a, cpu_bytes b) {
    cpu_bytes is_less = (cpu_bytes)(a < b);
    return (a & is_less) | (b & ~is_less);
}

CPU_INLINE void cpu_copy(void *to, const void *from, size_t size) {
    char *end = (char *)to + size;
    while (to != (void *)end) {
        char byte;
        // Without this the compiler would replace the loop by a call of memcpy().
        __asm__ volatile("ldrb %w2, [%0], #1\n\tstrb %w2, [%1], #1"
                         : "+r"(from), "+r"(to), "=&r"(byte)
                         :
                         : "memory");
    }
}

#define CPU_FRAME_TABLES 0

CPU_INLINE void cpu_here(uintptr_t *pc, uintptr_t *sp, uintptr_t *fp) {
    uintptr_t at, stack, frame;
    __asm__ volatile("adr %0, .\n\tmov %1, sp\n\tmov %2, x29"
                     : "=&r"(at), "=&r"(stack), "=&r"(frame));
    *pc = at;
    *sp = stack;
    *fp = frame;
}

CPU_INLINE long cpu_syscall(long number, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory", "cc");
    return x0;
}

#endif
