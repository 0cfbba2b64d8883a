// SPDX-License-Identifier: Apache-2.0
// zero: makes a block for calloc zero if its run was in use before. Large tables are often used
// sparsely, and then their run has few pages. Clearing the other pages would give memory to each of
// them.
#include "boxes/large_block/large_block_internal.h"

#include "backends/os.h"

#include <string.h>

// Build setting: from this size on, a block that has some of its pages gives them back, and they
// are not cleared. If it has most of them, they are cleared, because such blocks are filled and
// would fetch the pages again. SIZE_MAX: the pages of every block are cleared.
#ifndef HAK_LARGE_ZERO_PURGE
#    define HAK_LARGE_ZERO_PURGE ((size_t)1 << 20)
#endif

// Build setting: from this size on, only those pages of a block are cleared that the kernel says
// are in memory. For less memory the question takes longer than the answer saves. SIZE_MAX: all are
// cleared.
#ifndef HAK_LARGE_ZERO_LOOK
#    define HAK_LARGE_ZERO_LOOK ((size_t)256 << 10)
#endif

enum { PART = PART_PAGES * HAK_PAGE };

// How many of a block's pages are in memory.
enum fill { FEW_PAGES, SOME_PAGES, MOST_PAGES };

// Returns SOME_PAGES also where the kernel does not tell.
static enum fill fill_of(const char *block, size_t size) {
    enum { FEW = 64, MOST = 2 }; // the bounds: one page in so many
    unsigned char touched[PART_PAGES];
    const char *end = block + size;
    size_t pages = size / HAK_PAGE;
    size_t count = 0;
    for (const char *at = block - (uintptr_t)block % HAK_PAGE; at < end; at += PART) {
        size_t bytes = hak_min((size_t)PART, hak_round_up((size_t)(end - at), HAK_PAGE));
        if (!os_touched(at, bytes, touched)) {
            return SOME_PAGES;
        }
        for (size_t i = 0; i < bytes / HAK_PAGE; i++) {
            count += touched[i] & 1;
        }
        if (count > pages / MOST) {
            return MOST_PAGES;
        }
    }
    return count > pages / FEW ? SOME_PAGES : FEW_PAGES;
}

// Clears the bytes [from, to) of a part that starts at `at`, but for pages that are not touched.
static void clear_touched(char *at, char *from, char *to, const unsigned char *touched) {
    size_t pages = ((size_t)(to - at) + HAK_PAGE - 1) / HAK_PAGE;
    for (size_t i = 0, end; i < pages; i = end + 1) {
        for (end = i; end < pages && (touched[end] & 1) != 0; end++) {
        }
        char *first = at + i * HAK_PAGE < from ? from : at + i * HAK_PAGE;
        char *behind = at + end * HAK_PAGE > to ? to : at + end * HAK_PAGE;
        if (end > i) {
            memset(first, 0, (size_t)(behind - first));
        }
    }
}

static void clear(char *block, size_t size) {
    unsigned char touched[PART_PAGES];
    char *end = block + size;
    for (char *at = block - (uintptr_t)block % HAK_PAGE; at < end; at += PART) {
        size_t bytes = hak_min((size_t)PART, hak_round_up((size_t)(end - at), HAK_PAGE));
        char *from = at < block ? block : at;
        char *to = at + bytes > end ? end : at + bytes;
        if (size >= HAK_LARGE_ZERO_LOOK && os_touched(at, bytes, touched)) {
            clear_touched(at, from, to, touched);
        } else {
            memset(from, 0, (size_t)(to - from));
        }
    }
}

bool large_make_zero(char *block, size_t size, size_t slab, size_t run, bool *is_zero) {
    bool table = size >= HAK_LARGE_ZERO_PURGE;
    bool sparse = *is_zero;
    if (!*is_zero) {
        // A table that was used a little, time after time, has some pages in the end.
        enum fill fill = table ? fill_of(block, size) : MOST_PAGES;
        *is_zero = fill == SOME_PAGES && page_arena_clean(slab, run);
        if (!*is_zero) {
            clear(block, size);
        }
        sparse = fill != MOST_PAGES;
    }
    if (table && sparse && !page_arena_use_sparsely(slab, run)) {
        page_arena_release(slab, run, false);
        return false;
    }
    return true;
}
