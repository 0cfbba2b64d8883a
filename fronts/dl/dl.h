// SPDX-License-Identifier: Apache-2.0
// dl: libraries that a program opens find this malloc wherever they look for it.
//
// A library opened with RTLD_DEEPBIND binds its malloc and free to those of libc.so.6, which is in
// its own scope, while libc's strdup() and getline() call the process's malloc, which is ours: each
// would be given the other's blocks. The same holds for whoever asks libc.so.6's handle, or that of
// a library which depends on it, for "free": ctypes, and other foreign-function interfaces. So the
// entries of malloc and its kin in libc's table of dynamic symbols are made to lead here. Scopes
// and the order of look-ups stay as they are: a library that is to see its own symbols first does.
//
// In a shared object that is done by dlopen() and dlmopen(), which this front exports, before the
// first library is opened (dl_open.c), and by a constructor if a library of the process refers to
// dlsym(): with RTLD_NEXT it finds libc's malloc, too. In a program that has the allocator linked
// into it by a constructor, if anything in the process refers to one of them (dl_linked.c): in such
// a program, which may be static, dlopen() has to stay libc's.
#ifndef HAKMEM_FRONTS_DL_DL_H
#define HAKMEM_FRONTS_DL_DL_H

#include <stdbool.h>

// Makes libc's entries lead to the functions of the same names that the object with this front in
// it exports; those it does not export stay. True if they do, now or before; false if there is no
// libc.so.6 in the process, or if the kernel refuses. It does nothing, and is true, under
// HAKMEM_DEEPBIND=0, and if that object comes behind libc in the process: then it was opened later,
// and the process's malloc is not here. Thread-safe; takes the dynamic linker's lock, and so must
// not be called from malloc. Keeps errno.
bool dl_redirect_libc(void);

// Whether something in the process but libc refers to dlopen(), dlsym() or one of their kin, or
// whether a library but libc refers to dlsym() or dlvsym().
bool dl_is_used(void);
bool dl_looks_up(void);

#endif
