// SPDX-License-Identifier: Apache-2.0
// The Linux kernel behind os.h. Calls that take nothing away are system calls as such: they are to
// work while the dynamic linker has not bound libc's functions yet. The others are libc's.
#include "backends/os.h"

#include "backends/linux/sandbox.h"
#include "boxes/base/base.h"
#include "boxes/cpu/cpu.h"

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
#include <time.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#    define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MREMAP_DONTUNMAP
#    define MREMAP_DONTUNMAP 4
#endif

static _Atomic uint64_t calls;

static long sys6(long nr, long a, long b, long c, long d, long e, long f) {
    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    return cpu_syscall(nr, a, b, c, d, e, f);
}

static long sys3(long nr, long a, long b, long c) {
    return sys6(nr, a, b, c, 0, 0, 0);
}

static bool is_error(long ret) {
    return (unsigned long)ret > -4096UL;
}

// What a filter answers that does not kill; the kernel has no such answer for the calls here.
static bool is_refused(long ret) {
    return ret == -EPERM || ret == -ENOSYS || ret == -EACCES;
}

// --- Calls outside

// The frame from which the calling thread has gone outside; NULL if it has not. And when it was
// first seen there; 0: never.
static __thread char *outside_frame __attribute__((tls_model("initial-exec")));
static __thread uint64_t seen_ms __attribute__((tls_model("initial-exec")));
static const struct os_around *_Atomic around;

void os_around_calls(const struct os_around *what) {
    atomic_store(&around, what);
}

// Who runs above the frame of the call on the same stack has left it by a jump. The time tells that
// from a signal handler's stack, or another one that something outside runs on for a moment; and
// from a call that lasts, where deeper frames have followed the jump.
static __attribute__((noinline)) bool is_still_outside(void) {
    enum { LEFT_ABOVE_MS = 1000, LEFT_BELOW_MS = 60000 };
    uint64_t now = os_now_ms();
    seen_ms = seen_ms == 0 ? now : seen_ms;
    bool below = (char *)__builtin_frame_address(0) < outside_frame;
    if (now - seen_ms < (below ? LEFT_BELOW_MS : LEFT_ABOVE_MS)) {
        return true;
    }
    outside_frame = NULL;
    return false;
}

// The common answer takes no stack.
bool os_is_outside(void) {
    return outside_frame != NULL && is_still_outside();
}

struct way_out {
    bool nested;
    int saved_errno;
    const struct os_around *around; // the same on the way back; NULL: nothing
};

static struct way_out go_outside(void) {
    struct way_out way = {os_is_outside(), errno, NULL};
    if (!way.nested) {
        outside_frame = __builtin_frame_address(0);
        seen_ms = 0;
        way.around = atomic_load(&around);
        if (way.around != NULL) {
            way.around->before();
        }
    }
    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    return way;
}

// `ret` is what libc's function returned, -1 for an error. Returns what the kernel did.
static long come_back(struct way_out way, long ret) {
    ret = ret == -1 ? -errno : ret;
    if (!way.nested) {
        if (way.around != NULL) {
            way.around->after();
        }
        outside_frame = NULL;
    }
    errno = way.saved_errno;
    return ret;
}

enum { ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE };

static long map_over(void *at, size_t size, int prot) {
    struct way_out way = go_outside();
    return come_back(way, (long)mmap(at, size, prot, ANONYMOUS | MAP_FIXED, -1, 0));
}

static long unmap(void *at, size_t size) {
    struct way_out way = go_outside();
    return come_back(way, munmap(at, size));
}

static long drop_pages(void *at, size_t size) {
    struct way_out way = go_outside();
    return come_back(way, madvise(at, size, MADV_DONTNEED));
}

static long move_pages(void *from, void *to, size_t size) {
    const int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    struct way_out way = go_outside();
    return come_back(way, (long)mremap(from, size, size, flags, to));
}

// --- Mappings

// Takes back what nothing has been written to. Where munmap() must not be called its addresses stay
// reserved.
static void cancel(void *at, size_t size) {
    if (sandbox_now() < SANDBOX_OWN) {
        sys3(SYS_munmap, (long)at, (long)size, 0);
    } else {
        sys6(SYS_mmap, (long)at, (long)size, PROT_NONE, ANONYMOUS | MAP_FIXED, -1, 0);
    }
}

// Bytes that have been made writable at given addresses; what is committed twice counts twice.
static _Atomic size_t committed;

static void count_committed(size_t size) {
    atomic_fetch_add_explicit(&committed, size, memory_order_relaxed);
}

static enum os_result map_without_tls(void *at, size_t size, int prot, void **got) {
    int flags = ANONYMOUS;
    if (at != NULL) {
        flags |= MAP_FIXED_NOREPLACE;
    }
    long ret = sys6(SYS_mmap, (long)at, (long)size, prot, flags, -1, 0);
    if (is_error(ret)) {
        return ret == -EEXIST ? OS_TAKEN : OS_NO_MEMORY;
    }
    if (at != NULL && ret != (long)at) { // kernels before 4.17 take the address as a hint
        cancel((void *)ret, size);
        return OS_TAKEN;
    }
    if (got != NULL) {
        *got = (void *)ret;
    }
    return OS_OK;
}

static enum os_result map(void *at, size_t size, int prot, void **got) {
    return sandbox_is_strict() ? OS_NO_MEMORY : map_without_tls(at, size, prot, got);
}

// Maps a range that the kernel may have unmapped before it found that it cannot map it afresh: all
// of it, or nothing. A refusal does not tell whether it has: at the limit of mappings it has not,
// and for want of memory it has, and may have some the next time. False if the range is as it was.
static bool map_again(void *at, size_t size, int prot) {
    enum { TIMES = 1000 };
    enum os_result again;
    for (int i = 0; i < TIMES && (again = map(at, size, prot, NULL)) == OS_NO_MEMORY; i++) {
    }
    return again == OS_OK; // "taken": by what was there
}

// Replaces a range by one fresh mapping. OS_NO_MEMORY: it is as it was. OS_LOST: see os.h.
static enum os_result remap(void *at, size_t size, int prot) {
    if (os_is_outside() || sandbox_is_strict()) {
        return OS_NO_MEMORY;
    }
    if (!is_error(map_over(at, size, prot))) {
        return OS_OK;
    }
    if (sandbox_now() == SANDBOX_OWN) { // which forbids what follows
        return map_again(at, size, prot) ? OS_OK : OS_NO_MEMORY;
    }
    enum os_result again = map(at, size, prot, NULL);
    if (again != OS_NO_MEMORY) {
        return again == OS_OK ? OS_OK : OS_NO_MEMORY;
    }
    // Whether it is mapped cannot be told; so it is unmapped.
    return !is_error(unmap(at, size)) ? OS_LOST : OS_NO_MEMORY;
}

enum os_result os_reserve(void *at, size_t size, void **got) {
    return map(at, size, PROT_NONE, got);
}

enum os_result os_map(void *at, size_t size, void **got) {
    if (at != NULL) {
        count_committed(size);
    }
    return map(at, size, PROT_READ | PROT_WRITE, got);
}

void *os_map_early(size_t size) {
    void *got;
    return map_without_tls(NULL, size, PROT_READ | PROT_WRITE, &got) == OS_OK ? got : NULL;
}

// The same where no mapping can be taken away again: one range of addresses for all questions,
// which threads may ask at the same time.
static enum os_result ask_in_place(size_t size) {
    static _Atomic uintptr_t place;
    const size_t most = (size_t)16 << 40;
    uintptr_t at = atomic_load(&place);
    void *fresh;
    if (at == 0 && map(NULL, most, PROT_NONE, &fresh) == OS_OK) {
        atomic_compare_exchange_strong(&place, &at, (uintptr_t)fresh);
        at = atomic_load(&place);
    }
    if (at == 0 || size > most) {
        return OS_NO_MEMORY;
    }
    long ret = sys6(SYS_mmap, (long)at, (long)size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    cancel((void *)at, size);
    return is_error(ret) ? OS_NO_MEMORY : OS_OK;
}

enum os_result os_would_grant(size_t size) {
    if (sandbox_is_strict()) {
        return OS_NO_MEMORY;
    }
    if (sandbox_now() == SANDBOX_OWN) {
        return ask_in_place(size);
    }
    long ret =
        sys6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (is_error(ret)) {
        return OS_NO_MEMORY;
    }
    cancel((void *)ret, size);
    return OS_OK;
}

static _Atomic(bool) mprotect_refused;

bool os_commits(void) {
    return sandbox_now() < SANDBOX_OWN &&
           !atomic_load_explicit(&mprotect_refused, memory_order_relaxed);
}

enum os_result os_commit(void *at, size_t size) {
    if (sandbox_is_strict()) {
        return OS_NO_MEMORY;
    }
    if (sandbox_now() == SANDBOX_OWN) {
        return OS_TAKEN;
    }
    long ret = sys3(SYS_mprotect, (long)at, (long)size, PROT_READ | PROT_WRITE);
    if (is_refused(ret)) {
        atomic_store_explicit(&mprotect_refused, true, memory_order_relaxed);
        return OS_TAKEN;
    }
    if (is_error(ret)) {
        return OS_NO_MEMORY;
    }
    count_committed(size);
    return OS_OK;
}

enum os_result os_commit_alone(void *at, size_t size) {
    enum os_result result = os_commit(at, size);
    if (result != OS_TAKEN) {
        return result;
    }
    const int rights = PROT_READ | PROT_WRITE;
    if (!is_error(sys6(SYS_mmap, (long)at, (long)size, rights, ANONYMOUS | MAP_FIXED, -1, 0))) {
        count_committed(size);
        return OS_OK;
    }
    map(at, size, PROT_NONE, NULL); // where the kernel has unmapped it
    return OS_NO_MEMORY;
}

enum os_result os_protect(void *at, size_t size, bool write, bool execute) {
    int rights = PROT_READ | (write ? PROT_WRITE : 0) | (execute ? PROT_EXEC : 0);
    return is_error(sys3(SYS_mprotect, (long)at, (long)size, rights)) ? OS_NO_MEMORY : OS_OK;
}

enum os_result os_decommit(void *at, size_t size) {
    return remap(at, size, PROT_READ); // no charge as long as it cannot be written
}

// --- Giving pages back
//
// A range of a mapping that madvise() empties stays a part of it. One that is replaced by mmap()
// takes two to seven times as long, and merges with what is around it only where that has not been
// inherited from a parent or advised huge pages.

static _Atomic(bool) madvise_refused;
static _Atomic(bool) unmergeable;

static bool can_madvise(void) {
    return !atomic_load_explicit(&madvise_refused, memory_order_relaxed) &&
           sandbox_allows_madvise();
}

static bool is_madvise_refused(long ret) {
    if (is_refused(ret)) {
        atomic_store_explicit(&madvise_refused, true, memory_order_relaxed);
        return true;
    }
    return false;
}

void os_forked(void) {
    atomic_store_explicit(&unmergeable, true, memory_order_relaxed);
}

bool os_purges_in_place(void) {
    return can_madvise();
}

size_t os_least_purge(void) {
    enum { PAGE = 4096, RANGES = 8192 };
    if (can_madvise() || !atomic_load_explicit(&unmergeable, memory_order_relaxed)) {
        return PAGE;
    }
    size_t share = atomic_load_explicit(&committed, memory_order_relaxed) / RANGES;
    return share < PAGE ? PAGE : share;
}

enum os_result os_purge(void *at, size_t size) {
    if (os_is_outside() || sandbox_is_strict()) {
        return OS_NO_MEMORY;
    }
    if (can_madvise()) {
        long ret = drop_pages(at, size);
        if (!is_madvise_refused(ret)) {
            return is_error(ret) ? OS_NO_MEMORY : OS_OK;
        }
    }
    if (size < os_least_purge()) {
        return OS_NO_MEMORY;
    }
    const int rights = PROT_READ | PROT_WRITE;
    if (!is_error(map_over(at, size, rights))) {
        return OS_OK;
    }
    return map_again(at, size, rights) ? OS_OK : OS_NO_MEMORY;
}

enum os_result os_purge_ranges(const struct os_range *ranges, size_t count) {
    enum os_result result = OS_OK;
    for (size_t i = 0; i < count; i++) {
        if (os_purge(ranges[i].at, ranges[i].size) != OS_OK) {
            result = OS_NO_MEMORY;
        }
    }
    return result;
}

enum os_result os_refresh(void *at, size_t size) {
    return remap(at, size, PROT_READ | PROT_WRITE);
}

static bool can_move(size_t size) {
    const size_t mapped_by_libc = (size_t)32
                                  << 20; // each block of that size, whatever its settings
    enum sandbox sandbox = sandbox_now();
    return sandbox == SANDBOX_NONE || (sandbox == SANDBOX_INHERITED && size >= mapped_by_libc);
}

enum os_result os_move(void *from, void *to, size_t size) {
    if (!can_move(size) || os_is_outside() || sandbox_is_strict()) {
        return OS_NO_MEMORY;
    }
    // The kernel unmaps `to` before it finds that a resource limit is reached, and could then not
    // map it again: so the limit is asked first, with a mapping of that size.
    void *room;
    if (os_map(NULL, size, &room) != OS_OK) {
        return OS_NO_MEMORY;
    }
    cancel(room, size);
    if (is_error(move_pages(from, to, size))) {
        // The kernel may have unmapped `to` before it found out that it cannot: kernels before 6.17
        // refuse a source of several mappings that late. OS_TAKEN here says that it has not.
        return os_map(to, size, NULL) == OS_NO_MEMORY ? OS_LOST : OS_NO_MEMORY;
    }
    return OS_OK;
}

void os_release(void *at, size_t size) {
    if (sandbox_is_strict() || (sandbox_now() < SANDBOX_OWN && !is_refused(unmap(at, size)))) {
        return;
    }
    map_over(at, size, PROT_NONE);
}

void os_huge_pages(void *at, size_t size, bool on) {
    if (!can_madvise() || sandbox_is_strict()) {
        return;
    }
    int advice = on ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
    if (!is_madvise_refused(sys3(SYS_madvise, (long)at, (long)size, advice)) && on) {
        atomic_store_explicit(&unmergeable, true, memory_order_relaxed);
    }
}

// *last: what was said of it before.
static size_t limit_of(int resource, _Atomic size_t *last) {
    if (sandbox_now() == SANDBOX_OWN || sandbox_is_strict()) {
        return atomic_load_explicit(last, memory_order_relaxed);
    }
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    long ret = sys6(SYS_prlimit64, 0, resource, 0, (long)&limit, 0, 0);
    bool none = is_error(ret) || limit.rlim_cur == RLIM_INFINITY;
    size_t bytes = none ? SIZE_MAX : (size_t)limit.rlim_cur;
    atomic_store_explicit(last, bytes, memory_order_relaxed);
    return bytes;
}

size_t os_address_limit(void) {
    static _Atomic size_t last = SIZE_MAX;
    return limit_of(RLIMIT_AS, &last);
}

size_t os_data_limit(void) {
    static _Atomic size_t last = SIZE_MAX;
    return limit_of(RLIMIT_DATA, &last);
}

static size_t number_at(const char *text, size_t length) {
    size_t value = 0;
    for (size_t i = 0; i < length && text[i] >= '0' && text[i] <= '9'; i++) {
        value = value * 10 + (size_t)(text[i] - '0');
    }
    return value;
}

size_t os_most_mappings(void) {
    enum { PRESET = 65530 };
    static _Atomic size_t known;
    size_t most = atomic_load_explicit(&known, memory_order_relaxed);
    if (most == 0 && sandbox_now() < SANDBOX_OWN && !sandbox_is_strict()) {
        char text[24];
        size_t length = os_read_file("/proc/sys/vm/max_map_count", text, sizeof text);
        most = length == 0 ? PRESET : number_at(text, length);
        atomic_store_explicit(&known, most, memory_order_relaxed);
    }
    return most == 0 ? PRESET : most;
}

// A call that neither libc's malloc makes nor the program needs is left out in any sandbox.
static bool is_free_to_call(void) {
    return sandbox_now() == SANDBOX_NONE && !sandbox_is_strict();
}

static bool has_swap(void) {
    struct sysinfo info;
    return is_error(sys3(SYS_sysinfo, (long)&info, 0, 0)) || info.totalswap != 0;
}

// Swap that is there neither before nor after the look was not there in between: all of that is far
// too short for anyone to add some, page this process out, and take it away again.
bool os_touched(const void *at, size_t size, unsigned char *pages) {
    return is_free_to_call() && !has_swap() &&
           !is_error(sys3(SYS_mincore, (long)at, (long)size, (long)pages)) && !has_swap();
}

// From a file, as a sandbox that was there before the start may not have sysinfo().
size_t os_physical_memory(void) {
    static const char field[] = "MemTotal:";
    char text[64];
    size_t length = os_read_file("/proc/meminfo", text, sizeof text);
    if (length < sizeof field || memcmp(text, field, sizeof field - 1) != 0) {
        struct sysinfo info = {0};
        bool known = !is_error(sys3(SYS_sysinfo, (long)&info, 0, 0));
        return known ? (size_t)info.totalram * info.mem_unit : 0;
    }
    size_t i = sizeof field - 1;
    while (i < length && text[i] == ' ') {
        i++;
    }
    return number_at(text + i, length - i) * 1024;
}

// The half, 0 or 1, of what the kernel gave the process at its start.
static uint64_t random_half(unsigned half) {
    const unsigned char *bytes = (const unsigned char *)getauxval(AT_RANDOM);
    uint64_t value = 0;
    for (unsigned i = half * 8; bytes != NULL && i < half * 8 + 8; i++) {
        value = value << 8 | bytes[i];
    }
    return value;
}

// Mixed, so that what is made of the kernel's bytes does not disclose them.
uint64_t os_random(void) {
    return hak_mix(random_half(1)); // The first one seeds libc's stack protector.
}

uint64_t os_secret(unsigned number) {
    // Both halves are in each, so that neither what is known of where the heap lies nor the stack
    // protector's word is enough.
    uint64_t value = hak_mix(random_half(0) + HAK_GOLDEN * (number + 1));
    return hak_mix(value ^ hak_mix(random_half(1) ^ 0xd1b54a32d192ed03u * (number + 1)));
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
    // As the dynamic linker does, so that it may be done at the start in any sandbox.
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

// The kernel reads the set of signals before it finds out that there is no such way to change them.
bool os_can_read(const void *page) {
    enum { NO_SUCH_WAY = ~0, SET_BYTES = 8 };
    return is_free_to_call() &&
           sys6(SYS_rt_sigprocmask, NO_SUCH_WAY, (long)page, 0, SET_BYTES, 0, 0) == -EINVAL;
}

int os_process(void) {
    return is_free_to_call() ? (int)sys3(SYS_getpid, 0, 0, 0) : 0;
}

int os_thread(void) {
    return is_free_to_call() ? (int)sys3(SYS_gettid, 0, 0, 0) : 0;
}

enum os_result os_forbid(void *at, size_t size) {
    return is_error(map_over(at, size, PROT_NONE)) ? OS_NO_MEMORY : OS_OK;
}

uint64_t os_wall_ns(void) {
    struct timespec t = {0, 0};
    read_clock(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

size_t os_peak_memory(void) {
    struct rusage usage = {0};
    bool known = is_free_to_call() && !is_error(sys3(SYS_getrusage, RUSAGE_SELF, (long)&usage, 0));
    return known ? (size_t)usage.ru_maxrss * 1024 : 0;
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

// Whether something says that the process runs in a container: its runtime's mark, in the file
// system or in the environment.
static bool is_in_container(void) {
    static const char *const marks[] = {"container=", "KUBERNETES_SERVICE_HOST="};
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
        for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
            if (strncmp(*entry, marks[i], strlen(marks[i])) == 0) {
                return true;
            }
        }
    }
    long fd = sys6(SYS_openat, AT_FDCWD, (long)"/.dockerenv", O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (!is_error(fd)) {
        sys3(SYS_close, fd, 0, 0);
    }
    return !is_error(fd);
}

void os_start(enum os_calls_allowed allowed) {
    const enum sandbox_how hows[] = {
        [OS_FREE] = SANDBOX_IGNORE,
        [OS_SANDBOXED] = SANDBOX_ASSUME,
        [OS_FIND_OUT] = SANDBOX_FIND_OUT,
    };
    // Not on the stack: a program's first one may be of 16 KiB, as ulimit -s can have it.
    static char own_bytes[SANDBOX_STATUS], init_bytes[SANDBOX_STATUS];
    struct sandbox_text own = {own_bytes, 0}, init = {init_bytes, 0};
    if (allowed == OS_FIND_OUT) {
        own.length = os_read_file("/proc/self/status", own_bytes, sizeof own_bytes);
        // Most processes have no filter, and nothing more is looked at.
        if (sandbox_is_filtered(own) && is_in_container()) {
            init.length = os_read_file("/proc/1/status", init_bytes, sizeof init_bytes);
        }
    }
    sandbox_start(hows[allowed], own, init);
}

void os_thread_ends(void) {
    outside_frame = NULL; // a thread that ends within a call has left it
    sandbox_thread_ends();
}
