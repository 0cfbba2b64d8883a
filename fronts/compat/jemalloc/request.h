// SPDX-License-Identifier: Apache-2.0
// request: one call of mallctl(), and how its answer gets into the caller's buffers.
#ifndef HAKMEM_FRONTS_COMPAT_JEMALLOC_REQUEST_H
#define HAKMEM_FRONTS_COMPAT_JEMALLOC_REQUEST_H

#include "boxes/base/base.h"

#include <errno.h>
#include <string.h>

HAK_C_BEGIN

// A request: the numbers in its name, and the caller's buffers.
struct request {
    size_t numbers[2]; // in place of <i>, and of <j>
    void *oldp;
    size_t *oldlenp;
    const void *newp;
    size_t newlen;
};

// ---- The caller's buffers, with jemalloc's checks.

HAK_INLINE bool reads(const struct request *r) {
    return r->oldp != NULL && r->oldlenp != NULL;
}

// Writes the value, or as much of it as fits. Returns EINVAL if the caller's length is not the
// value's.
HAK_INLINE int reply(const struct request *r, const void *value, size_t size) {
    if (!reads(r)) {
        return 0;
    }
    size_t room = *r->oldlenp;
    *r->oldlenp = hak_min(room, size);
    memcpy(r->oldp, value, *r->oldlenp);
    return room == size ? 0 : EINVAL;
}

HAK_INLINE bool writes(const struct request *r) {
    return r->newp != NULL || r->newlen != 0;
}

// Reads the new value, if there is one. Returns EINVAL if its length is wrong.
HAK_INLINE int take(const struct request *r, void *value, size_t size) {
    if (r->newp == NULL) {
        return 0;
    }
    if (r->newlen != size) {
        return EINVAL;
    }
    memcpy(value, r->newp, size);
    return 0;
}

HAK_INLINE int only_read(const struct request *r, const void *value, size_t size) {
    return writes(r) ? EPERM : reply(r, value, size);
}

#define READ_ONLY(name, type, value)                 \
    static int name(const struct request *r) {       \
        type answer = (value);                       \
        return only_read(r, &answer, sizeof answer); \
    }

// Returns true if the caller neither reads nor writes.
HAK_INLINE bool is_plain(const struct request *r) {
    return r->oldp == NULL && r->oldlenp == NULL && !writes(r);
}

// Returns true if the caller has room for a number of `size` bytes: nothing is created unless its
// number can be returned.
HAK_INLINE bool can_tell(const struct request *r, size_t size) {
    if (reads(r) && *r->oldlenp == size) {
        return true;
    }
    if (r->oldlenp != NULL) {
        *r->oldlenp = 0;
    }
    return false;
}

// caches.c: jemalloc's numbered caches of a thread.
int mallctl_create_cache(const struct request *r);
int mallctl_flush_cache(const struct request *r);
int mallctl_destroy_cache(const struct request *r);
HAK_C_END

#endif
