// SPDX-License-Identifier: Apache-2.0
// extension: functions that interfaces of other allocators offer beyond malloc's, for
// fronts/compat.
//
// Every flavour exports these functions. fronts/compat calls them through the dynamic linker, as it
// calls malloc and free: if two libraries of hakmem are in a process, these functions, too, are
// those of the library whose malloc serves the process. Thread-safe unless said otherwise. Sizes
// are in bytes. The functions keep errno unless said otherwise.
#ifndef HAKMEM_FRONTS_LIBC_EXTENSION_H
#define HAKMEM_FRONTS_LIBC_EXTENSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Returns the usable bytes that malloc_usable_size() would return for a new block of `size` bytes
// aligned to `align` (a power of two; up to 16 as malloc aligns). (Guarded blocks have fewer.)
// Returns 0 if there can be no such block.
size_t hak_good_size(size_t size, size_t align);

// From now on the usable bytes of blocks above 32 KiB are their size rounded up to a page, and not
// to 64 bytes. A program that goes from each usable size to the next needs fewer steps then.
void hak_page_sizes(void);

// Resizes the block at `ptr` to `size` bytes (0 counts as 1) without moving it, if possible.
// Returns the block's usable bytes afterwards, whether it was resized or not. Stops the program if
// no live block starts there.
size_t hak_resize_here(void *ptr, size_t size);

// Returns the usable bytes of the block of this heap that starts at `ptr`, which may be any
// pointer. Returns 0 if there is no such block. A block in a thread's cache counts as a live one.
size_t hak_usable(const void *ptr);

// Returns true if `ptr` points into a block, or into pages that this heap holds for blocks.
bool hak_in_heap(const void *ptr);

// hak_flush_thread() empties the calling thread's cache. hak_thread_cached() returns the bytes of
// the blocks in that cache.
void hak_flush_thread(void);
size_t hak_thread_cached(void);

// Gives back all idle memory, and empties the caches of threads that are gone. As malloc_trim(0),
// but does not empty the calling thread's cache.
void hak_purge(void);

// Gives idle memory back if that is due, as a cache miss does: for a bounded time.
void hak_decay(void);

// Return and set the age in ms at which idle memory goes back (HAKMEM_DECAY_MS; -1: never).
// hak_set_decay_ms() returns false, and changes nothing, if the age is beyond the setting's range.
int64_t hak_decay_ms(void);
bool hak_set_decay_ms(int64_t ms);

// As aligned_alloc(), but the block is all zero. Returns NULL and sets ENOMEM if there is no
// memory.
void *hak_aligned_zalloc(size_t align, size_t size);

// Heaps all of whose blocks can be freed at once; see private_heap.h. free(), realloc() and
// malloc_usable_size() take their blocks, too; sized operator delete does not.
struct hak_heap;

// Makes a heap. Returns NULL if there is no memory.
struct hak_heap *hak_heap_new(void);
// Returns a block of the heap at a multiple of `align`, a power of two; its bytes are zero if
// `zero`. Returns NULL if there is no memory, or if `size` or `align` is too large.
void *hak_heap_alloc(struct hak_heap *heap, size_t size, size_t align, bool zero);
// As hak_heap_alloc(), but the byte at `offset` (at most `size`) of the block is at a multiple of
// `align`. The block takes 64 KiB at least.
void *hak_heap_alloc_at(struct hak_heap *heap, size_t size, size_t align, size_t offset, bool zero);
// As hak_good_size(), for a block of such a heap.
size_t hak_heap_good_size(size_t size, size_t align);
// Ends the heap; its blocks stay until they are freed.
void hak_heap_delete(struct hak_heap *heap);
// hak_heap_destroy() ends the heap and frees its blocks; hak_heap_reset() only frees the blocks.
// Neither may be called while another thread uses the heap.
void hak_heap_destroy(struct hak_heap *heap);
void hak_heap_reset(struct hak_heap *heap);
// Returns the heap of the live block at `ptr`, which may be any pointer. Returns NULL if no heap
// has such a block, or if the heap was deleted.
struct hak_heap *hak_heap_of(const void *ptr);
// Calls `visit` for each live block of a heap that no thread uses meanwhile, until `visit` returns
// false. Returns false if it did.
bool hak_heap_visit(struct hak_heap *heap, bool (*visit)(void *block, size_t usable, void *arg),
                    void *arg);
// Return the usable bytes of the heap's live blocks, and the bytes that it holds for them.
void hak_heap_stats(struct hak_heap *heap, size_t *live, size_t *held);

#ifdef __cplusplus
}
#endif

#endif
