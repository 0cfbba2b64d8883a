// SPDX-License-Identifier: Apache-2.0
// atomic_bitmap: sets of small numbers as bits of 64-bit words, claimed and returned without locks.
//
// A set bit means "free". A thread that clears a bit owns the thing that the bit stands for, and
// gives it back by setting the bit. There are no nodes, so a set cannot run out, and no pointers,
// so there is no ABA. Every operation is lock-free and sequentially consistent; after any single
// step the set is usable, so a forked child can go on with it.
#ifndef HAKMEM_BOXES_ATOMIC_BITMAP_ATOMIC_BITMAP_H
#define HAKMEM_BOXES_ATOMIC_BITMAP_ATOMIC_BITMAP_H

#include "boxes/base/alone.h"
#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/cpu/cpu.h"

HAK_C_BEGIN

typedef _Atomic(uint64_t) atomic_bitmap_word;

enum { ATOMIC_BITMAP_BITS = 64 };
#define ATOMIC_BITMAP_NONE SIZE_MAX

// Returns a word with `count` (0..64) ones from bit `from` on; from + count <= 64.
HAK_INLINE uint64_t atomic_bitmap_mask(unsigned from, unsigned count) {
    return count == 0 ? 0 : (~UINT64_C(0) >> (64 - count)) << from;
}

// Returns how many bits of a word are set.
HAK_INLINE unsigned atomic_bitmap_count(atomic_bitmap_word *word) {
    return (unsigned)__builtin_popcountll(atomic_load_explicit(word, memory_order_relaxed));
}

// Returns up to `most` (>= 1) of the lowest set bits of a word. Claims nothing.
HAK_INLINE uint64_t atomic_bitmap_lowest(atomic_bitmap_word *word, unsigned most) {
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
    uint64_t rest = 0;
    if (most < ATOMIC_BITMAP_BITS && most < (unsigned)__builtin_popcountll(seen)) {
        rest = seen;
        for (unsigned i = 0; i < most; i++) {
            rest &= rest - 1;
        }
    }
    return seen & ~rest;
}

// Claims up to `most` (>= 1) of the lowest set bits of a word. Returns the bits that were claimed,
// maybe none.
HAK_INLINE uint64_t atomic_bitmap_take(atomic_bitmap_word *word, unsigned most) {
    uint64_t want = atomic_bitmap_lowest(word, most);
    return want == 0 ? 0 : atomic_fetch_and(word, ~want) & want;
}

// Claims one given bit. Returns false if the bit was not set.
HAK_INLINE bool atomic_bitmap_claim(atomic_bitmap_word *words, size_t bit) {
    uint64_t mask = UINT64_C(1) << (bit & 63);
    return (atomic_fetch_and(&words[bit >> 6], ~mask) & mask) != 0;
}

// Sets bits of a word, which gives them back. Returns the word as it was before.
HAK_INLINE uint64_t atomic_bitmap_put(atomic_bitmap_word *word, uint64_t mask) {
    return atomic_fetch_or(word, mask);
}

// As atomic_bitmap_put(), for bits that are expected to be clear, in fewer instructions. If the
// result has one of them set, the word is broken from then on. `alone`: hak_alone() says that no
// atomic step is needed.
HAK_INLINE uint64_t atomic_bitmap_put_clear(atomic_bitmap_word *word, uint64_t mask, bool alone) {
#if CPU_PLAIN_STEPS
    if (alone) {
        // Still one instruction, so a signal handler runs before or after it.
        return cpu_plain_fetch_add(word, mask);
    }
#endif
    (void)alone;
    return atomic_fetch_add(word, mask);
}

HAK_INLINE bool atomic_bitmap_test(atomic_bitmap_word *words, size_t bit) {
    return (atomic_load_explicit(&words[bit >> 6], memory_order_relaxed) >> (bit & 63) & 1) != 0;
}

// Claims the bits `mask` of a word, all together or not at all.
HAK_INLINE bool atomic_bitmap_claim_mask(atomic_bitmap_word *word, uint64_t mask) {
    for (;;) {
        uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
        if ((seen & mask) != mask) {
            return false;
        }
        if (HAK_LIKELY(hak_step_swap(word, seen, seen & ~mask))) {
            return true;
        }
    }
}

// Sets bits of a word that may be set already. A word that has them all is not written.
HAK_INLINE void atomic_bitmap_ensure(atomic_bitmap_word *word, uint64_t mask) {
    if ((atomic_load_explicit(word, memory_order_relaxed) & mask) != mask) {
        hak_step_set(word, mask);
    }
}

// As above, for a caller that has just written another word: of two threads of which each writes a
// word and then looks at the other's, one sees what the other has written.
HAK_INLINE void atomic_bitmap_ensure_now(atomic_bitmap_word *word, uint64_t mask) {
    if ((atomic_load(word) & mask) != mask) {
        hak_step_set(word, mask);
    }
}

// For runs that may span words; called by the functions below, and where a run is known to do so.
bool atomic_bitmap_claim_long_run(atomic_bitmap_word *words, size_t from, size_t count);
void atomic_bitmap_put_long_run(atomic_bitmap_word *words, size_t from, size_t count);
void atomic_bitmap_ensure_long_run(atomic_bitmap_word *words, size_t from, size_t count);

// Returns true if a run lies in one word, as most runs do, and sets *mask to its bits.
HAK_INLINE bool atomic_bitmap_is_short(size_t from, size_t count, uint64_t *mask) {
    unsigned bit = (unsigned)(from & 63);
    if (HAK_UNLIKELY(count > 64 - bit)) {
        return false;
    }
    *mask = atomic_bitmap_mask(bit, (unsigned)count);
    return true;
}

// Claims bits [from, from + count) all together or not at all.
HAK_INLINE bool atomic_bitmap_claim_run(atomic_bitmap_word *words, size_t from, size_t count) {
    uint64_t mask;
    return atomic_bitmap_is_short(from, count, &mask)
               ? atomic_bitmap_claim_mask(&words[from >> 6], mask)
               : atomic_bitmap_claim_long_run(words, from, count);
}

// Sets bits [from, from + count).
HAK_INLINE void atomic_bitmap_put_run(atomic_bitmap_word *words, size_t from, size_t count) {
    uint64_t mask;
    if (atomic_bitmap_is_short(from, count, &mask)) {
        hak_step_set(&words[from >> 6], mask);
    } else {
        atomic_bitmap_put_long_run(words, from, count);
    }
}

// As atomic_bitmap_put_run(), for bits that may be set already. A word that has them all is not
// written.
HAK_INLINE void atomic_bitmap_ensure_run(atomic_bitmap_word *words, size_t from, size_t count) {
    uint64_t mask;
    if (atomic_bitmap_is_short(from, count, &mask)) {
        atomic_bitmap_ensure(&words[from >> 6], mask);
    } else {
        atomic_bitmap_ensure_long_run(words, from, count);
    }
}

// Clears bits [from, from + count).
void atomic_bitmap_clear_run(atomic_bitmap_word *words, size_t from, size_t count);

// Counts set bits of [from, from + count); exact only while no other thread changes them.
size_t atomic_bitmap_count_run(atomic_bitmap_word *words, size_t from, size_t count);

// Claims the lowest set bit of `bits` bits (a multiple of 64). Returns ATOMIC_BITMAP_NONE if all
// are clear.
size_t atomic_bitmap_claim_lowest(atomic_bitmap_word *words, size_t bits);
HAK_C_END

#endif
