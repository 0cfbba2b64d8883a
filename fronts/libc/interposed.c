// SPDX-License-Identifier: Apache-2.0
#include "fronts/libc/interposed.h"

#include "boxes/base/libc.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>

// is_behind_libc() returns true if the process's malloc is libc's because this library was opened
// after libc. Returns false where that cannot be found out without a lock. (musl does not open a
// library that has thread-local storage of this kind later.)
#if HAK_GLIBC(2, 35)
#    include <gnu/libc-version.h>

// Returns the link map of the object that an address is in, or NULL if there is none, or if it
// cannot be found.
static const void *object_of(void *address) {
    extern __typeof(_dl_find_object) _dl_find_object __attribute__((weak));
    struct dl_find_object found;
    if (_dl_find_object != NULL && _dl_find_object(address, &found) == 0) {
        return found.dlfo_link_map;
    }
    return NULL;
}

static bool is_behind_libc(void) {
    const void *libc = object_of((void *)gnu_get_libc_version);
    return libc != NULL && object_of((void *)malloc) == libc &&
           object_of((void *)own_malloc) != libc;
}
#else
static bool is_behind_libc(void) {
    return false;
}
#endif

unsigned interposed_among(const struct interposed_pair *pairs, unsigned count) {
    // Without this the compiler assumes that two functions of different names are different.
    __asm__("" : "+r"(pairs));
    unsigned interposed = 0;
    for (unsigned i = 0; i < count; i++) {
        if (pairs[i].process == NULL) {
            return INTERPOSED_UNKNOWN;
        }
        interposed |= (unsigned)(pairs[i].process != pairs[i].own) << i;
    }
    return interposed != 0 && is_behind_libc() ? 0 : interposed;
}

static const struct interposed_pair c_calls[INTERPOSED_C_CALLS] = {
    {(void *)malloc, (void *)own_malloc},
    {(void *)free, (void *)own_free},
    {(void *)realloc, (void *)own_realloc},
    {(void *)aligned_alloc, (void *)own_aligned_alloc},
};

unsigned interposed_calls(void) {
    static _Atomic(unsigned) known = INTERPOSED_UNKNOWN;
    unsigned calls = atomic_load_explicit(&known, memory_order_relaxed);
    if (HAK_UNLIKELY(calls == INTERPOSED_UNKNOWN)) {
        calls = interposed_among(c_calls, INTERPOSED_C_CALLS);
        atomic_store_explicit(&known, calls, memory_order_relaxed);
    }
    return calls;
}

void *process_malloc(size_t size) {
    return malloc(size);
}

void process_free(void *ptr) {
    free(ptr);
}

void *process_realloc(void *ptr, size_t size) {
    return realloc(ptr, size);
}
