// SPDX-License-Identifier: Apache-2.0
// Replaces the array and the aligned operators, and leaves the basic ones: who is derived from
// whom, step by step.
#include "check.h"

#include <new>

static long arrays, array_deletes, aligned, aligned_deletes;

void *operator new[](std::size_t size) {
    arrays++;
    return static_cast<char *>(::operator new(size + 32)) + 32;
}
void operator delete[](void *ptr) noexcept {
    array_deletes++;
    ::operator delete(ptr == nullptr ? nullptr : static_cast<char *>(ptr) - 32);
}
void *operator new(std::size_t size, std::align_val_t align) {
    aligned++;
    std::size_t a = static_cast<std::size_t>(align) < 16 ? 16 : static_cast<std::size_t>(align);
    void *block = std::aligned_alloc(a, (size + 2 * a - 1) / a * a);
    if (block == nullptr) {
        throw std::bad_alloc();
    }
    return static_cast<char *>(block) + a;
}
void operator delete(void *ptr, std::align_val_t align) noexcept {
    aligned_deletes++;
    std::size_t a = static_cast<std::size_t>(align) < 16 ? 16 : static_cast<std::size_t>(align);
    std::free(ptr == nullptr ? nullptr : static_cast<char *>(ptr) - a);
}

int main() {
    const std::align_val_t a{64};
    for (int i = 0; i < 1000; i++) {
        void *volatile p;
        p = ::operator new[](100, std::nothrow);
        ::operator delete[](p, 100);
        p = ::operator new[](100);
        ::operator delete[](p, std::nothrow);
        p = ::operator new(100);
        ::operator delete(p, 100);
        p = ::operator new(100, std::nothrow);
        ::operator delete(p, std::nothrow);
        p = ::operator new[](100, a);
        ::operator delete[](p, a);
        p = ::operator new[](100, a, std::nothrow);
        ::operator delete[](p, 100, a);
        p = ::operator new(100, a, std::nothrow);
        ::operator delete(p, 100, a);
        p = ::operator new(100, a);
        ::operator delete(p, a, std::nothrow);
        p = ::operator new[](100, a);
        ::operator delete[](p, a, std::nothrow);
    }
    CHECK(arrays == 2000 && array_deletes == 2000);
    CHECK(aligned == 5000 && aligned_deletes == 5000);
    return check_failures != 0;
}
