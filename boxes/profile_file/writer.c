// SPDX-License-Identifier: Apache-2.0
#include "boxes/profile_file/writer.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/sampler/sampler.h"

#include <string.h>

static void sift(struct elf_name *names, size_t at, size_t count) {
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= count) {
            return;
        }
        child += child + 1 < count && names[child].pc < names[child + 1].pc;
        if (names[at].pc >= names[child].pc) {
            return;
        }
        struct elf_name swap = names[at];
        names[at] = names[child];
        names[child] = swap;
        at = child;
    }
}

// Sorts the addresses, and drops duplicates. A heap sort, because qsort() may allocate.
void profile_settle(struct profile_writer *w) {
    for (size_t i = w->count / 2; i-- > 0;) {
        sift(w->names, i, w->count);
    }
    for (size_t end = w->count; end-- > 1;) {
        struct elf_name swap = w->names[0];
        w->names[0] = w->names[end];
        w->names[end] = swap;
        sift(w->names, 0, end);
    }
    size_t kept = 0;
    for (size_t i = 0; i < w->count; i++) {
        if (kept == 0 || w->names[kept - 1].pc != w->names[i].pc) {
            w->names[kept++] = w->names[i];
        }
    }
    w->count = kept;
}

static bool widen(struct profile_writer *w) {
    void *more;
    if (os_map(NULL, w->room * 2 * sizeof *w->names, &more) != OS_OK) {
        return false;
    }
    memcpy(more, w->names, w->count * sizeof *w->names);
    os_release(w->names, w->room * sizeof *w->names);
    w->names = more;
    w->room *= 2;
    return true;
}

uintptr_t profile_call_at(uintptr_t pc) {
    return pc - 1;
}

void profile_collect(void *to, struct heap_profile_stack *stack) {
    struct profile_writer *w = to;
    for (unsigned i = 0; i < stack->depth; i++) {
        if (w->count == w->room) {
            profile_settle(w);
            if (w->count > w->room / 2 && !widen(w) && w->count == w->room) {
                w->full = true;
                return;
            }
        }
        w->names[w->count++] = (struct elf_name){.pc = profile_call_at(stack->pcs[i])};
    }
}

size_t profile_place_of(const struct profile_writer *w, uintptr_t pc) {
    size_t low = 0, high = w->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (w->names[middle].pc < pc) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < w->count && w->names[low].pc == pc ? low : w->count;
}

unsigned profile_own_calls(const struct profile_writer *w, const struct heap_profile_stack *stack) {
    static const char *const own[] = {
        "heap_profile_note",
        "sampled",
        "sample_large",
        "alloc_due",
        "alloc_unhit",
        "large",
        "slow_alloc",
        "slow_zero_alloc",
        "slow_aligned_alloc",
        "slow_grown_alloc",
        "slow_zero_aligned_alloc",
        "slow_sample_moved",
        "slow_resize",
        "resize",
        "move",
        "malloc",
        "calloc",
        "realloc",
        "get_aligned",
        "get_rounded",
        "memalign",
        "aligned_alloc",
        "posix_memalign",
    };
    unsigned count = 0;
    while (count + 1 < stack->depth) {
        size_t place = profile_place_of(w, profile_call_at(stack->pcs[count]));
        const struct elf_name *name = place < w->count ? &w->names[place] : NULL;
        size_t i = 0;
        while (name != NULL && i < sizeof own / sizeof *own &&
               (strlen(own[i]) != name->length || memcmp(own[i], name->name, name->length) != 0)) {
            i++;
        }
        // Any of these names may be the program's own, but for the innermost.
        if (name == NULL || i == sizeof own / sizeof *own || (count == 0 && i != 0)) {
            break;
        }
        count++;
    }
    return count;
}

struct profile_values profile_values_of(struct heap_profile_stack *stack) {
    uint64_t freed_objects = atomic_load(&stack->freed.objects);
    uint64_t freed_bytes = atomic_load(&stack->freed.bytes);
    uint64_t objects = atomic_load(&stack->allocated.objects);
    uint64_t bytes = atomic_load(&stack->allocated.bytes);
    return (struct profile_values){
        .allocated_objects = sampler_whole(objects),
        .allocated_bytes = bytes,
        .live_objects = sampler_whole(objects - hak_min(objects, freed_objects)),
        .live_bytes = bytes - hak_min(bytes, freed_bytes),
    };
}
