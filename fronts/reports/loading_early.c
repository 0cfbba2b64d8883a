// SPDX-License-Identifier: Apache-2.0
// A library whose constructor, which comes before that of a preloaded one, opens another one with
// RTLD_DEEPBIND. $LOADING_PLUGIN is its path.
#include <dlfcn.h>
#include <stdlib.h>

int loading_early = -1;

// The next malloc behind this library is libc's, the next one behind the program the process's.
void *loading_next_malloc(size_t size) {
    void *(*fn)(size_t);
    *(void **)&fn = dlsym(RTLD_NEXT, "malloc");
    return fn(size);
}
void loading_next_free(void *block) {
    void (*fn)(void *);
    *(void **)&fn = dlsym(RTLD_NEXT, "free");
    fn(block);
}

static __attribute__((constructor)) void start(void) {
    const char *path = getenv("LOADING_PLUGIN");
    void *plugin = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_DEEPBIND);
    if (plugin != NULL) {
        int (*run)(void);
        *(void **)&run = dlsym(plugin, "loading_plugin");
        loading_early = run();
    }
}
