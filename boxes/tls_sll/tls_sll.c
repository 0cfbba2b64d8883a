// SPDX-License-Identifier: Apache-2.0
#include "boxes/tls_sll/tls_sll.h"

struct listed {
    struct listed *next;
};

void tls_sll_push(struct tls_sll *list, void *const *blocks, unsigned count) {
    for (unsigned i = count; i-- > 0;) {
        struct listed *block = blocks[i];
        block->next = list->head;
        list->head = block;
    }
    list->count += count;
}

unsigned tls_sll_pop(struct tls_sll *list, void **blocks, unsigned most) {
    unsigned got = 0;
    while (got < most && list->head != NULL) {
        struct listed *block = list->head;
        list->head = block->next;
        blocks[got++] = block;
    }
    list->count -= got;
    return got;
}

// Adds a block to a set of hashes of addresses. Returns true if its hash was in the set.
enum { SEEN_BITS = 512 };
static bool add_seen(uint64_t *seen, const void *block) {
    uint64_t hash = hak_hash((uintptr_t)block) >> 55;
    bool was = (seen[hash / 64] >> hash % 64 & 1) != 0;
    seen[hash / 64] |= UINT64_C(1) << hash % 64;
    return was;
}

void *tls_sll_find_twice(const struct tls_sll *list, void *const *blocks, unsigned count) {
    uint64_t seen[SEEN_BITS / 64] = {0};
    const struct listed *at = list->head;
    for (uint32_t left = list->count; left > 0 && at != NULL; left--) {
        add_seen(seen, at);
        at = at->next;
    }
    for (unsigned i = 0; i < count; i++) {
        if (!add_seen(seen, blocks[i])) {
            continue;
        }
        bool twice = tls_sll_holds(list, blocks[i]);
        for (unsigned j = 0; j < i; j++) {
            twice = twice || blocks[j] == blocks[i];
        }
        if (twice) {
            return blocks[i];
        }
    }
    return NULL;
}

bool tls_sll_holds(const struct tls_sll *list, const void *block) {
    const struct listed *at = list->head;
    for (uint32_t left = list->count; left > 0 && at != NULL; left--) {
        if (at == block) {
            return true;
        }
        at = at->next;
    }
    return false;
}
