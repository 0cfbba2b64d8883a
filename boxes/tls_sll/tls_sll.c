#include "boxes/tls_sll/tls_sll.h"

void tls_sll_push(struct tls_sll *list, void *const *blocks, unsigned count) {
    for (unsigned i = count; i-- > 0;) {
        *(void **)blocks[i] = list->head;
        list->head = blocks[i];
    }
    list->count += count;
}

unsigned tls_sll_pop(struct tls_sll *list, void **blocks, unsigned most) {
    unsigned got = 0;
    while (got < most && list->head != NULL) {
        void *block = list->head;
        list->head = *(void **)block;
        blocks[got++] = block;
    }
    list->count -= got;
    return got;
}
