// SPDX-License-Identifier: Apache-2.0
// Loads libraries in one of the ways of `ways`, and checks that their malloc and libc's are one.
//
// loading_program WAY PLUGIN CXX_PLUGIN
#include "fronts/reports/check.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// In libloading_early.so.
extern int loading_early;
void *loading_next_malloc(size_t size);
void loading_next_free(void *block);

static const char *plugin_path, *cxx_path;

int loading_who(void) {
    return 1;
}

static void *symbol(void *handle, const char *name) {
    void *found = dlsym(handle, name);
    CHECK(found != NULL);
    return found;
}

static int call(void *handle, const char *name) {
    int (*fn)(void);
    *(void **)&fn = symbol(handle, name);
    return fn();
}

static void use(void *plugin, int who) {
    CHECK(call(plugin, "loading_plugin") == who);
    char *(*give)(void);
    void (*take)(void *);
    *(void **)&give = symbol(plugin, "loading_give");
    *(void **)&take = symbol(plugin, "loading_take");
    char *given = give();
    CHECK(strcmp(given, "given") == 0);
    free(realloc(given, 5000));
    take(strdup("taken"));
    take(malloc(100000));
}

static void deep(void) {
    void *plugin = dlopen(plugin_path, RTLD_NOW | RTLD_DEEPBIND);
    CHECK(plugin != NULL);
    use(plugin, 2);
    CHECK(dlclose(plugin) == 0);
    plugin = dlopen(plugin_path, RTLD_LAZY | RTLD_DEEPBIND | RTLD_GLOBAL);
    CHECK(plugin != NULL);
    use(plugin, 2);
    void *cxx = dlopen(cxx_path, RTLD_LAZY | RTLD_DEEPBIND);
    CHECK(cxx != NULL && call(cxx, "loading_plugin_cxx") == 0);
    CHECK(dlclose(cxx) == 0 && dlclose(plugin) == 0);
}

static void local(void) {
    void *plugin = dlopen(plugin_path, RTLD_NOW | RTLD_LOCAL);
    CHECK(plugin != NULL);
    use(plugin, 1);
    CHECK(dlopen("no/such/file", RTLD_NOW | RTLD_DEEPBIND) == NULL);
    CHECK(strstr(dlerror(), "no/such/file") != NULL);
    CHECK(dlsym(plugin, "no_such_symbol") == NULL && dlerror() != NULL);
    CHECK(dlopen(NULL, RTLD_NOW) != NULL);
}

static void namespace_base(void) {
    void *plugin = dlmopen(LM_ID_BASE, plugin_path, RTLD_NOW | RTLD_DEEPBIND);
    CHECK(plugin != NULL);
    use(plugin, 2);
}

// A namespace has a libc of its own: its blocks stay there.
static void namespace_new(void) {
    for (int i = 0; i < 3; i++) {
        int deepbind = i == 1 ? RTLD_DEEPBIND : 0;
        void *plugin = dlmopen(LM_ID_NEWLM, plugin_path, RTLD_NOW | deepbind);
        CHECK(plugin != NULL && call(plugin, "loading_plugin") == 2);
        char *(*give)(void);
        void (*take)(void *);
        *(void **)&give = symbol(plugin, "loading_give");
        *(void **)&take = symbol(plugin, "loading_take");
        take(give());
        CHECK(dlsym(plugin, "no_such_symbol") == NULL && dlerror() != NULL);
        CHECK(dlclose(plugin) == 0);
    }
    CHECK(dlmopen(LM_ID_NEWLM, "no/such/file", RTLD_NOW) == NULL && dlerror() != NULL);
}

// As a foreign-function interface does it: everything by libc's handle.
static void handle(void) {
    void *libc = dlopen("libc.so.6", RTLD_LAZY);
    CHECK(libc != NULL);
    void *(*alloc)(size_t);
    void (*release)(void *);
    void *(*resize)(void *, size_t);
    *(void **)&alloc = symbol(libc, "malloc");
    *(void **)&release = symbol(libc, "free");
    *(void **)&resize = symbol(libc, "realloc");
    release(strdup("freed by libc's free"));
    release(resize(strdup("and resized"), 100000));
    free(alloc(10));
    free(alloc(1000000));
    release(malloc(10));
    static const char *const allocs[] = {"valloc", "pvalloc", "__libc_malloc", "__libc_valloc"};
    for (size_t i = 0; i < sizeof allocs / sizeof *allocs; i++) {
        *(void **)&alloc = symbol(libc, allocs[i]);
        void *volatile block = alloc(100);
        CHECK(block != NULL);
        if (strncmp(allocs[i], "__", 2) != 0) {
            free(block);
        }
    }
    int (*aligned)(void **, size_t, size_t);
    *(void **)&aligned = symbol(libc, "posix_memalign");
    void *block;
    CHECK(aligned(&block, 64, 100) == 0);
    CHECK(malloc_usable_size(block) >= 100);
    free(block);
    size_t (*usable)(void *);
    *(void **)&usable = symbol(libc, "malloc_usable_size");
    char *text = strdup("text");
    CHECK(usable(text) >= 5);
    // By the handle of a library that depends on libc, too.
    void *plugin = dlopen(plugin_path, RTLD_NOW);
    *(void **)&release = symbol(plugin, "free");
    release(text);
    CHECK(dlclose(plugin) == 0 && dlclose(libc) == 0);
}

// The dynamic linker has to see who calls.
static void origin(void) {
    CHECK(dlopen("libloading_plugin.so", RTLD_NOW | RTLD_DEEPBIND) == NULL);
    void *cxx = dlopen(cxx_path, RTLD_NOW);
    CHECK(cxx != NULL);
    void *(*by_name)(int);
    *(void **)&by_name = symbol(cxx, "loading_by_name");
    void *plugin = by_name(RTLD_NOW | RTLD_DEEPBIND);
    CHECK(plugin != NULL);
    use(plugin, 2);
}

// By a library that was there from the start, and has opened nothing.
static void next(void) {
    free(loading_next_malloc(100));
    loading_next_free(malloc(100));
    loading_next_free(strdup("text"));
    void *(*fn)(size_t);
    *(void **)&fn = symbol(RTLD_NEXT, "malloc");
    free(fn(100));
    *(void **)&fn = symbol(RTLD_DEFAULT, "malloc");
    free(fn(100));
}

static void early(void) {
    CHECK(loading_early == 2);
    deep();
}

static void *open_one(void *barrier) {
    pthread_barrier_wait(barrier);
    deep();
    return NULL;
}

static void threads(void) {
    enum { THREADS = 8 };
    pthread_t thread[THREADS];
    pthread_barrier_t barrier;
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&thread[i], NULL, open_one, &barrier) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(thread[i], NULL) == 0);
    }
}

// The kernel will not let libc's table be written: what the plug-in sees of the program's symbols
// is then not asked.
static int find_libc(struct dl_phdr_info *info, size_t size, void *at) {
    (void)size;
    if (strstr(info->dlpi_name, "libc.so.6") != NULL) {
        *(uintptr_t *)at = info->dlpi_addr;
    }
    return 0;
}

static void refused(void) {
    uintptr_t libc = 0;
    dl_iterate_phdr(find_libc, &libc);
    CHECK(libc != 0);
    uint32_t low = (uint32_t)libc;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0]) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(libc >> 32), 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, low),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x20000, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
    void *plugin = dlopen(plugin_path, RTLD_NOW | RTLD_DEEPBIND);
    CHECK(plugin != NULL && call(plugin, "loading_plugin") > 0);
}

// Says whether libc's malloc is the process's.
static void same(void) {
    void *libc = dlopen("libc.so.6", RTLD_LAZY);
    CHECK(libc != NULL);
    puts(dlsym(libc, "malloc") == dlsym(RTLD_DEFAULT, "malloc") ? "same" : "another");
}

static const struct {
    const char *name;
    void (*run)(void);
} ways[] = {
    {"deep", deep},
    {"local", local},
    {"namespace_base", namespace_base},
    {"namespace_new", namespace_new},
    {"handle", handle},
    {"early", early},
    {"next", next},
    {"origin", origin},
    {"threads", threads},
    {"refused", refused},
    {"same", same},
};

int main(int argc, char **argv) {
    CHECK(argc == 4);
    plugin_path = argv[2];
    cxx_path = argv[3];
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (strcmp(argv[1], ways[i].name) == 0) {
            ways[i].run();
            return 0;
        }
    }
    return 2;
}
