// SPDX-License-Identifier: Apache-2.0
// Runs behind tracer.c, which has to see every block.
#include "check.h"

#include <dlfcn.h>
#include <new>

int main() {
    auto taken = reinterpret_cast<long (*)()>(dlsym(RTLD_DEFAULT, "tracer_taken"));
    auto given = reinterpret_cast<long (*)()>(dlsym(RTLD_DEFAULT, "tracer_given"));
    if (taken == nullptr || given == nullptr) {
        puts("no tracer");
        return 2;
    }
    long taken_before = taken();
    long given_before = given();
    for (int i = 0; i < 100; i++) {
        void *volatile p = ::operator new(100);
        ::operator delete (p, std::size_t{100});
        p = ::operator new[](100, std::nothrow);
        ::operator delete[](p);
        p = reallocarray(nullptr, 10, 10);
        p = reallocarray(p, 20, 10);
        free(p);
        p = strdup("text");
        free(p);
    }
    CHECK(taken() - taken_before == 500);
    CHECK(given() - given_before == 500);
    return check_failures != 0;
}
