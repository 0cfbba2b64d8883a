// SPDX-License-Identifier: Apache-2.0
#include "boxes/stack_trace/stack_trace.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"
#include "boxes/cpu/cpu.h"
#include "boxes/stack_trace/frame_info.h"

#include <string.h>

// The pages of the stack that are known to be readable are [low, high). `start` is where the trace
// began, if that is on the calling thread's current stack, else 0.
struct pages {
    uintptr_t low, high, start;
};

// glibc's: the address at which the main thread's stack starts.
extern void *__libc_stack_end __attribute__((weak));

static uintptr_t page_of(uintptr_t at) {
    return at & ~(uintptr_t)(HAK_PAGE - 1);
}

// Returns true if an address is in the part of the main thread's stack that is in use, which can be
// read up to the stack's start. No other mapping is within 64 MiB below the start of that stack:
// the kernel keeps 128 MiB free for it.
static bool is_main_stack(const struct pages *pages, uintptr_t at) {
    enum { NEAR = 64 << 20 };
    return pages->start != 0 && &__libc_stack_end != NULL &&
           (uintptr_t)__libc_stack_end - pages->start < NEAR && at >= pages->start &&
           at < (uintptr_t)__libc_stack_end;
}

static bool can_read_page(struct pages *pages, uintptr_t page) {
    if (page >= pages->low && page < pages->high) {
        return true;
    }
    if (!is_main_stack(pages, page) && !os_can_read((const void *)page)) {
        return false;
    }
    if (page == pages->high) {
        pages->high += HAK_PAGE;
    } else {
        pages->low = page;
        pages->high = page + HAK_PAGE;
    }
    return true;
}

// Not instrumented: sanitizers would take these reads for a fault in the program.
__attribute__((no_sanitize("address", "thread"))) static bool peek(void *context, uintptr_t at,
                                                                   uint64_t *value) {
    struct pages *pages = context;
    if (at % sizeof *value != 0 || !can_read_page(pages, page_of(at))) {
        return false;
    }
    *value = *(const uint64_t *)at;
    return true;
}

// For code without a table: finds the caller's frame by the frame pointer, if the code keeps one.
static bool step_by_frame_pointer(struct frame *frame, struct pages *pages) {
    enum { LONGEST = 1 << 20 };
    struct frame caller = {.sp = frame->fp + 16};
    if (frame->fp - frame->sp >= LONGEST || !peek(pages, frame->fp, &caller.fp) ||
        !peek(pages, frame->fp + 8, &caller.pc)) {
        return false;
    }
    *frame = caller;
    return true;
}

static bool step(struct frame *frame, struct pages *pages) {
    // The numbers of registers in the tables are x86-64's.
    if (!CPU_FRAME_TABLES) {
        return step_by_frame_pointer(frame, pages) && frame->pc != 0;
    }
    switch (frame_info_step(frame, peek, pages)) {
    case FRAME_CALLER:
        return frame->pc != 0;
    case FRAME_UNKNOWN:
        return step_by_frame_pointer(frame, pages) && frame->pc != 0;
    default:
        return false;
    }
}

// Returns the shared library that this code is in, or an empty object if the code is part of the
// program.
static struct frame_object own_object(uintptr_t pc) {
    struct frame_object object;
    if (!frame_object_of(pc, &object) || object.program) {
        object = (struct frame_object){0, 0, NULL, true};
    }
    return object;
}

HAK_NOINLINE unsigned stack_trace(uintptr_t *pcs, unsigned most) {
    struct frame frame = {.exact = true};
    cpu_here(&frame.pc, &frame.sp, &frame.fp);
    uintptr_t page = page_of(frame.sp);
    struct pages pages = {page, page + HAK_PAGE, page};
    struct frame_object own = own_object(frame.pc);
    unsigned count = 0;
    while (count < most && step(&frame, &pages)) {
        if (count != 0 || frame.pc - own.start >= own.end - own.start) {
            pcs[count++] = frame.pc;
        }
    }
    return count;
}

unsigned stack_trace_from(uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t *pcs, unsigned most) {
    struct frame frame = {.pc = pc, .sp = sp, .fp = fp, .exact = true};
    struct pages pages = {0, 0, 0};
    unsigned count = 0;
    do {
        pcs[count++] = frame.pc;
    } while (count < most && step(&frame, &pages));
    return count;
}
