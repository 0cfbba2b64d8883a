// SPDX-License-Identifier: Apache-2.0
// sandbox: which system calls a seccomp filter may stand against, and how the backend gets to know.
//
// A filter that kills cannot be asked, and a call that tells whether there is one may be forbidden
// itself. So nothing is tried: a filter that the process was started with is found in
// /proc/self/status before main(), with calls that the dynamic linker has made by then, and one
// that the process gives itself is seen as it does so, by way of libc's prctl() and syscall(),
// which this box exports and which pass everything on. A system call instruction of the program's
// own is not seen.
//
// Thread-safe, async-signal-safe; allocates nothing. errno is kept, but by the two exported calls,
// which are as libc's.
#ifndef HAKMEM_BACKENDS_LINUX_SANDBOX_H
#define HAKMEM_BACKENDS_LINUX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum sandbox {
    SANDBOX_NONE,      // every call can be made
    SANDBOX_INHERITED, // those that a program's start makes can: mmap, munmap, mprotect, openat
    SANDBOX_OWN,       // mmap alone, without which there is no allocator
};

// The kind of sandbox, as far as it is known. Only ever rises.
enum sandbox sandbox_now(void);

// True if the calling thread is in seccomp's strict mode, in which even mmap() kills.
bool sandbox_is_strict(void);

// True if the process may not read the processor's time-stamp counter, as a thread in strict mode
// may not: the kernel's exact clocks read it. A process that is allowed to again stays so.
bool sandbox_has_no_counter(void);

// True if madvise() can be called: where there is no sandbox, and in an inherited one once a thread
// has ended, as libc calls it for the stack of each.
bool sandbox_allows_madvise(void);

struct sandbox_text {
    const char *bytes;
    size_t length;
};

// True if the text of /proc/PID/status (its first SANDBOX_STATUS bytes; none if the file cannot be
// read) says that the process has a filter, or does not say.
enum { SANDBOX_STATUS = 4096 };
bool sandbox_is_filtered(struct sandbox_text status);

// To be called once, before main(): says that there is never a sandbox, that there is one of the
// process's own, or that it is to be read in `own`, the text of the process itself. `init` is that
// of process 1 in a container, and empty elsewhere: filters that all processes of a container have
// are the container's. They refuse calls that change the machine, and none of those that are made
// here: they do not count.
enum sandbox_how { SANDBOX_IGNORE, SANDBOX_ASSUME, SANDBOX_FIND_OUT };
void sandbox_start(enum sandbox_how how, struct sandbox_text own, struct sandbox_text init);

// Sets what is called right before the process takes on a sandbox of its own (SANDBOX_OWN), by any
// number of threads at a time: all calls that could be made until now still can. NULL: nothing.
void sandbox_before(void (*what)(void));

// True in a sandbox of the process's own, and from before the above is called for it.
bool sandbox_is_own_soon(void);

// A thread of the process is about to end.
void sandbox_thread_ends(void);

#ifdef __cplusplus
}
#endif

#endif
