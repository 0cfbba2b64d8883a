// SPDX-License-Identifier: Apache-2.0
// The tc_ names of gperftools' tcmalloc 2.10: malloc and kin, and the operators of C++, by other
// names.
#include "fronts/compat/compat.h"
#include "fronts/libc/glibc_malloc.h"

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

// Which a program in C has not.
__asm__(".weak __gxx_personality_v0\n");

namespace {

// Instead of std::nothrow, for which a program in C would need the C++ library.
constexpr std::nothrow_t kNothrow{};

// As tc_set_new_mode() says: 1 makes tc_malloc() and kin call the new-handler before they fail.
int new_mode = 0;

// The end of a call that found no memory. The new-handler may free some.
void *retry(std::size_t size) {
    return __atomic_load_n(&new_mode, __ATOMIC_RELAXED) == 0 ? nullptr
                                                             : ::operator new(size, kNothrow);
}

} // namespace

extern "C" {

COMPAT_EXPORT const char *tc_version(int *major, int *minor, const char **patch) noexcept {
    if (major != nullptr) {
        *major = 2;
    }
    if (minor != nullptr) {
        *minor = 10;
    }
    if (patch != nullptr) {
        *patch = "";
    }
    return "gperftools 2.10";
}

COMPAT_EXPORT void *tc_malloc(std::size_t size) noexcept {
    void *block = malloc(size);
    return block != nullptr ? block : retry(size);
}
COMPAT_EXPORT void *tc_malloc_skip_new_handler(std::size_t size) noexcept {
    return malloc(size);
}
COMPAT_EXPORT void tc_free(void *ptr) noexcept {
    free(ptr);
}
COMPAT_EXPORT void tc_free_sized(void *ptr, std::size_t) noexcept {
    free(ptr);
}
COMPAT_EXPORT void *tc_realloc(void *ptr, std::size_t size) noexcept {
    return realloc(ptr, size);
}
COMPAT_EXPORT void *tc_calloc(std::size_t count, std::size_t size) noexcept {
    return calloc(count, size);
}
COMPAT_EXPORT void tc_cfree(void *ptr) noexcept {
    free(ptr);
}
COMPAT_EXPORT void *tc_memalign(std::size_t align, std::size_t size) noexcept {
    return memalign(align, size);
}
COMPAT_EXPORT int tc_posix_memalign(void **ptr, std::size_t align, std::size_t size) noexcept {
    return posix_memalign(ptr, align, size);
}
COMPAT_EXPORT void *tc_valloc(std::size_t size) noexcept {
    return valloc(size);
}
COMPAT_EXPORT void *tc_pvalloc(std::size_t size) noexcept {
    return pvalloc(size);
}
COMPAT_EXPORT void tc_malloc_stats() noexcept {
    malloc_stats();
}
COMPAT_EXPORT int tc_mallopt(int param, int value) noexcept {
    return mallopt(param, value);
}
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
COMPAT_EXPORT struct mallinfo tc_mallinfo() noexcept {
    return mallinfo();
}
COMPAT_EXPORT std::size_t tc_malloc_size(void *ptr) noexcept {
    return malloc_usable_size(ptr);
}

COMPAT_EXPORT int tc_set_new_mode(int mode) noexcept {
    return __atomic_exchange_n(&new_mode, mode, __ATOMIC_RELAXED);
}
COMPAT_EXPORT int tc_query_new_mode() noexcept {
    return __atomic_load_n(&new_mode, __ATOMIC_RELAXED);
}

COMPAT_EXPORT void *tc_new(std::size_t size) {
    return ::operator new(size);
}
COMPAT_EXPORT void *tc_newarray(std::size_t size) {
    return ::operator new[](size);
}
COMPAT_EXPORT void *tc_new_nothrow(std::size_t size, const std::nothrow_t &tag) noexcept {
    return ::operator new(size, tag);
}
COMPAT_EXPORT void *tc_newarray_nothrow(std::size_t size, const std::nothrow_t &tag) noexcept {
    return ::operator new[](size, tag);
}
COMPAT_EXPORT void *tc_new_aligned(std::size_t size, std::align_val_t align) {
    return ::operator new(size, align);
}
COMPAT_EXPORT void *tc_newarray_aligned(std::size_t size, std::align_val_t align) {
    return ::operator new[](size, align);
}
COMPAT_EXPORT void *tc_new_aligned_nothrow(std::size_t size, std::align_val_t align,
                                           const std::nothrow_t &tag) noexcept {
    return ::operator new(size, align, tag);
}
COMPAT_EXPORT void *tc_newarray_aligned_nothrow(std::size_t size, std::align_val_t align,
                                                const std::nothrow_t &tag) noexcept {
    return ::operator new[](size, align, tag);
}
COMPAT_EXPORT void tc_delete(void *ptr) noexcept {
    ::operator delete(ptr);
}
COMPAT_EXPORT void tc_deletearray(void *ptr) noexcept {
    ::operator delete[](ptr);
}
COMPAT_EXPORT void tc_delete_nothrow(void *ptr, const std::nothrow_t &tag) noexcept {
    ::operator delete(ptr, tag);
}
COMPAT_EXPORT void tc_deletearray_nothrow(void *ptr, const std::nothrow_t &tag) noexcept {
    ::operator delete[](ptr, tag);
}
COMPAT_EXPORT void tc_delete_sized(void *ptr, std::size_t size) noexcept {
    ::operator delete(ptr, size);
}
COMPAT_EXPORT void tc_deletearray_sized(void *ptr, std::size_t size) noexcept {
    ::operator delete[](ptr, size);
}
COMPAT_EXPORT void tc_delete_aligned(void *ptr, std::align_val_t align) noexcept {
    ::operator delete(ptr, align);
}
COMPAT_EXPORT void tc_deletearray_aligned(void *ptr, std::align_val_t align) noexcept {
    ::operator delete[](ptr, align);
}
COMPAT_EXPORT void tc_delete_aligned_nothrow(void *ptr, std::align_val_t align,
                                             const std::nothrow_t &tag) noexcept {
    ::operator delete(ptr, align, tag);
}
COMPAT_EXPORT void tc_deletearray_aligned_nothrow(void *ptr, std::align_val_t align,
                                                  const std::nothrow_t &tag) noexcept {
    ::operator delete[](ptr, align, tag);
}
COMPAT_EXPORT void tc_delete_sized_aligned(void *ptr, std::size_t size,
                                           std::align_val_t align) noexcept {
    ::operator delete(ptr, size, align);
}
COMPAT_EXPORT void tc_deletearray_sized_aligned(void *ptr, std::size_t size,
                                                std::align_val_t align) noexcept {
    ::operator delete[](ptr, size, align);
}
}
