// SPDX-License-Identifier: Apache-2.0
// What an IFUNC resolver does with the allocator, and what the program does later with the blocks.
// Included by a library, which the dynamic linker relocates before a preloaded allocator, and by a
// program, which it relocates after it.
#ifndef HAKMEM_FRONTS_REPORTS_IFUNC_CALLS_H
#define HAKMEM_FRONTS_REPORTS_IFUNC_CALLS_H

#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { IFUNC_BLOCKS = 32 };

static struct {
    int calls;     // of the resolver
    int wrong;     // line of what was not as it should be, 0: nothing
    size_t blocks; // that wait for the program
    struct {
        unsigned char *at;
        size_t size;
    } block[IFUNC_BLOCKS];
} ifunc_seen;

#define IFUNC_CHECK(ok)                   \
    do {                                  \
        if (!(ok) && !ifunc_seen.wrong) { \
            ifunc_seen.wrong = __LINE__;  \
        }                                 \
    } while (0)

// Loops of its own: memset() is an IFUNC itself, and may not be resolved yet.
static inline void ifunc_fill(volatile unsigned char *at, size_t size, unsigned char with) {
    for (size_t i = 0; i < size; i++) {
        at[i] = with;
    }
}

static inline int ifunc_is(const volatile unsigned char *at, size_t size, unsigned char with) {
    for (size_t i = 0; i < size; i++) {
        if (at[i] != with) {
            return 0;
        }
    }
    return 1;
}

static inline void ifunc_keep(void *at, size_t size, size_t align) {
    IFUNC_CHECK(at != NULL && (uintptr_t)at % align == 0);
    if (at != NULL && ifunc_seen.blocks < IFUNC_BLOCKS) {
        ifunc_fill((unsigned char *)at, size, (unsigned char)(ifunc_seen.blocks + 1));
        ifunc_seen.block[ifunc_seen.blocks].at = (unsigned char *)at;
        ifunc_seen.block[ifunc_seen.blocks++].size = size;
    }
}

// Each of C's calls, some blocks freed and resized at once, others kept.
static inline void ifunc_allocate(void) {
    ifunc_seen.calls++;
    free(NULL);
    ifunc_keep(malloc(0), 0, 16);
    ifunc_keep(malloc(1), 1, 16);
    ifunc_keep(malloc(1000), 1000, 16);
    ifunc_keep(malloc(40000), 40000, 16);
    ifunc_keep(malloc(3 << 20), 3 << 20, 16);
    free(malloc(100));
    unsigned char *zero = (unsigned char *)calloc(7, 300);
    IFUNC_CHECK(zero != NULL && ifunc_is(zero, 7 * 300, 0));
    ifunc_keep(zero, 7 * 300, 16);
    unsigned char *grown = (unsigned char *)malloc(10);
    IFUNC_CHECK(grown != NULL);
    ifunc_fill(grown, 10, 77);
    grown = (unsigned char *)realloc(grown, 50000);
    IFUNC_CHECK(grown != NULL && ifunc_is(grown, 10, 77));
    grown = (unsigned char *)realloc(grown, 20);
    IFUNC_CHECK(grown != NULL && ifunc_is(grown, 10, 77));
    grown = (unsigned char *)reallocarray(grown, 30, 10);
    IFUNC_CHECK(grown != NULL && ifunc_is(grown, 10, 77) && malloc_usable_size(grown) >= 300);
    ifunc_keep(grown, 300, 16);
    ifunc_keep(realloc(NULL, 60), 60, 16);
    IFUNC_CHECK(realloc(malloc(10), 0) == NULL);
    ifunc_keep(aligned_alloc(64, 128), 128, 64);
    ifunc_keep(memalign(4096, 10), 10, 4096);
    ifunc_keep(valloc(10), 10, 4096);
    ifunc_keep(pvalloc(10), 4096, 4096);
    void *at = NULL;
    IFUNC_CHECK(posix_memalign(&at, 256, 1000) == 0);
    ifunc_keep(at, 1000, 256);
    char *text = strdup("of a resolver");
    IFUNC_CHECK(text != NULL && text[12] == 'r' && text[13] == '\0');
    free(text);
    text = strndup("of a resolver", 4);
    IFUNC_CHECK(text != NULL && text[3] == 'a' && text[4] == '\0');
    ifunc_keep(text, 5, 16);
}

// The same blocks, once the program runs: 0, or the line of what is wrong.
static inline int ifunc_use(void) {
    IFUNC_CHECK(ifunc_seen.calls >= 1 && ifunc_seen.blocks >= 10);
    for (size_t i = 0; i < ifunc_seen.blocks; i++) {
        unsigned char *at = ifunc_seen.block[i].at;
        size_t size = ifunc_seen.block[i].size;
        IFUNC_CHECK(ifunc_is(at, size, (unsigned char)(i + 1)));
        IFUNC_CHECK(malloc_usable_size(at) >= size);
        if (i % 3 == 0) {
            at = (unsigned char *)realloc(at, size * 2 + 100);
            IFUNC_CHECK(at != NULL && ifunc_is(at, size, (unsigned char)(i + 1)));
        } else if (i % 3 == 1) {
            at = (unsigned char *)realloc(at, size / 2 + 1);
            IFUNC_CHECK(at != NULL && ifunc_is(at, size / 2, (unsigned char)(i + 1)));
        }
        free(at);
    }
    ifunc_seen.blocks = 0;
    return ifunc_seen.wrong;
}

#endif
