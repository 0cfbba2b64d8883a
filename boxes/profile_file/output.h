// SPDX-License-Identifier: Apache-2.0
// output: bytes on their way into a file, gzipped or as they are. Part of the box.
//
// A gzip file of stored blocks: every reader of gzip takes it, and nothing has to be kept for a
// compressor.
#ifndef HAKMEM_BOXES_PROFILE_FILE_OUTPUT_H
#define HAKMEM_BOXES_PROFILE_FILE_OUTPUT_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { OUTPUT_BLOCK = 65535 };

struct output {
    int file;
    bool gzip, failed;
    uint32_t crc; // of all bytes so far, as gzip has it
    uint32_t size;
    size_t used;
    uint8_t block[OUTPUT_BLOCK];
};

void output_start(struct output *out, int file, bool gzip);
void output_bytes(struct output *out, const void *bytes, size_t size);
// Returns false if anything could not be written.
bool output_end(struct output *out);

// Protocol buffers. A message that is part of another is written into a buffer first.
struct message {
    size_t used;
    uint8_t bytes[4096];
};
void message_number(struct message *m, unsigned field, uint64_t value);
void message_bytes(struct message *m, unsigned field, const void *bytes, size_t size);
// Writes a number of a packed list; the list is a message of its own.
void message_packed(struct message *list, uint64_t value);

void output_message(struct output *out, unsigned field, const struct message *m);
void output_number(struct output *out, unsigned field, uint64_t value);
void output_string(struct output *out, unsigned field, const char *text, size_t size);
HAK_C_END

#endif
