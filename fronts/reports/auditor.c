// SPDX-License-Identifier: Apache-2.0
// An auditor (LD_AUDIT): it lives in a namespace of its own, with a libc and a malloc of its own,
// and is called while the dynamic linker is at work.
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *kept[64];
static unsigned turn;

static void use_heap(void) {
    free(kept[turn % 64]);
    kept[turn % 64] = strdup("text of an auditor");
    turn++;
    free(realloc(malloc(100), 10000));
}

unsigned la_version(unsigned version) {
    use_heap();
    return version;
}

unsigned la_objopen(struct link_map *map, Lmid_t space, uintptr_t *cookie) {
    (void)map;
    (void)space;
    (void)cookie;
    use_heap();
    return LA_FLG_BINDTO | LA_FLG_BINDFROM;
}

char *la_objsearch(const char *name, uintptr_t *cookie, unsigned flag) {
    (void)cookie;
    (void)flag;
    use_heap();
    return (char *)name;
}

uintptr_t la_symbind64(Elf64_Sym *symbol, unsigned index, uintptr_t *from, uintptr_t *to,
                       unsigned *flags, const char *name) {
    (void)index;
    (void)from;
    (void)to;
    (void)flags;
    (void)name;
    use_heap();
    return symbol->st_value;
}

unsigned la_objclose(uintptr_t *cookie) {
    (void)cookie;
    use_heap();
    return 0;
}
