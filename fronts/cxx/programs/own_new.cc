// SPDX-License-Identifier: Apache-2.0
// Replaces the two basic operators only, with blocks that begin 16 bytes into malloc's.
// [new.delete]: the default forms that are plain call them, the aligned ones do not.
#include "check.h"

#include <initializer_list>
#include <new>
#include <string>
#include <vector>

static long news, deletes;
static bool full;

void *operator new(std::size_t size) {
    char *block = full ? nullptr : static_cast<char *>(std::malloc(size + 16));
    if (block == nullptr) {
        throw std::bad_alloc();
    }
    news++;
    return block + 16;
}

void operator delete(void *ptr) noexcept {
    if (ptr != nullptr) {
        deletes++;
        std::free(static_cast<char *>(ptr) - 16);
    }
}

static void all_forms(std::size_t size) {
    void *volatile p;
    long before = news;
    p = ::operator new(size);
    ::operator delete(p, size);
    p = ::operator new[](size);
    ::operator delete[](p);
    p = ::operator new[](size);
    ::operator delete[](p, size);
    p = ::operator new(size, std::nothrow);
    ::operator delete(p, std::nothrow);
    p = ::operator new[](size, std::nothrow);
    ::operator delete[](p, std::nothrow);
    p = ::operator new(size);
    ::operator delete(p);
    CHECK(news - before == 6);
    CHECK(news == deletes);
    for (std::size_t align : {std::size_t{16}, std::size_t{64}, std::size_t{4096}}) {
        std::align_val_t a{align};
        p = ::operator new(size, a);
        CHECK(reinterpret_cast<uintptr_t>(p) % align == 0);
        ::operator delete(p, a);
        p = ::operator new[](size, a);
        ::operator delete[](p, a);
        p = ::operator new(size, a, std::nothrow);
        ::operator delete(p, size, a);
        p = ::operator new[](size, a, std::nothrow);
        CHECK(reinterpret_cast<uintptr_t>(p) % align == 0);
        ::operator delete[](p, size, a);
        p = ::operator new(size, a);
        ::operator delete(p, a, std::nothrow);
        p = ::operator new[](size, a);
        ::operator delete[](p, a, std::nothrow);
    }
    CHECK(news - before == 6);
}

struct Node {
    int value[10];
    std::string text;
};

int main() {
    for (std::size_t size : {0, 1, 16, 100, 1000, 1024, 1025, 5000, 40000, 3000000}) {
        for (int i = 0; i < 20; i++) {
            all_forms(size);
        }
    }
    for (int i = 0; i < 20000; i++) {
        Node *one = new Node;
        Node *many = new Node[7];
        Node *quiet = new (std::nothrow) Node;
        std::vector<std::string> strings(10, std::string(100, 'x'));
        strings.emplace_back("another");
        delete one;
        delete[] many;
        delete quiet;
    }
    CHECK(news == deletes);
    CHECK(news >= 5 * 20000);

    full = true;
    CHECK(::operator new(10, std::nothrow) == nullptr);
    CHECK(::operator new[](10, std::nothrow) == nullptr);
    bool thrown = false;
    try {
        ::operator delete[](::operator new[](10));
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown);
    return check_failures != 0;
}
