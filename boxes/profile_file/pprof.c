// SPDX-License-Identifier: Apache-2.0
// pprof: writes profile.proto. The field numbers without names are those of its messages, in order.
#include "boxes/profile_file/writer.h"

#include "backends/os.h"
#include "boxes/base/digits.h"
#include "boxes/sampler/sampler.h"

#include <string.h>

enum { // fields of Profile
    PROFILE_SAMPLE_TYPE = 1,
    PROFILE_SAMPLE = 2,
    PROFILE_MAPPING = 3,
    PROFILE_LOCATION = 4,
    PROFILE_FUNCTION = 5,
    PROFILE_STRING = 6,
    PROFILE_DROP_FRAMES = 7,
    PROFILE_TIME = 9,
    PROFILE_PERIOD_TYPE = 11,
    PROFILE_PERIOD = 12,
    PROFILE_COMMENT = 13,
    PROFILE_DEFAULT_TYPE = 14,
};

enum {
    S_EMPTY,
    S_ALLOC_OBJECTS,
    S_COUNT,
    S_ALLOC_SPACE,
    S_BYTES,
    S_INUSE_OBJECTS,
    S_INUSE_SPACE,
    S_SPACE,
    S_DROP,
    S_COMMENT
};

static uint64_t put_string(struct profile_writer *w, const char *text, size_t size) {
    output_string(&w->out, PROFILE_STRING, text, size);
    return w->strings++;
}

static struct message *fresh(struct message *message) {
    message->used = 0;
    return message;
}

static void put_type(struct profile_writer *w, unsigned field, unsigned type, unsigned unit) {
    struct message *m = fresh(&w->message);
    message_number(m, 1, type);
    message_number(m, 2, unit);
    output_message(&w->out, field, m);
}

static void put_head(struct profile_writer *w) {
    static const char *const words[] = {
        [S_EMPTY] = "",
        [S_ALLOC_OBJECTS] = "alloc_objects",
        [S_COUNT] = "count",
        [S_ALLOC_SPACE] = "alloc_space",
        [S_BYTES] = "bytes",
        [S_INUSE_OBJECTS] = "inuse_objects",
        [S_INUSE_SPACE] = "inuse_space",
        [S_SPACE] = "space",
        // The functions between the program and the allocator, for pprof to drop.
        [S_DROP] = ("(malloc|calloc|realloc|reallocarray|memalign|aligned_alloc|posix_memalign|"
                    "valloc|pvalloc|operator new.*|_Zn[wa].*)"),
        [S_COMMENT] = "hakmem heap profile: bytes as asked for",
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        put_string(w, words[i], strlen(words[i]));
    }
    put_type(w, PROFILE_SAMPLE_TYPE, S_ALLOC_OBJECTS, S_COUNT);
    put_type(w, PROFILE_SAMPLE_TYPE, S_ALLOC_SPACE, S_BYTES);
    put_type(w, PROFILE_SAMPLE_TYPE, S_INUSE_OBJECTS, S_COUNT);
    put_type(w, PROFILE_SAMPLE_TYPE, S_INUSE_SPACE, S_BYTES);
    put_type(w, PROFILE_PERIOD_TYPE, S_SPACE, S_BYTES);
    output_number(&w->out, PROFILE_PERIOD, sampler_rate());
    output_number(&w->out, PROFILE_DROP_FRAMES, S_DROP);
    output_number(&w->out, PROFILE_COMMENT, S_COMMENT);
    output_number(&w->out, PROFILE_DEFAULT_TYPE, S_INUSE_SPACE);
    output_number(&w->out, PROFILE_TIME, os_wall_ns());
}

static void put_mappings(struct profile_writer *w) {
    for (size_t i = 0; i < w->symbols.mapping_count; i++) {
        const struct elf_mapping *mapping = &w->symbols.mappings[i];
        char id[2 * ELF_BUILD_ID_MOST];
        const char *id_end = hak_hex(id, mapping->build_id, mapping->build_id_size);
        uint64_t path = put_string(w, mapping->path, strlen(mapping->path));
        uint64_t build_id = put_string(w, id, (size_t)(id_end - id));
        struct message *m = fresh(&w->message);
        message_number(m, 1, i + 1);
        message_number(m, 2, mapping->start);
        message_number(m, 3, mapping->end);
        message_number(m, 4, mapping->offset);
        message_number(m, 5, path);
        message_number(m, 6, build_id);
        message_number(m, 7, 1); // has functions
        output_message(&w->out, PROFILE_MAPPING, m);
    }
}

static uint64_t put_function(struct profile_writer *w, const char *name, size_t length) {
    uint64_t text = put_string(w, name, length);
    struct message *m = fresh(&w->message);
    message_number(m, 1, ++w->functions);
    message_number(m, 2, text);
    message_number(m, 3, text);
    output_message(&w->out, PROFILE_FUNCTION, m);
    return w->functions;
}

static void put_location(struct profile_writer *w, uint64_t id, uintptr_t pc, uint64_t function) {
    struct message *m = fresh(&w->message);
    message_number(m, 1, id);
    message_number(m, 2, pc == 0 ? 0 : elf_symbols_mapping_of(&w->symbols, pc));
    message_number(m, 3, pc);
    if (function != 0) {
        struct message *line = fresh(&w->list);
        message_number(line, 1, function);
        message_bytes(m, 4, line->bytes, line->used);
    }
    output_message(&w->out, PROFILE_LOCATION, m);
}

// A location's number is its place among the names, from 1. The last one stands for addresses that
// are not known.
static void put_locations(struct profile_writer *w) {
    static const char unknown[] = "[unknown]";
    uintptr_t last = 0;
    for (size_t i = 0; i < w->count; i++) {
        const struct elf_name *name = &w->names[i];
        if (name->length != 0 && (name->start != last || w->functions == 0)) {
            put_function(w, name->name, name->length);
            last = name->start;
        }
        put_location(w, i + 1, name->pc, name->length != 0 ? w->functions : 0);
    }
    put_location(w, w->count + 1, 0, put_function(w, unknown, sizeof unknown - 1));
}

static void put_sample(void *to, struct heap_profile_stack *stack) {
    struct profile_writer *w = to;
    struct profile_values values = profile_values_of(stack);
    struct message *m = fresh(&w->message);
    struct message *list = fresh(&w->list);
    for (unsigned i = profile_own_calls(w, stack); i < stack->depth; i++) {
        message_packed(list, profile_place_of(w, profile_call_at(stack->pcs[i])) + 1);
    }
    if (stack->depth == 0) {
        message_packed(list, w->count + 1);
    }
    message_bytes(m, 1, list->bytes, list->used);
    list = fresh(&w->list);
    message_packed(list, values.allocated_objects);
    message_packed(list, values.allocated_bytes);
    message_packed(list, values.live_objects);
    message_packed(list, values.live_bytes);
    message_bytes(m, 2, list->bytes, list->used);
    output_message(&w->out, PROFILE_SAMPLE, m);
}

void profile_write_proto(struct profile_writer *w) {
    put_head(w);
    put_mappings(w);
    put_locations(w);
    heap_profile_each_stack(put_sample, w);
}
