// SPDX-License-Identifier: Apache-2.0
// Prints whose malloc serves it: a program that calls malloc, or (STRDUP) only a function of libc
// that does, or (in C++) operator new and what the C++ library allocates.
#include "check.h"

#ifdef __cplusplus
#    include <new>
#    include <string>
#    include <vector>
#endif

#if defined(STRDUP)
static char *make(size_t size) {
    static char text[1000];
    memset(text, 'x', size - 1);
    return strdup(text);
}
#elif defined(__cplusplus)
static char *make(size_t size) {
    std::vector<std::string> strings(3, std::string(size, 'x'));
    strings.emplace_back("another");
    return new char[size];
}
#else
static char *make(size_t size) {
    return (char *)malloc(size);
}
#endif

int main(void) {
    static char *volatile blocks[100];
    int of_libc = 0;
    for (int i = 0; i < 100; i++) {
        blocks[i] = make(100);
        of_libc += check_is_of_libc(blocks[i]);
    }
    printf("of libc: %d of 100\n", of_libc);
    return 0;
}
