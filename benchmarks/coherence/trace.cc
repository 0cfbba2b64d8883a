// SPDX-License-Identifier: Apache-2.0
// trace: what an instrumented allocator calls. The compiler's -fsanitize=thread puts a call before
// each load and store, and makes each atomic operation a call; here they are made on the machine.
// Of libc, the linker's --wrap (wraps.txt) brings here what copies memory, asks the kernel, takes a
// lock or tells processors and times.
#include "benchmarks/coherence/machine.h"

#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <ctime>

#include <sched.h>

using coherence::Access;
using coherence::machine;

namespace {

bool on() {
    return machine != nullptr && machine->inside();
}

void trace(const void *at, size_t size, Access access, void *pc) {
    if (on() && size > 0) {
        machine->access(reinterpret_cast<uintptr_t>(at), size, access,
                        reinterpret_cast<uintptr_t>(pc));
    }
}

// A system call, and the memory that has another content behind it.
void call(bool changes_mappings) {
    if (on()) {
        machine->call(changes_mappings);
    }
}

void forget(void *at, size_t size) {
    if (on()) {
        machine->forget(at, size);
    }
}

constexpr bool gives_back(int advice) {
    return advice == MADV_DONTNEED || advice == MADV_REMOVE;
}

} // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))
#define HERE   __builtin_return_address(0)

// --- Plain accesses

#define PLAIN(size)                                      \
    EXPORT void __tsan_read##size(void *at) {            \
        trace(at, size, Access::kRead, HERE);            \
    }                                                    \
    EXPORT void __tsan_write##size(void *at) {           \
        trace(at, size, Access::kWrite, HERE);           \
    }                                                    \
    EXPORT void __tsan_unaligned_read##size(void *at) {  \
        trace(at, size, Access::kRead, HERE);            \
    }                                                    \
    EXPORT void __tsan_unaligned_write##size(void *at) { \
        trace(at, size, Access::kWrite, HERE);           \
    }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

EXPORT void __tsan_read_range(void *at, size_t size) {
    trace(at, size, Access::kRead, HERE);
}
EXPORT void __tsan_write_range(void *at, size_t size) {
    trace(at, size, Access::kWrite, HERE);
}
EXPORT void __tsan_vptr_update(void **at, void *) {
    trace(at, sizeof *at, Access::kWrite, HERE);
}
EXPORT void __tsan_vptr_read(void **at) {
    trace(at, sizeof *at, Access::kRead, HERE);
}
EXPORT void __tsan_init() {}
EXPORT void __tsan_func_entry(void *) {}
EXPORT void __tsan_func_exit() {}

// --- Atomic operations. A store that is not sequentially consistent is a plain one.

// The oldest value is what counts: all orders are one, as accesses are made one after the other.
#define FETCH(bits, type, name, function)                                 \
    EXPORT type __tsan_atomic##bits##_##name(type *at, type value, int) { \
        trace(at, sizeof *at, Access::kAtomic, HERE);                     \
        return function(at, value, __ATOMIC_SEQ_CST);                     \
    }
#define SWAP(bits, type, name)                                                                \
    EXPORT int __tsan_atomic##bits##_##name(type *at, type *expected, type value, int, int) { \
        trace(at, sizeof *at, Access::kAtomic, HERE);                                         \
        const bool done = __atomic_compare_exchange_n(at, expected, value, false,             \
                                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);    \
        if (!done && on()) {                                                                  \
            machine->failed(reinterpret_cast<uintptr_t>(HERE));                               \
        }                                                                                     \
        return done;                                                                          \
    }
#define ATOMIC(bits, type)                                                                         \
    EXPORT type __tsan_atomic##bits##_load(const type *at, int) {                                  \
        trace(at, sizeof *at, Access::kRead, HERE);                                                \
        return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                              \
    }                                                                                              \
    EXPORT void __tsan_atomic##bits##_store(type *at, type value, int order) {                     \
        trace(at, sizeof *at, order == __ATOMIC_SEQ_CST ? Access::kAtomic : Access::kWrite, HERE); \
        __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                             \
    }                                                                                              \
    FETCH(bits, type, exchange, __atomic_exchange_n)                                               \
    FETCH(bits, type, fetch_add, __atomic_fetch_add)                                               \
    FETCH(bits, type, fetch_sub, __atomic_fetch_sub)                                               \
    FETCH(bits, type, fetch_and, __atomic_fetch_and)                                               \
    FETCH(bits, type, fetch_or, __atomic_fetch_or)                                                 \
    FETCH(bits, type, fetch_xor, __atomic_fetch_xor)                                               \
    FETCH(bits, type, fetch_nand, __atomic_fetch_nand)                                             \
    SWAP(bits, type, compare_exchange_strong)                                                      \
    SWAP(bits, type, compare_exchange_weak)                                                        \
    EXPORT type __tsan_atomic##bits##_compare_exchange_val(type *at, type expected, type value,    \
                                                           int, int) {                             \
        trace(at, sizeof *at, Access::kAtomic, HERE);                                              \
        if (!__atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_SEQ_CST,            \
                                         __ATOMIC_SEQ_CST) &&                                      \
            on()) {                                                                                \
            machine->failed(reinterpret_cast<uintptr_t>(HERE));                                    \
        }                                                                                          \
        return expected;                                                                           \
    }
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

EXPORT void __tsan_atomic_thread_fence(int order) {
    if (order == __ATOMIC_SEQ_CST && on()) {
        machine->pass(coherence::Costs().atomic);
    }
}
EXPORT void __tsan_atomic_signal_fence(int) {}

// --- Copies

#define COPY(name)                                               \
    EXPORT void *name(void *to, const void *from, size_t size) { \
        trace(from, size, Access::kRead, HERE);                  \
        trace(to, size, Access::kWrite, HERE);                   \
        return memmove(to, from, size);                          \
    }
#define FILL(name)                                       \
    EXPORT void *name(void *to, int byte, size_t size) { \
        trace(to, size, Access::kWrite, HERE);           \
        return memset(to, byte, size);                   \
    }
COPY(__tsan_memcpy)
COPY(__tsan_memmove)
COPY(__wrap_memcpy)
COPY(__wrap_memmove)
FILL(__tsan_memset)
FILL(__wrap_memset)

// --- The kernel

EXPORT void *__wrap_mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    void *map = mmap(at, size, protection, flags, file, offset);
    call(true);
    if (map != MAP_FAILED) {
        forget(map, size);
    }
    return map;
}
EXPORT void *__wrap_mmap64(void *at, size_t size, int protection, int flags, int file,
                           off_t offset) {
    return __wrap_mmap(at, size, protection, flags, file, offset);
}
EXPORT int __wrap_munmap(void *at, size_t size) {
    call(true);
    forget(at, size);
    return munmap(at, size);
}
EXPORT void *__wrap_mremap(void *at, size_t from, size_t to, int flags, ...) {
    va_list more;
    va_start(more, flags);
    void *fixed = va_arg(more, void *);
    va_end(more);
    call(true);
    forget(at, from);
    return mremap(at, from, to, flags, fixed);
}
EXPORT int __wrap_mprotect(void *at, size_t size, int protection) {
    call(true);
    return mprotect(at, size, protection);
}
EXPORT int __wrap_madvise(void *at, size_t size, int advice) {
    call(false);
    if (gives_back(advice)) {
        forget(at, size);
    }
    return madvise(at, size, advice);
}

// Of the machine's clocks: a run is to be the same on a busy day.
EXPORT int __wrap_clock_gettime(clockid_t clock, struct timespec *time) {
    if (!on()) {
        return clock_gettime(clock, time);
    }
    const uint64_t ns = machine->clock() / 1000;
    constexpr uint64_t kSecond = 1000000000;
    *time = {static_cast<time_t>(1000 + ns / kSecond), static_cast<long>(ns % kSecond)};
    return 0;
}
EXPORT int __wrap_nanosleep(const struct timespec *time, struct timespec *) {
    constexpr uint64_t kSecond = 1000000000000; // ps
    if (on()) {
        machine->pass(static_cast<uint64_t>(time->tv_sec) * kSecond +
                      static_cast<uint64_t>(time->tv_nsec) * 1000);
    }
    return 0;
}
EXPORT int __wrap_usleep(useconds_t us) {
    const struct timespec time = {us / 1000000, static_cast<long>(us % 1000000) * 1000};
    return __wrap_nanosleep(&time, nullptr);
}
EXPORT int __wrap_sched_yield() {
    if (on()) {
        machine->call(false);
    }
    return 0;
}

// A system call as such; errors are negative numbers.
EXPORT long coherence_syscall(long number, long a, long b, long c, long d, long e, long f) {
    auto *at = reinterpret_cast<void *>(a);
    const auto size = static_cast<size_t>(b);
    switch (number) {
    case SYS_clock_gettime:
        return __wrap_clock_gettime(static_cast<clockid_t>(a),
                                    reinterpret_cast<struct timespec *>(b));
    case SYS_getcpu:
        if (on()) {
            if (at != nullptr) {
                *static_cast<unsigned *>(at) = machine->core();
            }
            return 0;
        }
        break;
    case SYS_mmap:
    case SYS_mprotect:
    case SYS_mremap:
    case SYS_munmap:
        call(true);
        break;
    default:
        call(false);
    }
    if (number == SYS_munmap || number == SYS_mremap ||
        (number == SYS_madvise && gives_back(static_cast<int>(c)))) {
        forget(at, size);
    }
    const int before = errno;
    const long result = syscall(number, a, b, c, d, e, f);
    const long answer = result == -1 ? -errno : result;
    errno = before;
    if (number == SYS_mmap && result != -1) {
        forget(reinterpret_cast<void *>(result), size);
    }
    return answer;
}
EXPORT long __wrap_syscall(long number, ...) {
    va_list list;
    va_start(list, number);
    long arguments[6];
    for (long &argument : arguments) {
        argument = va_arg(list, long);
    }
    va_end(list);
    const long result = coherence_syscall(number, arguments[0], arguments[1], arguments[2],
                                          arguments[3], arguments[4], arguments[5]);
    if (result < 0 && result > -4096) {
        errno = static_cast<int>(-result);
        return -1;
    }
    return result;
}

// The kernel's shared object, in which an allocator may look for the clock. Its addresses are
// relative to the object.
static struct {
    ElfW(Ehdr) header;
    ElfW(Phdr) segments[2];
    ElfW(Dyn) dynamic[4];
    ElfW(Sym) symbols[2];
    uint32_t hash[5];
    char strings[24];
} vdso;

static unsigned long fake_vdso() {
    const auto at = [](const void *part) {
        return reinterpret_cast<ElfW(Addr)>(part) - reinterpret_cast<ElfW(Addr)>(&vdso);
    };
    memcpy(vdso.strings + 1, "__vdso_clock_gettime", sizeof "__vdso_clock_gettime");
    vdso.header.e_phoff = at(vdso.segments);
    vdso.header.e_phnum = 2;
    vdso.segments[0].p_type = PT_LOAD;
    vdso.segments[1].p_type = PT_DYNAMIC;
    vdso.segments[1].p_offset = at(vdso.dynamic);
    vdso.dynamic[0] = {DT_SYMTAB, {at(vdso.symbols)}};
    vdso.dynamic[1] = {DT_STRTAB, {at(vdso.strings)}};
    vdso.dynamic[2] = {DT_HASH, {at(vdso.hash)}};
    vdso.symbols[1].st_name = 1;
    vdso.symbols[1].st_shndx = 1;
    vdso.symbols[1].st_value = at(reinterpret_cast<const void *>(&__wrap_clock_gettime));
    vdso.hash[1] = 2; // symbols
    return reinterpret_cast<unsigned long>(&vdso);
}

// No clock but the machine's, no chance.
EXPORT unsigned long __wrap_getauxval(unsigned long type) {
    static const unsigned char bytes[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};
    static const unsigned long object = fake_vdso();
    return type == AT_SYSINFO_EHDR ? object
           : type == AT_RANDOM     ? reinterpret_cast<unsigned long>(bytes)
                                   : getauxval(type);
}
EXPORT ssize_t __wrap_getrandom(void *at, size_t size, unsigned) {
    memset(at, 0x5a, size);
    return static_cast<ssize_t>(size);
}

// --- Processors

EXPORT long __wrap_sysconf(int name) {
    return machine != nullptr && (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF)
               ? static_cast<long>(machine->cores())
               : sysconf(name);
}
EXPORT int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    if (machine == nullptr) {
        return sched_getaffinity(pid, size, set);
    }
    memset(set, 0, size);
    for (unsigned core = 0; core < machine->cores() && core < size * 8; core++) {
        CPU_SET_S(core, size, set);
    }
    return 0;
}
EXPORT int __wrap_sched_getcpu() {
    return on() ? static_cast<int>(machine->core()) : sched_getcpu();
}

// --- Threads

EXPORT int __wrap_pthread_key_create(pthread_key_t *key, void (*destructor)(void *)) {
    if (machine == nullptr) {
        return pthread_key_create(key, destructor);
    }
    const int error = pthread_key_create(key, nullptr);
    if (error == 0) {
        machine->add_key(*key, destructor);
    }
    return error;
}
EXPORT int __wrap___cxa_thread_atexit(void (*function)(void *), void *argument, void *) {
    if (on()) {
        machine->at_exit(function, argument);
    }
    return 0;
}
EXPORT int __wrap___cxa_thread_atexit_impl(void (*function)(void *), void *argument, void *object) {
    return __wrap___cxa_thread_atexit(function, argument, object);
}

// A lock is one line. Who waits for it looks again and again, with growing rests of up to the time
// that a wake-up takes.
EXPORT int __wrap_pthread_mutex_trylock(pthread_mutex_t *mutex) {
    trace(mutex, sizeof(int), Access::kAtomic, HERE);
    const int error = pthread_mutex_trylock(mutex);
    if (error != 0 && on()) {
        machine->failed(reinterpret_cast<uintptr_t>(HERE));
    }
    return error;
}
EXPORT int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex) {
    if (!on()) {
        return pthread_mutex_lock(mutex);
    }
    constexpr uint64_t kLeast = 50000;
    constexpr uint64_t kMost = 1000000;
    uint64_t rest = kLeast;
    for (;;) {
        trace(mutex, sizeof(int), Access::kAtomic, HERE);
        const int error = pthread_mutex_trylock(mutex);
        if (error != EBUSY) {
            return error;
        }
        machine->failed(reinterpret_cast<uintptr_t>(HERE));
        machine->pass(rest);
        rest = rest * 2 < kMost ? rest * 2 : kMost;
    }
}
EXPORT int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex) {
    trace(mutex, sizeof(int), Access::kAtomic, HERE);
    return pthread_mutex_unlock(mutex);
}
