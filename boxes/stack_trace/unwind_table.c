// SPDX-License-Identifier: Apache-2.0
#include "boxes/stack_trace/unwind_table.h"

#include <string.h>

// The encodings of a pointer that compilers for x86-64 use.
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

uint64_t unwind_read_bytes(const uint8_t **at, unsigned bytes) {
    uint64_t value = 0;
    memcpy(&value, *at, bytes);
    *at += bytes;
    return value;
}

// Reads a number in LEB128, 7 bits a byte. Sets *bits to the number of bits read.
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

uint64_t unwind_read_uleb(const uint8_t **at) {
    unsigned bits;
    return read_leb(at, &bits);
}

int64_t unwind_read_sleb(const uint8_t **at) {
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
        *value = unwind_read_bytes(at, 8);
        break;
    case AS_UDATA4:
        *value = unwind_read_bytes(at, 4);
        break;
    case AS_SDATA4:
        *value = (uintptr_t)(int64_t)(int32_t)unwind_read_bytes(at, 4);
        break;
    default:
        return false;
    }
    *value += from;
    return (as & AS_INDIRECT) == 0 && (as & AS_RELATION) <= AS_PC_RELATIVE;
}

// Returns the record of the function that `pc` is in, or NULL if there is none.
static const uint8_t *find_record(const uint8_t *header, uintptr_t pc) {
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

// Moves *at from a record to its contents. Returns false for the 64-bit format, which compilers for
// x86-64 do not use.
static bool open_record(const uint8_t **at, const uint8_t **end) {
    uint64_t length = unwind_read_bytes(at, 4);
    *end = *at + length;
    return length != 0 && length != 0xffffffff;
}

// Reads the fields that the letters of an augmentation stand for.
static void read_augmentation(const char *letters, const uint8_t *at, struct unwind_record *record,
                              uint8_t *as) {
    for (; *letters != '\0'; letters++) {
        uintptr_t ignored;
        switch (*letters) {
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
            record->signal = true;
            break;
        default:
            break;
        }
    }
}

// Reads a common record. Sets *augmented to true if the function's record has an augmentation part,
// which starts with its length.
static bool read_common(const uint8_t *at, struct unwind_record *record, uint8_t *as,
                        bool *augmented) {
    const uint8_t *end;
    if (!open_record(&at, &end) || unwind_read_bytes(&at, 4) != 0) {
        return false;
    }
    uint8_t version = *at++;
    const char *augmentation = (const char *)at;
    at += strlen(augmentation) + 1;
    record->code_align = unwind_read_uleb(&at);
    record->data_align = unwind_read_sleb(&at);
    if (version == 1) {
        at++;
    } else {
        unwind_read_uleb(&at);
    }
    *as = AS_ABSOLUTE;
    *augmented = *augmentation == 'z';
    if (!*augmented && *augmentation != '\0') {
        return false;
    }
    uint64_t length = *augmented ? unwind_read_uleb(&at) : 0;
    read_augmentation(augmentation + (*augmented ? 1 : 0), at, record, as);
    record->common = at + length;
    record->common_end = end;
    return true;
}

static bool read_record(const uint8_t *at, struct unwind_record *record) {
    const uint8_t *end;
    if (!open_record(&at, &end)) {
        return false;
    }
    const uint8_t *place = at;
    uint64_t back = unwind_read_bytes(&at, 4);
    uint8_t as;
    bool augmented;
    *record = (struct unwind_record){.signal = false};
    if (back == 0 || !read_common(place - back, record, &as, &augmented) ||
        !read_pointer(&at, as, &record->start) ||
        !read_pointer(&at, as & AS_FORMAT, &record->size)) {
        return false;
    }
    if (augmented) {
        uint64_t length = unwind_read_uleb(&at);
        at += length;
    }
    record->own = at;
    record->own_end = end;
    return true;
}

bool unwind_find(const uint8_t *header, uintptr_t pc, struct unwind_record *record) {
    const uint8_t *at = find_record(header, pc);
    return at != NULL && read_record(at, record) && pc - record->start < record->size;
}
