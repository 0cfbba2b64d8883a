// SPDX-License-Identifier: Apache-2.0
// The public header, in C++ as a user writes it.
#include "boxes/statistics/statistics.h"

#include <cstdio>
#include <cstdlib>

hak_stats before;

int main() {
    hak_stats after;
    ::hak_stats(&before);
    void *volatile block = std::malloc(1000);
    ::hak_stats(&after);
    std::free(block);
    if (after.tiny_live + after.large_live <= before.tiny_live + before.large_live) {
        std::puts("nothing counted");
        return 1;
    }
    return 0;
}
