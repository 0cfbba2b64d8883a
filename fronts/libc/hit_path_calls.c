// One call of the allocator between two breakpoints, for hit_path_test to step through. Built
// without an allocator: it is preloaded.
//
// hit_path_calls NAME SIZE: makes the call of that name a hit first, by doing it a few times.
// hit_path_calls maps: prints what is mapped into a process that has the library preloaded.
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BREAKPOINT() __asm__ volatile("int3" ::: "memory")

// On both sides of the call the same code runs with and without stops.
#define STEP(call)        \
    do {                  \
        if (stop) {       \
            BREAKPOINT(); \
        }                 \
        call;             \
        if (stop) {       \
            BREAKPOINT(); \
        }                 \
    } while (0)

typedef void *alloc_fn(size_t);
typedef void free_fn(void *);
typedef void sized_free_fn(void *, size_t);

static alloc_fn *find_alloc(const char *name) {
    alloc_fn *fn;
    *(void **)&fn = dlsym(RTLD_DEFAULT, name);
    return fn;
}

static void run(const char *name, size_t size, int stop) {
    void *volatile p = NULL;
    if (strcmp(name, "malloc") == 0) {
        STEP(p = malloc(size));
        free(p);
    } else if (strcmp(name, "free") == 0) {
        p = malloc(size);
        STEP(free(p));
    } else if (strcmp(name, "calloc") == 0) {
        STEP(p = calloc(1, size));
        free(p);
    } else if (strcmp(name, "realloc") == 0) {
        p = malloc(size);
        STEP(p = realloc(p, size));
        free(p);
    } else if (strcmp(name, "aligned_alloc") == 0) {
        STEP(p = aligned_alloc(64, size));
        free(p);
    } else if (strcmp(name, "malloc_usable_size") == 0) {
        size_t volatile n;
        p = malloc(size);
        STEP(n = malloc_usable_size(p));
        free(p);
        (void)n;
    } else if (strcmp(name, "operator_new") == 0) {
        alloc_fn *fn = find_alloc("_Znwm");
        STEP(p = fn(size));
        free(p);
    } else if (strcmp(name, "operator_delete") == 0) {
        free_fn *fn;
        *(void **)&fn = dlsym(RTLD_DEFAULT, "_ZdlPv");
        p = malloc(size);
        STEP(fn(p));
    } else if (strcmp(name, "operator_delete_sized") == 0) {
        sized_free_fn *fn;
        *(void **)&fn = dlsym(RTLD_DEFAULT, "_ZdlPvm");
        p = malloc(size);
        STEP(fn(p, size));
    } else {
        exit(2);
    }
}

static int print_maps(void) {
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    if (maps == NULL) {
        return 1;
    }
    while (fgets(line, sizeof line, maps) != NULL) {
        fputs(line, stdout);
    }
    return fclose(maps);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "maps") == 0) {
        return print_maps();
    }
    if (argc != 3) {
        fprintf(stderr, "usage: hit_path_calls NAME SIZE | hit_path_calls maps\n");
        return 2;
    }
    size_t size = strtoul(argv[2], NULL, 10);
    for (int i = 0; i < 3; i++) {
        run(argv[1], size, 0);
    }
    run(argv[1], size, 1);
    return 0;
}
