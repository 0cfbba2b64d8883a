// SPDX-License-Identifier: Apache-2.0
// A library whose IFUNC resolver allocates, by C's calls and by C++'s operators.
#include <new>

#include "fronts/reports/ifunc_calls.h"

extern "C" {

static int one() {
    return 1;
}

static int (*resolve_library())() {
    ifunc_allocate();
    ifunc_keep(::operator new(100), 100, 16);
    ifunc_keep(::operator new[](2000), 2000, 16);
    ifunc_keep(::operator new(100, std::nothrow), 100, 16);
    ifunc_keep(::operator new (100, std::align_val_t{128}), 100, 128);
    ::operator delete(::operator new(10));
    ::operator delete (::operator new(10), size_t{10});
    ::operator delete[](::operator new[](70000));
    return one;
}

static int library_chosen() __attribute__((ifunc("resolve_library")));

int ifunc_library() {
    return library_chosen() == 1 ? ifunc_use() : -1;
}
}
