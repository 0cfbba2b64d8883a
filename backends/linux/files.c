// SPDX-License-Identifier: Apache-2.0
// Files, and messages on stderr.
#include "backends/os.h"

#include "backends/linux/system_call.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

size_t os_read_file(const char *path, char *buf, size_t size) {
    // The dynamic linker uses this system call, too, so any sandbox allows it at a program's start.
    long fd = sys6(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (is_error(fd)) {
        return 0;
    }
    size_t got = 0;
    while (got < size) {
        long ret = sys3(SYS_read, fd, (long)(buf + got), (long)(size - got));
        if (ret == -EINTR) {
            continue;
        }
        if (ret <= 0) {
            break;
        }
        got += (size_t)ret;
    }
    sys3(SYS_close, fd, 0, 0);
    return got;
}

int os_create_file(const char *path) {
    long fd = sys6(SYS_openat, AT_FDCWD, (long)path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666,
                   0, 0);
    return is_error(fd) ? -1 : (int)fd;
}

bool os_write_file(int file, const void *bytes, size_t size) {
    const char *at = bytes;
    while (size > 0) {
        long ret = sys3(SYS_write, file, (long)at, (long)size);
        if (ret == -EINTR) {
            continue;
        }
        if (ret <= 0) {
            return false;
        }
        at += ret;
        size -= (size_t)ret;
    }
    return true;
}

void os_close_file(int file) {
    sys3(SYS_close, file, 0, 0);
}

bool os_rename_file(const char *from, const char *to) {
    return !is_error(sys6(SYS_renameat, AT_FDCWD, (long)from, AT_FDCWD, (long)to, 0, 0));
}

const void *os_map_file(const char *path, size_t *size) {
    long fd = sys6(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (is_error(fd)) {
        return NULL;
    }
    struct stat file;
    long at = -EINVAL;
    if (!is_error(sys3(SYS_fstat, fd, (long)&file, 0)) && S_ISREG(file.st_mode) &&
        file.st_size > 0) {
        at = sys6(SYS_mmap, 0, file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        *size = (size_t)file.st_size;
    }
    sys3(SYS_close, fd, 0, 0);
    return is_error(at) ? NULL : (const void *)at;
}

// Returns true if a limit on files (RLIMIT_FSIZE), beyond which a write would end the process,
// allows a file of so many bytes.
static bool may_be_so_long(uint64_t bytes) {
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    return !is_error(sys6(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, (long)&limit, 0, 0)) &&
           bytes <= limit.rlim_cur;
}

// Writes zeros instead of leaving a hole: if there is no room for them the write fails, while a
// hole would let a later store to the mapping fail by a signal.
static bool write_zeros(long fd, uint64_t offset, size_t size) {
    static const char zeros[4096];
    for (size_t done = 0; done < size; done += sizeof zeros) {
        if (sys6(SYS_pwrite64, fd, (long)zeros, sizeof zeros, (long)(offset + done), 0, 0) !=
            (long)sizeof zeros) {
            return false;
        }
    }
    return true;
}

void *os_map_part(const char *path, uint64_t offset, size_t size) {
    if (!is_free_to_call() || !may_be_so_long(offset + size)) {
        return NULL;
    }
    long fd = sys6(SYS_openat, AT_FDCWD, (long)path, O_RDWR | O_CLOEXEC, 0, 0, 0);
    if (is_error(fd)) {
        return NULL;
    }
    long at = -ENOSPC;
    if (write_zeros(fd, offset, size)) {
        at = sys6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (long)offset);
    }
    sys3(SYS_close, fd, 0, 0);
    return is_error(at) ? NULL : (void *)at;
}

static _Atomic(long) kept_stderr = -1;

// The identity of the file that was kept; set before kept_stderr. If the program has opened another
// file under that number meanwhile, that file's identity differs.
static struct stat kept_file;

void os_keep_stderr(void) {
    enum { OUT_OF_THE_WAY = 64 }; // programs use low descriptors by number
    long ret = sys3(SYS_fcntl, 2, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
    if (is_error(ret) || is_error(sys3(SYS_fstat, ret, (long)&kept_file, 0))) {
        return;
    }
    atomic_store_explicit(&kept_stderr, ret, memory_order_release);
}

static bool is_kept_file(long fd) {
    struct stat file;
    return !is_error(sys3(SYS_fstat, fd, (long)&file, 0)) && file.st_dev == kept_file.st_dev &&
           file.st_ino == kept_file.st_ino;
}

// Returns the descriptor to write to, or -1 if stderr was kept and is gone.
static long stderr_now(void) {
    long kept = atomic_load_explicit(&kept_stderr, memory_order_acquire);
    if (kept < 0) {
        return 2;
    }
    if (is_kept_file(kept)) {
        return kept;
    }
    return is_kept_file(2) ? 2 : -1; // The program has closed a descriptor that it did not open.
}

// Writes without a signal. A write to a pipe without a reader should fail, and not send SIGPIPE,
// which would end a program that wrote nothing itself.
static long write_quietly(long to, const char *text, size_t size) {
    uint64_t broken_pipe = UINT64_C(1) << (SIGPIPE - 1);
    uint64_t before = 0;
    uint64_t pending = 0;
    sys6(SYS_rt_sigprocmask, SIG_BLOCK, (long)&broken_pipe, (long)&before, sizeof before, 0, 0);
    sys3(SYS_rt_sigpending, (long)&pending, sizeof pending, 0);
    long ret = sys3(SYS_write, to, (long)text, (long)size);
    if (ret == -EPIPE && (pending & broken_pipe) == 0) {
        const struct timespec now = {0, 0};
        sys6(SYS_rt_sigtimedwait, (long)&broken_pipe, 0, (long)&now, sizeof broken_pipe, 0, 0);
    }
    sys6(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, sizeof before, 0, 0);
    return ret;
}

void os_write_stderr(const char *text, size_t size) {
    long to = stderr_now();
    while (to >= 0 && size > 0) {
        long ret = write_quietly(to, text, size);
        if (ret == -EINTR) {
            continue;
        }
        if (ret <= 0) {
            return;
        }
        text += ret;
        size -= (size_t)ret;
    }
}
