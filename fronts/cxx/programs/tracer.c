// SPDX-License-Identifier: Apache-2.0
// A library in front of the allocator that counts its calls, as heap tracers do, and says at the
// end whether they match.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static long taken, given;

void *malloc(size_t size) {
    static void *(*next)(size_t);
    if (next == NULL) {
        *(void **)&next = dlsym(RTLD_NEXT, "malloc");
    }
    taken++;
    return next(size);
}

void free(void *ptr) {
    static void (*next)(void *);
    if (next == NULL) {
        *(void **)&next = dlsym(RTLD_NEXT, "free");
    }
    given += ptr != NULL;
    next(ptr);
}

void *realloc(void *ptr, size_t size) {
    static void *(*next)(void *, size_t);
    if (next == NULL) {
        *(void **)&next = dlsym(RTLD_NEXT, "realloc");
    }
    taken++;
    given += ptr != NULL;
    return next(ptr, size);
}

// Called by the program that is traced.
long tracer_taken(void);
long tracer_given(void);

long tracer_taken(void) {
    return taken;
}

long tracer_given(void) {
    return given;
}
