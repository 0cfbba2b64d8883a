// SPDX-License-Identifier: Apache-2.0
// What the operators new and delete of cxx.cc need to know: which operators others have replaced,
// and where the C++ library is, which a plug-in may load long after this library was bound.
#ifndef HAKMEM_FRONTS_CXX_OPERATORS_H
#define HAKMEM_FRONTS_CXX_OPERATORS_H

#include "boxes/base/base.h"

HAK_C_BEGIN

// The operators that others are derived from ([new.delete]): new and delete, each plain or array,
// each plain or aligned.
#define OPERATORS_BASIC(X)  \
    X(_Znwm)                \
    X(_Znam)                \
    X(_ZnwmSt11align_val_t) \
    X(_ZnamSt11align_val_t) X(_ZdlPv) X(_ZdaPv) X(_ZdlPvSt11align_val_t) X(_ZdaPvSt11align_val_t)

enum operators_state {
    OPERATORS_UNKNOWN,    // this library is not relocated yet
    OPERATORS_OWN,        // all of them, and the C functions that they are derived from, are ours
    OPERATORS_INTERPOSED, // not all: each operator has to call what it is derived from
};

// Thread-safe; looked up once.
enum operators_state operators_state(void);

// Returns the address of `name` in the C++ library that the code at `caller` uses: one that all of
// the process can see, else the one of the object that `caller` lies in, else any that is loaded.
// Returns NULL if there is none. Takes the dynamic loader's lock, as a throw does, and may
// allocate.
void *operators_of_runtime(const char *name, const void *caller);
HAK_C_END

#endif
