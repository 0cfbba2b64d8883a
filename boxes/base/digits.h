// SPDX-License-Identifier: Apache-2.0
// base: numbers as text, for code that must not call functions of libc that may allocate.
#ifndef HAKMEM_BOXES_BASE_DIGITS_H
#define HAKMEM_BOXES_BASE_DIGITS_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { HAK_DIGITS = 20 }; // of a number with 64 bits, at most, in base 10 or 16

// Writes a number in base 10 or 16 in front of `end`, where there is room for HAK_DIGITS. Returns
// where the number starts.
HAK_INLINE char *hak_digits(char *end, uint64_t value, unsigned base) {
    do {
        *--end = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    return end;
}

// Writes bytes as two hexadecimal digits each. Returns the end.
HAK_INLINE char *hak_hex(char *to, const unsigned char *bytes, size_t size) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        *to++ = digits[bytes[i] >> 4];
        *to++ = digits[bytes[i] & 15];
    }
    return to;
}
HAK_C_END

#endif
