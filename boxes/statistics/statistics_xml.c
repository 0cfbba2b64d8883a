// SPDX-License-Identifier: Apache-2.0
// statistics_xml: glibc's XML of malloc_info(), and an element with hakmem's own figures.
#include "boxes/statistics/statistics_internal.h"

// <name type="type" count="count" size="size"/>; without a count if there is none.
static void add_total(struct text *text, const char *name, const char *type, const size_t *count,
                      size_t size) {
    text_string(text, "<");
    text_string(text, name);
    text_string(text, " type=\"");
    text_string(text, type);
    if (count != NULL) {
        text_string(text, "\" count=\"");
        text_number(text, *count, 0);
    }
    text_string(text, "\" size=\"");
    text_number(text, size, 0);
    text_string(text, "\"/>\n");
}

static void add_attribute(struct text *text, const char *name, uint64_t value) {
    text_string(text, name);
    text_string(text, "=\"");
    text_number(text, value, 0);
    text_string(text, "\"");
}

// Writes the figures of a heap, and again those of all heaps, of which there is one here.
static void write_xml_totals(struct text *text, const struct hak_stats *s,
                             const struct statistics_heap *heap, bool all) {
    static const size_t none;
    add_total(text, "total", "fast", &none, 0);
    add_total(text, "total", "rest", &heap->free_blocks, heap->free_);
    if (all) {
        add_total(text, "total", "mmap", &heap->mapped_blocks, heap->mapped);
    }
    add_total(text, "system", "current", NULL, heap->arena);
    add_total(text, "system", "max", NULL, hak_max(heap->arena, s->committed));
    add_total(text, "aspace", "total", NULL, s->reserved);
    add_total(text, "aspace", "mprotect", NULL, s->committed);
}

static void write_xml_sizes(struct text *text, const struct hak_stats *s) {
    text_string(text, "<sizes>\n");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        size_t count = s->bins[bin].free_ + s->bins[bin].cached;
        if (count != 0) {
            add_attribute(text, "  <size from", bin > 1 ? size_class_bins[bin - 1].size + 1u : 1);
            add_attribute(text, " to", s->bins[bin].size);
            add_attribute(text, " total", count * s->bins[bin].size);
            add_attribute(text, " count", count);
            text_string(text, "/>\n");
        }
    }
    text_string(text, "</sizes>\n");
}

static void write_xml_own(struct text *text, const struct hak_stats *s) {
    add_attribute(text, "<hakmem superslabs", s->superslabs);
    add_attribute(text, " large", s->large_live);
    add_attribute(text, " dirty", s->dirty);
    add_attribute(text, " returned", s->returned);
    add_attribute(text, " purges", s->purges);
    add_attribute(text, " purge_ns", s->purge_ns);
    text_string(text, ">\n");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        if (s->bins[bin].slabs != 0) {
            add_attribute(text, "  <bin block", s->bins[bin].size);
            add_attribute(text, " slabs", s->bins[bin].slabs);
            add_attribute(text, " live", s->bins[bin].live);
            add_attribute(text, " cached", s->bins[bin].cached);
            add_attribute(text, " free", s->bins[bin].free_);
            text_string(text, "/>\n");
        }
    }
    text_string(text, "</hakmem>\n");
}

void statistics_write_xml(struct text *text, const struct hak_stats *s) {
    struct statistics_heap heap;
    statistics_heap_of(s, &heap);
    text_string(text, "<malloc version=\"1\">\n<heap nr=\"0\">\n");
    write_xml_sizes(text, s);
    write_xml_totals(text, s, &heap, false);
    text_string(text, "</heap>\n");
    write_xml_totals(text, s, &heap, true);
    write_xml_own(text, s);
    text_string(text, "</malloc>\n");
}
