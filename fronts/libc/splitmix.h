// SPDX-License-Identifier: Apache-2.0
// Random numbers for the tests of the heap, the same on every machine: 64 bits each, which
// test_random.h's are not.
#ifndef HAKMEM_FRONTS_LIBC_SPLITMIX_H
#define HAKMEM_FRONTS_LIBC_SPLITMIX_H

#include <stddef.h>
#include <stdint.h>

namespace test_util {

class SplitMix {
  public:
    explicit SplitMix(uint64_t seed) : state_(seed) {}
    uint64_t Next() { // splitmix64
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    uint64_t Below(uint64_t n) { return Next() % n; }
    bool OneIn(uint64_t n) { return Below(n) == 0; }
    template <typename T, size_t n> T Of(const T (&choices)[n]) { return choices[Below(n)]; }

  private:
    uint64_t state_;
};

} // namespace test_util

#endif
