// SPDX-License-Identifier: Apache-2.0
#include "fronts/compat/jemalloc/request.h"

#include "boxes/base/atomic.h"
#include "fronts/libc/extension.h"

// Caches by number. Each thread has one cache, so a cache is nothing but a number.
enum { CACHES = 4094 };
static _Atomic(uint64_t) caches[CACHES / 64 + 1];

int mallctl_create_cache(const struct request *r) {
    if (writes(r)) {
        return EPERM;
    }
    if (!can_tell(r, sizeof(unsigned))) {
        return EINVAL;
    }
    for (unsigned i = 0; i < CACHES; i++) {
        uint64_t bit = UINT64_C(1) << i % 64;
        if ((atomic_fetch_or(&caches[i / 64], bit) & bit) == 0) {
            return reply(r, &i, sizeof i);
        }
    }
    return EFAULT;
}

static int use_cache(const struct request *r, bool destroy) {
    unsigned cache;
    if (r->oldp != NULL || r->oldlenp != NULL) {
        return EPERM;
    }
    if (r->newp == NULL || r->newlen != sizeof cache) {
        return EINVAL;
    }
    memcpy(&cache, r->newp, sizeof cache);
    uint64_t bit = UINT64_C(1) << cache % 64;
    if (cache >= CACHES || (atomic_load(&caches[cache / 64]) & bit) == 0) {
        return EFAULT;
    }
    if (destroy) {
        atomic_fetch_and(&caches[cache / 64], ~bit);
    }
    hak_flush_thread();
    return 0;
}

int mallctl_flush_cache(const struct request *r) {
    return use_cache(r, false);
}

int mallctl_destroy_cache(const struct request *r) {
    return use_cache(r, true);
}
