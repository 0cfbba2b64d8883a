// SPDX-License-Identifier: Apache-2.0
// Reads the clocks, without a system call where that can be done.
#include "backends/os.h"

#include "backends/linux/sandbox.h"
#include "backends/linux/system_call.h"

#include <elf.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>

// The clocks are read by the functions that libc's clock_gettime() calls, in the kernel's shared
// object (vDSO). clock_gettime() itself may be another library's: ThreadSanitizer's, which cannot
// be called before ThreadSanitizer has started, or that of a library which simulates time and may
// allocate.
typedef int clock_fn(clockid_t clock, struct timespec *time);

static int clock_by_call(clockid_t clock, struct timespec *time) {
    return (int)sys3(SYS_clock_gettime, clock, (long)time, 0);
}

// Returns the function `name` of the kernel's object with the header `ehdr`, or NULL if there is
// none.
static clock_fn *find_clock(const Elf64_Ehdr *ehdr, const char *name) {
    const char *base = (const char *)ehdr;
    const Elf64_Phdr *segments = (const Elf64_Phdr *)(base + ehdr->e_phoff);
    const Elf64_Dyn *at = NULL;
    const char *moved = NULL; // what addresses in the object are relative to
    for (int i = 0; i < ehdr->e_phnum; i++) {
        if (segments[i].p_type == PT_LOAD && moved == NULL) {
            moved = base + segments[i].p_offset - segments[i].p_vaddr;
        } else if (segments[i].p_type == PT_DYNAMIC) {
            at = (const Elf64_Dyn *)(base + segments[i].p_offset);
        }
    }
    const Elf64_Sym *symbols = NULL;
    const char *strings = NULL;
    const uint32_t *hash = NULL;
    for (; moved != NULL && at != NULL && at->d_tag != DT_NULL; at++) {
        const char *address = moved + at->d_un.d_ptr;
        if (at->d_tag == DT_SYMTAB) {
            symbols = (const Elf64_Sym *)address;
        } else if (at->d_tag == DT_STRTAB) {
            strings = address;
        } else if (at->d_tag == DT_HASH) {
            hash = (const uint32_t *)address;
        }
    }
    if (symbols == NULL || strings == NULL || hash == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < hash[1]; i++) {
        if (symbols[i].st_shndx != SHN_UNDEF && strcmp(strings + symbols[i].st_name, name) == 0) {
            return (clock_fn *)(uintptr_t)(moved + symbols[i].st_value);
        }
    }
    return NULL;
}

static void read_clock(clockid_t clock, struct timespec *time) {
    static _Atomic(clock_fn *) known;
    clock_fn *fn = atomic_load_explicit(&known, memory_order_relaxed);
    if (fn == NULL) {
        const Elf64_Ehdr *ehdr = (const Elf64_Ehdr *)getauxval(AT_SYSINFO_EHDR);
        fn = ehdr == NULL ? NULL : find_clock(ehdr, "__vdso_clock_gettime");
        fn = fn == NULL ? clock_by_call : fn;
        atomic_store_explicit(&known, fn, memory_order_relaxed);
    }
    if ((fn != clock_by_call || !sandbox_is_strict()) && fn(clock, time) != 0) {
        clock_by_call(clock, time);
    }
}

// Reads the clock `exact`. If the process may not read the time-stamp counter, which `exact` reads,
// reads `coarse` instead, a clock of the same kind.
static uint64_t read_ns(clockid_t exact, clockid_t coarse) {
    struct timespec t = {0, 0};
    read_clock(sandbox_has_no_counter() ? coarse : exact, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t os_now_ms(void) {
    struct timespec t = {0, 0};
    read_clock(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t os_now_ns(void) {
    return read_ns(CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE);
}

uint64_t os_wall_ns(void) {
    return read_ns(CLOCK_REALTIME, CLOCK_REALTIME_COARSE);
}
