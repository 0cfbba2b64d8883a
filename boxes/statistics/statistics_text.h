// SPDX-License-Identifier: Apache-2.0
// statistics_text: builds a text piece by piece, without printf(), which would take some KiB of
// stack. Part of the box.
#ifndef HAKMEM_BOXES_STATISTICS_STATISTICS_TEXT_H
#define HAKMEM_BOXES_STATISTICS_STATISTICS_TEXT_H

#include "boxes/statistics/statistics.h"

HAK_C_BEGIN

// A text in the making. buf[size] holds the part that the sink has not got yet; size is 1 or more.
struct text {
    char *buf;
    size_t size, length;
    const struct statistics_sink *sink;
};

// Passes the content of the buffer to the sink. To be called at the end; the functions below call
// it when the buffer is full.
void text_hand_on(struct text *text);

void text_bytes(struct text *text, const char *bytes, size_t count);
void text_string(struct text *text, const char *string);

// Adds value / unit with `decimals` digits behind the point, rounded to the nearest, right-aligned
// in `width` (at most 40) places.
void text_fraction(struct text *text, uint64_t value, uint64_t unit, unsigned decimals,
                   unsigned width);

void text_number(struct text *text, uint64_t value, unsigned width);
void text_signed(struct text *text, int64_t value);
// Bytes as MiB with one decimal, and nanoseconds as milliseconds with three.
void text_mib(struct text *text, uint64_t bytes, unsigned width);
void text_ms(struct text *text, uint64_t ns);
HAK_C_END

#endif
