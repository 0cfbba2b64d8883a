// SPDX-License-Identifier: Apache-2.0
// base: the few words every box shares. Constants of the platform, branch hints, rounding.
//
// All sizes are in bytes unless a name says otherwise. Nothing here keeps state.
#ifndef HAKMEM_BOXES_BASE_BASE_H
#define HAKMEM_BOXES_BASE_BASE_H

#include <assert.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Around the declarations of every header that C++ may include.
#ifdef __cplusplus
#    define HAK_C_BEGIN extern "C" {
#    define HAK_C_END   }
#else
#    define HAK_C_BEGIN
#    define HAK_C_END
#endif

#define HAK_LIKELY(x)   __builtin_expect(!!(x), 1)
#define HAK_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define HAK_COLD        __attribute__((noinline, cold))
#define HAK_NOINLINE    __attribute__((noinline))
// For functions of the hit path: they start at a cache line, wherever the code before them ends.
#define HAK_HOT      __attribute__((aligned(64)))
#define HAK_NORETURN __attribute__((noreturn))
#define HAK_INLINE   static inline __attribute__((always_inline))

// Build settings that tools/build/variants.bzl sets to 1 for some flavours: assertions, the header
// byte instead of the page map, and what hakmem_hardened does with blocks.
#ifndef HAK_DEBUG
#    define HAK_DEBUG 0
#endif
#ifndef HAK_HEADER
#    define HAK_HEADER 0
#endif
#ifndef HAK_HARDENED
#    define HAK_HARDENED 0
#endif

enum {
    HAK_PAGE_SHIFT = 12,
    HAK_PAGE = 1 << HAK_PAGE_SHIFT, // the base page
    HAK_CACHE_LINE = 64,
    HAK_MIN_ALIGN = 16, // alignof(max_align_t), and what the psABI promises of malloc
};

// Returns n rounded up to a multiple of `to`, a power of two. Wraps for n > SIZE_MAX - to + 1.
HAK_INLINE size_t hak_round_up(size_t n, size_t to) {
    return (n + to - 1) & ~(to - 1);
}

HAK_INLINE bool hak_is_pow2(size_t n) {
    return n != 0 && (n & (n - 1)) == 0;
}

HAK_INLINE size_t hak_min(size_t a, size_t b) {
    return a < b ? a : b;
}
HAK_INLINE size_t hak_max(size_t a, size_t b) {
    return a > b ? a : b;
}

// 2^64 over the golden ratio, an odd number. The high bits of products with it differ for numbers
// that lie close together, so a product is a hash. Multiples of it are the states of splitmix64.
#define HAK_GOLDEN UINT64_C(0x9e3779b97f4a7c15)

HAK_INLINE uint64_t hak_hash(uint64_t value) {
    return value * HAK_GOLDEN;
}

// The finalizer of splitmix64: each bit of the result depends on each bit of the value. No two
// values have the same result.
HAK_INLINE uint64_t hak_mix(uint64_t value) {
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

// Returns an odd number by which the current thread differs from most others.
HAK_INLINE uint8_t hak_thread_mark(void) {
    return (uint8_t)(hak_hash((uintptr_t)__builtin_thread_pointer()) >> 56 | 1);
}

enum { HAK_THREAD_SLOTS = 64 };

// Returns a number below HAK_THREAD_SLOTS that the current thread shares with few others: libc puts
// a thread's TLS at the upper end of its stack, and stacks lie side by side, a little more than a
// power of two apart (8 MiB by default).
HAK_INLINE unsigned hak_thread_slot(void) {
    uintptr_t tls = (uintptr_t)__builtin_thread_pointer();
    return (unsigned)(tls >> 26 ^ tls >> 23 ^ tls >> 20 ^ tls >> 17) % HAK_THREAD_SLOTS;
}

// Returns true if a page, which starts at a multiple of HAK_PAGE, holds zeros only.
HAK_INLINE bool hak_is_zero_page(const char *page) {
    const uint64_t *words = (const uint64_t *)(const void *)page;
    uint64_t any = 0;
    for (size_t i = 0; i < HAK_PAGE / sizeof *words && any == 0; i += 8) {
        any = words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] |
              words[i + 6] | words[i + 7];
    }
    return any == 0;
}

// Returns floor(log2(n)), n > 0.
HAK_INLINE unsigned hak_log2(uint64_t n) {
    return 63u - (unsigned)__builtin_clzll(n);
}

#endif
