// SPDX-License-Identifier: Apache-2.0
// stack_report: lines on stderr with numbers, addresses and stacks of calls, for people.
//
// "hakmem:   #0 0x55d0c0ffee00 function+0x12 (/path/of/file+0x1234)": what is in brackets is what
// addr2line -e takes. Async-signal-safe; works in a process whose heap is broken. Not thread-safe:
// one report is made by one thread.
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
    char line[768];                            // what is longer is cut
    uintptr_t pcs[STACK_REPORT_DEPTH];         // a stack that is shown
    struct elf_name names[STACK_REPORT_DEPTH]; // its names, sorted
};

// The caller decides where it lies: a thread's stack may be small.
void stack_report_open(struct stack_report *report);
void stack_report_close(struct stack_report *report);

// A line is put together, with "hakmem: " in front, and written whole.
void stack_report_text(struct stack_report *report, const char *text);
void stack_report_number(struct stack_report *report, uint64_t value);
void stack_report_address(struct stack_report *report, uintptr_t value);
void stack_report_end_line(struct stack_report *report);

// "1 block" or "2 blocks".
void stack_report_count(struct stack_report *report, uint64_t count, const char *what);

// A line a frame. The first is an instruction (`exact`), all others are return addresses. Other
// threads may write to `pcs` meanwhile: then the report shows what was there at one time or
// another.
void stack_report_stack(struct stack_report *report, const uintptr_t *pcs, unsigned depth,
                        bool exact);
HAK_C_END

#endif
