// SPDX-License-Identifier: Apache-2.0
// What glibc's malloc tests call of their own support library, written anew after its interface.
// tools/suites puts this header behind every name that the tests include.
#ifndef HAKMEM_TOOLS_PRELOAD_GLIBC_SHIM_H
#define HAKMEM_TOOLS_PRELOAD_GLIBC_SHIM_H

#include <assert.h>
#include <errno.h>
#include <error.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <search.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define array_length(a) (sizeof(a) / sizeof((a)[0]))
#define array_end(a)    (&(a)[array_length(a)])

// Warnings are off when the tests are compiled.
#define DIAG_PUSH_NEEDS_COMMENT
#define DIAG_POP_NEEDS_COMMENT
#define DIAG_IGNORE_NEEDS_COMMENT(version, option)
#define DIAG_IGNORE_Os_NEEDS_COMMENT(version, option)

// alignof(max_align_t), which is what a program may rely on.
#define MALLOC_ALIGN_MASK (__alignof__(max_align_t) - 1)

enum { EXIT_UNSUPPORTED = 77, DEFAULT_TIMEOUT = 20 };

// Failures are counted in memory that forked children share: one of theirs is one of the test's.
void support_init(void);
void support_record_failure(void);
void support_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void support_exit(int status) __attribute__((noreturn));
void write_message(const char *text); // safe in a signal handler

#define FAIL(...) (support_fail(__FILE__, __LINE__, __VA_ARGS__), 1)
#define FAIL_EXIT(status, ...)                         \
    do {                                               \
        support_fail(__FILE__, __LINE__, __VA_ARGS__); \
        support_exit(status);                          \
    } while (0)
#define FAIL_EXIT1(...) FAIL_EXIT(1, __VA_ARGS__)
#define FAIL_UNSUPPORTED(...)    \
    do {                         \
        printf(__VA_ARGS__);     \
        puts("");                \
        _exit(EXIT_UNSUPPORTED); \
    } while (0)

#define TEST_VERIFY(expression) \
    ((expression) ? (void)0 : support_fail(__FILE__, __LINE__, "not true: %s", #expression))
#define TEST_VERIFY_EXIT(expression) \
    ((expression) ? (void)0 : support_verify_exit(__FILE__, __LINE__, #expression))
void support_verify_exit(const char *file, int line, const char *expression)
    __attribute__((noreturn));
#define TEST_COMPARE(left, right)                                                            \
    do {                                                                                     \
        __typeof__((left) + 0) left_ = (left);                                               \
        __typeof__((right) + 0) right_ = (right);                                            \
        if ((left_ < 0) != (right_ < 0) || (uintmax_t)left_ != (uintmax_t)right_) {          \
            support_fail(__FILE__, __LINE__, "%s is %jd, %s is %jd", #left, (intmax_t)left_, \
                         #right, (intmax_t)right_);                                          \
        }                                                                                    \
    } while (0)

void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *ptr, size_t size);
char *xstrdup(const char *text);
char *xasprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));
pid_t xfork(void);
pid_t xwaitpid(pid_t pid, int *status, int options);
int xopen(const char *path, int flags, mode_t mode);
void *xmmap(void *at, size_t size, int prot, int flags, int fd);
void xmunmap(void *at, size_t size);
long xsysconf(int name);
sighandler_t xsignal(int number, sighandler_t handler);
void ignore_stderr(void);

pthread_t xpthread_create(pthread_attr_t *attr, void *(*function)(void *), void *closure);
void *xpthread_join(pthread_t thread);
void xpthread_kill(pthread_t thread, int number);
void xpthread_barrier_init(pthread_barrier_t *barrier, pthread_barrierattr_t *attr, unsigned count);
int xpthread_barrier_wait(pthread_barrier_t *barrier);
void xpthread_barrier_destroy(pthread_barrier_t *barrier);
void xpthread_barrierattr_init(pthread_barrierattr_t *attr);
void xpthread_barrierattr_setpshared(pthread_barrierattr_t *attr, int shared);
void xpthread_barrierattr_destroy(pthread_barrierattr_t *attr);

void *support_shared_allocate(size_t size);
void support_shared_free(void *memory);

// An open file, removed at exit. *path, if wanted, is from malloc.
int create_temp_file(const char *base, char **path);

struct support_memory_stream {
    char *buffer; // NUL-terminated
    size_t length;
};
struct support_capture_subprocess {
    struct support_memory_stream out, err;
    int status;
};
struct support_capture_subprocess support_capture_subprocess(void (*callback)(void *),
                                                             void *closure);
void support_capture_subprocess_free(struct support_capture_subprocess *result);

// Runs `function` in a child with a limit on its time; returns what main() is to return.
int support_main(int (*function)(int, char **), int argc, char **argv, int seconds,
                 int expected_status, int expected_signal);

#endif
