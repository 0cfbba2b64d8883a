// SPDX-License-Identifier: Apache-2.0
// What fuzz targets share: the input, read as a stream of numbers, and a check.
#ifndef HAKMEM_TOOLS_BUILD_FUZZ_H
#define HAKMEM_TOOLS_BUILD_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Past its end the input is all zeros, so that every prefix of an input is one.
class FuzzInput {
  public:
    FuzzInput(const uint8_t *data, size_t size) : at_(data), end_(data + size) {}
    bool More() const { return at_ < end_; }
    uint64_t Number(unsigned bytes) {
        uint64_t value = 0;
        for (unsigned i = 0; i < bytes; i++) {
            value |= uint64_t{at_ < end_ ? *at_++ : uint8_t{0}} << (8 * i);
        }
        return value;
    }
    // Of 0..n - 1, n <= 65536.
    size_t Below(size_t n) { return Number(n <= 256 ? 1 : 2) % n; }
    bool Flag() { return Number(1) % 2 != 0; }

  private:
    const uint8_t *at_;
    const uint8_t *end_;
};

// Ends the program over what is not as it should be. Allocates nothing.
#define FUZZ_CHECK(condition)                                                      \
    do {                                                                           \
        if (!(condition)) {                                                        \
            dprintf(STDERR_FILENO, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                               \
        }                                                                          \
    } while (0)

#endif
