// SPDX-License-Identifier: Apache-2.0
// dl: libraries that a program opens find this malloc wherever they look for it.
//
// A library opened with RTLD_DEEPBIND binds its malloc and free to those of libc.so.6, which is in
// its own scope, while libc's strdup() and getline() call the process's malloc, which is hakmem's.
// So each of the two would get blocks of the other. The same happens to code that asks for "free"
// in libc.so.6's handle, or in the handle of a library that depends on libc: ctypes and other
// foreign-function interfaces do. So the entries of malloc and its kin in libc's table of dynamic
// symbols are changed to lead here. Scopes and the order of look-ups stay as they are: a library
// that should see its own symbols first does.
//
// In a shared object, dlopen() and dlmopen(), which this front exports, change the entries before
// the first library is opened (dl_open.c). A constructor does so if a library of the process refers
// to dlsym(), which finds libc's malloc by RTLD_NEXT, too. In a program that has the allocator
// linked into it, a constructor changes the entries if anything in the process refers to one of
// these functions (dl_linked.c): such a program may be static, and its dlopen() has to stay libc's.
#ifndef HAKMEM_FRONTS_DL_DL_H
#define HAKMEM_FRONTS_DL_DL_H

#include <stdbool.h>

// Makes libc's entries lead to the functions of the same names that the object with this front
// exports; entries that it does not export stay. Returns true if they do, now or before. Returns
// false if there is no libc.so.6 in the process, or if the kernel refuses. Changes nothing and
// returns true under HAKMEM_DEEPBIND=0, and if that object comes behind libc in the process: then
// it was opened later, and the process's malloc is not here. Thread-safe; takes the dynamic
// linker's lock, and so must not be called from malloc. Keeps errno.
bool dl_redirect_libc(void);

// Return true if anything in the process except libc refers to dlopen(), dlsym() or one of their
// kin; and if a library except libc refers to dlsym() or dlvsym().
bool dl_is_used(void);
bool dl_looks_up(void);

#endif
