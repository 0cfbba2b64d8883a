// SPDX-License-Identifier: Apache-2.0
// statistics_internal: shared by the files of the box, each of which writes one text.
#ifndef HAKMEM_BOXES_STATISTICS_STATISTICS_INTERNAL_H
#define HAKMEM_BOXES_STATISTICS_STATISTICS_INTERNAL_H

#include "boxes/settings/settings.h"
#include "boxes/statistics/statistics.h"
#include "boxes/statistics/statistics_text.h"

HAK_C_BEGIN

// The facts about the process that texts state.
struct statistics_process {
    char program[64]; // a copy: a program may write over its arguments
    const char *flavour, *version;
    uint64_t started_ms;
    bool forked;
};
extern struct statistics_process statistics_process;
uint64_t statistics_uptime_ms(void);

// Returns true for a setting that differs from its default. Never for HAKMEM_STATS, which asked for
// the text.
bool statistics_is_changed(enum setting setting);

// Returns the figures in the terms of glibc's mallinfo.
void statistics_heap_of(const struct hak_stats *s, struct statistics_heap *heap);

void statistics_write_table(struct text *text, const struct hak_stats *s);
void statistics_write_lines(struct text *text, const struct hak_stats *s);
void statistics_write_xml(struct text *text, const struct hak_stats *s);
void statistics_write_json(struct text *text, const struct hak_stats *s);
HAK_C_END

#endif
