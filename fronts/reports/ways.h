// SPDX-License-Identifier: Apache-2.0
// A program of this folder that shows several things: its first argument says which.
#ifndef HAKMEM_FRONTS_REPORTS_WAYS_H
#define HAKMEM_FRONTS_REPORTS_WAYS_H

#include "fronts/reports/check.h"

#include <string.h>

struct way {
    const char *name;
    void (*run)(void);
};

// Ends `ways` with {NULL, NULL}. 0, or 2 if there is no such way.
static inline int run_way(const struct way *ways, int argc, char **argv) {
    for (; argc > 1 && ways->name != NULL; ways++) {
        if (strcmp(argv[1], ways->name) == 0) {
            ways->run();
            return 0;
        }
    }
    fprintf(stderr, "usage: %s WAY\n", argv[0]);
    return 2;
}

#endif
