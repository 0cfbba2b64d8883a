// SPDX-License-Identifier: Apache-2.0
// The calls of os.h on Linux: mappings, and the start. Calls that take no pages away are made as
// system calls, because they have to work before the dynamic linker has bound libc's functions. The
// others are made through libc.
#include "backends/os.h"

#include "backends/linux/sandbox.h"
#include "backends/linux/system_call.h"
#include "boxes/base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#    define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MREMAP_DONTUNMAP
#    define MREMAP_DONTUNMAP 4
#endif

struct os_linux_calls os_linux_calls;

// Returns true for the errors that a seccomp filter usually returns if it does not kill. The kernel
// itself returns none of them for the calls here.
static bool is_refused(long ret) {
    return ret == -EPERM || ret == -ENOSYS || ret == -EACCES;
}

// --- Calls outside

// The frame from which the calling thread has gone outside, or NULL if it has not; and the clock
// when the thread was first seen outside, or 0 if it was not.
static __thread char *outside_frame __attribute__((tls_model("initial-exec")));
static __thread uint64_t seen_ms __attribute__((tls_model("initial-exec")));
static const struct os_around *_Atomic around;

void os_around_calls(const struct os_around *what) {
    atomic_store(&around, what);
}

// A thread that runs above the frame of the call, on the same stack, has left the call by a jump.
// But a thread that has not left it may be on another stack for a moment, such as a signal
// handler's, and a thread that has left it may have called deeper functions since. Time tells these
// cases apart.
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

// For the usual answer, no stack is used.
bool os_is_outside(void) {
    return outside_frame != NULL && is_still_outside();
}

struct way_out {
    bool nested;
    int saved_errno;
    const struct os_around *around; // for the way back, too; NULL: no functions are set
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
    atomic_fetch_add_explicit(&os_linux_calls.count, 1, memory_order_relaxed);
    return way;
}

// `ret` is the result of libc's function, -1 for an error. Returns the kernel's result, a negative
// number for an error.
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

// Unmaps a range that was never written to. In a sandbox that may forbid munmap(), the addresses
// stay reserved.
static void cancel(void *at, size_t size) {
    if (sandbox_now() < SANDBOX_OWN) {
        sys3(SYS_munmap, (long)at, (long)size, 0);
    } else {
        sys6(SYS_mmap, (long)at, (long)size, PROT_NONE, ANONYMOUS | MAP_FIXED, -1, 0);
    }
}

// Bytes that were made writable at given addresses. A range that is committed twice counts twice.
static _Atomic size_t committed;

static void count_committed(size_t size) {
    atomic_fetch_add_explicit(&committed, size, memory_order_relaxed);
}

static enum os_result map_without_tls(void *at, size_t size, int prot, void **got) {
    long ret = -EINVAL;
    if (at != NULL) {
        ret = sys6(SYS_mmap, (long)at, (long)size, prot, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    }
    // An emulated kernel may refuse MAP_FIXED_NOREPLACE. Without that flag, and on kernels before
    // 4.17, which ignore it, the address is a hint.
    if (ret == -EINVAL || ret == -EOPNOTSUPP || ret == -ENOSYS) {
        ret = sys6(SYS_mmap, (long)at, (long)size, prot, ANONYMOUS, -1, 0);
    }
    if (is_error(ret)) {
        return ret == -EEXIST ? OS_TAKEN : OS_NO_MEMORY;
    }
    if (at != NULL && ret != (long)at) { // The kernel has not taken the hint.
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

// Maps a range afresh, all of it or nothing. mmap() may unmap the range before it finds that it
// cannot map the range again, and the error does not tell whether it did: at the limit of mappings
// it did not, and out of memory it did (then the next try may succeed). Returns false if the range
// is as it was.
static bool map_again(void *at, size_t size, int prot) {
    enum { TIMES = 1000 };
    enum os_result again;
    for (int i = 0; i < TIMES && (again = map(at, size, prot, NULL)) == OS_NO_MEMORY; i++) {
    }
    return again == OS_OK; // OS_TAKEN: the old mapping is still there
}

// Replaces a range by one fresh mapping. OS_NO_MEMORY: the range is as it was. OS_LOST: see os.h.
static enum os_result remap(void *at, size_t size, int prot) {
    if (os_is_outside() || sandbox_is_strict()) {
        return OS_NO_MEMORY;
    }
    if (!is_error(map_over(at, size, prot))) {
        return OS_OK;
    }
    if (sandbox_now() == SANDBOX_OWN) { // which may forbid the calls below
        return map_again(at, size, prot) ? OS_OK : OS_NO_MEMORY;
    }
    enum os_result again = map(at, size, prot, NULL);
    if (again != OS_NO_MEMORY) {
        return again == OS_OK ? OS_OK : OS_NO_MEMORY;
    }
    // The range may be mapped or not, and there is no way to tell, so it is unmapped.
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

// As os_would_grant(), in a sandbox in which no mapping can be removed. All questions, of all
// threads at the same time, use one range of addresses.
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
    return !sandbox_is_own_soon() && !atomic_load_explicit(&mprotect_refused, memory_order_relaxed);
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
    map_again(at, size, PROT_NONE); // in case the kernel has unmapped the range
    return OS_NO_MEMORY;
}

enum os_result os_protect(void *at, size_t size, bool write, bool execute) {
    int rights = PROT_READ | (write ? PROT_WRITE : 0) | (execute ? PROT_EXEC : 0);
    return is_error(sys3(SYS_mprotect, (long)at, (long)size, rights)) ? OS_NO_MEMORY : OS_OK;
}

enum os_result os_decommit(void *at, size_t size) {
    return remap(at, size, PROT_READ); // A range that cannot be written is not charged.
}

// --- Giving pages back
//
// A range that madvise() empties stays a part of its mapping. A range that mmap() replaces costs
// two to seven times as much, and merges with its neighbours only if these were not inherited from
// a parent or advised huge pages.

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
    // The kernel unmaps `to` before it finds that a resource limit is reached, and could not map it
    // again then. So a mapping of that size is tried first.
    void *room;
    if (os_map(NULL, size, &room) != OS_OK) {
        return OS_NO_MEMORY;
    }
    cancel(room, size);
    // If `to` is zero, the pages that the kernel has moved to it can be told from the others.
    bool emptied = is_free_to_call() && can_madvise() && !is_error(drop_pages(to, size));
    if (!is_error(move_pages(from, to, size))) {
        return OS_OK;
    }
    // The kernel may have unmapped `to` before it refused: kernels before 6.17 refuse a source of
    // several mappings that late. OS_TAKEN means that `to`, or a part of it, is still mapped.
    enum os_result mapped = os_map(to, size, NULL);
    return mapped == OS_OK          ? OS_NO_MEMORY
           : mapped == OS_NO_MEMORY ? OS_LOST
           : emptied                ? os_linux_move_back(from, to, size)
                                    : OS_NO_MEMORY;
}

void os_release(void *at, size_t size) {
    if (sandbox_is_strict() || (sandbox_now() < SANDBOX_OWN && !is_refused(unmap(at, size)))) {
        return;
    }
    map_over(at, size, PROT_NONE);
}

enum os_result os_unmap(void *at, size_t size) {
    if (sandbox_now() == SANDBOX_OWN || os_is_outside() || sandbox_is_strict()) {
        return OS_NO_MEMORY;
    }
    return is_error(unmap(at, size)) ? OS_NO_MEMORY : OS_OK;
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

void os_dump(void *at, size_t size, bool on) {
    if (can_madvise() && !sandbox_is_strict()) {
        sys3(SYS_madvise, (long)at, (long)size, on ? MADV_DODUMP : MADV_DONTDUMP);
    }
}

enum os_result os_forbid(void *at, size_t size) {
    if (os_is_outside() || sandbox_is_strict()) {
        return OS_NO_MEMORY;
    }
    if (!is_error(map_over(at, size, PROT_NONE))) {
        return OS_OK;
    }
    map_again(at, size, PROT_READ | PROT_WRITE); // in case the kernel has unmapped the range
    return OS_NO_MEMORY;
}

enum os_result os_hide(void *at, size_t size) {
    if (sandbox_is_strict() || !os_commits()) {
        return OS_NO_MEMORY;
    }
    return is_error(sys3(SYS_mprotect, (long)at, (long)size, PROT_NONE)) ? OS_NO_MEMORY : OS_OK;
}

uint64_t os_calls(void) {
    return atomic_load_explicit(&os_linux_calls.count, memory_order_relaxed);
}

// Returns true if the process seems to run in a container: container runtimes leave a mark in the
// file system or in the environment.
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
    // Not on the stack: ulimit -s can make a program's first stack as small as 16 KiB.
    static char own_bytes[SANDBOX_STATUS], init_bytes[SANDBOX_STATUS];
    struct sandbox_text own = {own_bytes, 0}, init = {init_bytes, 0};
    if (allowed == OS_FIND_OUT) {
        own.length = os_read_file("/proc/self/status", own_bytes, sizeof own_bytes);
        // Most processes have no filter; then no other file is read.
        if (sandbox_is_filtered(own) && is_in_container()) {
            init.length = os_read_file("/proc/1/status", init_bytes, sizeof init_bytes);
        }
    }
    sandbox_start(hows[allowed], own, init);
}

void os_before_sandbox(void (*what)(void)) {
    sandbox_before(what);
}

void os_thread_ends(void) {
    outside_frame = NULL; // A thread that ends within a call outside has left that call.
    sandbox_thread_ends();
}
