// SPDX-License-Identifier: Apache-2.0
// base: which C library this is compiled for. Functions that only glibc has depend on HAK_GLIBC;
// functions that any C library may have depend on a macro of their own, or are weak.
#ifndef HAKMEM_BOXES_BASE_LIBC_H
#define HAKMEM_BOXES_BASE_LIBC_H

#include <limits.h> // any header of glibc's says its version

// 1 if the headers are glibc's, of this version or newer; 0 in another C library.
#ifdef __GLIBC__
#    define HAK_GLIBC(major, minor) __GLIBC_PREREQ(major, minor)
#else
#    define HAK_GLIBC(major, minor) 0
#endif

#endif
