// SPDX-License-Identifier: Apache-2.0
// cpu: what a handler of SIGSEGV learns of the interrupted thread. Needs _GNU_SOURCE.
#ifndef HAKMEM_BOXES_CPU_FAULT_H
#define HAKMEM_BOXES_CPU_FAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

struct cpu_fault {
    uintptr_t pc, sp, fp; // the instruction, the stack's and the frame's pointer
    bool write;           // the access would have changed memory; false where that is not known
};

#if defined(__x86_64__)
static inline struct cpu_fault cpu_fault_of(const ucontext_t *context) {
    enum { WRITES = 2 }; // the bit of the page fault's error code
    const greg_t *registers = context->uc_mcontext.gregs;
    return (struct cpu_fault){(uintptr_t)registers[REG_RIP], (uintptr_t)registers[REG_RSP],
                              (uintptr_t)registers[REG_RBP], (registers[REG_ERR] & WRITES) != 0};
}
#elif defined(__aarch64__)
static inline struct cpu_fault cpu_fault_of(const ucontext_t *context) {
    // The kernel leaves records in a row, among them one with the exception's syndrome.
    enum { SYNDROME = 0x45535201, WRITES = 1 << 6 };
    struct {
        uint32_t magic, size;
        uint64_t value;
    } record;
    const mcontext_t *machine = &context->uc_mcontext;
    struct cpu_fault fault = {(uintptr_t)machine->pc, (uintptr_t)machine->sp,
                              (uintptr_t)machine->regs[29], false};
    size_t at = 0;
    while (at + sizeof record <= sizeof machine->__reserved) {
        memcpy(&record, (const char *)machine->__reserved + at, sizeof record);
        if (record.magic == SYNDROME) {
            fault.write = (record.value & WRITES) != 0;
        }
        if (record.magic == 0 || record.size == 0) {
            break;
        }
        at += record.size;
    }
    return fault;
}
#endif

#endif
