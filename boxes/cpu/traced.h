// SPDX-License-Identifier: Apache-2.0
// cpu, as benchmarks/coherence has it: see cpu.h, which includes this where CPU_TRACED is 1. Each
// access to memory is one that the compiler's instrumentation sees, and each system call is one of
// the simulator's.
#ifndef HAKMEM_BOXES_CPU_TRACED_H
#define HAKMEM_BOXES_CPU_TRACED_H

#define CPU_PLAIN_STEPS 0 // a process of one thread is simulated as one of many
#define CPU_TOTAL_ORDER 1 // accesses are made one after the other

CPU_INLINE void cpu_store_fence(void) {
    __asm__ volatile("" : : : "memory");
}

#define CPU_STEP_UP(words, place, now)   (((void ***)(void *)(words))[place] = (now) + 1)
#define CPU_STEP_DOWN(words, place, now) (((void ***)(void *)(words))[place] = (now)-1)

CPU_INLINE void *cpu_load_word(const void *words, size_t place) {
    return ((void *const *)words)[place];
}

#define CPU_RESULT(pointer) ((void)0)

CPU_INLINE cpu_bytes cpu_lesser_bytes(cpu_bytes a, cpu_bytes b) {
    cpu_bytes is_less = (cpu_bytes)(a < b);
    return (a & is_less) | (b & ~is_less);
}

CPU_INLINE void cpu_copy(void *to, const void *from, size_t size) {
    for (size_t i = 0; i < size; i++) {
        ((volatile char *)to)[i] = ((const volatile char *)from)[i];
    }
}

#define CPU_FRAME_TABLES 0

CPU_INLINE void cpu_here(uintptr_t *pc, uintptr_t *sp, uintptr_t *fp) {
    *pc = 0;
    *sp = *fp = (uintptr_t)__builtin_frame_address(0);
}

// The simulator's.
long coherence_syscall(long number, long a, long b, long c, long d, long e, long f);

CPU_INLINE long cpu_syscall(long number, long a, long b, long c, long d, long e, long f) {
    return coherence_syscall(number, a, b, c, d, e, f);
}

#endif
