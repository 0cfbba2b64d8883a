// SPDX-License-Identifier: Apache-2.0
// mallctl() and kin: names of figures and actions, as in jemalloc 5.3. The table has the names that
// hakmem has an answer for. For every other name the answer is ENOENT, as from a jemalloc that was
// built without it. Counts of each call (thread.allocated, nmalloc and so on) are missing, because
// hakmem's hits count nothing.
#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/settings/settings.h"
#include "boxes/size_class/size_class.h"
#include "boxes/statistics/statistics.h"
#include "fronts/compat/compat.h"
#include "fronts/compat/jemalloc/arenas.h"
#include "fronts/compat/jemalloc/figures.h"
#include "fronts/compat/jemalloc/names.h"
#include "fronts/compat/jemalloc/request.h"
#include "fronts/libc/extension.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

// ---- Statistics, as they were at the last write to "epoch".

static int rw_epoch(const struct request *r) {
    uint64_t ignored;
    int error = take(r, &ignored, sizeof ignored);
    if (error != 0) {
        return error;
    }
    if (r->newp != NULL || atomic_load(&figures_epoch) == 0) {
        figures_refresh();
    }
    uint64_t now = atomic_load(&figures_epoch);
    return reply(r, &now, sizeof now);
}

READ_ONLY(stats_allocated, size_t, figures_get(ALLOCATED))
READ_ONLY(stats_active, size_t, figures_get(ACTIVE))
READ_ONLY(stats_metadata, size_t, figures_get(METADATA))
READ_ONLY(stats_resident, size_t, figures_get(RESIDENT))
READ_ONLY(stats_mapped, size_t, figures_get(MAPPED))
READ_ONLY(stats_retained, size_t, figures_get(RETAINED))

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

// Returns the version of jemalloc's interface, and the flavour behind it.
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

// There is no state between "dirty" and "clean".
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

// Only an arena that the program made can be emptied.
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

// ---- Bins. jemalloc counts them from 0.

static const struct size_class_bin *bin_of(size_t i) {
    return &size_class_bins[i + 1];
}

READ_ONLY(nbins, unsigned, names_bins())
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

static size_t of_arena(const struct request *r, enum figure which) {
    return own(r) != NULL || r->numbers[0] == ARENAS_DESTROYED ? 0 : figures_get(which);
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
    size_t answer = common && figures_get(SMALL) != 0 ? atomic_load(count) : 0;
    return only_read(r, &answer, sizeof answer);
}

static int arena_bin_live(const struct request *r) {
    return arena_bin(r, &figures_bins[r->numbers[1] + 1].live);
}

static int arena_bin_slabs(const struct request *r) {
    return arena_bin(r, &figures_bins[r->numbers[1] + 1].slabs);
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
    {"tcache.create", mallctl_create_cache},
    {"tcache.flush", mallctl_flush_cache},
    {"tcache.destroy", mallctl_destroy_cache},
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

static int serve(const struct name *name, const size_t *mib, struct request *r) {
    names_numbers(name->text, mib, r->numbers);
    return name->serve(r);
}

COMPAT_EXPORT int mallctl(const char *name, void *oldp, size_t *oldlenp, void *newp,
                          size_t newlen) {
    struct request request = {{0, 0}, oldp, oldlenp, newp, newlen};
    for (unsigned i = 0; i < NAMES; i++) {
        size_t mib[NAMES_DEPTH];
        size_t depth;
        bool whole;
        if (names_match(names[i].text, name, mib, &depth, &whole) && whole) {
            return serve(&names[i], mib, &request);
        }
    }
    return ENOENT;
}

COMPAT_EXPORT int mallctlnametomib(const char *name, size_t *mibp, size_t *miblenp) {
    for (unsigned i = 0; i < NAMES; i++) {
        size_t mib[NAMES_DEPTH];
        size_t depth;
        bool whole;
        if (names_match(names[i].text, name, mib, &depth, &whole)) {
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
        if (names_match_mib(names[i].text, mib, miblen)) {
            return serve(&names[i], mib, &request);
        }
    }
    return ENOENT;
}
