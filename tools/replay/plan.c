// SPDX-License-Identifier: Apache-2.0
#include "tools/replay/plan.h"

#include <string.h>
#include <sys/mman.h>

static void *map(size_t size) {
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

// An array that grows; what is added is zero.
struct array {
    char *at;
    size_t mapped; // bytes
};

static bool grow(struct array *array, size_t bytes) {
    if (bytes <= array->mapped) {
        return true;
    }
    size_t size = hak_round_up(hak_max(bytes, array->mapped * 2), HAK_PAGE);
    void *at =
        array->at == NULL ? map(size) : mremap(array->at, array->mapped, size, MREMAP_MAYMOVE);
    if (at == NULL || at == MAP_FAILED) {
        return false;
    }
    array->at = at;
    array->mapped = size;
    return true;
}

static void drop(struct array *array) {
    if (array->at != NULL) {
        munmap(array->at, array->mapped);
    }
}

// A thread as its steps are written.
struct writer {
    struct plan_step *at, *end; // room for more; one step is kept for the link to them
    const struct plan_step *first;
    size_t room; // steps of the newest piece
    uint64_t marked;
    uint64_t ms;
    // A resize under way.
    bool resizing;
    bool known; // of a block that has a slot
    uint32_t slot;
    uint64_t unit, size;
};

struct slot {
    uint64_t size;
    uint64_t freed_at; // place in the order of all
    uint32_t next;     // in the queue of free slots
};

// A live block: its address's unit, 0 for none, and its slot.
struct entry {
    uint64_t unit;
    uint32_t slot;
};

struct maker {
    struct plan *plan;
    uint64_t place;        // in the order of all
    bool failed;           // no memory
    struct array numbers;  // uint32_t: of a thread's number in the trace, its index + 1
    struct array writers;  // struct writer
    struct array slots;    // struct slot
    struct array table;    // struct entry, a power of two of them
    size_t entries, used;  // of the table
    uint32_t first, last;  // queue of free slots
    bool queued;           // there are some
    char *memory, *end;    // for steps
    struct writer *writer; // of the event at hand
    uint32_t writer_index;
};

static struct slot *slot_at(const struct maker *m, uint32_t slot) {
    return (struct slot *)m->slots.at + slot;
}

// --- Steps

static struct plan_step *take_memory(struct maker *m, size_t steps) {
    enum { PIECE = 4 << 20 };
    size_t bytes = steps * sizeof(struct plan_step);
    if ((size_t)(m->end - m->memory) < bytes) {
        m->memory = map(PIECE);
        if (m->memory == NULL) {
            m->failed = true;
            m->end = NULL;
            return NULL;
        }
        m->end = m->memory + PIECE;
    }
    struct plan_step *at = (struct plan_step *)m->memory;
    m->memory += bytes;
    m->plan->bytes += bytes;
    return at;
}

static void write_step(struct maker *m, struct writer *writer, struct plan_step step) {
    enum { FIRST = 16, MOST = 4096 };
    if (writer->at == writer->end) {
        size_t room = writer->room == 0 ? FIRST : hak_min(writer->room * 2, MOST);
        struct plan_step *more = take_memory(m, room);
        if (more == NULL) {
            return;
        }
        if (writer->first == NULL) {
            writer->first = more;
        } else {
            *writer->at = (struct plan_step){.kind = PLAN_MORE, .next = more};
        }
        writer->room = room;
        writer->at = more;
        writer->end = more + room - 1;
    }
    *writer->at++ = step;
}

static void add(struct maker *m, enum plan_kind kind, uint32_t slot, uint64_t size,
                unsigned align) {
    write_step(m, m->writer,
               (struct plan_step){
                   .slot = slot, .kind = (uint8_t)kind, .align = (uint8_t)align, .size = size});
}

// --- Live blocks

static size_t place_of(const struct maker *m, uint64_t unit) {
    return hak_mix(unit) & (m->entries - 1);
}

static struct entry *find(const struct maker *m, uint64_t unit) {
    struct entry *table = (struct entry *)m->table.at;
    size_t at = place_of(m, unit);
    while (table[at].unit != 0 && table[at].unit != unit) {
        at = (at + 1) & (m->entries - 1);
    }
    return &table[at];
}

static bool make_table(struct maker *m, size_t entries) {
    struct array old = m->table;
    size_t count = m->entries;
    m->table = (struct array){.at = NULL};
    if (!grow(&m->table, entries * sizeof(struct entry))) {
        m->table = old;
        return false;
    }
    m->entries = entries;
    const struct entry *from = (const struct entry *)old.at;
    for (size_t i = 0; i < count; i++) {
        if (from[i].unit != 0) {
            *find(m, from[i].unit) = from[i];
        }
    }
    drop(&old);
    return true;
}

static void keep(struct maker *m, uint64_t unit, uint32_t slot) {
    if (m->used >= m->entries / 2 && !make_table(m, m->entries * 2)) {
        m->failed = true;
        return;
    }
    *find(m, unit) = (struct entry){unit, slot};
    m->used++;
}

// Takes an entry out, and moves those behind it that would not be found any more.
static void forget(struct maker *m, struct entry *entry) {
    struct entry *table = (struct entry *)m->table.at;
    size_t hole = (size_t)(entry - table);
    for (size_t at = hole;;) {
        at = (at + 1) & (m->entries - 1);
        if (table[at].unit == 0) {
            break;
        }
        size_t wanted = place_of(m, table[at].unit);
        if (((at - wanted) & (m->entries - 1)) >= ((at - hole) & (m->entries - 1))) {
            table[hole] = table[at];
            hole = at;
        }
    }
    table[hole].unit = 0;
    m->used--;
}

// --- Slots

// One that was given back a while ago, so that nobody waits for its last free.
static uint32_t take_slot(struct maker *m) {
    if (m->queued) {
        uint32_t slot = m->first;
        bool rested =
            m->plan->thread_count == 1 || slot_at(m, slot)->freed_at + 2 * PLAN_APART <= m->place;
        if (rested) {
            m->queued = slot != m->last;
            m->first = slot_at(m, slot)->next;
            return slot;
        }
    }
    uint32_t slot = m->plan->slots;
    if (!grow(&m->slots, (slot + (size_t)1) * sizeof(struct slot))) {
        m->failed = true;
        return 0;
    }
    m->plan->slots++;
    return slot;
}

static void give_slot(struct maker *m, uint32_t slot) {
    slot_at(m, slot)->freed_at = m->place;
    if (m->queued) {
        slot_at(m, m->last)->next = slot;
    } else {
        m->first = slot;
    }
    m->last = slot;
    m->queued = true;
}

// --- Events

static void count_live(struct plan *plan, uint64_t more, uint64_t less) {
    plan->live_bytes += more - less;
    plan->peak_bytes = plan->live_bytes > plan->peak_bytes ? plan->live_bytes : plan->peak_bytes;
}

static void free_entry(struct maker *m, struct entry *entry) {
    uint32_t slot = entry->slot;
    forget(m, entry);
    add(m, PLAN_FREE, slot, 0, 0);
    count_live(m->plan, 0, slot_at(m, slot)->size);
    m->plan->live--;
    give_slot(m, slot);
}

// A block that is there already was freed where the recorder did not see it.
static void free_unseen(struct maker *m, uint64_t unit) {
    struct entry *entry = find(m, unit);
    if (entry->unit != 0) {
        free_entry(m, entry);
    }
}

static void allocate(struct maker *m, enum plan_kind kind, uint64_t unit, uint64_t size,
                     unsigned align) {
    free_unseen(m, unit);
    uint32_t slot = take_slot(m);
    if (m->failed || unit == 0) {
        return;
    }
    keep(m, unit, slot);
    slot_at(m, slot)->size = size;
    add(m, kind, slot, size, align);
    count_live(m->plan, size, 0);
    m->plan->live++;
    m->plan->allocated += size;
}

static void begin_resize(struct maker *m, const struct trace_event *event) {
    struct writer *writer = m->writer;
    struct entry *entry = find(m, event->unit);
    writer->resizing = true;
    writer->unit = event->unit;
    writer->size = event->size;
    writer->known = entry->unit != 0;
    if (writer->known) {
        writer->slot = entry->slot;
        forget(m, entry);
    } else {
        m->plan->unknown++;
    }
}

// `unit` is that of the new block, or of the old one where there is no new one.
static void end_resize(struct maker *m, uint64_t unit, bool done) {
    struct writer *writer = m->writer;
    bool resizing = writer->resizing;
    writer->resizing = false;
    if (!resizing || (!writer->known && !done)) {
        return;
    }
    if (!writer->known) {
        allocate(m, PLAN_MALLOC, unit, writer->size, 0);
        return;
    }
    free_unseen(m, unit);
    keep(m, unit, writer->slot);
    if (!done || m->failed || unit == 0) {
        return;
    }
    struct slot *slot = slot_at(m, writer->slot);
    count_live(m->plan, writer->size, slot->size);
    slot->size = writer->size;
    m->plan->allocated += writer->size;
    add(m, PLAN_RESIZE, writer->slot, writer->size, 0);
}

// The writer of the event's thread. A new thread is started by the thread that was last.
static void set_writer(struct maker *m, const struct trace_event *event) {
    enum { MOST = 1 << 24 };
    uint32_t number = event->thread;
    if (number >= MOST || !grow(&m->numbers, (number + (size_t)1) * sizeof(uint32_t))) {
        m->failed = true;
        return;
    }
    uint32_t *index = (uint32_t *)m->numbers.at + number;
    if (*index == 0) {
        uint32_t count = m->plan->thread_count;
        if (!grow(&m->writers, (count + (size_t)1) * sizeof(struct writer))) {
            m->failed = true;
            return;
        }
        *index = ++m->plan->thread_count;
        m->writer = (struct writer *)m->writers.at + m->writer_index;
        if (count != 0) {
            add(m, PLAN_START, count, m->place, 0);
            m->writer->marked = m->place;
        }
        ((struct writer *)m->writers.at)[count].marked = m->place;
    }
    m->writer_index = *index - 1;
    m->writer = (struct writer *)m->writers.at + m->writer_index;
}

static void add_event(struct maker *m, const struct trace_event *event) {
    struct plan *plan = m->plan;
    set_writer(m, event);
    if (m->failed) {
        return;
    }
    if (plan->thread_count > 1 && m->place - m->writer->marked >= PLAN_MARKS) {
        m->writer->marked = m->place;
        add(m, PLAN_MARK, 0, m->place, 0);
    }
    if (event->ms > m->writer->ms) {
        m->writer->ms = event->ms;
        add(m, PLAN_WAIT, 0, event->ms, 0);
    }
    plan->ms = event->ms > plan->ms ? event->ms : plan->ms;
    struct entry *entry;
    switch (event->kind) {
    case TRACE_MALLOC:
        plan->mallocs++;
        allocate(m, PLAN_MALLOC, event->unit, event->size, 0);
        break;
    case TRACE_CALLOC:
        plan->callocs++;
        allocate(m, PLAN_CALLOC, event->unit, event->size, 0);
        break;
    case TRACE_ALIGNED:
        plan->aligned++;
        allocate(m, PLAN_ALIGNED, event->unit, event->size, event->align);
        break;
    case TRACE_FREE:
        plan->frees++;
        entry = find(m, event->unit);
        if (entry->unit != 0) {
            free_entry(m, entry);
        } else {
            plan->unknown++;
        }
        break;
    case TRACE_RESIZE:
        plan->resizes++;
        begin_resize(m, event);
        break;
    case TRACE_RESIZED:
        end_resize(m, event->unit, true);
        break;
    default:
        plan->failed++;
        end_resize(m, m->writer->unit, false);
        break;
    }
}

static bool finish(struct maker *m) {
    struct plan *plan = m->plan;
    plan->threads = map(hak_max(plan->thread_count, 1) * sizeof *plan->threads);
    if (plan->threads == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < plan->thread_count; i++) {
        struct writer *writer = (struct writer *)m->writers.at + i;
        write_step(m, writer, (struct plan_step){.kind = PLAN_END});
        plan->threads[i] = writer->first;
    }
    return !m->failed;
}

bool plan_make(struct plan *plan, struct trace *trace) {
    enum { ENTRIES = 1 << 12 };
    *plan = (struct plan){.slots = 0};
    struct maker m = {.plan = plan};
    bool made = make_table(&m, ENTRIES);
    struct trace_event event;
    while (made && !m.failed && trace_next(trace, &event)) {
        m.place++;
        add_event(&m, &event);
    }
    plan->events = m.place;
    made = made && !m.failed && finish(&m);
    drop(&m.numbers);
    drop(&m.writers);
    drop(&m.slots);
    drop(&m.table);
    return made;
}
