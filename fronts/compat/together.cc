// SPDX-License-Identifier: Apache-2.0
// A program that is linked to the three libraries at once, to be run with others preloaded. Says
// who serves it, and ends with the number of the first thing that is not as it should be.
#include <dlfcn.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
void *mallocx(size_t size, int flags);
void *rallocx(void *ptr, size_t size, int flags);
size_t xallocx(void *ptr, size_t size, size_t extra, int flags);
size_t nallocx(size_t size, int flags);
void dallocx(void *ptr, int flags);
int mallctl(const char *name, void *oldp, size_t *oldlenp, void *newp, size_t newlen);
void *mi_malloc(size_t size);
void *mi_rezalloc(void *ptr, size_t size);
void mi_free(void *ptr);
void *mi_heap_new(void);
void *mi_heap_malloc(void *heap, size_t size);
void mi_heap_destroy(void *heap);
bool mi_is_in_heap_region(const void *ptr);
void *tc_malloc(size_t size);
void tc_free(void *ptr);
int MallocExtension_GetNumericProperty(const char *property, size_t *value);
}

#define CHECK(condition)           \
    do {                           \
        if (!(condition)) {        \
            return __LINE__ % 250; \
        }                          \
    } while (0)

static size_t Allocated() {
    uint64_t epoch = 1;
    size_t value = 0;
    size_t length = sizeof value;
    mallctl("epoch", nullptr, nullptr, &epoch, sizeof epoch);
    mallctl("stats.allocated", &value, &length, nullptr, 0);
    return value;
}

static size_t Property() {
    size_t value = 0;
    MallocExtension_GetNumericProperty("generic.current_allocated_bytes", &value);
    return value;
}

int main(int, char **argv) {
    setvbuf(stdout, nullptr, _IONBF, 0);
    bool ours = strcmp(argv[1], "none") != 0;
    size_t before = Allocated();
    void *large = malloc(10 << 20);
    // Each library's statistics are of the heap that malloc uses.
    CHECK((Allocated() - before >= 10 << 20) == ours);
    CHECK(Property() - Allocated() + (1 << 20) < 2 << 20);
    CHECK(mi_is_in_heap_region(large) == ours);
    free(large);
    // A block of any is freed by any.
    for (size_t size = 1; size < 3000000; size = size * 2 + 1) {
        free(mallocx(size, 0));
        dallocx(malloc(size), 0);
        mi_free(tc_malloc(size));
        tc_free(mi_malloc(size));
        if (ours) {
            delete[] static_cast<char *>(mallocx(size, 0));
        }
        void *block = mallocx(size, 6);
        CHECK(malloc_usable_size(block) >= size && nallocx(size, 6) >= size);
        CHECK(!ours || malloc_usable_size(block) == nallocx(size, 6));
        CHECK(xallocx(block, size, 100000, 0) == malloc_usable_size(block));
        memset(block, 1, malloc_usable_size(block));
        block = rallocx(block, 2 * size, 0);
        CHECK(static_cast<char *>(block)[size - 1] == 1);
        block = mi_rezalloc(block, 3 * size);
        CHECK(static_cast<char *>(block)[size - 1] == 1);
        block = realloc(block, size);
        CHECK(static_cast<char *>(block)[size - 1] == 1);
        free(block);
    }
    // Heaps are of hakmem only: where free() would not know their blocks there are none.
    void *heap = mi_heap_new();
    CHECK((heap != nullptr) == ours);
    if (heap != nullptr) {
        free(mi_heap_malloc(heap, 100));
        void *block = realloc(mi_heap_malloc(heap, 100), 100000);
        free(block);
        mi_heap_malloc(heap, 100000);
        mi_heap_destroy(heap);
    }
    unsigned arena = 0;
    size_t length = sizeof arena;
    int error = mallctl("arenas.create", &arena, &length, nullptr, 0);
    CHECK((error == 0) == ours);
    if (error == 0) {
        free(mallocx(1000, static_cast<int>((arena + 1) << 20)));
    }
    void *symbol = dlsym(RTLD_DEFAULT, "hak_flavour");
    printf("%s\n", reinterpret_cast<const char *(*)()>(symbol)());
    return 0;
}
