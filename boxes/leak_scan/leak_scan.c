// SPDX-License-Identifier: Apache-2.0
#include "boxes/leak_scan/leak_scan.h"

#include "backends/os.h"
#include "boxes/atomic_bitmap/atomic_bitmap.h"
#include "boxes/elf_symbols/elf_symbols.h"
#include "boxes/medium_block/medium_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/sampled_block/sampled_block.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"

#include <string.h>

struct range {
    const char *at;
    size_t size;
};

struct scan {
    struct page_arena_window window;
    size_t slabs;        // of the heap, as far as it is walked
    size_t window_bytes; // that no mapping is a root in
    uint64_t *marks;     // a bit for each 16 bytes of the heap, then of the sampled blocks' range
    size_t mark_bytes;
    size_t heap_units; // those of them that are the heap's
    uintptr_t sampled; // start of that range
    size_t sampled_bytes;
    uint32_t *heads; // of each slab of a large block, its first slab + 1
    size_t head_bytes;
    struct range *todo;
    size_t todo_count, todo_room;
    bool overflowed;   // a block was marked and is not in `todo`
    const char *stack; // where the calling thread's stack is in use from
};

enum { UNIT = HAK_MIN_ALIGN };

// --- Blocks

// Returns true if the unit was not marked.
static bool mark(struct scan *scan, size_t unit) {
    uint64_t bit = UINT64_C(1) << unit % 64;
    bool fresh = (scan->marks[unit / 64] & bit) == 0;
    scan->marks[unit / 64] |= bit;
    return fresh;
}

static bool widen(struct scan *scan) {
    void *more;
    size_t size = scan->todo_room * sizeof *scan->todo;
    if (os_map(NULL, size * 2, &more) != OS_OK) {
        return false;
    }
    memcpy(more, scan->todo, size);
    os_release(scan->todo, size);
    scan->todo = more;
    scan->todo_room *= 2;
    return true;
}

static void push(struct scan *scan, const void *at, size_t size) {
    if (scan->todo_count == scan->todo_room && !widen(scan)) {
        scan->overflowed = true;
        return;
    }
    scan->todo[scan->todo_count++] = (struct range){at, size};
}

static size_t heap_unit(const struct scan *scan, const void *at) {
    return (size_t)((const char *)at - scan->window.base) / UNIT;
}

static size_t sampled_unit(const struct scan *scan, const void *at) {
    return scan->heap_units + ((uintptr_t)at - scan->sampled) / UNIT;
}

// A word that points into a chunk of medium blocks.
static void reach_medium(struct scan *scan, uintptr_t word, size_t slab) {
    char *start = medium_block_around(&scan->window, (const void *)word, slab);
    if (start != NULL && mark(scan, heap_unit(scan, start))) {
        size_t own = page_arena_slab_of(&scan->window, start);
        push(scan, start, superslab_usable(medium_block_size(&scan->window, start, own)));
    }
}

// A word that points into the heap.
static void reach_heap(struct scan *scan, uintptr_t word) {
    size_t slab = page_arena_slab_of(&scan->window, (const void *)word);
    if (!superslab_known(&scan->window, slab)) {
        return;
    }
    struct slab *meta = superslab_slab(&scan->window, slab);
    char *start = page_arena_address(&scan->window, slab);
    if (atomic_load(&meta->kind) == SLAB_TINY) {
        unsigned bin = atomic_load(&meta->bin);
        size_t block = size_class_block_at(bin, (uint32_t)(word - (uintptr_t)start));
        if (block >= size_class_bins[bin].blocks ||
            atomic_bitmap_test(superslab_bits(&scan->window, slab, bin), block)) {
            return;
        }
        start += block * size_class_bins[bin].size;
        if (mark(scan, heap_unit(scan, start))) {
            push(scan, start, size_class_bins[bin].size);
        }
        return;
    }
    if (medium_block_owns(&scan->window, slab)) {
        reach_medium(scan, word, slab);
        return;
    }
    if (scan->heads[slab] == 0) {
        return;
    }
    size_t head = scan->heads[slab] - 1;
    start = superslab_large_start(&scan->window, head);
    size_t usable = superslab_large_usable(&scan->window, head);
    if (word - (uintptr_t)start < usable && mark(scan, heap_unit(scan, start))) {
        push(scan, start, usable);
    }
}

static void reach_sampled(struct scan *scan, uintptr_t word) {
    size_t usable;
    void *start;
    enum sampled_block_look look = sampled_block_look((const void *)word, &usable, &start);
    if (look == SAMPLED_BLOCK_INTERIOR) {
        look = sampled_block_look(start, &usable, &start);
    }
    if (look == SAMPLED_BLOCK_LIVE && mark(scan, sampled_unit(scan, start))) {
        push(scan, start, usable);
    }
}

// Reads across the red zones of sanitizers.
__attribute__((no_sanitize("address", "thread"))) static void
look(struct scan *scan, const char *at, const char *end) {
    uintptr_t heap = (uintptr_t)scan->window.base;
    size_t heap_bytes = scan->slabs << ARENA_SLAB_SHIFT;
    for (; at + sizeof(uintptr_t) <= end; at += sizeof(uintptr_t)) {
        uintptr_t word = *(const uintptr_t *)at;
        if (word - heap < heap_bytes) {
            reach_heap(scan, word);
        } else if (word - scan->sampled < scan->sampled_bytes) {
            reach_sampled(scan, word);
        }
    }
}

// The records of the heap and of the profile point to every block, so they are left out. The kernel
// may show them as one mapping with others.
static bool is_own(const struct scan *scan, const char *page) {
    return (uintptr_t)page - (uintptr_t)scan->window.base < scan->window_bytes ||
           sampled_block_owns(page) || heap_profile_owns(page);
}

// As above, for memory of which parts may not be readable, or were never touched.
static void look_carefully(struct scan *scan, const char *at, const char *end, bool block) {
    enum { PIECE = 1 << 20 };
    static unsigned char pages[PIECE / HAK_PAGE];
    while (at < end) {
        const char *page = (const char *)((uintptr_t)at & ~(uintptr_t)(HAK_PAGE - 1));
        size_t size = hak_min((size_t)(end - page), PIECE);
        bool told = os_touched(page, hak_round_up(size, HAK_PAGE), pages);
        for (size_t offset = 0; offset < size; offset += HAK_PAGE) {
            const char *from = page + offset < at ? at : page + offset;
            if ((!told || (pages[offset / HAK_PAGE] & 1) != 0) &&
                (block || !is_own(scan, page + offset)) && os_can_read(page + offset)) {
                look(scan, from, page + offset + hak_min(HAK_PAGE, size - offset));
            }
        }
        at = page + size;
    }
}

// Follows pointers from reached blocks until no further block is reached.
static void follow(struct scan *scan) {
    enum { LONG = 1 << 20 };
    while (scan->todo_count > 0) {
        struct range range = scan->todo[--scan->todo_count];
        if (range.size >= LONG) {
            look_carefully(scan, range.at, range.at + range.size, true);
        } else {
            look(scan, range.at, range.at + range.size);
        }
    }
}

// --- Roots

static void root(struct scan *scan, const char *at, const char *end, bool block) {
    look_carefully(scan, at, end, block);
    follow(scan);
}

// Marks from a mapping, except the heap's own part of the address space.
static void visit_mapping(void *to, const struct elf_map_line *line) {
    struct scan *scan = to;
    const char *at = (const char *)line->start;
    const char *end = (const char *)line->end;
    if (!line->readable || !line->writable || line->shared ||
        strncmp(line->path, "/dev/", strlen("/dev/")) == 0) {
        return;
    }
    root(scan, scan->stack >= at && scan->stack < end ? scan->stack : at, end, false);
}

// Blocks of private heaps live until their heap is gone, so all of a private heap is a root.
static void visit_private(struct scan *scan, size_t slab, size_t slabs) {
    const char *at = page_arena_address(&scan->window, slab);
    root(scan, at, at + (slabs << ARENA_SLAB_SHIFT), true);
}

static void visit_slabs(struct scan *scan, bool heads) {
    for (size_t slab = 0; slab < scan->slabs; slab++) {
        if (!superslab_known(&scan->window, slab)) {
            continue;
        }
        struct slab *meta = superslab_slab(&scan->window, slab);
        uint8_t kind = atomic_load(&meta->kind);
        size_t run = kind == SLAB_LARGE || kind == SLAB_PRIVATE ? atomic_load(&meta->run) : 0;
        run = hak_min(run, scan->slabs - slab);
        for (size_t i = 0; heads && kind == SLAB_LARGE && i < run; i++) {
            scan->heads[slab + i] = (uint32_t)(slab + 1);
        }
        if (!heads && kind == SLAB_PRIVATE) {
            visit_private(scan, slab, run);
        }
    }
}

// --- The scan

struct answer {
    struct scan *scan;
    leak_scan_visitor *visit;
    void *to;
};

static void visit_sample(void *to, const struct heap_profile_sample *sample) {
    struct answer *answer = to;
    struct scan *scan = answer->scan;
    size_t heap = (uintptr_t)sample->ptr - (uintptr_t)scan->window.base;
    bool reached = true; // outside of both ranges nothing is known
    size_t unit = SIZE_MAX;
    if (heap < scan->slabs << ARENA_SLAB_SHIFT) {
        unit = heap_unit(scan, sample->ptr);
    } else if ((uintptr_t)sample->ptr - scan->sampled < scan->sampled_bytes) {
        unit = sampled_unit(scan, sample->ptr);
    }
    if (unit != SIZE_MAX) {
        reached = (scan->marks[unit / 64] >> unit % 64 & 1) != 0;
    }
    answer->visit(answer->to, sample, reached);
}

static bool map(void **at, size_t *size) {
    *size = hak_round_up(hak_max(*size, 1), HAK_PAGE);
    return os_map(NULL, *size, at) == OS_OK;
}

static void release(struct scan *scan) {
    if (scan->marks != NULL) {
        os_release(scan->marks, scan->mark_bytes);
    }
    if (scan->heads != NULL) {
        os_release(scan->heads, scan->head_bytes);
    }
    if (scan->todo != NULL) {
        os_release(scan->todo, scan->todo_room * sizeof *scan->todo);
    }
}

static bool prepare(struct scan *scan) {
    enum { FIRST_ROOM = 65536 };
    size_t live, held;
    sampled_block_count(&live, &held);
    scan->slabs = page_arena_walk(&scan->window);
    scan->window_bytes = scan->window.slabs << ARENA_SLAB_SHIFT;
    scan->heap_units = (scan->slabs << ARENA_SLAB_SHIFT) / UNIT;
    scan->sampled = sampled_block_range();
    scan->sampled_bytes = held;
    scan->mark_bytes = (scan->heap_units + held / UNIT) / 8;
    scan->head_bytes = scan->slabs * sizeof *scan->heads;
    scan->todo_room = FIRST_ROOM;
    size_t todo_bytes = FIRST_ROOM * sizeof *scan->todo;
    void *at;
    return map(&at, &scan->mark_bytes) && (scan->marks = at, map(&at, &scan->head_bytes)) &&
           (scan->heads = at, map(&at, &todo_bytes)) && (scan->todo = at, true);
}

static HAK_NOINLINE bool scan_all(leak_scan_visitor *visit, void *to) {
    // The mappings are read before the scan makes its own, which hold pointers to blocks.
    struct elf_maps maps;
    if (!elf_maps_read(&maps)) {
        return false;
    }
    struct scan scan = {.stack = __builtin_frame_address(0)};
    bool done = prepare(&scan);
    if (done) {
        visit_slabs(&scan, true);
        elf_maps_each(&maps, visit_mapping, &scan);
        visit_slabs(&scan, false);
        done = !scan.overflowed;
    }
    if (done) {
        struct answer answer = {&scan, visit, to};
        heap_profile_each_live(visit_sample, &answer);
    }
    release(&scan);
    elf_maps_release(&maps);
    return done;
}

bool leak_scan(leak_scan_visitor *visit, void *to) {
    __builtin_unwind_init(); // The caller's registers are on the stack from here on.
    bool done = scan_all(visit, to);
    __asm__ volatile("" ::: "memory"); // not a tail call: this frame must stay
    return done;
}
