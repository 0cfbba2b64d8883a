// SPDX-License-Identifier: Apache-2.0
// A program that links lib*.a, and has exceptions of its own: the two share what the compiler makes
// for them.
#include <gtest/gtest.h>
#include <new>
#include <string>

extern "C" const char *hak_flavour();

namespace {

TEST(Archive, ServesTheProgram) {
    EXPECT_STREQ(hak_flavour(), HAK_FLAVOUR);
}

TEST(Archive, AnExceptionOfTheNewHandlerReachesNothrowNew) {
    std::set_new_handler([] { throw std::bad_alloc(); });
    size_t volatile huge = SIZE_MAX / 2;
    EXPECT_EQ(::operator new(huge, std::nothrow), nullptr);
    std::string caught;
    try {
        ::operator delete(::operator new(huge));
    } catch (const std::bad_alloc &) {
        caught = "bad_alloc";
    }
    EXPECT_EQ(caught, "bad_alloc");
    std::set_new_handler(nullptr);
}

} // namespace
