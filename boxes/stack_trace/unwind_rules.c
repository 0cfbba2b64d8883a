// SPDX-License-Identifier: Apache-2.0
#include "boxes/stack_trace/unwind_rules.h"

static struct rule *rule_of(struct rules *rules, uint64_t number) {
    static struct rule ignored; // Any thread writes it, and none uses it.
    return number == UNWIND_FP   ? &rules->fp
           : number == UNWIND_PC ? &rules->pc
           : number == UNWIND_SP ? &rules->sp
                                 : &ignored;
}

static void set_rule(struct rules *rules, uint64_t number, struct rule rule) {
    if (number == UNWIND_FP || number == UNWIND_PC || number == UNWIND_SP) {
        *rule_of(rules, number) = rule;
    }
}

// Sets the register from which the frame's address is counted.
static void set_base(struct rules *rules, uint64_t number) {
    rules->base = number == UNWIND_FP || number == UNWIND_SP ? (uint8_t)number : UNWIND_OTHER;
    rules->expression = NULL;
}

// Returns the expression at *at, which starts with its length, and moves *at past it.
static const uint8_t *skip_expression(const uint8_t **at) {
    const uint8_t *expression = *at;
    uint64_t length = unwind_read_uleb(at);
    *at += length;
    return expression;
}

enum { REMEMBERED = 4 };

struct reader {
    const struct unwind_record *d;
    struct rules now, first; // `first`: the rules after the common record's instructions
    struct rules remembered[REMEMBERED];
    unsigned depth;
    uintptr_t at, pc;
};

// Runs an instruction that sets the rule of a register. Returns false if it is none.
static bool run_register(struct reader *reader, uint8_t code, const uint8_t **at) {
    const struct unwind_record *d = reader->d;
    struct rules *now = &reader->now;
    uint64_t number;
    switch (code) {
    case 0x05: // offset_extended
        number = unwind_read_uleb(at);
        set_rule(now, number,
                 (struct rule){RULE_AT, (int64_t)unwind_read_uleb(at) * d->data_align, NULL});
        return true;
    case 0x11: // offset_extended_sf
        number = unwind_read_uleb(at);
        set_rule(now, number, (struct rule){RULE_AT, unwind_read_sleb(at) * d->data_align, NULL});
        return true;
    case 0x06: // restore_extended
        number = unwind_read_uleb(at);
        set_rule(now, number, *rule_of(&reader->first, number));
        return true;
    case 0x07: // undefined
        set_rule(now, unwind_read_uleb(at), (struct rule){RULE_UNDEFINED, 0, NULL});
        return true;
    case 0x08: // same_value
        set_rule(now, unwind_read_uleb(at), (struct rule){RULE_SAME, 0, NULL});
        return true;
    case 0x09: // register
        number = unwind_read_uleb(at);
        unwind_read_uleb(at);
        set_rule(now, number, (struct rule){RULE_OTHER, 0, NULL});
        return true;
    case 0x10: // expression
        number = unwind_read_uleb(at);
        set_rule(now, number, (struct rule){RULE_EXPRESSION, 0, skip_expression(at)});
        return true;
    case 0x16: // val_expression
        number = unwind_read_uleb(at);
        skip_expression(at);
        set_rule(now, number, (struct rule){RULE_OTHER, 0, NULL});
        return true;
    default:
        return false;
    }
}

// Runs an instruction that says how the frame's address is found. Returns false if it is none.
static bool run_address(struct reader *reader, uint8_t code, const uint8_t **at) {
    struct rules *now = &reader->now;
    switch (code) {
    case 0x0c: // def_cfa
        set_base(now, unwind_read_uleb(at));
        now->offset = (int64_t)unwind_read_uleb(at);
        return true;
    case 0x12: // def_cfa_sf
        set_base(now, unwind_read_uleb(at));
        now->offset = unwind_read_sleb(at) * reader->d->data_align;
        return true;
    case 0x0d: // def_cfa_register
        set_base(now, unwind_read_uleb(at));
        return true;
    case 0x0e: // def_cfa_offset
        now->offset = (int64_t)unwind_read_uleb(at);
        return true;
    case 0x13: // def_cfa_offset_sf
        now->offset = unwind_read_sleb(at) * reader->d->data_align;
        return true;
    case 0x0f: // def_cfa_expression
        now->base = UNWIND_OTHER;
        now->expression = skip_expression(at);
        return true;
    default:
        return run_register(reader, code, at);
    }
}

// Runs an instruction of the kinds that have no operand in their first byte. Returns false for an
// instruction that is not known.
static bool run_long(struct reader *reader, uint8_t code, const uint8_t **at) {
    const struct unwind_record *d = reader->d;
    struct rules *now = &reader->now;
    switch (code) {
    case 0x00: // nop
        return true;
    case 0x01: // set_loc
        reader->at = unwind_read_bytes(at, 8);
        return true;
    case 0x02: // advance_loc1, 2, 4
    case 0x03:
    case 0x04:
        reader->at += unwind_read_bytes(at, 1u << (code - 2)) * d->code_align;
        return true;
    case 0x0a: // remember_state
        if (reader->depth == REMEMBERED) {
            return false;
        }
        reader->remembered[reader->depth++] = *now;
        return true;
    case 0x0b: // restore_state
        if (reader->depth == 0) {
            return false;
        }
        *now = reader->remembered[--reader->depth];
        return true;
    case 0x2e: // GNU_args_size
        unwind_read_uleb(at);
        return true;
    default:
        return run_address(reader, code, at);
    }
}

// Runs instructions until the rules are those that hold at the reader's pc.
static bool run(struct reader *reader, const uint8_t *at, const uint8_t *end) {
    const struct unwind_record *d = reader->d;
    while (at < end && reader->at <= reader->pc) {
        uint8_t code = *at++;
        uint8_t low = code & 0x3f;
        switch (code >> 6) {
        case 1: // advance_loc
            reader->at += low * d->code_align;
            break;
        case 2: // offset
            set_rule(&reader->now, low,
                     (struct rule){RULE_AT, (int64_t)unwind_read_uleb(&at) * d->data_align, NULL});
            break;
        case 3: // restore
            set_rule(&reader->now, low, *rule_of(&reader->first, low));
            break;
        default:
            if (!run_long(reader, code, &at)) {
                return false;
            }
        }
    }
    return true;
}

bool unwind_find_rules(const struct unwind_record *d, uintptr_t pc, struct rules *rules) {
    struct reader reader = {.d = d, .now = {.base = UNWIND_OTHER}, .at = d->start, .pc = pc};
    // Unless an instruction says otherwise, the caller's stack pointer is the frame's address.
    reader.now.sp = (struct rule){RULE_UNDEFINED, 0, NULL};
    if (!run(&reader, d->common, d->common_end)) {
        return false;
    }
    reader.first = reader.now;
    if (!run(&reader, d->own, d->own_end)) {
        return false;
    }
    *rules = reader.now;
    return true;
}
