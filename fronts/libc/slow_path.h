// SPDX-License-Identifier: Apache-2.0
// Shared by the slow paths of allocations (slow_path.c) and of frees (slow_free.c).
#ifndef HAKMEM_FRONTS_LIBC_SLOW_PATH_H
#define HAKMEM_FRONTS_LIBC_SLOW_PATH_H

#include "backends/os.h"
#include "boxes/base/base.h"
#include "boxes/decay/decay.h"
#include "boxes/front_gate_classifier/front_gate.h"
#include "boxes/thread_heap/thread_heap.h"

// To be called at every miss: reads the clock, and does a share of the work that is due.
HAK_INLINE void tick_at(struct thread_heap *heap, uint64_t now) {
    decay_tick(now);
    if (HAK_LIKELY(heap != NULL)) {
        thread_heap_tick(heap, now, decay_idle_ms());
    }
}

HAK_INLINE void tick(struct thread_heap *heap) {
    tick_at(heap, os_now_ms());
}

// While calls are recorded no free is a hit.
HAK_INLINE void close_gate(void) {
    *thread_heap_gate() = (struct front_gate){.units = 0};
}

// Copies the window's gate for the current thread, whose heap this is, if the window has grown. If
// `anew`, also finds out whether free() should read blocks again because the process has become
// small. Not every miss does that, because all threads write the totals that tell.
HAK_NOINLINE void slow_renew_gate(struct thread_heap *heap, bool anew);

#endif
