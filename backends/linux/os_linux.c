// The Linux kernel behind os.h. Raw system calls: libc's wrappers write errno, which free() must
// leave alone, and could be interposed by the program.
#include "backends/os.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <time.h>

#ifndef MAP_FIXED_NOREPLACE
#    define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MREMAP_DONTUNMAP
#    define MREMAP_DONTUNMAP 4
#endif

static _Atomic uint64_t calls;

static long sys6(long nr, long a, long b, long c, long d, long e, long f) {
    long ret;
    // Before the registers are loaded: under a sanitizer it is a function call, which spoils them.
    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

static long sys3(long nr, long a, long b, long c) {
    return sys6(nr, a, b, c, 0, 0, 0);
}

static bool is_error(long ret) {
    return (unsigned long)ret > -4096UL;
}

static enum os_result map(void *at, size_t size, int prot, void **got) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (at != NULL) {
        flags |= MAP_FIXED_NOREPLACE;
    }
    long ret = sys6(SYS_mmap, (long)at, (long)size, prot, flags, -1, 0);
    if (is_error(ret)) {
        return ret == -EEXIST ? OS_TAKEN : OS_NO_MEMORY;
    }
    if (at != NULL && ret != (long)at) { // kernels before 4.17 take the address as a hint
        sys3(SYS_munmap, ret, (long)size, 0);
        return OS_TAKEN;
    }
    if (got != NULL) {
        *got = (void *)ret;
    }
    return OS_OK;
}

static enum os_result remap_fixed(void *at, size_t size, int prot) {
    long ret = sys6(SYS_mmap, (long)at, (long)size, prot,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (!is_error(ret)) {
        return OS_OK;
    }
    // The kernel unmaps a range before it finds out that it cannot map it; all of it, or nothing.
    enum os_result again = map(at, size, prot, NULL);
    if (again != OS_NO_MEMORY) {
        return again == OS_OK ? OS_OK : OS_NO_MEMORY; // "taken": by what was there
    }
    unsigned char resident;
    bool mapped = sys3(SYS_mincore, (long)at, 1, (long)&resident) != -ENOMEM;
    return mapped ? OS_NO_MEMORY : OS_LOST;
}

enum os_result os_reserve(void *at, size_t size, void **got) {
    return map(at, size, PROT_NONE, got);
}

enum os_result os_map(void *at, size_t size, void **got) {
    return map(at, size, PROT_READ | PROT_WRITE, got);
}

void *os_map_early(size_t size) {
    void *got;
    return map(NULL, size, PROT_READ | PROT_WRITE, &got) == OS_OK ? got : NULL;
}

enum os_result os_would_grant(size_t size) {
    long ret =
        sys6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (is_error(ret)) {
        return OS_NO_MEMORY;
    }
    sys3(SYS_munmap, ret, (long)size, 0);
    return OS_OK;
}

enum os_result os_commit(void *at, size_t size) {
    return is_error(sys3(SYS_mprotect, (long)at, (long)size, PROT_READ | PROT_WRITE)) ? OS_NO_MEMORY
                                                                                      : OS_OK;
}

enum os_result os_protect(void *at, size_t size, bool write, bool execute) {
    int rights = PROT_READ | (write ? PROT_WRITE : 0) | (execute ? PROT_EXEC : 0);
    return is_error(sys3(SYS_mprotect, (long)at, (long)size, rights)) ? OS_NO_MEMORY : OS_OK;
}

enum os_result os_decommit(void *at, size_t size) {
    return remap_fixed(at, size, PROT_READ); // no charge as long as it cannot be written
}

enum os_result os_purge(void *at, size_t size) {
    return is_error(sys3(SYS_madvise, (long)at, (long)size, MADV_DONTNEED)) ? OS_NO_MEMORY : OS_OK;
}

enum os_result os_purge_ranges(const struct os_range *ranges, size_t count) {
    // A process may do this to itself since Linux 6.13; asked once.
    static _Atomic(int) cannot;
    enum { SELF = -10001, CALL = 440 };
    _Static_assert(sizeof(struct os_range) == sizeof(struct iovec), "a range is an iovec");
    if (count > 1 && !atomic_load_explicit(&cannot, memory_order_relaxed)) {
        size_t bytes = 0;
        for (size_t i = 0; i < count; i++) {
            bytes += ranges[i].size;
        }
        long ret = sys6(CALL, SELF, (long)ranges, (long)count, MADV_DONTNEED, 0, 0);
        if (!is_error(ret) && (size_t)ret == bytes) {
            return OS_OK;
        }
        if (is_error(ret)) {
            atomic_store_explicit(&cannot, 1, memory_order_relaxed);
        }
    }
    enum os_result result = OS_OK;
    for (size_t i = 0; i < count; i++) {
        if (os_purge(ranges[i].at, ranges[i].size) != OS_OK) {
            result = OS_NO_MEMORY;
        }
    }
    return result;
}

enum os_result os_refresh(void *at, size_t size) {
    return remap_fixed(at, size, PROT_READ | PROT_WRITE);
}

enum os_result os_move(void *from, void *to, size_t size) {
    // The kernel unmaps `to` before it finds that a resource limit is reached, and could then not
    // map it again: so the limit is asked first, with a mapping of that size.
    void *room;
    if (os_map(NULL, size, &room) != OS_OK) {
        return OS_NO_MEMORY;
    }
    os_release(room, size);
    long ret = sys6(SYS_mremap, (long)from, (long)size, (long)size,
                    MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, (long)to, 0);
    if (is_error(ret)) {
        // The kernel may have unmapped `to` before it found out that it cannot: kernels before 6.17
        // refuse a source of several mappings that late. OS_TAKEN here says that it has not.
        return os_map(to, size, NULL) == OS_NO_MEMORY ? OS_LOST : OS_NO_MEMORY;
    }
    return OS_OK;
}

void os_release(void *at, size_t size) {
    sys3(SYS_munmap, (long)at, (long)size, 0);
}

void os_huge_pages(void *at, size_t size, bool on) {
    sys3(SYS_madvise, (long)at, (long)size, on ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

size_t os_address_limit(void) {
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    long ret = sys6(SYS_prlimit64, 0, RLIMIT_AS, 0, (long)&limit, 0, 0);
    return is_error(ret) || limit.rlim_cur == RLIM_INFINITY ? SIZE_MAX : (size_t)limit.rlim_cur;
}

size_t os_physical_memory(void) {
    struct sysinfo info = {0};
    if (is_error(sys3(SYS_sysinfo, (long)&info, 0, 0))) {
        return 0;
    }
    return (size_t)info.totalram * info.mem_unit;
}

uint64_t os_random(void) {
    const unsigned char *bytes = (const unsigned char *)getauxval(AT_RANDOM);
    uint64_t value = 0;
    if (bytes != NULL) {
        // The second half: the first one seeds libc's stack protector.
        for (int i = 8; i < 16; i++) {
            value = value << 8 | bytes[i];
        }
    }
    // Finalizer of splitmix64, so that what is placed with it does not disclose those bytes.
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

// The clocks are read where libc's clock_gettime() reads them, in the kernel's shared object. That
// function may be another's: ThreadSanitizer's, which cannot be called before it has started, or
// that of a library which makes times up, and may allocate.
typedef int clock_fn(clockid_t clock, struct timespec *time);

static int clock_by_call(clockid_t clock, struct timespec *time) {
    return (int)sys3(SYS_clock_gettime, clock, (long)time, 0);
}

// The function of that name in the object of the kernel's whose header is at `ehdr`; NULL if there
// is none.
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
    if (fn(clock, time) != 0) {
        clock_by_call(clock, time);
    }
}

uint64_t os_now_ms(void) {
    struct timespec t = {0, 0};
    read_clock(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t os_now_ns(void) {
    struct timespec t = {0, 0};
    read_clock(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

size_t os_read_file(const char *path, char *buf, size_t size) {
    long fd = sys3(SYS_open, (long)path, O_RDONLY | O_CLOEXEC, 0);
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

static _Atomic(long) kept_stderr = -1;

// Which file that is; set before kept_stderr. What a program has opened under that number meanwhile
// is another one.
static struct stat kept_file;

void os_keep_stderr(void) {
    enum { OUT_OF_THE_WAY = 64 }; // of programs that use the low descriptors by number
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

// The descriptor to write to; -1 if stderr was kept and is gone.
static long stderr_now(void) {
    long kept = atomic_load_explicit(&kept_stderr, memory_order_acquire);
    if (kept < 0) {
        return 2;
    }
    if (is_kept_file(kept)) {
        return kept;
    }
    return is_kept_file(2) ? 2 : -1; // The program has closed what it did not open.
}

// A pipe without a reader is an error, and no signal: that would end a program which had nothing to
// say.
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

uint64_t os_calls(void) {
    return atomic_load_explicit(&calls, memory_order_relaxed);
}
