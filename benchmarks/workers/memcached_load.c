// SPDX-License-Identifier: Apache-2.0
// memcached_load MEMCACHED [--operations N]: starts that server on a socket of its own, sets and
// gets values of 16 to 1040 bytes through two connections, and stops it.
//
// Linked statically, so that a preloaded allocator reaches the server and not this client.
#include "benchmarks/workers/worker.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEPTH = 64 }; // requests sent before their answers are read

static uint64_t operations = 300000, seed = 42;

static int connect_to(const struct sockaddr_un *address) {
    // The server needs a moment to start.
    for (int tries = 0; tries < 1000; tries++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) == 0) {
            return fd;
        }
        close(fd);
        usleep(10000);
    }
    worker_die("the server does not answer");
}

static void send_all(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = write(fd, bytes, length);
        if (sent <= 0) {
            worker_die("the server has gone");
        }
        bytes += sent;
        length -= (size_t)sent;
    }
}

// Each answer ends with one of these lines: of a set, of a get.
static bool is_end(const char *line) {
    return strncmp(line, "STORED", 6) == 0 || strncmp(line, "END", 3) == 0;
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"operations", 1, 1u << 30, &operations},
        {"seed", 0, UINT64_MAX, &seed},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, " MEMCACHED", 1);
    char directory[] = "/tmp/memcached_load_XXXXXX";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (mkdtemp(directory) == NULL) {
        worker_die("cannot make a directory in /tmp");
    }
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", directory);
    pid_t server = fork();
    if (server == 0) {
        execl(argv[optind], argv[optind], "-s", address.sun_path, "-u", "root", "-t", "2", "-m",
              "64", (char *)NULL);
        _exit(127);
    }
    int fds[2] = {connect_to(&address), connect_to(&address)};
    FILE *answers[2] = {fdopen(fds[0], "r"), fdopen(fds[1], "r")};
    static char value[2048], line[4096], request[DEPTH * 2048];
    memset(value, 'v', sizeof value);
    uint64_t state = worker_random_seed(seed);
    for (uint64_t i = 0; i < operations; i += DEPTH) {
        int side = (int)(i / DEPTH % 2);
        size_t length = 0;
        for (int k = 0; k < DEPTH; k++) {
            uint64_t random = worker_random(&state);
            unsigned key = (unsigned)worker_below(random, 50000);
            int size = 16 + (int)worker_below(random >> 32, 1025);
            if (random >> 63 != 0) {
                length += (size_t)sprintf(request + length, "set key%u 0 0 %d\r\n%.*s\r\n", key,
                                          size, size, value);
            } else {
                length += (size_t)sprintf(request + length, "get key%u\r\n", key);
            }
        }
        send_all(fds[side], request, length);
        for (int k = 0; k < DEPTH;) {
            if (fgets(line, sizeof line, answers[side]) == NULL) {
                worker_die("the server has gone");
            }
            k += is_end(line);
        }
    }
    kill(server, SIGTERM);
    int status;
    waitpid(server, &status, 0);
    unlink(address.sun_path);
    rmdir(directory);
    if (!WIFEXITED(status) && WTERMSIG(status) != SIGTERM) {
        worker_die("the server crashed");
    }
    puts("done");
    return 0;
}
