// SPDX-License-Identifier: Apache-2.0
#include "backends/linux/sandbox.h"

#include "boxes/cpu/cpu.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>

// From <linux/prctl.h>. <sys/prctl.h> cannot be included, because it declares prctl() otherwise
// than it is defined here.
enum { SET_SECCOMP = 22, SET_NO_NEW_PRIVS = 38, SET_TSC = 26, TSC_SIGSEGV = 2 };
// From <linux/seccomp.h>, which the headers of a C library do not include.
enum { MODE_STRICT = 1, MODE_FILTER = 2, SET_MODE_STRICT = 0, SET_MODE_FILTER = 1 };

static _Atomic(int) state = SANDBOX_NONE;
static _Atomic(bool) ignored;      // SANDBOX_IGNORE
static _Atomic(bool) thread_ended; // a thread has ended, in an inherited sandbox
static _Atomic(bool) no_counter;
// A thread in strict mode cannot start others. Threads that it had started before are not in strict
// mode.
static __thread bool strict __attribute__((tls_model("initial-exec")));

enum sandbox sandbox_now(void) {
    return (enum sandbox)atomic_load_explicit(&state, memory_order_relaxed);
}

bool sandbox_is_strict(void) {
    return strict;
}

bool sandbox_has_no_counter(void) {
    return atomic_load_explicit(&no_counter, memory_order_relaxed);
}

bool sandbox_allows_madvise(void) {
    enum sandbox now = sandbox_now();
    return now == SANDBOX_NONE ||
           (now == SANDBOX_INHERITED && atomic_load_explicit(&thread_ended, memory_order_relaxed));
}

static void (*_Atomic before_own)(void); // see sandbox_before()
static _Atomic(bool) own_begun;          // see sandbox_is_own_soon()

void sandbox_before(void (*what)(void)) {
    atomic_store(&before_own, what);
}

bool sandbox_is_own_soon(void) {
    return atomic_load(&own_begun);
}

static void begin_own(void) {
    atomic_store(&own_begun, true);
    void (*before)(void) = atomic_load(&before_own);
    if (before != NULL) {
        before();
    }
}

static void rise(int to) {
    int seen = atomic_load(&state);
    if (to == SANDBOX_OWN && seen < to && !atomic_load(&ignored)) {
        begin_own();
    }
    while (seen < to && !atomic_load(&ignored) &&
           !atomic_compare_exchange_weak(&state, &seen, to)) {
    }
}

void sandbox_thread_ends(void) {
    atomic_store_explicit(&thread_ended, true, memory_order_relaxed);
}

// --- What the process does to itself
//
// These functions run before the call, because the filter is in force when the call returns. Calls
// that cannot succeed change nothing: programs make such calls to find out whether the kernel has
// filters.

static void watch_mode(long mode, const void *filter) {
    if (mode == MODE_STRICT) {
        strict = !atomic_load(&ignored);
        atomic_store(&no_counter, true);
    } else if (mode == MODE_FILTER && filter != NULL) {
        rise(SANDBOX_OWN);
    }
}

static void watch_prctl(long option, unsigned long value, const void *filter) {
    if (option == SET_SECCOMP) {
        watch_mode((long)value, filter);
    } else if (option == SET_NO_NEW_PRIVS && value == 1) {
        rise(SANDBOX_OWN); // A filter comes next, perhaps by a call that is not seen.
    } else if (option == SET_TSC && value == TSC_SIGSEGV) {
        atomic_store(&no_counter, true);
    }
}

// Called by syscall() below.
void sandbox_watch_syscall(long number, long a, long b, long c);
__attribute__((used)) void sandbox_watch_syscall(long number, long a, long b, long c) {
    if (number == SYS_prctl) {
        watch_prctl((int)a, (unsigned long)b, (const void *)c);
    } else if (a == SET_MODE_FILTER) {
        watch_mode(MODE_FILTER, (const void *)c);
    } else if (a == SET_MODE_STRICT && b == 0 && c == 0) {
        watch_mode(MODE_STRICT, NULL);
    }
}

#define EXPORT __attribute__((visibility("default"), weak)) // A program's own function wins.

// The functions of these names in the next object of the process. NULL before sandbox_start(), and
// in a static program: then this file makes the system calls.
static int (*_Atomic next_prctl)(int, unsigned long, unsigned long, unsigned long, unsigned long);
__attribute__((used)) void *sandbox_next_syscall;

long sandbox_fail(long result);
__attribute__((used)) long sandbox_fail(long result) {
    errno = (int)-result;
    return -1;
}

int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);

EXPORT int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d) {
    watch_prctl(option, a, (const void *)b);
    int (*next)(int, unsigned long, unsigned long, unsigned long, unsigned long) =
        atomic_load_explicit(&next_prctl, memory_order_relaxed);
    if (next != NULL) {
        return next(option, a, b, c, d);
    }
    long ret = cpu_syscall(SYS_prctl, option, (long)a, (long)b, (long)c, (long)d, 0);
    return (int)(ret < 0 ? sandbox_fail(ret) : ret);
}

// syscall() has no frame of its own when it passes a call on, because vfork() and clone() return
// twice.
#if defined(__x86_64__)
_Static_assert(SYS_seccomp == 317 && SYS_prctl == 157, "numbers in the text below");
__asm__(".pushsection .text\n"
        ".weak syscall\n"
        ".type syscall, @function\n"
        ".p2align 4\n"
        "syscall:\n"
        "    .cfi_startproc\n"
        "    endbr64\n"
        "    cmpq $317, %rdi\n"
        "    je 2f\n"
        "    cmpq $157, %rdi\n"
        "    je 2f\n"
        "1:  movq sandbox_next_syscall(%rip), %r11\n"
        "    testq %r11, %r11\n"
        "    jz 3f\n"
        "    jmp *%r11\n"
        "2:  pushq %rdi\n"
        "    pushq %rsi\n"
        "    pushq %rdx\n"
        "    pushq %rcx\n"
        "    pushq %r8\n"
        "    pushq %r9\n"
        "    subq $8, %rsp\n"
        "    .cfi_adjust_cfa_offset 56\n"
        "    call sandbox_watch_syscall\n"
        "    addq $8, %rsp\n"
        "    popq %r9\n"
        "    popq %r8\n"
        "    popq %rcx\n"
        "    popq %rdx\n"
        "    popq %rsi\n"
        "    popq %rdi\n"
        "    .cfi_adjust_cfa_offset -56\n"
        "    jmp 1b\n"
        "3:  movq %rdi, %rax\n"
        "    movq %rsi, %rdi\n"
        "    movq %rdx, %rsi\n"
        "    movq %rcx, %rdx\n"
        "    movq %r8, %r10\n"
        "    movq %r9, %r8\n"
        "    movq 8(%rsp), %r9\n"
        "    syscall\n"
        "    cmpq $-4095, %rax\n"
        "    jae 4f\n"
        "    ret\n"
        "4:  movq %rax, %rdi\n"
        "    jmp sandbox_fail\n"
        "    .cfi_endproc\n"
        ".size syscall, .-syscall\n"
        ".popsection\n");
#elif defined(__aarch64__)
_Static_assert(SYS_seccomp == 277 && SYS_prctl == 167, "numbers in the text below");
__asm__(".pushsection .text\n"
        ".weak syscall\n"
        ".type syscall, %function\n"
        ".p2align 4\n"
        "syscall:\n"
        "    .cfi_startproc\n"
        "    hint #34\n" // bti c
        "    cmp x0, #277\n"
        "    b.eq 2f\n"
        "    cmp x0, #167\n"
        "    b.eq 2f\n"
        "1:  adrp x16, sandbox_next_syscall\n"
        "    ldr x16, [x16, :lo12:sandbox_next_syscall]\n"
        "    cbz x16, 3f\n"
        "    br x16\n"
        "2:  stp x29, x30, [sp, #-80]!\n"
        "    .cfi_def_cfa_offset 80\n"
        "    .cfi_offset 29, -80\n"
        "    .cfi_offset 30, -72\n"
        "    stp x0, x1, [sp, #16]\n"
        "    stp x2, x3, [sp, #32]\n"
        "    stp x4, x5, [sp, #48]\n"
        "    stp x6, x7, [sp, #64]\n"
        "    bl sandbox_watch_syscall\n"
        "    ldp x6, x7, [sp, #64]\n"
        "    ldp x4, x5, [sp, #48]\n"
        "    ldp x2, x3, [sp, #32]\n"
        "    ldp x0, x1, [sp, #16]\n"
        "    ldp x29, x30, [sp], #80\n"
        "    .cfi_restore 29\n"
        "    .cfi_restore 30\n"
        "    .cfi_def_cfa_offset 0\n"
        "    b 1b\n"
        "3:  mov x8, x0\n"
        "    mov x0, x1\n"
        "    mov x1, x2\n"
        "    mov x2, x3\n"
        "    mov x3, x4\n"
        "    mov x4, x5\n"
        "    mov x5, x6\n"
        "    svc #0\n"
        "    cmn x0, #4095\n"
        "    b.hs 4f\n"
        "    ret\n"
        "4:  b sandbox_fail\n"
        "    .cfi_endproc\n"
        ".size syscall, .-syscall\n"
        ".popsection\n");
#endif

// --- The sandbox that the process was started in

// Returns the text behind `field`, or NULL if the text has no such field.
static const char *find_field(struct sandbox_text text, const char *field, size_t size) {
    const char *at = memmem(text.bytes, text.length, field, size);
    return at == NULL || at + size == text.bytes + text.length ? NULL : at + size;
}

// Returns the number of filters, or 0 if the text does not have that number (before Linux 5.9).
static unsigned count_filters(struct sandbox_text text) {
    static const char field[] = "\nSeccomp_filters:\t";
    const char *at = find_field(text, field, sizeof field - 1);
    unsigned count = 0;
    for (; at != NULL && at < text.bytes + text.length && *at >= '0' && *at <= '9'; at++) {
        count = count * 10 + (unsigned)(*at - '0');
    }
    return count;
}

// If the file cannot be read, as in a chroot, or only a part of it, there may be a filter. A kernel
// that has no filters at all writes no such line.
bool sandbox_is_filtered(struct sandbox_text status) {
    static const char field[] = "\nSeccomp:\t";
    const char *at = find_field(status, field, sizeof field - 1);
    return at == NULL ? status.length == 0 || status.length >= SANDBOX_STATUS : *at != '0';
}

#pragma weak dlsym // a static program has none

void sandbox_start(enum sandbox_how how, struct sandbox_text own, struct sandbox_text init) {
    if (&dlsym != NULL) {
        void *found = dlsym(RTLD_NEXT, "prctl");
        int (*next)(int, unsigned long, unsigned long, unsigned long, unsigned long);
        memcpy(&next, &found, sizeof next);
        atomic_store_explicit(&next_prctl, next, memory_order_relaxed);
        sandbox_next_syscall = dlsym(RTLD_NEXT, "syscall");
    }
    atomic_store(&ignored, how == SANDBOX_IGNORE);
    if (how == SANDBOX_ASSUME) {
        rise(SANDBOX_OWN);
    } else if (how == SANDBOX_FIND_OUT && sandbox_is_filtered(own)) {
        unsigned filters = count_filters(own);
        if (filters == 0 || filters != count_filters(init)) {
            rise(SANDBOX_INHERITED);
        }
    }
}
