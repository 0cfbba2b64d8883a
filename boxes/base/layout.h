// SPDX-License-Identifier: Apache-2.0
// base: how a box describes its data to readers outside of the process.
//
// A debugger, or the tool `hakmem`, reads the allocator's state from another process or a core
// file. It finds each variable, each field of a structure and each constant by name, in rows that
// the owner's sources have beside it. So a reader depends on names only, and a box may change its
// structures without asking. fronts/descriptor gathers the rows.
//
// Rules: a name is never used again for something else. If the meaning of a row changes,
// DESCRIPTOR_VERSION changes (descriptor.h); a row more or a row less does not count.
#ifndef HAKMEM_BOXES_BASE_LAYOUT_H
#define HAKMEM_BOXES_BASE_LAYOUT_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum hak_layout_kind {
    HAK_LAYOUT_NUMBER = 0,   // value is a constant
    HAK_LAYOUT_VARIABLE = 1, // value is an address in the process, of `size` bytes
    HAK_LAYOUT_FIELD = 2,    // value is an offset in a structure, of a field of `size` bytes
};

struct hak_layout_row {
    char name[24]; // ends in a 0 unless it has 24 bytes
    uint32_t kind; // enum hak_layout_kind
    uint32_t size; // bytes; 0 for a constant
    const void *value;
};
static_assert(sizeof(struct hak_layout_row) == 40, "as readers outside expect it");

// Variables stand apart from the rest, which needs no relocation and so costs a process no memory.
struct hak_layout {
    const struct hak_layout_row *variables;
    const struct hak_layout_row *constants; // numbers and fields
    uint32_t variables_count, constants_count;
};

#ifndef __cplusplus
// HAK_LAYOUT(NAME, HAK_ROWS(HAK_VARIABLE(...), ...), HAK_ROWS(...)) defines NAME, a box's rows.
#    define HAK_LAYOUT(name, its_variables, its_constants)                       \
        static const struct hak_layout_row name##_variables[] = {its_variables}; \
        static const struct hak_layout_row name##_constants[] = {its_constants}; \
        const struct hak_layout name = {                                         \
            name##_variables,                                                    \
            name##_constants,                                                    \
            sizeof name##_variables / sizeof(struct hak_layout_row),             \
            sizeof name##_constants / sizeof(struct hak_layout_row),             \
        }
#    define HAK_ROWS(...) __VA_ARGS__
#    define HAK_VARIABLE(name, variable) \
        { name, HAK_LAYOUT_VARIABLE, sizeof(variable), (const void *)&(variable) }
#    define HAK_FIELD(name, type, field) \
        { name, HAK_LAYOUT_FIELD, sizeof(((type *)0)->field), (const void *)offsetof(type, field) }
#    define HAK_NUMBER(name, number) \
        { name, HAK_LAYOUT_NUMBER, 0, (const void *)(uintptr_t)(number) }
#endif
HAK_C_END

#endif
