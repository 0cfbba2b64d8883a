// SPDX-License-Identifier: Apache-2.0
#include "fronts/compat/jemalloc/names.h"

#include "boxes/size_class/size_class.h"
#include "fronts/compat/jemalloc/arenas.h"

#include <string.h>

// Arena numbers that stand in a name: one past the last stands for all, too.
static bool is_arena_name(size_t i) {
    return i <= arenas_count() || i == ARENAS_ALL || i == ARENAS_DESTROYED;
}

unsigned names_bins(void) {
    return SIZE_CLASS_BINS - 1;
}

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
    return pattern.text[1] == 'a' ? is_arena_name(i) : i < names_bins();
}

static size_t hash_of(struct component component) {
    uint32_t hash = UINT32_C(2166136261);
    for (size_t i = 0; i < component.length; i++) {
        hash = (hash ^ (unsigned char)component.text[i]) * UINT32_C(16777619);
    }
    return hash;
}

// Returns the number that a component spells. Returns false if it spells none.
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

bool names_match(const char *pattern, const char *name, size_t *mib, size_t *depth, bool *whole) {
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

bool names_match_mib(const char *pattern, const size_t *mib, size_t depth) {
    struct component want;
    for (size_t i = 0; i < depth; i++) {
        if (!next_component(&pattern, &want) ||
            !(is_number(want) ? is_in_range(want, mib[i]) : mib[i] == hash_of(want))) {
            return false;
        }
    }
    return pattern == NULL;
}

void names_numbers(const char *pattern, const size_t *mib, size_t *numbers) {
    struct component component;
    for (size_t n = 0; next_component(&pattern, &component); mib++) {
        if (is_number(component)) {
            numbers[n++] = *mib;
        }
    }
}
