// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/workers/shapes/moment.h"

#include "benchmarks/workers/shapes/blocks.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

static bool forked;
static int64_t start_kib; // what does not count
static double start_cpu_ns;
static uint64_t start_faults;

// Static, as stdio would allocate.
static char buffer[64 << 10];

static ssize_t read_file(int fd) {
    ssize_t length = 0;
    while ((length = read(fd, buffer, sizeof buffer - 1)) < 0 && errno == EINTR) {
    }
    if (length < 0) {
        worker_die("cannot read a file of /proc/self");
    }
    buffer[length] = '\0';
    return length;
}

static int open_file(const char *file) {
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        worker_die("cannot open a file of /proc/self");
    }
    return fd;
}

static int64_t field_kib(const char *key) {
    const char *at = strstr(buffer, key);
    return at == NULL ? 0 : strtoll(at + strlen(key), NULL, 10);
}

// smaps_rollup counts pages; the counters of statm lag behind by some for each processor.
static void read_smaps(void) {
    int fd = open_file("/proc/self/smaps_rollup");
    read_file(fd);
    close(fd);
}

static int64_t resident_kib(void) {
    read_smaps();
    int64_t kib = forked ? field_kib("\nPrivate_Clean:") + field_kib("\nPrivate_Dirty:")
                         : field_kib("\nRss:");
    return kib - (int64_t)(own_bytes() >> 10);
}

// Of program and libraries; what an allocator has made resident by now is anonymous memory.
static int64_t file_kib(void) {
    read_smaps();
    return field_kib("\nRss:") - field_kib("\nAnonymous:");
}

static uint64_t mappings(void) {
    int fd = open_file("/proc/self/maps");
    uint64_t lines = 0;
    for (ssize_t length; (length = read_file(fd)) > 0;) {
        for (ssize_t i = 0; i < length; i++) {
            lines += buffer[i] == '\n';
        }
    }
    close(fd);
    return lines;
}

static struct rusage usage(void) {
    struct rusage now;
    getrusage(RUSAGE_SELF, &now);
    return now;
}

static double cpu_ns_of(const struct rusage *now) {
    return (double)(now->ru_utime.tv_sec + now->ru_stime.tv_sec) * 1e9 +
           (double)(now->ru_utime.tv_usec + now->ru_stime.tv_usec) * 1e3;
}

static uint64_t faults_of(const struct rusage *now) {
    return (uint64_t)(now->ru_minflt + now->ru_majflt);
}

double moment_cpu_ns(void) {
    struct rusage now = usage();
    return cpu_ns_of(&now) - own_cpu_ns() - start_cpu_ns;
}

uint64_t moment_faults(void) {
    struct rusage now = usage();
    return faults_of(&now) - own_faults() - start_faults;
}

static void start(int64_t kib) {
    start_kib = kib;
    start_cpu_ns = 0;
    start_faults = 0;
    start_cpu_ns = moment_cpu_ns();
    start_faults = moment_faults();
}

void moment_start(void) {
    start(file_kib());
}

void moment_forked(double cpu_ns, uint64_t faults) {
    forked = true;
    start(resident_kib());
    start_cpu_ns -= cpu_ns;
    start_faults -= faults;
}

void moment_print(const char *name, uint64_t live_bytes) {
    struct rusage before = usage();
    double cpu_ns = moment_cpu_ns();
    uint64_t faults = moment_faults();
    printf("moment %s %ld %lu %lu %lu %.1f\n", name, (long)(resident_kib() - start_kib),
           (unsigned long)(forked ? 0 : live_bytes >> 10), (unsigned long)mappings(),
           (unsigned long)faults, cpu_ns / 1e6);
    struct rusage after = usage();
    own_add(faults_of(&after) - faults_of(&before), cpu_ns_of(&after) - cpu_ns_of(&before));
}
