// SPDX-License-Identifier: Apache-2.0
// The C interface of gperftools' MallocExtension, nallocx(), and what there is of MallocHook.
#include "fronts/libc/extension.h"
#include "boxes/base/base.h"
#include "boxes/settings/settings.h"
#include "boxes/size_class/size_class.h"
#include "boxes/statistics/statistics.h"
#include "fronts/compat/compat.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>

// ---- Numbers by name. What has no counterpart is an unknown name, and none can be set.

enum property_kind {
    ALLOCATED,
    HEAP_SIZE,
    PHYSICAL,
    CACHED,
    FREE_BLOCKS,
    FREE_PAGES,
    UNMAPPED,
    COMMITTED,
    PURGES,
    LIMIT_MB,
    NOTHING,
};

static const struct {
    const char *name;
    enum property_kind kind;
} properties[] = {
    {"generic.current_allocated_bytes", ALLOCATED},
    {"generic.heap_size", HEAP_SIZE},
    {"generic.total_physical_bytes", PHYSICAL},
    {"tcmalloc.current_total_thread_cache_bytes", CACHED},
    {"tcmalloc.thread_cache_free_bytes", CACHED},
    {"tcmalloc.central_cache_free_bytes", FREE_BLOCKS},
    {"tcmalloc.transfer_cache_free_bytes", NOTHING}, // there is no such cache
    {"tcmalloc.pageheap_free_bytes", FREE_PAGES},
    {"tcmalloc.slack_bytes", FREE_PAGES},
    {"tcmalloc.pageheap_unmapped_bytes", UNMAPPED},
    {"tcmalloc.pageheap_committed_bytes", COMMITTED},
    {"tcmalloc.pageheap_scavenge_count", PURGES},
    {"tcmalloc.heap_limit_mb", LIMIT_MB},
};

static size_t property_value(enum property_kind kind) {
    struct hak_stats s;
    hak_stats(&s);
    struct compat_totals t = compat_totals_of(&s);
    switch (kind) {
    case ALLOCATED:
        return t.allocated;
    case HEAP_SIZE:
        return t.mapped + t.retained;
    case PHYSICAL:
        return t.resident;
    case CACHED:
        return s.tiny_cached;
    case FREE_BLOCKS:
        return s.tiny_free;
    case FREE_PAGES:
        return t.dirty;
    case UNMAPPED: // what of the heap's address range has no memory
        return t.mapped + t.retained - hak_min(t.mapped + t.retained, t.active + t.dirty);
    case COMMITTED:
        return t.mapped;
    case PURGES:
        return s.purges;
    case LIMIT_MB:
        return (size_t)settings_get(SETTING_LIMIT) >> 20;
    default:
        return 0;
    }
}

COMPAT_EXPORT int MallocExtension_GetNumericProperty(const char *property, size_t *value) {
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++) {
        if (strcmp(property, properties[i].name) == 0) {
            *value = property_value(properties[i].kind);
            return 1;
        }
    }
    return 0;
}

COMPAT_EXPORT int MallocExtension_SetNumericProperty(const char *property, size_t value) {
    (void)property, (void)value;
    return 0;
}

// A table in text, of as much as there is room for.
COMPAT_EXPORT void MallocExtension_GetStats(char *buffer, int buffer_length) {
    if (buffer_length <= 0) {
        return;
    }
    struct hak_stats s;
    hak_stats(&s);
    struct compat_totals t = compat_totals_of(&s);
    snprintf(buffer, (size_t)buffer_length,
             "------------------------------------------------\n"
             "MALLOC:   %14zu Bytes in use by application (%s)\n"
             "MALLOC: + %14zu Bytes in page heap freelist\n"
             "MALLOC: + %14zu Bytes in central cache freelist\n"
             "MALLOC: + %14zu Bytes in thread cache freelists\n"
             "MALLOC: + %14zu Bytes in malloc metadata\n"
             "MALLOC:   %14zu Bytes in memory at most\n"
             "MALLOC:   %14zu Bytes of address space\n"
             "MALLOC:   %14zu Thread heaps in use\n"
             "------------------------------------------------\n",
             t.allocated, hak_flavour(), t.dirty, s.tiny_free, s.tiny_cached, t.metadata,
             t.resident, t.mapped + t.retained, s.heaps - s.free_heaps);
}

// ---- Memory given back.

COMPAT_EXPORT void MallocExtension_ReleaseToSystem(size_t num_bytes) {
    if (num_bytes > 0) {
        hak_purge();
    }
}

COMPAT_EXPORT void MallocExtension_ReleaseFreeMemory(void) {
    hak_purge();
}

COMPAT_EXPORT void MallocExtension_MarkThreadIdle(void) {
    hak_flush_thread();
}

COMPAT_EXPORT void MallocExtension_MarkThreadBusy(void) {}

COMPAT_EXPORT void MallocExtension_MarkThreadTemporarilyIdle(void) {
    hak_flush_thread();
}

COMPAT_EXPORT size_t MallocExtension_GetThreadCacheSize(void) {
    return hak_thread_cached();
}

// ---- Sizes and owners.

static size_t align_of(int flags) {
    return (size_t)1 << (flags & 63);
}

COMPAT_EXPORT size_t nallocx(size_t size, int flags) {
    return compat_good_size(size, align_of(flags));
}

COMPAT_EXPORT size_t tc_nallocx(size_t size, int flags) {
    return compat_good_size(size, align_of(flags));
}

COMPAT_EXPORT size_t MallocExtension_GetEstimatedAllocatedSize(size_t size) {
    return compat_good_size(size, 1);
}

COMPAT_EXPORT size_t MallocExtension_GetAllocatedSize(const void *p) {
    return malloc_usable_size((void *)p);
}

enum ownership { UNKNOWN_OWNERSHIP, OWNED, NOT_OWNED };

COMPAT_EXPORT enum ownership MallocExtension_GetOwnership(const void *p) {
    if (!compat_is_served()) {
        return UNKNOWN_OWNERSHIP;
    }
    return hak_in_heap(p) ? OWNED : NOT_OWNED;
}

// ---- Checks. Blocks are checked as they are freed; here, whether there is one.

static int is_block(const void *p) {
    return p == NULL || !compat_is_served() || hak_usable(p) != 0;
}

COMPAT_EXPORT int MallocExtension_VerifyAllMemory(void) {
    return 1;
}

COMPAT_EXPORT int MallocExtension_VerifyNewMemory(const void *p) {
    return is_block(p);
}

COMPAT_EXPORT int MallocExtension_VerifyArrayNewMemory(const void *p) {
    return is_block(p);
}

COMPAT_EXPORT int MallocExtension_VerifyMallocMemory(const void *p) {
    return is_block(p);
}

enum { HISTOGRAM = 64 };

// Live blocks: their number, their bytes, and by the logarithm of their size. Large blocks are
// counted as of their mean size.
COMPAT_EXPORT int MallocExtension_MallocMemoryStats(int *blocks, size_t *total,
                                                    int histogram[HISTOGRAM]) {
    struct hak_stats s;
    hak_stats(&s);
    memset(histogram, 0, HISTOGRAM * sizeof *histogram);
    size_t count = s.large_blocks;
    if (count > 0) {
        histogram[hak_log2(hak_max(s.large_live / count, 1))] += (int)count;
    }
    for (unsigned bin = 1; bin < HAK_STATS_BINS; bin++) {
        if (s.bins[bin].live != 0) {
            histogram[hak_log2(s.bins[bin].size)] += (int)s.bins[bin].live;
            count += s.bins[bin].live;
        }
    }
    *blocks = (int)count;
    *total = s.tiny_live + s.large_live;
    return 1;
}

// ---- Hooks. Hits call none, so each is refused, as the interface allows: 0 is "failed".

#define REFUSED(name)                            \
    COMPAT_EXPORT int name(void (*hook)(void)) { \
        (void)hook;                              \
        return 0;                                \
    }
REFUSED(MallocHook_AddNewHook)
REFUSED(MallocHook_RemoveNewHook)
REFUSED(MallocHook_AddDeleteHook)
REFUSED(MallocHook_RemoveDeleteHook)
REFUSED(MallocHook_AddPreMmapHook)
REFUSED(MallocHook_RemovePreMmapHook)
REFUSED(MallocHook_AddMmapHook)
REFUSED(MallocHook_RemoveMmapHook)
REFUSED(MallocHook_SetMmapReplacement)
REFUSED(MallocHook_RemoveMmapReplacement)
REFUSED(MallocHook_AddMunmapHook)
REFUSED(MallocHook_RemoveMunmapHook)
REFUSED(MallocHook_SetMunmapReplacement)
REFUSED(MallocHook_RemoveMunmapReplacement)
REFUSED(MallocHook_AddMremapHook)
REFUSED(MallocHook_RemoveMremapHook)
REFUSED(MallocHook_AddPreSbrkHook)
REFUSED(MallocHook_RemovePreSbrkHook)
REFUSED(MallocHook_AddSbrkHook)
REFUSED(MallocHook_RemoveSbrkHook)

COMPAT_EXPORT int MallocHook_GetCallerStackTrace(void **result, int max_depth, int skip_count) {
    (void)result, (void)max_depth, (void)skip_count;
    return 0;
}

COMPAT_EXPORT size_t malloc_size(void *ptr) {
    return malloc_usable_size(ptr);
}
