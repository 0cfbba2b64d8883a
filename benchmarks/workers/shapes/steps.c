// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/workers/shapes/steps.h"

#include <malloc.h>

enum { PAGE = 4096, LEAST = 16 };

static uint64_t longest_pause_ms;
static struct lane *threads;
static uint64_t thread_count;
static pthread_barrier_t meeting;

void steps_pause_at_most(uint64_t ms) {
    longest_pause_ms = ms;
}

void steps_for_threads(struct lane *lanes, uint64_t count) {
    if (threads != NULL) {
        pthread_barrier_destroy(&meeting);
    }
    threads = lanes;
    thread_count = count;
    pthread_barrier_init(&meeting, NULL, (unsigned)count);
}

static uint64_t below(struct lane *lane, uint64_t n) {
    return worker_below(worker_random(&lane->random), n);
}

static uint64_t pick_any(struct lane *lane, const struct range *range, uint64_t nth) {
    uint64_t random = worker_random(&lane->random);
    switch (range->kind) {
    case UNIFORM:
        return range->low + worker_below(random, range->high - range->low + 1);
    case LOGARITHMIC: {
        uint64_t at = worker_below(random, RANGE_STEPS);
        double least = range->scale[at];
        double width = range->scale[at + 1] - least;
        return (uint64_t)(least + width * (double)(random >> 32) / 0x1p32);
    }
    case DOUBLING: {
        uint64_t size = nth < 32 ? range->low << nth : range->high;
        return size < range->high ? size : range->high;
    }
    default:
        return worker_mixed_size(random);
    }
}

// One of the range, but no less than 1; of a doubling range the `nth`.
static uint64_t pick(struct lane *lane, const struct range *range, uint64_t nth) {
    uint64_t size = pick_any(lane, range, nth);
    return size != 0 ? size : 1;
}

// What stands in a range at `done` of `all`.
static uint64_t on_the_way(const struct range *range, uint64_t done, uint64_t all) {
    return range->kind == LOGARITHMIC ? (uint64_t)range->scale[done * RANGE_STEPS / all]
                                      : range->low + (range->high - range->low) * done / all;
}

// Writes to each page of a part of a block, as a program does that uses all of it.
static void use(char *at, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i += PAGE) {
        *(volatile char *)(at + i) = 1;
    }
    if (bytes != 0) {
        *(volatile char *)(at + bytes - 1) = 1;
    }
}

static void *get(uint64_t bytes) {
    void *at = worker_check(malloc(bytes));
    use(at, bytes);
    return at;
}

static void *resize(void *at, uint64_t bytes) {
    return worker_check(realloc(at, bytes));
}

// A block of `set` chosen at random.
static struct block take_any(struct lane *lane, struct set *set) {
    return set_take(set, below(lane, set->count));
}

// fill=SIZES:BYTES
static void fill(struct lane *lane, const struct range *arguments) {
    for (uint64_t bytes = 0; bytes < arguments[1].low;) {
        uint64_t size = pick(lane, &arguments[0], lane->heap.count);
        set_add(&lane->heap, get(size), size, false);
        bytes += size;
    }
}

// align=SIZES:ALIGNMENT:BYTES
static void align(struct lane *lane, const struct range *arguments) {
    for (uint64_t bytes = 0; bytes < arguments[2].low;) {
        uint64_t size = pick(lane, &arguments[0], 0);
        void *at = NULL;
        if (posix_memalign(&at, arguments[1].low, size) != 0) {
            worker_die("posix_memalign failed");
        }
        use(at, size);
        set_add(&lane->heap, at, size, false);
        bytes += size;
    }
}

// keep=N
static void keep(struct lane *lane, const struct range *arguments) {
    for (uint64_t i = 0; i < lane->heap.count; i++) {
        struct block block = lane->heap.blocks[i];
        if (below(lane, arguments[0].low) == 0) {
            set_add(&lane->kept, block.at, block.bytes, block.chain);
        } else {
            block_free(block);
        }
    }
    lane->heap.count = lane->heap.bytes = 0;
}

static void free_heap(struct lane *lane, const struct range *arguments) {
    (void)arguments;
    set_free(&lane->heap);
}

static void drop(struct lane *lane, const struct range *arguments) {
    (void)arguments;
    set_free(&lane->kept);
}

// cache=SIZES:MOST:BYTES
static void cache(struct lane *lane, const struct range *arguments) {
    for (uint64_t bytes = 0; bytes < arguments[2].low;) {
        uint64_t size = pick(lane, &arguments[0], 0);
        while (lane->kept.count != 0 && lane->kept.bytes + size > arguments[1].low) {
            block_free(take_any(lane, &lane->kept));
        }
        set_add(&lane->kept, get(size), size, false);
        bytes += size;
    }
}

// group=SIZES:EACH:MOST:BYTES
static void group(struct lane *lane, const struct range *arguments) {
    for (uint64_t bytes = 0; bytes < arguments[3].low;) {
        uint64_t each = pick(lane, &arguments[1], 0);
        while (lane->kept.count != 0 && lane->kept.bytes + each > arguments[2].low) {
            block_free(take_any(lane, &lane->kept));
        }
        void *last = NULL;
        uint64_t done = 0;
        for (uint64_t nth = 0; done < each; nth++) {
            uint64_t size = pick(lane, &arguments[0], nth);
            size = size < LEAST ? LEAST : size;
            void *at = get(size);
            memcpy(at, &last, sizeof last);
            last = at;
            done += size;
        }
        set_add(&lane->kept, last, done, true);
        bytes += done;
    }
}

// drift=SLOTS:OPERATIONS:SIZES
static void drift(struct lane *lane, const struct range *arguments) {
    for (uint64_t i = 0; i < arguments[1].low; i++) {
        uint64_t middle = on_the_way(&arguments[2], i, arguments[1].low);
        uint64_t size = middle / 2 + below(lane, middle) + 1;
        if (lane->heap.count >= arguments[0].low) {
            block_free(take_any(lane, &lane->heap));
        }
        set_add(&lane->heap, get(size), size, false);
    }
}

// values=KEYS:OPERATIONS:SIZES
static void values(struct lane *lane, const struct range *arguments) {
    struct set *set = &lane->heap;
    while (set->count < arguments[0].low) {
        uint64_t size = arguments[2].low;
        set_add(set, get(size), size, false);
    }
    for (uint64_t i = 0; i < arguments[1].low; i++) {
        struct block *value = &set->blocks[below(lane, set->count)];
        uint64_t size = value->bytes + below(lane, value->bytes / 3 + 2);
        size = size < arguments[2].high ? size : arguments[2].high;
        void *at = get(size);
        free(value->at);
        set->bytes += size - value->bytes;
        *value = (struct block){.at = at, .bytes = size};
    }
}

// shrink=FROM:SIZES:BYTES
static void shrink(struct lane *lane, const struct range *arguments) {
    for (uint64_t bytes = 0; bytes < arguments[2].low;) {
        uint64_t size = pick(lane, &arguments[1], 0);
        set_add(&lane->heap, resize(get(arguments[0].low), size), size, false);
        bytes += size;
    }
}

// Uses `bytes` of a block of `size`: the first ones, or pages here and there.
static void use_little(struct lane *lane, char *at, uint64_t size, uint64_t bytes, bool spread) {
    uint64_t pages = size / PAGE;
    uint64_t wanted = bytes / PAGE;
    if (!spread || wanted == 0 || pages <= wanted) {
        use(at, bytes < size ? bytes : size);
        return;
    }
    uint64_t first = below(lane, pages);
    for (uint64_t i = 0; i < wanted; i++) {
        use(at + (first + i * pages / wanted) % pages * PAGE, 1);
    }
}

static void sparse(struct lane *lane, const struct range *arguments, bool zeroed) {
    uint64_t count = arguments[0].low;
    for (uint64_t i = 0; i < count + arguments[3].low; i++) {
        uint64_t size = pick(lane, &arguments[1], 0);
        uint64_t used = arguments[2].low < size ? arguments[2].low : size;
        if (lane->heap.count >= count) {
            block_free(take_any(lane, &lane->heap));
        }
        char *at = worker_check(zeroed ? calloc(1, size) : malloc(size));
        use_little(lane, at, size, used, zeroed);
        set_add(&lane->heap, at, used, false);
    }
}

// tables=COUNT:SIZES:USED:REPLACED
static void tables(struct lane *lane, const struct range *arguments) {
    sparse(lane, arguments, true);
}

// buffers=COUNT:SIZES:USED:REPLACED
static void buffers(struct lane *lane, const struct range *arguments) {
    sparse(lane, arguments, false);
}

// grow=TO
static void grow(struct lane *lane, const struct range *arguments) {
    for (uint64_t i = 0; i < lane->heap.count; i++) {
        lane->heap.blocks[i].at = resize(lane->heap.blocks[i].at, arguments[0].low);
    }
}

// side=COUNT:TO:BY
static void side(struct lane *lane, const struct range *arguments) {
    struct set *set = &lane->heap;
    uint64_t by = arguments[2].low;
    while (set->count < arguments[0].low) {
        set_add(set, get(by), by, false);
    }
    for (uint64_t size = 2 * by; size <= arguments[1].low; size += by) {
        for (uint64_t i = 0; i < set->count; i++) {
            set->blocks[i].at = resize(set->blocks[i].at, size);
            use((char *)set->blocks[i].at + size - by, by);
            set->bytes += size - set->blocks[i].bytes;
            set->blocks[i].bytes = size;
        }
    }
}

// once=SIZES:COUNT
static void once(struct lane *lane, const struct range *arguments) {
    (void)lane;
    for (uint64_t i = 0; i < arguments[1].low; i++) {
        free(get(on_the_way(&arguments[0], i, arguments[1].low)));
    }
}

// handoff=SIZES:BYTES:TIMES
static void handoff(struct lane *lane, const struct range *arguments) {
    if (threads == NULL) {
        worker_die("handoff wants threads");
    }
    for (uint64_t time = 0; time <= arguments[2].low; time++) {
        // The two sets in turn: one is filled while the other is freed.
        for (uint64_t t = 1; lane == threads && time != 0 && t < thread_count; t++) {
            set_free(time % 2 != 0 ? &threads[t].heap : &threads[t].kept);
        }
        struct set *set = time % 2 == 0 ? &lane->heap : &lane->kept;
        for (uint64_t bytes = 0;
             lane != threads && time < arguments[2].low && bytes < arguments[1].low;) {
            uint64_t size = pick(lane, &arguments[0], 0);
            set_add(set, get(size), size, false);
            bytes += size;
        }
        pthread_barrier_wait(&meeting);
    }
}

static void trim(struct lane *lane, const struct range *arguments) {
    (void)lane;
    (void)arguments;
    malloc_trim(0);
}

static uint64_t pause_of(uint64_t ms) {
    return longest_pause_ms != 0 && ms > longest_pause_ms ? longest_pause_ms : ms;
}

// sleep=MS
static void sleeps(struct lane *lane, const struct range *arguments) {
    (void)lane;
    worker_sleep_ms(pause_of(arguments[0].low));
}

// quiet=MS
static void quiet(struct lane *lane, const struct range *arguments) {
    enum { EACH_MS = 50, FEW = 8 };
    for (uint64_t ms = 0; ms < pause_of(arguments[0].low); ms += EACH_MS) {
        void *few[FEW];
        for (int i = 0; i < FEW; i++) {
            few[i] = get(worker_mixed_size(worker_random(&lane->random)));
        }
        for (int i = 0; i < FEW; i++) {
            free(few[i]);
        }
        worker_sleep_ms(EACH_MS);
    }
}

const struct step *step_find(const char *name, unsigned arguments) {
    static const struct step steps[] = {
        {"fill", 2, fill},       {"align", 3, align},   {"keep", 1, keep},
        {"free", 0, free_heap},  {"drop", 0, drop},     {"cache", 3, cache},
        {"group", 4, group},     {"drift", 3, drift},   {"values", 3, values},
        {"shrink", 3, shrink},   {"tables", 4, tables}, {"buffers", 4, buffers},
        {"grow", 1, grow},       {"side", 3, side},     {"once", 2, once},
        {"handoff", 3, handoff}, {"trim", 0, trim},     {"sleep", 1, sleeps},
        {"quiet", 1, quiet},
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (strcmp(name, steps[i].name) == 0 && arguments == steps[i].arguments) {
            return &steps[i];
        }
    }
    return NULL;
}
