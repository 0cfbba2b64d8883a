// SPDX-License-Identifier: Apache-2.0
#include "boxes/settings/settings.h"

#include "backends/os.h"
#include "boxes/diagnostics/diagnostics.h"

#include <string.h>
#include <sys/auxv.h>

// clang-format off
// Every setting: unit, least and most value, default, and what it does. The table, and the values
// from before the environment is read, are made of this list.
#define EACH_SETTING(ROW)                                                                          \
    ROW(SETTING_STATS, "HAKMEM_STATS", "0|1", 0, 1, 0,                                             \
        "write statistics at exit, 1 or text: a table on stderr, json: JSON, else: to that file")  \
    ROW(SETTING_DECAY_MS, "HAKMEM_DECAY_MS", "ms", -1, 3600000, 500,                               \
        "give free dirty pages back after that long; 0: at once, -1: never")                       \
    ROW(SETTING_C23_SIMPLE, "HAKMEM_TINY_FRONT_C23_SIMPLE", "0|1", 0, 1, 1,                        \
        "1: C2/C3 by the C23 front, 0: by the classic front (where linked)")                       \
    ROW(SETTING_C23_REFILL, "HAKMEM_TINY_FRONT_C23_REFILL", "blocks", 0, 256, 0,                   \
        "blocks per refill of the C2/C3 front; 0: by demand")                                      \
    ROW(SETTING_THP, "HAKMEM_THP", "0|1|2", 0, 2, 2,                                               \
        "advise huge pages, 0: never, 1: for SuperSlabs, 2: in dense heaps")                       \
    ROW(SETTING_BACKGROUND, "HAKMEM_BACKGROUND", "0|1", 0, 1, 0,                                   \
        "give idle memory back from a thread instead of on cache misses")                          \
    ROW(SETTING_LIMIT, "HAKMEM_LIMIT", "bytes|%", 0, INT64_MAX, 0,                                 \
        "most memory to hold (K, M, G, T or % of the cgroup's or the machine's "                   \
        "memory); 0: no limit")                                                                    \
    ROW(SETTING_DEEPBIND, "HAKMEM_DEEPBIND", "0|1", 0, 1, 1,                                       \
        "1: libraries that find libc's malloc (by RTLD_DEEPBIND, or by dlsym "                     \
        "of a handle) find this one; 0: they find libc's")                                         \
    ROW(SETTING_SANDBOX, "HAKMEM_SANDBOX", "0|1|2", 0, 2, 2,                                       \
        "system calls after the start, 0: all, 1: mmap alone, 2: as seccomp filters "              \
        "allow")                                                                                   \
    ROW(SETTING_CHECK_FREES, "HAKMEM_CHECK_FREES", "0|1|2", 0, 2, 1,                               \
        "look for a small block freed twice at once, 0: never, 1: in small heaps, 2: always")      \
    ROW(SETTING_PROFILE_RATE, "HAKMEM_PROFILE_RATE", "bytes", 1, INT64_C(1) << 40, 512 << 10,      \
        "mean distance of samples (K, M, G); 1: every allocation")                                 \
    ROW(SETTING_PROFILE_SIGNAL, "HAKMEM_PROFILE_SIGNAL", "signal", 0, 64, 0,                       \
        "write the profile when this signal comes; 0: none")                                       \
    ROW(SETTING_PROFILE_EVERY, "HAKMEM_PROFILE_EVERY", "bytes", 0, INT64_MAX, 0,                   \
        "write the profile each time so much was allocated (K, M, G, T); "                         \
        "0: no")                                                                                   \
    ROW(SETTING_GUARD, "HAKMEM_GUARD", "allocations", 0, INT64_C(1) << 40, 0,                      \
        "one allocation in about so many stands against a guard page; 0: none")                    \
    ROW(SETTING_LEAKS, "HAKMEM_LEAKS", "0|1", 0, 1, 0,                                             \
        "report on stderr at exit which sampled blocks are live, and lost")                        \
    ROW(SETTING_PROFILE_SECONDS, "HAKMEM_PROFILE_SECONDS", "s", 0, 1000000, 0,                     \
        "write the profile each time so many seconds have passed; 0: no")

#if HAK_HARDENED
#define EACH_HARDENED_SETTING(ROW)                                                                 \
    ROW(SETTING_CANARY, "HAKMEM_CANARY", "0|1|2", 0, 2, 2,                                         \
        "look for writes past the end, 1: of a block that is freed, 2: and of the one before it")  \
    ROW(SETTING_CHECK_SIZES, "HAKMEM_CHECK_SIZES", "0|1", 0, 1, 1,                                 \
        "compare the size and the alignment given to free_sized and delete")                       \
    ROW(SETTING_ZERO, "HAKMEM_ZERO", "0|1|2", 0, 2, 2,                                             \
        "1: make freed blocks zero, 2: and see that they are so when they are handed out")         \
    ROW(SETTING_ZERO_MOST, "HAKMEM_ZERO_MOST", "bytes", 4096, INT64_C(1) << 40, 2 << 20,           \
        "of freed blocks larger than this only 2 KiB at each end become zero (K, M, G, T)")        \
    ROW(SETTING_QUARANTINE, "HAKMEM_QUARANTINE", "bytes", 0, 1 << 20, 32 << 10,                    \
        "bytes of freed blocks that wait before they are used again, a size class and thread")     \
    ROW(SETTING_PROTECT, "HAKMEM_PROTECT", "bytes", 0, INT64_C(1) << 40, 512 << 10,                \
        "freed blocks of so many bytes can be neither read nor written while they wait "           \
        "(K, M, G, T); 0: none is")                                                                \
    ROW(SETTING_PROTECT_KEEP, "HAKMEM_PROTECT_KEEP", "bytes", 0, INT64_C(1) << 40, 4 << 20,        \
        "so many bytes of those blocks, none of more than half of that, keep their memory "   \
        "while they wait (K, M, G, T)")                                                            \
    ROW(SETTING_GUARD_PAGES, "HAKMEM_GUARD_PAGES", "pages", 0, 16384, 128,                         \
        "so many slabs at most, and so many large blocks, end at a page that nobody may touch")    \
    ROW(SETTING_GUARD_LARGE, "HAKMEM_GUARD_LARGE", "bytes", 0, INT64_C(1) << 40, 512 << 10,        \
        "pages that nobody may touch follow blocks of so many bytes (K, M, G, T); 0: none")        \
    ROW(SETTING_RANDOM, "HAKMEM_RANDOM", "blocks", 0, 256, 8,                                      \
        "choose a block at random among up to so many (a power of two) that are ready; "           \
        "0, 1: no choice")                                                                         \
    ROW(SETTING_SEPARATE, "HAKMEM_SEPARATE", "0|1", 0, 1, 1,                                       \
        "never use addresses of one size class for another")
#else
#    define EACH_HARDENED_SETTING(ROW)
#endif

#define TABLE_ROW(setting, name, unit, least, most, preset, help) \
    [setting] = {name, unit, least, most, preset, help},
const struct setting_row settings_table[SETTING_COUNT] = {
    EACH_SETTING(TABLE_ROW)
    EACH_HARDENED_SETTING(TABLE_ROW)
};

#define VALUE(setting, name, unit, least, most, preset, help) [setting] = (preset),
int64_t settings_values[SETTING_COUNT] = {
    EACH_SETTING(VALUE)
    EACH_HARDENED_SETTING(VALUE)
};

const struct setting_text_row settings_text_table[SETTING_TEXTS] = {
    [SETTING_TEXT_PROFILE] = {"HAKMEM_PROFILE",
                              "sample allocations, and write a heap profile to this file"},
    [SETTING_TEXT_RECORD] = {"HAKMEM_RECORD",
                             "record what is allocated and freed in this file"},
};
// clang-format on

enum { TEXT_MOST = 1024 };
static char texts[SETTING_TEXTS][TEXT_MOST];

const char *settings_text(enum setting_text text) {
    return texts[text];
}

// Returns the number at the start of a small file, or SIZE_MAX if there is none (the file is
// missing, or says "max").
static size_t number_in_file(const char *path) {
    char text[32];
    size_t length = os_read_file(path, text, sizeof text);
    size_t value = 0;
    size_t i = 0;
    for (; i < length && text[i] >= '0' && text[i] <= '9' && value < SIZE_MAX / 10; i++) {
        value = value * 10 + (size_t)(text[i] - '0');
    }
    return i == 0 ? SIZE_MAX : value;
}

// Returns the number in the file `file` of the cgroup whose path is in the line of
// /proc/self/cgroup that `field` marks, below `root`; of the root itself if that cgroup cannot be
// seen, as in a container.
static size_t cgroup_number(const char *cgroups, const char *field, const char *root,
                            const char *file) {
    const char *at = strstr(cgroups, field);
    at = at == NULL ? NULL : strchr(at + strlen(field) - 1, ':');
    char path[512];
    size_t most = SIZE_MAX;
    if (at != NULL) {
        size_t length = strcspn(at + 1, "\n");
        if (strlen(root) + length + strlen(file) < sizeof path) {
            strcpy(path, root);
            strncat(path, at + 1, length);
            strcat(path, file);
            most = number_in_file(path);
        }
    }
    strcpy(path, root);
    strcat(path, file);
    return hak_min(most, number_in_file(path));
}

size_t settings_memory(void) {
    char cgroups[2048];
    size_t length = os_read_file("/proc/self/cgroup", cgroups, sizeof cgroups - 1);
    cgroups[length] = '\0';
    size_t most = os_physical_memory();
    most = hak_min(most, cgroup_number(cgroups, "0::", "/sys/fs/cgroup", "/memory.max"));
    return hak_min(most, cgroup_number(cgroups, ":memory:", "/sys/fs/cgroup/memory",
                                       "/memory.limit_in_bytes"));
}

// Reads the suffix of a number of bytes. Returns false if no setting may have that suffix.
static bool scale(const char *suffix, bool percent, int64_t *value) {
    static const char units[] = "KMGT";
    if (percent && strcmp(suffix, "%") == 0) {
        if (*value > 100) {
            return false;
        }
        *value = (int64_t)(settings_memory() / 100) * *value;
        return true;
    }
    const char *unit = *suffix == '\0' ? NULL : strchr(units, *suffix);
    if (unit == NULL || suffix[1] != '\0') {
        return false;
    }
    int shift = 10 * (int)(unit - units + 1);
    if (*value > INT64_MAX >> shift) {
        return false;
    }
    *value <<= shift;
    return true;
}

bool settings_parse(const struct setting_row *row, const char *text, int64_t *out) {
    bool negative = *text == '-';
    if (*text == '-' || *text == '+') {
        text++;
    }
    if (*text < '0' || *text > '9') {
        return false;
    }
    int64_t value = 0;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, *text - '0', &value)) {
            return false;
        }
    }
    bool bytes = strncmp(row->unit, "bytes", strlen("bytes")) == 0;
    bool percent = strchr(row->unit, '%') != NULL;
    if (*text != '\0' && !(bytes && scale(text, percent, &value))) {
        return false;
    }
    value = negative ? -value : value;
    if (value < row->least || value > row->most) {
        return false;
    }
    *out = value;
    return true;
}

static size_t name_length(const char *entry) {
    return strcspn(entry, "=");
}

// Returns the row of the name that an entry of the environment begins with, SETTING_COUNT if there
// is none.
static int find_row(const char *entry) {
    size_t length = name_length(entry);
    int i = 0;
    while (i < SETTING_COUNT && (strlen(settings_table[i].name) != length ||
                                 memcmp(settings_table[i].name, entry, length) != 0)) {
        i++;
    }
    return i;
}

// Returns true if an entry of the environment has the name of a text setting; sets that setting.
static bool load_text(const char *entry, const char *text) {
    int i = 0;
    while (i < SETTING_TEXTS &&
           (strlen(settings_text_table[i].name) != name_length(entry) ||
            memcmp(settings_text_table[i].name, entry, name_length(entry)) != 0)) {
        i++;
    }
    if (i == SETTING_TEXTS) {
        return false;
    }
    if (strlen(text) < TEXT_MOST) {
        strcpy(texts[i], text);
    } else {
        diag_warn_setting(entry, text, "too long, ignored");
    }
    return true;
}

static struct {
    char file[1024];
    bool json;
} stats;

struct settings_stats settings_get_stats(void) {
    return (struct settings_stats){stats.file[0] == '\0' ? NULL : stats.file, stats.json};
}

static bool ends_in(const char *text, const char *end) {
    size_t length = strlen(text);
    return length >= strlen(end) && strcmp(text + length - strlen(end), end) == 0;
}

// Reads the values of HAKMEM_STATS that ask for statistics. Returns false for all others.
static bool load_stats(const char *text) {
    bool json = strcmp(text, "json") == 0;
    bool is_file = strpbrk(text, "/.") != NULL && strlen(text) < sizeof stats.file;
    if (!json && !is_file && strcmp(text, "text") != 0 && strcmp(text, "1") != 0) {
        return false;
    }
    stats.json = json || ends_in(text, ".json");
    strcpy(stats.file, is_file ? text : "");
    HAK_POKE(&settings_values[SETTING_STATS], 1);
    return true;
}

// Returns true if an entry before this one has the same name: each name gets one line.
static bool is_repeated(char *const *environment, char *const *entry) {
    size_t length = name_length(*entry) + 1;
    while (environment != entry && strncmp(*environment, *entry, length) != 0) {
        environment++;
    }
    return environment != entry;
}

void settings_load(char *const *environment) {
    if (environment == NULL || getauxval(AT_SECURE) != 0) {
        return;
    }
    for (char *const *entry = environment; *entry != NULL; entry++) {
        const char *text = strchr(*entry, '=');
        if (strncmp(*entry, "HAKMEM_", 7) != 0 || text == NULL) {
            continue;
        }
        text++;
        if (load_text(*entry, text)) {
            continue;
        }
        int i = find_row(*entry);
        int64_t value;
        if (i == SETTING_COUNT) {
            if (!is_repeated(environment, entry)) {
                diag_warn_setting(*entry, text, "no such setting");
            }
        } else if (*text == '\0') {
            HAK_POKE(&settings_values[i], settings_table[i].preset);
        } else if (i == SETTING_STATS && load_stats(text)) {
            continue;
        } else if (settings_parse(&settings_table[i], text, &value)) {
            HAK_POKE(&settings_values[i], value);
        } else {
            diag_warn_setting(*entry, text, "not a number of the setting's range, default used");
        }
    }
}

void settings_load_once(char *const *environment) {
    static _Atomic(bool) loaded;
    if (!atomic_exchange(&loaded, true)) {
        settings_load(environment);
    }
}

bool settings_set(enum setting setting, int64_t value) {
    const struct setting_row *row = &settings_table[setting];
    if (value < row->least || value > row->most) {
        return false;
    }
    HAK_POKE(&settings_values[setting], value);
    return true;
}

HAK_LAYOUT(settings_layout,
           HAK_ROWS(HAK_VARIABLE("settings.table", settings_table),
                    HAK_VARIABLE("settings.values", settings_values)),
           HAK_ROWS(HAK_NUMBER("setting", sizeof settings_table[0]),
                    HAK_FIELD("setting.name", struct setting_row, name),
                    HAK_FIELD("setting.preset", struct setting_row, preset)));
