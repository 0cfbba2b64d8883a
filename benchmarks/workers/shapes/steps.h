// SPDX-License-Identifier: Apache-2.0
// steps: what a thread can do with its heap. Each step is deterministic: the same lane, arguments
// and seed give the same calls in the same order.
#ifndef HAKMEM_BENCHMARKS_WORKERS_SHAPES_STEPS_H
#define HAKMEM_BENCHMARKS_WORKERS_SHAPES_STEPS_H

#include "benchmarks/workers/shapes/blocks.h"

enum { RANGE_STEPS = 256, ARGUMENTS_MOST = 4 };

// An argument: a number, or numbers to choose from.
struct range {
    enum kind { UNIFORM, LOGARITHMIC, DOUBLING, MIXED } kind;
    uint64_t low, high;
    double *scale; // LOGARITHMIC: low .. high in RANGE_STEPS equal factors
};

struct step {
    const char *name;
    unsigned arguments;
    void (*run)(struct lane *lane, const struct range *arguments);
};

// The step with that name and number of arguments, or NULL.
const struct step *step_find(const char *name, unsigned arguments);

// For steps in which threads meet each other. `lanes` is where the lane of the first thread stands.
void steps_for_threads(struct lane *lanes, uint64_t count);

// The longest that a step sleeps; 0: as long as it says.
void steps_pause_at_most(uint64_t ms);

#endif
