#include "boxes/settings/settings.h"

#include "boxes/diagnostics/diagnostics.h"

#include <string.h>
#include <sys/auxv.h>

// clang-format off
const struct setting_row settings_table[SETTING_COUNT] = {
    [SETTING_STATS]      = {"HAKMEM_STATS", "0|1", 0, 1, 0,
                            "print a table of statistics on stderr at exit"},
    [SETTING_DECAY_MS]   = {"HAKMEM_DECAY_MS", "ms", -1, 3600000, 500,
                            "give free dirty pages back after that long; 0: at once, -1: never"},
    [SETTING_C23_SIMPLE] = {"HAKMEM_TINY_FRONT_C23_SIMPLE", "0|1", 0, 1, 1,
                            "1: C2/C3 by the C23 front, 0: by the classic front (where linked)"},
    [SETTING_C23_REFILL] = {"HAKMEM_TINY_FRONT_C23_REFILL", "blocks", 0, 256, 0,
                            "blocks per refill of the C2/C3 front; 0: by demand"},
    [SETTING_THP]        = {"HAKMEM_THP", "0|1", 0, 1, 0,
                            "advise huge pages for SuperSlabs"},
};

int64_t settings_values[SETTING_COUNT] = {
    [SETTING_STATS] = 0,
    [SETTING_DECAY_MS] = 500,
    [SETTING_C23_SIMPLE] = 1,
    [SETTING_C23_REFILL] = 0,
    [SETTING_THP] = 0,
};
// clang-format on

bool settings_parse(const struct setting_row *row, const char *text, int64_t *out) {
    bool negative = *text == '-';
    if (*text == '-' || *text == '+') {
        text++;
    }
    if (*text == '\0') {
        return false;
    }
    int64_t value = 0;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || value > (INT64_MAX - 9) / 10) {
            return false;
        }
        value = value * 10 + (*text - '0');
    }
    value = negative ? -value : value;
    if (value < row->least || value > row->most) {
        return false;
    }
    *out = value;
    return true;
}

void settings_load(char *const *environment) {
    if (environment == NULL || getauxval(AT_SECURE) != 0) {
        return;
    }
    for (; *environment != NULL; environment++) {
        const char *entry = *environment;
        if (strncmp(entry, "HAKMEM_", 7) != 0) {
            continue;
        }
        for (int i = 0; i < SETTING_COUNT; i++) {
            const struct setting_row *row = &settings_table[i];
            size_t length = strlen(row->name);
            if (strncmp(entry, row->name, length) != 0 || entry[length] != '=') {
                continue;
            }
            if (!settings_parse(row, entry + length + 1, &settings_values[i])) {
                diag_warn_setting(row->name, entry + length + 1,
                                  "not a number of the setting's range, default used");
            }
        }
    }
}
