// SPDX-License-Identifier: Apache-2.0
// Finds out which basic functions another part of the process defines: a program, or a library in
// front of this one, may have a malloc or operators of its own. A function that is derived from a
// basic one (reallocarray from realloc, operator new[] from operator new) has to call the basic
// function that the process really uses, because the same free gets the blocks of both.
#ifndef HAKMEM_FRONTS_LIBC_INTERPOSED_H
#define HAKMEM_FRONTS_LIBC_INTERPOSED_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// A public name beside the function of this library that has it.
struct interposed_pair {
    void *process; // the process's function of that name; NULL until this library is relocated
    void *own;
};

// The functions of the C interface from which others are derived.
enum {
    INTERPOSED_MALLOC = 1 << 0,
    INTERPOSED_FREE = 1 << 1,
    INTERPOSED_REALLOC = 1 << 2,
    INTERPOSED_ALIGNED_ALLOC = 1 << 3,
    INTERPOSED_C_CALLS = 4,
    // Not known yet: this library is not relocated.
    INTERPOSED_UNKNOWN = 1u << 31,
};

// Returns the bits of those functions that the process has from elsewhere. Returns 0 if dlopen()
// has opened this library beside libc's malloc: then functions derived here call the basic ones
// here. Thread-safe; looked up once.
unsigned interposed_calls(void);

// Returns a word whose bit n is set if pairs[n] is interposed, or INTERPOSED_UNKNOWN.
unsigned interposed_among(const struct interposed_pair *pairs, unsigned count);

// Call the functions that the process has under these names.
void *process_malloc(size_t size);
void process_free(void *ptr);
void *process_realloc(void *ptr, size_t size);

// This library's own functions, whatever the process has under their public names.
void *own_malloc(size_t size);
void own_free(void *ptr);
void *own_realloc(void *ptr, size_t size);
void *own_aligned_alloc(size_t align, size_t size);
HAK_C_END

#endif
