#include "boxes/statistics/statistics.h"

#include "backends/os.h"
#include "boxes/decay/decay.h"
#include "boxes/far_block/far_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/private_heap/private_heap.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/superslab/superslab.h"
#include "boxes/thread_heap/thread_heap.h"

#include <stdarg.h>
#include <stdio.h>

void statistics_own(struct hak_stats *stats) {
    struct page_arena_stats arena;
    struct superslab_stats slabs;
    struct thread_heap_stats heaps;
    struct decay_stats decay;
    struct far_block_stats far = far_block_get_stats();
    page_arena_get_stats(&arena);
    superslab_get_stats(&slabs);
    thread_heap_get_stats(&heaps);
    decay_get_stats(&decay);
    *stats = (struct hak_stats){
        .superslabs = slabs.superslabs,
        .reserved = arena.reserved_bytes,
        .committed = arena.committed_bytes,
        .large_live = slabs.large_bytes + far.bytes,
        .large_blocks = slabs.large_blocks + far.blocks,
        .far = far.bytes,
        .dirty = arena.dirty_slabs << ARENA_SLAB_SHIFT,
        .clean = shared_pool_get_totals().clean,
        .metadata =
            slabs.superslabs * ARENA_SUPERSLAB_META + (slabs.heap_slabs << ARENA_SLAB_SHIFT),
        .tiny_slabs = slabs.tiny_slabs,
        .large_slabs = slabs.large_slabs,
        .private_live = private_heap_live(),
        .private_slabs = slabs.private_slabs,
        .heap_slabs = slabs.heap_slabs,
        .returned = (arena.purged_slabs << ARENA_SLAB_SHIFT) + (decay.pages << HAK_PAGE_SHIFT),
        .purges = decay.steps,
        .purge_ns = decay.ns,
        .purge_longest_ns = decay.longest,
        .moved = arena.moved_slabs << ARENA_SLAB_SHIFT,
        .os_calls = os_calls(),
        .refills = heaps.counts.refills,
        .refilled_blocks = heaps.counts.refilled,
        .spills = heaps.counts.spills,
        .spilled_blocks = heaps.counts.spilled,
        .heaps = heaps.heaps,
        .free_heaps = heaps.free_heaps,
    };
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        const struct size_class_bin *info = &size_class_bins[bin];
        size_t all = slabs.bin_slabs[bin] * info->blocks;
        size_t idle = slabs.bin_free[bin] + heaps.bin_cached[bin];
        stats->bins[bin].size = info->size;
        stats->bins[bin].slabs = slabs.bin_slabs[bin];
        stats->bins[bin].cached = heaps.bin_cached[bin];
        stats->bins[bin].free_ = slabs.bin_free[bin];
        stats->bins[bin].live = all > idle ? all - idle : 0;
        stats->tiny_live += stats->bins[bin].live * info->size;
        stats->tiny_cached += heaps.bin_cached[bin] * info->size;
        stats->tiny_free += slabs.bin_free[bin] * info->size;
    }
}

// One function by two names, of which the other library's may hide this one.
extern __typeof(hak_stats) hak_stats
    __attribute__((alias("statistics_own"), visibility("default")));

static void add(struct statistics_text *text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    size_t room = text->size - text->length;
    int n = vsnprintf(text->buf + text->length, room, format, args);
    va_end(args);
    if (n > 0) {
        text->length += hak_min((size_t)n, room - 1);
    }
}

static double mib(uint64_t bytes) {
    return (double)bytes / 1048576;
}

void statistics_table(struct statistics_text *text) {
    struct hak_stats s;
    hak_stats(&s);
    add(text, "hakmem statistics\n");
    add(text, "  SuperSlabs in use    %10zu\n", s.superslabs);
    add(text, "  reserved / committed %10.1f / %.1f MiB\n", mib(s.reserved), mib(s.committed));
    add(text, "  live: tiny / large   %10.1f / %.1f MiB (%zu large blocks)\n", mib(s.tiny_live),
        mib(s.large_live), s.large_blocks);
    add(text, "  cached / free blocks %10.1f / %.1f MiB\n", mib(s.tiny_cached), mib(s.tiny_free));
    add(text, "  free dirty slabs     %10.1f MiB\n", mib(s.dirty));
    add(text, "  given back           %10.1f MiB in %llu steps, %.3f ms, longest %.3f ms\n",
        mib(s.returned), (unsigned long long)s.purges, (double)s.purge_ns / 1e6,
        (double)s.purge_longest_ns / 1e6);
    add(text, "  moved, not copied    %10.1f MiB\n", mib(s.moved));
    add(text, "  slabs: tiny / large / heaps %zu / %zu / %zu\n", s.tiny_slabs, s.large_slabs,
        s.heap_slabs);
    add(text, "  refills / blocks     %10llu / %llu\n", (unsigned long long)s.refills,
        (unsigned long long)s.refilled_blocks);
    add(text, "  spills / blocks      %10llu / %llu\n", (unsigned long long)s.spills,
        (unsigned long long)s.spilled_blocks);
    add(text, "  thread heaps         %10zu, %zu free\n", s.heaps, s.free_heaps);
    add(text, "  system calls         %10llu\n", (unsigned long long)s.os_calls);
    add(text, "  %8s %8s %10s %10s %10s\n", "block B", "slabs", "live", "cached", "free");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        if (s.bins[bin].slabs != 0) {
            add(text, "  %8zu %8zu %10zu %10zu %10zu\n", s.bins[bin].size, s.bins[bin].slabs,
                s.bins[bin].live, s.bins[bin].cached, s.bins[bin].free_);
        }
    }
}

void statistics_xml(struct statistics_text *text) {
    struct hak_stats s;
    hak_stats(&s);
    add(text, "<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        if (s.bins[bin].slabs != 0) {
            add(text,
                "<size from=\"%zu\" to=\"%zu\" total=\"%zu\" count=\"%zu\" cached=\"%zu\" "
                "free=\"%zu\" slabs=\"%zu\"/>\n",
                bin > 1 ? s.bins[bin].size - (s.bins[bin].size - size_class_bins[bin - 1].size) + 1
                        : 1,
                s.bins[bin].size, s.bins[bin].live * s.bins[bin].size, s.bins[bin].live,
                s.bins[bin].cached, s.bins[bin].free_, s.bins[bin].slabs);
        }
    }
    add(text, "</sizes>\n");
    add(text, "<total type=\"tiny\" size=\"%zu\"/>\n", s.tiny_live);
    add(text, "<total type=\"cached\" size=\"%zu\"/>\n", s.tiny_cached);
    add(text, "<total type=\"free\" size=\"%zu\"/>\n", s.tiny_free);
    add(text, "<total type=\"large\" count=\"%zu\" size=\"%zu\"/>\n", s.large_blocks, s.large_live);
    add(text, "<total type=\"dirty\" size=\"%zu\"/>\n", s.dirty);
    add(text, "<total type=\"returned\" size=\"%llu\" count=\"%llu\" ns=\"%llu\"/>\n",
        (unsigned long long)s.returned, (unsigned long long)s.purges,
        (unsigned long long)s.purge_ns);
    add(text, "<superslabs count=\"%zu\"/>\n", s.superslabs);
    add(text, "<system type=\"current\" size=\"%zu\"/>\n", s.committed);
    add(text, "<aspace type=\"total\" size=\"%zu\"/>\n", s.reserved);
    add(text, "</heap>\n</malloc>\n");
}
