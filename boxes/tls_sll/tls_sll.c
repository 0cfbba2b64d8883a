#include "boxes/tls_sll/tls_sll.h"

#include "boxes/diagnostics/diagnostics.h"

struct listed {
    struct listed *next;
    uintptr_t key;
};

// Differs from list to list, and is no address of a block.
static uintptr_t key_of(const struct tls_sll *list) {
    return ~(uintptr_t)list;
}

static void check_not_listed(const struct tls_sll *list, const struct listed *block) {
    // A user may have left the key there by chance: only the list knows.
    for (const struct listed *at = list->head; at != NULL; at = at->next) {
        if (at == block) {
            diag_misuse(DIAG_CALL_FREE, block, "block freed twice");
        }
    }
}

void tls_sll_push(struct tls_sll *list, void *const *blocks, unsigned count) {
    for (unsigned i = count; i-- > 0;) {
        struct listed *block = blocks[i];
        if (HAK_UNLIKELY(block->key == key_of(list))) {
            check_not_listed(list, block);
        }
        block->next = list->head;
        block->key = key_of(list);
        list->head = block;
    }
    list->count += count;
}

unsigned tls_sll_pop(struct tls_sll *list, void **blocks, unsigned most) {
    unsigned got = 0;
    while (got < most && list->head != NULL) {
        struct listed *block = list->head;
        list->head = block->next;
        block->key = 0;
        blocks[got++] = block;
    }
    list->count -= got;
    return got;
}
