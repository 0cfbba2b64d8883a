// SPDX-License-Identifier: Apache-2.0
// The C++ front: every replaceable operator new and delete.
//
// The one translation unit of the allocator that is C++: a nothrow operator new has to catch what a
// new-handler throws. The C++ library is referred to weakly throughout, so that a C program can
// preload this library without it.
//
// While all basic functions are this library's, every operator goes straight to the heap. Once one
// of them is interposed, no operator hits any more (thread_heap_of_operators() stays empty). Then
// the slow paths below do as [new.delete] requires: each operator calls the operator from which it
// is derived.
#include <cstddef>
#include <cstdlib>
#include <new>

#include "boxes/diagnostics/diagnostics.h"
#include "fronts/cxx/operators.h"
#include "fronts/libc/hit_path.h"

__asm__(".weak __gxx_personality_v0\n"
        ".weak __cxa_begin_catch\n"
        ".weak __cxa_end_catch\n");

namespace std {
__attribute__((weak, noreturn)) void __throw_bad_alloc();
__attribute__((weak)) new_handler get_new_handler() noexcept;
} // namespace std

// Weak, so that a program that is linked with the archive may define some operators itself. A call
// of an operator, also from here, calls the function that the process has under that name.
#define EXPORT __attribute__((visibility("default"), weak))

namespace {

// The requested size.
enum : unsigned { PLAIN = 0, ARRAY = 1, ALIGNED = 2, NOTHROW = 4 };

constexpr const char *kNames[] = {
    "_Znwm",
    "_Znam",
    "_ZnwmSt11align_val_t",
    "_ZnamSt11align_val_t",
    "_ZnwmRKSt9nothrow_t",
    "_ZnamRKSt9nothrow_t",
    "_ZnwmSt11align_val_tRKSt9nothrow_t",
    "_ZnamSt11align_val_tRKSt9nothrow_t",
};

using new_plain_fn = void *(std::size_t);
using new_aligned_fn = void *(std::size_t, std::align_val_t);
using new_plain_nothrow_fn = void *(std::size_t, const std::nothrow_t &) noexcept;
using new_aligned_nothrow_fn = void *(std::size_t, std::align_val_t,
                                      const std::nothrow_t &) noexcept;

// Returns true if the process has a C++ library; a C program has none.
bool has_runtime() {
    return std::__throw_bad_alloc != nullptr;
}

// Behind a failed allocation: the installed new-handler is called until one of its calls has freed
// enough, throws, or ends the program; without one the answer is "no more".
bool run_new_handler() {
    std::new_handler handler = std::get_new_handler != nullptr ? std::get_new_handler() : nullptr;
    if (handler == nullptr) {
        return false;
    }
    handler();
    return true;
}

std::size_t number(std::align_val_t align) {
    return static_cast<std::size_t>(align);
}

// The basic operators are derived from malloc and aligned_alloc of the process. Like
// libstdc++, which hands them no size of 0, and no size that is not a multiple of the alignment.
void *allocate_elsewhere(std::size_t size, std::align_val_t align, unsigned form) {
    if (size == 0) {
        size = 1;
    }
    if ((form & ALIGNED) == 0) {
        return std::malloc(size);
    }
    std::size_t rounded = hak_round_up(size, number(align));
    return rounded >= size ? std::aligned_alloc(number(align), rounded) : nullptr;
}

bool interposed() {
    return HAK_UNLIKELY(!thread_heap_operators_open()) && operators_state() == OPERATORS_INTERPOSED;
}

// Once the thread has a heap: lets the operators hit in it from now on.
void open_operators() {
    if (HAK_UNLIKELY(!thread_heap_operators_open()) && operators_state() == OPERATORS_OWN) {
        thread_heap_open_operators();
    }
}

void *allocate(std::size_t size, std::align_val_t align, unsigned form) {
    if (HAK_UNLIKELY(interposed())) {
        return allocate_elsewhere(size, align, form);
    }
    void *block = (form & ALIGNED) == 0 || number(align) <= HAK_MIN_ALIGN
                      ? slow_alloc(size)
                      : slow_aligned_alloc(number(align), size);
    open_operators();
    return block;
}

// The operator of the process that has this form.
void *call_new(std::size_t size, std::align_val_t align, unsigned form) {
    switch (form) {
    case PLAIN:
        return ::operator new(size);
    case ARRAY:
        return ::operator new[](size);
    case ALIGNED:
        return ::operator new(size, align);
    default:
        return ::operator new[](size, align);
    }
}

// The C++ library has come later, with a plug-in of a C program: its operator of the same form
// tries again, by way of malloc, and has the new-handler and the exception.
HAK_COLD void *ask_runtime(std::size_t size, std::align_val_t align, unsigned form,
                           const void *caller) {
    void *found = operators_of_runtime(kNames[form], caller);
    if (found == nullptr && (form & NOTHROW) != 0 && interposed()) {
        return call_new(size, align, form & ~NOTHROW); // and no code that could throw
    }
    if (found == nullptr) {
        diag_misuse("operator new", nullptr,
                    "out of memory, and no C++ library to throw bad_alloc");
    }
    const std::nothrow_t nothrow{};
    switch (form & (ALIGNED | NOTHROW)) {
    case PLAIN:
        return reinterpret_cast<new_plain_fn *>(found)(size);
    case ALIGNED:
        return reinterpret_cast<new_aligned_fn *>(found)(size, align);
    case NOTHROW:
        return reinterpret_cast<new_plain_nothrow_fn *>(found)(size, nothrow);
    default:
        return reinterpret_cast<new_aligned_nothrow_fn *>(found)(size, align, nothrow);
    }
}

// Returns a block of this library's heap while the operators are open. Returns NULL if they are
// not, if there is no memory, or if the alignment is bad: then a slower path below reports it.
HAK_INLINE void *open_new(std::size_t size, std::align_val_t align, unsigned form) {
    if (HAK_UNLIKELY(!thread_heap_operators_open())) {
        return nullptr;
    }
    if ((form & ALIGNED) == 0) {
        return slow_alloc(size);
    }
    if (number(align) <= HAK_MIN_ALIGN || !hak_is_pow2(number(align))) {
        return nullptr;
    }
    void *block = hit_aligned_alloc(number(align), size);
    return HAK_LIKELY(block != nullptr) ? block : slow_aligned_alloc(number(align), size);
}

// The two functions below are reached by tail calls, so that they return to the code that called
// the operator.
#define CALLER __builtin_return_address(0)

HAK_NOINLINE void *closed_new(std::size_t size, std::align_val_t align, unsigned form,
                              const void *caller) {
    if ((form & ARRAY) != 0 && HAK_UNLIKELY(interposed())) {
        return call_new(size, align, form & ~ARRAY);
    }
    bool aligned = (form & ALIGNED) == 0 || hak_is_pow2(number(align));
    void *block;
    while (!aligned || (block = allocate(size, align, form)) == nullptr) {
        if (!has_runtime()) {
            return ask_runtime(size, align, form, caller);
        }
        if (!aligned || !run_new_handler()) {
            std::__throw_bad_alloc();
        }
    }
    return block;
}

HAK_NOINLINE void *slow_new(std::size_t size, std::align_val_t align, unsigned form) {
    void *block = open_new(size, align, form);
    return HAK_LIKELY(block != nullptr) ? block : closed_new(size, align, form, CALLER);
}

// As slow_new() in a C++ program, for operators that must not throw.
HAK_COLD void *try_new(std::size_t size, std::align_val_t align, unsigned form) noexcept {
    try {
        if (interposed()) {
            return call_new(size, align, form & ~NOTHROW);
        }
        void *block;
        while ((block = allocate(size, align, form)) == nullptr && run_new_handler()) {
        }
        return block;
    } catch (...) {
        return nullptr;
    }
}

HAK_NOINLINE void *slow_new_nothrow(std::size_t size, std::align_val_t align,
                                    unsigned form) noexcept {
    void *quick = open_new(size, align, form);
    if (HAK_LIKELY(quick != nullptr)) {
        return quick;
    }
    if ((form & ALIGNED) != 0 && !hak_is_pow2(number(align))) {
        return nullptr;
    }
    if (!interposed()) {
        void *block = allocate(size, align, form);
        if (HAK_LIKELY(block != nullptr)) {
            return block;
        }
    }
    return has_runtime() ? try_new(size, align, form) : ask_runtime(size, align, form, CALLER);
}

// The deletes other than the basic ones are derived from these four.
void call_delete(void *ptr, std::align_val_t align, unsigned form) noexcept {
    switch (form) {
    case PLAIN:
        return ::operator delete(ptr);
    case ARRAY:
        return ::operator delete[](ptr);
    case ALIGNED:
        return ::operator delete(ptr, align);
    default:
        return ::operator delete[](ptr, align);
    }
}

// Does a delete that is no hit. `form` is the operator from which it is derived.
HAK_NOINLINE void slow_delete(void *ptr, std::align_val_t align, unsigned form) noexcept {
    if (HAK_LIKELY(thread_heap_operators_open())) {
        slow_free(ptr);
        return;
    }
    if (HAK_UNLIKELY(interposed())) {
        call_delete(ptr, align, form);
        return;
    }
    slow_free(ptr);
    open_operators();
}

// The same for the two operators that are derived from free().
HAK_NOINLINE void slow_delete_basic(void *ptr) noexcept {
    if (HAK_LIKELY(thread_heap_operators_open())) {
        slow_free(ptr);
        return;
    }
    if (HAK_UNLIKELY(interposed())) {
        std::free(ptr);
        return;
    }
    slow_free(ptr);
    open_operators();
}

constexpr std::align_val_t kNone{};

// The size and the alignment that a delete is given are compared if the block is this library's.
HAK_INLINE void check_size(void *ptr, std::align_val_t align, std::size_t size) {
    if (HAK_HARDENED && !interposed()) {
        slow_check_size("operator delete", ptr, number(align), size);
    }
}
HAK_INLINE void check_align(void *ptr, std::align_val_t align) {
    if (HAK_HARDENED && !interposed()) {
        slow_check_align("operator delete", ptr, number(align));
    }
}

HAK_INLINE void *new_plain(std::size_t size, unsigned form) {
    void *block = hit_alloc_from(thread_heap_of_operators(), size);
    return HAK_LIKELY(block != nullptr) ? block : slow_new(size, kNone, form);
}

HAK_INLINE void *new_nothrow(std::size_t size, unsigned form) noexcept {
    void *block = hit_alloc_from(thread_heap_of_operators(), size);
    return HAK_LIKELY(block != nullptr) ? block : slow_new_nothrow(size, kNone, form);
}

HAK_INLINE void delete_basic(void *ptr) {
    if (HAK_UNLIKELY(!hit_free_to(thread_heap_of_operators(), ptr))) {
        slow_delete_basic(ptr);
    }
}

// An aligned block's bin does not follow from its size alone: the page map is asked.
HAK_INLINE void delete_derived(void *ptr, std::align_val_t align, unsigned form) {
    if (HAK_UNLIKELY(!hit_free_to(thread_heap_of_operators(), ptr))) {
        slow_delete(ptr, align, form);
    }
}

HAK_INLINE void delete_sized(void *ptr, std::size_t size, unsigned form) {
    check_size(ptr, kNone, size);
    if (HAK_UNLIKELY(!hit_free_sized_to(thread_heap_of_operators(), ptr, size))) {
        slow_delete(ptr, kNone, form);
    }
}

} // namespace

EXPORT HAK_HOT void *operator new(std::size_t n) {
    return new_plain(n, PLAIN);
}
EXPORT void *operator new[](std::size_t n) {
    return new_plain(n, ARRAY);
}
EXPORT void *operator new(std::size_t n, const std::nothrow_t &) noexcept {
    return new_nothrow(n, NOTHROW);
}
EXPORT void *operator new[](std::size_t n, const std::nothrow_t &) noexcept {
    return new_nothrow(n, NOTHROW | ARRAY);
}
EXPORT void *operator new(std::size_t n, std::align_val_t a) {
    return slow_new(n, a, ALIGNED);
}
EXPORT void *operator new[](std::size_t n, std::align_val_t a) {
    return slow_new(n, a, ALIGNED | ARRAY);
}
EXPORT void *operator new(std::size_t n, std::align_val_t a, const std::nothrow_t &) noexcept {
    return slow_new_nothrow(n, a, NOTHROW | ALIGNED);
}
EXPORT void *operator new[](std::size_t n, std::align_val_t a, const std::nothrow_t &) noexcept {
    return slow_new_nothrow(n, a, NOTHROW | ALIGNED | ARRAY);
}

EXPORT HAK_HOT void operator delete(void *p) noexcept {
    delete_basic(p);
}
EXPORT void operator delete[](void *p) noexcept {
    delete_derived(p, kNone, PLAIN);
}
EXPORT HAK_HOT void operator delete(void *p, std::size_t n) noexcept {
    delete_sized(p, n, PLAIN);
}
EXPORT void operator delete[](void *p, std::size_t n) noexcept {
    delete_sized(p, n, ARRAY);
}
EXPORT void operator delete(void *p, const std::nothrow_t &) noexcept {
    delete_derived(p, kNone, PLAIN);
}
EXPORT void operator delete[](void *p, const std::nothrow_t &) noexcept {
    delete_derived(p, kNone, ARRAY);
}
EXPORT void operator delete(void *p, std::align_val_t a) noexcept {
    check_align(p, a);
    delete_basic(p);
}
EXPORT void operator delete[](void *p, std::align_val_t a) noexcept {
    check_align(p, a);
    delete_derived(p, a, ALIGNED);
}
EXPORT void operator delete(void *p, std::size_t n, std::align_val_t a) noexcept {
    check_size(p, a, n);
    delete_derived(p, a, ALIGNED);
}
EXPORT void operator delete[](void *p, std::size_t n, std::align_val_t a) noexcept {
    check_size(p, a, n);
    delete_derived(p, a, ALIGNED | ARRAY);
}
EXPORT void operator delete(void *p, std::align_val_t a, const std::nothrow_t &) noexcept {
    check_align(p, a);
    delete_derived(p, a, ALIGNED);
}
EXPORT void operator delete[](void *p, std::align_val_t a, const std::nothrow_t &) noexcept {
    check_align(p, a);
    delete_derived(p, a, ALIGNED | ARRAY);
}

// The same functions as the operators of these names, whatever the process has under them.
#define OWN(name)                                                                           \
    __asm__(".globl own_" #name "\n.hidden own_" #name "\n.type own_" #name ", @function\n" \
            ".set own_" #name ", " #name);
OPERATORS_BASIC(OWN)
