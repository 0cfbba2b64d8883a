// SPDX-License-Identifier: Apache-2.0
#include "boxes/sampled_block/sampled_block.h"

#include "backends/os.h"
#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/size_class/size_class.h"

enum { CHUNK = SIZE_CLASS_SLAB };

struct chunk {
    atomic_bitmap_word bits[SIZE_CLASS_MAX_BLOCKS / 64]; // free blocks
    _Atomic(uint32_t) next;                              // in the stack of its bin, index + 1
    _Atomic(uint8_t) bin;                                // 0: not in use yet
    // 1: the chunk is in the stack of its bin, or a thread has it. 0: the chunk has no free block,
    // or the thread that frees one is about to list it.
    _Atomic(uint8_t) listed;
};

// The range. Both are written once, the size last.
uintptr_t sampled_block_base;
size_t sampled_block_bytes;

enum place_state { PLACE_NONE, PLACE_BEING_MADE, PLACE_MADE, PLACE_REFUSED };
static _Atomic(int) place;
static struct chunk *chunks;
static _Atomic(uint32_t) chunks_used;
// For each bin, the stack of chunks that may have free blocks: the topmost one's index + 1 in the
// low half, and a count of changes in the high half.
static _Atomic(uint64_t) stacks[SIZE_CLASS_BINS];
static _Atomic(size_t) live_bytes;

static bool make_place(size_t bytes) {
    void *range;
    void *beside;
    if (os_reserve(NULL, bytes + CHUNK, &range) != OS_OK) {
        return false;
    }
    size_t size = hak_round_up(bytes / CHUNK * sizeof(struct chunk), HAK_PAGE);
    if (os_map(NULL, size, &beside) != OS_OK) {
        os_release(range, bytes + CHUNK);
        return false;
    }
    // Debuggers write a range without rights into a core file, page by page.
    os_dump(range, bytes + CHUNK, false);
    chunks = beside;
    HAK_POKE(&sampled_block_base, hak_round_up((uintptr_t)range, CHUNK));
    __atomic_store_n(&sampled_block_bytes, bytes, __ATOMIC_RELEASE);
    return true;
}

// Returns true if there is a range. Returns false while another thread reserves it.
static bool has_place(void) {
    static const size_t most = (size_t)16 << 30, least = (size_t)4 << 20;
    int seen = atomic_load_explicit(&place, memory_order_acquire);
    if (HAK_LIKELY(seen != PLACE_NONE)) {
        return seen == PLACE_MADE;
    }
    if (!atomic_compare_exchange_strong(&place, &seen, PLACE_BEING_MADE)) {
        return false;
    }
    bool made = false;
    for (size_t bytes = most; bytes >= least && !made; bytes /= 8) {
        made = make_place(bytes);
    }
    atomic_store(&place, made ? PLACE_MADE : PLACE_REFUSED);
    return made;
}

static void push(unsigned bin, uint32_t index) {
    uint64_t top = atomic_load(&stacks[bin]);
    do {
        atomic_store(&chunks[index].next, (uint32_t)top);
    } while (
        !atomic_compare_exchange_weak(&stacks[bin], &top, ((top >> 32) + 1) << 32 | (index + 1)));
}

static struct chunk *pop(unsigned bin) {
    uint64_t top = atomic_load(&stacks[bin]);
    uint64_t rest;
    do {
        if ((uint32_t)top == 0) {
            return NULL;
        }
        uint32_t next = atomic_load(&chunks[(uint32_t)top - 1].next);
        rest = ((top >> 32) + 1) << 32 | next;
    } while (!atomic_compare_exchange_weak(&stacks[bin], &top, rest));
    return &chunks[(uint32_t)top - 1];
}

static char *memory_of(const struct chunk *chunk) {
    return (char *)sampled_block_base + (size_t)(chunk - chunks) * CHUNK;
}

// Returns a chunk that was never used, with all its blocks free. The calling thread owns it.
static struct chunk *fresh(unsigned bin) {
    uint32_t most = (uint32_t)(sampled_block_bytes / CHUNK);
    uint32_t index = atomic_load(&chunks_used);
    do {
        if (index == most) {
            return NULL;
        }
    } while (!atomic_compare_exchange_weak(&chunks_used, &index, index + 1));
    struct chunk *chunk = &chunks[index];
    if (os_commit(memory_of(chunk), CHUNK) != OS_OK) {
        return NULL; // Its addresses are lost.
    }
    os_dump(memory_of(chunk), CHUNK, true);
    const struct size_class_bin *info = &size_class_bins[bin];
    for (unsigned word = 0; word < info->words; word++) {
        unsigned left = info->blocks - word * 64;
        atomic_store(&chunk->bits[word], left >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1);
    }
    atomic_store(&chunk->listed, 1);
    atomic_store(&chunk->bin, (uint8_t)bin);
    return chunk;
}

static bool has_free(struct chunk *chunk, unsigned words) {
    unsigned word = 0; // Each bin has one word at least.
    do {
        if (atomic_load(&chunk->bits[word]) != 0) {
            return true;
        }
    } while (++word < words);
    return false;
}

// Lists a chunk that the calling thread has again, if the chunk may have free blocks.
static void give_back(struct chunk *chunk, unsigned bin) {
    unsigned words = size_class_bins[bin].words;
    if (!has_free(chunk, words)) {
        atomic_store(&chunk->listed, 0);
        // A thread that freed a block while `listed` was 1 has not listed the chunk.
        if (!has_free(chunk, words) || atomic_exchange(&chunk->listed, 1) != 0) {
            return;
        }
    }
    push(bin, (uint32_t)(chunk - chunks));
}

// Returns a free block of a chunk that the calling thread has, or NULL if there is none.
static void *take(struct chunk *chunk, unsigned bin) {
    for (unsigned word = 0; word < size_class_bins[bin].words; word++) {
        uint64_t got = atomic_bitmap_take(&chunk->bits[word], 1);
        if (got != 0) {
            size_t block = word * 64 + (unsigned)__builtin_ctzll(got);
            return memory_of(chunk) + block * size_class_bins[bin].size;
        }
    }
    return NULL;
}

void *sampled_block_alloc(size_t size, size_t align) {
    unsigned bin = 0;
    if (size <= SIZE_CLASS_TINY_MAX) {
        bin =
            align <= HAK_MIN_ALIGN ? size_class_bin_of(size) : size_class_aligned_bin(size, align);
    }
    if (bin == 0 || !has_place()) {
        return NULL;
    }
    struct chunk *chunk = pop(bin);
    void *block = chunk == NULL ? NULL : take(chunk, bin);
    if (block == NULL) {
        if (chunk != NULL) {
            give_back(chunk, bin);
        }
        chunk = fresh(bin);
        block = chunk == NULL ? NULL : take(chunk, bin);
    }
    if (block != NULL) {
        atomic_fetch_add_explicit(&live_bytes, size_class_bins[bin].size, memory_order_relaxed);
        give_back(chunk, bin);
    }
    return block;
}

// Returns the chunk of the block that a pointer is in. Sets *block to the block's number, and
// *is_start to whether the block starts there. Returns NULL if there is no such block.
static struct chunk *find(const void *ptr, size_t *block, bool *is_start) {
    if (!sampled_block_owns(ptr)) {
        return NULL;
    }
    uintptr_t offset = (uintptr_t)ptr - sampled_block_base;
    struct chunk *chunk = &chunks[offset / CHUNK];
    unsigned bin = atomic_load(&chunk->bin);
    if (bin == 0) {
        return NULL;
    }
    *block = size_class_block_at(bin, (uint32_t)(offset % CHUNK));
    *is_start = *block * size_class_bins[bin].size == offset % CHUNK;
    return *block < size_class_bins[bin].blocks ? chunk : NULL;
}

enum sampled_block_look sampled_block_look(const void *ptr, size_t *usable, void **start) {
    size_t block;
    bool is_start;
    if (!sampled_block_owns(ptr)) {
        return SAMPLED_BLOCK_NONE;
    }
    struct chunk *chunk = find(ptr, &block, &is_start);
    if (chunk == NULL) {
        return SAMPLED_BLOCK_FREE;
    }
    unsigned bin = atomic_load(&chunk->bin);
    *start = memory_of(chunk) + block * size_class_bins[bin].size;
    if (!is_start) {
        return SAMPLED_BLOCK_INTERIOR;
    }
    if (atomic_bitmap_test(chunk->bits, block)) {
        return SAMPLED_BLOCK_FREE;
    }
    *usable = size_class_usable(bin);
    return SAMPLED_BLOCK_LIVE;
}

bool sampled_block_free(void *ptr) {
    size_t block;
    bool is_start;
    struct chunk *chunk = find(ptr, &block, &is_start);
    if (chunk == NULL || !is_start) {
        return false;
    }
    unsigned bin = atomic_load(&chunk->bin);
    uint64_t bit = UINT64_C(1) << block % 64;
    if ((atomic_bitmap_put(&chunk->bits[block / 64], bit) & bit) != 0) {
        return false;
    }
    atomic_fetch_sub_explicit(&live_bytes, size_class_bins[bin].size, memory_order_relaxed);
    if (atomic_exchange(&chunk->listed, 1) == 0) {
        push(bin, (uint32_t)(chunk - chunks));
    }
    return true;
}

uintptr_t sampled_block_range(void) {
    return HAK_PEEK(&sampled_block_base);
}

void sampled_block_count(size_t *live, size_t *held) {
    *live = atomic_load(&live_bytes);
    *held = (size_t)atomic_load(&chunks_used) * CHUNK;
}

HAK_LAYOUT(sampled_block_layout,
           HAK_ROWS(HAK_VARIABLE("sampled.base", sampled_block_base),
                    HAK_VARIABLE("sampled.bytes", sampled_block_bytes),
                    HAK_VARIABLE("sampled.chunks", chunks),
                    HAK_VARIABLE("sampled.used", chunks_used),
                    HAK_VARIABLE("sampled.live", live_bytes)),
           HAK_ROWS(HAK_NUMBER("sampled_chunk", sizeof(struct chunk)),
                    HAK_FIELD("sampled_chunk.bits", struct chunk, bits),
                    HAK_FIELD("sampled_chunk.bin", struct chunk, bin)));
