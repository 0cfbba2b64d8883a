// SPDX-License-Identifier: Apache-2.0
// A library that is opened with RTLD_DEEPBIND: frees what libc allocates, lets libc resize what it
// has allocated, and defines a function that the program has, too.
#include "fronts/reports/check.h"

#include <dirent.h>
#include <malloc.h>
#include <string.h>
#include <unistd.h>

int loading_who(void) {
    return 2;
}

// Libc's blocks, freed here.
static void from_libc(void) {
    char *copy = strdup("a string that libc allocates");
    CHECK(copy != NULL && malloc_usable_size(copy) >= strlen(copy));
    copy = realloc(copy, 1000);
    CHECK(copy != NULL && copy[27] == 's');
    free(copy);
    char *text = NULL;
    CHECK(asprintf(&text, "%d", 12345) == 5 && strcmp(text, "12345") == 0);
    free(text);
    char *where = getcwd(NULL, 0);
    CHECK(where != NULL);
    free(where);
    where = realpath("/proc", NULL);
    CHECK(where != NULL && strcmp(where, "/proc") == 0);
    free(where);
    struct dirent **entries;
    int count = scandir("/proc/self", &entries, NULL, alphasort);
    CHECK(count > 0);
    for (int i = 0; i < count; i++) {
        free(entries[i]);
    }
    free(entries);
    char *buffer = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&buffer, &size);
    CHECK(memory != NULL && fprintf(memory, "%5000d", 1) == 5000 && fclose(memory) == 0);
    CHECK(size == 5000 && buffer[4999] == '1');
    free(buffer);
}

// This library's blocks, resized and freed by libc.
static void to_libc(void) {
    char *line = malloc(1);
    size_t size = 1;
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file != NULL && getline(&line, &size, file) > 1 && size > 1);
    CHECK(fclose(file) == 0);
    free(line);
    for (size_t align = 16; align <= 8192; align *= 2) {
        void *block = NULL;
        CHECK(posix_memalign(&block, align, 100) == 0);
        free(block);
        free(aligned_alloc(align, align));
        free(memalign(align, 10));
    }
    free(calloc(100, 10));
    free(reallocarray(NULL, 100, 10));
    free(valloc(10));
    free(pvalloc(10));
}

int loading_plugin(void) {
    from_libc();
    to_libc();
    return loading_who(); // with RTLD_DEEPBIND its own, without the program's
}

// For the program to free, and to be freed here.
char *loading_give(void) {
    return strcpy(malloc(100), "given");
}

void loading_take(void *block) {
    free(block);
}
