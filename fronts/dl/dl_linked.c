// SPDX-License-Identifier: Apache-2.0
// For a program that has the allocator linked into it.
#include "fronts/dl/dl.h"

static __attribute__((constructor(102))) void start(void) {
    if (dl_is_used()) {
        dl_redirect_libc();
    }
}
