// SPDX-License-Identifier: Apache-2.0
#include "boxes/magazine/magazine.h"

void **magazine_room(struct magazine *magazine, unsigned *most) {
    *most = (unsigned)hak_min(*most, MAGAZINE_BLOCKS - magazine->count);
    return magazine->blocks + magazine->count;
}

void magazine_load(struct magazine *magazine, unsigned count) {
    magazine->count += count;
}

void *const *magazine_unload(struct magazine *magazine, unsigned *most) {
    *most = (unsigned)hak_min(*most, magazine->count);
    magazine->count -= *most;
    return magazine->blocks + magazine->count;
}

bool magazine_holds(const struct magazine *magazine, const void *block) {
    for (uint32_t i = 0; i < magazine->count; i++) {
        if (magazine->blocks[i] == block) {
            return true;
        }
    }
    return false;
}
