// SPDX-License-Identifier: Apache-2.0
// The table of statistics at the end of a program that has closed its descriptors, or has others
// under their numbers: it is written to stderr as it was at the start, or not at all, and never
// into a file of the program's.
//
// descriptors WAY FILE: FILE is to be empty or as the program has written it.
#include "fronts/reports/ways.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *path;

static int open_file(void) {
    return open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
}

// As daemons do it: everything is closed, and /dev/null opened three times.
static void daemon_like(void) {
    for (int fd = 0; fd < 1024; fd++) {
        close(fd);
    }
    CHECK(open("/dev/null", O_RDWR) == 0 && dup(0) == 1 && dup(0) == 2);
}

static void closed(void) {
    close(2);
}

static void reused(void) {
    close(2);
    CHECK(open_file() == 2);
}

// Every descriptor is a file of the program's.
static void all_reused(void) {
    for (int fd = 0; fd < 1024; fd++) {
        close(fd);
    }
    int fd = open_file();
    CHECK(fd == 0);
    while (dup(fd) < 900) {
    }
}

static void as_sockets(void) {
    int pair[2];
    for (int fd = 0; fd < 1024; fd++) {
        close(fd);
    }
    do {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    } while (pair[1] < 200);
}

// The allocator's own descriptor is not in a program's way: the lowest free one is what open()
// gives, as POSIX says.
static void lowest(void) {
    for (int fd = 3; fd < 64; fd++) {
        close(fd);
    }
    CHECK(open_file() == 3);
    for (int fd = 4; fd < 24; fd++) {
        CHECK(dup(1) == fd);
    }
}

// No descriptor of the allocator's goes on to another program.
static void executed(void) {
    struct stat error;
    CHECK(fstat(2, &error) == 0);
    for (int fd = 64; fd < 1024; fd++) {
        struct stat file;
        if (fstat(fd, &file) == 0 && file.st_ino == error.st_ino && file.st_dev == error.st_dev) {
            CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
        }
    }
}

// Nobody reads what is written to stderr any more: an error, and not the end of the process. The
// first one is its own reader.
static void no_reader(void) {
    int ends[2];
    CHECK(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
    close(ends[1]);
    if (fork() == 0) {
        close(ends[0]);
        execl("/proc/self/exe", "descriptors", "closed_pipe", (char *)NULL);
        _exit(127);
    }
    close(ends[0]);
    int status;
    CHECK(wait(&status) > 0);
    dup2(1, 2);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void closed_pipe(void) {}

int main(int argc, char **argv) {
    static const struct way ways[] = {{"daemon_like", daemon_like}, {"closed", closed},
                                      {"reused", reused},           {"all_reused", all_reused},
                                      {"as_sockets", as_sockets},   {"lowest", lowest},
                                      {"executed", executed},       {"no_reader", no_reader},
                                      {"closed_pipe", closed_pipe}, {NULL, NULL}};
    path = argc > 2 ? argv[2] : "/dev/null";
    return run_way(ways, argc, argv);
}
