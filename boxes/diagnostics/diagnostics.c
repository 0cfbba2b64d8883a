// SPDX-License-Identifier: Apache-2.0
#include "boxes/diagnostics/diagnostics.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/base/digits.h"
#include "boxes/probe/probe.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct line {
    char text[256];
    size_t length;
};

static void add_text(struct line *line, const char *text, size_t most) {
    // One place is kept for the newline.
    for (size_t i = 0; i < most && text[i] != '\0' && line->length < sizeof line->text - 1; i++) {
        line->text[line->length++] = text[i];
    }
}

static void add_pointer(struct line *line, const void *ptr) {
    char digits[HAK_DIGITS];
    char *end = digits + sizeof digits;
    char *at = hak_digits(end, (uintptr_t)ptr, 16);
    add_text(line, "0x", SIZE_MAX);
    add_text(line, at, (size_t)(end - at));
}

static void put(struct line *line) {
    line->text[line->length++] = '\n';
    os_write_stderr(line->text, line->length);
}

// Ends the process with a line. Faults that other threads find before the process ends may follow
// from the first one and name an innocent block, so only the first thread writes.
static HAK_NORETURN void stop(struct line *line) {
    enum { WAITS = 100 }; // of 10 ms; the first reporter may exist in the parent process only
    static _Atomic(uintptr_t) first;
    uintptr_t other = 0;
    uintptr_t self = (uintptr_t)pthread_self();
    if (!atomic_compare_exchange_strong(&first, &other, self) && other != self) {
        for (int i = 0; i < WAITS; i++) {
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        }
    }
    put(line);
    abort();
}

void diag_misuse(const char *call, const void *ptr, const char *fault) {
    probe_misuse(call, ptr, fault);
    struct line line = {.length = 0};
    add_text(&line, "hakmem: ", SIZE_MAX);
    add_text(&line, call, SIZE_MAX);
    add_text(&line, "(", 1);
    add_pointer(&line, ptr);
    add_text(&line, "): ", SIZE_MAX);
    add_text(&line, fault, SIZE_MAX);
    stop(&line);
}

void diag_broken(const char *where, const char *what) {
    struct line line = {.length = 0};
    add_text(&line, "hakmem: broken invariant in ", SIZE_MAX);
    add_text(&line, where, SIZE_MAX);
    add_text(&line, ": ", SIZE_MAX);
    add_text(&line, what, SIZE_MAX);
    stop(&line);
}

void diag_warn_setting(const char *name, const char *value, const char *what) {
    struct line line = {.length = 0};
    add_text(&line, "hakmem: warning: ", SIZE_MAX);
    add_text(&line, name, hak_min(strcspn(name, "="), 64));
    add_text(&line, "=", 1);
    add_text(&line, value, 64);
    add_text(&line, ": ", SIZE_MAX);
    add_text(&line, what, SIZE_MAX);
    put(&line);
}
