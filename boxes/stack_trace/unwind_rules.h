// SPDX-License-Identifier: Apache-2.0
// unwind_rules: runs the instructions of a record of .eh_frame, which give the rules by which a
// caller's registers are found.
//
// Part of the box; see stack_trace.h.
#ifndef HAKMEM_BOXES_STACK_TRACE_UNWIND_RULES_H
#define HAKMEM_BOXES_STACK_TRACE_UNWIND_RULES_H

#include "boxes/stack_trace/unwind_table.h"

HAK_C_BEGIN

// The registers by their numbers in the tables.
enum { UNWIND_FP = 6, UNWIND_SP = 7, UNWIND_PC = 16, UNWIND_OTHER = 255 };

enum rule_kind { RULE_SAME, RULE_AT, RULE_EXPRESSION, RULE_UNDEFINED, RULE_OTHER };

struct rule {
    enum rule_kind kind;
    int64_t offset; // RULE_AT: where the register was saved, from the frame's address on
    const uint8_t *expression;
};

// How to find the frame's address, and the caller's registers.
struct rules {
    uint8_t base; // the frame's address is this register plus `offset`; UNWIND_OTHER: `expression`
    int64_t offset;
    const uint8_t *expression;
    struct rule fp, pc, sp;
};

// Finds the rules that hold at `pc`. Returns false if an instruction is not understood.
bool unwind_find_rules(const struct unwind_record *record, uintptr_t pc, struct rules *rules);
HAK_C_END

#endif
