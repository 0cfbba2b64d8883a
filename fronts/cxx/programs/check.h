// SPDX-License-Identifier: Apache-2.0
// The checks that the programs of programs_test share. They are built by the test, in each way that
// a user might, and run on libc's malloc too, which has to give the same result: exit status 0.
// What is wrong is said on stdout.
#ifndef HAKMEM_FRONTS_CXX_PROGRAMS_CHECK_H
#define HAKMEM_FRONTS_CXX_PROGRAMS_CHECK_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_failures;

#define CHECK(condition)                                                   \
    do {                                                                   \
        if (!(condition)) {                                                \
            printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            fflush(stdout);                                                \
            check_failures++;                                              \
        }                                                                  \
    } while (0)

// True if libc's malloc made the small block at `ptr`, on the main thread: it takes them from the
// program break, which no other code moves. Calls no function that allocates.
static inline int check_is_of_libc(const void *ptr) {
    static char maps[1 << 18];
    size_t length = 0;
    ssize_t got;
    int fd = open("/proc/self/maps", O_RDONLY);
    while (fd >= 0 && (got = read(fd, maps + length, sizeof maps - 1 - length)) > 0) {
        length += (size_t)got;
    }
    close(fd);
    maps[length] = '\0';
    const char *end = strstr(maps, "[heap]");
    if (end == NULL) {
        return 0;
    }
    const char *line = end;
    while (line > maps && line[-1] != '\n') {
        line--;
    }
    char *dash;
    uintptr_t from = strtoul(line, &dash, 16);
    uintptr_t to = strtoul(dash + 1, NULL, 16);
    return (uintptr_t)ptr >= from && (uintptr_t)ptr < to;
}

#endif
