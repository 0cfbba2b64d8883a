// SPDX-License-Identifier: Apache-2.0
#include "boxes/recorder/recorder.h"

#include "backends/os.h"

#include <string.h>

bool recorder_on;

static __thread struct {
    uint32_t number; // of the thread, from 1; 0: it has none yet
    bool busy;       // a call is being recorded
} self __attribute__((tls_model("initial-exec")));

static _Atomic(uint32_t) threads;

// One thread at a time has a lane and its fields.
static struct lane {
    alignas(HAK_CACHE_LINE) _Atomic(bool) taken;
    struct trace_chunk *chunk; // NULL: there is none yet
    size_t used;               // bytes used in the chunk
    uint32_t chunks;           // chunks begun so far
    // The values of the last record, from which the next one differs; see trace_format.h.
    uint32_t thread;
    uint64_t order;
    uint64_t ms;
    uint64_t unit;
} lanes[TRACE_LANES];

enum file_state { FILE_NONE, FILE_BEING_MADE, FILE_MADE };
static _Atomic(int) state;
static struct {
    char path[RECORDER_PATH_MOST];
    struct trace_header about;
    struct trace_header *header; // in the file
    uint64_t started_ms;
    _Atomic(uint64_t) order; // of the newest record
    _Atomic(uint32_t) chunks;
} file;

static void stop(void) {
    HAK_POKE(&recorder_on, false);
    if (file.header != NULL) {
        HAK_POKE(&file.header->stopped, 1);
    }
}

static bool make_file(void) {
    int fd = os_create_file(file.path);
    if (fd < 0) {
        return false;
    }
    os_close_file(fd);
    struct trace_header *header = os_map_part(file.path, 0, TRACE_HEADER_BYTES);
    if (header == NULL) {
        return false;
    }
    file.about.version = TRACE_VERSION;
    file.about.header_bytes = TRACE_HEADER_BYTES;
    file.about.chunk_bytes = TRACE_CHUNK_BYTES;
    file.about.process = (uint32_t)os_process();
    file.about.wall_ns = os_wall_ns();
    *header = file.about;
    atomic_signal_fence(memory_order_seq_cst);
    memcpy(header->magic, TRACE_MAGIC, sizeof header->magic);
    file.started_ms = os_now_ms();
    file.header = header;
    return true;
}

// Returns true if there is a file to write to. While one thread makes the file, others do not
// record. A child may be forked in that moment; it records from its first call on.
static bool has_file(void) {
    int seen = atomic_load_explicit(&state, memory_order_acquire);
    if (HAK_LIKELY(seen == FILE_MADE)) {
        return true;
    }
    if (seen == FILE_NONE && atomic_compare_exchange_strong(&state, &seen, FILE_BEING_MADE)) {
        bool made = make_file();
        if (!made) {
            stop();
        }
        atomic_store(&state, made ? FILE_MADE : FILE_NONE);
        return made;
    }
    return false;
}

static void copy_text(char *to, const char *from, size_t size) {
    size_t length = hak_min(strlen(from), size - 1);
    memcpy(to, from, length);
    to[length] = '\0';
}

bool recorder_start(const char *path, const char *program, const char *flavour) {
    copy_text(file.path, path, sizeof file.path);
    copy_text(file.about.program, program, sizeof file.about.program);
    copy_text(file.about.flavour, flavour, sizeof file.about.flavour);
    HAK_POKE(&recorder_on, true);
    return has_file();
}

// In a child, lanes hold the parent's chunks. A lane whose thread was just changing its chunk keeps
// a mapping that nobody writes to.
void recorder_after_fork(const char *path) {
    if (!recorder_is_on()) {
        return;
    }
    for (struct lane *lane = lanes; lane < lanes + TRACE_LANES; lane++) {
        if (lane->chunk != NULL) {
            os_release(lane->chunk, TRACE_CHUNK_BYTES);
        }
        *lane = (struct lane){.chunk = NULL};
    }
    if (file.header != NULL) {
        os_release(file.header, TRACE_HEADER_BYTES);
        file.header = NULL;
    }
    atomic_store(&file.order, 0);
    atomic_store(&file.chunks, 0);
    copy_text(file.path, path, sizeof file.path);
    self.busy = false;
    atomic_store(&state, FILE_NONE);
    HAK_POKE(&recorder_on, path[0] != '\0');
}

bool recorder_enters_recording(void) {
    if (self.busy || !has_file()) {
        return false;
    }
    if (HAK_UNLIKELY(self.number == 0)) {
        self.number = atomic_fetch_add(&threads, 1) + 1;
    }
    self.busy = true;
    return true;
}

void recorder_leaves(void) {
    self.busy = false;
}

// --- Records

struct record {
    unsigned char bytes[TRACE_RECORD_MOST];
    unsigned used;
};

static void add_number(struct record *to, uint64_t value) {
    while (value >= 0x80) {
        to->bytes[to->used++] = (unsigned char)(value | 0x80);
        value >>= 7;
    }
    to->bytes[to->used++] = (unsigned char)value;
}

static void add_address(struct record *to, struct lane *lane, const void *block) {
    uint64_t unit = (uintptr_t)block >> TRACE_UNIT;
    uint64_t step = unit - lane->unit;
    uint64_t sign = -(step >> 63);
    lane->unit = unit;
    add_number(to, step << 1 ^ sign);
}

// Takes a chunk of the file for the lane, whose next record has this order. Returns false if there
// is none.
static bool begin_chunk(struct lane *lane, uint64_t order, uint64_t ms) {
    struct trace_chunk *old = lane->chunk;
    lane->chunk = NULL;
    if (old != NULL) {
        os_release(old, TRACE_CHUNK_BYTES);
    }
    uint64_t index = atomic_fetch_add(&file.chunks, 1);
    struct trace_chunk *chunk =
        os_map_part(file.path, TRACE_HEADER_BYTES + index * TRACE_CHUNK_BYTES, TRACE_CHUNK_BYTES);
    if (chunk == NULL) {
        stop();
        return false;
    }
    chunk->lane = (uint32_t)(lane - lanes);
    chunk->number = lane->chunks++;
    chunk->thread = lane->thread = self.number;
    chunk->order = lane->order = order - 1;
    chunk->ms = lane->ms = ms;
    lane->unit = 0;
    lane->used = sizeof *chunk;
    __atomic_store_n(&chunk->mark, TRACE_CHUNK_MARK, __ATOMIC_RELEASE);
    lane->chunk = chunk;
    return true;
}

// Writes the head of a record, with those fields that differ from the record before.
static void add_head(struct record *to, struct lane *lane, enum trace_kind kind, uint64_t order,
                     uint64_t ms) {
    unsigned head = (unsigned)kind;
    to->used = 1;
    if (order != lane->order + 1) {
        head |= TRACE_ORDER;
        add_number(to, order - lane->order - 1);
    }
    if (self.number != lane->thread) {
        head |= TRACE_THREAD;
        add_number(to, self.number);
    }
    if (ms != lane->ms) {
        head |= TRACE_TIME;
        add_number(to, ms - lane->ms);
    }
    to->bytes[0] = (unsigned char)head;
    lane->order = order;
    lane->thread = self.number;
    lane->ms = ms;
}

static struct lane *take_lane(void) {
    enum { TRIES = 1 << 16 };
    for (unsigned i = 0; i < TRIES; i++) {
        struct lane *lane = &lanes[(self.number + i) % TRACE_LANES];
        if (!atomic_load_explicit(&lane->taken, memory_order_relaxed) &&
            !atomic_exchange(&lane->taken, true)) {
            return lane;
        }
    }
    __atomic_fetch_add(&file.header->lost, 1, __ATOMIC_RELAXED);
    return NULL;
}

// The fields that a record of a kind has: an alignment, a size, an address.
enum { HAS_ALIGN = 1, HAS_SIZE = 2, HAS_ADDRESS = 4 };
static const unsigned char has[TRACE_KINDS] = {
    [TRACE_MALLOC] = HAS_SIZE | HAS_ADDRESS,
    [TRACE_CALLOC] = HAS_SIZE | HAS_ADDRESS,
    [TRACE_ALIGNED] = HAS_ALIGN | HAS_SIZE | HAS_ADDRESS,
    [TRACE_FREE] = HAS_ADDRESS,
    [TRACE_RESIZE] = HAS_SIZE | HAS_ADDRESS,
    [TRACE_RESIZED] = HAS_ADDRESS,
    [TRACE_FAILED] = HAS_SIZE,
};

static void note(enum trace_kind kind, const void *block, size_t size, size_t align) {
    struct lane *lane = take_lane();
    if (lane == NULL) {
        return;
    }
    // In this order, so that the clock of a lane's records does not go back.
    uint64_t order = atomic_fetch_add(&file.order, 1) + 1;
    uint64_t ms = hak_max(os_now_ms() - file.started_ms, lane->ms);
    bool room = lane->chunk != NULL && lane->used + TRACE_RECORD_MOST < TRACE_CHUNK_BYTES;
    if (HAK_LIKELY(room) || begin_chunk(lane, order, ms)) {
        struct record record;
        add_head(&record, lane, kind, order, ms);
        if ((has[kind] & HAS_ALIGN) != 0) {
            add_number(&record, hak_log2(align));
        }
        if ((has[kind] & HAS_SIZE) != 0) {
            add_number(&record, size);
        }
        if ((has[kind] & HAS_ADDRESS) != 0) {
            add_address(&record, lane, block);
        }
        unsigned char *at = (unsigned char *)lane->chunk + lane->used;
        memcpy(at + 1, record.bytes + 1, record.used - 1);
        __atomic_store_n(at, record.bytes[0], __ATOMIC_RELEASE);
        lane->used += record.used;
    }
    atomic_store_explicit(&lane->taken, false, memory_order_release);
}

void recorder_allocated(enum trace_kind kind, const void *block, size_t size, size_t align) {
    note(block == NULL ? TRACE_FAILED : kind, block, size, align);
}

void recorder_frees(const void *block) {
    note(TRACE_FREE, block, 0, 0);
}

void recorder_resizes(const void *block, size_t size) {
    note(TRACE_RESIZE, block, size, 0);
}

void recorder_resized(const void *block) {
    note(block == NULL ? TRACE_FAILED : TRACE_RESIZED, block, 0, 0);
}
