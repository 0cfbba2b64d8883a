// SPDX-License-Identifier: Apache-2.0
// replay: does what a trace says on whatever malloc serves this process, and says what that took.
//
//     hakmem-replay [--info] [--paced] [--touch none|pages|all] TRACE
//
// One line of JSON on stdout. Steps that belong to the replay itself use no malloc: the plan is
// made in mappings before the clock starts, and all of its memory counts as there before. Ends with
// 0, 1 if the trace cannot be replayed, or 2 for a wrong command line.
#include "boxes/base/atomic.h"
#include "tools/replay/plan.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum touch { TOUCH_NONE, TOUCH_PAGES, TOUCH_ALL };

static struct {
    bool info, paced;
    enum touch touch;
    const char *path;
} options = {.touch = TOUCH_PAGES};

static struct plan plan;

// A slot's block; NULL: none. What could not be allocated is this instead.
static _Atomic(char *) *slots;
static char nothing;

// Where in the order of all a thread is; DONE: it has ended, or not begun.
#define DONE UINT64_MAX
static _Atomic(uint64_t) *places;
static _Atomic(uint32_t) unfinished;
static _Atomic(uint64_t) refused;
static uint64_t started_ns;

static void fail(const char *what) {
    fprintf(stderr, "hakmem-replay: %s: %s\n", options.path, what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Waits a little: at first on the processor, then without it.
static void rest(unsigned *times) {
    if (++*times < 64) {
        sched_yield();
    } else {
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
}

static uint64_t slowest(void) {
    uint64_t least = DONE;
    for (uint32_t i = 0; i < plan.thread_count; i++) {
        uint64_t place = atomic_load_explicit(&places[i], memory_order_relaxed);
        least = place < least ? place : least;
    }
    return least;
}

static void mark(uint32_t thread, uint64_t place) {
    atomic_store(&places[thread], place);
    for (unsigned times = 0; slowest() + PLAN_APART < place;) {
        rest(&times);
    }
}

static void wait_until(uint64_t ms) {
    uint64_t then = started_ns + ms * 1000000u;
    uint64_t now = now_ns();
    if (now < then) {
        uint64_t left = then - now;
        struct timespec t = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
        nanosleep(&t, NULL);
    }
}

// Writes to a block as its program would have done, about.
static void touch(char *block, size_t size) {
    if (options.touch == TOUCH_NONE || size == 0) {
        return;
    }
    if (options.touch == TOUCH_ALL) {
        memset(block, 1, size);
        return;
    }
    for (size_t at = 0; at < size; at += HAK_PAGE) {
        block[at] = 1;
    }
    block[size - 1] = 1;
}

static void fill_slot(uint32_t slot, char *block, size_t size) {
    if (block == NULL) {
        atomic_fetch_add(&refused, 1);
        block = &nothing;
    } else {
        touch(block, size);
    }
    char *none = NULL;
    for (unsigned times = 0; !atomic_compare_exchange_strong(&slots[slot], &none, block);) {
        none = NULL;
        rest(&times);
    }
}

static char *empty_slot(uint32_t slot) {
    char *block;
    for (unsigned times = 0; (block = atomic_exchange(&slots[slot], NULL)) == NULL;) {
        rest(&times);
    }
    return block;
}

static void resize_slot(uint32_t slot, size_t size) {
    char *block;
    for (unsigned times = 0; (block = atomic_load(&slots[slot])) == NULL;) {
        rest(&times);
    }
    char *fresh = realloc(block == &nothing ? NULL : block, size);
    if (fresh == NULL) {
        atomic_fetch_add(&refused, 1);
        return;
    }
    touch(fresh, size);
    atomic_store(&slots[slot], fresh);
}

static void *replay_thread(void *number);

static void start_thread(uint32_t own, uint32_t number, uint64_t place) {
    atomic_store(&places[own], place);
    atomic_store(&places[number], place);
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 256 << 10);
    if (pthread_create(&thread, &attributes, replay_thread, (void *)(uintptr_t)number) != 0) {
        fail("a thread could not be started");
    }
    pthread_attr_destroy(&attributes);
}

static void replay_steps(uint32_t number) {
    for (const struct plan_step *step = plan.threads[number];; step++) {
        if (step->kind == PLAN_MORE) {
            step = step->next;
        }
        switch (step->kind) {
        case PLAN_END:
            atomic_store(&places[number], DONE);
            return;
        case PLAN_MALLOC:
            fill_slot(step->slot, malloc(step->size), step->size);
            break;
        case PLAN_CALLOC:
            fill_slot(step->slot, calloc(1, step->size), step->size);
            break;
        case PLAN_ALIGNED:
            fill_slot(step->slot, memalign((size_t)1 << step->align, step->size), step->size);
            break;
        case PLAN_FREE: {
            char *block = empty_slot(step->slot);
            if (block != &nothing) {
                free(block);
            }
            break;
        }
        case PLAN_RESIZE:
            resize_slot(step->slot, step->size);
            break;
        case PLAN_START:
            start_thread(number, step->slot, step->size);
            break;
        case PLAN_MARK:
            mark(number, step->size);
            break;
        default:
            if (options.paced) {
                wait_until(step->size);
            }
            break;
        }
    }
}

static void *replay_thread(void *number) {
    replay_steps((uint32_t)(uintptr_t)number);
    atomic_fetch_sub(&unfinished, 1);
    return NULL;
}

// --- What it took

// A number of kB that follows a name in /proc/self/status, in bytes.
static uint64_t status_bytes(const char *name) {
    static char text[8192];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0) {
        return 0;
    }
    text[size] = '\0';
    const char *at = strstr(text, name);
    return at == NULL ? 0 : strtoull(at + strlen(name), NULL, 10) * 1024;
}

// From now on the peak is that of what comes.
static void reset_peak(void) {
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "5", 1) != 1) {
        fail("the peak of memory cannot be set back: no /proc/self/clear_refs");
    }
    close(fd);
}

static double seconds(struct timeval t) {
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static uint64_t above(uint64_t bytes, uint64_t base) {
    return bytes > base ? bytes - base : 0;
}

static void replay(void) {
    struct rusage before;
    struct rusage after;
    reset_peak();
    uint64_t base = status_bytes("VmRSS:");
    getrusage(RUSAGE_SELF, &before);
    started_ns = now_ns();
    replay_steps(0);
    for (unsigned times = 0; atomic_load(&unfinished) != 0;) {
        rest(&times);
    }
    uint64_t took = now_ns() - started_ns;
    getrusage(RUSAGE_SELF, &after);
    uint64_t end = status_bytes("VmRSS:");
    uint64_t peak = status_bytes("VmHWM:");
    printf(
        "{\"seconds\": %.6f, \"user\": %.6f, \"system\": %.6f, \"faults\": %ld, \"peak_rss\": %lu, "
        "\"end_rss\": %lu, \"refused\": %lu}\n",
        (double)took / 1e9, seconds(after.ru_utime) - seconds(before.ru_utime),
        seconds(after.ru_stime) - seconds(before.ru_stime), after.ru_minflt - before.ru_minflt,
        above(peak, base), above(end, base), atomic_load(&refused));
}

// Memory of the replay's own, there before the clock starts.
static void *table(size_t count, size_t size) {
    void *at = mmap(NULL, hak_max(count * size, 1), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at == MAP_FAILED) {
        fail("there is no memory for it");
    }
    return at;
}

static void print_text(const char *text) {
    putchar('"');
    for (; *text != '\0'; text++) {
        bool plain = *text >= ' ' && *text < 127 && *text != '"' && *text != '\\';
        putchar(plain ? *text : '?');
    }
    putchar('"');
}

static void print_info(const struct trace_header *header) {
    printf("{\"version\": %u, \"program\": ", header->version);
    print_text(header->program);
    printf(", \"flavour\": ");
    print_text(header->flavour);
    printf(", \"process\": %u, \"lost\": %lu, \"stopped\": %s, \"threads\": %u, \"events\": %lu",
           header->process, header->lost, header->stopped != 0 ? "true" : "false",
           plan.thread_count, plan.events);
    printf(", \"malloc\": %lu, \"calloc\": %lu, \"aligned\": %lu, \"free\": %lu, \"realloc\": %lu, "
           "\"failed\": %lu, \"unknown\": %lu",
           plan.mallocs, plan.callocs, plan.aligned, plan.frees, plan.resizes, plan.failed,
           plan.unknown);
    printf(", \"allocated_bytes\": %lu, \"live_blocks\": %lu, \"live_bytes\": %lu, "
           "\"peak_live_bytes\": %lu, \"milliseconds\": %lu}\n",
           plan.allocated, plan.live, plan.live_bytes, plan.peak_bytes, plan.ms);
}

static bool parse_touch(const char *text) {
    static const char *const names[] = {"none", "pages", "all"};
    for (unsigned i = 0; text != NULL && i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) == 0) {
            options.touch = (enum touch)i;
            return true;
        }
    }
    return false;
}

static bool parse(char **words) {
    for (; *words != NULL; words++) {
        if (strcmp(*words, "--info") == 0) {
            options.info = true;
        } else if (strcmp(*words, "--paced") == 0) {
            options.paced = true;
        } else if (strcmp(*words, "--touch") == 0) {
            if (!parse_touch(*++words)) {
                return false;
            }
        } else if (options.path == NULL && **words != '-') {
            options.path = *words;
        } else {
            return false;
        }
    }
    return options.path != NULL;
}

int main(int argc, char **argv) {
    (void)argc;
    static struct trace trace;
    if (!parse(argv + 1)) {
        fprintf(stderr, "usage: hakmem-replay [--info] [--paced] [--touch none|pages|all] TRACE\n");
        return 2;
    }
    const char *fault = trace_open(&trace, options.path);
    if (fault != NULL) {
        fail(fault);
    }
    if (!plan_make(&plan, &trace)) {
        fail("there is no memory for its plan, or it has too many threads");
    }
    trace_close(&trace);
    if (options.info) {
        print_info(&trace.header);
        return 0;
    }
    if (plan.thread_count == 0) {
        fail("there is nothing in it");
    }
    slots = table(plan.slots, sizeof *slots);
    places = table(plan.thread_count, sizeof *places);
    for (uint32_t i = 1; i < plan.thread_count; i++) {
        atomic_store(&places[i], DONE);
    }
    atomic_store(&unfinished, plan.thread_count - 1);
    replay();
    return 0;
}
