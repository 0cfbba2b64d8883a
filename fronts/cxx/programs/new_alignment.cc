// SPDX-License-Identifier: Apache-2.0
// Alignments that are no power of two, 0 among them: no block, no call of the new-handler, the
// exception of each form.
#include "check.h"

#include <initializer_list>
#include <new>

static int handler_calls;

template <typename Allocate> static bool throws(Allocate allocate) {
    try {
        return allocate() == nullptr;
    } catch (const std::bad_alloc &) {
        return true;
    }
}

int main() {
    for (std::size_t align : {0, 3, 24, 96, 4097}) {
        const std::align_val_t a{align};
        handler_calls = 0;
        std::set_new_handler([] {
            handler_calls++;
            std::set_new_handler(nullptr);
        });
        CHECK(throws([&] { return ::operator new(100, a); }));
        CHECK(throws([&] { return ::operator new[](100, a); }));
        CHECK(::operator new(100, a, std::nothrow) == nullptr);
        CHECK(::operator new[](100, a, std::nothrow) == nullptr);
        CHECK(handler_calls == 0);
    }
    std::set_new_handler(nullptr);
    for (std::size_t align : {1, 2, 8, 16, 32, 64, 4096, 1 << 21}) {
        const std::align_val_t a{align};
        for (std::size_t size : {0, 1, 100, 5000, 100000}) {
            void *p = ::operator new(size, a);
            CHECK(p != nullptr && reinterpret_cast<uintptr_t>(p) % align == 0);
            ::operator delete(p, a);
        }
    }
    // Out of memory, of the forms without an alignment too: whoever is linked statically has to
    // bring what throws.
    volatile std::size_t huge = SIZE_MAX / 2;
    CHECK(throws([&] { return ::operator new(huge); }));
    CHECK(throws([&] { return ::operator new[](huge, std::align_val_t{64}); }));
    CHECK(::operator new(huge, std::nothrow) == nullptr);
    return check_failures != 0;
}
