// SPDX-License-Identifier: Apache-2.0
// trace_format: the format of a recording, version 1. Numbers are little-endian.
//
//     header   struct trace_header, TRACE_HEADER_BYTES with the zeros behind it
//     chunk 0  struct trace_chunk, then records, then zeros; TRACE_CHUNK_BYTES
//     chunk 1  ...
//
// A chunk belongs to one of a few lanes, and the chunks of a lane are numbered. A chunk whose mark
// is 0 was not begun. Records of a lane are in the order of the calls. Each record has an order
// number, which gives the order over all lanes. A record is complete or not there at all: its first
// byte is written last, and a first byte of 0 ends the chunk. So a trace can be read at any time,
// even if the process was killed.
//
// A record is a byte, enum trace_kind with TRACE_ bits above it, and then numbers of as many bytes
// as they need (7 bits a byte, the lowest first, the high bit: more follow):
//
//     if TRACE_ORDER    how many order numbers, which other lanes have, come before this record's
//     if TRACE_THREAD   the thread, from 1; else it is that of the lane's last record
//     if TRACE_TIME     milliseconds since the lane's last record, a few ms coarse
//     then              the numbers of the kind (see enum trace_kind)
//
// An ADDRESS is the difference to the lane's last address, in units of 16 bytes, with the sign in
// the lowest bit. At a chunk's start the last address is 0, and the last thread, order and time are
// in the chunk's header (its `order` is that of the record before the first one).
//
// An allocation is recorded after it is done, and a free before it is done, so in the order over
// all lanes no address is allocated before it is free. A resize is two records of one thread: a
// RESIZE, which frees the old block, and a RESIZED, which allocates the new one, or says that the
// block stayed.
#ifndef HAKMEM_BOXES_RECORDER_TRACE_FORMAT_H
#define HAKMEM_BOXES_RECORDER_TRACE_FORMAT_H

#include "boxes/base/base.h"

HAK_C_BEGIN

#define TRACE_MAGIC "hakTRACE"

enum {
    TRACE_VERSION = 1,
    TRACE_HEADER_BYTES = 4096,
    TRACE_CHUNK_BYTES = 64 << 10,
    TRACE_CHUNK_MARK = 0x434b4148, // "HAKC"
    TRACE_UNIT = 4,                // addresses are multiples of 2^4 bytes
    TRACE_LANES = 64,
    TRACE_RECORD_MOST = 64, // no record has more bytes
};

enum trace_kind {
    TRACE_END,     // the end of the chunk
    TRACE_MALLOC,  // size, ADDRESS; also operator new
    TRACE_CALLOC,  // total size, ADDRESS
    TRACE_ALIGNED, // log2 of the alignment, size, ADDRESS
    TRACE_FREE,    // ADDRESS; also delete, and realloc() to 0
    TRACE_RESIZE,  // size, ADDRESS of the old block
    TRACE_RESIZED, // ADDRESS of the new block; a difference of 0 after a RESIZE: the same place
    TRACE_FAILED,  // size of an allocation that returned NULL, or 0 for a resize that did
    TRACE_KINDS,
};

enum {
    TRACE_KIND = 7, // bits of the kind
    TRACE_ORDER = 8,
    TRACE_THREAD = 16,
    TRACE_TIME = 32,
};

struct trace_header {
    char magic[8]; // TRACE_MAGIC, without a 0 behind it; written last
    uint32_t version, header_bytes, chunk_bytes;
    uint32_t process;
    uint64_t wall_ns; // when the recording began, since 1970
    uint64_t lost;    // calls that could not be recorded
    uint32_t stopped; // 1: the file could not grow, and recording has ended there
    uint32_t unused_;
    char flavour[48];
    char program[64]; // its name; both end in 0
};

struct trace_chunk {
    uint32_t mark; // TRACE_CHUNK_MARK; written last
    uint32_t lane;
    uint32_t number; // of the lane's chunks, from 0
    uint32_t thread;
    uint64_t order;
    uint64_t ms; // since the recording began
};
HAK_C_END

#endif
