#include "boxes/magazine/magazine.h"

unsigned magazine_load(struct magazine *magazine, void *const *blocks, unsigned count) {
    unsigned fit = (unsigned)hak_min(count, MAGAZINE_BLOCKS - magazine->count);
    for (unsigned i = 0; i < fit; i++) {
        magazine->blocks[magazine->count++] = blocks[i];
    }
    return fit;
}

unsigned magazine_unload(struct magazine *magazine, void **blocks, unsigned most) {
    unsigned got = (unsigned)hak_min(most, magazine->count);
    for (unsigned i = 0; i < got; i++) {
        blocks[i] = magazine->blocks[--magazine->count];
    }
    return got;
}
