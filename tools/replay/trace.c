// SPDX-License-Identifier: Apache-2.0
#include "tools/replay/trace.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const unsigned char *chunk_at(const struct trace *trace, size_t index) {
    return trace->bytes + trace->header.header_bytes + index * trace->header.chunk_bytes;
}

// The first chunk of a lane from `index` on; trace->chunks if there is none.
static size_t find_chunk(const struct trace *trace, uint32_t lane, size_t index) {
    for (; index < trace->chunks; index++) {
        struct trace_chunk head;
        memcpy(&head, chunk_at(trace, index), sizeof head);
        if (head.mark == TRACE_CHUNK_MARK && head.lane == lane) {
            break;
        }
    }
    return index;
}

static void start_chunk(const struct trace *trace, struct trace_lane *lane, size_t index) {
    lane->chunk = index;
    lane->at = lane->end = NULL;
    if (index == trace->chunks) {
        return;
    }
    const unsigned char *chunk = chunk_at(trace, index);
    struct trace_chunk head;
    memcpy(&head, chunk, sizeof head);
    lane->at = chunk + sizeof head;
    lane->end =
        chunk + hak_min(trace->header.chunk_bytes, (size_t)(trace->bytes + trace->size - chunk));
    lane->unit = 0;
    lane->next = (struct trace_event){.thread = head.thread, .order = head.order, .ms = head.ms};
}

static bool read_number(struct trace_lane *lane, uint64_t *value) {
    uint64_t got = 0;
    for (unsigned shift = 0; shift < 64 && lane->at < lane->end; shift += 7) {
        unsigned char byte = *lane->at++;
        got |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = got;
            return true;
        }
    }
    return false;
}

// The head of a record. False if it is cut off, or none.
static bool read_head(struct trace_lane *lane, unsigned *kind) {
    if (lane->at == lane->end) {
        return false;
    }
    unsigned head = *lane->at++;
    *kind = head & TRACE_KIND;
    uint64_t gap = 0;
    uint64_t thread = lane->next.thread;
    uint64_t ms = 0;
    if (*kind == TRACE_END || head >= 2 * TRACE_TIME ||
        ((head & TRACE_ORDER) != 0 && !read_number(lane, &gap)) ||
        ((head & TRACE_THREAD) != 0 && !read_number(lane, &thread)) ||
        ((head & TRACE_TIME) != 0 && !read_number(lane, &ms))) {
        return false;
    }
    lane->next.order += gap + 1;
    lane->next.thread = (uint32_t)thread;
    lane->next.ms += ms;
    return true;
}

static bool read_record(struct trace_lane *lane) {
    unsigned kind;
    uint64_t align = 0;
    uint64_t size = 0;
    uint64_t step = 0;
    if (!read_head(lane, &kind)) {
        return false;
    }
    bool has_size = kind != TRACE_FREE && kind != TRACE_RESIZED;
    bool has_address = kind != TRACE_FAILED;
    if ((kind == TRACE_ALIGNED && !read_number(lane, &align)) ||
        (has_size && !read_number(lane, &size)) || (has_address && !read_number(lane, &step)) ||
        align >= 64) {
        return false;
    }
    lane->unit += step >> 1 ^ -(step & 1);
    lane->next.kind = (uint8_t)kind;
    lane->next.align = (uint8_t)align;
    lane->next.size = size;
    lane->next.unit = has_address ? lane->unit : 0;
    return true;
}

// To the next record of a lane, which may be in a later chunk.
static void advance(struct trace *trace, uint32_t number) {
    struct trace_lane *lane = &trace->lanes[number];
    while (lane->chunk != trace->chunks && !read_record(lane)) {
        start_chunk(trace, lane, find_chunk(trace, number, lane->chunk + 1));
    }
}

const char *trace_open_bytes(struct trace *trace, const void *bytes, size_t size) {
    *trace = (struct trace){.bytes = bytes, .size = size};
    if (size < sizeof trace->header) {
        return "too short for a trace";
    }
    memcpy(&trace->header, bytes, sizeof trace->header);
    struct trace_header *header = &trace->header;
    header->flavour[sizeof header->flavour - 1] = '\0';
    header->program[sizeof header->program - 1] = '\0';
    if (memcmp(header->magic, TRACE_MAGIC, sizeof header->magic) != 0) {
        return "not a trace";
    }
    if (header->version != TRACE_VERSION) {
        return "a trace of a version that is not known here";
    }
    if (header->header_bytes < sizeof *header || header->chunk_bytes < sizeof(struct trace_chunk)) {
        return "a trace whose header is damaged";
    }
    size_t rest = size > header->header_bytes ? size - header->header_bytes : 0;
    trace->chunks = rest / header->chunk_bytes;
    if (rest % header->chunk_bytes >= sizeof(struct trace_chunk)) {
        trace->chunks++; // cut off
    }
    for (uint32_t i = 0; i < TRACE_LANES; i++) {
        start_chunk(trace, &trace->lanes[i], find_chunk(trace, i, 0));
        advance(trace, i);
        if (trace->lanes[i].chunk != trace->chunks) {
            trace->going[trace->lanes_going++] = i;
        }
    }
    return NULL;
}

const char *trace_open(struct trace *trace, const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return "it cannot be opened";
    }
    struct stat file;
    void *bytes = MAP_FAILED;
    if (fstat(fd, &file) == 0 && file.st_size > 0) {
        bytes = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    close(fd);
    if (bytes == MAP_FAILED) {
        return "it cannot be read, or is empty";
    }
    return trace_open_bytes(trace, bytes, (size_t)file.st_size);
}

bool trace_next(struct trace *trace, struct trace_event *event) {
    if (trace->lanes_going == 0) {
        return false;
    }
    unsigned first = 0;
    for (unsigned i = 1; i < trace->lanes_going; i++) {
        if (trace->lanes[trace->going[i]].next.order <
            trace->lanes[trace->going[first]].next.order) {
            first = i;
        }
    }
    uint32_t number = trace->going[first];
    *event = trace->lanes[number].next;
    advance(trace, number);
    if (trace->lanes[number].chunk == trace->chunks) {
        trace->going[first] = trace->going[--trace->lanes_going];
    }
    return true;
}

void trace_close(struct trace *trace) {
    munmap((void *)(uintptr_t)trace->bytes, trace->size);
}
