// SPDX-License-Identifier: Apache-2.0
#include "boxes/early_block/early_block.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/cpu/cpu.h"

// The header in front of each block. The blocks of a chunk are adjacent, so each header leads to
// the next.
struct header {
    size_t size;          // bytes behind it, a multiple of HAK_MIN_ALIGN, not 0
    _Atomic(size_t) live; // 0: padding, or freed
};
static_assert(sizeof(struct header) == HAK_MIN_ALIGN, "a header keeps the alignment");

// Blocks are cut from chunks. The first chunk needs no system call.
struct chunk {
    struct chunk *next; // NULL in the first one, which is the last of the list
    char *from, *used, *end;
};

enum { FIRST = 16384, FURTHER = 1 << 20 };
static alignas(HAK_PAGE) char first_bytes[FIRST];
static struct chunk first;
static _Atomic(struct chunk *) chunks; // the newest one; NULL before the first block

static struct chunk *make_chunk(size_t least) {
    struct chunk *head = atomic_load(&chunks);
    if (head == NULL && least <= FIRST) {
        first.from = first.used = first_bytes;
        first.end = first_bytes + FIRST;
        atomic_store_explicit(&chunks, &first, memory_order_release);
        return &first;
    }
    if (least > SIZE_MAX / 2) {
        return NULL;
    }
    size_t size = hak_round_up(hak_max(least + HAK_CACHE_LINE, FURTHER), HAK_PAGE);
    struct chunk *made = os_map_early(size);
    if (made != NULL) {
        made->next = head;
        made->from = made->used = (char *)made + HAK_CACHE_LINE;
        made->end = (char *)made + size;
        atomic_store_explicit(&chunks, made, memory_order_release);
    }
    return made;
}
static_assert(sizeof(struct chunk) <= HAK_CACHE_LINE, "the first block of a chunk is aligned");

static struct header *header_of(const void *ptr) {
    return (struct header *)((uintptr_t)ptr - sizeof(struct header));
}

// Cuts a block out of a chunk. Returns NULL if the chunk has no room.
static void *cut(struct chunk *chunk, size_t size, size_t align) {
    uintptr_t used = (uintptr_t)chunk->used;
    uintptr_t block = hak_round_up(used + sizeof(struct header), align);
    uintptr_t end = (uintptr_t)chunk->end;
    if (block < used || block > end || end - block < size) {
        return NULL;
    }
    // The bytes that the alignment leaves in front become a dead block. If they only suffice for
    // its header, that block has no bytes.
    size_t gap = block - sizeof(struct header) - used;
    if (gap > 0) {
        *(struct header *)used = (struct header){.size = gap - sizeof(struct header)};
    }
    header_of((void *)block)->size = size;
    atomic_store_explicit(&header_of((void *)block)->live, 1, memory_order_release);
    chunk->used = (char *)(block + size);
    return (void *)block;
}

void *early_block_alloc(size_t size, size_t align) {
    if (size > SIZE_MAX / 4 || align > SIZE_MAX / 4) {
        return NULL;
    }
    size = hak_round_up(hak_max(size, 1), HAK_MIN_ALIGN);
    align = hak_max(align, HAK_MIN_ALIGN);
    struct chunk *chunk = atomic_load(&chunks);
    void *block = chunk == NULL ? NULL : cut(chunk, size, align);
    if (block != NULL) {
        return block;
    }
    chunk = make_chunk(size + align + sizeof(struct header));
    return chunk == NULL ? NULL : cut(chunk, size, align);
}

// Returns the header of the block that starts at `ptr`, live or not; NULL if none does.
static struct header *find(const void *ptr) {
    for (struct chunk *chunk = atomic_load(&chunks); chunk != NULL; chunk = chunk->next) {
        if ((uintptr_t)ptr - (uintptr_t)chunk->from >= (size_t)(chunk->used - chunk->from)) {
            continue;
        }
        for (char *at = chunk->from; at < chunk->used;) {
            struct header *header = (struct header *)at;
            char *block = at + sizeof *header;
            if (block == ptr) {
                return header->size == 0 ? NULL : header;
            }
            at = block + header->size;
        }
    }
    return NULL;
}

void *early_block_resize(void *ptr, size_t size) {
    size_t usable = early_block_usable(ptr);
    if (usable == 0 || size <= usable) {
        return usable == 0 ? NULL : ptr;
    }
    void *fresh = early_block_alloc(size, HAK_MIN_ALIGN);
    if (fresh != NULL) {
        cpu_copy(fresh, ptr, usable); // not memcpy(), which is libc's
        atomic_store_explicit(&header_of(ptr)->live, 0, memory_order_release);
    }
    return fresh;
}

size_t early_block_usable(const void *ptr) {
    const struct header *header = find(ptr);
    return header != NULL && atomic_load(&header->live) != 0 ? header->size : 0;
}

bool early_block_free(void *ptr) {
    struct header *header = find(ptr);
    return header != NULL && atomic_exchange(&header->live, 0) != 0;
}

bool early_block_owns(const void *ptr) {
    for (struct chunk *chunk = atomic_load(&chunks); chunk != NULL; chunk = chunk->next) {
        if ((uintptr_t)ptr - (uintptr_t)chunk->from < (size_t)(chunk->end - chunk->from)) {
            return true;
        }
    }
    return false;
}

HAK_LAYOUT(early_block_layout, HAK_ROWS(HAK_VARIABLE("early.chunks", chunks)),
           HAK_ROWS(HAK_FIELD("early_chunk.next", struct chunk, next),
                    HAK_FIELD("early_chunk.from", struct chunk, from),
                    HAK_FIELD("early_chunk.used", struct chunk, used),
                    HAK_NUMBER("early_header", sizeof(struct header)),
                    HAK_FIELD("early_header.size", struct header, size),
                    HAK_FIELD("early_header.live", struct header, live)));
