// SPDX-License-Identifier: Apache-2.0
// hardening: what the flavour hakmem_hardened knows of a block and does with
// it.
//
//     |<---------------- block of a bin ----------------->|
//     | the user's bytes | slack: a part of it is filled  | tag |
//
// The tag is the last word of a block. In a live one it is a keyed hash of the
// block's address and the number of bytes of slack; in a free one it is zero,
// as is the whole block. So the tag tells whether the block is live, how many
// bytes are its user's, and whether a write has come from below; the slack, up
// to SLACK_MOST bytes behind the user's last one, bears the hash too, so that
// a write of one byte too much is seen. A write below a block meets the tag of
// the block before it.
//
// Freed blocks wait in the quarantine of their thread's heap, first in, first
// out, a queue a bin. The keys come from the kernel's random bytes; the hash is
// quick and no cipher: who can read many tags may compute others.
//
// In the other flavours (HAK_HARDENED is 0) nothing of this is compiled.
// Functions on a block may be called by the thread that owns it;
// hardening_free() also if another thread frees it at the same time: one of the
// two is stopped.
#ifndef HAKMEM_BOXES_HARDENING_HARDENING_H
#define HAKMEM_BOXES_HARDENING_HARDENING_H

#include "boxes/base/base.h"

#if HAK_HARDENED

#    include "boxes/base/alone.h"
#    include "boxes/base/atomic.h"
#    include "boxes/size_class/size_class.h"

HAK_C_BEGIN

enum {
    HARDENING_SLACK_SHIFT = 49, // of a tag: below the hash, above the bytes of slack
    HARDENING_FILLED = 64,      // bytes of slack that bear the hash
};
static_assert(SIZE_CLASS_TINY_MAX < 1 << (64 - HARDENING_SLACK_SHIFT), "any slack fits");

// What is switched on, as bits.
enum {
    HARDENING_STATE = 1,       // a free of what is not live is stopped
    HARDENING_CANARY = 2,      // so is one of a block with writes past its end,
    HARDENING_NEIGHBOUR = 4,   // or of the block behind that
    HARDENING_SIZES = 8,       // so is one with a wrong size
    HARDENING_ZERO = 16,       // freed blocks are made zero
    HARDENING_CHECK_ZERO = 32, // and looked at when they are handed out
    HARDENING_QUARANTINE = 64, // freed blocks wait
    HARDENING_RANDOM = 128,    // blocks are chosen at random
    HARDENING_SEPARATE = 256,  // a slab stays its bin's
};

struct hardening {
    uint64_t keys[2];
    uint32_t on;         // HARDENING_ bits
    uint32_t quarantine; // bytes, a bin and heap
};
extern struct hardening hardening __attribute__((visibility("hidden")));

typedef uint64_t hardening_word __attribute__((may_alias));

// Makes the keys, once; before the first block is handed out. Any thread, any
// time.
void hardening_prepare(void);

// Applies the settings. Called once, from the library's constructor.
void hardening_start(void);

HAK_INLINE bool hardening_has(uint32_t what) {
    return (HAK_PEEK(&hardening.on) & what) != 0;
}

// --- Tags

// The hash of a block. Its lowest byte, which a write past the end meets first,
// is not 0, so that the zero behind a string is seen too.
HAK_INLINE uint64_t hardening_hash(const void *block) {
    uint64_t value = ((uintptr_t)block ^ hardening.keys[0]) * hardening.keys[1];
    value = hak_hash(value ^ value >> 32);
    return value >> (64 - HARDENING_SLACK_SHIFT) | 1;
}

HAK_INLINE hardening_word *hardening_tag(unsigned bin, const void *block) {
    return (hardening_word *)((char *)(uintptr_t)block + size_class_bins[bin].size -
                              sizeof(hardening_word));
}

// The tag of a block with that hash, and the hash that a tag has been made of.
// The slack is mixed into it, but for the lowest byte, so that a change of any
// bit is seen.
HAK_INLINE uint64_t hardening_mixed(uint64_t slack) {
    return hak_hash(slack) >> (64 - HARDENING_SLACK_SHIFT) & ~UINT64_C(0xff);
}
HAK_INLINE uint64_t hardening_tag_of(uint64_t hash, uint64_t slack) {
    return (hash ^ hardening_mixed(slack)) | slack << HARDENING_SLACK_SHIFT;
}
HAK_INLINE uint64_t hardening_hash_in(uint64_t tag) {
    return (tag & ((UINT64_C(1) << HARDENING_SLACK_SHIFT) - 1)) ^
           hardening_mixed(tag >> HARDENING_SLACK_SHIFT);
}

// Writes the hash over the slack that starts `size` bytes into a block and ends
// at `end`, and over `end` itself: what is there is written after this. What
// the first word has of the user's stays, or is zero. (Most blocks have two
// words or less: no branch depends on how many.)
HAK_INLINE void hardening_fill(char *block, size_t size, hardening_word *end, uint64_t hash,
                               bool keep) {
    hardening_word *at = (hardening_word *)(block + (size & ~(size_t)7));
    unsigned bits = (unsigned)(size % 8) * 8;
    *at = (keep ? *at & ((UINT64_C(1) << bits) - 1) : 0) | hash << bits;
    hardening_word *next = at + 1 < end ? at + 1 : end;
    *next = hash;
    if (HAK_UNLIKELY(end - at > 2)) {
        const hardening_word *last = at + HARDENING_FILLED / sizeof *at;
        for (last = end < last ? end : last; ++next < last;) {
            *next = hash;
        }
    }
}

// Not 0 if it is not there any more.
HAK_INLINE uint64_t hardening_unfilled(const char *block, size_t size, const hardening_word *end,
                                       uint64_t hash) {
    const hardening_word *at = (const hardening_word *)(block + (size & ~(size_t)7));
    unsigned bits = (unsigned)(size % 8) * 8;
    uint64_t first = (*at ^ hash << bits) >> bits;
    const hardening_word *next = at + 1 < end ? at + 1 : end;
    uint64_t second = *next ^ hash;
    uint64_t wrong = (at < end ? first : 0) | (next < end ? second : 0);
    if (HAK_UNLIKELY(end - at > 2)) {
        const hardening_word *last = at + HARDENING_FILLED / sizeof *at;
        for (last = end < last ? end : last; ++next < last;) {
            wrong |= *next ^ hash;
        }
    }
    return wrong;
}

// Makes a block of `bin` live, with `size` bytes of its user's (0 counts as 1).
// `keep`: what is in it stays, else the bytes up to the next multiple of 8 may
// become zero.
HAK_INLINE void hardening_set(unsigned bin, void *block, size_t size, bool keep) {
    hardening_word *tag = hardening_tag(bin, block);
    uint64_t hash = hardening_hash(block);
    size = size == 0 ? 1 : size;
    size_t slack = size_class_bins[bin].size - sizeof *tag - size;
    hardening_fill((char *)block, size, tag, hash, keep);
    HAK_POKE(tag, hardening_tag_of(hash, slack));
}

enum hardening_kind {
    HARDENING_LIVE,
    HARDENING_FREE,    // freed before, or never allocated
    HARDENING_DAMAGED, // written to past its end
};

// Not 0 if a block's tag or slack is not as it was written; *size is its user's
// bytes if it is 0.
HAK_INLINE uint64_t hardening_wrong(unsigned bin, const void *block, size_t *size) {
    const hardening_word *tag = hardening_tag(bin, block);
    uint64_t found = HAK_PEEK(tag);
    uint64_t hash = hardening_hash(block);
    uint64_t wrong = hardening_hash_in(found) ^ hash;
    *size = size_class_bins[bin].size - sizeof *tag - (found >> HARDENING_SLACK_SHIFT);
    if (HAK_LIKELY(wrong == 0)) {
        wrong = hardening_unfilled((const char *)block, *size, tag, hash);
    }
    return wrong;
}

// What a block of `bin` is, and in *size its user's bytes if it is live. Looks
// at the switches.
enum hardening_kind hardening_look(unsigned bin, const void *block, size_t *size);

// True if the word below a block, the tag of the one before it in its slab and
// on its page, is that of a free or of a live block.
HAK_INLINE bool hardening_intact_below(unsigned bin, const void *block) {
    size_t size = size_class_bins[bin].size;
    if ((uintptr_t)block % SIZE_CLASS_SLAB < size || (uintptr_t)block % HAK_PAGE == 0) {
        return true;
    }
    uint64_t tag = HAK_PEEK((const hardening_word *)block - 1);
    return tag == 0 || hardening_hash_in(tag) == hardening_hash((const char *)block - size);
}

// Makes bytes zero, a multiple of 16 from an address that is one; where they
// are many, not those that are. And true if they are zero.
enum { HARDENING_FEW = 256 };
void hardening_clear_many(void *at, size_t bytes);
bool hardening_is_clear_many(const void *at, size_t bytes);

typedef uint64_t hardening_pair __attribute__((vector_size(16), may_alias));

// The offsets of four pairs that cover `bytes` (16 to 64) bytes, some twice: no
// branch depends on how many there are.
#    define HARDENING_FOUR(bytes) \
        { 0, hak_min(16, (bytes)-16), hak_min(32, (bytes)-16), (bytes)-16 }

HAK_INLINE void hardening_clear(void *at, size_t bytes) {
    if (HAK_UNLIKELY(bytes > HARDENING_FEW)) {
        hardening_clear_many(at, bytes);
        return;
    }
    char *to = (char *)at;
    for (; bytes > 64; to += 64, bytes -= 64) {
        for (size_t i = 0; i < 64; i += 16) {
            *(hardening_pair *)(to + i) = (hardening_pair){0, 0};
        }
    }
    const size_t four[] = HARDENING_FOUR(bytes);
    for (unsigned i = 0; i < 4; i++) {
        *(hardening_pair *)(to + four[i]) = (hardening_pair){0, 0};
    }
}
HAK_INLINE bool hardening_is_clear(const void *at, size_t bytes) {
    if (HAK_UNLIKELY(bytes > HARDENING_FEW)) {
        return hardening_is_clear_many(at, bytes);
    }
    const char *from = (const char *)at;
    hardening_pair any = {0, 0};
    for (; bytes > 64; from += 64, bytes -= 64) {
        for (size_t i = 0; i < 64; i += 16) {
            any |= *(const hardening_pair *)(from + i);
        }
    }
    const size_t four[] = HARDENING_FOUR(bytes);
    for (unsigned i = 0; i < 4; i++) {
        any |= *(const hardening_pair *)(from + four[i]);
    }
    return (any[0] | any[1]) == 0;
}

// A block cannot be freed, if what is wrong is not switched off; and one was
// written to after it was freed. Both stop the program.
HAK_COLD void hardening_refuse(unsigned bin, const void *block);
HAK_COLD void hardening_refuse_twice(const void *block);
HAK_NORETURN HAK_COLD void hardening_refuse_written(const void *block);

// A block, the start of one of `bin`, is freed: stops the program if it is not
// live, or damaged, and else makes it a free one.
HAK_INLINE void hardening_free(unsigned bin, void *block) {
    uint32_t on = HAK_PEEK(&hardening.on);
    hardening_word *tag = hardening_tag(bin, block);
    uint64_t found = HAK_PEEK(tag);
    size_t size;
    if (HAK_UNLIKELY(hardening_wrong(bin, block, &size) != 0) ||
        ((on & HARDENING_NEIGHBOUR) != 0 && HAK_UNLIKELY(!hardening_intact_below(bin, block)))) {
        hardening_refuse(bin, block);
    }
    // Of two threads that free a block at the same time one takes its tag.
    if (hak_alone()) {
        HAK_POKE(tag, 0);
    } else if (HAK_UNLIKELY(__atomic_exchange_n(tag, 0, __ATOMIC_SEQ_CST) != found)) {
        hardening_refuse_twice(block);
    }
    if (HAK_LIKELY((on & HARDENING_ZERO) != 0)) {
        hardening_clear(block, size_class_bins[bin].size);
    }
}

// A free block of `bin` is handed out: stops the program if something was
// written to it.
HAK_INLINE void hardening_issue(unsigned bin, void *block, size_t size) {
    if (HAK_LIKELY(hardening_has(HARDENING_CHECK_ZERO)) &&
        HAK_UNLIKELY(!hardening_is_clear(block, size_class_bins[bin].size))) {
        hardening_refuse_written(block);
    }
    hardening_set(bin, block, size, false);
}

// Stops the program unless `size` is what a live block's user asked for, and it
// starts at a multiple of `align` (0: not asked). `usable` is what the block
// has.
void hardening_check_size(const char *call, const void *block, size_t usable, size_t align,
                          size_t size);

// True if what is handed out is known to be zero, but for the tag and what lies
// behind `size`.
HAK_INLINE bool hardening_is_zero(void) {
    return hardening_has(HARDENING_CHECK_ZERO);
}

// --- Quarantine and choice, in each heap

enum { HARDENING_QUEUE_MOST = 64 }; // blocks of a bin that wait

struct hardening_queue {
    uint16_t next; // the oldest block
    uint16_t held;
    uint16_t most; // held before one leaves
};
struct hardening_heap {
    uint64_t random;
    uint32_t quarantine; // what `most` of the queues was made for
    struct hardening_queue queues[SIZE_CLASS_BINS];
    void *blocks[SIZE_CLASS_BINS][HARDENING_QUEUE_MOST];
};
static_assert(sizeof(struct hardening_heap) <= SIZE_CLASS_SLAB, "a heap's fit in a slab");

// Gives the queues their lengths, again if the setting has changed.
void hardening_measure(struct hardening_heap *heap);

// A block begins to wait; returns the one that has waited longest if there are
// too many, or NULL. The caller sees to it that no fork finds the heap between
// two steps.
HAK_INLINE void *hardening_wait(struct hardening_heap *heap, unsigned bin, void *block) {
    struct hardening_queue *queue = &heap->queues[bin];
    if (HAK_UNLIKELY(queue->held < queue->most)) {
        unsigned at = (queue->next + queue->held) % HARDENING_QUEUE_MOST;
        heap->blocks[bin][at] = block;
        queue->held++;
        return NULL;
    }
    void **oldest = &heap->blocks[bin][queue->next];
    void *out = *oldest;
    unsigned at = (queue->next + queue->held) % HARDENING_QUEUE_MOST;
    heap->blocks[bin][at] = block;
    queue->next = (uint16_t)((queue->next + 1) % HARDENING_QUEUE_MOST);
    return out;
}

// A number below `most` (1..65536) that is hard to tell.
HAK_INLINE unsigned hardening_below(struct hardening_heap *heap, unsigned most) {
    uint64_t value = heap->random += UINT64_C(0xa0761d6478bd642f);
    value = (value ^ value >> 32) * hardening.keys[1];
    value ^= value >> 32;
    return (unsigned)((hak_hash(value) >> 48) * most >> 16);
}

HAK_C_END

#endif
#endif
