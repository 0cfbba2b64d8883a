// SPDX-License-Identifier: Apache-2.0
#include "boxes/statistics/statistics.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/base/digits.h"
#include "boxes/decay/decay.h"
#include "boxes/far_block/far_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/private_heap/private_heap.h"
#include "boxes/sampled_block/sampled_block.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/superslab/superslab.h"
#include "boxes/thread_heap/thread_heap.h"

#include <string.h>

// What a call works with: too much for a small stack.
struct parts {
    struct superslab_stats slabs;
    struct thread_heap_stats heaps;
};
struct scratch {
    struct parts parts;
    struct hak_stats stats;
    char text[16384];
};

static struct scratch shared;
static _Atomic(bool) shared_used; // for good in a child that was forked meanwhile

enum { SCRATCH_BYTES = (sizeof(struct scratch) + HAK_PAGE - 1) / HAK_PAGE * HAK_PAGE };

// NULL if there is no memory.
static struct scratch *take_scratch(void) {
    if (!atomic_exchange(&shared_used, true)) {
        return &shared;
    }
    void *mapped;
    return os_map(NULL, SCRATCH_BYTES, &mapped) == OS_OK ? mapped : NULL;
}

static void give_scratch(struct scratch *scratch) {
    if (scratch == &shared) {
        atomic_store(&shared_used, false);
    } else {
        os_release(scratch, SCRATCH_BYTES);
    }
}

static void gather_bins(struct hak_stats *stats, const struct parts *parts) {
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        const struct size_class_bin *info = &size_class_bins[bin];
        size_t cached = parts->heaps.bin_cached[bin];
        size_t all = parts->slabs.bin_slabs[bin] * info->blocks - parts->slabs.bin_absent[bin];
        size_t idle = parts->slabs.bin_free[bin] + cached;
        stats->bins[bin].size = info->size;
        stats->bins[bin].slabs = parts->slabs.bin_slabs[bin];
        stats->bins[bin].cached = cached;
        stats->bins[bin].free_ = parts->slabs.bin_free[bin];
        stats->bins[bin].live = all > idle ? all - idle : 0;
        stats->tiny_live += stats->bins[bin].live * info->size;
        stats->tiny_cached += cached * info->size;
        stats->tiny_free += parts->slabs.bin_free[bin] * info->size;
    }
}

static HAK_NOINLINE void gather(struct hak_stats *stats, struct parts *parts) {
    memset(stats, 0, sizeof *stats);
    struct page_arena_stats arena;
    page_arena_get_stats(&arena);
    stats->reserved = arena.reserved_bytes;
    stats->peak = arena.peak_slabs << ARENA_SLAB_SHIFT;
    stats->committed = arena.committed_bytes;
    stats->dirty = arena.dirty_slabs << ARENA_SLAB_SHIFT;
    stats->moved = arena.moved_slabs << ARENA_SLAB_SHIFT;
    struct decay_stats decay;
    decay_get_stats(&decay);
    stats->returned = (arena.purged_slabs << ARENA_SLAB_SHIFT) + (decay.pages << HAK_PAGE_SHIFT);
    stats->purges = decay.steps;
    stats->purge_ns = decay.ns;
    stats->purge_longest_ns = decay.longest;
    stats->os_calls = os_calls();
    superslab_get_stats(&parts->slabs);
    const struct far_block_stats far = far_block_get_stats();
    const struct superslab_stats *slabs = &parts->slabs;
    stats->superslabs = slabs->superslabs;
    stats->tiny_slabs = slabs->tiny_slabs;
    stats->large_slabs = slabs->large_slabs;
    stats->private_slabs = slabs->private_slabs;
    stats->private_live = private_heap_live();
    stats->heap_slabs = slabs->heap_slabs;
    stats->clean = shared_pool_get_totals().clean;
    stats->metadata =
        slabs->superslabs * ARENA_SUPERSLAB_META + (slabs->heap_slabs << ARENA_SLAB_SHIFT);
    stats->far = far.bytes;
    stats->large_live = slabs->large_bytes + far.bytes;
    stats->large_blocks = slabs->large_blocks + far.blocks;
    stats->large_pages = slabs->large_pages + far.bytes;
    stats->large_slack = (slabs->large_slabs << ARENA_SLAB_SHIFT) - slabs->large_pages;
    stats->mapped = slabs->mapped_pages + far.bytes;
    stats->mapped_blocks = slabs->mapped_blocks + far.blocks;
    thread_heap_get_stats(&parts->heaps);
    const struct thread_heap_stats *heaps = &parts->heaps;
    stats->refills = heaps->counts.refills;
    stats->refilled_blocks = heaps->counts.refilled;
    stats->spills = heaps->counts.spills;
    stats->spilled_blocks = heaps->counts.spilled;
    stats->heaps = heaps->heaps;
    stats->free_heaps = heaps->free_heaps;
    gather_bins(stats, parts);
    // Small blocks that are sampled are the program's as any other, and in no slab.
    size_t sampled, held;
    sampled_block_count(&sampled, &held);
    stats->tiny_live += sampled;
    stats->tiny_free += held - hak_min(held, sampled);
}

static HAK_NOINLINE HAK_COLD void gather_on_stack(struct hak_stats *stats) {
    struct parts parts;
    gather(stats, &parts);
}

void statistics_own(struct hak_stats *stats) {
    struct scratch *scratch = take_scratch();
    if (HAK_LIKELY(scratch != NULL)) {
        gather(stats, &scratch->parts);
        give_scratch(scratch);
    } else {
        gather_on_stack(stats);
    }
}

// One function by two names, of which the other library's may hide this one.
extern __typeof(hak_stats) hak_stats
    __attribute__((alias("statistics_own"), visibility("default")));

static void heap_of(const struct hak_stats *s, struct statistics_heap *heap) {
    size_t private_all = s->private_slabs << ARENA_SLAB_SHIFT;
    size_t private_free = private_all - hak_min(private_all, s->private_live);
    *heap = (struct statistics_heap){
        .used = s->tiny_live + s->private_live + (s->large_pages - s->mapped),
        .free_ = s->tiny_cached + s->tiny_free + private_free + s->dirty + s->large_slack,
        .free_blocks = s->dirty >> ARENA_SLAB_SHIFT,
        .mapped = s->mapped,
        .mapped_blocks = s->mapped_blocks,
        .trimmable = s->dirty,
    };
    heap->arena = heap->used + heap->free_;
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        heap->free_blocks += s->bins[bin].free_ + s->bins[bin].cached;
    }
}

static HAK_NOINLINE HAK_COLD void get_heap_on_stack(struct statistics_heap *heap) {
    struct hak_stats stats;
    gather_on_stack(&stats);
    heap_of(&stats, heap);
}

void statistics_get_heap(struct statistics_heap *heap) {
    struct scratch *scratch = take_scratch();
    if (HAK_LIKELY(scratch != NULL)) {
        gather(&scratch->stats, &scratch->parts);
        heap_of(&scratch->stats, heap);
        give_scratch(scratch);
    } else {
        get_heap_on_stack(heap);
    }
}

// A text as it is written: collected, and handed on where the buffer is full and at the end.
// (printf would take some KiB of stack.)
struct text {
    char *buf;
    size_t size, length;
    const struct statistics_sink *sink;
};

static void hand_on(struct text *text) {
    if (text->length > 0) {
        text->sink->write(text->sink->to, text->buf, text->length);
        text->length = 0;
    }
}

static void add_bytes(struct text *text, const char *bytes, size_t count) {
    while (count > 0) {
        size_t now = hak_min(count, text->size - text->length);
        memcpy(text->buf + text->length, bytes, now);
        text->length += now;
        bytes += now;
        count -= now;
        if (text->length == text->size) {
            hand_on(text);
        }
    }
}

static void add(struct text *text, const char *string) {
    add_bytes(text, string, strlen(string));
}

// value / unit with `decimals` digits behind the point, right-aligned in `width` places.
static void add_fraction(struct text *text, uint64_t value, uint64_t unit, unsigned decimals,
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
    add_bytes(text, at, (size_t)(digits + sizeof digits - at));
}

static void add_number(struct text *text, uint64_t value, unsigned width) {
    add_fraction(text, value, 1, 0, width);
}

static void add_mib(struct text *text, uint64_t bytes, unsigned width) {
    add_fraction(text, bytes, 1 << 20, 1, width);
}

static void add_ms(struct text *text, uint64_t ns) {
    add_fraction(text, ns, 1000000, 3, 0);
}

enum { COLUMN = 10 };

static void write_table_bins(struct text *text, const struct hak_stats *s) {
    add(text, "   block B    slabs       live     cached       free\n");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        if (s->bins[bin].slabs != 0) {
            add(text, "  ");
            add_number(text, s->bins[bin].size, 8);
            add_number(text, s->bins[bin].slabs, 9);
            add_number(text, s->bins[bin].live, COLUMN + 1);
            add_number(text, s->bins[bin].cached, COLUMN + 1);
            add_number(text, s->bins[bin].free_, COLUMN + 1);
            add(text, "\n");
        }
    }
}

static struct {
    char program[64]; // a copy: a program may write over its arguments
    const char *flavour, *version;
    uint64_t started_ms;
    bool forked;
} process = {"?", "?", "?", 0, false};

void statistics_start(const char *program, const char *flavour, const char *version) {
    strncpy(process.program, program, sizeof process.program - 1);
    process.flavour = flavour;
    process.version = version;
    process.started_ms = os_now_ms();
}

void statistics_after_fork(void) {
    process.started_ms = os_now_ms();
    process.forked = true;
}

static uint64_t uptime_ms(void) {
    return os_now_ms() - process.started_ms;
}

static void add_signed(struct text *text, int64_t value) {
    add(text, value < 0 ? "-" : "");
    add_number(text, value < 0 ? -(uint64_t)value : (uint64_t)value, 0);
}

// Settings that differ from their defaults, but for HAKMEM_STATS, which is why this is written.
static bool is_changed(enum setting setting) {
    return setting != SETTING_STATS && settings_get(setting) != settings_table[setting].preset;
}

static void write_header(struct text *text, const struct hak_stats *s) {
    add(text, "hakmem statistics of ");
    add(text, process.program);
    int number = os_process();
    if (number != 0) {
        add(text, " (pid ");
        add_number(text, (uint64_t)number, 0);
        add(text, ")");
    }
    add(text, ": ");
    add(text, process.flavour);
    add(text, " ");
    add(text, process.version);
    add(text, ", up ");
    add_fraction(text, uptime_ms(), 1000, 1, 0);
    add(text, " s\n");
    bool any = false;
    for (int i = 0; i < SETTING_COUNT; i++) {
        if (is_changed((enum setting)i)) {
            add(text, any ? " " : "  settings                     ");
            add(text, settings_table[i].name);
            add(text, "=");
            add_signed(text, settings_get((enum setting)i));
            any = true;
        }
    }
    add(text, any ? "\n" : "");
    add(text, "  peak: RSS / in slabs ");
    add_mib(text, os_peak_memory(), COLUMN);
    add(text, " / ");
    add_mib(text, s->peak, 0);
    add(text, " MiB\n");
}

static void write_table(struct text *text, const struct hak_stats *s) {
    write_header(text, s);
    add(text, "  SuperSlabs in use    ");
    add_number(text, s->superslabs, COLUMN);
    add(text, "\n  reserved / committed ");
    add_mib(text, s->reserved, COLUMN);
    add(text, " / ");
    add_mib(text, s->committed, 0);
    add(text, " MiB\n  live: tiny / large   ");
    add_mib(text, s->tiny_live, COLUMN);
    add(text, " / ");
    add_mib(text, s->large_live, 0);
    add(text, " MiB (");
    add_number(text, s->large_blocks, 0);
    add(text, " large blocks)\n  cached / free blocks ");
    add_mib(text, s->tiny_cached, COLUMN);
    add(text, " / ");
    add_mib(text, s->tiny_free, 0);
    add(text, " MiB\n  free dirty slabs     ");
    add_mib(text, s->dirty, COLUMN);
    add(text, " MiB\n  given back           ");
    add_mib(text, s->returned, COLUMN);
    add(text, " MiB in ");
    add_number(text, s->purges, 0);
    add(text, " steps, ");
    add_ms(text, s->purge_ns);
    add(text, " ms, longest ");
    add_ms(text, s->purge_longest_ns);
    add(text, " ms\n  moved, not copied    ");
    add_mib(text, s->moved, COLUMN);
    add(text, " MiB\n  slabs: tiny / large / heaps ");
    add_number(text, s->tiny_slabs, 0);
    add(text, " / ");
    add_number(text, s->large_slabs, 0);
    add(text, " / ");
    add_number(text, s->heap_slabs, 0);
    add(text, "\n  refills / blocks     ");
    add_number(text, s->refills, COLUMN);
    add(text, " / ");
    add_number(text, s->refilled_blocks, 0);
    add(text, "\n  spills / blocks      ");
    add_number(text, s->spills, COLUMN);
    add(text, " / ");
    add_number(text, s->spilled_blocks, 0);
    add(text, "\n  thread heaps         ");
    add_number(text, s->heaps, COLUMN);
    add(text, ", ");
    add_number(text, s->free_heaps, 0);
    add(text, " free\n  system calls         ");
    add_number(text, s->os_calls, COLUMN);
    add(text, "\n");
    write_table_bins(text, s);
}

static void add_line(struct text *text, const char *name, size_t value) {
    add(text, name);
    add(text, " = ");
    add_number(text, value, COLUMN);
    add(text, "\n");
}

static void write_lines(struct text *text, const struct hak_stats *s) {
    struct statistics_heap heap;
    heap_of(s, &heap);
    add(text, "Arena 0:\n");
    add_line(text, "system bytes    ", heap.arena);
    add_line(text, "in use bytes    ", heap.used);
    add(text, "Total (incl. mmap):\n");
    add_line(text, "system bytes    ", heap.arena + heap.mapped);
    add_line(text, "in use bytes    ", heap.used + heap.mapped);
    // glibc has the most there were: to know that would cost a shared line a block.
    add_line(text, "mmap regions    ", heap.mapped_blocks);
    add_line(text, "mmap bytes      ", heap.mapped);
    write_table(text, s);
}

// <name type="type" count="count" size="size"/>; without a count if there is none.
static void add_total(struct text *text, const char *name, const char *type, const size_t *count,
                      size_t size) {
    add(text, "<");
    add(text, name);
    add(text, " type=\"");
    add(text, type);
    if (count != NULL) {
        add(text, "\" count=\"");
        add_number(text, *count, 0);
    }
    add(text, "\" size=\"");
    add_number(text, size, 0);
    add(text, "\"/>\n");
}

static void add_attribute(struct text *text, const char *name, uint64_t value) {
    add(text, name);
    add(text, "=\"");
    add_number(text, value, 0);
    add(text, "\"");
}

// What a heap has, and again what all of them have, which is one here.
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
    add(text, "<sizes>\n");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        size_t count = s->bins[bin].free_ + s->bins[bin].cached;
        if (count != 0) {
            add_attribute(text, "  <size from", bin > 1 ? size_class_bins[bin - 1].size + 1u : 1);
            add_attribute(text, " to", s->bins[bin].size);
            add_attribute(text, " total", count * s->bins[bin].size);
            add_attribute(text, " count", count);
            add(text, "/>\n");
        }
    }
    add(text, "</sizes>\n");
}

static void write_xml_own(struct text *text, const struct hak_stats *s) {
    add_attribute(text, "<hakmem superslabs", s->superslabs);
    add_attribute(text, " large", s->large_live);
    add_attribute(text, " dirty", s->dirty);
    add_attribute(text, " returned", s->returned);
    add_attribute(text, " purges", s->purges);
    add_attribute(text, " purge_ns", s->purge_ns);
    add(text, ">\n");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        if (s->bins[bin].slabs != 0) {
            add_attribute(text, "  <bin block", s->bins[bin].size);
            add_attribute(text, " slabs", s->bins[bin].slabs);
            add_attribute(text, " live", s->bins[bin].live);
            add_attribute(text, " cached", s->bins[bin].cached);
            add_attribute(text, " free", s->bins[bin].free_);
            add(text, "/>\n");
        }
    }
    add(text, "</hakmem>\n");
}

static void write_xml(struct text *text, const struct hak_stats *s) {
    struct statistics_heap heap;
    heap_of(s, &heap);
    add(text, "<malloc version=\"1\">\n<heap nr=\"0\">\n");
    write_xml_sizes(text, s);
    write_xml_totals(text, s, &heap, false);
    add(text, "</heap>\n");
    write_xml_totals(text, s, &heap, true);
    write_xml_own(text, s);
    add(text, "</malloc>\n");
}

static void add_quoted(struct text *text, const char *string) {
    add(text, "\"");
    for (const unsigned char *at = (const unsigned char *)string; *at != '\0'; at++) {
        if (*at < ' ') {
            char code[2];
            hak_hex(code, at, 1);
            add(text, "\\u00");
            add_bytes(text, code, sizeof code);
        } else {
            add(text, *at == '"' || *at == '\\' ? "\\" : "");
            add_bytes(text, (const char *)at, 1);
        }
    }
    add(text, "\"");
}

static void add_key(struct text *text, const char *name) {
    add(text, ",\n");
    add_quoted(text, name);
    add(text, ": ");
}

static void add_member(struct text *text, const char *name, uint64_t value) {
    add_key(text, name);
    add_number(text, value, 0);
}

// The numbers of hak_stats by their names.
static const struct {
    char name[20];
    uint16_t offset; // of a size_t or a uint64_t
} members[] = {
#define MEMBER(name) \
    { #name, offsetof(struct hak_stats, name) }
    MEMBER(superslabs),
    MEMBER(reserved),
    MEMBER(committed),
    MEMBER(tiny_live),
    MEMBER(tiny_cached),
    MEMBER(tiny_free),
    MEMBER(large_live),
    MEMBER(large_blocks),
    MEMBER(far),
    MEMBER(private_live),
    MEMBER(dirty),
    MEMBER(clean),
    MEMBER(metadata),
    MEMBER(tiny_slabs),
    MEMBER(large_slabs),
    MEMBER(private_slabs),
    MEMBER(heap_slabs),
    MEMBER(returned),
    MEMBER(purges),
    MEMBER(purge_ns),
    MEMBER(purge_longest_ns),
    MEMBER(moved),
    MEMBER(os_calls),
    MEMBER(refills),
    MEMBER(refilled_blocks),
    MEMBER(spills),
    MEMBER(spilled_blocks),
    MEMBER(heaps),
    MEMBER(free_heaps),
    MEMBER(large_pages),
    MEMBER(mapped),
    MEMBER(mapped_blocks),
    MEMBER(large_slack),
    MEMBER(peak),
#undef MEMBER
};
static_assert(sizeof(size_t) == sizeof(uint64_t), "one way to read them all");

static void write_json_process(struct text *text) {
    add(text, "{\"program\": ");
    add_quoted(text, process.program);
    add_member(text, "pid", (uint64_t)os_process());
    add_key(text, "flavour");
    add_quoted(text, process.flavour);
    add_key(text, "version");
    add_quoted(text, process.version);
    add_key(text, "uptime_s");
    add_fraction(text, uptime_ms(), 1000, 3, 0);
    add_member(text, "peak_rss", os_peak_memory());
    add_key(text, "settings");
    add(text, "{");
    bool any = false;
    for (int i = 0; i < SETTING_COUNT; i++) {
        if (is_changed((enum setting)i)) {
            add(text, any ? ", " : "");
            add_quoted(text, settings_table[i].name);
            add(text, ": ");
            add_signed(text, settings_get((enum setting)i));
            any = true;
        }
    }
    add(text, "}");
}

static void write_json(struct text *text, const struct hak_stats *s) {
    write_json_process(text);
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        uint64_t value;
        memcpy(&value, (const char *)s + members[i].offset, sizeof value);
        add_member(text, members[i].name, value);
    }
    add_key(text, "bins");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        add(text, bin == 1 ? "[\n{\"size\": " : ",\n{\"size\": ");
        add_number(text, s->bins[bin].size, 0);
        add(text, ", \"slabs\": ");
        add_number(text, s->bins[bin].slabs, 0);
        add(text, ", \"live\": ");
        add_number(text, s->bins[bin].live, 0);
        add(text, ", \"cached\": ");
        add_number(text, s->bins[bin].cached, 0);
        add(text, ", \"free\": ");
        add_number(text, s->bins[bin].free_, 0);
        add(text, "}");
    }
    add(text, "]}\n");
}

typedef void writer(struct text *text, const struct hak_stats *s);

static HAK_NOINLINE HAK_COLD void write_from_stack(writer *write,
                                                   const struct statistics_sink *sink) {
    struct hak_stats stats;
    char buf[256];
    struct text text = {buf, sizeof buf, 0, sink};
    gather_on_stack(&stats);
    write(&text, &stats);
    hand_on(&text);
}

static void write_text(writer *write, const struct statistics_sink *sink) {
    struct scratch *scratch = take_scratch();
    if (HAK_UNLIKELY(scratch == NULL)) {
        write_from_stack(write, sink);
        return;
    }
    struct text text = {scratch->text, sizeof scratch->text, 0, sink};
    gather(&scratch->stats, &scratch->parts);
    write(&text, &scratch->stats);
    hand_on(&text);
    give_scratch(scratch);
}

void statistics_table(const struct statistics_sink *sink) {
    write_text(write_table, sink);
}

void statistics_lines(const struct statistics_sink *sink) {
    write_text(write_lines, sink);
}

void statistics_xml(const struct statistics_sink *sink) {
    write_text(write_xml, sink);
}

void statistics_json(const struct statistics_sink *sink) {
    write_text(write_json, sink);
}

// What hak_stats_json() has written so far.
struct buffer {
    char *at;
    size_t size, length; // the room, and what all of the text takes
};

static void write_to_buffer(void *to, const char *text, size_t size) {
    struct buffer *buffer = to;
    if (buffer->length + 1 < buffer->size) {
        memcpy(buffer->at + buffer->length, text, hak_min(size, buffer->size - 1 - buffer->length));
    }
    buffer->length += size;
}

__attribute__((visibility("default"))) size_t hak_stats_json(char *buf, size_t size) {
    struct buffer buffer = {buf, size, 0};
    statistics_json(&(struct statistics_sink){write_to_buffer, &buffer});
    if (size > 0) {
        buf[hak_min(buffer.length, size - 1)] = '\0';
    }
    return buffer.length;
}

// The name of the file that `pattern` stands for, into name[size]; *own says that it has the
// process's number in it. False if there is no room.
static bool file_name(const char *pattern, char *name, size_t size, bool *own) {
    struct statistics_sink none = {NULL, NULL};
    struct text text = {name, size, 0, &none};
    *own = false;
    for (; *pattern != '\0'; pattern++) {
        if (text.length + 16 > size) {
            return false;
        }
        if (pattern[0] == '%' && pattern[1] == 'p') {
            add_number(&text, (uint64_t)os_process(), 0);
            *own = true;
            pattern++;
        } else {
            add_bytes(&text, pattern, 1);
            pattern += pattern[0] == '%' && pattern[1] == '%';
        }
    }
    add_bytes(&text, "", 1);
    return true;
}

static void write_to_stderr(void *to, const char *text, size_t size) {
    (void)to;
    os_write_stderr(text, size);
}

static void write_to_file(void *to, const char *text, size_t size) {
    os_write_file(*(int *)to, text, size);
}

static HAK_NOINLINE HAK_COLD void write_file(const char *pattern, bool json) {
    static char name[1200]; // At the process's end there is one caller, and perhaps a small stack.
    bool own;
    // No number: a sandbox may not allow files either.
    if (os_process() == 0 || !file_name(pattern, name, sizeof name, &own) ||
        (process.forked && !own)) {
        return;
    }
    int file = os_create_file(name);
    if (file >= 0) {
        (json ? statistics_json
              : statistics_table)(&(struct statistics_sink){write_to_file, &file});
        os_close_file(file);
    }
}

void statistics_finish(void) {
    struct settings_stats wanted = settings_get_stats();
    if (settings_get(SETTING_STATS) == 0) {
        return;
    }
    if (wanted.file != NULL) {
        write_file(wanted.file, wanted.json);
    } else if (!process.forked) {
        (wanted.json ? statistics_json
                     : statistics_table)(&(struct statistics_sink){write_to_stderr, NULL});
    }
}
