// SPDX-License-Identifier: Apache-2.0
// Shared by the files that define malloc, free and the functions related to them.
#ifndef HAKMEM_FRONTS_LIBC_CALLS_H
#define HAKMEM_FRONTS_LIBC_CALLS_H

#include "boxes/base/base.h"
#include "fronts/libc/hit_path.h"

#include <errno.h>

#define EXPORT __attribute__((visibility("default")))

// own_NAME is this library's NAME even if another library interposes NAME. These files call get()
// and put(), and not the public names.
#define TEXT(name) #name
#define OWN(name)  __attribute__((COPY(name) alias(TEXT(name)), visibility("hidden")))
// gcc warns unless both names have the same attributes.
#ifdef __clang__
#    define COPY(of)
#else
#    define COPY(of) copy(of),
#endif

// glibc exports its allocator under these names as well. Without them a block of one allocator
// would reach the other's free(). Weak, so that debuggers and disassemblers show the usual names.
// musl calls its own allocator by some of these names, so they are not defined there.
#ifdef __GLIBC__
#    define LIBC_NAME(of) __attribute__((COPY(of) weak, alias(TEXT(of))))
#endif

HAK_INLINE void *get(size_t size) {
    void *block = hit_alloc(size);
    return HAK_LIKELY(block != NULL) ? block : slow_alloc(size);
}

HAK_INLINE void put(void *ptr) {
    if (HAK_UNLIKELY(!hit_free(ptr))) {
        slow_free(ptr);
    }
}

// Sets *total to count * size. Returns false and sets ENOMEM if the product is too large.
HAK_INLINE bool product(size_t count, size_t size, size_t *total) {
    if (HAK_UNLIKELY(__builtin_mul_overflow(count, size, total))) {
        errno = ENOMEM;
        return false;
    }
    return true;
}

#endif
