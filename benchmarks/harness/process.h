// SPDX-License-Identifier: Apache-2.0
// process: runs one program to its end and measures it.
#ifndef HAKMEM_BENCHMARKS_HARNESS_PROCESS_H
#define HAKMEM_BENCHMARKS_HARNESS_PROCESS_H

#include "benchmarks/harness/allocators.h"
#include "benchmarks/harness/sample.h"

#include <map>
#include <string>
#include <vector>

namespace bench {

struct Command {
    std::vector<std::string> argv;        // argv[0] is a path
    std::vector<std::string> environment; // NAME=VALUE, over the driver's own
    std::string input;                    // file for stdin; empty: /dev/null
    std::string directory;                // to run in; empty: the driver's
    uint64_t address_space = 0;           // RLIMIT_AS in bytes; 0: as it is
    uint64_t memory_left_mib = 0;         // killed once the machine has less available; 0: never
    uint64_t memory_most_mib = 0;         // killed once it has more resident; 0: never
    uint64_t warm_mib = 0;                // touched and given back before it runs
    double timeout_s = 600;
};

// Command::warm_mib for measured runs: above what most programs take. A virtual machine's host may
// take away memory that is free for seconds (free page reporting of virtio's balloon). The next
// touch of 2 MiB then takes 4 to 13 ms, which a program would pay or not, as chance has it.
constexpr uint64_t kWarmMib = 1024;

struct Outcome {
    std::string error; // empty: it ran and exited with 0
    std::string out, err;
    double wall_s = 0;
    double cpu_s = 0; // user and system, of all its processes
    long rss_kib = 0; // peak, of the largest of its processes
    long faults = 0;  // of all its processes
};

// The program's LD_PRELOAD is the allocator's, whatever the driver's is.
Outcome run(const Command &command, const Allocator &allocator);

// What a worker printed: its lines "KEY VALUE".
using Report = std::map<std::string, std::string>;
Report parse_report(const std::string &out);

// The number under `key`; 0 if there is none.
double report_number(const Report &report, const std::string &key);

// Runs a worker of this build and checks by its report that the allocator asked for served it; if
// not, the outcome says so in `error`.
Outcome run_worker(const std::string &worker, const std::vector<std::string> &arguments,
                   const Allocator &allocator, Report *report, uint64_t warm_mib = 0);

// The value of a line of /proc/meminfo, in MiB; 0 if it has no such line.
uint64_t meminfo_mib(const std::string &key);

// What the runs of one worker on one allocator gave, in order.
struct Series {
    std::vector<Outcome> outcomes;
    std::vector<Report> reports;

    Sample reported(const std::string &key) const;
    Sample wall_s() const;
    Sample cpu_s() const;
    double peak_rss_kib() const; // the largest of all runs
    double most_faults() const;
};

// The order of 0 .. count - 1 in one round. What a process leaves behind, in caches and in the
// kernel's free pages, the next one meets: over `count` rounds (twice as many if that is odd) each
// comes right after each other one equally often, and each at each place (a balanced Latin square).
std::vector<size_t> order_of_round(size_t count, uint64_t round);

// Runs a worker `runs` times on every allocator, an allocator after the other in each round, in the
// round's order. The first failure ends it: returns "ALLOCATOR: WHY", or an empty text.
std::string run_interleaved(const std::string &worker, const std::vector<std::string> &arguments,
                            const std::vector<Allocator> &allocators, uint64_t runs,
                            std::vector<Series> *series);

// As run_worker's check: empty, or why the report is not of this allocator.
std::string check_allocator(const Report &report, const Allocator &allocator);

// System calls of one more run of the command, with all its threads and children, by strace; -1,
// with *why filled in, if that cannot be had.
long count_syscalls(const Command &command, const Allocator &allocator, std::string *why);

// The path of a program in PATH; those of /usr/bin and /bin come first, as wrappers elsewhere in
// PATH would be measured along. Empty if there is none.
std::string find_program(const std::string &name);

// A new directory that is removed, with what it holds, at the end of the scope.
class ScratchDirectory {
  public:
    ScratchDirectory();
    ~ScratchDirectory();
    ScratchDirectory(const ScratchDirectory &) = delete;
    ScratchDirectory &operator=(const ScratchDirectory &) = delete;
    const std::string &path() const { return path_; }

  private:
    std::string path_;
};

} // namespace bench

#endif
