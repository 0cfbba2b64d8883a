// SPDX-License-Identifier: Apache-2.0
// diagnostics: the one place that prints and aborts.
//
// Works at any time, with any amount of the heap broken: formats into a buffer on the stack, writes
// with one system call, allocates nothing. Thread-safe.
#ifndef HAKMEM_BOXES_DIAGNOSTICS_DIAGNOSTICS_H
#define HAKMEM_BOXES_DIAGNOSTICS_DIAGNOSTICS_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Stops the program over a misuse of the interface: one line "hakmem: CALL(PTR): FAULT" on stderr,
// then abort(). `call` is the entry point's name ("free"), `fault` says what is wrong.
HAK_NORETURN HAK_COLD void diag_misuse(const char *call, const void *ptr, const char *fault);

// Stops the program over a broken invariant of the allocator itself.
HAK_NORETURN HAK_COLD void diag_broken(const char *where, const char *what);

// One warning line "hakmem: warning: NAME=VALUE: WHAT" on stderr. NAME ends before a "=" in `name`;
// both are cut at 64 characters.
HAK_COLD void diag_warn_setting(const char *name, const char *value, const char *what);

// Which call a misuse found later, when a cache spills, is reported as: the text "free" names the
// call that was at fault whatever call made the cache spill.
#define DIAG_CALL_FREE "free"

// Invariant checks: in the debug flavour only.
#if HAK_DEBUG
#    define DIAG_ASSERT(cond)                 \
        do {                                  \
            if (HAK_UNLIKELY(!(cond))) {      \
                diag_broken(__func__, #cond); \
            }                                 \
        } while (0)
#else
#    define DIAG_ASSERT(cond)   \
        do {                    \
            (void)sizeof(cond); \
        } while (0)
#endif
HAK_C_END

#endif
