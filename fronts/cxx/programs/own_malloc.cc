// SPDX-License-Identifier: Apache-2.0
// A program with a malloc of its own, which it exports, and (OPERATORS) with the two basic
// operators, as Firefox's processes are. What it leaves out has to reach what it has.
#include "check.h"

#include <errno.h>

#include <initializer_list>
#include <new>
#include <string>

alignas(4096) static char pool[128 << 20];
static std::size_t used;

static void *take(std::size_t align, std::size_t size) {
    used = (used + 16 + align - 1) / align * align;
    char *block = pool + used;
    used += (size + 15) / 16 * 16;
    if (used > sizeof pool) {
        return nullptr;
    }
    reinterpret_cast<std::size_t *>(block)[-1] = size;
    return block;
}

static bool is_mine(const void *ptr) {
    return ptr >= pool && ptr < pool + sizeof pool;
}

static long freed;

static void drop(void *ptr) {
    if (ptr != nullptr && !is_mine(ptr)) {
        static const char text[] = "a foreign block came back\n";
        (void)!write(1, text, sizeof text - 1);
        _exit(1);
    }
    freed += ptr != nullptr;
}

extern "C" {
void *malloc(std::size_t size) {
    return size > sizeof pool ? nullptr : take(16, size);
}
void free(void *ptr) {
    drop(ptr);
}
void *calloc(std::size_t count, std::size_t size) {
    return take(16, count * size); // never used before
}
void *realloc(void *ptr, std::size_t size) {
    drop(ptr);
    void *fresh = take(16, size);
    if (ptr != nullptr) {
        std::size_t old = static_cast<std::size_t *>(ptr)[-1];
        memcpy(fresh, ptr, old < size ? old : size);
    }
    return fresh;
}
void *aligned_alloc(std::size_t align, std::size_t size) {
    return take(align < 16 ? 16 : align, size);
}
// LLVM's library derives from this one.
int posix_memalign(void **out, std::size_t align, std::size_t size) {
    *out = size > sizeof pool ? nullptr : take(align < 16 ? 16 : align, size);
    return *out == nullptr ? ENOMEM : 0;
}
}

#ifdef OPERATORS
void *operator new(std::size_t size) {
    void *block = malloc(size);
    if (block == nullptr) {
        throw std::bad_alloc();
    }
    return block;
}
void operator delete(void *ptr) noexcept {
    drop(ptr);
}
#endif

static void use(std::size_t size) {
    const std::align_val_t a{128};
    void *volatile p;
    long before = freed;
    p = ::operator new(size);
    CHECK(is_mine(p));
    ::operator delete(p, size);
    p = ::operator new(size);
    ::operator delete(p);
    p = ::operator new[](size);
    CHECK(is_mine(p));
    ::operator delete[](p, size);
    p = ::operator new(size, std::nothrow);
    CHECK(is_mine(p));
    ::operator delete(p, std::nothrow);
    p = ::operator new[](size, std::nothrow);
    CHECK(is_mine(p));
    ::operator delete[](p);
    p = ::operator new(size, a);
    CHECK(is_mine(p) && reinterpret_cast<uintptr_t>(p) % 128 == 0);
    ::operator delete(p, a);
    p = ::operator new[](size, a, std::nothrow);
    CHECK(is_mine(p) && reinterpret_cast<uintptr_t>(p) % 128 == 0);
    ::operator delete[](p, size, a);
    CHECK(freed - before == 7);
    p = reallocarray(nullptr, 10, size);
    CHECK(is_mine(p));
    p = reallocarray(p, 20, size);
    CHECK(is_mine(p));
    free(p);
}

int main() {
    char *volatile text = strdup("text");
    CHECK(is_mine(text));
    free(text);
    for (int i = 0; i < 100; i++) {
        for (std::size_t size : {0, 10, 100, 1000, 2000, 10000}) {
            use(size);
        }
        std::string grown(100, 'x');
        grown += grown;
        CHECK(is_mine(grown.data()));
    }
    volatile std::size_t huge = std::size_t{1} << 40;
    CHECK(::operator new(huge, std::nothrow) == nullptr);
    bool thrown = false;
    try {
        ::operator delete(::operator new(huge));
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown);
    return check_failures != 0;
}
