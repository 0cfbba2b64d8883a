// SPDX-License-Identifier: Apache-2.0
// sandbox: finds out which system calls a seccomp filter may forbid.
//
// A filter that kills cannot be probed, and the call that asks for filters may be forbidden itself.
// So nothing is tried. Filters that the process was started with are found in /proc/self/status
// before main(), by calls that the dynamic linker has made already. Filters that the process
// installs itself are seen because this box exports prctl() and syscall(), which pass every call on
// to libc. System call instructions of the program's own are not seen.
//
// Thread-safe, async-signal-safe; allocates nothing. Keeps errno, except in the two exported calls,
// which set errno as libc's do.
#ifndef HAKMEM_BACKENDS_LINUX_SANDBOX_H
#define HAKMEM_BACKENDS_LINUX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum sandbox {
    SANDBOX_NONE,      // every call can be made
    SANDBOX_INHERITED, // calls that a program's start makes can: mmap, munmap, mprotect, openat
    SANDBOX_OWN,       // only mmap can, without which there is no allocator
};

// Returns the kind of sandbox, as far as it is known. The value never falls.
enum sandbox sandbox_now(void);

// Returns true if the calling thread is in seccomp's strict mode, in which even mmap() kills.
bool sandbox_is_strict(void);

// Returns true if the process may not read the processor's time-stamp counter (PR_SET_TSC, strict
// mode), which the kernel's exact clocks read. Stays true if the process may read the counter again
// later.
bool sandbox_has_no_counter(void);

// Returns true if madvise() can be called: if there is no sandbox, and in an inherited sandbox once
// a thread has ended, because libc calls madvise() for the stack of each thread that ends.
bool sandbox_allows_madvise(void);

struct sandbox_text {
    const char *bytes;
    size_t length;
};

// `status` is the text of /proc/PID/status: its first SANDBOX_STATUS bytes, or empty if the file
// cannot be read. Returns true if the text says that the process has a filter, or does not say.
enum { SANDBOX_STATUS = 4096 };
bool sandbox_is_filtered(struct sandbox_text status);

// To be called once, before main(). Says that there is never a sandbox, that the process has a
// sandbox of its own, or that `own`, the process's status text, tells. `init` is the status text of
// process 1 in a container, and empty elsewhere. Filters that all processes of a container have do
// not count: they are the container's, and forbid calls that change the machine and none that are
// made here.
enum sandbox_how { SANDBOX_IGNORE, SANDBOX_ASSUME, SANDBOX_FIND_OUT };
void sandbox_start(enum sandbox_how how, struct sandbox_text own, struct sandbox_text init);

// Sets the function that is called right before the process enters a sandbox of its own
// (SANDBOX_OWN), by any number of threads at a time. The function can make all calls that could be
// made before. NULL: none.
void sandbox_before(void (*what)(void));

// Returns true in a sandbox of the process's own, and already while the function that
// sandbox_before() has set is called.
bool sandbox_is_own_soon(void);

// To be called when a thread of the process is about to end.
void sandbox_thread_ends(void);

#ifdef __cplusplus
}
#endif

#endif
