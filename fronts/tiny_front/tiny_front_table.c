// SPDX-License-Identifier: Apache-2.0
// Compiled once for each flavour: the build passes the flavour's name, and for each class a macro
// with the name of its front.
#include "fronts/tiny_front/tiny_front.h"

#include "include/hakmem/hakmem.h"

#define DECLARE(front) extern const struct tiny_front front;
DECLARE(HAK_FRONT_C0)
DECLARE(HAK_FRONT_C1)
DECLARE(HAK_FRONT_C2)
DECLARE(HAK_FRONT_C3)
DECLARE(HAK_FRONT_C4)
DECLARE(HAK_FRONT_C5)
DECLARE(HAK_FRONT_C6)
DECLARE(HAK_FRONT_C7)

const struct tiny_front *tiny_fronts[SIZE_CLASS_CLASSES] = {
    &HAK_FRONT_C0, &HAK_FRONT_C1, &HAK_FRONT_C2, &HAK_FRONT_C3,
    &HAK_FRONT_C4, &HAK_FRONT_C5, &HAK_FRONT_C6, &HAK_FRONT_C7,
};

#ifdef HAK_FRONT_ALTERNATIVE
DECLARE(HAK_FRONT_ALTERNATIVE)
const struct tiny_front *const tiny_front_alternative = &HAK_FRONT_ALTERNATIVE;
#else
const struct tiny_front *const tiny_front_alternative = NULL;
#endif

const char tiny_front_flavour[] = HAK_FLAVOUR;

__attribute__((visibility("default"))) const char *hak_flavour(void) {
    return tiny_front_flavour;
}

__attribute__((visibility("default"))) const char *hak_version(void) {
    return HAKMEM_VERSION;
}
