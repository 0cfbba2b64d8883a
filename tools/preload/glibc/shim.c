// SPDX-License-Identifier: Apache-2.0
#include "shim.h"

struct shared_state {
    _Atomic int failures;
};
static struct shared_state *shared;

void support_init(void) {
    shared = support_shared_allocate(sizeof *shared);
}

void support_record_failure(void) {
    shared->failures++;
}

void support_fail(const char *file, int line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const char *slash = strrchr(file, '/');
    printf("%s:%d: ", slash == NULL ? file : slash + 1, line);
    vprintf(format, args);
    puts("");
    va_end(args);
    support_record_failure();
}

void support_exit(int status) {
    exit(status);
}

void write_message(const char *text) {
    (void)!write(STDOUT_FILENO, text, strlen(text));
}

void support_verify_exit(const char *file, int line, const char *expression) {
    support_fail(file, line, "not true: %s", expression);
    exit(1);
}

// Of what a test needs to go on at all.
#define NEED(condition, name)                                 \
    do {                                                      \
        if (!(condition)) {                                   \
            support_fail(__FILE__, __LINE__, "%s: %m", name); \
            exit(1);                                          \
        }                                                     \
    } while (0)

void *xmalloc(size_t size) {
    void *ptr = malloc(size);
    NEED(ptr != NULL, "malloc");
    return ptr;
}

void *xcalloc(size_t count, size_t size) {
    void *ptr = calloc(count, size);
    NEED(ptr != NULL, "calloc");
    return ptr;
}

void *xrealloc(void *ptr, size_t size) {
    void *fresh = realloc(ptr, size);
    NEED(fresh != NULL || size == 0, "realloc");
    return fresh;
}

char *xstrdup(const char *text) {
    char *copy = strdup(text);
    NEED(copy != NULL, "strdup");
    return copy;
}

char *xasprintf(const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text;
    NEED(vasprintf(&text, format, args) >= 0, "vasprintf");
    va_end(args);
    return text;
}

pid_t xfork(void) {
    pid_t pid = fork();
    NEED(pid >= 0, "fork");
    return pid;
}

pid_t xwaitpid(pid_t pid, int *status, int options) {
    pid_t got = waitpid(pid, status, options);
    NEED(got >= 0, "waitpid");
    return got;
}

int xopen(const char *path, int flags, mode_t mode) {
    int fd = open(path, flags, mode);
    NEED(fd >= 0, path);
    return fd;
}

void *xmmap(void *at, size_t size, int prot, int flags, int fd) {
    void *got = mmap(at, size, prot, flags, fd, 0);
    NEED(got != MAP_FAILED, "mmap");
    return got;
}

void xmunmap(void *at, size_t size) {
    NEED(munmap(at, size) == 0, "munmap");
}

long xsysconf(int name) {
    errno = 0;
    long value = sysconf(name);
    NEED(value >= 0 || errno == 0, "sysconf");
    return value;
}

sighandler_t xsignal(int number, sighandler_t handler) {
    sighandler_t old = signal(number, handler);
    NEED(old != SIG_ERR, "signal");
    return old;
}

void ignore_stderr(void) {
    int fd = open("/dev/null", O_WRONLY);
    NEED(fd >= 0 && dup2(fd, STDERR_FILENO) >= 0, "/dev/null");
}

// The pthread functions return their error.
#define NEED_0(call)             \
    do {                         \
        errno = (call);          \
        NEED(errno == 0, #call); \
    } while (0)

pthread_t xpthread_create(pthread_attr_t *attr, void *(*function)(void *), void *closure) {
    pthread_t thread;
    NEED_0(pthread_create(&thread, attr, function, closure));
    return thread;
}

void *xpthread_join(pthread_t thread) {
    void *result;
    NEED_0(pthread_join(thread, &result));
    return result;
}

void xpthread_kill(pthread_t thread, int number) {
    NEED_0(pthread_kill(thread, number));
}

void xpthread_barrier_init(pthread_barrier_t *barrier, pthread_barrierattr_t *attr,
                           unsigned count) {
    NEED_0(pthread_barrier_init(barrier, attr, count));
}

int xpthread_barrier_wait(pthread_barrier_t *barrier) {
    int result = pthread_barrier_wait(barrier);
    NEED(result == 0 || result == PTHREAD_BARRIER_SERIAL_THREAD, "pthread_barrier_wait");
    return result;
}

void xpthread_barrier_destroy(pthread_barrier_t *barrier) {
    NEED_0(pthread_barrier_destroy(barrier));
}

void xpthread_barrierattr_init(pthread_barrierattr_t *attr) {
    NEED_0(pthread_barrierattr_init(attr));
}

void xpthread_barrierattr_setpshared(pthread_barrierattr_t *attr, int is_shared) {
    NEED_0(pthread_barrierattr_setpshared(attr, is_shared));
}

void xpthread_barrierattr_destroy(pthread_barrierattr_t *attr) {
    NEED_0(pthread_barrierattr_destroy(attr));
}

// The size stands in a page of its own before the memory.
void *support_shared_allocate(size_t size) {
    size_t page = (size_t)xsysconf(_SC_PAGESIZE);
    char *at = xmmap(NULL, page + size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_SHARED, -1);
    *(size_t *)at = page + size;
    return at + page;
}

void support_shared_free(void *memory) {
    char *at = (char *)memory - xsysconf(_SC_PAGESIZE);
    xmunmap(at, *(size_t *)at);
}

int create_temp_file(const char *base, char **path) {
    const char *folder = getenv("TMPDIR");
    char *name = xasprintf("%s/%sXXXXXX", folder == NULL ? "/tmp" : folder, base);
    int fd = mkstemp(name);
    NEED(fd >= 0, name);
    // Its folder goes with the run; a test may want to open it by its name.
    if (path != NULL) {
        *path = name;
    } else {
        free(name);
    }
    return fd;
}

static char *read_all(int fd, size_t *length) {
    off_t size = lseek(fd, 0, SEEK_END);
    NEED(size >= 0, "lseek");
    char *text = xmalloc((size_t)size + 1);
    NEED(pread(fd, text, (size_t)size, 0) == size, "pread");
    text[size] = '\0';
    *length = (size_t)size;
    close(fd);
    return text;
}

struct support_capture_subprocess support_capture_subprocess(void (*callback)(void *),
                                                             void *closure) {
    int out = memfd_create("out", 0);
    int err = memfd_create("err", 0);
    NEED(out >= 0 && err >= 0, "memfd_create");
    fflush(NULL);
    pid_t pid = xfork();
    if (pid == 0) {
        NEED(dup2(out, STDOUT_FILENO) >= 0 && dup2(err, STDERR_FILENO) >= 0, "dup2");
        callback(closure);
        _exit(0);
    }
    struct support_capture_subprocess result;
    xwaitpid(pid, &result.status, 0);
    result.out.buffer = read_all(out, &result.out.length);
    result.err.buffer = read_all(err, &result.err.length);
    return result;
}

void support_capture_subprocess_free(struct support_capture_subprocess *result) {
    free(result->out.buffer);
    free(result->err.buffer);
}

int support_main(int (*function)(int, char **), int argc, char **argv, int seconds,
                 int expected_status, int expected_signal) {
    setvbuf(stdout, NULL, _IONBF, 0);
    support_init();
    pid_t pid = xfork();
    if (pid == 0) {
        setpgid(0, 0);
        exit(function(argc, argv));
    }
    setpgid(pid, pid);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    time_t end = time(NULL) + seconds;
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (time(NULL) >= end) {
            printf("not done after %d s\n", seconds);
            kill(-pid, SIGKILL);
            return 1;
        }
        sigtimedwait(&child, NULL, &(struct timespec){.tv_sec = 1});
    }
    kill(-pid, SIGKILL); // what it left behind
    if (WIFSIGNALED(status)) {
        if (WTERMSIG(status) == expected_signal) {
            return shared->failures != 0;
        }
        printf("killed by signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
        return 1;
    }
    if (expected_signal != 0) {
        printf("no signal %d; exit status %d\n", expected_signal, WEXITSTATUS(status));
        return 1;
    }
    if (WEXITSTATUS(status) != expected_status) {
        if (WEXITSTATUS(status) != EXIT_UNSUPPORTED) {
            printf("exit status %d\n", WEXITSTATUS(status));
        }
        return WEXITSTATUS(status) == 0 ? 1 : WEXITSTATUS(status);
    }
    return shared->failures != 0;
}
