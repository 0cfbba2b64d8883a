// SPDX-License-Identifier: Apache-2.0
// A program whose IFUNC resolver allocates, with a library whose resolver does. Exits with 0 if all
// blocks were as they should be.
#include "fronts/reports/ifunc_calls.h"

#include <stdio.h>

int ifunc_library(void);

static int one(void) {
    return 1;
}

static int (*resolve_program(void))(void) {
    ifunc_allocate();
    return one;
}

static int program_chosen(void) __attribute__((ifunc("resolve_program")));

int main(void) {
    int wrong = program_chosen() == 1 ? ifunc_use() : -1;
    if (wrong != 0) {
        printf("the program's resolver: line %d\n", wrong);
        return 1;
    }
    wrong = ifunc_library();
    if (wrong != 0) {
        printf("the library's resolver: line %d\n", wrong);
        return 2;
    }
    return 0;
}
