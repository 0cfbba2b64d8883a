// SPDX-License-Identifier: Apache-2.0
#include "boxes/heap_profile/heap_profile.h"

#include "backends/os.h"
#include "boxes/probe/probe.h"
#include "boxes/sampler/sampler.h"
#include "boxes/stack_trace/stack_trace.h"

#include <string.h>

bool heap_profile_any;

static _Atomic(uint64_t) samples, stackless, untracked, stack_count, allocated;
static _Atomic(size_t) mapped;

static void *map(size_t size) {
    void *at;
    if (os_map(NULL, size, &at) != OS_OK) {
        return NULL;
    }
    atomic_fetch_add(&mapped, size);
    return at;
}

static void unmap(void *at, size_t size) {
    os_release(at, size);
    atomic_fetch_sub(&mapped, size);
}

// --- Memory for stacks: pieces of a mapping, never given back

enum { PIECE = 256 << 10 };
struct piece {
    _Atomic(size_t) used;
};
static _Atomic(struct piece *) piece;

static void *take_memory(size_t size) {
    for (;;) {
        struct piece *now = atomic_load(&piece);
        if (now != NULL) {
            size_t at = atomic_fetch_add(&now->used, size);
            if (at + size <= PIECE - sizeof *now) {
                return (char *)(now + 1) + at;
            }
        }
        struct piece *fresh = map(PIECE);
        if (fresh == NULL) {
            return NULL;
        }
        if (!atomic_compare_exchange_strong(&piece, &now, fresh)) {
            unmap(fresh, PIECE);
        }
    }
}

// --- Stacks

enum { BUCKETS = 1 << 15 };
typedef _Atomic(struct heap_profile_stack *) bucket;
static _Atomic(bucket *) buckets;

// The entry for samples whose stack is not known.
static struct heap_profile_stack unknown;

static bucket *get_buckets(void) {
    bucket *known = atomic_load_explicit(&buckets, memory_order_acquire);
    if (HAK_LIKELY(known != NULL)) {
        return known;
    }
    bucket *fresh = map(BUCKETS * sizeof *fresh);
    if (fresh != NULL && !atomic_compare_exchange_strong(&buckets, &known, fresh)) {
        unmap((void *)fresh, BUCKETS * sizeof *fresh);
        return known;
    }
    return fresh;
}

static uint64_t hash_of(const uintptr_t *pcs, unsigned depth) {
    uint64_t hash = depth;
    for (unsigned i = 0; i < depth; i++) {
        hash = hak_hash(hash ^ pcs[i]);
        hash ^= hash >> 29;
    }
    return hash;
}

static struct heap_profile_stack *find_stack(struct heap_profile_stack *at, uint64_t hash,
                                             const uintptr_t *pcs, unsigned depth) {
    while (at != NULL && (at->hash != hash || at->depth != depth ||
                          memcmp(at->pcs, pcs, depth * sizeof *pcs) != 0)) {
        at = at->next;
    }
    return at;
}

static struct heap_profile_stack *get_stack(const uintptr_t *pcs, unsigned depth) {
    bucket *all = depth == 0 ? NULL : get_buckets();
    if (all == NULL) {
        return &unknown;
    }
    uint64_t hash = hash_of(pcs, depth);
    bucket *head = &all[hash % BUCKETS];
    struct heap_profile_stack *first = atomic_load_explicit(head, memory_order_acquire);
    struct heap_profile_stack *stack = find_stack(first, hash, pcs, depth);
    if (stack != NULL) {
        return stack;
    }
    stack = take_memory(sizeof *stack + depth * sizeof *pcs);
    if (stack == NULL) {
        return &unknown;
    }
    stack->hash = hash;
    stack->depth = depth;
    memcpy(stack->pcs, pcs, depth * sizeof *pcs);
    do {
        // If another thread was first, the memory taken for the entry is lost.
        struct heap_profile_stack *others = find_stack(first, hash, pcs, depth);
        if (others != NULL) {
            return others;
        }
        stack->next = first;
    } while (!atomic_compare_exchange_weak(head, &first, stack));
    atomic_fetch_add(&stack_count, 1);
    return stack;
}

// Buffers for stacks that are being taken, because a thread's own stack may be small. Buffers that
// are in use during a fork stay so in the child.
enum { ROOMS = 32 };
static uintptr_t rooms[ROOMS][STACK_TRACE_MOST];
static _Atomic(uint32_t) rooms_taken;

static struct heap_profile_stack *stack_here(void) {
    uint32_t taken = atomic_load(&rooms_taken);
    do {
        if (~taken == 0) {
            return &unknown;
        }
    } while (!atomic_compare_exchange_weak(&rooms_taken, &taken, taken | (taken + 1)));
    unsigned room = (unsigned)__builtin_ctz(~taken);
    unsigned depth = stack_trace(rooms[room], STACK_TRACE_MOST);
    struct heap_profile_stack *stack = get_stack(rooms[room], depth);
    atomic_fetch_and(&rooms_taken, ~(UINT32_C(1) << room));
    return stack;
}

// --- Live samples

// A table that grows by levels, each twice as large as the one before. A sample is in one of a few
// places of one of them.
struct place {
    _Atomic(uintptr_t) ptr; // 0: free, BUSY: about to be used
    size_t size;
    struct heap_profile_stack *stack;
    uint64_t unused_;
};
enum { BUSY = 1, LEVELS = 13, FIRST_LEVEL = 4096, PLACES = 8 };
static struct {
    _Atomic(struct place *) places;
    _Atomic(size_t) used;
} levels[LEVELS];
static _Atomic(unsigned) level_count;

static size_t level_places(unsigned level) {
    return (size_t)FIRST_LEVEL << level;
}

static struct place *places_of(unsigned level, uintptr_t ptr) {
    uint64_t hash = hak_hash(ptr >> 4);
    return atomic_load_explicit(&levels[level].places, memory_order_acquire) +
           (hash >> 32) % (level_places(level) / PLACES) * PLACES;
}

static bool add_level(unsigned level) {
    if (level == LEVELS) {
        return false;
    }
    size_t size = level_places(level) * sizeof(struct place);
    struct place *fresh = map(size);
    struct place *none = NULL;
    if (fresh != NULL && !atomic_compare_exchange_strong(&levels[level].places, &none, fresh)) {
        unmap(fresh, size);
        fresh = none;
    }
    if (fresh != NULL) {
        atomic_compare_exchange_strong(&level_count, &level, level + 1);
    }
    return fresh != NULL;
}

static bool put_in_level(unsigned level, const struct heap_profile_sample *sample) {
    struct place *at = places_of(level, (uintptr_t)sample->ptr);
    for (unsigned i = 0; i < PLACES; i++) {
        uintptr_t none = 0;
        if (atomic_load_explicit(&at[i].ptr, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(&at[i].ptr, &none, BUSY)) {
            HAK_POKE(&at[i].size, sample->size);
            HAK_POKE(&at[i].stack, sample->stack);
            atomic_store(&at[i].ptr, (uintptr_t)sample->ptr);
            atomic_fetch_add(&levels[level].used, 1);
            return true;
        }
    }
    return false;
}

static bool put(const struct heap_profile_sample *sample) {
    for (;;) {
        unsigned count = atomic_load(&level_count);
        for (unsigned level = count; level-- > 0;) {
            if (atomic_load(&levels[level].used) < level_places(level) / 2 &&
                put_in_level(level, sample)) {
                return true;
            }
        }
        if (!add_level(count)) {
            return false;
        }
    }
}

bool heap_profile_take(const void *ptr, struct heap_profile_sample *sample) {
    for (unsigned level = atomic_load(&level_count); level-- > 0;) {
        if (atomic_load_explicit(&levels[level].used, memory_order_relaxed) == 0) {
            continue;
        }
        struct place *at = places_of(level, (uintptr_t)ptr);
        for (unsigned i = 0; i < PLACES; i++) {
            uintptr_t seen = (uintptr_t)ptr;
            if (atomic_load(&at[i].ptr) != seen) {
                continue;
            }
            *sample =
                (struct heap_profile_sample){ptr, HAK_PEEK(&at[i].size), HAK_PEEK(&at[i].stack)};
            // If two threads free the block, one of them finds the sample.
            if (atomic_compare_exchange_strong(&at[i].ptr, &seen, 0)) {
                atomic_fetch_sub(&levels[level].used, 1);
                return true;
            }
        }
    }
    return false;
}

// --- Sums

static void add(struct heap_profile_sum *sum, uint64_t weight, uint64_t bytes) {
    atomic_fetch_add_explicit(&sum->objects, weight, memory_order_relaxed);
    atomic_fetch_add_explicit(&sum->bytes, bytes, memory_order_relaxed);
}

// Returns the same number for a sample at each call, so that the number that was added can be
// subtracted.
static uint64_t bytes_of(size_t size, uint64_t weight) {
    return (uint64_t)((unsigned __int128)size * weight >> SAMPLER_FRACTION);
}

void heap_profile_drop(const struct heap_profile_sample *sample) {
    uint64_t weight = sampler_weight(sample->size, sampler_rate());
    uint64_t bytes = bytes_of(sample->size, weight);
    const struct heap_profile_stack *stack = sample->stack;
    probe_sample_free(sample->ptr, sample->size, bytes, stack->pcs, stack->depth);
    add(&sample->stack->freed, weight, bytes);
}

HAK_NOINLINE void heap_profile_put_back(const struct heap_profile_sample *sample) {
    if (!put(sample)) {
        heap_profile_drop(sample);
        atomic_fetch_add(&untracked, 1);
    }
}

void heap_profile_note(const void *ptr, size_t size) {
    HAK_POKE(&heap_profile_any, true);
    struct heap_profile_sample sample = {ptr, size, stack_here()};
    uint64_t weight = sampler_weight(size, sampler_rate());
    uint64_t bytes = bytes_of(size, weight);
    probe_sample(ptr, size, bytes, sample.stack->pcs, sample.stack->depth);
    add(&sample.stack->allocated, weight, bytes);
    atomic_fetch_add(&allocated, bytes);
    atomic_fetch_add(&samples, 1);
    if (sample.stack == &unknown) {
        atomic_fetch_add(&stackless, 1);
    }
    if (ptr != NULL) {
        heap_profile_put_back(&sample);
    } else {
        heap_profile_drop(&sample);
        atomic_fetch_add(&untracked, 1);
    }
}

void heap_profile_weigh(const struct heap_profile_sample *sample, uint64_t *objects,
                        uint64_t *bytes) {
    *objects = sampler_weight(sample->size, sampler_rate());
    *bytes = bytes_of(sample->size, *objects);
}

// --- Looking

bool heap_profile_owns(const void *at) {
    for (unsigned level = atomic_load(&level_count); level-- > 0;) {
        uintptr_t start = (uintptr_t)atomic_load(&levels[level].places);
        if ((uintptr_t)at - start < level_places(level) * sizeof(struct place)) {
            return true;
        }
    }
    return false;
}

uint64_t heap_profile_allocated(void) {
    return atomic_load_explicit(&allocated, memory_order_relaxed);
}

void heap_profile_each_stack(heap_profile_stack_visitor *visit, void *to) {
    bucket *all = atomic_load(&buckets);
    for (size_t i = 0; all != NULL && i < BUCKETS; i++) {
        for (struct heap_profile_stack *stack = atomic_load(&all[i]); stack != NULL;
             stack = stack->next) {
            visit(to, stack);
        }
    }
    if (atomic_load(&unknown.allocated.objects) != 0) {
        visit(to, &unknown);
    }
}

void heap_profile_each_live(heap_profile_sample_visitor *visit, void *to) {
    for (unsigned level = atomic_load(&level_count); level-- > 0;) {
        struct place *at = atomic_load(&levels[level].places);
        for (size_t i = 0; i < level_places(level); i++) {
            uintptr_t ptr = atomic_load_explicit(&at[i].ptr, memory_order_acquire);
            struct heap_profile_sample sample = {(const void *)ptr, HAK_PEEK(&at[i].size),
                                                 HAK_PEEK(&at[i].stack)};
            if (ptr != 0 && ptr != BUSY && atomic_load(&at[i].ptr) == ptr) {
                visit(to, &sample);
            }
        }
    }
}

void heap_profile_get_stats(struct heap_profile_stats *stats) {
    *stats = (struct heap_profile_stats){
        .samples = atomic_load(&samples),
        .stackless = atomic_load(&stackless),
        .untracked = atomic_load(&untracked),
        .stacks = atomic_load(&stack_count),
        .bytes = atomic_load(&mapped),
    };
}

// Readers outside of the process find a sample as heap_profile_take() does, and so depend on
// places_of().
HAK_LAYOUT(heap_profile_layout,
           HAK_ROWS(HAK_VARIABLE("profile.levels", levels),
                    HAK_VARIABLE("profile.level_count", level_count)),
           HAK_ROWS(HAK_NUMBER("level", sizeof levels[0]),
                    HAK_FIELD("level.places", __typeof__(levels[0]), places),
                    HAK_NUMBER("profile.first_level", FIRST_LEVEL),
                    HAK_NUMBER("profile.places", PLACES),
                    HAK_NUMBER("sample", sizeof(struct place)),
                    HAK_FIELD("sample.ptr", struct place, ptr),
                    HAK_FIELD("sample.size", struct place, size),
                    HAK_FIELD("sample.stack", struct place, stack),
                    HAK_FIELD("trace.depth", struct heap_profile_stack, depth),
                    HAK_NUMBER("trace.pcs", offsetof(struct heap_profile_stack, pcs))));
