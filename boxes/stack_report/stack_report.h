// SPDX-License-Identifier: Apache-2.0
// stack_report: lines on stderr with numbers, addresses and stacks of calls, for people.
//
// A line is "hakmem:   #0 0x55d0c0ffee00 function+0x12 (/path/of/file+0x1234)"; addr2line -e takes
// the text in brackets. Async-signal-safe; works in a process whose heap is broken. Not
// thread-safe: one thread makes one report.
#ifndef HAKMEM_BOXES_STACK_REPORT_STACK_REPORT_H
#define HAKMEM_BOXES_STACK_REPORT_STACK_REPORT_H

#include "boxes/base/base.h"
#include "boxes/elf_symbols/elf_symbols.h"

HAK_C_BEGIN

enum { STACK_REPORT_DEPTH = 128 }; // frames of a stack that are shown

struct stack_report {
    struct elf_symbols symbols;
    bool has_symbols;
    size_t used;
    char line[768];                            // longer lines are cut
    uintptr_t pcs[STACK_REPORT_DEPTH];         // the stack that is shown
    struct elf_name names[STACK_REPORT_DEPTH]; // the names of `pcs`, sorted
};

// The caller provides the struct, which is too large for a small stack.
void stack_report_open(struct stack_report *report);
void stack_report_close(struct stack_report *report);

// Builds a line, with "hakmem: " in front, and writes it whole.
void stack_report_text(struct stack_report *report, const char *text);
void stack_report_number(struct stack_report *report, uint64_t value);
void stack_report_address(struct stack_report *report, uintptr_t value);
void stack_report_end_line(struct stack_report *report);

// Writes "1 block" or "2 blocks".
void stack_report_count(struct stack_report *report, uint64_t count, const char *what);

// Writes one line for each frame. The first address is an instruction if `exact`; all others are
// return addresses. If other threads write to `pcs` meanwhile, the report mixes values of different
// times.
void stack_report_stack(struct stack_report *report, const uintptr_t *pcs, unsigned depth,
                        bool exact);
HAK_C_END

#endif
