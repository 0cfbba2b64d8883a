// SPDX-License-Identifier: Apache-2.0
// Preloaded behind an allocator: each process appends a line to $PRELOAD_PROBE when it exits, and
// some when it starts threads, that say whose heap its memory came from:
//
//     PROGRAM PID GLIBC_BYTES REFILLS SERVED_BY
//
// GLIBC_BYTES is what glibc's own malloc has taken from the kernel, 0 if the process never reached
// it. REFILLS is hakmem's count of refilled caches, -1 if the allocator in front is not hakmem.
// The lines of threads are for a process that ends by a bare system call, as Go's do, or is killed.
// That an allocator is mapped, or that its malloc is bound, would prove less: a program can bring
// its own, or reach libc's by another way.
#include "boxes/statistics/statistics.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct mallinfo2 (*glibc_mallinfo2)(void);
static void (*hakmem_stats)(struct hak_stats *);
static int (*next_pthread_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
static const char *served_by = "libc.so.6";
static char path[4096], program[256];
static pid_t reported; // a fork that happens in an exit handler is a process of its own

static int find_libc(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    static const char wanted[] = "/libc.so.6";
    size_t length = strlen(info->dlpi_name);
    if (length < sizeof wanted ||
        strcmp(info->dlpi_name + length - (sizeof wanted - 1), wanted) != 0) {
        return 0;
    }
    *(struct dl_phdr_info *)arg = *info;
    return 1;
}

// glibc's own mallinfo2(), from the symbols in libc's file: an allocator may have made those in
// memory lead to itself, so that dlsym() finds the same functions everywhere.
static void *find_mallinfo2(void) {
    struct dl_phdr_info libc;
    struct stat status;
    void *found = NULL;
    if (dl_iterate_phdr(find_libc, &libc) == 0) {
        return NULL;
    }
    int fd = open(libc.dlpi_name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        return NULL;
    }
    const char *file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (file == MAP_FAILED) {
        return NULL;
    }
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)file;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(file + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        const Elf64_Sym *symbols = (const Elf64_Sym *)(file + sections[i].sh_offset);
        if (sections[i].sh_type != SHT_DYNSYM) {
            continue;
        }
        const char *names = file + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 0; k < sections[i].sh_size / sizeof *symbols; k++) {
            if (strcmp(names + symbols[k].st_name, "mallinfo2") == 0) {
                found = (void *)(libc.dlpi_addr + symbols[k].st_value);
            }
        }
    }
    munmap((void *)file, (size_t)status.st_size);
    return found;
}

// Looked up early: at exit, a loader's lock could be held by a thread that is stuck.
static __attribute__((constructor)) void start(void) {
    const char *to = getenv("PRELOAD_PROBE");
    snprintf(path, sizeof path, "%s", to == NULL ? "" : to);
    // Now, because a sandbox may end a process for the call.
    char executable[4096];
    ssize_t length = readlink("/proc/self/exe", executable, sizeof executable - 1);
    executable[length < 0 ? 0 : length] = '\0';
    const char *name = strrchr(executable, '/');
    snprintf(program, sizeof program, "%.200s", name == NULL ? "?" : name + 1);
    *(void **)&glibc_mallinfo2 = find_mallinfo2();
    *(void **)&next_pthread_create = dlsym(RTLD_NEXT, "pthread_create");
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

static void append_record(void) {
    if (path[0] == '\0' || glibc_mallinfo2 == NULL) {
        return;
    }
    long long refills = -1;
    if (hakmem_stats != NULL) {
        struct hak_stats stats;
        hakmem_stats(&stats);
        refills = (long long)stats.refills;
    }
    struct mallinfo2 glibc = glibc_mallinfo2();
    char line[512];
    int n = snprintf(line, sizeof line, "%.200s %d %zu %lld %.200s\n", program, (int)getpid(),
                     glibc.arena + glibc.hblkhd, refills, served_by);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, line, (size_t)n) != n) {
            static const char message[] = "probe: cannot write\n";
            (void)!write(2, message, sizeof message - 1);
        }
        close(fd);
    }
}

static __attribute__((destructor)) void report(void) {
    if (reported != getpid()) {
        reported = getpid();
        append_record();
    }
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start_routine)(void *),
                   void *arg) {
    static unsigned threads;
    unsigned before = __atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED);
    if ((before & (before + 1)) == 0) { // the first, second, fourth, eighth ...
        int error = errno;
        append_record();
        errno = error;
    }
    if (next_pthread_create == NULL) { // a constructor that ran before ours
        *(void **)&next_pthread_create = dlsym(RTLD_NEXT, "pthread_create");
    }
    return next_pthread_create(thread, attr, start_routine, arg);
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
