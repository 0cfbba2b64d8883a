// SPDX-License-Identifier: Apache-2.0
// Random numbers for tests, from a seed; they allocate nothing.
#ifndef HAKMEM_FRONTS_LIBC_TEST_RANDOM_H
#define HAKMEM_FRONTS_LIBC_TEST_RANDOM_H

#include <stdint.h>

namespace test_util {

struct Random {
    uint64_t state;
    uint32_t operator()() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<uint32_t>(state >> 33);
    }
};

} // namespace test_util

#endif
