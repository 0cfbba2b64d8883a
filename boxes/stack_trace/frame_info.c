// SPDX-License-Identifier: Apache-2.0
#include "boxes/stack_trace/frame_info.h"

#include "boxes/base/atomic.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>

// glibc's, from 2.35 on; takes no lock. Not in every static program.
extern __typeof(_dl_find_object) _dl_find_object __attribute__((weak));
// The linker's: the header of the object that this code is in, where that is mapped.
extern const Elf64_Ehdr __ehdr_start __attribute__((weak, visibility("hidden")));

// --- Objects

// The object that this code is in, from its own header.
static bool own_object(uintptr_t pc, struct frame_object *object) {
    const Elf64_Ehdr *header = &__ehdr_start;
    if (header == NULL || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) {
        return false;
    }
    const Elf64_Phdr *parts = (const Elf64_Phdr *)((const char *)header + header->e_phoff);
    const Elf64_Phdr *table = NULL;
    uintptr_t moved = 0, end = 0;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        if (parts[i].p_type == PT_LOAD && parts[i].p_offset == 0) {
            moved = (uintptr_t)header - parts[i].p_vaddr;
        } else if (parts[i].p_type == PT_GNU_EH_FRAME) {
            table = &parts[i];
        }
        if (parts[i].p_type == PT_LOAD) {
            end = hak_max(end, parts[i].p_vaddr + parts[i].p_memsz);
        }
    }
    *object = (struct frame_object){(uintptr_t)header, moved + end, NULL, true};
    object->header = table == NULL ? NULL : (const uint8_t *)(moved + table->p_vaddr);
    return pc - object->start < object->end - object->start;
}

bool frame_object_of(uintptr_t pc, struct frame_object *object) {
    struct dl_find_object found;
    if (_dl_find_object == NULL) {
        return own_object(pc, object);
    }
    if (_dl_find_object((void *)pc, &found) != 0) {
        return false;
    }
    *object = (struct frame_object){
        .start = (uintptr_t)found.dlfo_map_start,
        .end = (uintptr_t)found.dlfo_map_end,
        .header = found.dlfo_eh_frame,
        .program = found.dlfo_link_map != NULL && found.dlfo_link_map->l_prev == NULL,
    };
    return true;
}

// --- Reading tables

// The ways in which a pointer is written down, of those that x86-64 compilers use.
enum {
    AS_ABSOLUTE = 0x00,
    AS_UDATA4 = 0x03,
    AS_SDATA4 = 0x0b,
    AS_SDATA8 = 0x0c,
    AS_FORMAT = 0x0f,
    AS_PC_RELATIVE = 0x10,
    AS_RELATION = 0x70,
    AS_INDIRECT = 0x80,
};

static uint64_t read_bytes(const uint8_t **at, unsigned bytes) {
    uint64_t value = 0;
    memcpy(&value, *at, bytes);
    *at += bytes;
    return value;
}

// The groups of 7 bits of a number in LEB128; *bits: how many bits there were.
static uint64_t read_leb(const uint8_t **at, unsigned *bits) {
    uint64_t value = 0;
    uint8_t byte;
    *bits = 0;
    do {
        byte = *(*at)++;
        value |= *bits < 64 ? (uint64_t)(byte & 0x7f) << *bits : 0;
        *bits += 7;
    } while (byte >= 0x80);
    return value;
}

static uint64_t read_uleb(const uint8_t **at) {
    unsigned bits;
    return read_leb(at, &bits);
}

static int64_t read_sleb(const uint8_t **at) {
    unsigned bits;
    uint64_t value = read_leb(at, &bits);
    if (bits < 64 && (value >> (bits - 1) & 1) != 0) {
        value |= ~UINT64_C(0) << bits;
    }
    return (int64_t)value;
}

static bool read_pointer(const uint8_t **at, uint8_t as, uintptr_t *value) {
    uintptr_t from = (as & AS_RELATION) == AS_PC_RELATIVE ? (uintptr_t)*at : 0;
    switch (as & AS_FORMAT) {
    case AS_ABSOLUTE:
    case AS_SDATA8:
        *value = read_bytes(at, 8);
        break;
    case AS_UDATA4:
        *value = read_bytes(at, 4);
        break;
    case AS_SDATA4:
        *value = (uintptr_t)(int64_t)(int32_t)read_bytes(at, 4);
        break;
    default:
        return false;
    }
    *value += from;
    return (as & AS_INDIRECT) == 0 && (as & AS_RELATION) <= AS_PC_RELATIVE;
}

// The description of the function that an address is in, by the sorted table of .eh_frame_hdr; NULL
// if there is none.
static const uint8_t *find_description(const uint8_t *header, uintptr_t pc) {
    enum { VERSION = 1, TABLE_AS = 0x3b, ENTRY = 8 };
    if (header[0] != VERSION || header[3] != TABLE_AS) {
        return NULL;
    }
    const uint8_t *at = header + 4;
    uintptr_t start, count;
    if (!read_pointer(&at, header[1], &start) || !read_pointer(&at, header[2], &count)) {
        return NULL;
    }
    int64_t offset = (int64_t)(pc - (uintptr_t)header);
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int32_t entry;
        memcpy(&entry, at + middle * ENTRY, sizeof entry);
        if (entry <= offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == 0) {
        return NULL;
    }
    int32_t found;
    memcpy(&found, at + (low - 1) * ENTRY + 4, sizeof found);
    return header + found;
}

// What a description and the common part that it names say.
struct description {
    uintptr_t start, size;
    const uint8_t *common, *common_end; // instructions that come first
    const uint8_t *own, *own_end;
    uint64_t code_align;
    int64_t data_align;
    bool signal; // a signal's frame: its caller's pc is no return address
};

// A record's contents and its end; false for the 64-bit format, which nobody uses here.
static bool open_record(const uint8_t **at, const uint8_t **end) {
    uint64_t length = read_bytes(at, 4);
    *end = *at + length;
    return length != 0 && length != 0xffffffff;
}

static bool read_common(const uint8_t *at, struct description *d, uint8_t *as, bool *augmented) {
    const uint8_t *end;
    if (!open_record(&at, &end) || read_bytes(&at, 4) != 0) {
        return false;
    }
    uint8_t version = *at++;
    const char *augmentation = (const char *)at;
    at += strlen(augmentation) + 1;
    d->code_align = read_uleb(&at);
    d->data_align = read_sleb(&at);
    if (version == 1) {
        at++;
    } else {
        read_uleb(&at);
    }
    *as = AS_ABSOLUTE;
    *augmented = *augmentation == 'z';
    if (*augmented) {
        uint64_t length = read_uleb(&at);
        d->common = at + length;
        for (augmentation++; *augmentation != '\0'; augmentation++) {
            uintptr_t ignored;
            switch (*augmentation) {
            case 'R':
                *as = *at++;
                break;
            case 'L':
                at++;
                break;
            case 'P':
                at++;
                read_pointer(&at, at[-1] & AS_FORMAT, &ignored);
                break;
            case 'S':
                d->signal = true;
                break;
            default:
                break;
            }
        }
    } else {
        d->common = at;
        if (*augmentation != '\0') {
            return false;
        }
    }
    d->common_end = end;
    return true;
}

static bool read_description(const uint8_t *at, struct description *d) {
    const uint8_t *end;
    if (!open_record(&at, &end)) {
        return false;
    }
    const uint8_t *place = at;
    uint64_t back = read_bytes(&at, 4);
    uint8_t as;
    bool augmented;
    *d = (struct description){.signal = false};
    if (back == 0 || !read_common(place - back, d, &as, &augmented) ||
        !read_pointer(&at, as, &d->start) || !read_pointer(&at, as & AS_FORMAT, &d->size)) {
        return false;
    }
    if (augmented) {
        uint64_t length = read_uleb(&at);
        at += length;
    }
    d->own = at;
    d->own_end = end;
    return true;
}

// --- Rules

// The registers by their numbers in the tables.
enum { FP = 6, SP = 7, PC = 16, OTHER = 255 };

enum rule_kind { RULE_SAME, RULE_AT, RULE_EXPRESSION, RULE_UNDEFINED, RULE_OTHER };

struct rule {
    enum rule_kind kind;
    int64_t offset; // RULE_AT: where it was saved, from the frame's address on
    const uint8_t *expression;
};

// Where the frame's address, and what the caller had in its registers, are to be found.
struct rules {
    uint8_t base; // register that the frame's address is counted from; OTHER: by the expression
    int64_t offset;
    const uint8_t *expression;
    struct rule fp, pc, sp;
};

static struct rule *rule_of(struct rules *rules, uint64_t number) {
    static struct rule ignored; // Written by anyone, read by none.
    return number == FP   ? &rules->fp
           : number == PC ? &rules->pc
           : number == SP ? &rules->sp
                          : &ignored;
}

static void set_rule(struct rules *rules, uint64_t number, struct rule rule) {
    if (number == FP || number == PC || number == SP) {
        *rule_of(rules, number) = rule;
    }
}

// An expression: its length and its bytes. Returns it, and goes past it.
static const uint8_t *skip_expression(const uint8_t **at) {
    const uint8_t *expression = *at;
    uint64_t length = read_uleb(at);
    *at += length;
    return expression;
}

enum { REMEMBERED = 4 };

struct reader {
    const struct description *d;
    struct rules now, first; // `first`: after the common part
    struct rules remembered[REMEMBERED];
    unsigned depth;
    uintptr_t at, pc;
};

// One instruction of the kinds that have no operand in their first byte. False for one that is not
// known.
static bool run_long(struct reader *reader, uint8_t code, const uint8_t **at) {
    const struct description *d = reader->d;
    struct rules *now = &reader->now;
    uint64_t number;
    switch (code) {
    case 0x00: // nop
        return true;
    case 0x01: // set_loc
        reader->at = read_bytes(at, 8);
        return true;
    case 0x02: // advance_loc1, 2, 4
    case 0x03:
    case 0x04:
        reader->at += read_bytes(at, 1u << (code - 2)) * d->code_align;
        return true;
    case 0x05: // offset_extended
        number = read_uleb(at);
        set_rule(now, number, (struct rule){RULE_AT, (int64_t)read_uleb(at) * d->data_align, NULL});
        return true;
    case 0x11: // offset_extended_sf
        number = read_uleb(at);
        set_rule(now, number, (struct rule){RULE_AT, read_sleb(at) * d->data_align, NULL});
        return true;
    case 0x06: // restore_extended
        number = read_uleb(at);
        set_rule(now, number, *rule_of(&reader->first, number));
        return true;
    case 0x07: // undefined
        set_rule(now, read_uleb(at), (struct rule){RULE_UNDEFINED, 0, NULL});
        return true;
    case 0x08: // same_value
        set_rule(now, read_uleb(at), (struct rule){RULE_SAME, 0, NULL});
        return true;
    case 0x09: // register
        number = read_uleb(at);
        read_uleb(at);
        set_rule(now, number, (struct rule){RULE_OTHER, 0, NULL});
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
    case 0x0c: // def_cfa
        number = read_uleb(at);
        now->base = number == FP || number == SP ? (uint8_t)number : OTHER;
        now->offset = (int64_t)read_uleb(at);
        now->expression = NULL;
        return true;
    case 0x12: // def_cfa_sf
        number = read_uleb(at);
        now->base = number == FP || number == SP ? (uint8_t)number : OTHER;
        now->offset = read_sleb(at) * d->data_align;
        now->expression = NULL;
        return true;
    case 0x0d: // def_cfa_register
        number = read_uleb(at);
        now->base = number == FP || number == SP ? (uint8_t)number : OTHER;
        now->expression = NULL;
        return true;
    case 0x0e: // def_cfa_offset
        now->offset = (int64_t)read_uleb(at);
        return true;
    case 0x13: // def_cfa_offset_sf
        now->offset = read_sleb(at) * d->data_align;
        return true;
    case 0x0f: // def_cfa_expression
        now->base = OTHER;
        now->expression = skip_expression(at);
        return true;
    case 0x10: // expression
        number = read_uleb(at);
        set_rule(now, number, (struct rule){RULE_EXPRESSION, 0, skip_expression(at)});
        return true;
    case 0x16: // val_expression
        number = read_uleb(at);
        skip_expression(at);
        set_rule(now, number, (struct rule){RULE_OTHER, 0, NULL});
        return true;
    case 0x2e: // GNU_args_size
        read_uleb(at);
        return true;
    default:
        return false;
    }
}

// Runs instructions up to the rules that hold at the reader's pc.
static bool run(struct reader *reader, const uint8_t *at, const uint8_t *end) {
    const struct description *d = reader->d;
    while (at < end && reader->at <= reader->pc) {
        uint8_t code = *at++;
        uint8_t low = code & 0x3f;
        switch (code >> 6) {
        case 1: // advance_loc
            reader->at += low * d->code_align;
            break;
        case 2: // offset
            set_rule(&reader->now, low,
                     (struct rule){RULE_AT, (int64_t)read_uleb(&at) * d->data_align, NULL});
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

static HAK_NOINLINE bool find_rules(const struct description *d, uintptr_t pc,
                                    struct rules *rules) {
    struct reader reader = {.d = d, .now = {.base = OTHER}, .at = d->start, .pc = pc};
    // The caller's stack pointer is the frame's address, if nothing else is said.
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

// --- Following rules

// Runs an expression, which starts with `value` on its stack if `push`. False for one that is not
// understood, or reads what cannot be read.
static bool evaluate(const uint8_t *at, const struct frame *frame, bool push, uint64_t value,
                     frame_peek *peek, void *context, uint64_t *result) {
    enum { DEEPEST = 8 };
    uint64_t stack[DEEPEST + 1] = {value};
    unsigned depth = push ? 1 : 0;
    uint64_t length = read_uleb(&at);
    const uint8_t *end = at + length;
    while (at < end) {
        uint8_t code = *at++;
        if (depth >= DEEPEST) {
            return false;
        }
        if (code >= 0x30 && code <= 0x4f) { // lit0 and up
            stack[depth++] = code - 0x30;
        } else if (code >= 0x70 && code <= 0x8f) { // breg0 and up
            int64_t offset = read_sleb(&at);
            unsigned number = code - 0x70u;
            if (number != FP && number != SP && number != PC) {
                return false;
            }
            stack[depth++] = (number == FP   ? frame->fp
                              : number == SP ? frame->sp
                                             : frame->pc) +
                             (uint64_t)offset;
        } else if (code == 0x06 && depth >= 1) { // deref
            if (!peek(context, stack[depth - 1], &stack[depth - 1])) {
                return false;
            }
        } else if (code == 0x23 && depth >= 1) { // plus_uconst
            stack[depth - 1] += read_uleb(&at);
        } else if (code == 0x08) { // const1u
            stack[depth++] = read_bytes(&at, 1);
        } else if (code == 0x0a) { // const2u
            stack[depth++] = read_bytes(&at, 2);
        } else if (depth >= 2) {
            uint64_t b = stack[--depth];
            uint64_t *a = &stack[depth - 1];
            switch (code) {
            case 0x1a: // and
                *a &= b;
                break;
            case 0x1c: // minus
                *a -= b;
                break;
            case 0x22: // plus
                *a += b;
                break;
            case 0x24: // shl
                *a = b < 64 ? *a << b : 0;
                break;
            case 0x2a: // ge
                *a = (int64_t)*a >= (int64_t)b;
                break;
            default:
                return false;
            }
        } else {
            return false;
        }
    }
    *result = depth > 0 ? stack[depth - 1] : 0;
    return depth > 0;
}

// What the caller had in a register, by the rule for it.
static bool apply(const struct rule *rule, const struct frame *frame, uintptr_t address,
                  frame_peek *peek, void *context, uintptr_t *value) {
    uint64_t place = address + (uint64_t)rule->offset;
    switch (rule->kind) {
    case RULE_SAME:
        return true;
    case RULE_EXPRESSION:
        return evaluate(rule->expression, frame, true, address, peek, context, &place) &&
               peek(context, place, value);
    case RULE_AT:
        return peek(context, place, value);
    default:
        return false;
    }
}

static enum frame_step follow(const struct rules *rules, bool signal, struct frame *frame,
                              frame_peek *peek, void *context) {
    uint64_t address;
    if (rules->base != OTHER) {
        address = (rules->base == FP ? frame->fp : frame->sp) + (uint64_t)rules->offset;
    } else if (rules->expression == NULL ||
               !evaluate(rules->expression, frame, false, 0, peek, context, &address)) {
        return FRAME_UNKNOWN;
    }
    if (rules->pc.kind == RULE_UNDEFINED) {
        return FRAME_LAST;
    }
    struct frame caller = {.sp = address, .fp = frame->fp, .exact = signal};
    if (!apply(&rules->pc, frame, address, peek, context, &caller.pc) ||
        (rules->sp.kind != RULE_UNDEFINED &&
         !apply(&rules->sp, frame, address, peek, context, &caller.sp))) {
        return FRAME_LAST;
    }
    if (rules->fp.kind != RULE_UNDEFINED) {
        apply(&rules->fp, frame, address, peek, context, &caller.fp);
    }
    // A stack grows down, but for a signal's, which may be another one.
    if (caller.sp <= frame->sp && !signal) {
        return FRAME_LAST;
    }
    *frame = caller;
    return FRAME_CALLER;
}

// --- What is remembered

// The rules of most addresses: the frame's address is a register and a number, the return address
// stands just below it, and the frame pointer was saved somewhere there or not at all. Two words,
// the first one the address, xor'ed with the second one: written and read by any thread at any
// time, a pair that does not belong together is none.
enum { KNOWN = 4096, FAR = 1 << 24 };
static struct { _Atomic(uint64_t) mixed, rules; } known[KNOWN];

static size_t known_at(uintptr_t pc) {
    return hak_hash(pc) >> 52;
}
static_assert(KNOWN == 1 << (64 - 52), "the bits that are left");

enum { PACKED_VALID = 1, PACKED_FP_BASE = 2, PACKED_FP_SAVED = 4, PACKED_OFFSET = 8 };

static void remember(uintptr_t pc, const struct rules *rules) {
    bool saved = rules->fp.kind == RULE_AT;
    if (rules->base == OTHER || rules->pc.kind != RULE_AT || rules->pc.offset != -8 ||
        rules->sp.kind != RULE_UNDEFINED || (!saved && rules->fp.kind != RULE_SAME) ||
        rules->offset < 0 || rules->offset >= FAR ||
        (saved && (rules->fp.offset > 0 || rules->fp.offset <= -FAR))) {
        return;
    }
    uint64_t packed = PACKED_VALID | (rules->base == FP ? PACKED_FP_BASE : 0) |
                      (saved ? PACKED_FP_SAVED : 0) | (uint64_t)rules->offset * PACKED_OFFSET |
                      (saved ? (uint64_t)-rules->fp.offset << 32 : 0);
    size_t at = known_at(pc);
    atomic_store_explicit(&known[at].mixed, pc ^ packed, memory_order_relaxed);
    atomic_store_explicit(&known[at].rules, packed, memory_order_relaxed);
}

static bool recall(uintptr_t pc, struct rules *rules) {
    size_t at = known_at(pc);
    uint64_t packed = atomic_load_explicit(&known[at].rules, memory_order_relaxed);
    if ((atomic_load_explicit(&known[at].mixed, memory_order_relaxed) ^ packed) != pc ||
        packed == 0) {
        return false;
    }
    *rules = (struct rules){
        .base = (packed & PACKED_FP_BASE) != 0 ? FP : SP,
        .offset = (int64_t)((packed & UINT32_MAX) / PACKED_OFFSET),
        .pc = {RULE_AT, -8, NULL},
        .sp = {RULE_UNDEFINED, 0, NULL},
        .fp = {(packed & PACKED_FP_SAVED) != 0 ? RULE_AT : RULE_SAME, -(int64_t)(packed >> 32),
               NULL},
    };
    return true;
}

enum frame_step frame_info_step(struct frame *frame, frame_peek *peek, void *context) {
    // A return address may be the first of another function: the call is what is looked up.
    uintptr_t pc = frame->exact ? frame->pc : frame->pc - 1;
    struct rules rules;
    if (recall(pc, &rules)) {
        return follow(&rules, false, frame, peek, context);
    }
    struct frame_object object;
    const uint8_t *at = NULL;
    struct description d;
    if (frame_object_of(pc, &object) && object.header != NULL) {
        at = find_description(object.header, pc);
    }
    if (at == NULL || !read_description(at, &d) || pc - d.start >= d.size ||
        !find_rules(&d, pc, &rules)) {
        return FRAME_UNKNOWN;
    }
    if (!d.signal) {
        remember(pc, &rules);
    }
    return follow(&rules, d.signal, frame, peek, context);
}
