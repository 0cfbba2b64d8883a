// SPDX-License-Identifier: Apache-2.0
// malloc_stats_print(), and malloc_conf.
#include "boxes/statistics/statistics.h"
#include "fronts/compat/compat.h"
#include "fronts/compat/jemalloc/arenas.h"
#include "fronts/libc/extension.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The program's own, if it defines one: options in text.
extern const char *malloc_conf;
COMPAT_EXPORT __attribute__((weak)) const char *malloc_conf = NULL;
// The program's own, if it sets one: what malloc_stats_print() writes with.
extern void (*malloc_message)(void *arg, const char *text);
COMPAT_EXPORT void (*malloc_message)(void *arg, const char *text) = NULL;

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
