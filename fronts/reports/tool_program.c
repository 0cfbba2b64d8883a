// SPDX-License-Identifier: Apache-2.0
// Something for the tools to watch: threads that allocate. With an argument, a write behind the end
// of a block, too.
#include "fronts/reports/check.h"

#include <pthread.h>
#include <string.h>

static void *work(void *arg) {
    for (size_t i = 0; i < 2000; i++) {
        char *block = malloc(i % 3000 + 1);
        CHECK(block != NULL);
        block[0] = 1;
        block = realloc(block, i % 5000 + 1);
        CHECK(block != NULL && block[0] == 1);
        free(block);
        free(calloc(i % 7, i % 300));
    }
    return arg;
}

int main(int argc, char **argv) {
    (void)argv;
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, NULL) == 0);
    }
    for (size_t i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    char *text = strdup("watched");
    CHECK(text != NULL);
    if (argc > 1) {
        char *volatile block = malloc(10);
        volatile size_t end = 10;
        block[end] = 1;
        free(block);
    }
    puts(text);
    free(text);
    return 0;
}
