// SPDX-License-Identifier: Apache-2.0
// What a program of either language does with <hakmem/hakmem.h>, the first header that it includes.
// Each source that includes this file is one program.
#include "include/hakmem/hakmem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Not in a header of C99.
#if !defined(__cplusplus) && __STDC_VERSION__ < 201112L
extern void *aligned_alloc(size_t align, size_t size);
#endif

// 0 if all is as the header says.
static int check_header(void) {
    static struct hak_stats before;
    static struct hak_stats after;
    void *volatile small;
    void *volatile large;
    void *volatile aligned;
    char version[64];

    sprintf(version, "%d.%d.%d", HAKMEM_VERSION_MAJOR, HAKMEM_VERSION_MINOR, HAKMEM_VERSION_PATCH);
    if (strcmp(version, HAKMEM_VERSION) != 0 || strcmp(hak_version(), HAKMEM_VERSION) != 0 ||
        strcmp(hak_flavour(), HAK_FLAVOUR) != 0) {
        return 1;
    }

    if (hak_profile_dump("/dev/null")) { /* nothing is sampled */
        return 4;
    }
    hak_stats(&before);
    small = malloc(1000);
    large = malloc(1000000);
    hak_stats(&after);
    if (after.tiny_live < before.tiny_live + 1000 ||
        after.large_live != before.large_live + 1000000 ||
        after.unused[sizeof after.unused / sizeof after.unused[0] - 1] != 0) {
        return 2;
    }

    if (hak_stats_json(NULL, 0) < 1000 || hak_stats_json(version, sizeof version) < 1000 ||
        strlen(version) != sizeof version - 1 || strncmp(version, "{\"program\": \"", 13) != 0) {
        return 5;
    }
    aligned = aligned_alloc(4096, 8192);
    free_aligned_sized(aligned, 4096, 8192);
    free_sized(large, 1000000);
    free_sized(small, 1000);
    free_sized(NULL, 0);
    hak_stats(&after);
    return after.large_live == before.large_live ? 0 : 3;
}
