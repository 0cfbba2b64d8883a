// SPDX-License-Identifier: Apache-2.0
#include "boxes/statistics/statistics_text.h"

#include "boxes/base/digits.h"

#include <string.h>

void text_hand_on(struct text *text) {
    if (text->length > 0) {
        text->sink->write(text->sink->to, text->buf, text->length);
        text->length = 0;
    }
}

void text_bytes(struct text *text, const char *bytes, size_t count) {
    while (count > 0) {
        size_t now = hak_min(count, text->size - text->length);
        memcpy(text->buf + text->length, bytes, now);
        text->length += now;
        bytes += now;
        count -= now;
        if (text->length == text->size) {
            text_hand_on(text);
        }
    }
}

void text_string(struct text *text, const char *string) {
    text_bytes(text, string, strlen(string));
}

void text_fraction(struct text *text, uint64_t value, uint64_t unit, unsigned decimals,
                   unsigned width) {
    char digits[40];
    char *at = digits + sizeof digits;
    uint64_t whole = value / unit;
    uint64_t rest = value % unit;
    uint64_t scale = 1;
    for (unsigned i = 0; i < decimals; i++) {
        scale *= 10;
    }
    uint64_t part = (rest * scale + unit / 2) / unit; // the nearest one
    whole += part / scale;
    part %= scale;
    for (unsigned i = 0; i < decimals; i++, part /= 10) {
        *--at = (char)('0' + part % 10);
    }
    if (decimals > 0) {
        *--at = '.';
    }
    at = hak_digits(at, whole, 10);
    char *first = digits + sizeof digits - hak_min((size_t)width, sizeof digits);
    while (at > first) {
        *--at = ' ';
    }
    text_bytes(text, at, (size_t)(digits + sizeof digits - at));
}

void text_number(struct text *text, uint64_t value, unsigned width) {
    text_fraction(text, value, 1, 0, width);
}

void text_mib(struct text *text, uint64_t bytes, unsigned width) {
    text_fraction(text, bytes, 1 << 20, 1, width);
}

void text_ms(struct text *text, uint64_t ns) {
    text_fraction(text, ns, 1000000, 3, 0);
}

void text_signed(struct text *text, int64_t value) {
    text_string(text, value < 0 ? "-" : "");
    text_number(text, value < 0 ? -(uint64_t)value : (uint64_t)value, 0);
}
