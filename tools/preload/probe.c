// Preloaded behind an allocator: each process appends one line to $PRELOAD_PROBE when it exits,
// that says whose heap its memory came from:
//
//     PROGRAM PID GLIBC_BYTES REFILLS SERVED_BY
//
// GLIBC_BYTES is what glibc's own malloc has taken from the kernel, 0 if the process never reached
// it. REFILLS is hakmem's count of refilled caches, -1 if the allocator in front is not hakmem.
// That an allocator is mapped, or that its malloc is bound, would prove less: a program can bring
// its own, or reach libc's by another way.
#include "boxes/statistics/statistics.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct mallinfo2 (*glibc_mallinfo2)(void);
static void (*hakmem_stats)(struct hak_stats *);
static const char *served_by = "libc.so.6";
static char path[4096];
static pid_t reported; // a fork that happens in an exit handler is a process of its own

// Looked up early: at exit, a loader's lock could be held by a thread that is stuck.
static __attribute__((constructor)) void start(void) {
    const char *to = getenv("PRELOAD_PROBE");
    snprintf(path, sizeof path, "%s", to == NULL ? "" : to);
    *(void **)&glibc_mallinfo2 = dlsym(RTLD_NEXT, "mallinfo2");
    *(void **)&hakmem_stats = dlsym(RTLD_DEFAULT, "hak_stats");
    Dl_info info;
    // Not malloc: an executable that takes its address has an entry of that name which leads on.
    void *first = dlsym(RTLD_DEFAULT, "malloc_usable_size");
    if (hakmem_stats != NULL) {
        const char *(*flavour)(void);
        *(void **)&flavour = dlsym(RTLD_DEFAULT, "hak_flavour");
        served_by = flavour == NULL ? "hakmem" : flavour();
    } else if (first != NULL && dladdr(first, &info) != 0) {
        const char *slash = strrchr(info.dli_fname, '/');
        served_by = slash == NULL ? info.dli_fname : slash + 1;
    }
}

static __attribute__((destructor)) void report(void) {
    if (reported == getpid() || path[0] == '\0' || glibc_mallinfo2 == NULL) {
        return;
    }
    reported = getpid();
    long long refills = -1;
    if (hakmem_stats != NULL) {
        struct hak_stats stats;
        hakmem_stats(&stats);
        refills = (long long)stats.refills;
    }
    struct mallinfo2 glibc = glibc_mallinfo2();
    char program[4096];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length < 0 ? 0 : length] = '\0';
    const char *slash = strrchr(program, '/');
    char line[512];
    int n =
        snprintf(line, sizeof line, "%.200s %d %zu %lld %.200s\n", slash == NULL ? "?" : slash + 1,
                 (int)getpid(), glibc.arena + glibc.hblkhd, refills, served_by);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, line, (size_t)n) != n) {
            static const char message[] = "probe: cannot write\n";
            (void)!write(2, message, sizeof message - 1);
        }
        close(fd);
    }
}

// These leave without destructors. _exit() is what the others end in.
__attribute__((noreturn)) void _exit(int status) {
    report();
    for (;;) {
        syscall(SYS_exit_group, status);
    }
}

__attribute__((noreturn)) void _Exit(int status) {
    _exit(status);
}
