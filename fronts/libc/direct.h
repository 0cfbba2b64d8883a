// SPDX-License-Identifier: Apache-2.0
// The C front under names of its own, for programs that have another malloc, too, such as a program
// under a sanitizer. The functions do what those of fronts/libc/malloc.c do.
#ifndef HAKMEM_FRONTS_LIBC_DIRECT_H
#define HAKMEM_FRONTS_LIBC_DIRECT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void *hak_malloc(size_t size);
void hak_free(void *ptr);
void *hak_calloc(size_t count, size_t size);
void *hak_realloc(void *ptr, size_t size);
void *hak_aligned_alloc(size_t align, size_t size);
int hak_posix_memalign(void **out, size_t align, size_t size);
size_t hak_malloc_usable_size(void *ptr);
int hak_malloc_trim(size_t pad);

#ifdef __cplusplus
}
#endif

#endif
