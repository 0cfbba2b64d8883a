// SPDX-License-Identifier: Apache-2.0
// system_call: how the files of this backend call the kernel.
#ifndef HAKMEM_BACKENDS_LINUX_SYSTEM_CALL_H
#define HAKMEM_BACKENDS_LINUX_SYSTEM_CALL_H

#include "backends/linux/sandbox.h"
#include "boxes/base/base.h"
#include "boxes/cpu/cpu.h"

#include <stdatomic.h>

HAK_C_BEGIN

// The number of system calls so far, for os_calls(). On a cache line of its own, because each call
// changes the number, and other data would be read more often.
extern struct os_linux_calls { alignas(HAK_CACHE_LINE) _Atomic(uint64_t) count; } os_linux_calls;

HAK_INLINE long sys6(long nr, long a, long b, long c, long d, long e, long f) {
    atomic_fetch_add_explicit(&os_linux_calls.count, 1, memory_order_relaxed);
    return cpu_syscall(nr, a, b, c, d, e, f);
}

HAK_INLINE long sys3(long nr, long a, long b, long c) {
    return sys6(nr, a, b, c, 0, 0, 0);
}

HAK_INLINE bool is_error(long ret) {
    return (unsigned long)ret > -4096UL;
}

// Returns true if the process is in no sandbox. Only then are calls made that neither libc's malloc
// makes nor the program needs.
HAK_INLINE bool is_free_to_call(void) {
    return sandbox_now() == SANDBOX_NONE && !sandbox_is_strict();
}

// To be called after a move that the kernel refused, if parts of `to` are still mapped, and if all
// of `to` was zero before. Moves the moved pages back, and maps those parts of `to` that are not
// mapped. Returns OS_NO_MEMORY, or OS_LOST if a part of `to` cannot be mapped.
enum os_result os_linux_move_back(char *from, char *to, size_t size);
HAK_C_END

#endif
