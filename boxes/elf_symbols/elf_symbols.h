// SPDX-License-Identifier: Apache-2.0
// elf_symbols: finds the code of the process at an address: its file, build id and function.
//
// Mappings come from /proc/self/maps, and build ids from the mapped headers. Names come from the
// files' symbol tables (.symtab, that of a separate debug file, or .dynsym). Names of code of a
// just-in-time compiler come from /tmp/perf-PID.map, if the compiler writes that file.
// Async-signal-safe: takes no lock of the dynamic linker; memory comes from mappings that are given
// back. Only one thread at a time may use a struct. Nothing here touches errno.
#ifndef HAKMEM_BOXES_ELF_SYMBOLS_ELF_SYMBOLS_H
#define HAKMEM_BOXES_ELF_SYMBOLS_ELF_SYMBOLS_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { ELF_BUILD_ID_MOST = 32 };

// A line of /proc/self/maps.
struct elf_map_line {
    uintptr_t start, end;
    uint64_t offset;
    bool readable, writable, executable, shared;
    const char *path; // "" if there is none
};

// elf_maps_read() reads /proc/self/maps; if it returns false, there is nothing to release.
// elf_maps_each() calls `visit` for each line.
struct elf_maps {
    char *text;
    size_t length, mapped;
};
bool elf_maps_read(struct elf_maps *maps);
void elf_maps_release(struct elf_maps *maps);
typedef void elf_map_visitor(void *to, const struct elf_map_line *line);
void elf_maps_each(const struct elf_maps *maps, elf_map_visitor *visit, void *to);

// A mapping with code in it.
struct elf_mapping {
    uintptr_t start, end;
    uint64_t offset;  // in the file
    const char *path; // "" if there is none
    uint8_t build_id[ELF_BUILD_ID_MOST];
    unsigned build_id_size; // 0: none found
    const char *image;      // the mapped file, once names were looked up in it; NULL before
    size_t image_size;
};

// Memory of a struct elf_symbols, or a file that it has mapped.
struct elf_piece {
    void *at;
    size_t size;
};

struct elf_symbols {
    struct elf_mapping *mappings; // in the order of addresses
    size_t mapping_count;
    struct elf_piece *pieces;
    size_t piece_count;
};

// Reads the process's mappings. If this returns false, there is nothing to close.
bool elf_symbols_open(struct elf_symbols *symbols);
void elf_symbols_close(struct elf_symbols *symbols);

// Returns the index + 1 of the mapping that an address is in, or 0 if there is none.
size_t elf_symbols_mapping_of(const struct elf_symbols *symbols, uintptr_t pc);

struct elf_name {
    uintptr_t pc;
    uintptr_t start;  // of the function
    const char *name; // as in the symbol table, not terminated; lives until elf_symbols_close()
    unsigned length;  // 0: not found
};

// Fills in the names of `count` addresses, which are sorted by `pc`.
void elf_symbols_name(struct elf_symbols *symbols, struct elf_name *names, size_t count);
HAK_C_END

#endif
