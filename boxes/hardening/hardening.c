// SPDX-License-Identifier: Apache-2.0
#include "boxes/hardening/hardening.h"

#if HAK_HARDENED

#    include "backends/os.h"
#    include "boxes/diagnostics/diagnostics.h"
#    include "boxes/settings/settings.h"

#    include <string.h>

// Everything is on until the settings are read: only what is switched off then may be missing in
// blocks of before.
struct hardening hardening = {
    .on = HARDENING_STATE | HARDENING_CANARY | HARDENING_NEIGHBOUR | HARDENING_SIZES |
          HARDENING_ZERO | HARDENING_CHECK_ZERO | HARDENING_QUARANTINE | HARDENING_RANDOM |
          HARDENING_SEPARATE,
    .quarantine = 32 << 10,
};

void hardening_prepare(void) {
    // Threads that come at the same time write the same.
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
        {SETTING_RANDOM, 1, HARDENING_RANDOM},
        {SETTING_SEPARATE, 1, HARDENING_SEPARATE},
    };
    uint32_t on = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        on |= settings_get(rows[i].setting) >= rows[i].least ? rows[i].bit : 0;
    }
    HAK_POKE(&hardening.quarantine, (uint32_t)settings_get(SETTING_QUARANTINE));
    HAK_POKE(&hardening.on, on);
}

bool hardening_is_clear_many(const void *at, size_t bytes) {
    const hardening_pair *from = at;
    const hardening_pair *end = (const hardening_pair *)((const char *)at + bytes);
    hardening_pair any = {0, 0};
    for (; end - from >= 4; from += 4) {
        any |= from[0] | from[1] | from[2] | from[3];
    }
    for (; from != end; from++) {
        any |= *from;
    }
    return (any[0] | any[1]) == 0;
}

void hardening_clear_many(void *at, size_t bytes) {
    enum { PART = 1024 };
    if (bytes <= HAK_PAGE) {
        memset(at, 0, bytes);
        return;
    }
    // Pages that were never touched stay so.
    for (size_t done = 0; done < bytes; done += PART) {
        char *part = (char *)at + done;
        size_t size = hak_min(bytes - done, PART);
        if (!hardening_is_clear_many(part, size)) {
            memset(part, 0, size);
        }
    }
}

enum hardening_kind hardening_look(unsigned bin, const void *block, size_t *size) {
    if (HAK_LIKELY(hardening_wrong(bin, block, size) == 0)) {
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

void hardening_refuse_twice(const void *block) {
    if (hardening_has(HARDENING_STATE)) {
        diag_misuse(DIAG_CALL_FREE, block, "block freed twice");
    }
}

void hardening_refuse_written(const void *block) {
    diag_misuse("malloc", block, "block was written to after it was freed");
}

void hardening_measure(struct hardening_heap *heap) {
    uint32_t bytes = HAK_PEEK(&hardening.quarantine);
    if (HAK_LIKELY(heap->quarantine == bytes && heap->queues[1].most != 0)) {
        return;
    }
    heap->quarantine = bytes;
    for (unsigned bin = 1; bin < SIZE_CLASS_BINS; bin++) {
        size_t blocks = bytes / size_class_bins[bin].size;
        heap->queues[bin].most = (uint16_t)hak_min(hak_max(blocks, 1), HARDENING_QUEUE_MOST);
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
