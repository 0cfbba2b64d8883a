// SPDX-License-Identifier: Apache-2.0
// diagnostics: the one place that prints and aborts.
//
// Works at any time, with any amount of the heap broken: formats into a buffer on the stack, writes
// with one system call, allocates nothing. Thread-safe.
#ifndef HAKMEM_BOXES_DIAGNOSTICS_DIAGNOSTICS_H
#define HAKMEM_BOXES_DIAGNOSTICS_DIAGNOSTICS_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// Stops the program because of a misuse of the interface: writes one line "hakmem: CALL(PTR):
// FAULT" to stderr, then calls abort(). `call` is the entry point's name ("free"), `fault` says
// what is wrong.
HAK_NORETURN HAK_COLD void diag_misuse(const char *call, const void *ptr, const char *fault);

// Stops the program because an invariant of the allocator itself is broken.
HAK_NORETURN HAK_COLD void diag_broken(const char *where, const char *what);

// Writes one warning line "hakmem: warning: NAME=VALUE: WHAT" to stderr. `name` may be an entry of
// the environment: NAME ends before its "=". NAME and VALUE are cut at 64 characters.
HAK_COLD void diag_warn_setting(const char *name, const char *value, const char *what);

// The call that a misuse is reported under if it is found later, when a cache spills. The text
// "free" names the call at fault, whichever call made the cache spill.
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
