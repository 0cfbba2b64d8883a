// SPDX-License-Identifier: Apache-2.0
#include "boxes/probe/probe.h"

// Each function is a NOP and nothing else, so the arguments are still where the call has put them.
// Not inlined, and not specialised for a caller (noipa, if the compiler has it), so that there is
// one copy of each.
#define POINT(name)                                  \
    __asm__ volatile(".globl hak_probe_" #name "\n"  \
                     ".hidden hak_probe_" #name "\n" \
                     "hak_probe_" #name ": nop")
#if defined(__clang__)
#    define PROBE __attribute__((noinline))
#else
#    define PROBE __attribute__((noipa))
#endif

PROBE void probe_sample(const void *block, size_t size, uint64_t bytes, const uintptr_t *calls,
                        size_t depth) {
    POINT(sample);
    (void)block, (void)size, (void)bytes, (void)calls, (void)depth;
}

PROBE void probe_sample_free(const void *block, size_t size, uint64_t bytes, const uintptr_t *calls,
                             size_t depth) {
    POINT(sample_free);
    (void)block, (void)size, (void)bytes, (void)calls, (void)depth;
}

PROBE void probe_slab_claim(const void *slab, size_t block_size) {
    POINT(slab_claim);
    (void)slab, (void)block_size;
}

PROBE void probe_slab_release(const void *slab, size_t block_size) {
    POINT(slab_release);
    (void)slab, (void)block_size;
}

PROBE void probe_purge(size_t bytes) {
    POINT(purge);
    (void)bytes;
}

PROBE void probe_heap_make(const void *heap, size_t number) {
    POINT(heap_make);
    (void)heap, (void)number;
}

PROBE void probe_heap_adopt(const void *heap, size_t number) {
    POINT(heap_adopt);
    (void)heap, (void)number;
}

PROBE void probe_heap_give(const void *heap, size_t number) {
    POINT(heap_give);
    (void)heap, (void)number;
}

PROBE void probe_misuse(const char *call, const void *ptr, const char *fault) {
    POINT(misuse);
    (void)call, (void)ptr, (void)fault;
}
