// SPDX-License-Identifier: Apache-2.0
// Children of every kind: of vfork(), of clone() with the parent's memory or without, with the
// parent's thread pointer or a copy of it, of posix_spawn(), of fork() in a thread and in a child.
#include "fronts/reports/ways.h"

#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { STACK = 256 << 10 };

static void use_heap(void) {
    void *blocks[300];
    for (size_t i = 0; i < 300; i++) {
        blocks[i] = malloc(i * 40);
        CHECK(blocks[i] != NULL);
        memset(blocks[i], (int)i, i * 40);
    }
    for (size_t i = 0; i < 300; i++) {
        CHECK(i == 0 || ((unsigned char *)blocks[i])[i * 40 - 1] == (unsigned char)i);
        free(blocks[i]);
    }
    free(realloc(malloc(10), 1 << 20));
}

static void wait_for(pid_t pid) {
    int status;
    CHECK(pid > 0);
    CHECK(waitpid(pid, &status, __WALL) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// POSIX lets the child of vfork() do nothing but exec; programs allocate there nevertheless, and
// glibc lets them: they do it in the parent's memory, while the parent waits.
static void vforked(void) {
    void *volatile kept = NULL;
    for (int i = 0; i < 50; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            free(malloc(100));
            kept = malloc(5000);
            _exit(0);
        }
        wait_for(pid);
        CHECK(kept != NULL);
        free(kept);
        use_heap();
    }
}

static int in_clone(void *arg) {
    use_heap();
    free(*(void **)arg);
    *(void **)arg = malloc(100);
    return 0;
}

// With the parent's memory and thread pointer (no CLONE_SETTLS), which the parent leaves alone
// meanwhile.
static void clone_vm(void) {
    char *stack = malloc(STACK);
    for (int i = 0; i < 50; i++) {
        void *block = malloc(2000);
        wait_for(clone(in_clone, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, &block));
        CHECK(block != NULL);
        free(block);
        use_heap();
    }
    free(stack);
}

// With a copy of the parent's memory, by the bare call: handlers of pthread_atfork() do not run.
static void clone_copy(void) {
    for (int i = 0; i < 20; i++) {
        void *block = malloc(2000);
        pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (pid == 0) {
            free(block);
            use_heap();
            _exit(0);
        }
        wait_for(pid);
        free(block);
    }
}

static volatile int stop;

static void *busy(void *arg) {
    while (!stop) {
        use_heap();
    }
    return arg;
}

static void among_threads(void (*run)(void)) {
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++) {
        CHECK(pthread_create(&threads[i], NULL, busy, NULL) == 0);
    }
    run();
    stop = 1;
    for (size_t i = 0; i < 3; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

static void vforked_among_threads(void) {
    among_threads(vforked);
}

static void clone_vm_among_threads(void) {
    among_threads(clone_vm);
}

static void *fork_here(void *arg) {
    void *block = malloc(100);
    pid_t pid = fork();
    if (pid == 0) {
        use_heap();
        free(block);
        pid = fork(); // of the child
        if (pid == 0) {
            use_heap();
            exit(0);
        }
        wait_for(pid);
        exit(0);
    }
    wait_for(pid);
    free(block);
    return arg;
}

static void forks(void) {
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, fork_here, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    fork_here(NULL);
}

static void forks_among_threads(void) {
    among_threads(forks);
}

static void spawned(void) {
    for (int i = 0; i < 20; i++) {
        char *arguments[] = {strdup("true"), NULL};
        pid_t pid;
        CHECK(posix_spawnp(&pid, "true", NULL, NULL, arguments, environ) == 0);
        wait_for(pid);
        free(arguments[0]);
        FILE *in = popen("echo text", "r");
        char line[16];
        CHECK(in != NULL && fgets(line, sizeof line, in) != NULL && pclose(in) == 0);
        CHECK(system("true") == 0);
    }
}

int main(int argc, char **argv) {
    static const struct way ways[] = {{"vforked", vforked},
                                      {"vforked_among_threads", vforked_among_threads},
                                      {"clone_vm", clone_vm},
                                      {"clone_vm_among_threads", clone_vm_among_threads},
                                      {"clone_copy", clone_copy},
                                      {"forks", forks},
                                      {"forks_among_threads", forks_among_threads},
                                      {"spawned", spawned},
                                      {NULL, NULL}};
    return run_way(ways, argc, argv);
}
