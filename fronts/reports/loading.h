// How the programs of the tests of loading check: the first thing that is not as it should be ends
// the program with its line.
#ifndef HAKMEM_FRONTS_REPORTS_LOADING_H
#define HAKMEM_FRONTS_REPORTS_LOADING_H

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
