// SPDX-License-Identifier: Apache-2.0
#include "fronts/libc/guard.h"

#include "boxes/base/atomic.h"
#include "boxes/cpu/fault.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/guarded_block/guarded_block.h"
#include "boxes/settings/settings.h"
#include "boxes/stack_report/stack_report.h"
#include "boxes/stack_trace/stack_trace.h"
#include "boxes/thread_heap/thread_heap.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

// The program's handler of SIGSEGV, which ours was installed in front of. There are two copies, of
// which the newer one counts, because a signal may arrive while one of them is being written.
static struct sigaction others[2];
static _Atomic(unsigned) newer;

// Each process reports once: faults that other threads find meanwhile may follow from the first
// one.
static _Atomic(bool) reported;
static struct stack_report report;
static uintptr_t pcs[STACK_TRACE_MOST];

static void put_calls(const char *what, const struct guarded_calls *calls) {
    if (calls->depth == 0) {
        return;
    }
    stack_report_text(&report, what);
    if (calls->thread != 0) {
        stack_report_text(&report, " by thread ");
        stack_report_number(&report, (uint64_t)calls->thread);
    }
    stack_report_text(&report, ":");
    stack_report_end_line(&report);
    stack_report_stack(&report, calls->pcs, calls->depth, false);
}

static void put_block(const struct guarded_block *block) {
    stack_report_text(&report, "a block of ");
    stack_report_count(&report, block->size, "byte");
    stack_report_text(&report, " at ");
    stack_report_address(&report, (uintptr_t)block->start);
}

// Writes "10 bytes past the end of a block of 100 bytes at 0x...".
static void put_place(const struct guarded_block *block, uintptr_t at) {
    uintptr_t start = (uintptr_t)block->start;
    if (at < start) {
        stack_report_count(&report, start - at, "byte");
        stack_report_text(&report, " before ");
    } else if (at >= start + block->size) {
        stack_report_count(&report, at - start - block->size, "byte");
        stack_report_text(&report, " past the end of ");
    } else {
        stack_report_count(&report, at - start, "byte");
        stack_report_text(&report, " into ");
    }
    put_block(block);
}

static const char *name_of(const struct guarded_block *block, uintptr_t at) {
    uintptr_t start = (uintptr_t)block->start;
    if (guarded_block_state(block) == GUARDED_BLOCK_FREED) {
        return "use after free";
    }
    return at >= start + block->size ? "overflow" : at < start ? "underflow" : "wild access";
}

// Ends the report: the calls that made the access, pcs[depth], and those that allocated and freed
// the block, if these are known.
static void end_report(const struct guarded_block *block, unsigned depth, bool exact) {
    stack_report_text(&report, ", by");
    stack_report_end_line(&report);
    stack_report_stack(&report, pcs, depth, exact);
    put_calls("allocated", &block->allocated);
    put_calls("freed", &block->freed);
    stack_report_close(&report);
}

static void put_report(const struct guarded_block *block, const siginfo_t *info,
                       const ucontext_t *context) {
    struct cpu_fault fault = cpu_fault_of(context);
    uintptr_t at = (uintptr_t)info->si_addr;
    stack_report_open(&report);
    stack_report_text(&report, name_of(block, at));
    stack_report_text(&report, fault.write ? ": write" : ": read");
    stack_report_text(&report, " of ");
    stack_report_address(&report, at);
    stack_report_text(&report, ", ");
    put_place(block, at);
    unsigned depth = stack_trace_from(fault.pc, fault.sp, fault.fp, pcs, STACK_TRACE_MOST);
    end_report(block, depth, true);
}

static const struct sigaction *other_handler(void) {
    return &others[atomic_load(&newer) % 2];
}

// Delivers the fault as if this handler did not exist.
static void pass_on(int signal, siginfo_t *info, void *context) {
    const struct sigaction *other = other_handler();
    if ((other->sa_flags & SA_SIGINFO) != 0) {
        other->sa_sigaction(signal, info, context);
    } else if (other->sa_handler != SIG_DFL && other->sa_handler != SIG_IGN) {
        other->sa_handler(signal);
    } else {
        // The instruction runs again, and the fault ends the process. A signal that was sent is
        // sent again.
        struct sigaction action = {.sa_handler = SIG_DFL};
        sigaction(signal, &action, NULL);
        if (info->si_code <= 0) {
            raise(signal);
        }
    }
}

static void on_fault(int signal, siginfo_t *info, void *context) {
    int saved = errno;
    const struct guarded_block *block =
        info->si_code > 0 ? guarded_block_near(info->si_addr) : NULL;
    if (block != NULL && guarded_block_state(block) != GUARDED_BLOCK_NEVER &&
        !atomic_exchange(&reported, true)) {
        put_report(block, info, context);
    }
    errno = saved;
    pass_on(signal, info, context);
}

static bool is_ours(const struct sigaction *action) {
    return (action->sa_flags & SA_SIGINFO) != 0 && action->sa_sigaction == on_fault;
}

void guard_keep_handler(void) {
    static _Atomic(bool) busy;
    struct sigaction now;
    if (atomic_load(&reported) || sigaction(SIGSEGV, NULL, &now) != 0 || is_ours(&now) ||
        atomic_exchange(&busy, true)) {
        return;
    }
    unsigned next = atomic_load(&newer) + 1;
    others[next % 2] = now;
    atomic_store(&newer, next);
    struct sigaction action = {
        .sa_sigaction = on_fault,
        .sa_mask = now.sa_mask,
        .sa_flags = SA_SIGINFO | SA_ONSTACK | (now.sa_flags & (SA_NODEFER | SA_RESTART)),
    };
    sigaction(SIGSEGV, &action, NULL);
    atomic_store(&busy, false);
}

void guard_start(void) {
    int64_t every = settings_get(SETTING_GUARD);
    if (every == 0) {
        return;
    }
    if (!guarded_block_start((uint64_t)every)) {
        diag_warn_setting("HAKMEM_GUARD", "", "no memory for guarded blocks");
        return;
    }
    thread_heap_close_sizes();
    guard_keep_handler();
}

void guard_misuse(const char *call, const void *ptr, const char *fault) {
    const struct guarded_block *block = guarded_block_near(ptr);
    if (block != NULL && !atomic_exchange(&reported, true)) {
        stack_report_open(&report);
        stack_report_text(&report, call);
        stack_report_text(&report, " of ");
        stack_report_address(&report, (uintptr_t)ptr);
        stack_report_text(&report, ", ");
        put_place(block, (uintptr_t)ptr);
        stack_report_text(&report, ": ");
        stack_report_text(&report, fault);
        end_report(block, stack_trace(pcs, STACK_TRACE_MOST), false);
    }
    diag_misuse(call, ptr, fault);
}
