// SPDX-License-Identifier: Apache-2.0
// extension: what other allocators' interfaces offer beyond malloc's, for fronts/compat.
//
// Every flavour exports these, and fronts/compat calls them through the dynamic linker, as it does
// malloc and free: where two libraries of hakmem are in a process, the one whose malloc serves it
// answers here too. Thread-safe unless said otherwise. Sizes in bytes; errno is kept.
#ifndef HAKMEM_FRONTS_LIBC_EXTENSION_H
#define HAKMEM_FRONTS_LIBC_EXTENSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The usable bytes of a new block of `size` bytes aligned to `align` (a power of two; up to 16:
// malloc's), as malloc_usable_size() has them, unless the block is a guarded one; 0 if there can be
// no such block.
size_t hak_good_size(size_t size, size_t align);

// From now on the usable bytes of blocks above 32 KiB are their size rounded up to a page, and not
// to 64 bytes: a program that goes from one usable size to the next is at the end sooner.
void hak_page_sizes(void);

// Resizes the block at `ptr` to `size` bytes (0 counts as 1) without moving it, if that can be.
// Returns the usable bytes of the block as it is then, whether or not it was. Ends the program if
// no live block starts there.
size_t hak_resize_here(void *ptr, size_t size);

// The usable bytes of the block of this heap that starts at `ptr`, which may be any pointer. 0 if
// there is none; a block that a thread's cache holds is not told from a live one.
size_t hak_usable(const void *ptr);

// True if `ptr` points into a block, or into pages that this heap holds for blocks.
bool hak_in_heap(const void *ptr);

// Empties the calling thread's cache; how many bytes are in it.
void hak_flush_thread(void);
size_t hak_thread_cached(void);

// Gives back all memory that can be, and empties the caches of threads that are gone. As
// malloc_trim(0), but for the calling thread's cache.
void hak_purge(void);

// Does a share of what is due of giving idle memory back.
void hak_decay(void);

// The age in ms at which idle memory goes back (HAKMEM_DECAY_MS), -1: never. set: false, and
// nothing changed, if that is beyond the setting's range.
int64_t hak_decay_ms(void);
bool hak_set_decay_ms(int64_t ms);

// As aligned_alloc(), but the block is all zero. NULL and ENOMEM if there is no memory.
void *hak_aligned_zalloc(size_t align, size_t size);

// Heaps whose blocks can all be freed at once; see private_heap.h. A block of one is freed, resized
// and asked for its usable size by the ordinary calls; but for a sized operator delete.
struct hak_heap;

struct hak_heap *hak_heap_new(void); // NULL: no memory
// NULL: no memory, or size or align (a power of two) is beyond what can be.
void *hak_heap_alloc(struct hak_heap *heap, size_t size, size_t align, bool zero);
// The byte at `offset` (up to size) of the block is at the multiple of `align`. 64 KiB at least.
void *hak_heap_alloc_at(struct hak_heap *heap, size_t size, size_t align, size_t offset, bool zero);
// As hak_good_size(), but returns what malloc_usable_size() would for that block.
size_t hak_heap_good_size(size_t size, size_t align);
// The heap is gone; its blocks stay until they are freed.
void hak_heap_delete(struct hak_heap *heap);
// The heap and its blocks are gone. Not while another thread uses it; nor reset: its blocks are.
void hak_heap_destroy(struct hak_heap *heap);
void hak_heap_reset(struct hak_heap *heap);
// The heap of the live block at `ptr` (any pointer); NULL if it is of none, or that was deleted.
struct hak_heap *hak_heap_of(const void *ptr);
// Calls `visit` for each live block of a heap at rest until it returns false; false then.
bool hak_heap_visit(struct hak_heap *heap, bool (*visit)(void *block, size_t usable, void *arg),
                    void *arg);
// Usable bytes of its live blocks, and what it holds for them.
void hak_heap_stats(struct hak_heap *heap, size_t *live, size_t *held);

#ifdef __cplusplus
}
#endif

#endif
