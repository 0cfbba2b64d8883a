// SPDX-License-Identifier: Apache-2.0
// The content that tests of the heap write into a block, and check later.
#ifndef HAKMEM_FRONTS_LIBC_BLOCK_CONTENT_H
#define HAKMEM_FRONTS_LIBC_BLOCK_CONTENT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>

namespace test_util {

// A block holds 8-byte words made of its id and the word's place, so that another block's content,
// a shifted one or a stale one is told apart. Very large blocks are filled at both ends and at
// every page, to save time; those of 32 MiB and more at some hundred pages.
class Content {
  public:
    static void Write(unsigned char *p, size_t size, uint64_t id) {
        Visit(size, [=](size_t at, size_t n) {
            uint64_t word = Word(id, at);
            memcpy(p + at, &word, n);
            return true;
        });
    }
    // Only what Write() wrote for a block of `written` bytes, as far as `size` goes.
    static bool Check(const unsigned char *p, size_t size, size_t written, uint64_t id) {
        bool good = true;
        Visit(written, [=, &good](size_t at, size_t n) {
            if (at >= size) {
                return false;
            }
            n = std::min(n, size - at);
            uint64_t word = Word(id, at);
            good = memcmp(p + at, &word, n) == 0;
            return good;
        });
        return good;
    }

  private:
    static uint64_t Word(uint64_t id, size_t at) {
        return (id + 1) * 0x9e3779b97f4a7c15u ^ at * 0xff51afd7ed558ccdu;
    }
    template <typename Fn> static void Visit(size_t size, Fn fn) {
        constexpr size_t kWhole = 16384;
        const size_t step = (size < (size_t{32} << 20) ? 1 : size >> 21) * 4096;
        for (size_t at = 0; at < size;) {
            if (!fn(at, std::min(size_t{8}, size - at))) {
                return;
            }
            at += 8;
            if (size > kWhole && at > 512 && at + 512 < size) {
                // One word a page, its place moving through the page.
                at = std::min(at + step + 8, (size - 504) & ~size_t{7});
            }
        }
    }
};

inline bool IsZero(const unsigned char *p, size_t n) {
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

} // namespace test_util

#endif
