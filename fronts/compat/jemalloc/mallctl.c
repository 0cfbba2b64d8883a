// SPDX-License-Identifier: Apache-2.0
// mallctl() and kin, and malloc_stats_print(): names of what can be asked and done, as in jemalloc
// 5.3. A name stands in the table if hakmem has what it asks for; for every other name the answer
// is ENOENT, as from a jemalloc that was built without it. What is counted per call
// (thread.allocated, nmalloc and so on) is not there: hakmem's hits count nothing.
#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/settings/settings.h"
#include "boxes/size_class/size_class.h"
#include "boxes/statistics/statistics.h"
#include "fronts/compat/compat.h"
#include "fronts/compat/jemalloc/arenas.h"
#include "fronts/libc/extension.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

// The program's own, if it defines one: options in text.
extern const char *malloc_conf;
COMPAT_EXPORT __attribute__((weak)) const char *malloc_conf = NULL;
// The program's own, if it sets one: what malloc_stats_print() writes with.
extern void (*malloc_message)(void *arg, const char *text);
COMPAT_EXPORT void (*malloc_message)(void *arg, const char *text) = NULL;

enum { DEPTH = 6 }; // most components of a name

// What was asked: the numbers in the name, and the caller's buffers.
struct request {
    size_t numbers[2]; // in place of <i>, and of <j>
    void *oldp;
    size_t *oldlenp;
    const void *newp;
    size_t newlen;
};

// ---- The caller's buffers, with jemalloc's checks.

static bool reads(const struct request *r) {
    return r->oldp != NULL && r->oldlenp != NULL;
}

// As much of the value as fits is written even where the length is not the value's.
static int reply(const struct request *r, const void *value, size_t size) {
    if (!reads(r)) {
        return 0;
    }
    size_t room = *r->oldlenp;
    *r->oldlenp = hak_min(room, size);
    memcpy(r->oldp, value, *r->oldlenp);
    return room == size ? 0 : EINVAL;
}

static bool writes(const struct request *r) {
    return r->newp != NULL || r->newlen != 0;
}

// What is new, if anything is: 0, or EINVAL for a wrong length.
static int take(const struct request *r, void *value, size_t size) {
    if (r->newp == NULL) {
        return 0;
    }
    if (r->newlen != size) {
        return EINVAL;
    }
    memcpy(value, r->newp, size);
    return 0;
}

static int only_read(const struct request *r, const void *value, size_t size) {
    return writes(r) ? EPERM : reply(r, value, size);
}

#define READ_ONLY(name, type, value)                 \
    static int name(const struct request *r) {       \
        type answer = (value);                       \
        return only_read(r, &answer, sizeof answer); \
    }

// Neither to be read nor written.
static bool is_plain(const struct request *r) {
    return r->oldp == NULL && r->oldlenp == NULL && !writes(r);
}

// For what is created: nothing is unless its number can be told.
static bool can_tell(const struct request *r, size_t size) {
    if (reads(r) && *r->oldlenp == size) {
        return true;
    }
    if (r->oldlenp != NULL) {
        *r->oldlenp = 0;
    }
    return false;
}

// ---- Statistics, as they were at the last write to "epoch".

enum number {
    ALLOCATED,
    ACTIVE,
    METADATA,
    RESIDENT,
    MAPPED,
    RETAINED,
    DIRTY,
    SMALL,
    LARGE,
    CACHED,
    HEAPS_BYTES,
    FILLS,
    FLUSHES,
    PURGES,
    PURGED,
    THREADS,
    NUMBERS
};

static _Atomic(size_t) numbers[NUMBERS];
static struct { _Atomic(size_t) live, slabs; } bins[HAK_STATS_BINS];
static _Atomic(uint64_t) epoch;

// Numbers of two calls at a time may be mixed; each one is what it was in one of them.
static void refresh(void) {
    struct hak_stats s;
    hak_stats(&s);
    struct compat_totals t = compat_totals_of(&s);
    const size_t fresh[NUMBERS] = {
        [ALLOCATED] = t.allocated,
        [ACTIVE] = t.active,
        [METADATA] = t.metadata,
        [RESIDENT] = t.resident,
        [MAPPED] = t.mapped,
        [RETAINED] = t.retained,
        [DIRTY] = t.dirty,
        [SMALL] = s.tiny_live,
        [LARGE] = s.large_live,
        [CACHED] = s.tiny_cached,
        [HEAPS_BYTES] = s.heap_slabs * SIZE_CLASS_SLAB,
        [FILLS] = s.refills,
        [FLUSHES] = s.spills,
        [PURGES] = s.purges,
        [PURGED] = s.returned / HAK_PAGE,
        [THREADS] = s.heaps - s.free_heaps,
    };
    for (unsigned i = 0; i < NUMBERS; i++) {
        atomic_store_explicit(&numbers[i], fresh[i], memory_order_relaxed);
    }
    for (unsigned bin = 1; bin < HAK_STATS_BINS; bin++) {
        atomic_store_explicit(&bins[bin].live, s.bins[bin].live, memory_order_relaxed);
        atomic_store_explicit(&bins[bin].slabs, s.bins[bin].slabs, memory_order_relaxed);
    }
    atomic_fetch_add(&epoch, 1);
}

static size_t number(enum number which) {
    if (atomic_load(&epoch) == 0) {
        refresh();
    }
    return atomic_load_explicit(&numbers[which], memory_order_relaxed);
}

static int rw_epoch(const struct request *r) {
    uint64_t ignored;
    int error = take(r, &ignored, sizeof ignored);
    if (error != 0) {
        return error;
    }
    if (r->newp != NULL || atomic_load(&epoch) == 0) {
        refresh();
    }
    uint64_t now = atomic_load(&epoch);
    return reply(r, &now, sizeof now);
}

READ_ONLY(stats_allocated, size_t, number(ALLOCATED))
READ_ONLY(stats_active, size_t, number(ACTIVE))
READ_ONLY(stats_metadata, size_t, number(METADATA))
READ_ONLY(stats_resident, size_t, number(RESIDENT))
READ_ONLY(stats_mapped, size_t, number(MAPPED))
READ_ONLY(stats_retained, size_t, number(RETAINED))

// ---- Answers that do not change.

READ_ONLY(no, bool, false)
READ_ONLY(yes, bool, true)
READ_ONLY(size_0, size_t, 0)
READ_ONLY(u64_0, uint64_t, 0)
READ_ONLY(unsigned_1, unsigned, 1)
READ_ONLY(ssize_0, ssize_t, 0)
READ_ONLY(text_empty, const char *, "")
READ_ONLY(text_false, const char *, "false")
READ_ONLY(text_disabled, const char *, "disabled")
READ_ONLY(text_free, const char *, "free")
READ_ONLY(is_debug, bool, HAK_DEBUG != 0)
READ_ONLY(quantum, size_t, HAK_MIN_ALIGN)
READ_ONLY(page, size_t, HAK_PAGE)
READ_ONLY(tcache_max, size_t, SIZE_CLASS_TINY_MAX)

// jemalloc's interface, and who is behind it.
static int version(const struct request *r) {
    static char text[64];
    static _Atomic(bool) made;
    if (!atomic_load(&made)) {
        snprintf(text, sizeof text, "5.3.0-%s", hak_flavour()); // the same text from every thread
        atomic_store(&made, true);
    }
    const char *answer = text;
    return only_read(r, &answer, sizeof answer);
}

// ---- Settings.

READ_ONLY(decay_ms, ssize_t, (ssize_t)hak_decay_ms())
READ_ONLY(has_stats_print, bool, settings_get(SETTING_STATS) != 0)
READ_ONLY(thp, const char *,
          settings_get(SETTING_THP) == 1   ? "always"
          : settings_get(SETTING_THP) == 0 ? "never"
                                           : "default")
READ_ONLY(has_background, bool, settings_get(SETTING_BACKGROUND) != 0)
READ_ONLY(backgrounds, size_t, settings_get(SETTING_BACKGROUND) != 0)

// A flag that can be read, and set to what it is.
static int fixed_flag(const struct request *r, bool value) {
    bool wanted = value;
    int error = take(r, &wanted, sizeof wanted);
    if (error == 0) {
        error = reply(r, &value, sizeof value);
    }
    return error == 0 && wanted != value ? EFAULT : error;
}

static int rw_background_thread(const struct request *r) {
    return fixed_flag(r, settings_get(SETTING_BACKGROUND) != 0);
}

static int rw_max_background_threads(const struct request *r) {
    size_t value = 1;
    size_t wanted = value;
    int error = take(r, &wanted, sizeof wanted);
    if (error == 0) {
        error = reply(r, &value, sizeof value);
    }
    return error == 0 && wanted == 0 ? EINVAL : error;
}

// Idle memory of all arenas is one, with one age at which it goes back.
static int rw_decay_ms(const struct request *r) {
    ssize_t value = (ssize_t)hak_decay_ms();
    ssize_t wanted = value;
    int error = reply(r, &value, sizeof value);
    if (error == 0) {
        error = take(r, &wanted, sizeof wanted);
    }
    return error == 0 && wanted != value && !hak_set_decay_ms(wanted) ? EFAULT : error;
}

// Nothing stays between "dirty" and "clean" for any time.
static int rw_muzzy_ms(const struct request *r) {
    ssize_t value = 0;
    ssize_t wanted = value;
    int error = reply(r, &value, sizeof value);
    if (error == 0) {
        error = take(r, &wanted, sizeof wanted);
    }
    return error == 0 && wanted != value ? EFAULT : error;
}

// ---- Arenas.

static bool is_arena(size_t i) {
    return i == 0 || arenas_heap(i) != NULL;
}

// Arena numbers that stand in a name: one past the last stands for all, too.
static bool is_arena_name(size_t i) {
    return i <= arenas_count() || i == ARENAS_ALL || i == ARENAS_DESTROYED;
}

static bool is_all(size_t i) {
    return i == ARENAS_ALL || i == arenas_count();
}

READ_ONLY(narenas, unsigned, arenas_count())
READ_ONLY(arena_initialized, bool, is_arena(r->numbers[0]) || r->numbers[0] == ARENAS_ALL)

static int arena_decay(const struct request *r) {
    if (!is_plain(r)) {
        return EPERM;
    }
    hak_decay();
    return 0;
}

static int arena_purge(const struct request *r) {
    if (!is_plain(r)) {
        return EPERM;
    }
    hak_purge();
    return 0;
}

// Only an arena that the program has made can be emptied.
static int arena_reset(const struct request *r) {
    if (!is_plain(r)) {
        return EPERM;
    }
    struct hak_heap *heap = arenas_heap(r->numbers[0]);
    if (heap == NULL) {
        return EFAULT;
    }
    hak_heap_reset(heap);
    return 0;
}

static int arena_destroy(const struct request *r) {
    if (!is_plain(r)) {
        return EPERM;
    }
    struct hak_heap *heap = arenas_remove(r->numbers[0]);
    if (heap == NULL) {
        return EFAULT;
    }
    hak_heap_destroy(heap);
    return 0;
}

static int arena_decay_ms(const struct request *r) {
    return is_arena(r->numbers[0]) ? rw_decay_ms(r) : EFAULT;
}

static int arena_muzzy_ms(const struct request *r) {
    return is_arena(r->numbers[0]) ? rw_muzzy_ms(r) : EFAULT;
}

// sbrk() is not used.
static int arena_dss(const struct request *r) {
    const char *value = "disabled";
    const char *wanted = value;
    int error = take(r, (void *)&wanted, sizeof wanted);
    if (error != 0) {
        return error;
    }
    if (strcmp(wanted, "disabled") != 0) {
        return strcmp(wanted, "primary") == 0 || strcmp(wanted, "secondary") == 0 ? EFAULT : EINVAL;
    }
    return is_arena(r->numbers[0]) || is_all(r->numbers[0]) ? reply(r, (void *)&value, sizeof value)
                                                            : EFAULT;
}

// An arena with mappings of the program's own cannot be had.
static int create_arena(const struct request *r) {
    void *hooks = NULL;
    if (!can_tell(r, sizeof(unsigned))) {
        return EINVAL;
    }
    int error = take(r, (void *)&hooks, sizeof hooks);
    if (error != 0) {
        return error;
    }
    if (hooks != NULL) {
        return EFAULT;
    }
    unsigned answer = arenas_create();
    return answer == 0 ? EAGAIN : reply(r, &answer, sizeof answer);
}

static int lookup_arena(const struct request *r) {
    void *ptr = NULL;
    int error = take(r, (void *)&ptr, sizeof ptr);
    if (error != 0 || !hak_in_heap(ptr)) {
        return EINVAL;
    }
    unsigned answer = arenas_of(ptr);
    return reply(r, &answer, sizeof answer);
}

// ---- The calling thread, and its caches.

// Every thread allocates from arena 0.
static int thread_arena(const struct request *r) {
    unsigned value = 0;
    unsigned wanted = value;
    int error = take(r, &wanted, sizeof wanted);
    if (error == 0) {
        error = reply(r, &value, sizeof value);
    }
    return error == 0 && wanted != value ? EFAULT : error;
}

static int thread_cache_enabled(const struct request *r) {
    return fixed_flag(r, true);
}

static int thread_cache_flush(const struct request *r) {
    if (!is_plain(r)) {
        return EPERM;
    }
    hak_flush_thread();
    return 0;
}

// Caches by number: there is one a thread, so a number is all that they are.
enum { CACHES = 4094 };
static _Atomic(uint64_t) caches[CACHES / 64 + 1];

static int create_cache(const struct request *r) {
    if (writes(r)) {
        return EPERM;
    }
    if (!can_tell(r, sizeof(unsigned))) {
        return EINVAL;
    }
    for (unsigned i = 0; i < CACHES; i++) {
        uint64_t bit = UINT64_C(1) << i % 64;
        if ((atomic_fetch_or(&caches[i / 64], bit) & bit) == 0) {
            return reply(r, &i, sizeof i);
        }
    }
    return EFAULT;
}

static int use_cache(const struct request *r, bool destroy) {
    unsigned cache;
    if (r->oldp != NULL || r->oldlenp != NULL) {
        return EPERM;
    }
    if (r->newp == NULL || r->newlen != sizeof cache) {
        return EINVAL;
    }
    memcpy(&cache, r->newp, sizeof cache);
    uint64_t bit = UINT64_C(1) << cache % 64;
    if (cache >= CACHES || (atomic_load(&caches[cache / 64]) & bit) == 0) {
        return EFAULT;
    }
    if (destroy) {
        atomic_fetch_and(&caches[cache / 64], ~bit);
    }
    hak_flush_thread();
    return 0;
}

static int flush_cache(const struct request *r) {
    return use_cache(r, false);
}

static int destroy_cache(const struct request *r) {
    return use_cache(r, true);
}

// ---- Bins. jemalloc counts them from 0.

static unsigned count_bins(void) {
    return SIZE_CLASS_BINS - 1;
}

static const struct size_class_bin *bin_of(size_t i) {
    return &size_class_bins[i + 1];
}

READ_ONLY(nbins, unsigned, count_bins())
READ_ONLY(bin_size, size_t, bin_of(r->numbers[0])->size - SIZE_CLASS_HEADER)
READ_ONLY(bin_blocks, uint32_t, bin_of(r->numbers[0])->blocks)
READ_ONLY(bin_slab, size_t, SIZE_CLASS_SLAB)
READ_ONLY(bin_shards, uint32_t, 1)

// ---- Statistics of an arena: of a program's own, what it has; of 0 and of all, everything else.

static struct hak_heap *own(const struct request *r) {
    return arenas_heap(r->numbers[0]);
}

static size_t own_live(const struct request *r) {
    size_t live, held;
    hak_heap_stats(own(r), &live, &held);
    return live;
}

static size_t own_held(const struct request *r) {
    size_t live, held;
    hak_heap_stats(own(r), &live, &held);
    return held;
}

static size_t of_arena(const struct request *r, enum number which) {
    return own(r) != NULL || r->numbers[0] == ARENAS_DESTROYED ? 0 : number(which);
}

READ_ONLY(arena_pactive, size_t, (own(r) != NULL ? own_held(r) : of_arena(r, ACTIVE)) / HAK_PAGE)
READ_ONLY(arena_pdirty, size_t, of_arena(r, DIRTY) / HAK_PAGE)
READ_ONLY(arena_mapped, size_t, own(r) != NULL ? own_held(r) : of_arena(r, MAPPED))
READ_ONLY(arena_retained, size_t, of_arena(r, RETAINED))
READ_ONLY(arena_base, size_t, of_arena(r, METADATA) - of_arena(r, HEAPS_BYTES))
READ_ONLY(arena_internal, size_t, of_arena(r, HEAPS_BYTES))
READ_ONLY(arena_resident, size_t, own(r) != NULL ? own_held(r) : of_arena(r, RESIDENT))
READ_ONLY(arena_cached, size_t, of_arena(r, CACHED))
READ_ONLY(arena_small, size_t, own(r) != NULL ? own_live(r) : of_arena(r, SMALL))
READ_ONLY(arena_large, size_t, of_arena(r, LARGE))
READ_ONLY(arena_fills, uint64_t, of_arena(r, FILLS))
READ_ONLY(arena_flushes, uint64_t, of_arena(r, FLUSHES))
READ_ONLY(arena_purges, uint64_t, of_arena(r, PURGES))
READ_ONLY(arena_purged, uint64_t, of_arena(r, PURGED))
READ_ONLY(arena_threads, unsigned, (unsigned)of_arena(r, THREADS))

static int arena_bin(const struct request *r, const _Atomic(size_t) *count) {
    bool common = own(r) == NULL && r->numbers[0] != ARENAS_DESTROYED;
    size_t answer = common && number(SMALL) != 0 ? atomic_load(count) : 0;
    return only_read(r, &answer, sizeof answer);
}

static int arena_bin_live(const struct request *r) {
    return arena_bin(r, &bins[r->numbers[1] + 1].live);
}

static int arena_bin_slabs(const struct request *r) {
    return arena_bin(r, &bins[r->numbers[1] + 1].slabs);
}

// ---- The names.

struct name {
    const char *text; // <a> stands for the number of an arena, <b> for that of a bin
    int (*serve)(const struct request *r);
};

static const struct name names[] = {
    {"version", version},
    {"epoch", rw_epoch},
    {"background_thread", rw_background_thread},
    {"max_background_threads", rw_max_background_threads},
    {"config.cache_oblivious", yes},
    {"config.debug", is_debug},
    {"config.fill", no},
    {"config.lazy_lock", no},
    {"config.malloc_conf", text_empty},
    {"config.opt_safety_checks", no},
    {"config.prof", no},
    {"config.prof_libgcc", no},
    {"config.prof_libunwind", no},
    {"config.stats", yes},
    {"config.utrace", no},
    {"config.xmalloc", no},
    {"opt.abort", no},
    {"opt.abort_conf", no},
    {"opt.confirm_conf", no},
    {"opt.cache_oblivious", yes},
    {"opt.metadata_thp", text_disabled},
    {"opt.trust_madvise", yes},
    {"opt.retain", yes},
    {"opt.dss", text_disabled},
    {"opt.narenas", unsigned_1},
    {"opt.percpu_arena", text_disabled},
    {"opt.background_thread", has_background},
    {"opt.max_background_threads", backgrounds},
    {"opt.dirty_decay_ms", decay_ms},
    {"opt.muzzy_decay_ms", ssize_0},
    {"opt.stats_print", has_stats_print},
    {"opt.stats_print_opts", text_empty},
    {"opt.junk", text_false},
    {"opt.zero", no},
    {"opt.tcache", yes},
    {"opt.tcache_max", tcache_max},
    {"opt.thp", thp},
    {"opt.zero_realloc", text_free},
    {"thread.arena", thread_arena},
    {"thread.tcache.enabled", thread_cache_enabled},
    {"thread.tcache.flush", thread_cache_flush},
    {"thread.idle", thread_cache_flush},
    {"tcache.create", create_cache},
    {"tcache.flush", flush_cache},
    {"tcache.destroy", destroy_cache},
    {"arena.<a>.initialized", arena_initialized},
    {"arena.<a>.decay", arena_decay},
    {"arena.<a>.purge", arena_purge},
    {"arena.<a>.reset", arena_reset},
    {"arena.<a>.destroy", arena_destroy},
    {"arena.<a>.dss", arena_dss},
    {"arena.<a>.dirty_decay_ms", arena_decay_ms},
    {"arena.<a>.muzzy_decay_ms", arena_muzzy_ms},
    {"arenas.narenas", narenas},
    {"arenas.dirty_decay_ms", rw_decay_ms},
    {"arenas.muzzy_decay_ms", rw_muzzy_ms},
    {"arenas.quantum", quantum},
    {"arenas.page", page},
    {"arenas.tcache_max", tcache_max},
    {"arenas.nbins", nbins},
    {"arenas.nhbins", nbins},
    {"arenas.bin.<b>.size", bin_size},
    {"arenas.bin.<b>.nregs", bin_blocks},
    {"arenas.bin.<b>.slab_size", bin_slab},
    {"arenas.bin.<b>.nshards", bin_shards},
    {"arenas.create", create_arena},
    {"arenas.lookup", lookup_arena},
    {"stats.allocated", stats_allocated},
    {"stats.active", stats_active},
    {"stats.metadata", stats_metadata},
    {"stats.metadata_thp", size_0},
    {"stats.resident", stats_resident},
    {"stats.mapped", stats_mapped},
    {"stats.retained", stats_retained},
    {"stats.background_thread.num_threads", backgrounds},
    {"stats.arenas.<a>.nthreads", arena_threads},
    {"stats.arenas.<a>.dss", text_disabled},
    {"stats.arenas.<a>.dirty_decay_ms", decay_ms},
    {"stats.arenas.<a>.muzzy_decay_ms", ssize_0},
    {"stats.arenas.<a>.pactive", arena_pactive},
    {"stats.arenas.<a>.pdirty", arena_pdirty},
    {"stats.arenas.<a>.pmuzzy", size_0},
    {"stats.arenas.<a>.mapped", arena_mapped},
    {"stats.arenas.<a>.retained", arena_retained},
    {"stats.arenas.<a>.base", arena_base},
    {"stats.arenas.<a>.internal", arena_internal},
    {"stats.arenas.<a>.metadata_thp", size_0},
    {"stats.arenas.<a>.resident", arena_resident},
    {"stats.arenas.<a>.tcache_bytes", arena_cached},
    {"stats.arenas.<a>.dirty_npurge", arena_purges},
    {"stats.arenas.<a>.dirty_purged", arena_purged},
    {"stats.arenas.<a>.muzzy_npurge", u64_0},
    {"stats.arenas.<a>.muzzy_nmadvise", u64_0},
    {"stats.arenas.<a>.muzzy_purged", u64_0},
    {"stats.arenas.<a>.small.allocated", arena_small},
    {"stats.arenas.<a>.small.nfills", arena_fills},
    {"stats.arenas.<a>.small.nflushes", arena_flushes},
    {"stats.arenas.<a>.large.allocated", arena_large},
    {"stats.arenas.<a>.bins.<b>.curregs", arena_bin_live},
    {"stats.arenas.<a>.bins.<b>.curslabs", arena_bin_slabs},
};

enum { NAMES = sizeof names / sizeof *names };

// A component of a name: its text, or a number. In a MIB a text is a hash of it.
struct component {
    const char *text;
    size_t length;
};

static bool next_component(const char **at, struct component *component) {
    if (*at == NULL) {
        return false;
    }
    const char *dot = strchrnul(*at, '.');
    *component = (struct component){*at, (size_t)(dot - *at)};
    *at = *dot == '.' ? dot + 1 : NULL;
    return true;
}

static bool is_number(struct component pattern) {
    return pattern.text[0] == '<';
}

static bool is_in_range(struct component pattern, size_t i) {
    return pattern.text[1] == 'a' ? is_arena_name(i) : i < count_bins();
}

static size_t hash_of(struct component component) {
    uint32_t hash = UINT32_C(2166136261);
    for (size_t i = 0; i < component.length; i++) {
        hash = (hash ^ (unsigned char)component.text[i]) * UINT32_C(16777619);
    }
    return hash;
}

// The number that a component spells; false if it spells none.
static bool parse_number(struct component component, size_t *value) {
    if (component.length == 0 || component.length > 9) {
        return false;
    }
    *value = 0;
    for (size_t i = 0; i < component.length; i++) {
        if (component.text[i] < '0' || component.text[i] > '9') {
            return false;
        }
        *value = *value * 10 + (size_t)(component.text[i] - '0');
    }
    return true;
}

static bool matches(struct component pattern, struct component given, size_t *mib) {
    if (is_number(pattern)) {
        return parse_number(given, mib) && is_in_range(pattern, *mib);
    }
    *mib = hash_of(given);
    return pattern.length == given.length && memcmp(pattern.text, given.text, given.length) == 0;
}

// True if the components of `name` are those of `pattern`, or its first ones: *depth of them, in
// mib. *whole: all of them.
static bool match_name(const char *pattern, const char *name, size_t *mib, size_t *depth,
                       bool *whole) {
    struct component want;
    struct component given;
    for (*depth = 0; next_component(&name, &given); ++*depth) {
        if (!next_component(&pattern, &want) || !matches(want, given, &mib[*depth])) {
            return false;
        }
    }
    *whole = pattern == NULL;
    return true;
}

static bool match_mib(const char *pattern, const size_t *mib, size_t depth) {
    struct component want;
    for (size_t i = 0; i < depth; i++) {
        if (!next_component(&pattern, &want) ||
            !(is_number(want) ? is_in_range(want, mib[i]) : mib[i] == hash_of(want))) {
            return false;
        }
    }
    return pattern == NULL;
}

static int serve(const struct name *name, const size_t *mib, struct request *r) {
    const char *at = name->text;
    struct component component;
    for (size_t n = 0; next_component(&at, &component); mib++) {
        if (is_number(component)) {
            r->numbers[n++] = *mib;
        }
    }
    return name->serve(r);
}

COMPAT_EXPORT int mallctl(const char *name, void *oldp, size_t *oldlenp, void *newp,
                          size_t newlen) {
    struct request request = {{0, 0}, oldp, oldlenp, newp, newlen};
    for (unsigned i = 0; i < NAMES; i++) {
        size_t mib[DEPTH];
        size_t depth;
        bool whole;
        if (match_name(names[i].text, name, mib, &depth, &whole) && whole) {
            return serve(&names[i], mib, &request);
        }
    }
    return ENOENT;
}

COMPAT_EXPORT int mallctlnametomib(const char *name, size_t *mibp, size_t *miblenp) {
    for (unsigned i = 0; i < NAMES; i++) {
        size_t mib[DEPTH];
        size_t depth;
        bool whole;
        if (match_name(names[i].text, name, mib, &depth, &whole)) {
            *miblenp = hak_min(*miblenp, depth);
            memcpy(mibp, mib, *miblenp * sizeof *mib);
            return 0;
        }
    }
    return ENOENT;
}

COMPAT_EXPORT int mallctlbymib(const size_t *mib, size_t miblen, void *oldp, size_t *oldlenp,
                               void *newp, size_t newlen) {
    struct request request = {{0, 0}, oldp, oldlenp, newp, newlen};
    for (unsigned i = 0; i < NAMES; i++) {
        if (match_mib(names[i].text, mib, miblen)) {
            return serve(&names[i], mib, &request);
        }
    }
    return ENOENT;
}

// ---- The table of statistics.

struct output {
    void (*write)(void *arg, const char *text);
    void *arg;
};

static void write_stderr(void *arg, const char *text) {
    (void)arg;
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
}

static __attribute__((format(printf, 2, 3))) void print(const struct output *out,
                                                        const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    out->write(out->arg, text);
}

static void print_bins(const struct output *out, const struct hak_stats *s) {
    print(out, "bins:           size     slabs      live    cached      free\n");
    for (unsigned bin = 1; bin < HAK_STATS_BINS; bin++) {
        if (s->bins[bin].slabs != 0) {
            print(out, "           %9zu %9zu %9zu %9zu %9zu\n", s->bins[bin].size,
                  s->bins[bin].slabs, s->bins[bin].live, s->bins[bin].cached, s->bins[bin].free_);
        }
    }
}

static void print_text(const struct output *out, const struct hak_stats *s, const char *options) {
    struct compat_totals t = compat_totals_of(s);
    print(out, "___ Begin jemalloc statistics ___\n");
    if (strchr(options, 'g') == NULL) {
        print(out, "Version: 5.3.0-%s\n", hak_flavour());
        print(out, "Decay time: %lld ms\n", (long long)hak_decay_ms());
        print(out, "Arenas: %u\n", arenas_count());
    }
    print(out,
          "Allocated: %zu, active: %zu, metadata: %zu (n_thp 0), resident: %zu, mapped: %zu, "
          "retained: %zu\n",
          t.allocated, t.active, t.metadata, t.resident, t.mapped, t.retained);
    print(out,
          "Small: %zu, large: %zu in %zu blocks, private heaps: %zu, cached: %zu, dirty: %zu\n",
          s->tiny_live, s->large_live, s->large_blocks, s->private_live, s->tiny_cached, s->dirty);
    print(out, "Given back: %llu in %llu purges\n", (unsigned long long)s->returned,
          (unsigned long long)s->purges);
    if (strchr(options, 'b') == NULL) {
        print_bins(out, s);
    }
    print(out, "--- End jemalloc statistics ---\n");
}

static void print_json(const struct output *out, const struct hak_stats *s) {
    struct compat_totals t = compat_totals_of(s);
    print(out, "{\"jemalloc\":{\"version\":\"5.3.0-%s\",\"stats\":{", hak_flavour());
    print(out,
          "\"allocated\":%zu,\"active\":%zu,\"metadata\":%zu,\"metadata_thp\":0,"
          "\"resident\":%zu,\"mapped\":%zu,\"retained\":%zu}}}\n",
          t.allocated, t.active, t.metadata, t.resident, t.mapped, t.retained);
}

COMPAT_EXPORT void malloc_stats_print(void (*write_cb)(void *arg, const char *text), void *arg,
                                      const char *opts) {
    struct output out = {write_cb, arg};
    if (out.write == NULL) {
        out.write = malloc_message != NULL ? malloc_message : write_stderr;
    }
    struct hak_stats s;
    hak_stats(&s);
    const char *options = opts == NULL ? "" : opts;
    if (strchr(options, 'J') != NULL) {
        print_json(&out, &s);
    } else {
        print_text(&out, &s, options);
    }
}

// ---- Options in text: of those that jemalloc knows, the age at which memory goes back has a
// counterpart. What the user says about hakmem itself comes first.

static void read_options(const char *options) {
    static const char key[] = "dirty_decay_ms:";
    while (options != NULL) {
        if (strncmp(options, key, sizeof key - 1) == 0) {
            char *end;
            errno = 0;
            long ms = strtol(options + sizeof key - 1, &end, 10);
            if (errno == 0 && (*end == 0 || *end == ',')) {
                hak_set_decay_ms(ms);
            }
        }
        options = strchr(options, ',');
        options = options == NULL ? NULL : options + 1;
    }
}

static __attribute__((constructor(102))) void start(void) {
    int saved = errno;
    if (secure_getenv("HAKMEM_DECAY_MS") == NULL) {
        read_options(malloc_conf);
        read_options(secure_getenv("MALLOC_CONF"));
    }
    errno = saved;
}
