// SPDX-License-Identifier: Apache-2.0
#include "boxes/hardening/hardening.h"

#if HAK_HARDENED

#    include "backends/os.h"
#    include "boxes/diagnostics/diagnostics.h"
#    include "boxes/settings/settings.h"

#    include <string.h>

// Everything is on until the settings are read, so that blocks that were allocated before have all
// that the settings may ask for.
struct hardening hardening = {
    .on = HARDENING_STATE | HARDENING_CANARY | HARDENING_NEIGHBOUR | HARDENING_SIZES |
          HARDENING_ZERO | HARDENING_CHECK_ZERO | HARDENING_QUARANTINE | HARDENING_RANDOM |
          HARDENING_SEPARATE,
    .quarantine = 32 << 10,
    .choice = 7,
    .zero_most = UINT64_MAX,
    .usual = true,
};

#    define LOWEST(n) ((n) == 8 ? UINT64_MAX : (UINT64_C(1) << (n) % 8 * 8) - 1)
const uint64_t hardening_bytes[9] = {LOWEST(0), LOWEST(1), LOWEST(2), LOWEST(3), LOWEST(4),
                                     LOWEST(5), LOWEST(6), LOWEST(7), LOWEST(8)};

void hardening_prepare(void) {
    // Threads that come at the same time write the same values.
    if (HAK_PEEK(&hardening.keys[1]) == 0) {
        HAK_POKE(&hardening.keys[0], os_secret(0));
        HAK_POKE(&hardening.keys[1], os_secret(1) | 1);
    }
}

void hardening_start(void) {
    static const struct {
        enum setting setting;
        int64_t least;
        uint32_t bit;
    } rows[] = {
        {SETTING_CHECK_FREES, 1, HARDENING_STATE},
        {SETTING_CANARY, 1, HARDENING_CANARY},
        {SETTING_CANARY, 2, HARDENING_NEIGHBOUR},
        {SETTING_CHECK_SIZES, 1, HARDENING_SIZES},
        {SETTING_ZERO, 1, HARDENING_ZERO},
        {SETTING_ZERO, 2, HARDENING_CHECK_ZERO},
        {SETTING_QUARANTINE, 1, HARDENING_QUARANTINE},
        {SETTING_RANDOM, 2, HARDENING_RANDOM},
        {SETTING_SEPARATE, 1, HARDENING_SEPARATE},
    };
    uint32_t on = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        on |= settings_get(rows[i].setting) >= rows[i].least ? rows[i].bit : 0;
    }
    HAK_POKE(&hardening.quarantine, (uint32_t)settings_get(SETTING_QUARANTINE));
    uint64_t choice = (uint64_t)settings_get(SETTING_RANDOM);
    HAK_POKE(&hardening.choice, (UINT32_C(1) << hak_log2(choice | 1)) - 1);
    HAK_POKE(&hardening.zero_most, (uint64_t)settings_get(SETTING_ZERO_MOST));
    HAK_POKE(&hardening.on, on);
    HAK_POKE(&hardening.usual, (on & HARDENING_USUAL) == HARDENING_USUAL);
}

// Returns how many bytes at each end of a block of `bytes` bytes are made zero and checked: all
// bytes, or a few if the block is large.
static size_t at_each_end(size_t bytes) {
    enum { END = HARDENING_ZERO_LEAST / 2 };
    return bytes <= HAK_PEEK(&hardening.zero_most) ? bytes : END;
}

void hardening_clear_many(void *at, size_t bytes) {
    size_t part = at_each_end(bytes);
    memset(at, 0, part);
    if (part != bytes) {
        memset((char *)at + bytes - part, 0, part);
    }
}

uint64_t hardening_any_many(void *at, size_t bytes) {
    uint64_t any = 0;
    hardening_pair pairs = {0, 0};
    hardening_pair *from = (hardening_pair *)at;
    for (hardening_pair *end = from + bytes / sizeof *from; from != end;) {
        size_t page = HAK_PAGE - (uintptr_t)from % HAK_PAGE;
        hardening_pair *last = from + hak_min((size_t)(end - from), page / sizeof *from);
        hardening_add((hardening_word *)from, 0);
        any |= ((hardening_word *)from)[0] | ((hardening_word *)from)[1];
        for (from++; last - from >= 8; from += 8) {
            pairs |= (from[0] | from[1]) | (from[2] | from[3]);
            pairs |= (from[4] | from[5]) | (from[6] | from[7]);
        }
        for (; from < last - 1; from += 2) {
            pairs |= from[0] | from[1];
        }
        if (from != last) {
            pairs |= *from++;
        }
    }
    return any | pairs[0] | pairs[1];
}

bool hardening_is_clear_many(void *at, size_t bytes) {
    // `bytes` does not include the block's last pair.
    size_t part = at_each_end(bytes + sizeof(hardening_pair));
    if (part > bytes) {
        return hardening_any_many(at, bytes) == 0;
    }
    size_t rest = part - sizeof(hardening_pair);
    return (hardening_any_many(at, part) | hardening_any_many((char *)at + bytes - rest, rest)) ==
           0;
}

enum hardening_kind hardening_look(unsigned bin, const void *block, size_t *size) {
    if (HAK_LIKELY(hardening_intact(bin, block, size))) {
        return HARDENING_LIVE;
    }
    *size = size_class_usable(bin);
    if (HAK_PEEK(hardening_tag(bin, block)) == 0) {
        return hardening_has(HARDENING_STATE) ? HARDENING_FREE : HARDENING_LIVE;
    }
    return hardening_has(HARDENING_CANARY) ? HARDENING_DAMAGED : HARDENING_LIVE;
}

void hardening_refuse(unsigned bin, const void *block) {
    size_t size;
    switch (hardening_look(bin, block, &size)) {
    case HARDENING_FREE:
        diag_misuse(DIAG_CALL_FREE, block, "block freed twice");
    case HARDENING_DAMAGED:
        diag_misuse(DIAG_CALL_FREE, block, "heap corruption: written past the end of the block");
    default:
        break;
    }
    if (hardening_has(HARDENING_NEIGHBOUR) && !hardening_intact_below(bin, block)) {
        diag_misuse(DIAG_CALL_FREE, block,
                    "heap corruption: written past the end of the block before, or below this one");
    }
}

void hardening_refuse_absent(const void *block) {
    if (hardening_has(HARDENING_STATE)) {
        diag_misuse(DIAG_CALL_FREE, block, "block freed twice");
    }
}

void hardening_refuse_written(const char *call, const void *block) {
    diag_misuse(call, block, "block was written to after it was freed");
}

void hardening_measure(struct hardening_heap *heap) {
    uint32_t bytes = HAK_PEEK(&hardening.quarantine);
    if (HAK_LIKELY(heap->quarantine == bytes && heap->measured)) {
        return;
    }
    heap->quarantine = bytes;
    heap->measured = true;
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        size_t blocks = bytes / size_class_bins[bin].size;
        // Blocks in places behind the new last one stay there until the queue is flushed.
        heap->queues[bin].next = 0;
        unsigned places = 1u << hak_log2(hak_min(hak_max(blocks, 1), HARDENING_QUEUE_MOST));
        heap->queues[bin].last = (uint16_t)(places - 1);
    }
}

void hardening_check_size(const char *call, const void *block, size_t usable, size_t align,
                          size_t size) {
    if (HAK_UNLIKELY(usable != hak_max(size, 1))) {
        diag_misuse(call, block, "the size given is not the block's");
    }
    if (HAK_UNLIKELY(align > HAK_MIN_ALIGN && (uintptr_t)block % align != 0)) {
        diag_misuse(call, block, "the alignment given is not the block's");
    }
}

#endif
