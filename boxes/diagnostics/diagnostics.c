#include "boxes/diagnostics/diagnostics.h"

#include "backends/os.h"

#include <stdlib.h>

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
    char digits[19] = "0x";
    size_t n = 2;
    uintptr_t value = (uintptr_t)ptr;
    int shift = 60;
    while (shift > 0 && value >> shift == 0) {
        shift -= 4;
    }
    for (; shift >= 0; shift -= 4) {
        digits[n++] = "0123456789abcdef"[value >> shift & 15];
    }
    digits[n] = '\0';
    add_text(line, digits, n);
}

static void put(struct line *line) {
    line->text[line->length++] = '\n';
    os_write_stderr(line->text, line->length);
}

void diag_misuse(const char *call, const void *ptr, const char *fault) {
    struct line line = {.length = 0};
    add_text(&line, "hakmem: ", SIZE_MAX);
    add_text(&line, call, SIZE_MAX);
    add_text(&line, "(", 1);
    add_pointer(&line, ptr);
    add_text(&line, "): ", SIZE_MAX);
    add_text(&line, fault, SIZE_MAX);
    put(&line);
    abort();
}

void diag_broken(const char *where, const char *what) {
    struct line line = {.length = 0};
    add_text(&line, "hakmem: broken invariant in ", SIZE_MAX);
    add_text(&line, where, SIZE_MAX);
    add_text(&line, ": ", SIZE_MAX);
    add_text(&line, what, SIZE_MAX);
    put(&line);
    abort();
}

void diag_warn_setting(const char *name, const char *value, const char *what) {
    struct line line = {.length = 0};
    add_text(&line, "hakmem: warning: ", SIZE_MAX);
    add_text(&line, name, SIZE_MAX);
    add_text(&line, "=", 1);
    add_text(&line, value, 64);
    add_text(&line, ": ", SIZE_MAX);
    add_text(&line, what, SIZE_MAX);
    put(&line);
}
