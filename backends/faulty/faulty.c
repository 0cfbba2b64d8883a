// SPDX-License-Identifier: Apache-2.0
#include "backends/faulty/faulty.h"

#include "backends/os.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

// The Linux backend, compiled once more under these names (see BUILD.bazel).
#define UNDERNEATH(call) extern __typeof__(os_##call) underneath_##call
UNDERNEATH(reserve);
UNDERNEATH(map);
UNDERNEATH(would_grant);
UNDERNEATH(commit);
UNDERNEATH(commit_alone);
UNDERNEATH(decommit);
UNDERNEATH(forbid);
UNDERNEATH(hide);
UNDERNEATH(purge);
UNDERNEATH(refresh);
UNDERNEATH(move);
UNDERNEATH(release);
UNDERNEATH(unmap);
UNDERNEATH(huge_pages);
UNDERNEATH(address_limit);
UNDERNEATH(data_limit);
UNDERNEATH(physical_memory);
UNDERNEATH(read_file);
UNDERNEATH(now_ms);
UNDERNEATH(now_ns);

static const char *const names[FAULTY_KINDS] = {
    [FAULTY_RESERVE] = "reserve",
    [FAULTY_MAP] = "map",
    [FAULTY_WOULD_GRANT] = "would_grant",
    [FAULTY_COMMIT] = "commit",
    [FAULTY_DECOMMIT] = "decommit",
    [FAULTY_PURGE] = "purge",
    [FAULTY_REFRESH] = "refresh",
    [FAULTY_MOVE] = "move",
    [FAULTY_RELEASE] = "release",
    [FAULTY_HUGE_PAGES] = "huge_pages",
    [FAULTY_ADDRESS_LIMIT] = "address_limit",
    [FAULTY_DATA_LIMIT] = "data_limit",
    [FAULTY_PHYSICAL_MEMORY] = "physical_memory",
    [FAULTY_READ_FILE] = "read_file",
    [FAULTY_FORBID] = "forbid",
    [FAULTY_HIDE] = "hide",
};

static struct faulty_script script;
static _Atomic(int) environment_read;
static uint64_t clock_step; // nanoseconds that a look takes; 0: the kernel's clocks are used
static _Atomic(uint64_t) clock_ns = 1000000000;
static _Atomic(uint64_t) numbered, failures, calls_of[FAULTY_KINDS];
static __thread uint64_t failures_here __attribute__((tls_model("initial-exec")));

// --- The script

static bool skip(const char **at, const char *text) {
    size_t length = strlen(text);
    if (strncmp(*at, text, length) != 0) {
        return false;
    }
    *at += length;
    return true;
}

static bool number(const char **at, uint64_t *value) {
    const char *start = *at;
    for (*value = 0; **at >= '0' && **at <= '9'; ++*at) {
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, (uint64_t)(**at - '0'), value)) {
            return false;
        }
    }
    return *at != start;
}

static bool kind(const char **at, uint32_t *kinds) {
    size_t length = strcspn(*at, ",:");
    if (length == 3 && strncmp(*at, "all", length) == 0) {
        *kinds = FAULTY_ALL;
        *at += length;
        return true;
    }
    for (int i = 0; i < FAULTY_KINDS; i++) {
        if (strlen(names[i]) == length && strncmp(*at, names[i], length) == 0) {
            *kinds |= UINT32_C(1) << i;
            *at += length;
            return true;
        }
    }
    return false;
}

EXPORT bool faulty_parse(const char *text, struct faulty_script *out) {
    struct faulty_script parsed = {0};
    const char *at = text;
    do {
        if (!kind(&at, &parsed.kinds)) {
            return false;
        }
    } while (skip(&at, ","));
    if (!skip(&at, ":")) {
        return false;
    }
    if (skip(&at, "random=")) {
        uint64_t ppm;
        if (!number(&at, &ppm) || ppm > 1000000 || !skip(&at, ",") || !number(&at, &parsed.seed)) {
            return false;
        }
        parsed.ppm = (uint32_t)ppm;
    } else {
        if (!number(&at, &parsed.first)) {
            return false;
        }
        parsed.last = parsed.first;
        if (skip(&at, "-") && !number(&at, &parsed.last)) {
            parsed.last = UINT64_MAX;
        }
    }
    parsed.taken = skip(&at, ":taken");
    if (*at != '\0') {
        return false;
    }
    *out = parsed;
    return true;
}

static HAK_NORETURN void refuse(const char *line) {
    os_write_stderr(line, strlen(line));
    abort();
}

static void read_environment(void) {
    // Another thread that makes a call meanwhile may see no script yet. A program that wants exact
    // numbers makes its first call before it has threads.
    int unread = 0;
    if (atomic_load_explicit(&environment_read, memory_order_relaxed) != 0 ||
        !atomic_compare_exchange_strong(&environment_read, &unread, 1)) {
        return;
    }
    const char *text = getenv("HAK_FAULTY_CLOCK");
    if (text != NULL) {
        if (!number(&text, &clock_step) || *text != '\0') {
            refuse("faulty: HAK_FAULTY_CLOCK is no number\n");
        }
        clock_step *= 1000;
    }
    text = getenv("HAK_FAULTY");
    if (text != NULL && !faulty_parse(text, &script)) {
        refuse("faulty: HAK_FAULTY is no script\n");
    }
}

EXPORT void faulty_set(const struct faulty_script *fresh) {
    read_environment();
    script = *fresh;
    atomic_store(&numbered, 0);
}

EXPORT uint64_t faulty_calls(void) {
    return atomic_load(&numbered);
}

EXPORT uint64_t faulty_calls_of(enum faulty_kind which) {
    return atomic_load(&calls_of[which]);
}

EXPORT uint64_t faulty_failures(void) {
    return atomic_load(&failures);
}

EXPORT uint64_t faulty_failures_here(void) {
    return failures_here;
}

EXPORT const char *faulty_name(enum faulty_kind which) {
    return names[which];
}

// For the chance of a number to fail, which depends on the seed and not on the caller.
static uint64_t mix(uint64_t value) {
    return hak_mix(value + HAK_GOLDEN);
}

// Numbers a call. Returns true if the call is to fail.
static bool fails(enum faulty_kind which, bool can_be_taken) {
    read_environment();
    atomic_fetch_add(&calls_of[which], 1);
    if ((script.kinds >> which & 1) == 0) {
        return false;
    }
    uint64_t n = atomic_fetch_add(&numbered, 1) + 1;
    bool chosen = (script.first != 0 && n >= script.first && n <= script.last) ||
                  mix(mix(script.seed) ^ n) % 1000000 < script.ppm;
    if (!chosen || (script.taken && !can_be_taken)) {
        return false;
    }
    atomic_fetch_add(&failures, 1);
    failures_here++;
    return true;
}

// --- The calls

enum os_result os_reserve(void *at, size_t size, void **got) {
    if (fails(FAULTY_RESERVE, at != NULL)) {
        return script.taken ? OS_TAKEN : OS_NO_MEMORY;
    }
    return underneath_reserve(at, size, got);
}

enum os_result os_map(void *at, size_t size, void **got) {
    if (fails(FAULTY_MAP, at != NULL)) {
        return script.taken ? OS_TAKEN : OS_NO_MEMORY;
    }
    return underneath_map(at, size, got);
}

enum os_result os_would_grant(size_t size) {
    return fails(FAULTY_WOULD_GRANT, false) ? OS_NO_MEMORY : underneath_would_grant(size);
}

enum os_result os_commit(void *at, size_t size) {
    return fails(FAULTY_COMMIT, false) ? OS_NO_MEMORY : underneath_commit(at, size);
}

enum os_result os_commit_alone(void *at, size_t size) {
    return fails(FAULTY_COMMIT, false) ? OS_NO_MEMORY : underneath_commit_alone(at, size);
}

// Every second failure of a kind loses the range.
static enum os_result remap_fails(enum faulty_kind which, void *at, size_t size) {
    static _Atomic(unsigned) counts[FAULTY_KINDS];
    if (atomic_fetch_add(&counts[which], 1) % 2 == 0) {
        return OS_NO_MEMORY;
    }
    underneath_release(at, size);
    return OS_LOST;
}

enum os_result os_decommit(void *at, size_t size) {
    return fails(FAULTY_DECOMMIT, false) ? remap_fails(FAULTY_DECOMMIT, at, size)
                                         : underneath_decommit(at, size);
}

// The kernel may stop half way through a range.
static void purge_half(void *at, size_t size) {
    size_t half = hak_round_up(size / 2, HAK_PAGE);
    if (half > 0) {
        underneath_purge(at, half);
    }
}

enum os_result os_purge(void *at, size_t size) {
    if (fails(FAULTY_PURGE, false)) {
        purge_half(at, size);
        return OS_NO_MEMORY;
    }
    return underneath_purge(at, size);
}

enum os_result os_refresh(void *at, size_t size) {
    return fails(FAULTY_REFRESH, false) ? remap_fails(FAULTY_REFRESH, at, size)
                                        : underneath_refresh(at, size);
}

enum os_result os_move(void *from, void *to, size_t size) {
    if (fails(FAULTY_MOVE, false)) {
        memset(to, 0xdb, size);
        return OS_NO_MEMORY;
    }
    return underneath_move(from, to, size);
}

void os_release(void *at, size_t size) {
    if (!fails(FAULTY_RELEASE, false)) {
        underneath_release(at, size);
    }
}

enum os_result os_unmap(void *at, size_t size) {
    return fails(FAULTY_RELEASE, false) ? OS_NO_MEMORY : underneath_unmap(at, size);
}

enum os_result os_forbid(void *at, size_t size) {
    return fails(FAULTY_FORBID, false) ? OS_NO_MEMORY : underneath_forbid(at, size);
}

enum os_result os_hide(void *at, size_t size) {
    if (fails(FAULTY_HIDE, false)) {
        // The kernel may stop half way through a range.
        underneath_hide(at, hak_round_up(size / 2, HAK_PAGE));
        return OS_NO_MEMORY;
    }
    return underneath_hide(at, size);
}

void os_huge_pages(void *at, size_t size, bool on) {
    if (!fails(FAULTY_HUGE_PAGES, false)) {
        underneath_huge_pages(at, size, on);
    }
}

size_t os_address_limit(void) {
    return fails(FAULTY_ADDRESS_LIMIT, false) ? SIZE_MAX : underneath_address_limit();
}

size_t os_data_limit(void) {
    return fails(FAULTY_DATA_LIMIT, false) ? SIZE_MAX : underneath_data_limit();
}

size_t os_physical_memory(void) {
    return fails(FAULTY_PHYSICAL_MEMORY, false) ? 0 : underneath_physical_memory();
}

size_t os_read_file(const char *path, char *buf, size_t size) {
    return fails(FAULTY_READ_FILE, false) ? 0 : underneath_read_file(path, buf, size);
}

uint64_t os_now_ns(void) {
    read_environment();
    return clock_step == 0 ? underneath_now_ns() : atomic_fetch_add(&clock_ns, clock_step);
}

uint64_t os_now_ms(void) {
    read_environment();
    return clock_step == 0 ? underneath_now_ms() : os_now_ns() / 1000000;
}
