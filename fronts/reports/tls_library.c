// SPDX-License-Identifier: Apache-2.0
// A library with thread-local data.
#include <stdlib.h>
#include <string.h>

static __thread char data[20000] = {1};

char *reports_tls(void) {
    return data;
}

int reports_allocate(void) {
    char *text = strdup("a string");
    for (size_t i = 1; i < 1000 && text != NULL && text[0] == 'a'; i++) {
        text = realloc(text, i * 10);
    }
    int wrong = text == NULL || text[0] != 'a';
    free(text);
    return wrong;
}
