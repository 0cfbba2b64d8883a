// A library whose constructor, which comes before that of a preloaded one, opens another one with
// RTLD_DEEPBIND. $LOADING_PLUGIN is its path.
#include <dlfcn.h>
#include <stdlib.h>

int loading_early = -1;

static __attribute__((constructor)) void start(void) {
    const char *path = getenv("LOADING_PLUGIN");
    void *plugin = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_DEEPBIND);
    if (plugin != NULL) {
        int (*run)(void);
        *(void **)&run = dlsym(plugin, "loading_plugin");
        loading_early = run();
    }
}
