// SPDX-License-Identifier: Apache-2.0
// workloads: what each core of the machine does with an allocator.
//
// Each begins with a part that is not counted, until the heaps have the size that they keep. How
// blocks get from one core to another is the program's own affair, and costs nothing here.
#ifndef HAKMEM_BENCHMARKS_COHERENCE_WORKLOADS_H
#define HAKMEM_BENCHMARKS_COHERENCE_WORKLOADS_H

#include "benchmarks/coherence/machine.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace coherence {

struct Allocator {
    void *(*allocate)(size_t size);
    void (*release)(void *block);
};

// Per core: operations that were counted, each a malloc or a free, and the time they took.
struct Work {
    uint64_t operations = 0;
    uint64_t ps = 0;
};

struct Workload {
    std::string name, title;
    // Runs it on setup's cores, on an allocator that load() returns once the machine is there: it
    // may make keys, which are the machine's. `scale` multiplies the operations, in percent. The
    // machine, with its counts, is left at *machine_at.
    std::function<std::vector<Work>(const Machine::Setup &setup, uint64_t scale,
                                    Allocator (*load)(), std::unique_ptr<Machine> *machine_at)>
        run;
};

const std::vector<Workload> &workloads();

} // namespace coherence

#endif
