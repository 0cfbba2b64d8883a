// SPDX-License-Identifier: Apache-2.0
// trace: reads what boxes/recorder has written (trace_format.h), whole or cut off anywhere.
//
// Nothing here uses malloc. Not thread-safe.
#ifndef HAKMEM_TOOLS_REPLAY_TRACE_H
#define HAKMEM_TOOLS_REPLAY_TRACE_H

#include "boxes/recorder/trace_format.h"

HAK_C_BEGIN

struct trace_event {
    uint64_t order;
    uint64_t unit; // the address, in units of 1 << TRACE_UNIT bytes; 0: the kind has none
    uint64_t size; // as of trace_kind; 0: the kind has none
    uint64_t ms;   // since the recording began
    uint32_t thread;
    uint8_t kind;
    uint8_t align; // log2
};

// Where the reading of a lane stands.
struct trace_lane {
    const unsigned char *at, *end; // what is left of the chunk
    size_t chunk;                  // its index; that of no chunk: the lane is at its end
    uint64_t unit;
    struct trace_event next;
};

struct trace {
    const unsigned char *bytes;
    size_t size;
    size_t chunks;
    struct trace_header header;
    struct trace_lane lanes[TRACE_LANES];
    uint32_t going[TRACE_LANES]; // the lanes that are not at their end
    unsigned lanes_going;
};

// Opens a file for reading from its start. NULL if that worked, else what is wrong with it.
const char *trace_open(struct trace *trace, const char *path);
// The same for bytes in memory, which are to stay there.
const char *trace_open_bytes(struct trace *trace, const void *bytes, size_t size);

// For one that trace_open() has opened.
void trace_close(struct trace *trace);

// The next event in the order of all; false at the end.
bool trace_next(struct trace *trace, struct trace_event *event);
HAK_C_END

#endif
