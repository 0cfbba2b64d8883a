// SPDX-License-Identifier: Apache-2.0
// strdup() and strndup(). libc's own would do, as they call malloc; but mimalloc exports both from
// 3.0 on, with blocks of its own heap. In a program that is linked to it, or where it is preloaded
// behind this library, they would reach this library's free(). Weak, so that a program that brings
// its own links with the archive.
#include "fronts/libc/calls.h"
#include "fronts/libc/interposed.h"

#include "boxes/cpu/cpu.h"
#include "boxes/thread_heap/thread_heap.h"

#include <string.h>

// Until this library is relocated it can call nothing of libc's.

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

// The block is freed by the free() that the process has, which is of the same hands as its malloc.
// That is called, and not inlined, as valgrind puts its own functions in the place of both.
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
