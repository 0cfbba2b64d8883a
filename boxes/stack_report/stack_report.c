// SPDX-License-Identifier: Apache-2.0
#include "boxes/stack_report/stack_report.h"

#include "backends/os.h"
#include "boxes/base/digits.h"

#include <string.h>

void stack_report_open(struct stack_report *report) {
    report->used = 0;
    report->has_symbols = elf_symbols_open(&report->symbols);
}

void stack_report_close(struct stack_report *report) {
    if (report->has_symbols) {
        elf_symbols_close(&report->symbols);
    }
}

static void add(struct stack_report *report, const char *text, size_t size) {
    static const char mark[] = "hakmem: ";
    if (report->used == 0) {
        memcpy(report->line, mark, sizeof mark - 1);
        report->used = sizeof mark - 1;
    }
    size = hak_min(size, sizeof report->line - 1 - report->used);
    memcpy(report->line + report->used, text, size);
    report->used += size;
}

void stack_report_text(struct stack_report *report, const char *text) {
    add(report, text, strlen(text));
}

static void add_number(struct stack_report *report, uint64_t value, unsigned base) {
    char digits[HAK_DIGITS];
    char *end = digits + sizeof digits;
    char *at = hak_digits(end, value, base);
    add(report, at, (size_t)(end - at));
}

void stack_report_number(struct stack_report *report, uint64_t value) {
    add_number(report, value, 10);
}

void stack_report_address(struct stack_report *report, uintptr_t value) {
    stack_report_text(report, "0x");
    add_number(report, value, 16);
}

void stack_report_count(struct stack_report *report, uint64_t count, const char *what) {
    stack_report_number(report, count);
    stack_report_text(report, " ");
    stack_report_text(report, what);
    stack_report_text(report, count == 1 ? "" : "s");
}

void stack_report_end_line(struct stack_report *report) {
    report->line[report->used++] = '\n';
    os_write_stderr(report->line, report->used);
    report->used = 0;
}

static void add_place(struct stack_report *report, uintptr_t pc, const struct elf_name *name) {
    if (name->length != 0) {
        stack_report_text(report, " ");
        add(report, name->name, hak_min(name->length, 300));
        stack_report_text(report, "+");
        stack_report_address(report, pc - name->start);
    }
    size_t found = elf_symbols_mapping_of(&report->symbols, pc);
    if (found != 0 && report->symbols.mappings[found - 1].path[0] != '\0') {
        const struct elf_mapping *mapping = &report->symbols.mappings[found - 1];
        stack_report_text(report, " (");
        stack_report_text(report, mapping->path);
        stack_report_text(report, "+");
        stack_report_address(report, pc - mapping->start + mapping->offset);
        stack_report_text(report, ")");
    }
}

// Returns an address within the call of frame `i`: a stack holds return addresses, which lie behind
// the call. The first frame's address may be exact.
static uintptr_t place_of(const uintptr_t *pcs, unsigned i, bool exact) {
    return exact && i == 0 ? pcs[i] : pcs[i] - 1;
}

// Looks up all names of a stack at once, as each look-up goes over a symbol table.
static void find_names(struct stack_report *report, unsigned depth, bool exact) {
    for (unsigned i = 0; i < depth; i++) {
        uintptr_t pc = place_of(report->pcs, i, exact);
        unsigned at = i;
        for (; at > 0 && report->names[at - 1].pc > pc; at--) {
            report->names[at] = report->names[at - 1];
        }
        report->names[at] = (struct elf_name){.pc = pc};
    }
    if (report->has_symbols) {
        elf_symbols_name(&report->symbols, report->names, depth);
    }
}

void stack_report_stack(struct stack_report *report, const uintptr_t *pcs, unsigned depth,
                        bool exact) {
    depth = (unsigned)hak_min(depth, STACK_REPORT_DEPTH);
    for (unsigned i = 0; i < depth; i++) {
        report->pcs[i] = __atomic_load_n(&pcs[i], __ATOMIC_RELAXED);
    }
    find_names(report, depth, exact);
    for (unsigned i = 0; i < depth; i++) {
        uintptr_t pc = place_of(report->pcs, i, exact);
        unsigned at = 0;
        while (report->names[at].pc != pc) {
            at++;
        }
        stack_report_text(report, "  #");
        stack_report_number(report, i);
        stack_report_text(report, " ");
        stack_report_address(report, pc);
        if (report->has_symbols) {
            add_place(report, pc, &report->names[at]);
        }
        stack_report_end_line(report);
    }
    if (depth == 0) {
        stack_report_text(report, "  (calls not known)");
        stack_report_end_line(report);
    }
}
