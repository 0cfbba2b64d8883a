// SPDX-License-Identifier: Apache-2.0
// The C allocation interface: malloc, free and kin, as ISO C, POSIX and glibc describe them.
#include "fronts/libc/libc.h"
#include "fronts/descriptor/descriptor.h"
#include "fronts/libc/glibc_malloc.h"
#include "fronts/libc/guard.h"
#include "fronts/libc/hit_path.h"
#include "fronts/libc/interposed.h"
#include "fronts/libc/profile.h"
#include "fronts/libc/record.h"

#include "backends/os.h"
#include "boxes/decay/decay.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/early_block/early_block.h"
#include "boxes/front_gate_classifier/front_gate_classifier.h"
#include "boxes/hardening/hardening.h"
#include "boxes/heap_profile/heap_profile.h"
#include "boxes/large_block/large_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/recorder/recorder.h"
#include "boxes/settings/settings.h"
#include "boxes/shared_pool/shared_pool.h"
#include "boxes/statistics/statistics.h"
#include "fronts/tiny_front/tiny_front.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

// own_NAME is this library's NAME, also where another library interposes NAME. This file itself
// calls get(), put() and get_aligned(), and not the public names.
#define TEXT(name) #name
#define OWN(name)  __attribute__((COPY(name) alias(TEXT(name)), visibility("hidden")))
// gcc wants to be told the same of both names.
#ifdef __clang__
#    define COPY(of)
#else
#    define COPY(of) copy(of),
#endif

HAK_INLINE void *get(size_t size) {
    void *block = hit_alloc(size);
    return HAK_LIKELY(block != NULL) ? block : slow_alloc(size);
}

HAK_INLINE void put(void *ptr) {
    if (HAK_UNLIKELY(!hit_free(ptr))) {
        slow_free(ptr);
    }
}

EXPORT HAK_HOT void *malloc(size_t size) {
    return get(size);
}
OWN(malloc) void *own_malloc(size_t size);

EXPORT HAK_HOT void free(void *ptr) {
    put(ptr);
}
OWN(free) void own_free(void *ptr);

// Derived from free().
static void put_derived(void *ptr) {
    if (HAK_UNLIKELY(interposed_calls() & INTERPOSED_FREE)) {
        process_free(ptr);
    } else {
        put(ptr);
    }
}

void cfree(void *ptr); // glibc's until 2.26

EXPORT void cfree(void *ptr) {
    put_derived(ptr);
}

// Another free() is asked to free what another malloc() may have allocated.
static void check_size(const char *call, const void *ptr, size_t align, size_t size) {
    if (HAK_LIKELY((interposed_calls() & INTERPOSED_FREE) == 0)) {
        slow_check_size(call, ptr, align, size);
    }
}

// The size is looked at in the hardened flavour only: a block that realloc() shrank at its place
// has a larger bin than its size says.
EXPORT void free_sized(void *ptr, size_t size) {
    check_size("free_sized", ptr, 0, size);
    put_derived(ptr);
}

EXPORT void free_aligned_sized(void *ptr, size_t align, size_t size) {
    check_size("free_aligned_sized", ptr, align, size);
    put_derived(ptr);
}

static bool product(size_t count, size_t size, size_t *total) {
    if (HAK_UNLIKELY(__builtin_mul_overflow(count, size, total))) {
        errno = ENOMEM;
        return false;
    }
    return true;
}

// A few stores instead of a call where a block is small; they may run on to the block's end.
HAK_INLINE void *clear(void *block, size_t size) {
    enum { SMALL = 128 };
    if (HAK_HEADER || size > SMALL) {
        return memset(block, 0, size);
    }
    for (size_t at = 0; at < size; at += HAK_MIN_ALIGN) {
        memset((char *)block + at, 0, HAK_MIN_ALIGN);
    }
    return block;
}

EXPORT void *calloc(size_t count, size_t size) {
    size_t total;
    if (!product(count, size, &total)) {
        return NULL;
    }
    void *block = hit_alloc(total);
    if (HAK_UNLIKELY(block == NULL)) {
        return slow_zero_alloc(total);
    }
    return HAK_HARDENED ? block : clear(block, total); // a hit is known to be zero there
}

// True if a block is among the newest of its stack. Where no block is looked at, free() leaves it
// without its mark.
static bool is_newest(const struct thread_heap *heap, unsigned bin, const void *ptr) {
    void **top = heap->bins[bin].top;
    for (size_t i = 0; i < THREAD_HEAP_NEWEST && top - i > heap->bottoms[bin]; i++) {
        if (top[-(ptrdiff_t)i] == ptr) {
            return true;
        }
    }
    return false;
}

// The block's kind; does not return for a pointer that starts no live block.
static struct classified classify_live(const char *call, const void *ptr) {
    struct classified what = classify_ptr(ptr);
    const struct thread_heap *heap = thread_heap_current();
    if (what.kind == CLASSIFIED_TINY &&
        (free_mark_is_set(ptr, heap) ? tiny_front_is_free(heap, what.bin, ptr)
                                     : is_newest(heap, what.bin, ptr))) {
        what = (struct classified){.kind = CLASSIFIED_TINY_FREE};
    }
    if (HAK_UNLIKELY(what.usable == 0)) {
        diag_misuse(call, ptr, classified_fault(what.kind));
    }
    return what;
}

// Moves what is at ptr, a live block of `usable` bytes, to a block of its own.
static HAK_NOINLINE void *move(void *ptr, size_t size, size_t usable) {
    int saved = errno;
    bool grown = size > SIZE_CLASS_TINY_MAX && size > usable;
    void *fresh = grown ? slow_grown_alloc(size) : get(size);
    if (fresh == NULL) {
        if (size > usable) {
            return NULL;
        }
        errno = saved; // what shrinks cannot fail
        return ptr;
    }
    memcpy(fresh, ptr, hak_min(size, usable));
    put(ptr);
    return fresh;
}

static HAK_COLD void *recorded_resize(const char *call, void *ptr, size_t size);

static HAK_NOINLINE void *slow_resize(const char *call, void *ptr, size_t size) {
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        if (size != 0) {
            return early_block_resize(ptr, size);
        }
        early_block_free(ptr);
        return NULL;
    }
    if (recorder_enters()) {
        return recorded_resize(call, ptr, size);
    }
    struct classified old = classify_live(call, ptr);
    if (size == 0) {
        put(ptr);
        return NULL;
    }
    if (old.kind == CLASSIFIED_SAMPLED || old.kind == CLASSIFIED_GUARDED) {
        return move(ptr, size, old.usable); // Its sample ends, and the new block may be one.
    }
#if HAK_HARDENED
    if (old.kind == CLASSIFIED_TINY) {
        if (size <= SIZE_CLASS_TINY_MAX && size_class_bin_of(size) == old.bin) {
            hardening_set(old.bin, ptr, size);
            return ptr;
        }
        return move(ptr, size, old.usable);
    }
#endif
    if (old.kind != CLASSIFIED_LARGE) {
        // Shrinking stays in place as long as at least half of the block remains in use.
        if (size <= old.usable && (size > old.usable / 2 || (old.kind == CLASSIFIED_TINY &&
                                                             size_class_bin_of(size) == old.bin))) {
            return ptr;
        }
    } else if (size > SIZE_CLASS_TINY_MAX) {
        const struct page_arena_window window = page_arena_get_window();
        struct heap_profile_sample sample;
        bool sampled = heap_profile_started() && heap_profile_take(ptr, &sample);
        void *same = large_block_resize(&window, ptr, old.slab, size);
        if (HAK_UNLIKELY(sampled)) {
            same != NULL ? heap_profile_drop(&sample) : heap_profile_put_back(&sample);
        }
        if (same != NULL) {
            slow_sample_moved(same, size);
            if (same != ptr && old.usable < LARGE_BLOCK_MOVE) { // copied
                slow_tick();
            }
            return same;
        }
    }
    return move(ptr, size, old.usable);
}

static void *recorded_resize(const char *call, void *ptr, size_t size) {
    size != 0 ? recorder_resizes(ptr, size) : recorder_frees(ptr);
    void *block = slow_resize(call, ptr, size);
    if (size != 0) {
        recorder_resized(block);
    }
    recorder_leaves();
    return block;
}

// Tiny blocks that stay where they are or grow into another bin; all else is slow_resize()'s.
static HAK_NOINLINE void *resize(const char *call, void *ptr, size_t size) {
    unsigned bin = size_class_bin_at(front_gate_registry(thread_heap_gate(), ptr));
    // The block's mark says whether it is free: reading its bit would bring a line of the slab's
    // bitmap into the processor's cache at each call.
    size_t block;
    if (HAK_UNLIKELY(
            HAK_HARDENED || bin == 0 || size - 1 >= SIZE_CLASS_HIT_MAX ||
            !size_class_is_start(&size_class_bins[bin], (uintptr_t)ptr % ARENA_SLAB, &block) ||
            free_mark_is_set(ptr, thread_heap_current()) ||
            hit_is_next(thread_heap_current(), bin, ptr) ||
            (HAK_DEBUG && shared_pool_is_free(bin, ptr)))) {
        return slow_resize(call, ptr, size);
    }
    size_t usable = size_class_usable(bin);
    if (size <= usable) {
        return size > usable / 2 ? ptr : slow_resize(call, ptr, size);
    }
    void *fresh = hit_alloc(size);
    if (HAK_UNLIKELY(fresh == NULL)) {
        fresh = slow_alloc(size);
        if (fresh == NULL) {
            return NULL;
        }
    }
    memcpy(fresh, ptr, usable);
    put(ptr);
    return fresh;
}

EXPORT void *realloc(void *ptr, size_t size) {
    return ptr == NULL ? get(size) : resize("realloc", ptr, size);
}
OWN(realloc) void *own_realloc(void *ptr, size_t size);

EXPORT void *reallocarray(void *ptr, size_t count, size_t size) {
    size_t total;
    if (!product(count, size, &total)) {
        return NULL;
    }
    if (HAK_UNLIKELY(interposed_calls() & INTERPOSED_REALLOC)) {
        return process_realloc(ptr, total);
    }
    return ptr == NULL ? get(total) : resize("reallocarray", ptr, total);
}

static void *get_aligned(size_t align, size_t size) {
    if (align <= HAK_MIN_ALIGN) {
        return get(size);
    }
    return slow_aligned_alloc(align, size);
}

// As in glibc before 2.38: an alignment that is no power of two is rounded up to one.
static void *get_rounded(size_t align, size_t size) {
    if (HAK_UNLIKELY(!hak_is_pow2(align))) {
        if (align > SIZE_MAX / 2 + 1) {
            errno = EINVAL;
            return NULL;
        }
        align = align == 0 ? 1 : (size_t)1 << (64 - __builtin_clzll(align));
    }
    return get_aligned(align, size);
}

EXPORT void *memalign(size_t align, size_t size) {
    return get_rounded(align, size);
}

// C17 leaves to the implementation which alignments it supports: all that memalign() takes.
EXPORT void *aligned_alloc(size_t align, size_t size) {
    return get_rounded(align, size);
}
OWN(aligned_alloc) void *own_aligned_alloc(size_t align, size_t size);

EXPORT int posix_memalign(void **out, size_t align, size_t size) {
    if (!hak_is_pow2(align) || align % sizeof(void *) != 0) {
        return EINVAL;
    }
    if (HAK_UNLIKELY(!thread_heap_ready())) {
        void *early = slow_aligned_alloc(align, size); // There is no errno yet.
        *out = early == NULL ? *out : early;
        return early == NULL ? ENOMEM : 0;
    }
    int saved = errno;
    void *block = get_aligned(align, size);
    if (block == NULL) {
        return ENOMEM; // and errno too, as in glibc: there are callers that look there
    }
    errno = saved;
    *out = block;
    return 0;
}

EXPORT void *valloc(size_t size) {
    return get_aligned(HAK_PAGE, size);
}

EXPORT void *pvalloc(size_t size) {
    if (size > SIZE_MAX - HAK_PAGE) {
        errno = ENOMEM;
        return NULL;
    }
    return get_aligned(HAK_PAGE, hak_round_up(hak_max(size, 1), HAK_PAGE));
}

EXPORT size_t malloc_usable_size(void *ptr) {
    return ptr == NULL ? 0 : classify_live("malloc_usable_size", ptr).usable;
}

EXPORT int malloc_trim(size_t pad) {
    slow_make_room();
    bool given = decay_all(pad) > 0;
    slow_look_anew();
    return given;
}

// There are no fast bins: smblks and fsmblks are 0, which is what a program that has set M_MXFAST
// to 0 expects.
EXPORT struct mallinfo2 mallinfo2(void) {
    struct statistics_heap heap;
    statistics_get_heap(&heap);
    return (struct mallinfo2){
        .arena = heap.arena,
        .ordblks = heap.free_blocks,
        .hblks = heap.mapped_blocks,
        .hblkhd = heap.mapped,
        .uordblks = heap.used,
        .fordblks = heap.free_,
        .keepcost = heap.trimmable,
    };
}

static struct mallinfo narrow_info(void) {
    struct mallinfo2 m = mallinfo2();
    return (struct mallinfo){
        .arena = (int)m.arena,
        .ordblks = (int)m.ordblks,
        .smblks = (int)m.smblks,
        .hblks = (int)m.hblks,
        .hblkhd = (int)m.hblkhd,
        .fsmblks = (int)m.fsmblks,
        .uordblks = (int)m.uordblks,
        .fordblks = (int)m.fordblks,
        .keepcost = (int)m.keepcost,
    };
}

EXPORT struct mallinfo mallinfo(void) {
    return narrow_info();
}

static void write_to_stream(void *to, const char *text, size_t size) {
    fwrite(text, 1, size, to);
}

EXPORT int malloc_info(int options, FILE *stream) {
    if (options != 0) {
        return EINVAL;
    }
    statistics_xml(&(struct statistics_sink){write_to_stream, stream});
    return 0;
}

static void write_to_stderr(void *to, const char *text, size_t size) {
    (void)to;
    os_write_stderr(text, size);
}

EXPORT void malloc_stats(void) {
    statistics_lines(&(struct statistics_sink){write_to_stderr, NULL});
}

// glibc's tunables have no counterpart here. None of them changes what a correct program sees, so
// they are taken and ignored, and those that do not exist likewise. What glibc 2.36 refuses is
// refused: it has no fast bins of that size.
EXPORT int mallopt(int param, int value) {
    enum { MXFAST_MOST = 80 * sizeof(size_t) / 4 };
    return param != M_MXFAST || (value >= 0 && value <= MXFAST_MOST);
}

// glibc exports its allocator under these names as well. Without them a block of one allocator
// would reach the other's free(). Weak, so that debuggers and disassemblers show the usual names.
// musl calls its own allocator by some of them, which is to stay its own.
#ifdef __GLIBC__
#    define LIBC_NAME(of) __attribute__((COPY(of) weak, alias(TEXT(of))))
EXPORT LIBC_NAME(malloc) void *__libc_malloc(size_t size);
EXPORT LIBC_NAME(free) void __libc_free(void *ptr);
EXPORT LIBC_NAME(calloc) void *__libc_calloc(size_t count, size_t size);
EXPORT LIBC_NAME(realloc) void *__libc_realloc(void *ptr, size_t size);
EXPORT LIBC_NAME(memalign) void *__libc_memalign(size_t align, size_t size);
EXPORT LIBC_NAME(posix_memalign)
int __posix_memalign(void **out, size_t align, size_t size);
EXPORT LIBC_NAME(valloc) void *__libc_valloc(size_t size);
EXPORT LIBC_NAME(pvalloc) void *__libc_pvalloc(size_t size);
EXPORT LIBC_NAME(mallopt)
int __libc_mallopt(int param, int value);

struct mallinfo __libc_mallinfo(void);
EXPORT struct mallinfo __libc_mallinfo(void) { // no alias: glibc's header calls mallinfo() outdated
    return narrow_info();
}
#endif

static void after_fork(void) {
    os_forked();
    thread_heap_after_fork();
    decay_after_fork();
    profile_after_fork();
    record_after_fork();
    statistics_after_fork();
}

// False in a library of hakmem behind another one, whose malloc and hak_stats() come first.
static bool is_first(void) {
    void (*volatile first)(struct hak_stats *) = hak_stats;
    return first == statistics_own;
}

static __attribute__((constructor(101))) void start(void) {
    settings_load_once(environ);
    os_start((enum os_calls_allowed)settings_get(SETTING_SANDBOX));
    static const struct os_around around = {thread_heap_set_aside, thread_heap_take_back};
    os_around_calls(&around);
    if (settings_get(SETTING_STATS) != 0 || settings_get(SETTING_LEAKS) != 0) {
        os_keep_stderr();
    }
#if HAK_HARDENED
    hardening_start();
#endif
    tiny_front_start();
    statistics_start(program_invocation_short_name, tiny_front_flavour, HAKMEM_VERSION);
    pthread_atfork(NULL, NULL, after_fork);
    if (is_first()) {
        descriptor_serves();
        decay_start();
        profile_start();
        guard_start();
        record_start(tiny_front_flavour);
    }
}

static __attribute__((destructor(101))) void finish(void) {
    // Blocks still cached are checked as they go back: the last chance to report one freed twice.
    thread_heap_flush();
    if (is_first()) {
        profile_finish();
        statistics_finish();
    }
}
