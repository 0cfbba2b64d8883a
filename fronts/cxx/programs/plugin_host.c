// SPDX-License-Identifier: Apache-2.0
// A C program that opens C++ plug-ins: plugin_host PLUGIN... No C++ library is there when it
// starts.
#include "check.h"

#include <dlfcn.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        free(malloc(10));
        void *library = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            puts(dlerror());
            return 2;
        }
        int (*plugin)(size_t);
        *(void **)&plugin = dlsym(library, "plugin");
        int wrong = plugin((size_t)1 << 62);
        if (wrong != 0) {
            printf("%s: %d\n", argv[i], wrong);
            return 1;
        }
    }
    return 0;
}
