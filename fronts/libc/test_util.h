// SPDX-License-Identifier: Apache-2.0
// Shared by tests of the fronts: a child process with its stderr caught, and numbers from /proc.
#ifndef HAKMEM_FRONTS_LIBC_TEST_UTIL_H
#define HAKMEM_FRONTS_LIBC_TEST_UTIL_H

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <string>
#include <string_view>

// In C a struct and a function may share a name, as stat and stat() do; -Wshadow minds it in C++.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#include "boxes/size_class/size_class.h"
#include "boxes/statistics/statistics.h"
#pragma GCC diagnostic pop

namespace test_util {

// hakmem_c23 does the long runs. The other flavours, which share most of its code, do a part of
// them, to save time. tools/soak runs any flavour for as long as one likes.
constexpr unsigned kPart = std::string_view(HAK_FLAVOUR) == "hakmem_c23" ? 1 : 5;

// Returns a field of /proc/self/status in bytes ("VmRSS:", "VmHWM:"), 0 if there is none. Allocates
// nothing: a freed buffer would be what a malloc_trim() behind the call gives back.
inline size_t StatusBytes(const char *field) {
    char text[8192];
    size_t length = 0;
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    for (ssize_t n = 1; fd >= 0 && n > 0; length += n > 0 ? static_cast<size_t>(n) : 0) {
        n = read(fd, text + length, sizeof text - 1 - length);
    }
    close(fd);
    text[length] = '\0';
    const char *line = strstr(text, field);
    return line == nullptr ? 0 : strtoul(line + strlen(field), nullptr, 10) * 1024;
}

// Returns true if all bytes of a block are `byte`.
inline bool IsAll(const void *block, int byte, size_t size) {
    const auto *bytes = static_cast<const unsigned char *>(block);
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != byte) {
            return false;
        }
    }
    return true;
}

// Returns the allocator's statistics.
inline struct hak_stats Stats() {
    struct hak_stats stats;
    hak_stats(&stats);
    return stats;
}

// Returns the bytes for which a live tiny block counts in the statistics: all its bytes, including
// its header (in the header flavour) or the bytes behind the user's (in the hardened flavour).
inline size_t TinyBytes(void *p) {
    size_t size = malloc_usable_size(p);
    while (HAK_HARDENED && size_class_bin_of(size + 1) == size_class_bin_of(size)) {
        size++;
    }
    return size + SIZE_CLASS_HEADER;
}

inline size_t ResidentBytes() {
    return StatusBytes("VmRSS:");
}

// The line that a misuse gets on stderr.
inline std::string MisuseLine(const char *call, const void *ptr, const char *fault) {
    char line[256];
    snprintf(line, sizeof line, "hakmem: %s(0x%zx): %s\n", call, reinterpret_cast<size_t>(ptr),
             fault);
    return line;
}

// Returns how a child ended, in words ("exit 0", "signal 6").
inline std::string Ending(int status) {
    return WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                               : "exit " + std::to_string(WEXITSTATUS(status));
}

// Waits for a child. A child that hangs would hold the whole test until Bazel's time limit, and the
// log would not say where. So it is killed and reported ("hangs") after twenty minutes, which is
// more than any child takes on the busiest machine.
inline std::string WaitFor(pid_t pid) {
    int status = 0;
    for (int i = 0; i < 1200000; i++) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid) {
            return Ending(status);
        }
        struct timespec pause = {0, i < 100 ? 100000 : 1000000};
        nanosleep(&pause, nullptr);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return "hangs";
}

// Runs fn() in a forked child, which exits with fn()'s result. Returns how the child ended.
template <typename Fn> std::string InChild(Fn fn) {
    pid_t pid = fork();
    if (pid == 0) {
        _exit(fn());
    }
    return pid < 0 ? "no fork" : WaitFor(pid);
}

} // namespace test_util

#endif
