// SPDX-License-Identifier: Apache-2.0
#include "fronts/libc/leaks.h"

#include "backends/os.h"
#include "boxes/heap_profile/heap_profile.h"
#include "boxes/leak_scan/leak_scan.h"
#include "boxes/sampler/sampler.h"
#include "boxes/stack_report/stack_report.h"

// Lost blocks that one stack of calls allocated.
struct lost {
    struct heap_profile_stack *stack;
    uint64_t objects,
        bytes; // `objects` is a fixed-point number with SAMPLER_FRACTION fraction bits
};

struct leaks {
    struct stack_report report;
    struct lost all, reached;
    size_t count,
        room;        // entries in use, and all entries, of `lost`, a table by the stack's address
    size_t left_out; // stacks for which the table had no room
    struct lost lost[];
};

static void add(struct lost *sum, const struct heap_profile_sample *sample) {
    uint64_t objects, bytes;
    heap_profile_weigh(sample, &objects, &bytes);
    sum->objects += objects;
    sum->bytes += bytes;
}

static void visit(void *to, const struct heap_profile_sample *sample, bool reached) {
    struct leaks *leaks = to;
    if (reached) {
        add(&leaks->reached, sample);
        return;
    }
    add(&leaks->all, sample);
    size_t at = hak_hash((uintptr_t)sample->stack) % leaks->room;
    for (size_t i = 0; i < leaks->room; i++, at = (at + 1) % leaks->room) {
        struct lost *lost = &leaks->lost[at];
        leaks->count += lost->stack == NULL;
        if (lost->stack == NULL || lost->stack == sample->stack) {
            lost->stack = sample->stack;
            add(lost, sample);
            return;
        }
    }
}

// Writes "about 300 bytes in 2 blocks", or "300 bytes in 2 blocks" if every block was sampled.
static void put_sum(struct stack_report *report, const struct lost *sum) {
    stack_report_text(report, sampler_rate() == 1 ? "" : "about ");
    stack_report_count(report, sum->bytes, "byte");
    stack_report_text(report, " in ");
    stack_report_count(report, sampler_whole(sum->objects), "block");
}

static void put_lost(struct stack_report *report, const struct lost *lost) {
    stack_report_text(report, "leak of ");
    put_sum(report, lost);
    stack_report_text(report, ", allocated by");
    stack_report_end_line(report);
    stack_report_stack(report, lost->stack->pcs, lost->stack->depth, false);
}

// Writes the lost blocks of each stack, the largest sum first.
static void put_all(struct leaks *leaks) {
    enum { SHOWN = 100 };
    for (size_t shown = 0; shown < leaks->count && shown < SHOWN; shown++) {
        struct lost *largest = NULL;
        for (size_t i = 0; i < leaks->room; i++) {
            struct lost *lost = &leaks->lost[i];
            if (lost->stack != NULL && (largest == NULL || lost->bytes > largest->bytes)) {
                largest = lost;
            }
        }
        put_lost(&leaks->report, largest);
        largest->stack = NULL;
    }
    if (leaks->count > SHOWN) {
        stack_report_text(&leaks->report, "and leaks by ");
        stack_report_count(&leaks->report, leaks->count - SHOWN, "more stack");
        stack_report_end_line(&leaks->report);
    }
}

static void report(struct leaks *leaks) {
    struct stack_report *out = &leaks->report;
    if (!leak_scan(visit, leaks)) {
        stack_report_text(out, "leaks: the process's memory cannot be searched");
        stack_report_end_line(out);
        return;
    }
    if (leaks->count != 0) {
        stack_report_text(out, "leaks: ");
        put_sum(out, &leaks->all);
    } else if (sampler_rate() == 1) {
        stack_report_text(out, "no leaks");
    } else {
        stack_report_text(out, "no leaks among sampled blocks (HAKMEM_PROFILE_RATE=1 samples all)");
    }
    stack_report_text(out, "; still reachable: ");
    put_sum(out, &leaks->reached);
    stack_report_end_line(out);
    put_all(leaks);
}

void leaks_report(void) {
    struct heap_profile_stats stats;
    heap_profile_get_stats(&stats);
    size_t room = stats.stacks * 2 + 64;
    size_t size = hak_round_up(sizeof(struct leaks) + room * sizeof(struct lost), HAK_PAGE);
    void *at;
    if (os_map(NULL, size, &at) != OS_OK) {
        return;
    }
    struct leaks *leaks = at;
    leaks->room = room;
    stack_report_open(&leaks->report);
    report(leaks);
    stack_report_close(&leaks->report);
    os_release(at, size);
}
