// SPDX-License-Identifier: Apache-2.0
// statistics_json: every figure as a member of a JSON object, for programs.
#include "boxes/statistics/statistics_internal.h"

#include "backends/os.h"
#include "boxes/base/digits.h"

#include <string.h>

// Returns the bytes of the UTF-8 sequence at `at`, 0 if there is none: JSON is UTF-8, and the name
// of a program may be any bytes.
static size_t sequence_at(const unsigned char *at) {
    size_t more = *at < 0x80 ? 0 : *at >= 0xf0 ? 3 : *at >= 0xe0 ? 2 : 1;
    if (more == 0) {
        return 1;
    }
    // The range of the second byte excludes overlong forms, surrogates, and numbers above 0x10ffff.
    unsigned char least = *at == 0xe0 ? 0xa0 : *at == 0xf0 ? 0x90 : 0x80;
    unsigned char most = *at == 0xed ? 0x9f : *at == 0xf4 ? 0x8f : 0xbf;
    if (*at < 0xc2 || *at > 0xf4 || at[1] < least || at[1] > most) {
        return 0;
    }
    for (size_t i = 2; i <= more; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return 1 + more;
}

// Bytes that are no UTF-8 become the replacement character.
static void add_quoted(struct text *text, const char *string) {
    text_string(text, "\"");
    for (const unsigned char *at = (const unsigned char *)string; *at != '\0';) {
        size_t length = sequence_at(at);
        if (*at < ' ') {
            char code[2];
            hak_hex(code, at, 1);
            text_string(text, "\\u00");
            text_bytes(text, code, sizeof code);
        } else if (length == 0) {
            text_string(text, "\\ufffd");
        } else {
            text_string(text, *at == '"' || *at == '\\' ? "\\" : "");
            text_bytes(text, (const char *)at, length);
        }
        at += length == 0 ? 1 : length;
    }
    text_string(text, "\"");
}

static void add_key(struct text *text, const char *name) {
    text_string(text, ",\n");
    add_quoted(text, name);
    text_string(text, ": ");
}

static void add_member(struct text *text, const char *name, uint64_t value) {
    add_key(text, name);
    text_number(text, value, 0);
}

// The numbers of hak_stats by their names.
static const struct {
    char name[20];
    uint16_t offset; // of a size_t or a uint64_t
} members[] = {
#define MEMBER(name) \
    { #name, offsetof(struct hak_stats, name) }
    MEMBER(superslabs),
    MEMBER(reserved),
    MEMBER(committed),
    MEMBER(tiny_live),
    MEMBER(tiny_cached),
    MEMBER(tiny_free),
    MEMBER(large_live),
    MEMBER(large_blocks),
    MEMBER(far),
    MEMBER(private_live),
    MEMBER(dirty),
    MEMBER(clean),
    MEMBER(metadata),
    MEMBER(tiny_slabs),
    MEMBER(large_slabs),
    MEMBER(private_slabs),
    MEMBER(heap_slabs),
    MEMBER(homes),
    MEMBER(spare_slabs),
    MEMBER(returned),
    MEMBER(purges),
    MEMBER(purge_ns),
    MEMBER(purge_longest_ns),
    MEMBER(moved),
    MEMBER(os_calls),
    MEMBER(refills),
    MEMBER(refilled_blocks),
    MEMBER(spills),
    MEMBER(spilled_blocks),
    MEMBER(heaps),
    MEMBER(free_heaps),
    MEMBER(large_pages),
    MEMBER(mapped),
    MEMBER(mapped_blocks),
    MEMBER(large_slack),
    MEMBER(peak),
    MEMBER(large_guards),
    MEMBER(large_quarantined),
#undef MEMBER
};
static_assert(sizeof(size_t) == sizeof(uint64_t), "one way to read them all");

static void write_json_process(struct text *text) {
    text_string(text, "{\"program\": ");
    add_quoted(text, statistics_process.program);
    add_member(text, "pid", (uint64_t)os_process());
    add_key(text, "flavour");
    add_quoted(text, statistics_process.flavour);
    add_key(text, "version");
    add_quoted(text, statistics_process.version);
    add_key(text, "uptime_s");
    text_fraction(text, statistics_uptime_ms(), 1000, 3, 0);
    add_member(text, "peak_rss", os_peak_memory());
    add_key(text, "settings");
    text_string(text, "{");
    bool any = false;
    for (int i = 0; i < SETTING_COUNT; i++) {
        if (statistics_is_changed((enum setting)i)) {
            text_string(text, any ? ", " : "");
            add_quoted(text, settings_table[i].name);
            text_string(text, ": ");
            text_signed(text, settings_get((enum setting)i));
            any = true;
        }
    }
    text_string(text, "}");
}

void statistics_write_json(struct text *text, const struct hak_stats *s) {
    write_json_process(text);
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        uint64_t value;
        memcpy(&value, (const char *)s + members[i].offset, sizeof value);
        add_member(text, members[i].name, value);
    }
    add_key(text, "bins");
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        text_string(text, bin == 1 ? "[\n{\"size\": " : ",\n{\"size\": ");
        text_number(text, s->bins[bin].size, 0);
        text_string(text, ", \"slabs\": ");
        text_number(text, s->bins[bin].slabs, 0);
        text_string(text, ", \"live\": ");
        text_number(text, s->bins[bin].live, 0);
        text_string(text, ", \"cached\": ");
        text_number(text, s->bins[bin].cached, 0);
        text_string(text, ", \"free\": ");
        text_number(text, s->bins[bin].free_, 0);
        text_string(text, "}");
    }
    text_string(text, "]}\n");
}
