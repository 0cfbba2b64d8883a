// SPDX-License-Identifier: Apache-2.0
#include "boxes/atomic_bitmap/atomic_bitmap.h"

// Returns the part of a run that lies in word `w`.
struct piece {
    size_t word;
    unsigned count;
    uint64_t mask;
};

static struct piece piece_at(size_t from, size_t count) {
    unsigned shift = (unsigned)(from & 63);
    unsigned here = (unsigned)hak_min(count, 64 - shift);
    return (struct piece){from >> 6, here, atomic_bitmap_mask(shift, here)};
}

bool atomic_bitmap_claim_long_run(atomic_bitmap_word *words, size_t from, size_t count) {
    for (size_t done = 0; done < count;) {
        struct piece piece = piece_at(from + done, count - done);
        if (!atomic_bitmap_claim_mask(&words[piece.word], piece.mask)) {
            atomic_bitmap_put_run(words, from, done);
            return false;
        }
        done += piece.count;
    }
    return true;
}

void atomic_bitmap_put_long_run(atomic_bitmap_word *words, size_t from, size_t count) {
    for (size_t done = 0; done < count;) {
        struct piece piece = piece_at(from + done, count - done);
        hak_step_set(&words[piece.word], piece.mask);
        done += piece.count;
    }
}

void atomic_bitmap_ensure_long_run(atomic_bitmap_word *words, size_t from, size_t count) {
    for (size_t done = 0; done < count;) {
        struct piece piece = piece_at(from + done, count - done);
        atomic_bitmap_ensure(&words[piece.word], piece.mask);
        done += piece.count;
    }
}

void atomic_bitmap_clear_run(atomic_bitmap_word *words, size_t from, size_t count) {
    for (size_t done = 0; done < count;) {
        struct piece piece = piece_at(from + done, count - done);
        atomic_fetch_and(&words[piece.word], ~piece.mask);
        done += piece.count;
    }
}

size_t atomic_bitmap_count_run(atomic_bitmap_word *words, size_t from, size_t count) {
    size_t sum = 0;
    for (size_t done = 0; done < count;) {
        struct piece piece = piece_at(from + done, count - done);
        uint64_t seen = atomic_load_explicit(&words[piece.word], memory_order_relaxed);
        sum += (size_t)__builtin_popcountll(seen & piece.mask);
        done += piece.count;
    }
    return sum;
}

size_t atomic_bitmap_claim_lowest(atomic_bitmap_word *words, size_t bits) {
    for (size_t w = 0; w < bits / 64; w++) {
        uint64_t got;
        while (atomic_load_explicit(&words[w], memory_order_relaxed) != 0) {
            got = atomic_bitmap_take(&words[w], 1);
            if (got != 0) {
                return w * 64 + (size_t)__builtin_ctzll(got);
            }
        }
    }
    return ATOMIC_BITMAP_NONE;
}
