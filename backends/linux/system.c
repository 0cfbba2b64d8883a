// SPDX-License-Identifier: Apache-2.0
// Questions to the kernel about the process and the machine: limits, memory, numbers.
#include "backends/os.h"

#include "backends/linux/system_call.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

// Returns a limit in bytes, SIZE_MAX if there is none. `last` holds the answer of the last call,
// which is returned in a sandbox that may forbid to ask.
static size_t limit_of(int resource, _Atomic size_t *last) {
    if (sandbox_now() == SANDBOX_OWN || sandbox_is_strict()) {
        return atomic_load_explicit(last, memory_order_relaxed);
    }
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    long ret = sys6(SYS_prlimit64, 0, resource, 0, (long)&limit, 0, 0);
    bool none = is_error(ret) || limit.rlim_cur == RLIM_INFINITY;
    size_t bytes = none ? SIZE_MAX : (size_t)limit.rlim_cur;
    // While a heap grows, its threads ask often, and all threads read the data beside `last`.
    if (atomic_load_explicit(last, memory_order_relaxed) != bytes) {
        atomic_store_explicit(last, bytes, memory_order_relaxed);
    }
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

unsigned os_processors(void) {
    cpu_set_t set;
    if (!is_free_to_call()) {
        return UINT_MAX;
    }
    int saved = errno;
    bool known = sched_getaffinity(0, sizeof set, &set) == 0;
    errno = saved;
    return known ? (unsigned)CPU_COUNT(&set) : UINT_MAX;
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

// `info` is static, because a free on a signal's stack, which is small, may come here. Threads that
// ask at the same time get the same answer.
static __attribute__((noinline)) bool has_swap(void) {
    static struct sysinfo info;
    return is_error(sys3(SYS_sysinfo, (long)&info, 0, 0)) || info.totalswap != 0;
}

bool os_in_memory(const void *at, size_t size, unsigned char *pages) {
    return is_free_to_call() && !is_error(sys3(SYS_mincore, (long)at, (long)size, (long)pages));
}

// Swap that exists neither before nor after the look did not exist in between: a look is too short
// for swap to be added, this process to be paged out, and the swap to be removed.
bool os_touched(const void *at, size_t size, unsigned char *pages) {
    return is_free_to_call() && !has_swap() && os_in_memory(at, size, pages) && !has_swap();
}

bool os_is_absent(const void *page) {
    unsigned char in_memory;
    return os_in_memory(page, HAK_PAGE, &in_memory) && in_memory == 0;
}

// Reads a file, because an inherited sandbox may not allow sysinfo().
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

// Returns half `half` (0 or 1) of the random bytes that the kernel gave the process at its start.
static uint64_t random_half(unsigned half) {
    const unsigned char *bytes = (const unsigned char *)getauxval(AT_RANDOM);
    uint64_t value = 0;
    for (unsigned i = half * 8; bytes != NULL && i < half * 8 + 8; i++) {
        value = value << 8 | bytes[i];
    }
    return value;
}

// Mixed, so that no value made of the kernel's bytes discloses them.
uint64_t os_random(void) {
    return hak_mix(random_half(1)); // Half 0 seeds libc's stack protector.
}

uint64_t os_secret(unsigned number) {
    // Both halves go into each secret, so that neither the heap's address nor the stack protector's
    // word discloses it.
    uint64_t value = hak_mix(random_half(0) + HAK_GOLDEN * (number + 1));
    return hak_mix(value ^ hak_mix(random_half(1) ^ 0xd1b54a32d192ed03u * (number + 1)));
}

// The kernel reads the set of signals before it rejects the operation, so the error tells whether
// the page can be read.
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

size_t os_peak_memory(void) {
    struct rusage usage = {0};
    bool known = is_free_to_call() && !is_error(sys3(SYS_getrusage, RUSAGE_SELF, (long)&usage, 0));
    return known ? (size_t)usage.ru_maxrss * 1024 : 0;
}
