// SPDX-License-Identifier: Apache-2.0
// hardening: what hakmem_hardened records about a block, and how it checks blocks.
//
//     |<---------------- block of a bin ----------------->|
//     | the user's bytes | slack: 8 bytes are filled      | tag |
//
// The tag is the last word of a block. In a live block the tag is a keyed hash of the block's
// address, combined with the slack, the number of bytes that the user did not ask for. In a free
// block the tag is zero, as is the whole block if it is not larger than `zero_most`. So the tag
// tells whether the block is live, how many bytes the user asked for, and whether somebody wrote
// past the block's end. The 8 bytes behind the user's last byte hold the hash too, so that a write
// of one byte too much is noticed. A write below a block meets the tag of the block before it.
//
// Freed blocks wait in the quarantine of their thread's heap, first in, first out, in one queue for
// each size class. The keys come from the kernel's random bytes. The hash is quick and no cipher:
// an attacker who can read many tags may compute others.
//
// In the other flavours (HAK_HARDENED is 0) nothing of this is compiled. Only the thread that has a
// block may call a function on the block, except for hardening_intact_below(). If two threads free
// a block at the same moment, both frees may pass the check. Then the second malloc that hands the
// block out finds it live, or the pool finds it free when it comes back for the second time.
#ifndef HAKMEM_BOXES_HARDENING_HARDENING_H
#define HAKMEM_BOXES_HARDENING_HARDENING_H

#include "boxes/base/base.h"

#if HAK_HARDENED

#    include "boxes/base/atomic.h"
#    include "boxes/cpu/cpu.h"
#    include "boxes/size_class/size_class.h"

#    include <string.h>

HAK_C_BEGIN

// A tag is the hash xor the product of the slack (in bytes) and HARDENING_SLACK. The topmost 15
// bits of the product are the slack, the bits below check these, and the lowest byte is zero.
enum { HARDENING_SLACK_SHIFT = 49 };

// The version of tags, for readers outside of the process (layout.h). Another way to make tags, or
// another hash, gets another number.
enum { HARDENING_TAGS = 1 };
#    define HARDENING_SLACK (UINT64_C(1) << HARDENING_SLACK_SHIFT | UINT64_C(0x2545f4b) << 8)
static_assert(SIZE_CLASS_TINY_MAX < 1 << (64 - HARDENING_SLACK_SHIFT), "any slack fits");

// The checks that are on, as bits.
enum {
    HARDENING_STATE = 1,       // a free of a block that is not live stops the program
    HARDENING_CANARY = 2,      // so does a free of a block that was written past its end,
    HARDENING_NEIGHBOUR = 4,   // a free of the block behind such a block,
    HARDENING_SIZES = 8,       // and a free with a wrong size or alignment
    HARDENING_ZERO = 16,       // freed blocks are made zero
    HARDENING_CHECK_ZERO = 32, // a malloc whose block is not zero stops the program
    HARDENING_QUARANTINE = 64, // freed blocks wait
    HARDENING_RANDOM = 128,    // blocks are chosen at random
    HARDENING_SEPARATE = 256,  // a slab serves one bin for good
};

struct hardening {
    uint64_t keys[2];
    uint32_t on;         // HARDENING_ bits
    uint32_t quarantine; // bytes that wait in each bin of each heap
    uint32_t choice;     // blocks among which one is chosen at random, a power of two, less 1
    uint64_t zero_most; // larger blocks become zero at both ends only; HARDENING_ZERO_LEAST or more
    bool usual;         // all bits of HARDENING_USUAL are on
};
// The checks that are on in the usual path of a malloc and of a free.
#    define HARDENING_USUAL                                                          \
        (HARDENING_STATE | HARDENING_CANARY | HARDENING_NEIGHBOUR | HARDENING_ZERO | \
         HARDENING_CHECK_ZERO | HARDENING_QUARANTINE | HARDENING_RANDOM)
extern struct hardening hardening __attribute__((visibility("hidden")));

// hardening_bytes[n] masks the lowest n bytes of a word.
extern const uint64_t hardening_bytes[9] __attribute__((visibility("hidden")));

typedef uint64_t hardening_word __attribute__((may_alias));
typedef uint64_t hardening_unaligned __attribute__((may_alias, aligned(1)));

// Makes the keys, unless they are made. To be called before the first block is handed out. Any
// thread may call at any time.
void hardening_prepare(void);

// Applies the settings. Called once, from the library's constructor.
void hardening_start(void);

HAK_INLINE bool hardening_has(uint32_t what) {
    return (HAK_PEEK(&hardening.on) & what) != 0;
}

// --- Tags

// Mixes a number with the keys: multiplies them, and xors both halves of the product.
HAK_INLINE uint64_t hardening_mix(uint64_t value) {
    __extension__ typedef unsigned __int128 product;
    product both = (product)(value ^ hardening.keys[0]) * hardening.keys[1];
    return (uint64_t)both ^ (uint64_t)(both >> 64);
}

// Returns the hash of a block. The lowest byte of a hash, which a write past the end meets first,
// is not 0, so that the zero at the end of a string is noticed too.
HAK_INLINE uint64_t hardening_hash(const void *block) {
    return hardening_mix((uintptr_t)block) | 1;
}

HAK_INLINE hardening_word *hardening_tag(unsigned bin, const void *block) {
    return (hardening_word *)((char *)(uintptr_t)block + size_class_bins[bin].size -
                              sizeof(hardening_word));
}

// hardening_tag_of() returns the tag of a block with that hash and slack. hardening_slack_in() sets
// *slack to the slack in a tag, and returns false if the tag does not belong to that hash.
HAK_INLINE uint64_t hardening_tag_of(uint64_t hash, uint64_t slack) {
    return hash ^ slack * HARDENING_SLACK;
}
HAK_INLINE bool hardening_slack_in(uint64_t tag, uint64_t hash, size_t *slack) {
    uint64_t product = tag ^ hash;
    *slack = product >> HARDENING_SLACK_SHIFT;
    return *slack * HARDENING_SLACK == product;
}

// Returns the word behind the user's bytes of a block. If there are fewer than 8 bytes of slack,
// the word ends in the first bytes of the tag.
HAK_INLINE hardening_unaligned *hardening_behind(const void *block, size_t size) {
    return (hardening_unaligned *)((char *)(uintptr_t)block + size);
}

// Fills the word behind the `size` bytes of a block whose tag is `tag` already. Bytes that the word
// shares with the tag keep their values: the thread that frees the block above may look at the tag
// at any time, and must never find another value than the tag of a live or of a free block.
HAK_INLINE void hardening_fill(void *block, size_t size, size_t slack, uint64_t hash,
                               uint64_t tag) {
    size_t filled = hak_min(slack, 8);
    uint64_t mask = hardening_bytes[filled];
    *hardening_behind(block, size) = (hash & mask) | (tag << filled * 8 % 64 & ~mask);
}

// Makes a block of `bin` live. `size` is the number of bytes that its user asked for (0 counts as
// 1).
HAK_INLINE void hardening_set(unsigned bin, void *block, size_t size) {
    hardening_word *tag = hardening_tag(bin, block);
    uint64_t hash = hardening_hash(block);
    size += size == 0;
    size_t slack = (size_t)((char *)tag - (char *)block) - size;
    uint64_t fresh = hardening_tag_of(hash, slack);
    HAK_POKE(tag, fresh);
    hardening_fill(block, size, slack, hash, fresh);
}

enum hardening_kind {
    HARDENING_LIVE,
    HARDENING_FREE,    // freed before, or never allocated
    HARDENING_DAMAGED, // written past its end
};

// Returns true if a block's tag and slack are as they were written, and sets *size to the bytes
// that its user asked for.
HAK_INLINE bool hardening_intact(unsigned bin, const void *block, size_t *size) {
    const hardening_word *tag = hardening_tag(bin, block);
    uint64_t hash = hardening_hash(block);
    size_t slack;
    if (HAK_UNLIKELY(!hardening_slack_in(HAK_PEEK(tag), hash, &slack))) {
        return false;
    }
    *size = (size_t)((const char *)tag - (const char *)block) - slack;
    uint64_t behind = *hardening_behind(block, *size) ^ hash;
    return (behind & hardening_bytes[hak_min(slack, 8)]) == 0;
}

// Returns the state of a block of `bin`, as far as the checks are on, and sets *size to the bytes
// that its user asked for if it is live.
enum hardening_kind hardening_look(unsigned bin, const void *block, size_t *size);

// Returns true if the word below a block, the tag of the block before it, is the tag of a free or
// of a live block. Also returns true if there is no such block on the same page of the slab. The
// thread that has that block may be making it zero with memset(), whose stores need not be of whole
// words: a caller that gets false looks once more before it refuses. Under ThreadSanitizer, which
// would report these reads, always returns true.
HAK_INLINE bool hardening_intact_below(unsigned bin, const void *block) {
#    if defined(__SANITIZE_THREAD__)
    return true;
#    endif
    size_t size = size_class_bins[bin].size;
    if ((uintptr_t)block % SIZE_CLASS_SLAB < size || (uintptr_t)block % HAK_PAGE == 0) {
        return true;
    }
    uint64_t tag = HAK_PEEK((const hardening_word *)block - 1);
    size_t slack;
    return tag == 0 || hardening_slack_in(tag, hardening_hash((const char *)block - size), &slack);
}

// hardening_clear_many() makes all bytes of a block zero. hardening_is_clear_many() returns true if
// a block without its last 16 bytes is zero. Number and address of the bytes are multiples of 16.
// Of a block of more than `zero_most` bytes, both touch only HARDENING_ZERO_LEAST bytes, one half
// at each end.
enum { HARDENING_FEW = 256, HARDENING_ZERO_LEAST = 4096 };
void hardening_clear_many(void *at, size_t bytes);
bool hardening_is_clear_many(void *at, size_t bytes);

// Returns 0 if `bytes` bytes are zero. Their number (16 or more) and their address are multiples of
// 16. Writes to each page before it reads the page; see hardening_add().
uint64_t hardening_any_many(void *at, size_t bytes);

typedef uint64_t hardening_pair __attribute__((vector_size(16), may_alias));

// Makes `bytes` bytes (16 to HARDENING_FEW) zero. The stores from both ends overlap in the middle,
// so that few branches depend on the number.
HAK_INLINE void hardening_clear(void *at, size_t bytes) {
    const hardening_pair zero = {0, 0};
    hardening_pair *from = (hardening_pair *)at;
    hardening_pair *end = (hardening_pair *)((char *)at + bytes);
    if (bytes <= 64) {
        from[0] = end[-1] = zero;
        *(hardening_pair *)((char *)at + hak_min(16, bytes - 16)) = zero;
        *(hardening_pair *)((char *)at + hak_min(32, bytes - 16)) = zero;
        return;
    }
    from[0] = from[1] = from[2] = from[3] = zero;
    end[-1] = end[-2] = end[-3] = end[-4] = zero;
    if (bytes > 128) {
        from[4] = from[5] = from[6] = from[7] = zero;
        end[-5] = end[-6] = end[-7] = end[-8] = zero;
    }
}
// Returns 0 if `bytes` bytes (0 to 256) are zero.
HAK_INLINE uint64_t hardening_any(const void *at, size_t bytes) {
    const hardening_pair *from = (const hardening_pair *)at;
    const hardening_pair *end = (const hardening_pair *)((const char *)at + bytes);
    hardening_pair any = {0, 0};
    if (bytes > 64) {
        any = from[0] | from[1] | from[2] | from[3] | end[-1] | end[-2] | end[-3] | end[-4];
        if (bytes > 128) {
            any |= from[4] | from[5] | from[6] | from[7] | end[-5] | end[-6] | end[-7] | end[-8];
        }
    } else if (bytes != 0) {
        any = from[0] | end[-1] |
              *(const hardening_pair *)((const char *)at + hak_min(16, bytes - 16)) |
              *(const hardening_pair *)((const char *)at + hak_min(32, bytes - 16));
    }
    return any[0] | any[1];
}

// hardening_refuse() is for a block for which hardening_may_free() returned false, and
// hardening_refuse_absent() for a block whose slab does not have the block's pages. Both stop the
// program with a report if the check that failed is on, else return.
// hardening_refuse_written() reports a block that was written to after it was freed.
HAK_COLD void hardening_refuse(unsigned bin, const void *block);
HAK_COLD void hardening_refuse_absent(const void *block);
HAK_NORETURN HAK_COLD void hardening_refuse_written(const char *call, const void *block);

// Returns true if `block`, the start of a block of `bin`, is live and not damaged.
HAK_INLINE bool hardening_may_free(unsigned bin, const void *block) {
    size_t size;
    return hardening_intact(bin, block, &size) &&
           ((HAK_PEEK(&hardening.on) & HARDENING_NEIGHBOUR) == 0 ||
            hardening_intact_below(bin, block));
}

// Turns a live block into a free one.
HAK_INLINE void hardening_bury(unsigned bin, void *block) {
    size_t size = size_class_bins[bin].size;
    if (HAK_UNLIKELY(!hardening_has(HARDENING_ZERO))) {
        HAK_POKE(hardening_tag(bin, block), 0);
    } else if (HAK_LIKELY(size <= HARDENING_FEW)) {
        hardening_clear(block, size);
    } else if (HAK_LIKELY(size <= HARDENING_ZERO_LEAST)) {
        memset(block, 0, size);
    } else {
        hardening_clear_many(block, size);
    }
}

// Adds to a word. If the word's page was never touched, this one access gives it memory. A load
// would make the kernel map its page of zeros first, and the store would fault once more.
HAK_INLINE void hardening_add(hardening_word *word, uint64_t more) {
#    if CPU_PLAIN_STEPS
    cpu_plain_add(word, more);
#    else
    HAK_POKE(word, *word + more);
#    endif
}

// Makes a free block of `bin` live before it is handed out. Stops the program if the block was
// written to. `any` is not 0 if the caller has found that the block was. This function looks at the
// last pair of words, which the caller has not looked at.
HAK_INLINE void hardening_issue_looked(unsigned bin, void *block, size_t size, uint64_t any) {
    size_t bytes = size_class_bins[bin].size;
    hardening_word *tag = hardening_tag(bin, block);
    uint64_t hash = hardening_hash(block);
    size_t slack = bytes - sizeof *tag - size;
    uint64_t fresh = hardening_tag_of(hash, slack);
    // The two words of the last pair are read one by one. They were written at different times, and
    // for a load of both the processor would have to wait until both stores are done.
    hardening_add(tag, fresh);
    any |= tag[-1] | (*tag ^ fresh);
    if (HAK_UNLIKELY(any != 0)) {
        hardening_refuse_written("malloc", block);
    }
    hardening_fill(block, size, slack, hash, fresh);
}

// As above, for a block of HARDENING_FEW bytes at most, of which no byte was looked at. `size` is
// not 0, and HARDENING_CHECK_ZERO is on.
HAK_INLINE void hardening_issue_small(unsigned bin, void *block, size_t size) {
    size_t bytes = size_class_bins[bin].size - sizeof(hardening_pair);
    hardening_issue_looked(bin, block, size, hardening_any(block, bytes));
}

// As above, for any block, any `size` and any settings.
HAK_INLINE void hardening_issue(unsigned bin, void *block, size_t size) {
    if (HAK_UNLIKELY(!hardening_has(HARDENING_CHECK_ZERO))) {
        hardening_set(bin, block, size);
        return;
    }
    size += size == 0;
    size_t bytes = size_class_bins[bin].size - sizeof(hardening_pair);
    uint64_t any = HAK_LIKELY(bytes < HARDENING_FEW) ? hardening_any(block, bytes)
                   : HAK_LIKELY(bytes < HARDENING_ZERO_LEAST)
                       ? hardening_any_many(block, bytes)
                       : !hardening_is_clear_many(block, bytes);
    hardening_issue_looked(bin, block, size, any);
}

// Stops the program unless `size` is the number of bytes that a live block's user asked for, and
// the block starts at a multiple of `align` (0: not checked). `usable` is the block's usable bytes.
void hardening_check_size(const char *call, const void *block, size_t usable, size_t align,
                          size_t size);

// Returns true if blocks of `bin` are known to be zero when they are handed out, except for the tag
// and the word behind the user's bytes.
HAK_INLINE bool hardening_is_zero(unsigned bin) {
    return hardening_has(HARDENING_CHECK_ZERO) &&
           size_class_bins[bin].size <= HAK_PEEK(&hardening.zero_most);
}

// --- Quarantine and choice, in each heap

enum { HARDENING_QUEUE_MOST = 64 }; // blocks of a bin that wait

// A ring. A block that begins to wait takes the next place, and pushes the block there out, which
// has waited longest.
struct hardening_queue {
    uint16_t next; // the place that the next block takes
    uint16_t last; // the last place: 1 to HARDENING_QUEUE_MOST places, a power of two, are in use
};
struct hardening_heap {
    uint64_t random;
    uint32_t quarantine; // the setting for which the queues were measured
    bool measured;
    struct hardening_queue queues[SIZE_CLASS_BINS];
    void *blocks[SIZE_CLASS_BINS][HARDENING_QUEUE_MOST]; // NULL: empty
};
static_assert(sizeof(struct hardening_heap) <= SIZE_CLASS_SLAB, "a heap's queues fit in a slab");

// Sets the lengths of the queues by the setting HAKMEM_QUARANTINE. Does nothing if they are set.
void hardening_measure(struct hardening_heap *heap);

// Puts a block into its queue. Returns the block that has waited longest if the queue was full,
// else NULL. The caller ensures that no fork finds the heap between two steps.
HAK_INLINE void *hardening_wait(struct hardening_heap *heap, unsigned bin, void *block) {
    struct hardening_queue *queue = &heap->queues[bin];
    unsigned at = queue->next;
    void **place = &heap->blocks[bin][at];
    void *out = *place;
    *place = block;
    queue->next = (uint16_t)((at + 1) & queue->last);
    return out;
}

// Returns a number below `most` (1..2^31) that is hard to predict.
HAK_INLINE size_t hardening_below(struct hardening_heap *heap, size_t most) {
    uint64_t value = hardening_mix(heap->random += HAK_GOLDEN);
    return (value >> 32) * most >> 32;
}

HAK_C_END

#endif
#endif
