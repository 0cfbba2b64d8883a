// SPDX-License-Identifier: Apache-2.0
// fit: knows the length of each chunk's longest free run, and finds a chunk that has a run of
// enough pages.
//
// A length is 9 to 32 pages (32: or more), or 0 if there is no such run or if threads remember the
// chunk. A word of a SuperSlab has a byte for each of its chunks. Words of its group have a byte
// for each SuperSlab, the greatest of its chunks' lengths, and words of its region a byte for each
// group, at least the greatest of its SuperSlabs' lengths. Only a search that finds nothing in a
// group lowers the group's byte.
#include "boxes/medium_block/medium_block_internal.h"

enum { WORD_BYTES = 8, NO_PLACE = LONGEST_WORDS * WORD_BYTES };

static_assert((int)NO_PLACE == (int)ARENA_GROUP_SUPERSLABS, "a byte for each SuperSlab");
static_assert((int)NO_PLACE == (int)ARENA_REGION_GROUPS, "a byte for each group");
static_assert((int)SUPERSLAB_CHUNKS <= (int)WORD_BYTES, "a byte for each chunk");

// --- Bytes of words

static unsigned byte_of(uint64_t word, size_t place) {
    return (uint8_t)(word >> place % WORD_BYTES * 8);
}

static uint64_t with_byte(uint64_t word, size_t place, unsigned value) {
    unsigned shift = (unsigned)(place % WORD_BYTES) * 8;
    return (word & ~(UINT64_C(0xff) << shift)) | (uint64_t)value << shift;
}

// Returns the word with the byte.
HAK_INLINE uint64_t set_byte(atomic_bitmap_word *word, size_t place, unsigned value) {
    for (;;) {
        uint64_t seen = atomic_load(word);
        uint64_t next = with_byte(seen, place, value);
        if (seen == next || HAK_LIKELY(hak_step_swap(word, seen, next))) {
            return next;
        }
    }
}

HAK_INLINE void raise_byte(atomic_bitmap_word *word, size_t place, unsigned value) {
    for (;;) {
        uint64_t seen = atomic_load(word);
        if (HAK_LIKELY(byte_of(seen, place) >= value) ||
            HAK_LIKELY(hak_step_swap(word, seen, with_byte(seen, place, value)))) {
            return;
        }
    }
}

// The functions below take a word for eight bytes, each of which is below 128. ONES has the lowest
// bit of each byte, and UPPER the highest. from_value() sets the highest bit of the bytes that are
// at least `value`. equals() sets that of the lowest byte that is `value`, and that of no byte
// below.
#define ONES  UINT64_C(0x0101010101010101)
#define UPPER (ONES << 7)

HAK_INLINE uint64_t from_value(uint64_t word, unsigned value) {
    return ((word | UPPER) - ONES * value) & UPPER;
}

HAK_INLINE uint64_t equals(uint64_t word, unsigned value) {
    uint64_t differs = word ^ ONES * value;
    return (differs - ONES) & ~differs & UPPER;
}

static size_t place_in(size_t word, uint64_t upper) {
    return word * WORD_BYTES + (size_t)__builtin_ctzll(upper) / 8;
}

// Returns the place of the first byte of `count` words that is at least `value`, NO_PLACE if there
// is none.
static size_t first_from(atomic_bitmap_word *words, size_t count, unsigned value) {
    for (size_t i = 0; i < count; i++) {
        uint64_t found = from_value(atomic_load(&words[i]), value);
        if (found != 0) {
            return place_in(i, found);
        }
    }
    return NO_PLACE;
}

// Finds the least of the bytes that are at least `value`. Returns the place of the first byte that
// is as small, or NO_PLACE if all bytes are below `value`. `count` is even.
static size_t least_from(atomic_bitmap_word *words, size_t count, unsigned value) {
    // The difference of a byte that is too small is, as an unsigned number, above all others.
    const cpu_bytes wanted = (cpu_bytes){0} + (uint8_t)value;
    cpu_bytes least = (cpu_bytes){0} + UINT8_MAX;
    for (size_t i = 0; i < count; i += 2) {
        cpu_words both = {atomic_load(&words[i]), atomic_load(&words[i + 1])};
        least = cpu_lesser_bytes(least, (cpu_bytes)both - wanted);
    }
    cpu_words halves = (cpu_words)least;
    least = cpu_lesser_bytes(least, (cpu_bytes)(cpu_words){halves[1], halves[1]});
#pragma GCC unroll 3
    for (unsigned shift = 32; shift >= 8; shift /= 2) {
        least = cpu_lesser_bytes(least, (cpu_bytes)((cpu_words)least >> shift));
    }
    unsigned found = (unsigned)(uint8_t)((cpu_words)least)[0] + value;
    for (size_t i = 0; found <= MOST_PAGES && i < count; i++) {
        uint64_t equal = equals(atomic_load(&words[i]), found);
        if (equal != 0) {
            return place_in(i, equal);
        }
    }
    return NO_PLACE;
}

static unsigned greatest_of(uint64_t word) {
    unsigned greatest = 0;
    for (; word != 0; word >>= 8) {
        greatest = (unsigned)hak_max(greatest, (uint8_t)word);
    }
    return greatest;
}

static unsigned greatest_in(atomic_bitmap_word *words, size_t count) {
    unsigned greatest = 0;
    for (size_t i = 0; i < count; i++) {
        greatest = (unsigned)hak_max(greatest, greatest_of(atomic_load(&words[i])));
    }
    return greatest;
}

// --- Lengths

static atomic_bitmap_word *word_of_chunk(const struct page_arena_window *window, size_t chunk) {
    return &superslab_at(window, chunk)->longest;
}

static size_t place_of_chunk(size_t chunk) {
    return chunk % ARENA_SUPERSLAB_SLABS / (size_t)CHUNK_SLABS;
}

static atomic_bitmap_word *words_of_group(const struct page_arena_window *window, size_t chunk) {
    return superslab_group_word(window, chunk, LONGEST_FIRST);
}

static atomic_bitmap_word *words_of_region(const struct page_arena_window *window, size_t chunk) {
    return superslab_region_word(window, chunk, LONGEST_FIRST);
}

// Writes the length of a SuperSlab, by its chunks', into its group's words, and raises the group's.
// `seen`: the SuperSlab's word.
static void pass_on(const struct page_arena_window *window, size_t chunk, uint64_t seen) {
    enum { TRIES = 4 }; // each failure means that another thread has changed a chunk's length
    size_t superslab = chunk / ARENA_SUPERSLAB_SLABS % ARENA_GROUP_SUPERSLABS;
    size_t group = chunk / ARENA_GROUP_SLABS % ARENA_REGION_GROUPS;
    for (unsigned i = 0; i < TRIES; i++) {
        unsigned greatest = greatest_of(seen);
        set_byte(words_of_group(window, chunk) + superslab / WORD_BYTES, superslab, greatest);
        raise_byte(words_of_region(window, chunk) + group / WORD_BYTES, group, greatest);
        uint64_t now = atomic_load(word_of_chunk(window, chunk));
        if (HAK_LIKELY(now == seen)) {
            break;
        }
        seen = now;
    }
}

// Lowers the length of the group that starts with `first` to the greatest of its SuperSlabs', which
// are in `count` words.
static HAK_NOINLINE void lower_group(const struct page_arena_window *window, size_t first,
                                     size_t count) {
    atomic_bitmap_word *words = words_of_group(window, first);
    size_t group = first / ARENA_GROUP_SLABS % ARENA_REGION_GROUPS;
    atomic_bitmap_word *at = words_of_region(window, first) + group / WORD_BYTES;
    set_byte(at, group, greatest_in(words, count));
    raise_byte(at, group, greatest_in(words, count));
}

unsigned chunk_longest(const struct page_arena_window *window, size_t chunk) {
    return byte_of(atomic_load(word_of_chunk(window, chunk)), place_of_chunk(chunk));
}

void chunk_set_longest(const struct page_arena_window *window, size_t chunk, unsigned pages) {
    pass_on(window, chunk, set_byte(word_of_chunk(window, chunk), place_of_chunk(chunk), pages));
}

// --- Search

// Returns the chunk of a SuperSlab with the shortest run of `count` pages or more.
static size_t find_in_superslab(const struct page_arena_window *window, size_t first,
                                unsigned count) {
    uint64_t word = atomic_load(word_of_chunk(window, first));
    size_t found = ARENA_NONE;
    unsigned least = UINT8_MAX;
    for (size_t i = 0; i < SUPERSLAB_CHUNKS; i++) {
        unsigned pages = byte_of(word, i);
        if (pages >= count && pages < least) {
            least = pages;
            found = first + i * CHUNK_SLABS;
        }
    }
    return found;
}

// A byte stands for `slabs` slabs, and the first byte for the slabs from `first` on. Returns how
// many words reach up to `top`: an even number, LONGEST_WORDS at most.
static size_t words_below(size_t top, size_t first, size_t slabs) {
    size_t two = 2 * WORD_BYTES * slabs;
    size_t below = top - hak_min(top, first);
    return hak_min((below + two - 1) / two * 2, LONGEST_WORDS);
}

// Finds a chunk with the shortest run of `count` pages or more in the group that starts with
// `first`.
static size_t find_in_group(const struct page_arena_window *window, size_t first, size_t top,
                            unsigned count) {
    size_t words = words_below(top, first, ARENA_SUPERSLAB_SLABS);
    size_t superslab = least_from(words_of_group(window, first), words, count);
    if (HAK_UNLIKELY(superslab == NO_PLACE)) {
        lower_group(window, first, words);
        return ARENA_NONE;
    }
    first += superslab * ARENA_SUPERSLAB_SLABS;
    size_t chunk = superslab_known_reached(window, first) ? find_in_superslab(window, first, count)
                                                          : ARENA_NONE;
    if (HAK_UNLIKELY(chunk == ARENA_NONE)) {
        pass_on(window, first, atomic_load(word_of_chunk(window, first)));
    }
    return chunk;
}

size_t chunk_find(const struct page_arena_window *window, unsigned count, unsigned *looks) {
    size_t top = page_arena_top();
    for (size_t region = 0; *looks > 0 && region < top; region += ARENA_REGION_SLABS) {
        size_t words = words_below(top, region, ARENA_GROUP_SLABS);
        for (; *looks > 0; --*looks) {
            size_t group = first_from(words_of_region(window, region), words, count);
            if (group == NO_PLACE) {
                break;
            }
            size_t chunk = find_in_group(window, region + group * ARENA_GROUP_SLABS, top, count);
            if (HAK_LIKELY(chunk != ARENA_NONE)) {
                return chunk;
            }
        }
    }
    return ARENA_NONE;
}
