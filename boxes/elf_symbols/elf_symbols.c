// SPDX-License-Identifier: Apache-2.0
#include "boxes/elf_symbols/elf_symbols.h"

#include "backends/os.h"
#include "boxes/base/digits.h"

#include <elf.h>
#include <string.h>

enum {
    MAPS_FIRST = 256 << 10, // bytes of the first attempt to read /proc/self/maps
    MAPS_MOST = 64 << 20,   // bytes of the last attempt
    SHORTEST_LINE = 40,     // bytes of a line of that file, about
    PIECES = HAK_PAGE * 16 / (int)sizeof(struct elf_piece),
    PATH_MOST = 512,
};

// --- Memory

static bool keep(struct elf_symbols *symbols, void *at, size_t size) {
    if (symbols->piece_count == PIECES) {
        return false;
    }
    symbols->pieces[symbols->piece_count++] = (struct elf_piece){at, size};
    return true;
}

static void *take(struct elf_symbols *symbols, size_t size) {
    void *at;
    size = hak_round_up(hak_max(size, 1), HAK_PAGE);
    if (os_map(NULL, size, &at) != OS_OK) {
        return NULL;
    }
    if (!keep(symbols, at, size)) {
        os_release(at, size);
        return NULL;
    }
    return at;
}

void elf_symbols_close(struct elf_symbols *symbols) {
    for (size_t i = 0; i < symbols->piece_count; i++) {
        os_release(symbols->pieces[i].at, symbols->pieces[i].size);
    }
    os_release(symbols->pieces, PIECES * sizeof *symbols->pieces);
}

// --- Mappings

bool elf_maps_read(struct elf_maps *maps) {
    for (size_t size = MAPS_FIRST; size <= MAPS_MOST; size *= 4) {
        void *at;
        if (os_map(NULL, size, &at) != OS_OK) {
            return false;
        }
        *maps = (struct elf_maps){.text = at, .mapped = size};
        maps->length = os_read_file("/proc/self/maps", maps->text, size - 1);
        if (maps->length > 0 && maps->length < size - 1) {
            for (size_t i = 0; i < maps->length; i++) {
                maps->text[i] = maps->text[i] == '\n' ? '\0' : maps->text[i];
            }
            return true;
        }
        elf_maps_release(maps);
    }
    return false;
}

void elf_maps_release(struct elf_maps *maps) {
    os_release(maps->text, maps->mapped);
}

static uint64_t read_hex(char **at) {
    uint64_t value = 0;
    for (;; ++*at) {
        char c = **at;
        if (c >= '0' && c <= '9') {
            value = value << 4 | (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        } else {
            return value;
        }
    }
}

static void skip_past(char **at, char what) {
    while (**at != '\0' && **at != what) {
        ++*at;
    }
    while (**at == what && what != '\0') {
        ++*at;
    }
}

// Finds the build id among the notes in [at, end).
static void find_build_id(const char *at, const char *end, struct elf_mapping *mapping) {
    while (end - at >= (ptrdiff_t)sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr note;
        memcpy(&note, at, sizeof note);
        const char *name = at + sizeof note;
        size_t rest = (size_t)(end - name);
        size_t name_size = hak_round_up(note.n_namesz, 4);
        if (name_size > rest || note.n_descsz > rest - name_size) {
            return;
        }
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof ELF_NOTE_GNU &&
            memcmp(name, ELF_NOTE_GNU, sizeof ELF_NOTE_GNU) == 0 &&
            note.n_descsz <= ELF_BUILD_ID_MOST) {
            memcpy(mapping->build_id, name + name_size, note.n_descsz);
            mapping->build_id_size = note.n_descsz;
            return;
        }
        size_t size = name_size + hak_round_up(note.n_descsz, 4);
        if (size >= rest) {
            return;
        }
        at = name + size;
    }
}

static bool is_elf(const char *image, size_t size) {
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    return size >= sizeof *header && memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 &&
           header->e_ident[EI_CLASS] == ELFCLASS64 && header->e_phentsize == sizeof(Elf64_Phdr) &&
           header->e_phoff <= size &&
           header->e_phnum <= (size - header->e_phoff) / sizeof(Elf64_Phdr) &&
           header->e_phoff % 8 == 0;
}

// Finds the build id of an object whose first `size` bytes are mapped at `image`.
static void read_build_id(const char *image, size_t size, struct elf_mapping *mapping) {
    if (!is_elf(image, size)) {
        return;
    }
    const Elf64_Phdr *parts = (const Elf64_Phdr *)(image + ((const Elf64_Ehdr *)image)->e_phoff);
    for (unsigned i = 0; i < ((const Elf64_Ehdr *)image)->e_phnum && mapping->build_id_size == 0;
         i++) {
        const Elf64_Phdr *part = &parts[i];
        if (part->p_type == PT_NOTE && part->p_offset <= size &&
            part->p_filesz <= size - part->p_offset) {
            find_build_id(image + part->p_offset, image + part->p_offset + part->p_filesz, mapping);
        }
    }
}

// The mapping of a file's start, if that is mapped and can be read. The mappings of one file follow
// each other.
struct image {
    const char *at;
    size_t size;
    const char *path;
};

struct parse {
    struct elf_symbols *symbols;
    struct image image;
};

static void add_mapping(void *to, const struct elf_map_line *line) {
    struct parse *parse = to;
    struct elf_symbols *symbols = parse->symbols;
    bool named = line->path[0] == '/' || strcmp(line->path, "[vdso]") == 0;
    if (line->offset == 0 && line->readable && named) {
        parse->image =
            (struct image){(const char *)line->start, line->end - line->start, line->path};
    }
    if (!line->executable || !line->readable || strcmp(line->path, "[vsyscall]") == 0) {
        return;
    }
    struct elf_mapping *mapping = &symbols->mappings[symbols->mapping_count++];
    *mapping = (struct elf_mapping){
        .start = line->start, .end = line->end, .offset = line->offset, .path = line->path};
    if (parse->image.at != NULL && strcmp(parse->image.path, line->path) == 0) {
        read_build_id(parse->image.at, parse->image.size, mapping);
    }
}

void elf_maps_each(const struct elf_maps *maps, elf_map_visitor *visit, void *to) {
    char *end = maps->text + maps->length;
    for (char *at = maps->text; at < end; at += strlen(at) + 1) {
        struct elf_map_line line = {.start = read_hex(&at)};
        at += *at == '-';
        line.end = read_hex(&at);
        skip_past(&at, ' ');
        if (strlen(at) < 5) {
            continue;
        }
        line.readable = at[0] == 'r';
        line.writable = at[1] == 'w';
        line.executable = at[2] == 'x';
        line.shared = at[3] == 's';
        skip_past(&at, ' ');
        line.offset = read_hex(&at);
        skip_past(&at, ' '); // device
        skip_past(&at, ' '); // inode
        skip_past(&at, ' ');
        line.path = at;
        visit(to, &line);
    }
}

bool elf_symbols_open(struct elf_symbols *symbols) {
    void *pieces;
    struct elf_maps maps;
    if (os_map(NULL, PIECES * sizeof *symbols->pieces, &pieces) != OS_OK) {
        return false;
    }
    *symbols = (struct elf_symbols){.pieces = pieces};
    if (elf_maps_read(&maps)) {
        keep(symbols, maps.text, maps.mapped);
        symbols->mappings =
            take(symbols, (maps.length / SHORTEST_LINE + 1) * sizeof *symbols->mappings);
    }
    if (symbols->mappings == NULL) {
        elf_symbols_close(symbols);
        return false;
    }
    struct parse parse = {symbols, {NULL, 0, ""}};
    elf_maps_each(&maps, add_mapping, &parse);
    return true;
}

size_t elf_symbols_mapping_of(const struct elf_symbols *symbols, uintptr_t pc) {
    size_t low = 0, high = symbols->mapping_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (symbols->mappings[middle].end <= pc) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < symbols->mapping_count && symbols->mappings[low].start <= pc ? low + 1 : 0;
}

// --- Names

static size_t first_from(const struct elf_name *names, size_t count, uintptr_t pc) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (names[middle].pc < pc) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// Gives a name to those addresses in [start, end) that have none, or the name of a larger function.
static void name_range(struct elf_name *names, size_t count, uintptr_t start, uintptr_t end,
                       const char *name, size_t length) {
    for (size_t i = first_from(names, count, start); i < count && names[i].pc < end; i++) {
        if (names[i].length == 0 || names[i].start < start) {
            names[i].start = start;
            names[i].name = name;
            names[i].length = (unsigned)length;
        }
    }
}

struct section {
    const char *at;
    size_t size;
};

static struct section section_of(const char *image, size_t size, const Elf64_Shdr *header) {
    if (header->sh_type == SHT_NOBITS || header->sh_offset > size ||
        header->sh_size > size - header->sh_offset) {
        return (struct section){NULL, 0};
    }
    return (struct section){image + header->sh_offset, header->sh_size};
}

// Names addresses by the symbols of a table. `moved` is the distance of the addresses from the
// addresses in the file.
static void name_by_table(struct section table, struct section strings, uintptr_t moved,
                          struct elf_name *names, size_t count) {
    for (size_t at = 0; at + sizeof(Elf64_Sym) <= table.size; at += sizeof(Elf64_Sym)) {
        Elf64_Sym symbol;
        memcpy(&symbol, table.at + at, sizeof symbol);
        unsigned type = ELF64_ST_TYPE(symbol.st_info);
        if ((type != STT_FUNC && type != STT_GNU_IFUNC) || symbol.st_shndx == SHN_UNDEF ||
            symbol.st_name >= strings.size) {
            continue;
        }
        const char *name = strings.at + symbol.st_name;
        uintptr_t start = moved + symbol.st_value;
        name_range(names, count, start, start + symbol.st_size, name,
                   strnlen(name, strings.size - symbol.st_name));
    }
}

// Names addresses by the file's tables of type `type`. Returns true if the file has such a table.
static bool name_by_file(const char *image, size_t size, uint32_t type, uintptr_t moved,
                         struct elf_name *names, size_t count) {
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    if (header->e_shentsize != sizeof(Elf64_Shdr) || header->e_shoff > size ||
        header->e_shoff % 8 != 0 ||
        header->e_shnum > (size - header->e_shoff) / sizeof(Elf64_Shdr)) {
        return false;
    }
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    for (unsigned i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type == type && sections[i].sh_link < header->e_shnum) {
            struct section table = section_of(image, size, &sections[i]);
            struct section strings = section_of(image, size, &sections[sections[i].sh_link]);
            if (table.at != NULL && strings.at != NULL) {
                name_by_table(table, strings, moved, names, count);
                return true;
            }
        }
    }
    return false;
}

static const char *map_file(struct elf_symbols *symbols, const char *path, size_t *size) {
    const void *image = os_map_file(path, size);
    if (image != NULL && !keep(symbols, (void *)(uintptr_t)image, hak_round_up(*size, HAK_PAGE))) {
        os_release((void *)(uintptr_t)image, hak_round_up(*size, HAK_PAGE));
        image = NULL;
    }
    return image;
}

// Builds the path at which Debian and others keep symbols that they strip off. The build id has at
// least two bytes.
static void debug_path(const struct elf_mapping *mapping, char *path) {
    strcpy(path, "/usr/lib/debug/.build-id/");
    char *at = hak_hex(path + strlen(path), mapping->build_id, 1);
    *at++ = '/';
    at = hak_hex(at, mapping->build_id + 1, mapping->build_id_size - 1);
    strcpy(at, ".debug");
}

static bool same_build(const char *image, size_t size, const struct elf_mapping *mapping) {
    struct elf_mapping of_file = {.build_id_size = 0};
    read_build_id(image, size, &of_file);
    return of_file.build_id_size == mapping->build_id_size &&
           memcmp(of_file.build_id, mapping->build_id, mapping->build_id_size) == 0;
}

// Names addresses, all of which are in the mapping.
static void name_in_mapping(struct elf_symbols *symbols, struct elf_mapping *mapping,
                            struct elf_name *names, size_t count) {
    if (mapping->image == NULL) {
        mapping->image_size = mapping->end - mapping->start;
        mapping->image = strcmp(mapping->path, "[vdso]") == 0
                             ? (const char *)mapping->start
                             : map_file(symbols, mapping->path, &mapping->image_size);
    }
    const char *image = mapping->image;
    size_t size = mapping->image_size;
    // Since the mapping was made, another file may have replaced this one.
    if (image == NULL || !is_elf(image, size) || !same_build(image, size, mapping)) {
        return;
    }
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Phdr *parts = (const Elf64_Phdr *)(image + header->e_phoff);
    uintptr_t moved = 0;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        if (parts[i].p_type == PT_LOAD && mapping->offset + HAK_PAGE > parts[i].p_offset &&
            mapping->offset < parts[i].p_offset + parts[i].p_filesz) {
            moved = mapping->start - mapping->offset + parts[i].p_offset - parts[i].p_vaddr;
        }
    }
    if (name_by_file(image, size, SHT_SYMTAB, moved, names, count)) {
        return;
    }
    name_by_file(image, size, SHT_DYNSYM, moved, names, count);
    if (mapping->build_id_size > 1) {
        char path[PATH_MOST];
        debug_path(mapping, path);
        image = map_file(symbols, path, &size);
        if (image != NULL && is_elf(image, size)) {
            name_by_file(image, size, SHT_SYMTAB, moved, names, count);
        }
    }
}

// Names addresses by /tmp/perf-PID.map. The file has lines of "START SIZE NAME", with numbers in
// hexadecimal.
static void name_by_perf_map(struct elf_symbols *symbols, struct elf_name *names, size_t count) {
    char path[64] = "/tmp/perf-";
    char digits[HAK_DIGITS + 1];
    digits[HAK_DIGITS] = '\0';
    strcat(path, hak_digits(digits + HAK_DIGITS, (unsigned)os_process(), 10));
    strcat(path, ".map");
    size_t size;
    char *at = (char *)(uintptr_t)map_file(symbols, path, &size);
    char *end = at == NULL ? NULL : at + size;
    while (at != NULL && at < end) {
        char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (line_end == NULL) {
            return; // The compiler is writing the file.
        }
        uintptr_t start = read_hex(&at);
        at += *at == ' ';
        uintptr_t bytes = read_hex(&at);
        if (*at == ' ' && bytes != 0) {
            name_range(names, count, start, start + bytes, at + 1, (size_t)(line_end - at - 1));
        }
        at = line_end + 1;
    }
}

void elf_symbols_name(struct elf_symbols *symbols, struct elf_name *names, size_t count) {
    bool anonymous = false;
    for (size_t i = 0; i < count;) {
        size_t found = elf_symbols_mapping_of(symbols, names[i].pc);
        size_t end = i + 1;
        if (found != 0) {
            struct elf_mapping *mapping = &symbols->mappings[found - 1];
            end = i + first_from(names + i, count - i, mapping->end);
            if (mapping->path[0] == '/' || strcmp(mapping->path, "[vdso]") == 0) {
                name_in_mapping(symbols, mapping, names + i, end - i);
            } else {
                anonymous = true;
            }
        }
        i = end;
    }
    if (anonymous) {
        name_by_perf_map(symbols, names, count);
    }
}
