// SPDX-License-Identifier: Apache-2.0
// kernels NAME: does one kernel and prints the CPU time of an operation, `ns`, and the resident
// memory at the end, `rss_kib`. Blocks that a kernel has not freed are in it.
//
// kernels list: prints a line "NAME COUNT TITLE" for each kernel.
#include "benchmarks/workers/kernels/kernels.h"

#include <cinttypes>
#include <sys/resource.h>
#include <unistd.h>

namespace {

const Kernel *const kTables[] = {kCallKernels, kBlockKernels, kThreadKernels, kContainerKernels};

const Kernel *find(const char *name) {
    for (const Kernel *table : kTables) {
        for (; table->name != nullptr; table++) {
            if (strcmp(table->name, name) == 0) {
                return table;
            }
        }
    }
    return nullptr;
}

void print_list() {
    for (const Kernel *table : kTables) {
        for (; table->name != nullptr; table++) {
            printf("%s %" PRIu64 " %s\n", table->name, table->count, table->title);
        }
    }
}

long resident_kib() {
    FILE *file = fopen("/proc/self/statm", "r");
    long total = 0;
    long resident = 0;
    if (file == nullptr || fscanf(file, "%ld %ld", &total, &resident) != 2) {
        worker_die("cannot read /proc/self/statm");
    }
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

double ns_of(const timeval &time) {
    return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_usec) * 1e3;
}

} // namespace

double cpu_ns() {
    timespec self;
    rusage children;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    return static_cast<double>(self.tv_sec) * 1e9 + static_cast<double>(self.tv_nsec) +
           ns_of(children.ru_utime) + ns_of(children.ru_stime);
}

int main(int argc, char **argv) {
    uint64_t percent = 100;
    uint64_t seed = 42;
    const worker_option options[] = {
        {"percent", 1, 1000, &percent},
        {"seed", 0, UINT64_MAX, &seed},
        {nullptr, 0, 0, nullptr},
    };
    worker_options(argc, argv, options, " NAME", 1);
    const char *name = argv[optind];
    if (strcmp(name, "list") == 0) {
        print_list();
        return 0;
    }
    const Kernel *kernel = find(name);
    if (kernel == nullptr) {
        worker_die("no such kernel");
    }
    Run run = {};
    run.count = (kernel->count * percent + 99) / 100;
    run.random = worker_random_seed(seed);
    starts_now(run);
    const uint64_t done = kernel->function(run);
    const double ns = cpu_ns() - run.begin_ns;
    const long rss_kib = resident_kib();
    worker_report_allocator();
    printf("operations %" PRIu64 "\nns %.4f\nrss_kib %ld\n", done, ns / static_cast<double>(done),
           rss_kib);
    return 0;
}
