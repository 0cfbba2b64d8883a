// SPDX-License-Identifier: Apache-2.0
#include "boxes/statistics/statistics.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/decay/decay.h"
#include "boxes/far_block/far_block.h"
#include "boxes/large_block/large_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/private_heap/private_heap.h"
#include "boxes/sampled_block/sampled_block.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/statistics/statistics_internal.h"
#include "boxes/superslab/superslab.h"
#include "boxes/thread_heap/thread_heap.h"

#include <string.h>

// The memory that a call works in: too much for a small stack.
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

// Returns NULL if there is no memory.
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

static void gather_slabs(struct hak_stats *stats, const struct superslab_stats *slabs) {
    stats->superslabs = slabs->superslabs;
    stats->tiny_slabs = slabs->tiny_slabs;
    stats->large_slabs = slabs->large_slabs;
    stats->private_slabs = slabs->private_slabs;
    stats->heap_slabs = slabs->heap_slabs;
    stats->homes = slabs->homes;
    stats->spare_slabs = slabs->spare_slabs;
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
    gather_slabs(stats, slabs);
    stats->private_live = private_heap_live();
    stats->clean = shared_pool_get_totals().clean;
    stats->metadata =
        slabs->superslabs * ARENA_SUPERSLAB_META + (slabs->heap_slabs << ARENA_SLAB_SHIFT);
    stats->far = far.bytes;
    stats->large_live = slabs->large_bytes + far.bytes;
    stats->large_blocks = slabs->large_blocks + far.blocks;
    stats->large_pages = slabs->large_pages + far.bytes;
    stats->large_slack = (slabs->large_slabs << ARENA_SLAB_SHIFT) - slabs->large_pages;
    stats->large_guards = slabs->large_guards;
    stats->large_quarantined = large_block_quarantined();
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
    // Sampled small blocks belong to the program like any other, but are in no slab.
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

// One function with two names, of which another library may hide this one.
extern __typeof(hak_stats) hak_stats
    __attribute__((alias("statistics_own"), visibility("default")));

void statistics_heap_of(const struct hak_stats *s, struct statistics_heap *heap) {
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
    statistics_heap_of(&stats, heap);
}

void statistics_get_heap(struct statistics_heap *heap) {
    struct scratch *scratch = take_scratch();
    if (HAK_LIKELY(scratch != NULL)) {
        gather(&scratch->stats, &scratch->parts);
        statistics_heap_of(&scratch->stats, heap);
        give_scratch(scratch);
    } else {
        get_heap_on_stack(heap);
    }
}

struct statistics_process statistics_process = {"?", "?", "?", 0, false};

void statistics_start(const char *program, const char *flavour, const char *version) {
    strncpy(statistics_process.program, program, sizeof statistics_process.program - 1);
    statistics_process.flavour = flavour;
    statistics_process.version = version;
    statistics_process.started_ms = os_now_ms();
}

void statistics_after_fork(void) {
    statistics_process.started_ms = os_now_ms();
    statistics_process.forked = true;
}

uint64_t statistics_uptime_ms(void) {
    return os_now_ms() - statistics_process.started_ms;
}

bool statistics_is_changed(enum setting setting) {
    return setting != SETTING_STATS && settings_get(setting) != settings_table[setting].preset;
}

typedef void writer(struct text *text, const struct hak_stats *s);

static HAK_NOINLINE HAK_COLD void write_from_stack(writer *write,
                                                   const struct statistics_sink *sink) {
    struct hak_stats stats;
    char buf[256];
    struct text text = {buf, sizeof buf, 0, sink};
    gather_on_stack(&stats);
    write(&text, &stats);
    text_hand_on(&text);
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
    text_hand_on(&text);
    give_scratch(scratch);
}

void statistics_table(const struct statistics_sink *sink) {
    write_text(statistics_write_table, sink);
}

void statistics_lines(const struct statistics_sink *sink) {
    write_text(statistics_write_lines, sink);
}

void statistics_xml(const struct statistics_sink *sink) {
    write_text(statistics_write_xml, sink);
}

void statistics_json(const struct statistics_sink *sink) {
    write_text(statistics_write_json, sink);
}

// The text that hak_stats_json() has written so far.
struct buffer {
    char *at;
    size_t size, length; // bytes of the buffer, and bytes of the whole text
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

// Builds the name of the file that `pattern` stands for in name[size]. Sets *own if the name has
// the process's number in it. Returns false if there is no room.
static bool file_name(const char *pattern, char *name, size_t size, bool *own) {
    struct statistics_sink none = {NULL, NULL};
    struct text text = {name, size, 0, &none};
    *own = false;
    for (; *pattern != '\0'; pattern++) {
        if (text.length + 16 > size) {
            return false;
        }
        if (pattern[0] == '%' && pattern[1] == 'p') {
            text_number(&text, (uint64_t)os_process(), 0);
            *own = true;
            pattern++;
        } else {
            text_bytes(&text, pattern, 1);
            pattern += pattern[0] == '%' && pattern[1] == '%';
        }
    }
    text_bytes(&text, "", 1);
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
    // Without a process number the process is in a sandbox, which may not allow files either.
    if (os_process() == 0 || !file_name(pattern, name, sizeof name, &own) ||
        (statistics_process.forked && !own)) {
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
    } else if (!statistics_process.forked) {
        (wanted.json ? statistics_json
                     : statistics_table)(&(struct statistics_sink){write_to_stderr, NULL});
    }
}
