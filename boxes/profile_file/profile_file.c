// SPDX-License-Identifier: Apache-2.0
#include "boxes/profile_file/profile_file.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/base/digits.h"
#include "boxes/elf_symbols/elf_symbols.h"
#include "boxes/heap_profile/heap_profile.h"
#include "boxes/profile_file/output.h"
#include "boxes/sampler/sampler.h"
#include "boxes/stack_trace/stack_trace.h"

#include <string.h>

// What a writer works with: a mapping of its own, as a thread's stack may be small.
struct writer {
    struct output out;
    struct message message, list;
    struct elf_symbols symbols;
    struct elf_name *names; // of each address once, sorted
    size_t count, room;
    uint64_t strings; // written so far
    uint64_t functions;
    bool full; // an address found no room
};

enum { WRITER_BYTES = (sizeof(struct writer) + HAK_PAGE - 1) / HAK_PAGE * HAK_PAGE };

static _Atomic(bool) at_work;

void profile_file_after_fork(void) {
    atomic_store(&at_work, false);
}

// --- Addresses

static void sift(struct elf_name *names, size_t at, size_t count) {
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= count) {
            return;
        }
        child += child + 1 < count && names[child].pc < names[child + 1].pc;
        if (names[at].pc >= names[child].pc) {
            return;
        }
        struct elf_name swap = names[at];
        names[at] = names[child];
        names[child] = swap;
        at = child;
    }
}

// Sorts the addresses, each once. By heap: qsort() may allocate.
static void settle(struct writer *w) {
    for (size_t i = w->count / 2; i-- > 0;) {
        sift(w->names, i, w->count);
    }
    for (size_t end = w->count; end-- > 1;) {
        struct elf_name swap = w->names[0];
        w->names[0] = w->names[end];
        w->names[end] = swap;
        sift(w->names, 0, end);
    }
    size_t kept = 0;
    for (size_t i = 0; i < w->count; i++) {
        if (kept == 0 || w->names[kept - 1].pc != w->names[i].pc) {
            w->names[kept++] = w->names[i];
        }
    }
    w->count = kept;
}

static bool widen(struct writer *w) {
    void *more;
    if (os_map(NULL, w->room * 2 * sizeof *w->names, &more) != OS_OK) {
        return false;
    }
    memcpy(more, w->names, w->count * sizeof *w->names);
    os_release(w->names, w->room * sizeof *w->names);
    w->names = more;
    w->room *= 2;
    return true;
}

// The address of the call that returns to `pc`: an instruction within it.
static uintptr_t call_at(uintptr_t pc) {
    return pc - 1;
}

static void collect(void *to, struct heap_profile_stack *stack) {
    struct writer *w = to;
    for (unsigned i = 0; i < stack->depth; i++) {
        if (w->count == w->room) {
            settle(w);
            if (w->count > w->room / 2 && !widen(w) && w->count == w->room) {
                w->full = true;
                return;
            }
        }
        w->names[w->count++] = (struct elf_name){.pc = call_at(stack->pcs[i])};
    }
}

// The place of an address among the names; the count if it is not there: a stack may be newer.
static size_t place_of(const struct writer *w, uintptr_t pc) {
    size_t low = 0, high = w->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (w->names[middle].pc < pc) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < w->count && w->names[low].pc == pc ? low : w->count;
}

// --- Sums

struct values {
    uint64_t allocated_objects, allocated_bytes, live_objects, live_bytes;
};

// What was freed first: what is freed meanwhile was allocated by then.
static struct values values_of(struct heap_profile_stack *stack) {
    uint64_t freed_objects = atomic_load(&stack->freed.objects);
    uint64_t freed_bytes = atomic_load(&stack->freed.bytes);
    uint64_t objects = atomic_load(&stack->allocated.objects);
    uint64_t bytes = atomic_load(&stack->allocated.bytes);
    return (struct values){
        .allocated_objects = sampler_whole(objects),
        .allocated_bytes = bytes,
        .live_objects = sampler_whole(objects - hak_min(objects, freed_objects)),
        .live_bytes = bytes - hak_min(bytes, freed_bytes),
    };
}

// --- profile.proto

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

static uint64_t put_string(struct writer *w, const char *text, size_t size) {
    output_string(&w->out, PROFILE_STRING, text, size);
    return w->strings++;
}

static struct message *fresh(struct message *message) {
    message->used = 0;
    return message;
}

static void put_type(struct writer *w, unsigned field, unsigned type, unsigned unit) {
    struct message *m = fresh(&w->message);
    message_number(m, 1, type);
    message_number(m, 2, unit);
    output_message(&w->out, field, m);
}

static void put_head(struct writer *w) {
    static const char *const words[] = {
        [S_EMPTY] = "",
        [S_ALLOC_OBJECTS] = "alloc_objects",
        [S_COUNT] = "count",
        [S_ALLOC_SPACE] = "alloc_space",
        [S_BYTES] = "bytes",
        [S_INUSE_OBJECTS] = "inuse_objects",
        [S_INUSE_SPACE] = "inuse_space",
        [S_SPACE] = "space",
        // What stands between the program and the allocator.
        [S_DROP] = "(malloc|calloc|realloc|reallocarray|memalign|aligned_alloc|posix_memalign|"
                   "valloc|pvalloc|operator new.*|_Zn[wa].*)",
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

static void put_mappings(struct writer *w) {
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

static uint64_t put_function(struct writer *w, const char *name, size_t length) {
    uint64_t text = put_string(w, name, length);
    struct message *m = fresh(&w->message);
    message_number(m, 1, ++w->functions);
    message_number(m, 2, text);
    message_number(m, 3, text);
    output_message(&w->out, PROFILE_FUNCTION, m);
    return w->functions;
}

static void put_location(struct writer *w, uint64_t id, uintptr_t pc, uint64_t function) {
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

// A location's number is its place among the names, from 1; the last is for what is not known.
static void put_locations(struct writer *w) {
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

// The allocator's own calls at the start of a stack, in a program that the library is linked into:
// those of a shared object were not taken.
static unsigned own_calls(const struct writer *w, const struct heap_profile_stack *stack) {
    static const char *const own[] = {
        "heap_profile_note",
        "sampled",
        "sample_large",
        "alloc_due",
        "alloc_unhit",
        "large",
        "slow_alloc",
        "slow_zero_alloc",
        "slow_aligned_alloc",
        "slow_grown_alloc",
        "slow_zero_aligned_alloc",
        "slow_sample_moved",
        "slow_resize",
        "resize",
        "move",
        "malloc",
        "calloc",
        "realloc",
        "get_aligned",
        "get_rounded",
        "memalign",
        "aligned_alloc",
        "posix_memalign",
    };
    unsigned count = 0;
    while (count + 1 < stack->depth) {
        size_t place = place_of(w, call_at(stack->pcs[count]));
        const struct elf_name *name = place < w->count ? &w->names[place] : NULL;
        size_t i = 0;
        while (name != NULL && i < sizeof own / sizeof *own &&
               (strlen(own[i]) != name->length || memcmp(own[i], name->name, name->length) != 0)) {
            i++;
        }
        // Any of these names may be the program's own, but for the innermost.
        if (name == NULL || i == sizeof own / sizeof *own || (count == 0 && i != 0)) {
            break;
        }
        count++;
    }
    return count;
}

static void put_sample(void *to, struct heap_profile_stack *stack) {
    struct writer *w = to;
    struct values values = values_of(stack);
    struct message *m = fresh(&w->message);
    struct message *list = fresh(&w->list);
    for (unsigned i = own_calls(w, stack); i < stack->depth; i++) {
        message_packed(list, place_of(w, call_at(stack->pcs[i])) + 1);
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

static void write_proto(struct writer *w) {
    put_head(w);
    put_mappings(w);
    put_locations(w);
    heap_profile_each_stack(put_sample, w);
}

// --- Folded stacks

static void put_text(struct writer *w, const char *text) {
    output_bytes(&w->out, text, strlen(text));
}

static void put_number(struct writer *w, uint64_t value, unsigned base) {
    char digits[HAK_DIGITS];
    char *end = digits + sizeof digits;
    char *at = hak_digits(end, value, base);
    output_bytes(&w->out, at, (size_t)(end - at));
}

// A frame: its function, or where it lies.
static void put_frame(struct writer *w, uintptr_t pc) {
    size_t place = place_of(w, pc);
    if (place < w->count && w->names[place].length != 0) {
        const struct elf_name *name = &w->names[place];
        for (unsigned i = 0; i < name->length; i++) {
            output_bytes(&w->out, name->name[i] == ';' ? ":" : &name->name[i], 1);
        }
        return;
    }
    size_t found = elf_symbols_mapping_of(&w->symbols, pc);
    const struct elf_mapping *mapping = found != 0 ? &w->symbols.mappings[found - 1] : NULL;
    if (mapping != NULL && mapping->path[0] != '\0') {
        const char *name = strrchr(mapping->path, '/');
        put_text(w, name != NULL ? name + 1 : mapping->path);
        put_text(w, "+0x");
        put_number(w, pc - mapping->start + mapping->offset, 16);
    } else {
        put_text(w, "0x");
        put_number(w, pc, 16);
    }
}

static void put_folded(struct writer *w, struct heap_profile_stack *stack, uint64_t bytes) {
    if (bytes == 0) {
        return;
    }
    unsigned own = own_calls(w, stack);
    for (unsigned i = stack->depth; i-- > own;) {
        put_frame(w, call_at(stack->pcs[i]));
        put_text(w, i == own ? "" : ";");
    }
    put_text(w, stack->depth == 0 ? "[unknown] " : " ");
    put_number(w, bytes, 10);
    put_text(w, "\n");
}

static void put_folded_live(void *to, struct heap_profile_stack *stack) {
    put_folded(to, stack, values_of(stack).live_bytes);
}

static void put_folded_allocated(void *to, struct heap_profile_stack *stack) {
    put_folded(to, stack, values_of(stack).allocated_bytes);
}

// --- Files

static bool ends_in(const char *path, const char *end) {
    size_t length = strlen(path), tail = strlen(end);
    return length >= tail && strcmp(path + length - tail, end) == 0;
}

static bool write_all(struct writer *w, const char *path, int file) {
    enum { FIRST_ROOM = 16384 };
    void *names;
    w->room = FIRST_ROOM;
    if (os_map(NULL, w->room * sizeof *w->names, &names) != OS_OK) {
        return false;
    }
    w->names = names;
    heap_profile_each_stack(collect, w);
    settle(w);
    bool done = elf_symbols_open(&w->symbols);
    if (done) {
        elf_symbols_name(&w->symbols, w->names, w->count);
        bool folded = ends_in(path, ".folded");
        output_start(&w->out, file, !folded);
        if (folded) {
            heap_profile_each_stack(
                ends_in(path, ".alloc.folded") ? put_folded_allocated : put_folded_live, w);
        } else {
            write_proto(w);
        }
        done = output_end(&w->out);
        elf_symbols_close(&w->symbols);
    }
    os_release(w->names, w->room * sizeof *w->names);
    return done;
}

static bool write_file(struct writer *w, const char *path) {
    char part[PROFILE_PATH_MOST + 8];
    bool direct = strncmp(path, "/dev/", strlen("/dev/")) == 0 || strlen(path) >= PROFILE_PATH_MOST;
    if (!direct) {
        strcpy(part, path);
        strcat(part, ".part");
    }
    int file = os_create_file(direct ? path : part);
    if (file < 0) {
        return false;
    }
    bool done = write_all(w, path, file);
    os_close_file(file);
    return done && (direct || os_rename_file(part, path));
}

bool profile_file_write(const char *path) {
    void *writer;
    if (atomic_exchange(&at_work, true)) {
        return false;
    }
    bool done = false;
    if (os_map(NULL, WRITER_BYTES, &writer) == OS_OK) {
        done = write_file(writer, path);
        os_release(writer, WRITER_BYTES);
    }
    atomic_store(&at_work, false);
    return done;
}

struct text {
    char *at;
    size_t left;
};

static void add_text(struct text *to, const char *from, size_t size) {
    size = hak_min(size, to->left);
    memcpy(to->at, from, size);
    to->at += size;
    to->left -= size;
}

static void add_number(struct text *to, uint64_t value) {
    char digits[HAK_DIGITS];
    char *end = digits + sizeof digits;
    char *at = hak_digits(end, value, 10);
    add_text(to, at, (size_t)(end - at));
}

// Where the extension of a name starts: the first dot of its last part that is not its first
// character.
static const char *extension_of(const char *path) {
    const char *name = strrchr(path, '/');
    name = name == NULL ? path : name + 1;
    const char *dot = *name == '\0' ? NULL : strchr(name + 1, '.');
    return dot == NULL ? path + strlen(path) : dot;
}

bool profile_file_name(const char *pattern, uint64_t nth, bool child, char *path) {
    struct text to = {path, PROFILE_PATH_MOST - 1};
    const char *mark = child && strstr(pattern, "%p") == NULL ? extension_of(pattern) : NULL;
    for (const char *at = pattern;; at++) {
        if (at == mark) {
            add_text(&to, ".", 1);
            add_number(&to, (uint64_t)os_process());
        }
        if (*at == '\0') {
            break;
        }
        if (*at != '%') {
            add_text(&to, at, 1);
            continue;
        }
        switch (*++at) {
        case 'p':
            add_number(&to, (uint64_t)os_process());
            break;
        case 't':
            add_number(&to, os_wall_ns() / 1000000000);
            break;
        case 'n':
            add_number(&to, nth);
            break;
        case '%':
            add_text(&to, "%", 1);
            break;
        default: // not for us
            add_text(&to, --at, 1);
        }
    }
    *to.at = '\0';
    return to.left > 0;
}
