// SPDX-License-Identifier: Apache-2.0
// statistics_table: the table that HAKMEM_STATS=1 prints, and glibc's lines before it.
#include "boxes/statistics/statistics_internal.h"

#include "backends/os.h"

enum { COLUMN = 10 };

static void write_table_bins(struct text *text, const struct hak_stats *s) {
    text_string(text, "   block B    slabs       live     cached       free\n");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        if (s->bins[bin].slabs != 0) {
            text_string(text, "  ");
            text_number(text, s->bins[bin].size, 8);
            text_number(text, s->bins[bin].slabs, 9);
            text_number(text, s->bins[bin].live, COLUMN + 1);
            text_number(text, s->bins[bin].cached, COLUMN + 1);
            text_number(text, s->bins[bin].free_, COLUMN + 1);
            text_string(text, "\n");
        }
    }
}

static void write_header(struct text *text, const struct hak_stats *s) {
    text_string(text, "hakmem statistics of ");
    text_string(text, statistics_process.program);
    int number = os_process();
    if (number != 0) {
        text_string(text, " (pid ");
        text_number(text, (uint64_t)number, 0);
        text_string(text, ")");
    }
    text_string(text, ": ");
    text_string(text, statistics_process.flavour);
    text_string(text, " ");
    text_string(text, statistics_process.version);
    text_string(text, ", up ");
    text_fraction(text, statistics_uptime_ms(), 1000, 1, 0);
    text_string(text, " s\n");
    bool any = false;
    for (int i = 0; i < SETTING_COUNT; i++) {
        if (statistics_is_changed((enum setting)i)) {
            text_string(text, any ? " " : "  settings                     ");
            text_string(text, settings_table[i].name);
            text_string(text, "=");
            text_signed(text, settings_get((enum setting)i));
            any = true;
        }
    }
    text_string(text, any ? "\n" : "");
    text_string(text, "  peak: RSS / in slabs ");
    text_mib(text, os_peak_memory(), COLUMN);
    text_string(text, " / ");
    text_mib(text, s->peak, 0);
    text_string(text, " MiB\n");
}

static void write_table_memory(struct text *text, const struct hak_stats *s) {
    text_string(text, "  SuperSlabs in use    ");
    text_number(text, s->superslabs, COLUMN);
    text_string(text, "\n  reserved / committed ");
    text_mib(text, s->reserved, COLUMN);
    text_string(text, " / ");
    text_mib(text, s->committed, 0);
    text_string(text, " MiB\n  live: tiny / large   ");
    text_mib(text, s->tiny_live, COLUMN);
    text_string(text, " / ");
    text_mib(text, s->large_live, 0);
    text_string(text, " MiB (");
    text_number(text, s->large_blocks, 0);
    text_string(text, " large blocks)\n  cached / free blocks ");
    text_mib(text, s->tiny_cached, COLUMN);
    text_string(text, " / ");
    text_mib(text, s->tiny_free, 0);
    text_string(text, " MiB\n  free dirty slabs     ");
    text_mib(text, s->dirty, COLUMN);
    text_string(text, " MiB\n");
}

static void write_table_returned(struct text *text, const struct hak_stats *s) {
    text_string(text, "  given back           ");
    text_mib(text, s->returned, COLUMN);
    text_string(text, " MiB in ");
    text_number(text, s->purges, 0);
    text_string(text, " steps, ");
    text_ms(text, s->purge_ns);
    text_string(text, " ms, longest ");
    text_ms(text, s->purge_longest_ns);
    text_string(text, " ms\n  moved, not copied    ");
    text_mib(text, s->moved, COLUMN);
    text_string(text, " MiB\n  slabs: tiny / large / heaps ");
    text_number(text, s->tiny_slabs, 0);
    text_string(text, " / ");
    text_number(text, s->large_slabs, 0);
    text_string(text, " / ");
    text_number(text, s->heap_slabs, 0);
    text_string(text, "\n");
}

static void write_table_work(struct text *text, const struct hak_stats *s) {
    text_string(text, "  refills / blocks     ");
    text_number(text, s->refills, COLUMN);
    text_string(text, " / ");
    text_number(text, s->refilled_blocks, 0);
    text_string(text, "\n  spills / blocks      ");
    text_number(text, s->spills, COLUMN);
    text_string(text, " / ");
    text_number(text, s->spilled_blocks, 0);
    text_string(text, "\n  thread heaps         ");
    text_number(text, s->heaps, COLUMN);
    text_string(text, ", ");
    text_number(text, s->free_heaps, 0);
    text_string(text, " free\n  system calls         ");
    text_number(text, s->os_calls, COLUMN);
    text_string(text, "\n");
}

void statistics_write_table(struct text *text, const struct hak_stats *s) {
    write_header(text, s);
    write_table_memory(text, s);
    write_table_returned(text, s);
    write_table_work(text, s);
    write_table_bins(text, s);
}

static void add_line(struct text *text, const char *name, size_t value) {
    text_string(text, name);
    text_string(text, " = ");
    text_number(text, value, COLUMN);
    text_string(text, "\n");
}

void statistics_write_lines(struct text *text, const struct hak_stats *s) {
    struct statistics_heap heap;
    statistics_heap_of(s, &heap);
    text_string(text, "Arena 0:\n");
    add_line(text, "system bytes    ", heap.arena);
    add_line(text, "in use bytes    ", heap.used);
    text_string(text, "Total (incl. mmap):\n");
    add_line(text, "system bytes    ", heap.arena + heap.mapped);
    add_line(text, "in use bytes    ", heap.used + heap.mapped);
    // glibc prints the most blocks there were. To count them would cost a shared cache line for
    // each block.
    add_line(text, "mmap regions    ", heap.mapped_blocks);
    add_line(text, "mmap bytes      ", heap.mapped);
    statistics_write_table(text, s);
}
