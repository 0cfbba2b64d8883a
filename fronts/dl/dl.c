// SPDX-License-Identifier: Apache-2.0
#include "fronts/dl/dl.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/settings/settings.h"

#include <elf.h>
#include <link.h>
#include <string.h>
#include <unistd.h>

// What is needed here of an object of the process.
struct object {
    uintptr_t base;
    const char *name;    // DT_SONAME, or NULL
    const char *strings; // NULL: it has no dynamic symbols
    Elf64_Sym *symbols;
    const uint32_t *hash; // of GNU's kind
};

// The parts of a hash table of GNU's kind. Its symbols are the last ones of the symbol table, and
// those of one bucket are adjacent. The first symbols of the table are those that the object
// imports.
struct hash_table {
    uint32_t buckets, first, words, shift;
    const uint64_t *bloom;
    const uint32_t *bucket, *chain;
};

static struct hash_table hash_table_of(const struct object *object) {
    const uint32_t *at = object->hash;
    struct hash_table table = {at[0], at[1], at[2], at[3], (const uint64_t *)(at + 4), NULL, NULL};
    table.bucket = (const uint32_t *)(table.bloom + table.words);
    table.chain = table.bucket + table.buckets;
    return table;
}

// Returns an address that the dynamic section names. glibc, but not musl, has added the base to it,
// unless that section is read-only.
static uintptr_t address(const struct object *object, uintptr_t value) {
    return value < object->base ? object->base + value : value;
}

static struct object object_of(const struct dl_phdr_info *info) {
    struct object object = {.base = info->dlpi_addr};
    const Elf64_Dyn *at = NULL;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC) {
            at = (const Elf64_Dyn *)(object.base + info->dlpi_phdr[i].p_vaddr);
        }
    }
    size_t name = 0;
    for (; at != NULL && at->d_tag != DT_NULL; at++) {
        switch (at->d_tag) {
        case DT_STRTAB:
            object.strings = (const char *)address(&object, at->d_un.d_ptr);
            break;
        case DT_SYMTAB:
            object.symbols = (Elf64_Sym *)address(&object, at->d_un.d_ptr);
            break;
        case DT_GNU_HASH:
            object.hash = (const uint32_t *)address(&object, at->d_un.d_ptr);
            break;
        case DT_SONAME:
            name = at->d_un.d_val;
            break;
        default:
            break;
        }
    }
    if (object.symbols == NULL || object.hash == NULL) {
        object.strings = NULL;
    }
    if (object.strings != NULL && name != 0) {
        object.name = object.strings + name;
    }
    return object;
}

static uint32_t hash_of(const char *name) {
    uint32_t hash = 5381;
    for (; *name != '\0'; name++) {
        hash = hash * 33 + (unsigned char)*name;
    }
    return hash;
}

// Returns the next function of that name that the object defines, behind `before`. Returns NULL if
// there is none.
static Elf64_Sym *find(const struct object *object, const char *name, const Elf64_Sym *before) {
    struct hash_table table = hash_table_of(object);
    uint32_t hash = hash_of(name);
    uint32_t i = table.buckets == 0 ? 0 : table.bucket[hash % table.buckets];
    if (i < table.first) {
        return NULL;
    }
    for (;; i++) {
        uint32_t entry = table.chain[i - table.first];
        Elf64_Sym *symbol = &object->symbols[i];
        if ((entry | 1) == (hash | 1) && (before == NULL || symbol > before) &&
            symbol->st_shndx != SHN_UNDEF && ELF64_ST_TYPE(symbol->st_info) == STT_FUNC &&
            strcmp(object->strings + symbol->st_name, name) == 0) {
            return symbol;
        }
        if ((entry & 1) != 0) {
            return NULL;
        }
    }
}

static bool is_libc(const struct object *object) {
#ifdef __GLIBC__
    return object->name != NULL && strcmp(object->name, "libc.so.6") == 0;
#else // musl's, which is the dynamic linker as well, has a name of its own in some distributions
      // only
    return find(object, "__libc_start_main", NULL) != NULL;
#endif
}

// The functions of libc that allocate, free, or report about the heap.
static const char names[][24] = {
    "malloc",           "free",
    "calloc",           "realloc",
    "reallocarray",     "cfree",
    "free_sized",       "free_aligned_sized",
    "aligned_alloc",    "memalign",
    "posix_memalign",   "valloc",
    "pvalloc",          "malloc_usable_size",
    "malloc_trim",      "malloc_stats",
    "malloc_info",      "mallinfo",
    "mallinfo2",        "mallopt",
    "__libc_malloc",    "__libc_free",
    "__libc_calloc",    "__libc_realloc",
    "__libc_memalign",  "__libc_valloc",
    "__libc_pvalloc",   "__libc_mallinfo",
    "__libc_mallopt",   "__libc_reallocarray",
    "__posix_memalign",
};
enum { NAMES = sizeof names / sizeof *names };

// Calls visit() for every entry of libc's and the address that it should have. Returns false as
// soon as visit() does.
static bool each(const struct object *libc, const struct object *own,
                 bool (*visit)(void *arg, Elf64_Sym *entry, Elf64_Addr value), void *arg) {
    for (int i = 0; i < NAMES; i++) {
        const Elf64_Sym *ours = find(own, names[i], NULL);
        if (ours == NULL) {
            continue;
        }
        for (Elf64_Sym *entry = NULL; (entry = find(libc, names[i], entry)) != NULL;) {
            if (!visit(arg, entry, own->base + ours->st_value - libc->base)) {
                return false;
            }
        }
    }
    return true;
}

struct range {
    uintptr_t from, to;
    bool wanted; // an entry is not as it should be
};

static bool widen(void *arg, Elf64_Sym *entry, Elf64_Addr value) {
    struct range *range = arg;
    range->from = hak_min(range->from, (uintptr_t)entry);
    range->to = hak_max(range->to, (uintptr_t)(entry + 1));
    range->wanted |= entry->st_value != value;
    return true;
}

// Other threads may be reading the entry.
static bool set(void *arg, Elf64_Sym *entry, Elf64_Addr value) {
    (void)arg;
    HAK_POKE(&entry->st_value, value);
    return true;
}

// The state of a search. The dynamic linker holds its lock while it calls visit_object(), so one
// thread at a time changes libc's table.
struct search {
    struct object libc, own;
    bool executable; // libc's table is among its code
};

static bool contains(const struct dl_phdr_info *info, const void *ptr, uint32_t *flags) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const Elf64_Phdr *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD &&
            (uintptr_t)ptr - info->dlpi_addr - segment->p_vaddr < segment->p_memsz) {
            *flags = segment->p_flags;
            return true;
        }
    }
    return false;
}

static bool redirect(const struct search *search) {
    struct range range = {UINTPTR_MAX, 0, false};
    each(&search->libc, &search->own, widen, &range);
    if (!range.wanted) {
        return true;
    }
    void *from = (void *)(range.from & ~(uintptr_t)(HAK_PAGE - 1));
    size_t size = hak_round_up(range.to, HAK_PAGE) - (uintptr_t)from;
    if (os_protect(from, size, true, search->executable) != OS_OK) {
        return false;
    }
    each(&search->libc, &search->own, set, NULL);
    os_protect(from, size, false, search->executable);
    return true;
}

enum { ON, CHANGED, REFUSED, NOT_OURS };

static int visit_object(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    struct search *search = arg;
    struct object object = object_of(info);
    uint32_t flags;
    if (object.strings == NULL) {
        return ON;
    }
    if (contains(info, names, &flags)) {
        search->own = object;
        return ON;
    }
    if (!is_libc(&object)) {
        return ON;
    }
    if (search->own.strings == NULL) {
        return NOT_OURS;
    }
    search->libc = object;
    search->executable = contains(info, object.symbols, &flags) && (flags & PF_X) != 0;
    return redirect(search) ? CHANGED : REFUSED;
}

bool dl_redirect_libc(void) {
    static _Atomic(bool) done;
    if (atomic_load(&done)) {
        return true;
    }
    settings_load_once(environ); // another library's constructor may come before ours
    if (settings_get(SETTING_DEEPBIND) != 0) {
        struct search search = {.executable = false};
        int result = dl_iterate_phdr(visit_object, &search);
        if (result == ON || result == REFUSED) {
            return false;
        }
    }
    atomic_store_explicit(&done, true, memory_order_release);
    return true;
}

// Returns true if the object imports a function whose name is among `asked`. Imports come first in
// its table of symbols, before the functions that it defines.
static bool asks_for(const struct object *object, const char (*asked)[8], size_t count) {
    uint32_t first = hash_table_of(object).first;
    for (uint32_t i = 0; i < first; i++) {
        const char *name = object->strings + object->symbols[i].st_name;
        for (size_t j = 0; j < count; j++) {
            if (strcmp(name, asked[j]) == 0) {
                return true;
            }
        }
    }
    return false;
}

// `arg`: only libraries count, and only those that look symbols up.
static int visit_user(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    static const char asked[][8] = {"dlsym", "dlvsym", "dlopen", "dlmopen"};
    const bool *library = arg;
    uint32_t flags;
    struct object object = object_of(info);
    if (object.strings == NULL || is_libc(&object) ||
        (*library && (info->dlpi_name[0] == '\0' || contains(info, names, &flags)))) {
        return 0;
    }
    return asks_for(&object, asked, *library ? 2 : sizeof asked / sizeof *asked);
}

bool dl_is_used(void) {
    bool library = false;
    return dl_iterate_phdr(visit_user, &library) != 0;
}

bool dl_looks_up(void) {
    bool library = true;
    return dl_iterate_phdr(visit_user, &library) != 0;
}
