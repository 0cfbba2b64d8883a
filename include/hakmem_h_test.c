// SPDX-License-Identifier: Apache-2.0
// The public header in C.
#include "include/hakmem_h_test.h"

int main(void) {
    // The type and the function by one name, as a program has them.
    struct hak_stats s;
    void (*fill)(struct hak_stats * stats) = hak_stats;
    fill(&s);
    return check_header();
}
