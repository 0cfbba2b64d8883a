// The C++ front: every replaceable operator new and delete.
//
// The one translation unit of the allocator that is C++: a nothrow operator new has to catch what a
// new-handler throws. libstdc++ is referred to weakly throughout, so that a C program can preload
// the library without it; a program that throws or catches brings it along.
#include <cstddef>
#include <new>

#include "boxes/diagnostics/diagnostics.h"
#include "fronts/libc/hit_path.h"

__asm__(".weak __gxx_personality_v0\n"
        ".weak __cxa_begin_catch\n"
        ".weak __cxa_end_catch\n"
        ".weak _ZSt15get_new_handlerv\n"
        ".weak _ZSt17__throw_bad_allocv\n");

namespace std {
__attribute__((weak, noreturn)) void __throw_bad_alloc();
}

#define EXPORT __attribute__((visibility("default")))

namespace {

// Behind a failed allocation: the installed new-handler is called until one of its calls has freed
// enough, throws, or ends the program; without one the answer is "no more".
bool run_new_handler() {
    std::new_handler (*get)() noexcept = std::get_new_handler;
    std::new_handler handler = get != nullptr ? get() : nullptr;
    if (handler == nullptr) {
        return false;
    }
    handler();
    return true;
}

void *allocate(std::size_t size, std::size_t align) {
    return align <= HAK_MIN_ALIGN ? slow_alloc(size) : slow_aligned_alloc(align, size);
}

HAK_NOINLINE void *slow_new(std::size_t size, std::size_t align) {
    void *block;
    while ((block = allocate(size, align)) == nullptr) {
        if (!run_new_handler()) {
            if (std::__throw_bad_alloc == nullptr) {
                diag_misuse("operator new", nullptr,
                            "out of memory, and no C++ library to throw bad_alloc");
            }
            std::__throw_bad_alloc();
        }
    }
    return block;
}

HAK_NOINLINE void *slow_new_nothrow(std::size_t size, std::size_t align) noexcept {
    void *block = allocate(size, align);
    if (HAK_LIKELY(block != nullptr)) {
        return block;
    }
    try {
        while ((block = allocate(size, align)) == nullptr && run_new_handler()) {
        }
    } catch (...) {
        return nullptr;
    }
    return block;
}

HAK_INLINE void *new_plain(std::size_t size) {
    void *block = hit_alloc(size);
    return HAK_LIKELY(block != nullptr) ? block : slow_new(size, 1);
}

HAK_INLINE void *new_nothrow(std::size_t size) noexcept {
    void *block = hit_alloc(size);
    return HAK_LIKELY(block != nullptr) ? block : slow_new_nothrow(size, 1);
}

HAK_INLINE void delete_plain(void *ptr) {
    if (HAK_UNLIKELY(!hit_free(ptr))) {
        slow_free(ptr);
    }
}

HAK_INLINE void delete_sized(void *ptr, std::size_t size) {
    if (HAK_UNLIKELY(!hit_free_sized(ptr, size))) {
        slow_free(ptr);
    }
}

std::size_t number(std::align_val_t align) {
    return static_cast<std::size_t>(align);
}

} // namespace

EXPORT HAK_HOT void *operator new(std::size_t n) {
    return new_plain(n);
}
EXPORT void *operator new[](std::size_t n) {
    return new_plain(n);
}
EXPORT void *operator new(std::size_t n, const std::nothrow_t &) noexcept {
    return new_nothrow(n);
}
EXPORT void *operator new[](std::size_t n, const std::nothrow_t &) noexcept {
    return new_nothrow(n);
}
EXPORT void *operator new(std::size_t n, std::align_val_t a) {
    return slow_new(n, number(a));
}
EXPORT void *operator new[](std::size_t n, std::align_val_t a) {
    return slow_new(n, number(a));
}
EXPORT void *operator new(std::size_t n, std::align_val_t a, const std::nothrow_t &) noexcept {
    return slow_new_nothrow(n, number(a));
}
EXPORT void *operator new[](std::size_t n, std::align_val_t a, const std::nothrow_t &) noexcept {
    return slow_new_nothrow(n, number(a));
}

EXPORT HAK_HOT void operator delete(void *p) noexcept {
    delete_plain(p);
}
EXPORT void operator delete[](void *p) noexcept {
    delete_plain(p);
}
EXPORT HAK_HOT void operator delete(void *p, std::size_t n) noexcept {
    delete_sized(p, n);
}
EXPORT void operator delete[](void *p, std::size_t n) noexcept {
    delete_sized(p, n);
}
EXPORT void operator delete(void *p, const std::nothrow_t &) noexcept {
    delete_plain(p);
}
EXPORT void operator delete[](void *p, const std::nothrow_t &) noexcept {
    delete_plain(p);
}
// An aligned block's bin does not follow from its size alone: the page map is asked.
EXPORT void operator delete(void *p, std::align_val_t) noexcept {
    delete_plain(p);
}
EXPORT void operator delete[](void *p, std::align_val_t) noexcept {
    delete_plain(p);
}
EXPORT void operator delete(void *p, std::size_t, std::align_val_t) noexcept {
    delete_plain(p);
}
EXPORT void operator delete[](void *p, std::size_t, std::align_val_t) noexcept {
    delete_plain(p);
}
EXPORT void operator delete(void *p, std::align_val_t, const std::nothrow_t &) noexcept {
    delete_plain(p);
}
EXPORT void operator delete[](void *p, std::align_val_t, const std::nothrow_t &) noexcept {
    delete_plain(p);
}
