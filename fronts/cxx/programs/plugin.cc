// SPDX-License-Identifier: Apache-2.0
// A C++ plug-in, which runs out of memory in each form of operator new. See plugin_host.c.
#include <cstddef>
#include <new>

extern "C" int plugin(std::size_t huge);

static int calls;
static const std::align_val_t align{64};

struct Special : std::bad_alloc {};

template <typename Allocate> static bool throws_bad_alloc(Allocate allocate) {
    try {
        return allocate() == nullptr;
    } catch (const Special &) {
        return false;
    } catch (const std::bad_alloc &) {
        return true;
    }
}

// 0, or the number of what is wrong.
extern "C" int plugin(std::size_t huge) {
    // Blocks to be had are, and go back.
    for (int i = 0; i < 1000; i++) {
        ::operator delete (::operator new(100), std::size_t{100});
        ::operator delete[](::operator new[](3000));
        ::operator delete(::operator new(300, align), align);
    }
    for (int round = 0; round < 3; round++) {
        if (!throws_bad_alloc([=] { return ::operator new(huge); })) {
            return 1;
        }
        if (!throws_bad_alloc([=] { return ::operator new[](huge); })) {
            return 2;
        }
        if (!throws_bad_alloc([=] { return ::operator new(huge, align); })) {
            return 3;
        }
        if (!throws_bad_alloc([=] { return ::operator new[](huge, align); })) {
            return 4;
        }
        if (::operator new(huge, std::nothrow) != nullptr ||
            ::operator new[](huge, std::nothrow) != nullptr ||
            ::operator new(huge, align, std::nothrow) != nullptr ||
            ::operator new[](huge, align, std::nothrow) != nullptr) {
            return 5;
        }
    }
    // The new-handler is the one of the plug-in's C++ library.
    std::set_new_handler([] {
        if (++calls == 3) {
            std::set_new_handler(nullptr);
        }
    });
    if (!throws_bad_alloc([=] { return ::operator new(huge); }) || calls != 3) {
        return 6;
    }
    std::set_new_handler([] {
        calls++;
        throw Special();
    });
    if (::operator new(huge, std::nothrow) != nullptr ||
        ::operator new[](huge, align, std::nothrow) != nullptr || calls != 5) {
        return 7;
    }
    try {
        ::operator delete(::operator new(huge));
        return 8;
    } catch (const Special &) {
    }
    std::set_new_handler(nullptr);
    return 0;
}
