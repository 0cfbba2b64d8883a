// SPDX-License-Identifier: Apache-2.0
#include "boxes/stack_trace/frame_info.h"

#include "boxes/base/atomic.h"
#include "boxes/base/libc.h"
#include "boxes/stack_trace/unwind_rules.h"
#include "boxes/stack_trace/unwind_table.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>

// Fills in an object from its program headers. `moved` is the distance from the address that it was
// linked for. Returns false if `pc` is not in the object.
static bool describe(uintptr_t moved, const Elf64_Phdr *parts, unsigned count, uintptr_t pc,
                     struct frame_object *object) {
    const Elf64_Phdr *table = NULL;
    uintptr_t start = UINTPTR_MAX, end = 0;
    for (unsigned i = 0; i < count; i++) {
        if (parts[i].p_type == PT_GNU_EH_FRAME) {
            table = &parts[i];
        } else if (parts[i].p_type == PT_LOAD) {
            start = start < parts[i].p_vaddr ? start : parts[i].p_vaddr;
            end = hak_max(end, parts[i].p_vaddr + parts[i].p_memsz);
        }
    }
    const uint8_t *header = table == NULL ? NULL : (const uint8_t *)(moved + table->p_vaddr);
    *object = (struct frame_object){moved + start, moved + end, header, true};
    return pc - object->start < object->end - object->start;
}

#ifdef __GLIBC__

// Defined by the linker: the header of the object that this code is in, if that header is mapped.
extern const Elf64_Ehdr __ehdr_start __attribute__((weak, visibility("hidden")));

// Finds the object that this code is in, from its own header.
static bool own_object(uintptr_t pc, struct frame_object *object) {
    const Elf64_Ehdr *header = &__ehdr_start;
    if (header == NULL || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) {
        return false;
    }
    const Elf64_Phdr *parts = (const Elf64_Phdr *)((const char *)header + header->e_phoff);
    uintptr_t moved = 0;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        if (parts[i].p_type == PT_LOAD && parts[i].p_offset == 0) {
            moved = (uintptr_t)header - parts[i].p_vaddr;
        }
    }
    return describe(moved, parts, header->e_phnum, pc, object);
}

#    if HAK_GLIBC(2, 35)
// glibc's, from 2.35 on. Takes no lock. NULL in some static programs.
extern __typeof(_dl_find_object) _dl_find_object __attribute__((weak));

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
#    else
bool frame_object_of(uintptr_t pc, struct frame_object *object) {
    return own_object(pc, object);
}
#    endif

#else // musl

struct search {
    uintptr_t pc;
    struct frame_object *object;
    bool later; // not the first object: the first one is the program
};

static int visit(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    struct search *search = arg;
    bool program = !search->later;
    search->later = true;
    if (!describe(info->dlpi_addr, info->dlpi_phdr, info->dlpi_phnum, search->pc, search->object)) {
        return 0;
    }
    search->object->program = program;
    return 1;
}

// dl_iterate_phdr() takes the dynamic linker's lock only to get from one object to the next.
// fork() takes the lock too, so that no child starts with a lock that a thread of the parent holds.
bool frame_object_of(uintptr_t pc, struct frame_object *object) {
    struct search search = {pc, object, false};
    return dl_iterate_phdr(visit, &search) != 0;
}

#endif

// The stack machine that runs an expression of the tables.
struct machine {
    uint64_t stack[9];
    unsigned depth;
};

// Runs an operation that takes two numbers from the stack and leaves one. Returns false if the
// operation is not known.
static bool run_binary(struct machine *m, uint8_t code) {
    if (m->depth < 2) {
        return false;
    }
    uint64_t b = m->stack[--m->depth];
    uint64_t *a = &m->stack[m->depth - 1];
    switch (code) {
    case 0x1a: // and
        *a &= b;
        return true;
    case 0x1c: // minus
        *a -= b;
        return true;
    case 0x22: // plus
        *a += b;
        return true;
    case 0x24: // shl
        *a = b < 64 ? *a << b : 0;
        return true;
    case 0x2a: // ge
        *a = (int64_t)*a >= (int64_t)b;
        return true;
    default:
        return false;
    }
}

static bool push_register(struct machine *m, const struct frame *frame, unsigned number,
                          int64_t offset) {
    if (number != UNWIND_FP && number != UNWIND_SP && number != UNWIND_PC) {
        return false;
    }
    uint64_t value = number == UNWIND_FP ? frame->fp : number == UNWIND_SP ? frame->sp : frame->pc;
    m->stack[m->depth++] = value + (uint64_t)offset;
    return true;
}

// Runs one operation. Returns false if the operation is not known, or reads memory that cannot be
// read.
static bool run_operation(struct machine *m, const uint8_t **at, const struct frame *frame,
                          frame_peek *peek, void *context) {
    uint8_t code = *(*at)++;
    if (code >= 0x30 && code <= 0x4f) { // lit0 and up
        m->stack[m->depth++] = code - 0x30;
    } else if (code >= 0x70 && code <= 0x8f) { // breg0 and up
        return push_register(m, frame, code - 0x70u, unwind_read_sleb(at));
    } else if (code == 0x06 && m->depth >= 1) { // deref
        uint64_t *top = &m->stack[m->depth - 1];
        return peek(context, *top, top);
    } else if (code == 0x23 && m->depth >= 1) { // plus_uconst
        m->stack[m->depth - 1] += unwind_read_uleb(at);
    } else if (code == 0x08) { // const1u
        m->stack[m->depth++] = unwind_read_bytes(at, 1);
    } else if (code == 0x0a) { // const2u
        m->stack[m->depth++] = unwind_read_bytes(at, 2);
    } else {
        return run_binary(m, code);
    }
    return true;
}

// Runs an expression. If `push`, the machine's stack starts with `value`. Returns false if the
// expression is not understood, or reads memory that cannot be read.
static bool evaluate(const uint8_t *at, const struct frame *frame, bool push, uint64_t value,
                     frame_peek *peek, void *context, uint64_t *result) {
    enum { DEEPEST = sizeof(((struct machine *)0)->stack) / sizeof(uint64_t) - 1 };
    struct machine m = {.stack = {value}, .depth = push ? 1 : 0};
    uint64_t length = unwind_read_uleb(&at);
    const uint8_t *end = at + length;
    while (at < end) {
        if (m.depth >= DEEPEST || !run_operation(&m, &at, frame, peek, context)) {
            return false;
        }
    }
    *result = m.depth > 0 ? m.stack[m.depth - 1] : 0;
    return m.depth > 0;
}

// Finds the caller's value of a register by the register's rule. Returns false if the rule does not
// tell, or if memory cannot be read.
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
    if (rules->base != UNWIND_OTHER) {
        address = (rules->base == UNWIND_FP ? frame->fp : frame->sp) + (uint64_t)rules->offset;
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
    // A caller's frame is at a higher address, unless a signal has interrupted the caller: a signal
    // may run on another stack.
    if (caller.sp <= frame->sp && !signal) {
        return FRAME_LAST;
    }
    *frame = caller;
    return FRAME_CALLER;
}

// A cache of rules, of the kind that most addresses have: the frame's address is a register plus a
// number, the return address is just below the frame's address, and the frame pointer was saved
// below that or not at all. An entry is two words: the rule, and the address xor'ed with the rule.
// Any thread reads and writes entries at any time: two words that do not belong together match no
// address.
enum { KNOWN = 4096, FAR = 1 << 24 };
static struct { _Atomic(uint64_t) mixed, rules; } known[KNOWN];

static size_t known_at(uintptr_t pc) {
    return hak_hash(pc) >> 52;
}
static_assert(KNOWN == 1 << (64 - 52), "the bits that are left");

enum { PACKED_VALID = 1, PACKED_FP_BASE = 2, PACKED_FP_SAVED = 4, PACKED_OFFSET = 8 };

static void remember(uintptr_t pc, const struct rules *rules) {
    bool saved = rules->fp.kind == RULE_AT;
    if (rules->base == UNWIND_OTHER || rules->pc.kind != RULE_AT || rules->pc.offset != -8 ||
        rules->sp.kind != RULE_UNDEFINED || (!saved && rules->fp.kind != RULE_SAME) ||
        rules->offset < 0 || rules->offset >= FAR ||
        (saved && (rules->fp.offset > 0 || rules->fp.offset <= -FAR))) {
        return;
    }
    uint64_t packed = PACKED_VALID | (rules->base == UNWIND_FP ? PACKED_FP_BASE : 0) |
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
        .base = (packed & PACKED_FP_BASE) != 0 ? UNWIND_FP : UNWIND_SP,
        .offset = (int64_t)((packed & UINT32_MAX) / PACKED_OFFSET),
        .pc = {RULE_AT, -8, NULL},
        .sp = {RULE_UNDEFINED, 0, NULL},
        .fp = {(packed & PACKED_FP_SAVED) != 0 ? RULE_AT : RULE_SAME, -(int64_t)(packed >> 32),
               NULL},
    };
    return true;
}

enum frame_step frame_info_step(struct frame *frame, frame_peek *peek, void *context) {
    // The return address of a call at the end of a function is the start of the next function, so
    // an address in the call is looked up.
    uintptr_t pc = frame->exact ? frame->pc : frame->pc - 1;
    struct rules rules;
    if (recall(pc, &rules)) {
        return follow(&rules, false, frame, peek, context);
    }
    struct frame_object object;
    struct unwind_record record;
    if (!frame_object_of(pc, &object) || object.header == NULL ||
        !unwind_find(object.header, pc, &record) || !unwind_find_rules(&record, pc, &rules)) {
        return FRAME_UNKNOWN;
    }
    if (!record.signal) {
        remember(pc, &rules);
    }
    return follow(&rules, record.signal, frame, peek, context);
}
