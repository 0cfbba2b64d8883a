// SPDX-License-Identifier: Apache-2.0
#include "boxes/profile_file/profile_file.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/base/digits.h"
#include "boxes/profile_file/writer.h"

#include <string.h>

enum { WRITER_BYTES = (sizeof(struct profile_writer) + HAK_PAGE - 1) / HAK_PAGE * HAK_PAGE };

static _Atomic(bool) at_work;

void profile_file_after_fork(void) {
    atomic_store(&at_work, false);
}

static bool ends_in(const char *path, const char *end) {
    size_t length = strlen(path), tail = strlen(end);
    return length >= tail && strcmp(path + length - tail, end) == 0;
}

static bool write_all(struct profile_writer *w, const char *path, int file) {
    enum { FIRST_ROOM = 16384 };
    void *names;
    w->room = FIRST_ROOM;
    if (os_map(NULL, w->room * sizeof *w->names, &names) != OS_OK) {
        return false;
    }
    w->names = names;
    heap_profile_each_stack(profile_collect, w);
    profile_settle(w);
    bool done = elf_symbols_open(&w->symbols);
    if (done) {
        elf_symbols_name(&w->symbols, w->names, w->count);
        bool folded = ends_in(path, ".folded");
        output_start(&w->out, file, !folded);
        if (folded) {
            heap_profile_each_stack(ends_in(path, ".alloc.folded") ? profile_put_folded_allocated
                                                                   : profile_put_folded_live,
                                    w);
        } else {
            profile_write_proto(w);
        }
        done = output_end(&w->out);
        elf_symbols_close(&w->symbols);
    }
    os_release(w->names, w->room * sizeof *w->names);
    return done;
}

static bool write_file(struct profile_writer *w, const char *path) {
    char part[PROFILE_PATH_MOST + 8];
    bool direct = strncmp(path, "/dev/", strlen("/dev/")) == 0 || strlen(path) >= PROFILE_PATH_MOST;
    if (!direct) {
        strcpy(part, path);
        strcat(part, ".part");
    }
    int file = os_create_file(direct ? path : part);
    if (file < 0) {
        return false;
    }
    bool done = write_all(w, path, file);
    os_close_file(file);
    return done && (direct || os_rename_file(part, path));
}

bool profile_file_write(const char *path) {
    void *writer;
    if (atomic_exchange(&at_work, true)) {
        return false;
    }
    bool done = false;
    if (os_map(NULL, WRITER_BYTES, &writer) == OS_OK) {
        done = write_file(writer, path);
        os_release(writer, WRITER_BYTES);
    }
    atomic_store(&at_work, false);
    return done;
}

struct text {
    char *at;
    size_t left;
};

static void add_text(struct text *to, const char *from, size_t size) {
    size = hak_min(size, to->left);
    memcpy(to->at, from, size);
    to->at += size;
    to->left -= size;
}

static void add_number(struct text *to, uint64_t value) {
    char digits[HAK_DIGITS];
    char *end = digits + sizeof digits;
    char *at = hak_digits(end, value, 10);
    add_text(to, at, (size_t)(end - at));
}

// Returns the start of a name's extension: the first dot in its last component, but for a dot at
// the component's start.
static const char *extension_of(const char *path) {
    const char *name = strrchr(path, '/');
    name = name == NULL ? path : name + 1;
    const char *dot = *name == '\0' ? NULL : strchr(name + 1, '.');
    return dot == NULL ? path + strlen(path) : dot;
}

bool profile_file_name(const char *pattern, uint64_t nth, bool child, char *path) {
    struct text to = {path, PROFILE_PATH_MOST - 1};
    const char *mark = child && strstr(pattern, "%p") == NULL ? extension_of(pattern) : NULL;
    for (const char *at = pattern;; at++) {
        if (at == mark) {
            add_text(&to, ".", 1);
            add_number(&to, (uint64_t)os_process());
        }
        if (*at == '\0') {
            break;
        }
        if (*at != '%') {
            add_text(&to, at, 1);
            continue;
        }
        switch (*++at) {
        case 'p':
            add_number(&to, (uint64_t)os_process());
            break;
        case 't':
            add_number(&to, os_wall_ns() / 1000000000);
            break;
        case 'n':
            add_number(&to, nth);
            break;
        case '%':
            add_text(&to, "%", 1);
            break;
        default: // not for us
            add_text(&to, --at, 1);
        }
    }
    *to.at = '\0';
    return to.left > 0;
}
