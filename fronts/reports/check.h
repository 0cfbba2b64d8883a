// SPDX-License-Identifier: Apache-2.0
// How the programs of this folder and of fronts/portable check: the first thing that is not as it
// should be ends the program with its line.
#ifndef HAKMEM_FRONTS_REPORTS_CHECK_H
#define HAKMEM_FRONTS_REPORTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(ok)                                                            \
    do {                                                                     \
        if (!(ok)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #ok); \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

#endif
