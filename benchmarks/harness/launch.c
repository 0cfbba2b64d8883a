// SPDX-License-Identifier: Apache-2.0
// launch FD [-a BYTES] [-m MIB] [-r MIB] PROGRAM ARG...: runs PROGRAM and writes what it used, with
// all its children, to FD: "WALL_NS USER_US SYS_US PEAK_RSS_KIB FAULTS STATUS\n", STATUS as of
// waitpid.
//
// Why not from the driver itself: the peak RSS that the kernel keeps for a process starts with that
// of whoever called exec, so that a program smaller than the driver would be charged for the
// driver. This one is static and touches next to nothing. -a sets RLIMIT_AS, before the program's
// first instruction; -m kills the program once less memory than that is left on the machine, -r
// once it has more than that resident.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

// The child's pid, or -1 with a message. vfork, as a copy of this process would add faults of its
// own.
static pid_t start(char **const command, const int fd, const struct rlimit *const limit) {
    volatile int failed = 0; // written by the child, which shares this memory until it execs
    pid_t child = vfork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fd);
        if (limit->rlim_cur != RLIM_INFINITY) {
            setrlimit(RLIMIT_AS, limit);
        }
        execve(command[0], command, environ);
        failed = errno;
        _exit(127);
    }
    if (child < 0 || failed != 0) {
        dprintf(2, "launch: %s: %s\n", command[0], strerror(child < 0 ? errno : failed));
        return -1;
    }
    return child;
}

// What the machine has left; ULLONG_MAX if it does not say.
static unsigned long long available_mib(void) {
    char buffer[512];
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    close(fd);
    buffer[length < 0 ? 0 : length] = '\0';
    static const char key[] = "MemAvailable:";
    const char *at = strstr(buffer, key);
    return at == NULL ? ULLONG_MAX : strtoull(at + sizeof key - 1, NULL, 10) / 1024;
}

// What a process has resident; 0 if it does not say.
static unsigned long long resident_mib(pid_t process) {
    char buffer[128];
    snprintf(buffer, sizeof buffer, "/proc/%d/statm", process);
    int fd = open(buffer, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    close(fd);
    buffer[length < 0 ? 0 : length] = '\0';
    const char *at = strchr(buffer, ' ');
    return at == NULL ? 0
                      : strtoull(at, NULL, 10) * (unsigned long long)sysconf(_SC_PAGESIZE) >> 20;
}

static void end_child(pid_t child, const char *why) {
    (void)!write(2, why, strlen(why));
    kill(child, SIGKILL);
}

// Returns when the child has ended, of itself or as it took too much memory.
static void guard(pid_t child, unsigned long long least_mib, unsigned long long most_mib) {
    const struct timespec pause = {0, 20000000};
    siginfo_t ended = {.si_pid = 0};
    while (waitid(P_PID, (id_t)child, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           ended.si_pid == 0) {
        if (available_mib() < least_mib) {
            end_child(child, "killed: the machine is short of memory\n");
            return;
        }
        if (resident_mib(child) > most_mib) {
            end_child(child, "killed: it took more memory than it may\n");
            return;
        }
        nanosleep(&pause, NULL);
    }
}

int main(int argc, char **argv) {
    int fd = argc > 1 ? atoi(argv[1]) : 0;
    char **command = argv + 2;
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    unsigned long long least_mib = 0, most_mib = ULLONG_MAX;
    for (; argv + argc - command > 2 && command[0][0] == '-'; command += 2) {
        if (strcmp(command[0], "-a") == 0) {
            limit.rlim_cur = limit.rlim_max = strtoull(command[1], NULL, 10);
        } else if (strcmp(command[0], "-m") == 0) {
            least_mib = strtoull(command[1], NULL, 10);
        } else {
            most_mib = strtoull(command[1], NULL, 10);
        }
    }
    if (fd < 3 || *command == NULL) {
        static const char usage[] =
            "usage: launch FD [-a BYTES] [-m MIB] [-r MIB] PROGRAM ARG...\n";
        (void)!write(2, usage, sizeof usage - 1);
        return 2;
    }
    long long begin = now_ns();
    pid_t child = start(command, fd, &limit);
    if (child < 0) {
        return 1;
    }
    if (least_mib != 0 || most_mib != ULLONG_MAX) {
        guard(child, least_mib, most_mib);
    }
    int status = 0;
    struct rusage usage;
    while (wait4(child, &status, 0, &usage) < 0) {
        if (errno != EINTR) {
            return 1;
        }
    }
    dprintf(fd, "%lld %lld %lld %ld %ld %d\n", now_ns() - begin,
            usage.ru_utime.tv_sec * 1000000ll + usage.ru_utime.tv_usec,
            usage.ru_stime.tv_sec * 1000000ll + usage.ru_stime.tv_usec, usage.ru_maxrss,
            usage.ru_minflt + usage.ru_majflt, status);
    return 0;
}
