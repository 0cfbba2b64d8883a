// SPDX-License-Identifier: Apache-2.0
#include "fronts/cxx/operators.h"

#include "fronts/libc/interposed.h"

#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>

#define DECLARE(name) void name(void), own_##name(void);
#define PAIR(name)    {(void *)name, (void *)own_##name},
OPERATORS_BASIC(DECLARE)

static const struct interposed_pair operators[] = {OPERATORS_BASIC(PAIR)};

enum operators_state operators_state(void) {
    static _Atomic(enum operators_state) known;
    enum operators_state state = atomic_load_explicit(&known, memory_order_relaxed);
    if (HAK_LIKELY(state != OPERATORS_UNKNOWN)) {
        return state;
    }
    unsigned others = interposed_calls();
    if (others != INTERPOSED_UNKNOWN) {
        others |= interposed_among(operators, sizeof operators / sizeof *operators);
        state = others == 0 ? OPERATORS_OWN : OPERATORS_INTERPOSED;
        atomic_store_explicit(&known, state, memory_order_relaxed);
    }
    return state;
}

// Weak, so that a static program does not get the dynamic loader because of this.
extern __typeof(dlclose) dlclose __attribute__((weak));
extern __typeof(dlsym) dlsym __attribute__((weak));

// Found by its name: if a static program has dlopen, linkers warn of each reference to it.
static void *open_object(const char *object) {
    __typeof(dlopen) *open;
    *(void **)&open = dlsym(RTLD_DEFAULT, "dlopen");
    return open != NULL ? open(object, RTLD_LAZY | RTLD_NOLOAD) : NULL;
}

// dlsym() in a loaded object and in its dependencies; "": in everything that all of the process can
// see.
static void *find_from(const char *object, const char *name) {
    void *handle = open_object(object[0] == '\0' ? NULL : object);
    if (handle == NULL) {
        return NULL;
    }
    void *found = dlsym(handle, name);
    dlclose(handle);
    return found;
}

// Returns the link map of the object that an address is in, NULL if there is none.
#ifdef __GLIBC__
extern __typeof(dladdr1) dladdr1 __attribute__((weak));

static const struct link_map *object_at(const void *address) {
    Dl_info info;
    struct link_map *map = NULL;
    return dladdr1(address, &info, (void **)&map, RTLD_DL_LINKMAP) != 0 ? map : NULL;
}

static bool can_look_up(void) {
    return dladdr1 != NULL && dlclose != NULL && dlsym != NULL;
}
#else
extern __typeof(dladdr) dladdr __attribute__((weak));
extern __typeof(dlinfo) dlinfo __attribute__((weak));

static const struct link_map *object_at(const void *address) {
    Dl_info info;
    struct link_map *map = NULL;
    void *handle = dladdr(address, &info) != 0 ? open_object(info.dli_fname) : NULL;
    if (handle != NULL) {
        map = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 ? map : NULL;
        dlclose(handle);
    }
    return map;
}

static bool can_look_up(void) {
    return dladdr != NULL && dlinfo != NULL && dlclose != NULL && dlsym != NULL;
}
#endif

// As above, for an operator: finds the C++ library's own, and not this library's.
static void *find_operator(const char *object, const char *name) {
    // A function of the C++ library that has the same name in all of its versions.
    static const char landmark[] = "_ZSt17__throw_bad_allocv";
    const struct link_map *own = object_at(landmark);
    void *found = find_from(object, name);
    if (found != NULL && object_at(found) == own) {
        // The name leads to this library, which is in front of the C++ library. Looked up from the
        // C++ library itself it does not.
        void *at = find_from(object, landmark);
        const struct link_map *runtime = at != NULL ? object_at(at) : NULL;
        found = runtime != NULL ? find_from(runtime->l_name, name) : NULL;
    }
    return found != NULL && object_at(found) != own ? found : NULL;
}

void *operators_of_runtime(const char *name, const void *caller) {
    if (!can_look_up()) {
        return NULL;
    }
    void *found = find_operator("", name);
    const struct link_map *map = object_at(caller);
    if (found == NULL && map != NULL) {
        found = find_operator(map->l_name, name);
    }
    for (map = object_at(name); map != NULL && map->l_prev != NULL; map = map->l_prev) {
    }
    for (; found == NULL && map != NULL; map = map->l_next) {
        found = find_operator(map->l_name, name);
    }
    return found;
}
