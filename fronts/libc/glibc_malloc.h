// SPDX-License-Identifier: Apache-2.0
// Declarations of glibc's <malloc.h> that other C libraries, or glibc before 2.33, do not have. The
// functions are exported with every C library.
#ifndef HAKMEM_FRONTS_LIBC_GLIBC_MALLOC_H
#define HAKMEM_FRONTS_LIBC_GLIBC_MALLOC_H

#include "boxes/base/base.h"
#include "boxes/base/libc.h"

#include <malloc.h>
#include <stddef.h>
#include <stdio.h>

// In C++ a function hides the constructor of the structure that it is called after.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
HAK_C_BEGIN

#ifndef __GLIBC__
enum { M_MXFAST = 1 }; // a parameter of mallopt()

struct mallinfo {
    int arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};

struct mallinfo mallinfo(void);
int mallopt(int param, int value);
int malloc_trim(size_t pad);
int malloc_info(int options, FILE *stream);
void malloc_stats(void);
void *pvalloc(size_t size);
#endif

#if !HAK_GLIBC(2, 33)
struct mallinfo2 {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};

struct mallinfo2 mallinfo2(void);
#endif
HAK_C_END
#pragma GCC diagnostic pop

#endif
