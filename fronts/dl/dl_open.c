// SPDX-License-Identifier: Apache-2.0
// dlopen() and dlmopen(), which musl does not have, of the shared object only.
//
// Both pass the call on by a jump: by the return address the dynamic linker finds the caller, and
// with it the caller's $ORIGIN, DT_RUNPATH and namespace. A call in C may or may not become a jump,
// so this is written in assembler.
#include "fronts/dl/dl.h"

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"

#include <dlfcn.h>

// The function to pass the call on to, and the flags; returned in %rax and %rdx.
struct onward {
    void *next;
    long flags;
};

// malloc calls neither: dlsym() takes a lock, and may allocate.
static struct onward onward(const char *name, _Atomic(void *) *next, bool opens, int flags) {
    void *found = atomic_load(next);
    if (found == NULL) {
        found = dlsym(RTLD_NEXT, name);
        atomic_store_explicit(next, found, memory_order_release);
    }
    // If libc's table cannot be changed, it is better that the library sees the process's symbols
    // first.
    if (opens && !dl_redirect_libc()) {
#ifdef RTLD_DEEPBIND
        flags &= ~RTLD_DEEPBIND;
#endif
    }
    return (struct onward){found, flags};
}

// Not static: called by the assembler below only.
__attribute__((used)) struct onward dl_onward_dlopen(const char *file, int flags) {
    static _Atomic(void *) next;
    return onward("dlopen", &next, file != NULL, flags);
}

#ifdef LM_ID_BASE
// Each namespace except the base one has its own libc, and so its own malloc.
__attribute__((used)) struct onward dl_onward_dlmopen(Lmid_t space, const char *file, int flags) {
    static _Atomic(void *) next;
    return onward("dlmopen", &next, file != NULL && space == LM_ID_BASE, flags);
}
#endif

// NAME: keeps the three registers with arguments over the call of dl_onward_NAME, whose flags go
// into register FLAGS. Returns NULL if there is no next function, which with glibc before 2.34 is
// in a library (libdl) that may not be loaded.
#if defined(__x86_64__)
#    define FORWARD(name, flags)                   \
        __asm__(".pushsection .text\n"             \
                ".globl " #name "\n"               \
                ".type " #name ", @function\n"     \
                ".p2align 4\n" #name ":\n"         \
                ".cfi_startproc\n"                 \
                "endbr64\n"                        \
                "push %rdi\n"                      \
                ".cfi_adjust_cfa_offset 8\n"       \
                "push %rsi\n"                      \
                ".cfi_adjust_cfa_offset 8\n"       \
                "push %rdx\n"                      \
                ".cfi_adjust_cfa_offset 8\n"       \
                "call dl_onward_" #name "\n"       \
                "mov %edx, %ecx\n"                 \
                "pop %rdx\n"                       \
                ".cfi_adjust_cfa_offset -8\n"      \
                "pop %rsi\n"                       \
                ".cfi_adjust_cfa_offset -8\n"      \
                "pop %rdi\n"                       \
                ".cfi_adjust_cfa_offset -8\n"      \
                "mov %ecx, %" flags "\n"           \
                "test %rax, %rax\n"                \
                "jz 1f\n"                          \
                "jmp *%rax\n"                      \
                "1: ret\n"                         \
                ".cfi_endproc\n"                   \
                ".size " #name ", . - " #name "\n" \
                ".popsection")
#    define FILE_FLAGS       "esi"
#    define SPACE_FILE_FLAGS "edx"
#elif defined(__aarch64__)
#    define FORWARD(name, flags)                   \
        __asm__(".pushsection .text\n"             \
                ".globl " #name "\n"               \
                ".type " #name ", %function\n"     \
                ".p2align 4\n" #name ":\n"         \
                ".cfi_startproc\n"                 \
                "hint #34\n" /* bti c */           \
                "stp x29, x30, [sp, #-48]!\n"      \
                ".cfi_def_cfa_offset 48\n"         \
                ".cfi_offset 29, -48\n"            \
                ".cfi_offset 30, -40\n"            \
                "stp x0, x1, [sp, #16]\n"          \
                "str x2, [sp, #32]\n"              \
                "bl dl_onward_" #name "\n"         \
                "mov x16, x0\n"                    \
                "mov w17, w1\n"                    \
                "ldr x2, [sp, #32]\n"              \
                "ldp x0, x1, [sp, #16]\n"          \
                "ldp x29, x30, [sp], #48\n"        \
                ".cfi_restore 29\n"                \
                ".cfi_restore 30\n"                \
                ".cfi_def_cfa_offset 0\n"          \
                "mov " flags ", w17\n"             \
                "cbz x16, 1f\n"                    \
                "br x16\n"                         \
                "1: mov x0, #0\n"                  \
                "ret\n"                            \
                ".cfi_endproc\n"                   \
                ".size " #name ", . - " #name "\n" \
                ".popsection")
#    define FILE_FLAGS       "w1"
#    define SPACE_FILE_FLAGS "w2"
#endif

FORWARD(dlopen, FILE_FLAGS);
#ifdef LM_ID_BASE
FORWARD(dlmopen, SPACE_FILE_FLAGS);
#endif

static __attribute__((constructor(102))) void start(void) {
    if (dl_looks_up()) {
        dl_redirect_libc();
    }
}
