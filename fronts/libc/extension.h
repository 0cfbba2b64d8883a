// SPDX-License-Identifier: Apache-2.0
// extension: what the interfaces of other allocators offer beyond malloc's, for fronts/compat.
//
// Every flavour exports these functions. fronts/compat calls them through the dynamic linker, as it
// does malloc and free: if two libraries of hakmem are in a process, the one whose malloc serves
// the process answers here too. Thread-safe unless said otherwise. Sizes are in bytes. The
// functions keep errno.
#ifndef HAKMEM_FRONTS_LIBC_EXTENSION_H
#define HAKMEM_FRONTS_LIBC_EXTENSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Returns the usable bytes of a new block of `size` bytes aligned to `align` (a power of two; up to
// 16: malloc's) as malloc_usable_size() would, unless the block is a guarded one. Returns 0 if
// there can be no such block.
size_t hak_good_size(size_t size, size_t align);

// From now on the usable bytes of blocks above 32 KiB are their size rounded up to a page, and not
// to 64 bytes: a program that goes from one usable size to the next is at the end sooner.
void hak_page_sizes(void);

// Resizes the block at `ptr` to `size` bytes (0 counts as 1) without moving it, if possible.
// Returns the block's usable bytes afterwards, whether it was resized or not. Ends the program if
// no live block starts there.
size_t hak_resize_here(void *ptr, size_t size);

// Returns the usable bytes of the block of this heap that starts at `ptr`, which may be any
// pointer. Returns 0 if there is none. A block in a thread's cache looks like a live one.
size_t hak_usable(const void *ptr);

// Returns true if `ptr` points into a block, or into pages that this heap holds for blocks.
bool hak_in_heap(const void *ptr);

// hak_flush_thread() empties the calling thread's cache; hak_thread_cached() returns the bytes in
// it.
void hak_flush_thread(void);
size_t hak_thread_cached(void);

// Gives back all idle memory, and empties the caches of threads that are gone. As malloc_trim(0),
// but leaves the calling thread's cache.
void hak_purge(void);

// Does a share of the work of giving idle memory back that is due.
void hak_decay(void);

// Return and set the age in ms at which idle memory goes back (HAKMEM_DECAY_MS), -1: never. Setting
// returns false, and changes nothing, if the age is beyond the setting's range.
int64_t hak_decay_ms(void);
bool hak_set_decay_ms(int64_t ms);

// As aligned_alloc(), but the block is all zero. Returns NULL and sets ENOMEM if there is no
// memory.
void *hak_aligned_zalloc(size_t align, size_t size);

// Heaps all of whose blocks can be freed at once; see private_heap.h. The ordinary calls free and
// resize their blocks and return their usable sizes, except sized operator delete.
struct hak_heap;

struct hak_heap *hak_heap_new(void); // NULL: no memory
// NULL: no memory, or size or align (a power of two) is beyond what can be.
void *hak_heap_alloc(struct hak_heap *heap, size_t size, size_t align, bool zero);
// Returns the byte at `offset` (up to size) of the block is at the multiple of `align`. 64 KiB at
// least.
void *hak_heap_alloc_at(struct hak_heap *heap, size_t size, size_t align, size_t offset, bool zero);
// As hak_good_size(), but returns what malloc_usable_size() would for that block.
size_t hak_heap_good_size(size_t size, size_t align);
// The heap is gone; its blocks stay until they are freed.
void hak_heap_delete(struct hak_heap *heap);
// The heap and its blocks are gone. Not while another thread uses it; nor reset: its blocks are.
void hak_heap_destroy(struct hak_heap *heap);
void hak_heap_reset(struct hak_heap *heap);
// Returns the heap of the live block at `ptr` (any pointer). Returns NULL if no heap has the block,
// or its heap was deleted.
struct hak_heap *hak_heap_of(const void *ptr);
// Calls `visit` for each live block of a heap at rest until it returns false. Returns false then.
bool hak_heap_visit(struct hak_heap *heap, bool (*visit)(void *block, size_t usable, void *arg),
                    void *arg);
// Return the usable bytes of the heap's live blocks, and the bytes that it holds for them.
void hak_heap_stats(struct hak_heap *heap, size_t *live, size_t *held);

#ifdef __cplusplus
}
#endif

#endif
