// SPDX-License-Identifier: Apache-2.0
#include "boxes/sampler/sampler.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"

__thread int64_t sampler_left __attribute__((tls_model("initial-exec")));

// The state of the thread's random numbers; 0: it has no distance drawn yet.
static __thread uint64_t state __attribute__((tls_model("initial-exec")));

static _Atomic(uint64_t) rate_now; // 0: off

// Fixed point: 58 bits behind the point, as 6 before it are enough for an exponent.
enum { FIXED = 58 };
#define FIXED_ONE (UINT64_C(1) << FIXED)

// a * b, where b is below 1 and has `shift` bits behind the point.
static uint64_t scale(uint64_t a, uint64_t b, unsigned shift) {
    return (uint64_t)((unsigned __int128)a * b >> shift);
}

// splitmix64.
static uint64_t next_random(void) {
    state += HAK_GOLDEN;
    return hak_mix(state);
}

// -log2(u / 2^64) with 32 bits behind the point, u > 0. A bit a squaring: the square of a number
// whose logarithm is f has the logarithm 2f.
static uint64_t minus_log2(uint64_t u) {
    unsigned zeros = (unsigned)__builtin_clzll(u);
    uint64_t x = u << zeros >> 1; // in 1..2, with 62 bits behind the point
    uint64_t fraction = 0;
    for (int bit = 31; bit >= 0; bit--) {
        x = scale(x, x, 62);
        if (x >> 63 != 0) {
            x >>= 1;
            fraction |= UINT64_C(1) << bit;
        }
    }
    return ((uint64_t)(zeros + 1) << 32) - fraction;
}

// Returns a distance: exponentially distributed with the mean `rate`, rounded down.
static int64_t draw(uint64_t rate) {
    static const uint64_t ln2 = UINT64_C(0xb17217f7); // with 32 bits behind the point
    uint64_t u = next_random();
    uint64_t units = scale(minus_log2(u == 0 ? 1 : u), ln2, 32);
    return (int64_t)scale(units, rate, 32);
}

void sampler_seed(uint64_t seed) {
    state = seed;
    sampler_left = draw(atomic_load_explicit(&rate_now, memory_order_relaxed));
}

void sampler_start(uint64_t rate) {
    atomic_store(&rate_now, rate);
    state = 0;
    sampler_left = 0;
}

uint64_t sampler_rate(void) {
    return atomic_load_explicit(&rate_now, memory_order_relaxed);
}

// In a forked child, the thread goes on with its parent's random numbers. That is no fault, because
// each process is sampled by itself.
static uint64_t fresh_seed(void) {
    static _Atomic(uint64_t) threads;
    uint64_t nth = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed);
    uint64_t seed = os_random() + (nth << 1) * UINT64_C(0xd1342543de82ef95);
    return seed == 0 ? 1 : seed;
}

bool sampler_decides(size_t size) {
    enum { LOOK_AGAIN = 1 << 20 };
    uint64_t rate = sampler_rate();
    if (rate <= 1) {
        state = 0;
        sampler_left = rate == 0 ? LOOK_AGAIN : -1;
        return rate == 1;
    }
    if (state == 0) {
        sampler_seed(fresh_seed());
        sampler_left -= (int64_t)sampler_bytes(size);
        if (sampler_left >= 0) {
            return false;
        }
    }
    sampler_left = draw(rate);
    return true;
}

// 1 - exp(-t) for t below 1.
static uint64_t one_minus_exp(uint64_t t) {
    enum { TERMS = 20 }; // 1 / 20! is below the last bit
    uint64_t term = t;
    uint64_t sum = t;
    for (unsigned i = 2; i <= TERMS; i++) {
        term = scale(term, t, FIXED) / i;
        sum = i % 2 == 0 ? sum - term : sum + term;
    }
    return sum;
}

// a / b in fixed point, a below 2^6 * b and b up to 2^40.
static uint64_t divide(uint64_t a, uint64_t b) {
    uint64_t quotient = a / b;
    uint64_t rest = a % b;
    for (int i = 0; i < FIXED; i++) {
        rest <<= 1;
        quotient = quotient << 1 | (rest >= b);
        rest = rest >= b ? rest - b : rest;
    }
    return quotient;
}

uint64_t sampler_weight(size_t size, uint64_t rate) {
    enum { CERTAIN = 40 };                                       // e^-40 is below the last bit
    static const uint64_t log2_e = UINT64_C(0x5c551d94ae0bf85d); // with 62 bits behind the point
    static const uint64_t ln2 = UINT64_C(0x2c5c85fdf473de6);     // with FIXED bits
    uint64_t bytes = sampler_bytes(size);
    if (rate <= 1 || bytes / rate >= CERTAIN) {
        return UINT64_C(1) << SAMPLER_FRACTION;
    }
    uint64_t x = divide(bytes, rate);
    uint64_t halvings = scale(x, log2_e, 62);
    unsigned whole = (unsigned)(halvings >> FIXED);
    uint64_t p;
    if (whole == 0) {
        p = one_minus_exp(x);
    } else {
        uint64_t rest = scale(halvings & (FIXED_ONE - 1), ln2, FIXED);
        p = FIXED_ONE - ((FIXED_ONE - one_minus_exp(rest)) >> whole);
    }
    // 2^FRACTION / p from the 32 highest bits of p.
    unsigned zeros = (unsigned)__builtin_clzll(p);
    uint64_t reciprocal = UINT64_MAX / (p << zeros >> 32);
    int shift = (int)zeros - (96 - FIXED - SAMPLER_FRACTION);
    return shift >= 0 ? reciprocal << shift : reciprocal >> -shift;
}
