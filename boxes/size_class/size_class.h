// SPDX-License-Identifier: Apache-2.0
// size_class: from a request's size to its size class, called "bin" in code, and to the group of
// size classes.
//
// A bin holds blocks of one size: 16 B apart up to 128 B, 32 B up to 512 B, 64 B up to 1024 B, and
// above that 8 bins a doubling up to 32 KiB. Bin 0 is no bin: it stands for "not a tiny block". The
// classes C0..C7 are groups of bins by powers of two: C2 is 65..128 B, C3 is 129..256 B, and C7,
// the last one, is 2049 B to 32 KiB.
//
// With HAK_HEADER=1 (the build setting of the header strategy) every block ends in one byte that
// belongs to the next block, and the bins are powers of two, 16 B to 32 KiB: their number has to
// fit in the low half of that byte.
//
// With HAK_HARDENED=1 every block ends in a word that is not its user's (see hardening.h). The bins
// are the usual ones.
//
// Pure functions and constant tables; thread-safe.
#ifndef HAKMEM_BOXES_SIZE_CLASS_SIZE_CLASS_H
#define HAKMEM_BOXES_SIZE_CLASS_SIZE_CLASS_H

#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

// Build setting: 0 has 4 bins a doubling above 1 KiB, at 18, 22, 27 and 32 sixteenths.
#ifndef SIZE_CLASS_FINE
#    define SIZE_CLASS_FINE 1
#endif

enum {
    SIZE_CLASS_STEP = 16, // block sizes are multiples of this
    // Bytes of each block that are not the user's.
    SIZE_CLASS_HEADER = HAK_HARDENED ? 8 : HAK_HEADER,
#if HAK_HEADER
    SIZE_CLASS_BINS = 13, // bins 0..12
    SIZE_CLASS_HIT_MAX = 32768 - SIZE_CLASS_HEADER,
#else
    SIZE_CLASS_BINS = SIZE_CLASS_FINE ? 69 : 49,
    SIZE_CLASS_HIT_MAX = 1024 - SIZE_CLASS_HEADER, // largest whose free may be a hit
#endif
    SIZE_CLASS_TINY_MAX = 32768 - SIZE_CLASS_HEADER, // largest request served by a tiny block
    SIZE_CLASS_CLASSES = 8,                          // C0..C7
    SIZE_CLASS_SLAB = 65536, // bytes of a slab, which holds blocks of one bin
    SIZE_CLASS_MAX_BLOCKS = SIZE_CLASS_SLAB / SIZE_CLASS_STEP,
};

struct size_class_bin {
    uint32_t size;       // block size in bytes, a multiple of 16
    uint32_t reciprocal; // ceil(2^32 / size): (offset * reciprocal) >> 32 is exact below 64 KiB
    uint16_t blocks;     // blocks in a slab
    uint16_t words;      // 64-bit words of a slab's bitmap
    uint16_t slots;      // blocks that a thread's cache may hold
    uint16_t batch;      // most blocks of a refill, unless the cache's stack is deep
};

// Hidden, so that it is read without a detour through the shared object's table of addresses.
extern const struct size_class_bin size_class_bins[SIZE_CLASS_BINS]
    __attribute__((visibility("hidden")));

// Returns the bin of a request (1..SIZE_CLASS_BINS - 1) of 0..SIZE_CLASS_TINY_MAX bytes; 0 counts
// as 1.
HAK_INLINE unsigned size_class_bin_of(size_t size) {
#if HAK_HEADER
    return hak_log2(size | 15) - 2;
#else
    size += SIZE_CLASS_HEADER;
    if (size <= 128) {
        return size == 0 ? 1 : (unsigned)((size + 15) / 16);
    }
    if (size <= 512) {
        return (unsigned)(8 + (size - 128 + 31) / 32);
    }
    if (size <= 1024) {
        return (unsigned)(20 + (size - 512 + 63) / 64);
    }
    unsigned log = hak_log2(size - 1);
    if (SIZE_CLASS_FINE != 0) {
        return 29 + (log - 10) * 8 + (unsigned)((size - 1) >> (log - 3)) - 8;
    }
    unsigned sixteenth = (unsigned)((size - 1) >> (log - 4)) - 16;
    return 29 + (log - 10) * 4 + (sixteenth >= 2) + (sixteenth >= 6) + (sixteenth >= 11);
#endif
}

// A place is the index, in words, of a stack in a heap: the hit path finds the stack by it. A stack
// has two words (see fast_cache.h), so the stack of bin n has place 2 n. That is the place for
// malloc, and for a free if the bin is one of those whose frees may be hits. The place for a free
// of a larger bin lies behind all stacks, at a closed stack (see thread_heap.h): each free of its
// blocks takes the slow path.
enum {
    SIZE_CLASS_HIT_BINS = HAK_HEADER ? SIZE_CLASS_BINS : 29, // bins below that: frees may be hits
    SIZE_CLASS_CLOSED = SIZE_CLASS_BINS - SIZE_CLASS_HIT_BINS,
    SIZE_CLASS_STACK_WORDS = 2,
    SIZE_CLASS_PLACES = SIZE_CLASS_STACK_WORDS * (SIZE_CLASS_BINS + SIZE_CLASS_CLOSED),
};

// Returns the place for malloc: that of the bin's stack.
HAK_INLINE unsigned size_class_alloc_place(unsigned bin) {
    return bin * SIZE_CLASS_STACK_WORDS;
}
HAK_INLINE unsigned size_class_bin_of_alloc(unsigned place) {
    return place / SIZE_CLASS_STACK_WORDS;
}

// Returns the place for a free, which is what the page map has.
HAK_INLINE unsigned size_class_place(unsigned bin) {
    return size_class_alloc_place(bin < SIZE_CLASS_HIT_BINS ? bin : bin + SIZE_CLASS_CLOSED);
}
HAK_INLINE unsigned size_class_bin_at(unsigned place) {
    unsigned bin = size_class_bin_of_alloc(place);
    return bin < SIZE_CLASS_HIT_BINS ? bin : bin - SIZE_CLASS_CLOSED;
}

// The tables of the hit path, of which each heap has its own: from the size of a request to the
// place of a stack. One has an entry for each (size + 15) / 16, for malloc of all sizes that have a
// bin. The other one has an entry for each size, for sized delete of sizes whose free may be a hit:
// there one instruction less is worth more cache lines. Size 0 has place 0 ("no bin").
//
// Build setting: with 0, malloc of sizes above SIZE_CLASS_HIT_MAX is no hit either. With
// HAK_HARDENED the default is 0, and hits go by hardened_hit.h.
#ifndef SIZE_CLASS_MEDIUM_HITS
#    define SIZE_CLASS_MEDIUM_HITS (HAK_HARDENED == 0)
#endif
enum {
    SIZE_CLASS_ALLOC_MAX = SIZE_CLASS_MEDIUM_HITS ? SIZE_CLASS_TINY_MAX : SIZE_CLASS_HIT_MAX,
    SIZE_CLASS_TABLE =
        HAK_HEADER ? 1 : (SIZE_CLASS_ALLOC_MAX + SIZE_CLASS_STEP - 1) / SIZE_CLASS_STEP + 1,
    SIZE_CLASS_SIZES = HAK_HEADER ? 1 : SIZE_CLASS_HIT_MAX + 1,
};
void size_class_fill_table(uint8_t *table);
void size_class_fill_sizes(uint8_t *sizes);

// Return an entry of the first table, size in 0..SIZE_CLASS_ALLOC_MAX, and of the second one, size
// in 0..SIZE_CLASS_HIT_MAX.
HAK_INLINE size_t size_class_hit_place(const uint8_t *table, size_t size) {
#if HAK_HEADER
    (void)table;
    return size_class_alloc_place(size_class_bin_of(size));
#else
    return table[(size + SIZE_CLASS_STEP - 1) / SIZE_CLASS_STEP];
#endif
}
HAK_INLINE size_t size_class_sized_place(const uint8_t *sizes, size_t size) {
#if HAK_HEADER
    (void)sizes;
    return size_class_alloc_place(size_class_bin_of(size));
#else
    return sizes[size];
#endif
}

// Returns the bytes of a block of `bin` that the user may write.
HAK_INLINE size_t size_class_usable(unsigned bin) {
    return size_class_bins[bin].size - SIZE_CLASS_HEADER;
}

// Returns the smallest bin whose blocks all start at multiples of `align`, a power of two, and hold
// `size` bytes. Returns 0 if there is none.
unsigned size_class_aligned_bin(size_t size, size_t align);

// Build setting: with 0, no allocation of aligned blocks is a hit. It cannot be one if there are
// bins whose size is no multiple of the step from bin to bin, or if blocks have bytes that are not
// the user's.
#ifndef SIZE_CLASS_ALIGNED_HITS
#    define SIZE_CLASS_ALIGNED_HITS (SIZE_CLASS_FINE != 0 && HAK_HEADER == 0 && HAK_HARDENED == 0)
#endif

// Returns a size of which size_class_bin_of() is size_class_aligned_bin(size, align), if there is
// such a bin. A number above SIZE_CLASS_TINY_MAX, or 0, says that there may be none, or that `size`
// is 0. For builds with SIZE_CLASS_ALIGNED_HITS: a multiple of `align` either has a bin of just its
// size, or one whose size is a multiple of a step that `align` divides.
HAK_INLINE size_t size_class_aligned_size(size_t size, size_t align) {
    return hak_round_up(size, align);
}

// Returns the class (0..7) that a bin (1 and up) belongs to.
HAK_INLINE unsigned size_class_of_bin(unsigned bin) {
    uint32_t size = size_class_bins[bin].size;
    if (size <= 32) {
        return 0;
    }
    unsigned group = hak_log2(size - 1) - 4;
    return group < SIZE_CLASS_CLASSES - 1 ? group : SIZE_CLASS_CLASSES - 1;
}

// Returns the number of the block at a byte offset (0..65535) in a slab of `bin`.
HAK_INLINE uint32_t size_class_block_at(unsigned bin, uint32_t offset) {
    return (uint32_t)(((uint64_t)offset * size_class_bins[bin].reciprocal) >> 32);
}

// Returns true if a block starts at a byte offset (0..65535) in a slab of `bin`, and sets *block to
// its number.
HAK_INLINE bool size_class_is_start(const struct size_class_bin *bin, uint32_t offset,
                                    size_t *block) {
    uint64_t product = (uint64_t)offset * bin->reciprocal;
    *block = product >> 32;
    // With e = reciprocal * size - 2^32 (below size), the fraction of the start of block k is k *
    // e; that of any other offset is the reciprocal at least, which is more than any k * e. The
    // tail after the last block looks like one more block: the bound on k rejects it.
    return (uint32_t)product <= (bin->blocks - 1u) * (bin->reciprocal * bin->size);
}

// For readers outside of the process, see layout.h.
extern const struct hak_layout size_class_layout;
HAK_C_END

#endif
