// SPDX-License-Identifier: Apache-2.0
#include "boxes/base/digits.h"

#include <string>

#include "gtest/gtest.h"

namespace {

std::string Digits(uint64_t value, unsigned base) {
    char room[HAK_DIGITS];
    char *end = room + sizeof room;
    char *at = hak_digits(end, value, base);
    EXPECT_GE(at, room);
    return std::string(at, end);
}

TEST(Digits, OfNumbers) {
    EXPECT_EQ(Digits(0, 10), "0");
    EXPECT_EQ(Digits(0, 16), "0");
    EXPECT_EQ(Digits(1234567890, 10), "1234567890");
    EXPECT_EQ(Digits(0xabcdef, 16), "abcdef");
    EXPECT_EQ(Digits(UINT64_MAX, 10), "18446744073709551615");
    EXPECT_EQ(Digits(UINT64_MAX, 16), "ffffffffffffffff");
}

TEST(Digits, OfBytes) {
    const unsigned char bytes[] = {0x00, 0x9a, 0xff, 0x10};
    char room[8];
    EXPECT_EQ(hak_hex(room, bytes, sizeof bytes), room + sizeof room);
    EXPECT_EQ(std::string(room, sizeof room), "009aff10");
    EXPECT_EQ(hak_hex(room, bytes, 0), room);
}

} // namespace
