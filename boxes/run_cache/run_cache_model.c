// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/atomics.h"

#include "boxes/run_cache/run_cache.c"

#include "boxes/run_cache/run_cache_model.h"

volatile void *model_lines(size_t *bytes) {
    *bytes = sizeof lines;
    return &lines;
}

struct run_cache_run model_run(uint64_t word) {
    return run_of(word);
}

volatile uint64_t *model_used(void) {
    return (volatile uint64_t *)&used;
}

volatile uint64_t *model_own_line(void) {
    return (volatile uint64_t *)own_line();
}

unsigned model_own_place(void) {
    return hak_thread_slot() * RUN_CACHE_WAYS;
}
