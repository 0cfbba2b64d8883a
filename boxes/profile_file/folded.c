// SPDX-License-Identifier: Apache-2.0
// folded: writes a stack as a line of text, as tools that draw flame graphs read them.
#include "boxes/profile_file/writer.h"

#include "boxes/base/digits.h"

#include <string.h>

static void put_text(struct profile_writer *w, const char *text) {
    output_bytes(&w->out, text, strlen(text));
}

static void put_number(struct profile_writer *w, uint64_t value, unsigned base) {
    char digits[HAK_DIGITS];
    char *end = digits + sizeof digits;
    char *at = hak_digits(end, value, base);
    output_bytes(&w->out, at, (size_t)(end - at));
}

// Writes a frame: its function, or its place in a file.
static void put_frame(struct profile_writer *w, uintptr_t pc) {
    size_t place = profile_place_of(w, pc);
    if (place < w->count && w->names[place].length != 0) {
        const struct elf_name *name = &w->names[place];
        for (unsigned i = 0; i < name->length; i++) {
            output_bytes(&w->out, name->name[i] == ';' ? ":" : &name->name[i], 1);
        }
        return;
    }
    size_t found = elf_symbols_mapping_of(&w->symbols, pc);
    const struct elf_mapping *mapping = found != 0 ? &w->symbols.mappings[found - 1] : NULL;
    if (mapping != NULL && mapping->path[0] != '\0') {
        const char *name = strrchr(mapping->path, '/');
        put_text(w, name != NULL ? name + 1 : mapping->path);
        put_text(w, "+0x");
        put_number(w, pc - mapping->start + mapping->offset, 16);
    } else {
        put_text(w, "0x");
        put_number(w, pc, 16);
    }
}

static void put_folded(struct profile_writer *w, struct heap_profile_stack *stack, uint64_t bytes) {
    if (bytes == 0) {
        return;
    }
    unsigned own = profile_own_calls(w, stack);
    for (unsigned i = stack->depth; i-- > own;) {
        put_frame(w, profile_call_at(stack->pcs[i]));
        put_text(w, i == own ? "" : ";");
    }
    put_text(w, stack->depth == 0 ? "[unknown] " : " ");
    put_number(w, bytes, 10);
    put_text(w, "\n");
}

void profile_put_folded_live(void *to, struct heap_profile_stack *stack) {
    put_folded(to, stack, profile_values_of(stack).live_bytes);
}

void profile_put_folded_allocated(void *to, struct heap_profile_stack *stack) {
    put_folded(to, stack, profile_values_of(stack).allocated_bytes);
}
