// SPDX-License-Identifier: Apache-2.0
// glibc's second set of names for its allocator. Each function that frees or resizes has to take a
// block from each function that allocates. Prints how many of the pairs failed, and exits with 1 if
// any did. Runs with a flavour preloaded or linked, or without one on libc's own malloc.
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void __libc_free(void *ptr);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *ptr, size_t size);
void *__libc_memalign(size_t align, size_t size);
void *__libc_valloc(size_t size);
void *__libc_pvalloc(size_t size);
struct mallinfo __libc_mallinfo(void);
int __libc_mallopt(int param, int value);
__attribute__((weak)) int __posix_memalign(void **out, size_t align, size_t size);
__attribute__((weak)) const char *hak_flavour(void);

enum { GIVERS = 18, TAKERS = 7 };

// A block of at least `size` bytes by the way `k`.
static void *give(int k, size_t size) {
    void *p = NULL;
    switch (k) {
    case 0:
        return malloc(size);
    case 1:
        return __libc_malloc(size);
    case 2:
        return calloc(1, size);
    case 3:
        return __libc_calloc(size, 1);
    case 4:
        return realloc(NULL, size);
    case 5:
        return __libc_realloc(NULL, size);
    case 6:
        return memalign(64, size);
    case 7:
        return __libc_memalign(64, size);
    case 8:
        return aligned_alloc(4096, size);
    case 9:
        return posix_memalign(&p, 256, size) == 0 ? p : NULL;
    case 10: // not in every libc
        return (__posix_memalign ? __posix_memalign : posix_memalign)(&p, 256, size) == 0 ? p
                                                                                          : NULL;
    case 11:
        return valloc(size);
    case 12:
        return __libc_valloc(size);
    case 13:
        return pvalloc(size);
    case 14:
        return __libc_pvalloc(size);
    case 15:
        return __libc_realloc(malloc(size / 2 + 1), size);
    case 16:
        return realloc(__libc_malloc(2 * size), size);
    default: { // what libc allocates itself
        char *text = malloc(size + 1);
        memset(text, 'x', size);
        text[size] = '\0';
        p = strdup(text);
        __libc_free(text);
        return p;
    }
    }
}

static void take(int k, void *p, size_t size) {
    switch (k) {
    case 0:
        free(p);
        break;
    case 1:
        __libc_free(p);
        break;
    case 2:
        free(realloc(p, size + 100000));
        break;
    case 3:
        __libc_free(__libc_realloc(p, size + 100000));
        break;
    case 4:
        __libc_free(reallocarray(p, 3, size));
        break;
    case 5:
        free(__libc_realloc(p, size / 2 + 1));
        break;
    default:
        if (__libc_realloc(p, 0) != NULL) {
            abort();
        }
        break;
    }
}

static void way(int giver, int taker) {
    static const size_t sizes[] = {1, 24, 100, 1000, 5000, 40000, 200000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int times = 0; times < 40; times++) {
            char *volatile p = give(giver, sizes[i]);
            if (p == NULL || malloc_usable_size(p) < sizes[i] || (uintptr_t)p % 16 != 0) {
                abort();
            }
            memset(p, 1, sizes[i]);
            take(taker, p, sizes[i]);
        }
    }
}

int main(void) {
    int bad = 0;
    for (int giver = 0; giver < GIVERS; giver++) {
        for (int taker = 0; taker < TAKERS; taker++) {
            int status;
            pid_t pid = fork();
            if (pid == 0) {
                close(STDERR_FILENO);
                way(giver, taker);
                exit(0); // the caches are checked here
            }
            if (waitpid(pid, &status, 0) != pid || status != 0) {
                printf("giver %d, taker %d: status 0x%x\n", giver, taker, status);
                bad++;
            }
        }
    }
    bad += __libc_mallopt(M_TOP_PAD, 1 << 16) != 1;
    void *volatile p = malloc(50000);
    bad += __libc_mallinfo().uordblks < 50000;
    free(p);
    printf("%s: %d failed\n", hak_flavour != NULL ? hak_flavour() : "system", bad);
    return bad != 0;
}
