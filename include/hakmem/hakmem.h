// SPDX-License-Identifier: Apache-2.0
// hakmem.h: the functions of hakmem that the C library's own headers do not declare. For C99 or
// newer, C++11 or newer.
//
// The functions are those of the hakmem library that serves malloc() in the process, whether that
// is preloaded, linked, or a part of the program. A program that also has to run on another
// allocator looks them up with dlsym(RTLD_DEFAULT, "hak_version") and so on; they are exported by
// these names.
//
// Any thread may call each of these functions at any time. None of them fails unless its comment
// says so, and none allocates memory from the heap or changes errno.
#ifndef HAKMEM_HAKMEM_H
#define HAKMEM_HAKMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The version of this header. Programs compiled with an older 1.x header run on a newer 1.x
// library.
#define HAKMEM_VERSION_MAJOR 1
#define HAKMEM_VERSION_MINOR 0
#define HAKMEM_VERSION_PATCH 0
#define HAKMEM_VERSION       "1.0.0"

#if defined(__cplusplus)
#    define HAKMEM_NOEXCEPT noexcept
extern "C" {
#else
#    define HAKMEM_NOEXCEPT
#endif

// Returns the version of the library that serves the process, "MAJOR.MINOR.PATCH". The string is
// constant and lives as long as the library.
const char *hak_version(void) HAKMEM_NOEXCEPT;

// Returns the flavour of the library that serves the process, such as "hakmem_c23". The string is
// constant and lives as long as the library.
const char *hak_flavour(void) HAKMEM_NOEXCEPT;

// C23's functions to free a block of known size, which not every C library declares yet. `ptr` is
// NULL, or a block that malloc(), calloc() or realloc() returned (for free_sized), or that
// aligned_alloc() returned (for free_aligned_sized). `size` and `align` are the bytes and the
// alignment that were requested. If they are wrong, hakmem_hardened stops the program; the other
// flavours do not check them.
void free_sized(void *ptr, size_t size) HAKMEM_NOEXCEPT;
void free_aligned_sized(void *ptr, size_t align, size_t size) HAKMEM_NOEXCEPT;

// Writes the current heap profile, in pprof's format, to the file `path`, or, if `path` is NULL, to
// the file that HAKMEM_PROFILE names. Returns false if nothing is sampled (see HAKMEM_PROFILE), if
// the file cannot be written, or if another thread is writing a profile. Async-signal-safe.
bool hak_profile_dump(const char *path) HAKMEM_NOEXCEPT;

enum { HAK_STATS_BINS = 69 }; // entries of hak_stats.bins

// What the allocator holds and has done. Fields are in bytes, unless marked (count) or (ns).
//
// "tiny" blocks are those of up to 32 KiB, "large" blocks are all others. A slab is 64 KiB, a
// SuperSlab 2 MiB of 32 slabs. A bin is a size class: it holds the blocks of one size.
struct hak_stats {
    size_t superslabs;   // SuperSlabs in use (count)
    size_t reserved;     // address range of the heap
    size_t committed;    // the part of `reserved` that is readable and writable
    size_t tiny_live;    // tiny blocks in use by the program, rounded up to their bins
    size_t tiny_cached;  // free tiny blocks in caches of threads
    size_t tiny_free;    // free tiny blocks in slabs in use
    size_t large_live;   // large blocks, as requested, `far` included
    size_t large_blocks; // large blocks (count)
    size_t far;          // large blocks with a mapping of their own, outside of `reserved`
    size_t private_live; // blocks of private heaps, rounded up
    size_t dirty;        // free slabs that still have pages
    size_t clean;        // pages without memory in slabs in use for tiny blocks
    size_t metadata;     // descriptions of SuperSlabs in use, and heaps of threads
    size_t tiny_slabs, large_slabs, private_slabs, heap_slabs; // slabs by use (count)
    uint64_t returned;         // memory returned to the kernel, since the start
    uint64_t purges;           // steps that returned memory, since the start (count)
    uint64_t purge_ns;         // time spent in these steps (ns)
    uint64_t purge_longest_ns; // time of the longest of these steps (ns)
    uint64_t moved;            // memory moved by mremap() instead of a copy, since the start
    uint64_t os_calls;         // system calls made for memory, since the start (count)
    // Transfers from the pool to a thread's cache and back, and blocks in them (counts).
    uint64_t refills, refilled_blocks, spills, spilled_blocks;
    size_t heaps, free_heaps; // heaps of threads; those of them without a thread (count)
    struct {
        size_t size;                // bytes of a block
        size_t slabs;               // slabs in use for the bin (count)
        size_t live, cached, free_; // blocks in use by the program, in caches, in slabs (counts)
    } bins[HAK_STATS_BINS];         // bins[0] and bins whose size is 0 are unused
    size_t large_pages;             // large blocks, rounded up to whole pages
    size_t mapped;                  // the part of `large_pages` in blocks of 128 KiB and more
    size_t mapped_blocks;           // blocks of 128 KiB and more (count)
    size_t large_slack;             // ends of slabs in use for large blocks, past the last page
    size_t peak;                    // the most in slabs in use at a time: blocks, caches, metadata
    size_t homes;                   // SuperSlabs that a few threads have for themselves (count)
    size_t spare_slabs;             // slabs held for these threads that are not in use (count)
    // Other flavours than hakmem_hardened set these two to 0:
    size_t large_guards;      // large blocks that end at pages without access rights (count)
    size_t large_quarantined; // slabs of freed large blocks that wait and may have memory
    size_t unused[27];        // 0; room for later versions, in which the struct has the same size
};

// Fills *stats by a walk over the heap's metadata. The numbers are exact if no other thread
// allocates or frees meanwhile. Takes less than 1 KiB of stack (4 KiB if the kernel refuses memory
// while another thread is in this call).
#if defined(__cplusplus)
// In C++ a function hides the type of the same name. This macro keeps both: hak_stats(&s) fills s,
// `hak_stats s;` defines a variable, and hak_stats() is a struct that is all zero.
void hak_stats_fill(struct hak_stats *stats) HAKMEM_NOEXCEPT __asm__("hak_stats");
extern "C++" {
inline struct hak_stats hak_stats_fill() noexcept {
    return {};
}
}
#    define hak_stats(...) hak_stats_fill(__VA_ARGS__)
#else
void hak_stats(struct hak_stats *stats);
#endif

// Writes the same figures as one JSON object into buf, with the program's name, the flavour, the
// version and the settings that differ from their defaults. As snprintf(), writes at most `size`
// bytes, the 0 at the end included, and nothing if `size` is 0. Returns the bytes of the whole text
// without the 0, about 8,000.
size_t hak_stats_json(char *buf, size_t size) HAKMEM_NOEXCEPT;

#if defined(__cplusplus)
}
#endif

#endif
