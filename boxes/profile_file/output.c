// SPDX-License-Identifier: Apache-2.0
#include "boxes/profile_file/output.h"

#include "backends/os.h"

#include <string.h>

// Takes four bits in each step, so the table is small enough to be written down.
static uint32_t crc_of(uint32_t crc, const uint8_t *bytes, size_t size) {
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    for (size_t i = 0; i < size; i++) {
        crc = table[(crc ^ bytes[i]) & 15] ^ crc >> 4;
        crc = table[(crc ^ bytes[i] >> 4) & 15] ^ crc >> 4;
    }
    return crc;
}

static void write_out(struct output *out, const void *bytes, size_t size) {
    out->failed = out->failed || !os_write_file(out->file, bytes, size);
}

static void put_block(struct output *out, bool last) {
    if (out->gzip) {
        uint16_t size = (uint16_t)out->used;
        uint8_t head[5] = {last, (uint8_t)size, (uint8_t)(size >> 8), (uint8_t)~size,
                           (uint8_t)(~size >> 8)};
        write_out(out, head, sizeof head);
        out->crc = crc_of(out->crc, out->block, out->used);
        out->size += (uint32_t)out->used;
    }
    write_out(out, out->block, out->used);
    out->used = 0;
}

void output_start(struct output *out, int file, bool gzip) {
    static const uint8_t head[10] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3};
    out->file = file;
    out->gzip = gzip;
    out->failed = false;
    out->crc = UINT32_MAX;
    out->size = 0;
    out->used = 0;
    if (gzip) {
        write_out(out, head, sizeof head);
    }
}

void output_bytes(struct output *out, const void *bytes, size_t size) {
    const uint8_t *at = bytes;
    while (size > 0) {
        size_t now = hak_min(size, OUTPUT_BLOCK - out->used);
        memcpy(out->block + out->used, at, now);
        out->used += now;
        at += now;
        size -= now;
        if (out->used == OUTPUT_BLOCK) {
            put_block(out, false);
        }
    }
}

bool output_end(struct output *out) {
    put_block(out, true);
    if (out->gzip) {
        uint32_t tail[2] = {~out->crc, out->size};
        write_out(out, tail, sizeof tail);
    }
    return !out->failed;
}

enum { WIRE_NUMBER = 0, WIRE_BYTES = 2, VARINT_MOST = 10 };

static size_t varint(uint8_t *to, uint64_t value) {
    size_t size = 0;
    while (value >= 0x80) {
        to[size++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    to[size++] = (uint8_t)value;
    return size;
}

static void put_varint(struct message *m, uint64_t value) {
    if (m->used + VARINT_MOST <= sizeof m->bytes) {
        m->used += varint(m->bytes + m->used, value);
    }
}

void message_number(struct message *m, unsigned field, uint64_t value) {
    put_varint(m, field << 3 | WIRE_NUMBER);
    put_varint(m, value);
}

void message_packed(struct message *list, uint64_t value) {
    put_varint(list, value);
}

void message_bytes(struct message *m, unsigned field, const void *bytes, size_t size) {
    put_varint(m, field << 3 | WIRE_BYTES);
    put_varint(m, size);
    if (size <= sizeof m->bytes - m->used) {
        memcpy(m->bytes + m->used, bytes, size);
        m->used += size;
    }
}

static void output_varint(struct output *out, uint64_t value) {
    uint8_t bytes[VARINT_MOST];
    output_bytes(out, bytes, varint(bytes, value));
}

void output_string(struct output *out, unsigned field, const char *text, size_t size) {
    output_varint(out, field << 3 | WIRE_BYTES);
    output_varint(out, size);
    output_bytes(out, text, size);
}

void output_message(struct output *out, unsigned field, const struct message *m) {
    output_string(out, field, (const char *)m->bytes, m->used);
}

void output_number(struct output *out, unsigned field, uint64_t value) {
    output_varint(out, field << 3 | WIRE_NUMBER);
    output_varint(out, value);
}
