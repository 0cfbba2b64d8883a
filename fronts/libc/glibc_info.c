// SPDX-License-Identifier: Apache-2.0
// glibc's calls that report about the heap or set options: malloc_trim(), mallinfo(), malloc_info()
// and others.
#include "fronts/libc/calls.h"
#include "fronts/libc/glibc_malloc.h"

#include "backends/os.h"
#include "boxes/decay/decay.h"
#include "boxes/statistics/statistics.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>

EXPORT int malloc_trim(size_t pad) {
    slow_make_room();
    bool given = decay_all(pad) > 0;
    slow_look_anew();
    return given;
}

// There are no fast bins: smblks and fsmblks are 0, as in a program that has set M_MXFAST to 0.
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

// glibc's options have no counterpart here. None of them changes what a correct program sees, so
// they are accepted and ignored, and so are options that do not exist. Values that glibc 2.36
// refuses are refused: M_MXFAST beyond its fast bins.
EXPORT int mallopt(int param, int value) {
    enum { MXFAST_MOST = 80 * sizeof(size_t) / 4 };
    return param != M_MXFAST || (value >= 0 && value <= MXFAST_MOST);
}

#ifdef __GLIBC__
EXPORT LIBC_NAME(mallopt)
int __libc_mallopt(int param, int value);

struct mallinfo __libc_mallinfo(void);
EXPORT struct mallinfo __libc_mallinfo(void) { // no alias: glibc's header calls mallinfo() outdated
    return narrow_info();
}
#endif
