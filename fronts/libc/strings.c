// SPDX-License-Identifier: Apache-2.0
// strdup() and strndup(). libc's own call malloc, and would do. But mimalloc exports both from 3.0
// on, with blocks of its own heap. In a program that is linked to mimalloc, or if mimalloc is
// preloaded behind this library, these blocks would reach this library's free(). Weak, so that a
// program with functions of these names can be linked with the archive.
#include "fronts/libc/calls.h"
#include "fronts/libc/interposed.h"

#include "boxes/cpu/cpu.h"
#include "boxes/thread_heap/thread_heap.h"

#include <string.h>

// As strnlen(), also before this library is relocated, when it can call no function of libc.
static size_t length_of(const char *text, size_t most) {
    if (HAK_LIKELY(thread_heap_ready())) {
        return strnlen(text, most);
    }
    size_t length = 0;
    while (length < most && ((const volatile char *)text)[length] != '\0') {
        length++;
    }
    return length;
}

// Calls the process's malloc, because the process's free() gets the block. The call is not inlined,
// because valgrind replaces both functions by its own.
static char *copy_of(const char *text, size_t length) {
    char *copy = HAK_UNLIKELY(interposed_calls() & INTERPOSED_MALLOC) ? process_malloc(length + 1)
                                                                      : own_malloc(length + 1);
    if (copy == NULL) {
        return NULL;
    }
    if (HAK_LIKELY(thread_heap_ready())) {
        memcpy(copy, text, length);
    } else {
        cpu_copy(copy, text, length);
    }
    copy[length] = '\0';
    return copy;
}

EXPORT __attribute__((weak)) char *strdup(const char *text) {
    return copy_of(text, length_of(text, PTRDIFF_MAX));
}

EXPORT __attribute__((weak)) char *strndup(const char *text, size_t most) {
    return copy_of(text, length_of(text, most));
}
