// SPDX-License-Identifier: Apache-2.0
// A tracer that stands in front: each call goes on to the next malloc.
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>

static _Atomic(size_t) calls;

// Found at the first call, as dlsym() in a later one could free the text of an error.
static void *(*next_malloc)(size_t);
static void (*next_free)(void *);
static void *(*next_realloc)(void *, size_t);

static __attribute__((constructor)) void find(void) {
    if (next_realloc == NULL) {
        *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
        *(void **)&next_free = dlsym(RTLD_NEXT, "free");
        *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
    }
}

void *malloc(size_t size) {
    find();
    atomic_fetch_add(&calls, 1);
    return next_malloc(size);
}

void free(void *ptr) {
    find();
    atomic_fetch_add(&calls, 1);
    next_free(ptr);
}

void *realloc(void *ptr, size_t size) {
    find();
    atomic_fetch_add(&calls, 1);
    return next_realloc(ptr, size);
}

size_t loading_traced(void) {
    return atomic_load(&calls);
}
