// SPDX-License-Identifier: Apache-2.0
// mi_new() and kin: as the operators, with the new-handler and bad_alloc when there is no memory.
#include "fronts/compat/mimalloc/heaps.h"

#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

// Instead of std::nothrow, for which a program in C would need the C++ library.
constexpr std::nothrow_t kNothrow{};

// More than there can be: the operator calls the new-handler and throws.
constexpr std::size_t kTooMuch = SIZE_MAX;

std::size_t product(std::size_t count, std::size_t size) {
    std::size_t total;
    return __builtin_mul_overflow(count, size, &total) ? kTooMuch : total;
}

// Without memory in the heap: what the operator does about it, until the heap has some.
void *allocate(mi_heap *heap, std::size_t size) {
    if (heap->heap == nullptr) {
        return ::operator new(size);
    }
    void *block;
    while ((block = heaps_alloc(heap, size, false)) == nullptr) {
        ::operator delete(::operator new(size));
    }
    return block;
}

void *reallocate(void *ptr, std::size_t size) {
    void *block;
    while ((block = heaps_realloc(heaps_default, ptr, size, false)) == nullptr) {
        ::operator delete(::operator new(size));
    }
    return block;
}

} // namespace

extern "C" {

COMPAT_EXPORT void *mi_heap_alloc_new(mi_heap *heap, std::size_t size) {
    return allocate(heap, size);
}
COMPAT_EXPORT void *mi_heap_alloc_new_n(mi_heap *heap, std::size_t count, std::size_t size) {
    return allocate(heap, product(count, size));
}
COMPAT_EXPORT void *mi_new(std::size_t size) {
    return allocate(heaps_default, size);
}
COMPAT_EXPORT void *mi_new_n(std::size_t count, std::size_t size) {
    return allocate(heaps_default, product(count, size));
}
COMPAT_EXPORT void *mi_new_nothrow(std::size_t size) noexcept {
    return ::operator new(size, kNothrow);
}
COMPAT_EXPORT void *mi_new_aligned(std::size_t size, std::size_t align) {
    return ::operator new (size, std::align_val_t{align});
}
COMPAT_EXPORT void *mi_new_aligned_nothrow(std::size_t size, std::size_t align) noexcept {
    return ::operator new (size, std::align_val_t{align}, kNothrow);
}
COMPAT_EXPORT void *mi_new_realloc(void *ptr, std::size_t size) {
    return reallocate(ptr, size);
}
COMPAT_EXPORT void *mi_new_reallocn(void *ptr, std::size_t count, std::size_t size) {
    return reallocate(ptr, product(count, size));
}
}
